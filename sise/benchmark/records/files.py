"""Writing a file whole or not at all, and saying so when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sise.errors import SuiteError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DiskFull"]

DRAFT = ".draft-"
"""How names of files begin that are being written, or were when a process was killed."""
ABANDONED = 24 * 3600.0
"""Seconds after which nobody writes a draft any more."""
FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""What a system answers where a disk, or one's share of it, is full."""


class DiskFull(SuiteError):
    """No space left where something is to be kept; going on would lose what is computed."""

    def __init__(self, where: Path) -> None:
        super().__init__(
            f"the disk of {where} is full. Every record so far is intact: free some space and give the same command "
            "again, it goes on from here."
        )


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV, the same on every system."""
    return frame.to_csv(index=False, lineterminator="\n")


def file_hash(file: Path) -> str:
    """sha256 (hex) of a file's content, read in blocks."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def full_disk_as_message(where: Path) -> Iterator[None]:
    """Turns a full disk into a message a user can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise DiskFull(where) from error
        raise


@contextlib.contextmanager
def whole(file: Path, *, replace: bool = True) -> Iterator[Path]:
    """A place beside a file to write it at, of the same ending; the file is there as a whole or not at all.

    Two processes may write the file at once: the last one's stays, with ``replace=False`` the first one's. The file's
    folder must be there.
    """
    draft = file.with_name(f"{DRAFT}{secrets.token_hex(8)}-{file.name}")
    try:
        yield draft
        if not replace:
            try:
                os.link(draft, file)
            except FileExistsError:
                return
            except OSError:  # a file system without hard links
                pass
            else:
                return
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def clear_drafts(folder: Path) -> None:
    """Deletes what killed processes left half written in a folder, a day ago or longer."""
    for draft in folder.glob(f"{DRAFT}*"):
        with contextlib.suppress(OSError):  # another process does the same, or the folder is not ours to change
            if time.time() - draft.stat().st_mtime > ABANDONED:
                draft.unlink()


def write_whole(file: Path, text: str, *, replace: bool = True) -> None:
    """Writes a text as :func:`whole` does, and waits until it is on the disk.

    Raises:
        DiskFull: If there is no space left.
        PermissionError: If there is a file that may not be written.
    """
    if replace and file.exists() and not os.access(file, os.W_OK):  # replacing it would ask its folder alone
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    with (
        full_disk_as_message(file.parent),
        whole(file, replace=replace) as draft,
        draft.open("w", encoding="utf-8") as f,
    ):
        f.write(text)
        f.flush()
        os.fsync(f.fileno())

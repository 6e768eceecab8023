"""A lock on a file that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import warnings
from pathlib import Path

from filelock import FileLock, Timeout

from sise.benchmark.process import LOCK_WAIT
from sise.benchmark.records.environment import time_now
from sise.benchmark.records.files import full_disk_as_message
from sise.errors import SuiteError

LOCK_SECONDS = 1.0  # for how long a lock is tried: a glance at it (see RunFolder.writers) takes it for a moment
GLANCE = 0.02  # seconds of a glance: two glances at once are no writer
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers."""


class Lock:
    """Keeps a second writer off a file. The operating system frees it when its holder ends, however it ends.

    Args:
        written: The file that one process at a time may write; the lock lies beside it, as ``<stem>.lock``.
        seconds: How long to wait for it.
        instead: What a user can do but wait, for the message.
    """

    def __init__(
        self,
        written: Path,
        seconds: float = LOCK_SECONDS,
        instead: str = "take another shard=, or choose another variant=<name>",
    ) -> None:
        self.file = written.with_suffix(".lock")
        self._written, self._seconds, self._instead = written, seconds, instead
        self._lock = FileLock(self.file, poll_interval=0.05, thread_local=False)

    def acquire(self) -> None:
        """Takes the lock and writes down who has it.

        Raises:
            SuiteError: If somebody else holds it.
        """
        try:
            with full_disk_as_message(self.file.parent):
                self._lock.acquire(timeout=max(self._seconds, float(os.environ.get(LOCK_WAIT) or 0)))
        except Timeout:
            raise SuiteError(
                f"another process is writing {self._written} ({self.holder()}): wait for it or stop it, {self._instead}"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(f"{self.file}: no locks on this file system ({error}); see to it that one process writes",
                          stacklevel=2)  # fmt: skip
        self._note(f"process {os.getpid()} on {socket.gethostname()} since {time_now()}")

    def holder(self) -> str:
        """Who took the lock last."""
        with contextlib.suppress(OSError):
            return self.file.read_text(encoding="utf-8") or "a process that did not say more"
        return "a process that did not say more"

    def held(self) -> bool:
        """Whether somebody holds it now; in a folder that one may only read, whether somebody has not given it back."""
        if not self.file.exists():
            return False
        try:
            with FileLock(self.file, timeout=GLANCE, poll_interval=GLANCE / 2):
                return False
        except Timeout:
            return True
        except OSError:
            return self.file.stat().st_size > 0

    def release(self) -> None:
        """Gives the lock back, if it was taken."""
        if self._lock.is_locked:
            self._note("")
            self._lock.release()

    def _note(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk, or Windows: it only helps others
            self.file.write_text(text, encoding="utf-8")

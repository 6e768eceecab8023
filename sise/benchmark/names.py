"""Names that become names of files and folders."""

from __future__ import annotations

from pathlib import Path

from sise.errors import SuiteError

A_NAME = "a name that can be a folder's: no / or \\, and no . or blank in front"


def is_name(value: object) -> bool:
    """Whether it can name a file or folder in the folder it is meant for, and is not hidden there."""
    return (
        isinstance(value, str) and value.isprintable() and value[:1] not in ("", ".", " ") and not {*value} & {*"/\\"}
    )


def check_names(**names: str) -> None:
    """Refuses parts of a path that would lead elsewhere.

    Raises:
        SuiteError: On the first; keywords say what is called so.
    """
    for what, name in names.items():
        if not is_name(name):
            raise SuiteError(f"name of the {what}: expected {A_NAME}; got {name!r}")


def folder_name(file: Path) -> str:
    """What a folder for things made of a file is called: the file's name without its ending.

    Where that names the folder itself or the one above (``..jpg``, ``...jpg``), dots are replaced.
    """
    return file.stem if file.stem.strip(".") else file.name.replace(".", "_")

"""Errors that a user can read: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class SuiteError(Exception):
    """A mistake the user can mend. The message says what was expected, what came and what to do.

    Args:
        found: What was expected and what came; all there is to say where nothing follows.
        about: What it is about, a data set's name; stands in front.
        fix: What to do about it; stands behind.
        setting: The setting that the fix ends with, e.g. "dataset.root=<folder>".
    """

    def __init__(self, found: str = "", *, about: str = "", fix: str = "", setting: str = "") -> None:
        super().__init__(
            f"{about}: " * bool(about) + "; ".join(filter(None, (found, " ".join(filter(None, (fix, setting))))))
        )
        self.about, self.found, self.fix, self.setting = about, found, fix, setting


class WrongSetting(SuiteError):
    """A setting that fits no image: no sample's fault, so nothing to go on with."""


class UnknownName(WrongSetting):
    """A setting has a value that there is not."""


def choose(name: str, value: T, known: Sequence[T]) -> T:
    """Returns ``value`` if it is one of ``known``.

    Raises:
        UnknownName: Otherwise; the message lists the known values and the nearest.
    """
    if value in known:
        return value
    import difflib

    near = difflib.get_close_matches(str(value), list(map(str, known)), n=1, cutoff=0.5)
    names = f"xpected one of: {', '.join(map(str, known))}."
    if near and len(known) > 20:  # the hint would be lost behind so many
        raise UnknownName(f"unknown {name} {value!r}. Did you mean {near[0]!r}? E{names}")
    raise UnknownName(f"unknown {name} {value!r}; e{names}" + (f" Did you mean {near[0]!r}?" if near else ""))

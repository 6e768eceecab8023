"""Files in ``results/``: nothing there is replaced by something made of less, nor deleted, unless it is asked for.

A table knows what it was made of: its CSV has a column of pairs or images. :class:`ResultFolder` compares it, cell by
cell, with the file that would be lost. A picture carries the number in its note.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sise.benchmark.records.files import write_whole

__all__ = ["ResultFolder", "losses"]

COUNTS = ("n", "pairs", "images")
"""Columns that say what a row was made of; the first that a table has counts."""
NAMES = ("dataset", "model", "network", "metric", "explainer", "variant", "against", "subject", "rival", "rule",
         "layer", "stage", "percent", "largest accuracy", "stratum", "part")  # fmt: skip
"""Columns that say what a row is about."""


@dataclass(frozen=True)
class ResultFolder:
    """A folder of results.

    Attributes:
        path: Made when it is first written to.
        overwrite: Replaces what is there, whatever it was made of.
        say: Takes a line about everything that is kept in place of something new.
    """

    path: Path
    overwrite: bool = False
    say: Callable[[str], Any] = print

    def write(self, texts: Mapping[str, str]) -> list[Path]:
        """Writes files that belong together, or none of them if a CSV among them would lose pairs.

        Args:
            texts: Contents by file name.

        Returns:
            The files written.
        """
        lost = [
            f"{name}, {what}"
            for name, text in texts.items()
            if name.endswith(".csv") and (self.path / name).exists()
            for what in losses((self.path / name).read_text(encoding="utf-8"), text)
        ]
        if lost and not self.overwrite:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            self._kept(", ".join(texts), f"{lost[0]}{more}")
            return []
        self.path.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole((self.path / name).resolve(), text)  # a link stays one
        return [self.path / name for name in texts]

    def remove(self, name: str) -> None:
        """Deletes a file that belongs to a former table; without ``overwrite`` it stays and is named."""
        if self.overwrite:
            (self.path / name).unlink(missing_ok=True)
        elif (self.path / name).exists():
            self.say(f"{name} is kept, but it is of an earlier table: delete it, or give overwrite=true")

    def may_draw(self, name: str, made_of: int) -> bool:
        """Whether a picture of so many images or pairs may take its place; says so if not, and what it replaces."""
        from sise.benchmark.records.provenance import command, note_of  # tables must not wait for Matplotlib

        file = self.path / name
        before = note_of(file) if file.exists() else {}
        if before.get("made_of", 0) > made_of and not self.overwrite:
            self._kept(name, f"{before['made_of']} there, {made_of} now")
            return False
        if before.get("command", command()) != command():
            self.say(f"{name} takes the place of the one made by `{before['command']}`")
        file.parent.mkdir(parents=True, exist_ok=True)
        return True

    def _kept(self, names: str, lost: str) -> None:
        self.say(
            f"NOT written: {names}. What is there was made of more ({lost}): overwrite=true replaces it, "
            f"results=<folder> writes elsewhere."
        )


def losses(before: str, now: str) -> list[str]:
    """What one CSV has of more pairs or images than another, in words: ``resnet50 / EBPG / sise: 103 there, 7 now``.

    Args:
        before, now: The CSV's text. One that has no column of counts, or is no table, has nothing to lose.
    """
    then, made = _counts(before), _counts(now)
    return [
        f"{' / '.join(key)}: {count} there, {made.get(key, 0)} now"
        for key, count in then.items()
        if count > made.get(key, 0)
    ]


def _counts(csv: str) -> dict[tuple[str, ...], int]:
    """The largest count of each thing that a table's rows are about."""
    try:
        frame = pd.read_csv(io.StringIO(csv), dtype=str, keep_default_na=False)
    except ValueError:  # pandas' own errors are of this kind
        return {}
    counting = next((name for name in COUNTS if name in frame), None)
    names = [name for name in NAMES if name in frame]
    if counting is None or not names:
        return {}
    counts = pd.to_numeric(frame[counting], errors="coerce").fillna(0).astype(int)
    found = counts.groupby([frame[name] for name in names], sort=False).max()
    return {key if isinstance(key, tuple) else (key,): int(count) for key, count in found.items() if count}

"""Files in ``results/``: nothing there is replaced by something made of less, nor deleted, unless it is asked for.

A table knows what it was made of: its CSV has a column of pairs or images. :class:`ResultFolder` compares it, cell by
cell, with the file that would be lost. A picture carries the number in its note. The last line of a Markdown file,
which is not shown, is a hash of the others: who changed one by hand does not lose that either.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import UnidentifiedImageError

from sise.benchmark.records.files import write_whole

__all__ = ["ResultFolder", "losses"]

COUNTS = ("n", "pairs", "images", "masks")
"""Columns that say what a row was made of; the first that a table has counts. Without one, rows do."""
NAMES = ("dataset", "model", "network", "metric", "explainer", "variant", "against", "subject", "rival", "rule",
         "layer", "stage", "percent", "largest accuracy", "stratum", "part")  # fmt: skip
"""Columns that say what a row is about."""
SEAL = "[//]: # (sise "
"""How the last line of a Markdown file begins, a definition that nothing refers to."""


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
        """Writes files that belong together, or none if a CSV would lose pairs or a Markdown file what a hand wrote.

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
        edited = [name for name in texts if name.endswith(".md") and _is_edited(self.path / name)]
        if edited and not self.overwrite:
            self._not_written(", ".join(texts), f"{edited[0]} was changed by hand since it was made")
            return []
        if lost and not self.overwrite:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            self._kept(", ".join(texts), f"{lost[0]}{more}")
            return []
        self.path.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            text = _sealed(text) if name.endswith(".md") else text
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
        try:
            before = note_of(file) if file.exists() else {}
        except UnidentifiedImageError:
            before = {}
        if file.exists() and not before and not self.overwrite:
            self._not_written(name, "What is there was not drawn by the suite")
            return False
        if before.get("made_of", 0) > made_of and not self.overwrite:
            self._kept(name, f"{before['made_of']} there, {made_of} now")
            return False
        if before.get("command", command()) != command():
            self.say(f"{name} takes the place of the one made by `{before['command']}`")
        file.parent.mkdir(parents=True, exist_ok=True)
        return True

    def _kept(self, names: str, lost: str) -> None:
        self._not_written(names, f"What is there was made of more ({lost})")

    def _not_written(self, names: str, why: str) -> None:
        self.say(f"NOT written: {names}. {why}: overwrite=true replaces it, results=<folder> writes elsewhere.")


def _sealed(text: str) -> str:
    """A text with its hash behind it."""
    return f"{text}\n{SEAL}{_hash(text)})\n"


def _is_edited(file: Path) -> bool:
    """Whether a file is there whose text is not the one that its hash was made of; not of one without a hash."""
    if not file.is_file():
        return False
    text, mark, behind = file.read_text(encoding="utf-8", errors="replace").rpartition(f"\n{SEAL}")
    return bool(mark) and behind != f"{_hash(text)})\n"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def losses(before: str, now: str) -> list[str]:
    """What one CSV has of more pairs or images than another, in words: ``resnet50 / EBPG / sise: 103 there, 7 now``.

    Args:
        before, now: The CSV's text. One that is no table has nothing to lose.
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
    if not names:
        return {}
    grouped = [frame[name] for name in names]
    if counting is None:
        found = frame.groupby(grouped, sort=False).size()
    else:
        counts = pd.to_numeric(frame[counting], errors="coerce").fillna(0).astype(int)
        found = counts.groupby(grouped, sort=False).max()
    return {key if isinstance(key, tuple) else (key,): int(count) for key, count in found.items() if count}

"""A table as data: runs, columns, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sise.benchmark.records.departures import Departure
from sise.benchmark.records.store import Records

__all__ = ["Column", "Run", "Table"]


@dataclass(frozen=True)
class Note:
    """A line of a table's foot.

    Attributes:
        text: Without line breaks of its own.
        urgent: Stands below the table on a terminal too.
        about_budget: Says that a method had less than the paper's budget.
        about_marks: Explains what stands beside the means, so that a writer of means alone leaves it out.
        model: The only network that it is about.
    """

    text: str
    urgent: bool = False
    about_budget: bool = False
    about_marks: bool = False
    model: str = ""


@dataclass(frozen=True)
class Run:
    """One run folder: ``identity`` as in run.json, ``records`` by columns (see :mod:`sise.benchmark.records.store`)."""

    path: Path
    identity: Mapping[str, Any]
    records: Records
    devices: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    """(time, command) of the sessions behind the records."""
    limits: tuple[int | None, ...] = ()
    """To how many images each of these sessions was limited; None: to none, or it did not say."""
    changed_files: tuple[str, ...] = ()
    """Code that has changed since some of the records were made."""
    replaced: int = 0
    """Records of images that were replaced under their names since."""
    place_error: float = 0.0
    """The most that a score depended on its mask's place in the batch on the machines behind the records, as a share of
    the largest score."""
    drift: float = 0.0
    """The most that the engine's precision changed a masked score, measured on one image, as a share of the largest
    score."""
    commits: tuple[str, ...] = ()
    """The code that made the records: short hashes, with a + where files had changed since."""

    @property
    def variant(self) -> str:
        """The variant; its seeds share a column."""
        return self.identity["variant"]

    @property
    def departures(self) -> list[Departure]:
        """What the run changed in the presets it names."""
        return [Departure(**found) for found in self.identity["departures"]]

    @property
    def stale(self) -> bool:
        """Whether some of its records were made by other code or of other images than there are now."""
        return bool(self.changed_files or self.replaced)


@dataclass(frozen=True)
class Column:
    """One method of a table: the runs of ``explainer`` and ``variant``.

    ``method`` is its name among the published numbers, ``seeds`` the number of seeds the paper averages; a
    ``control`` takes no part in the ranking. ``against``, as "explainer/variant", is what it's compared with where
    that is not the table's reference (see :mod:`sise.benchmark.tables.comparisons`). A ``yardstick`` changes how a map
    is measured: it is no better or worse for that. The runs of a ``model`` of its own, ``no_network``, stand in the
    rows of every model. ``threshold`` is the μ that a column is run with, in a table of thresholds.
    """

    explainer: str
    variant: str
    label: str
    method: str | None = None
    seeds: int = 1
    control: bool = False
    against: str = ""
    yardstick: bool = False
    model: str = ""
    threshold: float | None = None


@dataclass(frozen=True)
class Table:
    """``cells``: a row per (model, metric, column label), the columns of the CSV. ``notes``: the foot.

    ``commands``: what makes the records and the table. ``average``: what counts alike in a mean.
    """

    name: str
    title: str
    dataset: str
    models: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: pd.DataFrame
    notes: tuple[Note, ...]
    commands: tuple[str, ...] = ()
    average: str = "pair"

    def cell(self, model: str, metric: str, column: Column) -> pd.Series:
        return self.cells.loc[(model, metric, column.label)]

    def pairs(self, model: str, column: Column) -> str:
        """Number of pairs with a record that is ok, of each subset; or "not run", or how many failed if all did."""
        cells = [self.cell(model, metric, column) for metric in self.metrics]
        if any(cell["pairs"] for cell in cells):
            return " / ".join(dict.fromkeys(str(cell["pairs"]) for cell in cells))
        return f"{cells[0]['failed']} failed" if cells[0]["failed"] else "not run"

    @property
    def made_by(self) -> str:
        """The commands in Markdown."""
        return f"Made by {', then '.join(f'`{command}`' for command in self.commands)}."


Shown = Mapping[tuple[str, Column], Sequence[Run]]
"""The runs behind each (model, column) of a table that has any."""

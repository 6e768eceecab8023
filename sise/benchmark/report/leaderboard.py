"""The leaderboard: every measured cell of ``results/``, a line per network and explainer, a column per metric.

One measurement stands in several tables, beside the published numbers of each: :func:`board` puts it on one line, and
keeps what each table says of it. Tables that measured something else, more pairs or other code, have lines of their
own: nothing is averaged or dropped here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sise.benchmark.report.grids import label
from sise.benchmark.tables.words import COSTS, LOWER_IS_BETTER, METRICS, STATUS, heading, number, signed

__all__ = ["Board", "Cell", "Claim", "Entry", "Key", "Line", "Origin", "Source", "better", "board", "claims_of", "fits"]

NEEDED = {"dataset", "model", "method", "explainer", "variant", "metric", "mean", "standard error", "n", "undefined",
          "missing", "failed", "published", "difference", "status", "place"}  # fmt: skip
"""The columns of a CSV whose cells can stand on the board."""
VERDICTS = ("held", "not held", "undecided", "partial", "stand-in", "not run")
"""What can become of a claim, what says most first; see :mod:`sise.benchmark.tables.claims`."""

Key = tuple[str, str, str, str]
"""Data set, network, explainer, variant."""


@dataclass(frozen=True)
class Origin:
    """What made the records behind a line, as far as run folders tell."""

    commands: Sequence[str] = ()
    machines: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    """A table of ``results/``.

    Attributes:
        title, anchor: Where it stands on the page.
        cells: Its CSV, columns :data:`NEEDED`.
        claims: The CSV of the claims about it, if there is one.
        commands: What made it.
        origins: What made the records of its lines.
    """

    title: str
    anchor: str
    cells: pd.DataFrame
    claims: pd.DataFrame | None = None
    commands: Sequence[str] = ()
    origins: Mapping[Key, Origin] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """What one table says of one metric of a line: means in percent, costs in their unit; NaN for none."""

    source: Source
    metric: str
    mean: float
    error: float
    n: int
    undefined: int
    missing: int
    failed: int
    published: float
    difference: float
    status: str
    place: str
    note: str = ""
    commit: str = ""

    @property
    def heading(self) -> str:
        """The metric, with an arrow where lower is better."""
        return heading(self.metric)

    @property
    def average(self) -> str:
        """The mean, as printed."""
        return number(self.mean, self.metric) if self.n else "–"

    @property
    def spread(self) -> str:
        """± standard error, as printed; empty if it is not known."""
        return f"± {number(self.error, self.metric)}" if self.n and not math.isnan(self.error) else ""

    @property
    def measured(self) -> str:
        """Both."""
        return f"{self.average} {self.spread}".rstrip()

    @property
    def paper(self) -> str:
        """The published number, as printed; empty for none."""
        return "" if math.isnan(self.published) else number(self.published, self.metric)

    @property
    def apart(self) -> str:
        """Measured minus published, where they may be compared."""
        return "" if math.isnan(self.difference) else signed(self.difference).replace("-", "−")

    @property
    def counts(self) -> str:
        """How many pairs, and what is wrong with how many values."""
        parts = [f"{self.n} pairs"]
        parts += [f"{self.undefined} set by definition"] * bool(self.undefined)
        parts += [f"{self.missing} missing"] * bool(self.missing)
        parts += [f"{self.failed} failed"] * bool(self.failed)
        return ", ".join(parts)


@dataclass(frozen=True)
class Cell:
    """One metric of a line, for every table that has it."""

    entries: Sequence[Entry]

    @property
    def first(self) -> Entry:
        """The entry that says most: measured, with the status that stands first in :data:`STATUS`."""
        return min(self.entries, key=lambda entry: (not entry.n, list(STATUS).index(entry.status)))

    @property
    def states(self) -> str:
        """The statuses as words of an attribute: ``other-data not-published``."""
        return " ".join(dict.fromkeys(entry.status.replace(" ", "-") for entry in self.entries))

    @property
    def value(self) -> str:
        """What to sort by; empty for no value."""
        return repr(round(self.first.mean, 6)) if self.first.n else ""

    @property
    def published(self) -> str:
        """The papers' numbers with the marks of their status; each once."""
        words = [f"{e.paper} {STATUS[e.status][0]}".rstrip() for e in self.entries if e.paper]
        return ", ".join(dict.fromkeys(words))


@dataclass
class Line:
    """One explainer's variant on a data set and a network.

    Attributes:
        number: Its place in the order of the page.
        dataset, model, explainer, variant: What was run.
        labels: What the tables call it; the first is shown.
        entries: By metric.
        sources: The tables.
        claims: What the papers' text says of it as the better one, with the verdict.
    """

    number: int
    dataset: str
    model: str
    explainer: str
    variant: str
    labels: list[str] = field(default_factory=list)
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    claims: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.dataset, self.model, self.explainer, self.variant

    @property
    def name(self) -> str:
        """As in run folders: ``sise/paper``."""
        return f"{self.explainer}/{self.variant}"

    @property
    def network(self) -> str:
        return label(self.model)

    @property
    def words(self) -> str:
        """What a search looks through."""
        return " ".join([*self.labels, self.name]).lower()

    @property
    def pairs(self) -> int:
        """The most of any metric."""
        return max(entry.n for entries in self.entries.values() for entry in entries)

    @property
    def verdicts(self) -> list[tuple[str, int]]:
        """What became of how many claims, what says most first."""
        found = Counter(claim["verdict"] for claim in self.claims)
        return [(verdict, found[verdict]) for verdict in VERDICTS if found[verdict]]

    @property
    def notes(self) -> list[str]:
        """Departures, budgets and gaps in the data, each once."""
        return list(dict.fromkeys(e.note for entries in self.entries.values() for e in entries if e.note))

    @property
    def commits(self) -> list[str]:
        """The commits of the code behind the records, as far as the tables name them."""
        found = (e.commit for entries in self.entries.values() for e in entries)
        return list(dict.fromkeys(commit for commits in found for commit in commits.split()))

    @property
    def commands(self) -> list[str]:
        """What made its records and its tables."""
        own = [command for s in self.sources if self.key in s.origins for command in s.origins[self.key].commands]
        return list(dict.fromkeys([*own, *(command for source in self.sources for command in source.commands)]))

    @property
    def machines(self) -> list[str]:
        """Where, with which versions, as far as run folders are here."""
        found = (m for s in self.sources if self.key in s.origins for m in s.origins[self.key].machines)
        return list(dict.fromkeys(found))

    @property
    def told(self) -> list[tuple[Entry, list[str]]]:
        """Every entry with the titles of the tables that say the same."""
        found: dict[tuple[str, ...], tuple[Entry, list[str]]] = {}
        for entry in (entry for entries in self.entries.values() for entry in entries):
            what = (entry.metric, entry.measured, entry.paper, entry.apart, entry.status, entry.counts)
            found.setdefault(what, (entry, []))[1].append(entry.source.title)
        return list(found.values())

    def cell(self, metric: str) -> Cell | None:
        """None if no table has the metric."""
        return Cell(self.entries[metric]) if metric in self.entries else None

    def takes(self, entries: Sequence[Entry]) -> bool:
        """Whether entries of another table are of the same measurement: of no metric do both have another value."""
        return all(
            not (entry.n and other.n) or (entry.n == other.n and math.isclose(entry.mean, other.mean, rel_tol=1e-9))
            for entry in entries
            for other in self.entries.get(entry.metric, ())
        )

    def add(self, source: Source, name: str, entries: Sequence[Entry]) -> None:
        """Takes in what one more table says."""
        self.labels += [name] * (name not in self.labels)
        self.sources += [source] * (source not in self.sources)
        for entry in entries:
            self.entries.setdefault(entry.metric, []).append(entry)


@dataclass(frozen=True)
class Board:
    """The lines, those of a data set and network together, and the metrics in the papers' order, costs last."""

    lines: Sequence[Line]
    metrics: Sequence[str]

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(line.dataset for line in self.lines))

    @property
    def networks(self) -> dict[str, str]:
        """Labels by name."""
        return {line.model: line.network for line in self.lines}

    @property
    def explainers(self) -> list[str]:
        return list(dict.fromkeys(line.explainer for line in self.lines))

    @property
    def statuses(self) -> Counter[str]:
        """How many cells of tables have which status, in the order of :data:`STATUS`."""
        found = Counter(e.status for line in self.lines for entries in line.entries.values() for e in entries)
        return Counter({state: found[state] for state in STATUS if found[state]})

    @property
    def measured(self) -> int:
        """Distinct means on the board."""
        return sum(bool(Cell(entries).first.n) for line in self.lines for entries in line.entries.values())


def fits(frame: pd.DataFrame) -> bool:
    """Whether a CSV's cells can stand on the board: its columns are there, its numbers are numbers."""
    numbers = ("mean", "standard error", "n", "undefined", "missing", "failed", "published", "difference")
    return (
        set(frame.columns) >= NEEDED
        and all(pd.api.types.is_numeric_dtype(frame[column]) for column in numbers)
        and set(frame["status"]) <= set(STATUS)
    )


def board(sources: Sequence[Source]) -> Board:
    """Lines up the cells of tables.

    Args:
        sources: In the page's order.
    """
    lines: list[Line] = []
    for source in sources:
        by = ["dataset", "model", "explainer", "variant", "method"]
        for (*of_key, name), rows in source.cells.groupby(by, sort=False, dropna=False):
            dataset, model, explainer, variant = map(str, of_key)
            entries = [_entry(source, row) for row in rows.to_dict("records")]
            same = (line for line in lines if line.key == (dataset, model, explainer, variant) and line.takes(entries))
            if (line := next(same, None)) is None:
                lines.append(line := Line(len(lines), dataset, model, explainer, variant))
            line.add(source, str(name), entries)
    for line in lines:
        line.claims += [claim for source in line.sources for claim in _claims_about(line, source)]
    datasets = list(dict.fromkeys(line.dataset for line in lines))
    models = list(dict.fromkeys(line.model for line in lines))
    lines.sort(key=lambda line: (datasets.index(line.dataset), models.index(line.model)))
    for place, line in enumerate(lines):
        line.number = place
    found = dict.fromkeys(metric for line in lines for metric in line.entries)
    rest = [metric for metric in found if metric not in (*METRICS, *COSTS)]
    return Board(lines, [metric for metric in (*METRICS, *rest, *COSTS) if metric in found])


def _entry(source: Source, row: Mapping[str, Any]) -> Entry:
    def word(key: str) -> str:
        return "" if pd.isna(row.get(key)) else str(row[key])

    return Entry(
        source, str(row["metric"]), mean=float(row["mean"]), error=float(row["standard error"]), n=int(row["n"]),
        undefined=int(row["undefined"]), missing=int(row["missing"]), failed=int(row["failed"]),
        published=float(row["published"]), difference=float(row["difference"]), status=str(row["status"]),
        place=word("place"), note=word("note"), commit=word("commit"),
    )  # fmt: skip


def _claims_about(line: Line, source: Source) -> list[Mapping[str, Any]]:
    """The claims that a table checks and in which the line is the subject."""
    if source.claims is None or "subject run" not in source.claims:
        return []
    mine = source.claims[
        (source.claims["dataset"] == line.dataset)
        & (source.claims["model"] == line.model)
        & (source.claims["subject run"] == line.name)
    ]
    return [claim | {"heading": heading(claim["metric"])} for claim in mine.to_dict("records")]


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, and what the published numbers and the records say of it.

    Attributes:
        source, section, text: Where it stands.
        table: Whose numbers it is about.
        orderings: How many comparisons of two methods it makes.
        agree: How many of those checked the published numbers bear out.
        checked: How many of them were checked.
        verdicts: What became of how many, what says most first.
        where: Titles and anchors of the tables that check it.
    """

    source: str
    section: str
    text: str
    table: str
    orderings: int
    agree: int
    checked: int
    verdicts: Sequence[tuple[str, int]]
    where: Sequence[tuple[str, str]]


def claims_of(every: pd.DataFrame | None, sources: Sequence[Source]) -> list[Claim]:
    """Every sentence and its standing.

    Args:
        every: All orderings that the papers draw, from :func:`sise.benchmark.tables.claims.read`; None if unknown.
        sources: The tables, with the claims that they check.
    """
    checked = [(source, source.claims) for source in sources if source.claims is not None]
    frames = [frame for frame in (every, *(claims for _, claims in checked)) if frame is not None]
    by = ["source", "section", "claim", "table"]
    found = []
    for key in dict.fromkeys(key for frame in frames for key in frame[by].itertuples(index=False, name=None)):
        mine = [(s, rows) for s, claims in checked if len(rows := claims[(claims[by] == list(key)).all(axis=1)])]
        rows = pd.concat([rows for _, rows in mine]) if mine else None
        orderings = len(every[(every[by] == list(key)).all(axis=1)]) if every is not None else 0
        counts = Counter(rows["verdict"]) if rows is not None else Counter({"not run": orderings})
        paper, section, text, table = map(str, key)
        found.append(Claim(
            paper, section, text, table,
            orderings or (0 if rows is None else len(rows)),
            0 if rows is None else int(rows["published agrees"].sum()),
            0 if rows is None else len(rows),
            [(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]],
            [(source.title, source.anchor) for source, _ in mine],
        ))  # fmt: skip
    return found


def better(metric: str) -> str:
    """Which direction is better: ``lower`` or ``higher``."""
    return "lower" if metric in LOWER_IS_BETTER else "higher"

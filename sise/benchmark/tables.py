"""Tables: run folders and the papers' numbers in, ``results/<table>.{csv,md,tex}`` out.

The way through this file is the way of the data: :func:`find_runs` reads the run folders, :func:`columns_of` lines
them up in the paper's order, :func:`measure` makes one cell of records, :func:`status` says what that cell is worth
next to the published number, :func:`rank` finds the best, :func:`foot` says what a reader must know, and ``to_*``
write it down. :func:`tabulate` does all of it. A table is defined by ``configs/table/<name>.yaml``.

A cell's mean is over (image, target) pairs, each pair's seeds averaged first; its standard error takes images as
independent clusters of pairs (:func:`sise.benchmark.statistics.clustered_standard_error`). Nothing vanishes in a mean:
failed pairs, missing values and values that were set by definition are counted, and named in the foot.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from metrics import arithmetic
from sise.benchmark.code_version import doubts, other_code
from sise.benchmark.departures import SEEDS, Budget, Departure, departures, identity_of
from sise.benchmark.records import RunFolder, without_folders
from sise.benchmark.result_files import ResultFolder
from sise.benchmark.statistics import AVERAGES, averaged
from sise.types import REMARKS, Remark, SuiteError, choose

__all__ = ["Column", "Run", "Table", "build", "find_runs", "status", "tabulate"]

METRICS = ("EBPG", "mIoU", "Bbox", "Drop%", "Increase%")  # fractions, percent in tables, like any further metric
COSTS = ("seconds", "forward_passes", "backward_passes")
LOWER_IS_BETTER = ("Drop%", *COSTS)
NOT_METRICS = ("image_id", "target", "class", "status", "reason", "confidence", "mask_fraction", "undefined",
               "remarks", "difficult", "session", "where", "image_hash", "kept_fraction", "cluster")  # fmt: skip
OWN = {"sise": "SISE", "ada_sise": "Ada-SISE", "ada_sise_table": "Ada-SISE"}
"""The explainers that stand in many variants beside their rivals, and the methods they are variants of."""
PUBLISHED_NAMES = {"seconds": "Runtime (s)"}
LABELS = {
    "vgg16": "VGG16", "resnet50": "ResNet-50", "resnet101": "ResNet-101", "efficientnet_lite0": "EfficientNet-Lite0",
    "seconds": "Run-time (s)", "forward_passes": "Forward passes", "backward_passes": "Backward passes",
}  # fmt: skip
STATUS = {  # mark in a cell, meaning
    "reproduced": ("=", "official complete dataset, official weights, the settings and the budget that are shipped for "
                   "the paper, and the difference is rounding: at most 0.05 points, or for a random method 2 standard "
                   "deviations of its seeds' mean, or the spread that a method has between machines"),
    "close": ("≈", "the same, but the difference is larger, and at most 0.5 points"),
    "differs": ("≠", "the same, but the difference is larger"),
    "partial": ("~", "the paper's dataset and weights, but fewer pairs, a smaller budget, a single seed, changed "
                "settings, or records of other code than there is now"),
    "other data": ("°", "stand-in dataset or weights: says nothing about the published number"),
    "other hardware": ("°", "seconds are those of another machine"),
    "not run": ("", "no records"),
    "failed": ("", "every pair failed"),
    "not published": ("", "the paper has no such number"),
}  # fmt: skip
ROUNDING = 0.05
"""Points within which a mean equals a published number: its two decimals, and what float32 leaves open."""
CLOSE = 0.5
"""Points within which it is close."""
CONFIGS = Path(__file__).parents[2] / "configs"
PROTOCOLS = tuple(file.stem for file in sorted((CONFIGS / "protocol").glob("*.yaml")))
# a setting whose value is a path
PLACE = re.compile(r"^([\w.+~]*\broot|(?!shard\b|only\b)[\w.+~]+(?==.*(?:/|\.\.\.)))=.*")
MOST_COMMANDS = 3  # of evaluate.py, below a table


@dataclass(frozen=True)
class Note:
    """A line of a table's foot; one that is ``urgent`` stands below the table on a terminal too."""

    text: str
    urgent: bool = False
    about_budget: bool = False


@dataclass(frozen=True)
class Run:
    """One run folder: ``identity`` as in run.json, ``records`` one row each (see :mod:`sise.benchmark.records`)."""

    path: Path
    identity: Mapping[str, Any]
    records: pd.DataFrame
    devices: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    """(time, command) of the sessions behind the records."""
    changed_files: tuple[str, ...] = ()
    """Code that has changed since some of the records were made."""
    place_error: float = 0.0
    """The most that a score depended on its mask's place in the batch on the machines behind the records, as a share of
    the largest score."""

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
        """Whether some of its records were made by other code than there is now."""
        return bool(self.changed_files)

    @property
    def ok(self) -> pd.DataFrame:
        return self.records[self.records["status"] == "ok"]

    @property
    def failed(self) -> pd.DataFrame:
        return self.records[self.records["status"] != "ok"]


@dataclass(frozen=True)
class Column:
    """One method of a table: the runs of ``explainer`` and ``variant``.

    ``method`` is its name among the published numbers, ``seeds`` the number of seeds the paper averages; a
    ``control`` takes no part in the ranking. ``against``, as "explainer/variant", is what it's compared with where
    that is not the table's reference (see :mod:`sise.benchmark.comparisons`). A ``yardstick`` changes how a map is
    measured: it is no better or worse for that.
    """

    explainer: str
    variant: str
    label: str
    method: str | None = None
    seeds: int = 1
    control: bool = False
    against: str = ""
    yardstick: bool = False


@dataclass(frozen=True)
class Table:
    """``cells``: a row per (model, metric, column label), the columns of the CSV. ``notes``: the foot.

    ``commands``: what makes the records and the table.
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
        """Number of pairs with a record that is ok, or "not run", or how many failed if all did."""
        cell = self.cell(model, self.metrics[0], column)
        return str(cell["pairs"] or (f"{cell['failed']} failed" if cell["failed"] else "not run"))

    @property
    def made_by(self) -> str:
        """The commands in Markdown."""
        return f"Made by {', then '.join(f'`{command}`' for command in self.commands)}."


# reading ----------------------------------------------------------------------------------------------------------


def find_runs(outputs: str | Path) -> list[Run]:
    """Every run folder below ``outputs``, however deep.

    Raises:
        SuiteError: If two folders hold the same run: their pairs would count twice.
    """
    runs: dict[tuple, Run] = {}
    for file in sorted(Path(outputs).rglob("run.json")):
        folder = RunFolder(file.parent)
        identity, records = identity_of(folder), folder.read()
        keys = dict.fromkeys(key for record in [dict.fromkeys(NOT_METRICS), *records] for key in record)
        sessions = folder.environments()
        devices = tuple(sorted({session.get("device", "unknown") for session in sessions}))
        named = {record.get("session") for record in records}
        behind = [session for session in sessions if session.get("session") in named] or sessions
        commands = tuple((str(s.get("time", "")), s["command"]) for s in behind if s.get("command"))
        frame = pd.DataFrame(records, columns=list(keys))
        changed = tuple(sorted({name for names in other_code(folder, records) for name in names}))
        place_error = max((float(session.get("place_error") or 0.0) for session in behind), default=0.0)
        run = Run(
            file.parent, identity, frame, devices, tuple(doubts(folder, records)), commands, changed, place_error
        )
        what = (identity["dataset"], identity["model"], identity["explainer"], run.variant, identity.get("seed"))
        if what in runs:
            raise SuiteError(
                f"{runs[what].path} and {run.path} hold the same run, {' / '.join(map(str, what))}: move one of them "
                f"out of {outputs}"
            )
        runs[what] = run
    return list(runs.values())


def commands_of(runs: Iterable[Run]) -> list[str]:
    """The distinct commands that made the runs' records, oldest first, without where the data and the records lie."""
    told = sorted({entry for run in runs for entry in run.commands})
    return list(dict.fromkeys(f"python {_placeless(command)}" for _, command in told))


def _placeless(command: str) -> str:
    words = [w for w in command.replace("`", "'").split() if not w.startswith(("outputs=", "results=", "overwrite="))]
    return " ".join(PLACE.sub(r"\1=<folder>", word) for word in words)


def read_published(file: str | Path) -> pd.DataFrame:
    """The papers' numbers: source, table, dataset, model, method, metric, value, note."""
    try:
        return pd.read_csv(file)
    except FileNotFoundError as error:
        raise SuiteError(f"expected the papers' numbers in {file}; it is part of the repository, restore it") from error


# one cell ---------------------------------------------------------------------------------------------------------


def columns_of(
    definition: Mapping[str, Any],
    runs: Sequence[Run],
    controls: Iterable[str],
    elsewhere: Iterable[tuple[str, str]] = (),
) -> tuple[Column, ...]:
    """The columns of a table: the paper's, whether run or not; of the definition's others those that were run; then,
    if the definition wants ``extras``, whatever else was run, but for variants with a name of their own that another
    table shows (``elsewhere``), controls last."""
    label_of = {(run.identity["explainer"], run.variant): run.identity["label"] for run in reversed(runs)}
    columns = [Column(**column) for column in definition.get("columns") or ()]
    columns = [c for c in columns if c.method or (c.explainer, c.variant) in label_of]
    if definition.get("extras"):
        controls = list(controls)
        named = {(run.identity["explainer"], run.variant) for run in runs if run.variant != run.identity["protocol"]}
        rest = label_of.keys() - {(c.explainer, c.variant) for c in columns} - (named & set(elsewhere))
        for explainer, variant in sorted(rest, key=lambda key: (key[0] in controls, key[1] != "paper", key[1], key[0])):
            label = label_of[explainer, variant] + ("" if variant == "paper" else f" ({variant})")
            if label in [c.label for c in columns]:
                label += f" [{explainer}/{variant}]"
            columns.append(Column(explainer, variant, label, control=explainer in controls))
    return tuple(columns)


def pair_values(runs: Sequence[Run], metric: str) -> pd.Series:
    """One value per (image_id, target) that has any, the mean of its seeds: percent, but for :data:`COSTS`."""
    if not any(metric in run.ok for run in runs):
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["image_id", "target"]))
    ok = pd.concat([run.ok for run in runs], ignore_index=True)
    values = pd.to_numeric(ok[metric]) * (1.0 if metric in COSTS else 100.0)
    return values.groupby([ok["image_id"], ok["target"]]).mean().dropna()


def clusters_of(runs: Sequence[Run]) -> dict[str, str]:
    """The cluster of each image that its dataset names one for."""
    found = pd.concat([run.ok[["image_id", "cluster"]] for run in runs]).dropna()
    return dict(zip(found["image_id"], found["cluster"], strict=True))


def measure(runs: Sequence[Run], metric: str, average: str = "pair") -> dict[str, Any]:
    """What the runs of one column (its seeds) say about one metric: percent, but for :data:`COSTS`.

    Args:
        runs: Of the seeds.
        metric: Its name in the records.
        average: What counts alike in the mean, see :func:`sise.benchmark.statistics.averaged`.

    Returns:
        ``mean``, ``standard error`` and ``n``, over pairs with a value; ``pairs`` with a record that is ok;
        ``missing``, ``undefined`` and ``failed`` records; ``seeds`` and ``seed s.d.``, of the seeds' means.
    """
    if not runs:
        counts = dict.fromkeys(("n", "pairs", "missing", "undefined", "failed", "seeds"), 0)
        return counts | dict.fromkeys(("mean", "standard error", "seed s.d."), math.nan)
    scale = 1.0 if metric in COSTS else 100.0
    ok = pd.concat([run.ok.assign(seed=run.identity.get("seed")) for run in runs], ignore_index=True)
    values = pd.to_numeric(ok[metric]) * scale if metric in ok else pd.Series(math.nan, ok.index)
    ok = ok.assign(value=values)
    per_pair = pair_values(runs, metric)
    per_seed = ok.groupby("seed", dropna=False)["value"].mean().dropna()
    mean, standard_error = averaged(per_pair, average, clusters_of(runs))
    return {
        "mean": mean,
        "standard error": standard_error,
        "n": len(per_pair),
        "pairs": ok.groupby(["image_id", "target"]).ngroups,
        "missing": int(values.isna().sum()),
        "undefined": sum(metric in names for names in ok["undefined"] if isinstance(names, list)),
        "failed": sum(len(run.failed) for run in runs),
        "seeds": len({run.identity.get("seed") for run in runs}),
        "seed s.d.": per_seed.std(ddof=1) if len(per_seed) > 1 else math.nan,
    }


def status(
    *,
    n: int,
    published: float,
    difference: float,
    published_dataset: bool,
    official_weights: bool,
    faithful: bool,
    margin: float = ROUNDING,
    hardware: bool = False,
    failed: bool = False,
) -> str:
    """What a cell is worth next to the published number; the keys of :data:`STATUS`.

    Published and measured number are of the same images: nothing was sampled between them, so a standard error over
    images says nothing about their difference.

    Args:
        n: Pairs with a value.
        published: The paper's number; NaN = none.
        difference: Measured − published.
        published_dataset: The records are of the dataset that the number was published for.
        official_weights: The weights are the published checkpoint.
        faithful: Every pair of the complete official dataset has a value, made by the code there is now with the
            settings and the budget that are shipped for the paper.
        margin: How far apart two runs of the same thing may be, see :func:`margin_of`.
        hardware: The metric depends on the machine.
        failed: Every pair failed.
    """
    if n == 0:
        return "failed" if failed else "not run"
    if math.isnan(published):
        return "not published"
    if not (published_dataset and official_weights):
        return "other data"
    if hardware:
        return "other hardware"
    if not faithful:
        return "partial"
    apart = abs(difference) - 1e-9
    if apart <= margin:
        return "reproduced"
    return "close" if apart <= CLOSE else "differs"


def margin_of(cell: Mapping[str, Any], spread: float = 0.0) -> float:
    """How far a mean may lie from a published one of the same method on the same images, in points.

    Args:
        cell: From :func:`measure`.
        spread: What the method's own rounding makes of the mean, from machine to machine.
    """
    of_seeds = 0.0 if math.isnan(cell["seed s.d."]) else 2 * cell["seed s.d."] / math.sqrt(cell["seeds"])
    return max(ROUNDING, of_seeds, spread)


def rank(values: Mapping[str, float], metric: str) -> dict[str, str]:
    """``{label: "best" | "second"}`` of two or more values, as printed: equal ones share a place; NaN takes none."""
    printed = {label: float(number(value, metric)) for label, value in values.items() if not math.isnan(value)}
    if len(printed) < 2:
        return {}
    places = sorted(set(printed.values()), reverse=metric not in LOWER_IS_BETTER)[:2]
    return {label: ("best", "second")[places.index(v)] for label, v in printed.items() if v in places}


# one table --------------------------------------------------------------------------------------------------------

Shipped = Callable[[Mapping[str, Any], str], Mapping[tuple[str, str, int | None], Mapping[str, Any]]]
"""``(a table's definition, model) -> configuration by (explainer, variant, seed)``."""


def build(
    definition: Mapping[str, Any],
    dataset: str,
    runs: Sequence[Run],
    published: pd.DataFrame,
    *,
    controls: Iterable[str] = (),
    elsewhere: Iterable[tuple[str, str]] = (),
    shipped: Shipped = lambda definition, model: {},
    spreads: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> Table:
    """Makes one table of the runs of one dataset.

    Args:
        definition: As in ``configs/table/``: ``name``, ``title``, ``published`` (the published table's name or None),
            ``datasets`` (the first is the paper's), ``models`` and ``metrics`` (None = all that have records),
            ``columns`` (of :class:`Column`), ``extras`` (also show whatever else was run), ``average`` (what counts
            alike in a mean, pair if it says nothing; a table of another average has a name of its own).
        dataset: The dataset to show; runs of others are left out.
        runs: From :func:`find_runs`.
        published: From :func:`read_published`.
        controls: Names of the explainers that are controls.
        elsewhere: (explainer, variant) of the columns that other definitions have.
        shipped: Gives the configurations that are shipped for the cells of a definition's experiment.
        spreads: By explainer and metric, see :func:`margin_of`.
    """
    runs = [run for run in runs if run.identity["dataset"] == dataset]
    models = tuple(definition.get("models") or sorted({run.identity["model"] for run in runs}))
    runs = [run for run in runs if run.identity["model"] in models]
    metrics = tuple(definition.get("metrics") or _metrics_of(runs))
    columns = columns_of(definition, runs, controls, elsewhere)
    average = choose("table.average", definition.get("average") or "pair", tuple(AVERAGES))
    home = (definition.get("datasets") or [None])[0]
    known = published[(published["table"] == definition.get("published")) & (published["dataset"] == home)]
    known = known.set_index(["model", "metric", "method"])["value"].to_dict()

    cells = []
    for model in models:
        for metric in metrics:
            row, rivals, sets, taken = [], {}, set(), set()
            for column in columns:
                group = runs_of(runs, model, column)
                cell = measure(group, metric, average)
                from_paper = known.get((model, PUBLISHED_NAMES.get(metric, metric), column.method), math.nan)
                budgets = [budget for budget in budgets_of(group, column) if not budget.full]
                official = all(run.identity["weights_official"] for run in group)
                changed: list[Departure] = []
                if group and dataset == home and official and not math.isnan(from_paper):
                    changed = departures_of(group, column, shipped(definition, model))
                expected = max((run.identity["expected_pairs"] for run in group), default=0)
                cell["published"] = from_paper
                cell["status"] = status(
                    n=cell["n"],
                    published=from_paper,
                    difference=cell["mean"] - from_paper,
                    published_dataset=dataset == home,
                    official_weights=official,
                    faithful=all(run.identity["complete_dataset"] and not run.stale for run in group)
                    and not (cell["failed"] or cell["missing"] or budgets or changed or average != "pair")
                    and all(len(run.ok) >= expected for run in group),
                    margin=margin_of(cell, spreads.get(column.explainer, {}).get(metric, 0.0)),
                    hardware=metric == "seconds",
                    failed=bool(cell["failed"]) and not cell["pairs"],
                )
                comparable = cell["status"] in ("reproduced", "close", "differs", "partial")
                cell["difference"] = cell["mean"] - from_paper if comparable else math.nan
                cell |= {"dataset": dataset, "model": model, "method": column.label, "explainer": column.explainer,
                         "variant": column.variant, "metric": metric,
                         "note": _limits(group, budgets, changed)}  # fmt: skip
                row.append(cell)
                if cell["n"] and not column.control:
                    sets.add(frozenset(pair_values(group, metric).index))
                    if not _first_of_its_method(column, columns, taken):
                        continue
                    if metric not in COSTS or not any(budget.cheaper for budget in budgets):
                        rivals[column.label] = cell["mean"]
            places = rank(rivals, metric) if len(sets) == 1 else {}
            cells += [{**cell, "place": places.get(cell["method"], "")} for cell in row]

    order = ["dataset", "model", "method", "explainer", "variant", "metric", "mean", "standard error", "n", "undefined",
             "missing", "failed", "published", "difference", "status", "seeds", "seed s.d.", "place", "note",
             "pairs"]  # fmt: skip
    frame = pd.DataFrame(cells, columns=order).set_index(["model", "metric", "method"], drop=False)
    frame.index.names = [None] * 3
    name = definition["name"] + ("" if dataset == home else f"_{dataset}")
    name += "" if average == "pair" else f"_by_{average}"
    title = definition["title"] + ("" if dataset == home or home is None else f" — on {dataset}, a stand-in")
    commands = _commands(definition, dataset, runs, columns)
    table = Table(name, title, dataset, models, metrics, columns, frame, (), commands, average)
    return replace(table, notes=tuple(foot(table, runs)))


def _first_of_its_method(column: Column, columns: Sequence[Column], taken: set[str]) -> bool:
    """Whether a column takes part in the ranking: of SISE's and Ada-SISE's variants the first alone, of those that the
    paper has if it has any. ``taken`` keeps whose place is given away."""
    method = column.method or OWN.get(column.explainer) or f"{column.explainer}/{column.variant}"
    beside = column.explainer in OWN and not column.method and any(c.method and c.explainer in OWN for c in columns)
    first = not beside and method not in taken
    if first:
        taken.add(method)
    return first


def _limits(group: Sequence[Run], budgets: Sequence[Budget], changed: Sequence[Departure]) -> str:
    """In words: what keeps a cell from being the paper's."""
    stated = changed or _distinct(departure for run in group for departure in run.departures)
    words = [f"departs: {', '.join(map(str, stated))}"] if stated else []
    return "; ".join([*words, *map(str, budgets), *_data_gaps(group)])


def _commands(
    definition: Mapping[str, Any], dataset: str, runs: Sequence[Run], columns: Sequence[Column]
) -> tuple[str, ...]:
    """The commands that made a table's records, else, if they are unknown, too many or not all, its experiment's; then
    tabulate's own."""
    keys = {(c.explainer, c.variant) for c in columns} | {tuple(c.against.split("/")) for c in columns}
    if reference := definition.get("reference"):
        keys.add((reference["explainer"], reference["variant"]))
    runs = [run for run in runs if _key(run) in keys]
    name, commands = definition["name"], commands_of(runs)
    if not commands or len(commands) > MOST_COMMANDS or any(map(_unexplained, runs)):
        where = "" if dataset == "shapes" else f" dataset={dataset}"
        known = (CONFIGS / f"experiment/{name}.yaml").exists()
        commands = [f"python scripts/evaluate.py experiment={name}{where}"] if known else []
    average = definition.get("average") or "pair"
    setting = "" if average == "pair" else f" table.average={average}"
    return (*commands, f"python scripts/tabulate.py table={name}{setting}")


def _unexplained(run: Run) -> bool:
    """No command is known, or it asked for fewer images: of commands with the same settings only the first is kept."""
    limits = [re.search(r" limit=(\d+)", command) for _, command in run.commands]
    return all(limit and int(limit[1]) < run.records["image_id"].nunique() for limit in limits)


def runs_of(runs: Sequence[Run], model: str, column: Column) -> list[Run]:
    """The runs behind a column in the rows of a model: one per seed."""
    wanted = (model, column.explainer, column.variant)
    return [run for run in runs if (run.identity["model"], run.identity["explainer"], run.variant) == wanted]


def budgets_of(runs: Sequence[Run], column: Column) -> list[Budget]:
    """What the runs of a column were given, and their seeds, beside the paper's."""
    stated = dict.fromkeys(Budget(**run.identity["budget"]) for run in runs if run.identity.get("budget"))
    seeds = [Budget("seeds", "seeds", len(runs), column.seeds)] if runs and len(runs) < column.seeds else []
    return [*stated, *seeds]


def departures_of(
    runs: Sequence[Run], column: Column, shipped: Mapping[tuple[str, str, int | None], Mapping[str, Any]]
) -> list[Departure]:
    """In what the runs of a column are not what is shipped for it.

    Args:
        runs: Of the column, one per seed.
        column: A variant that has the name of a protocol belongs to that protocol.
        shipped: Configurations of the experiment's cells by (explainer, variant, seed). A run of another seed is
            compared with any of the column; one whose column is none of them has departed as it says itself.
    """
    cells = {seed: cell for (*of_cell, seed), cell in shipped.items() if of_cell == [column.explainer, column.variant]}
    found: list[Departure] = []
    for run in runs:
        seed = run.identity.get("seed")
        if seed in cells:
            own = departures(run.identity["config"], cells[seed])
        elif cells:
            own = departures(run.identity["config"], next(iter(cells.values())), ignored=SEEDS)
        else:
            own = run.departures
        if column.variant in PROTOCOLS and run.identity["protocol"] != column.variant:
            own = [Departure("protocol", run.identity["protocol"], column.variant), *own]
        found += own
    budgeted = {f"explainer.call.{budget.setting}" for budget in budgets_of(runs, column)}
    return [departure for departure in _distinct(found) if departure.key not in budgeted]


def _distinct(found: Iterable[Departure]) -> list[Departure]:
    """Each one once; the values of some settings are lists, which no set takes."""
    kept: list[Departure] = []
    for departure in found:
        if departure not in kept:
            kept.append(departure)
    return kept


def _data_gaps(runs: Sequence[Run]) -> list[str]:
    """In words: what the data behind some runs lack."""
    words: dict[str, None] = {}
    for run in runs:
        if left_out := run.identity["left_out"]:
            missing = ", ".join(left_out["classes"])
            words[f"{left_out['pairs']} pairs left out, the network has no such class: {missing}"] = None
        if run.identity["dataset_note"]:
            words[run.identity["dataset_note"]] = None
    return list(words)


def foot(table: Table, runs: Sequence[Run]) -> list[Note]:
    """What a reader must know beside the numbers, most general first."""
    shown = {(m, c): g for m in table.models for c in table.columns if (g := runs_of(runs, m, c))}
    notes = [
        *_how_to_read(table),
        *_variants(shown),
        *_sources(table, shown),
        *_of_columns(table, shown),
        *_shared_by_columns(shown),
    ]
    for model in table.models:
        groups = {column: group for (m, column), group in shown.items() if m == model}
        notes += [*_unequal_pairs(model, groups), *_arithmetic(table, model, groups), *_limits_of_data(model, groups)]
    return notes


Shown = Mapping[tuple[str, Column], Sequence[Run]]
"""The runs behind each (model, column) of a table that has any."""


def _how_to_read(table: Table) -> list[Note]:
    notes = [
        f"Cells: mean over {AVERAGES[table.average]} ± standard error (images as clusters) [published value and "
        "status]. Bold: best, underlined: second best, of the compared explainers; controls take no part, nor do "
        "further variants of SISE and Ada-SISE, nor costs of a reduced budget, and a row whose columns cover different "
        "pairs has no places. Lower is better for Drop% and costs; – is no value."
    ]
    counts = table.cells["status"].value_counts()
    for key in [key for key in STATUS if key in counts]:
        mark, meaning = STATUS[key]
        notes.append(f"Status {mark + ' ' if mark else ''}{key} ({counts[key]} cells): {meaning}.")
    return [Note(text) for text in notes]


def _variants(shown: Shown) -> list[Note]:
    """What each variant means; urgent where a run departs from its preset."""
    variants: dict[str, dict[tuple[str, bool], list[str]]] = {}  # variant: {what it means: columns}
    for (_, column), group in shown.items():
        for run in group:
            meaning = _protocol(run), bool(run.departures)
            variants.setdefault(run.variant, {}).setdefault(meaning, []).append(column.label)
    notes = []
    for variant, meanings in sorted(variants.items()):
        for (text, departs), labels in meanings.items():
            whose = f" of {', '.join(dict.fromkeys(labels))}" if len(meanings) > 1 else ""
            notes.append(Note(f"Variant {variant}{whose}: {text}.", urgent=departs))
    return notes


def _sources(table: Table, shown: Shown) -> list[Note]:
    """Weights, data and machines."""
    used = [run for group in shown.values() for run in group]
    notes = []
    for model in table.models:
        mine = [run for run in used if run.identity["model"] == model]
        for text, official in dict.fromkeys((_weights(run), run.identity["weights_official"]) for run in mine):
            notes.append(Note(f"{_label(model)}: {text}.", urgent=not official))
    if used and not all(run.identity["complete_dataset"] for run in used):
        pairs = max(run.identity["expected_pairs"] for run in used)
        notes.append(Note(f"Dataset {table.dataset}: not the complete official set (the pairs found: {pairs})."))
    if (worst := max((run.place_error for run in used), default=0.0)) > 0:
        notes.append(Note(f"Scores depend on a mask's place in its batch by up to {worst:.2g} of the largest score on "
                          "a machine behind these records."))  # fmt: skip
    if "seconds" in table.metrics:
        devices = sorted({device for run in used for device in run.devices})
        notes.append(Note(f"Seconds measured on: {', '.join(devices) or 'unknown'}."))
    return notes


def _of_columns(table: Table, shown: Shown) -> list[Note]:
    """What single columns lack, and how far their seeds lie apart."""
    notes = []
    for (model, column), group in shown.items():
        who = f"{_label(model)}, {column.label}"
        cells = {metric: table.cell(model, metric, column) for metric in table.metrics}
        failed = pd.concat([run.failed for run in group])
        if len(failed):
            reason = without_folders(failed["reason"].iloc[0])
            notes.append(Note(f"{who}: {len(failed)} FAILED, not in the means; the first: {reason}.", urgent=True))
        for kind, words in (("undefined", "values set by definition"), ("missing", "values MISSING, not in the means")):
            counted = [f"{metric} {cell[kind]}" for metric, cell in cells.items() if cell[kind]]
            if counted:
                notes.append(Note(f"{who}: {words}: {', '.join(counted)}.", urgent=kind == "missing"))
        for remark, count in Counter(remark for run in group for remark in _remarks(run)).items():
            maps = sum(len(run.ok) for run in group)
            notes.append(Note(f"{who}: {count} of {maps} maps: {REMARKS[remark]}."))
        if len(group) > 1:
            spread = [f"{metric} {cell['seed s.d.']:.2f}" for metric, cell in cells.items()]
            notes.append(Note(f"{who}: mean of {len(group)} seeds; s.d. across seeds: {', '.join(spread)}."))
    return notes


def _shared_by_columns(shown: Shown) -> list[Note]:
    """What several columns of a network have in common, said once."""
    shared: dict[tuple[str, Note], list[str]] = {}
    for (model, column), group in shown.items():
        expected = max(run.identity["expected_pairs"] for run in group)
        short = {int(run.identity.get("seed") or 0): len(run.ok) for run in group if len(run.ok) != expected}
        done = ", ".join((f"seed {s}: " if len(group) > 1 else "") + f"{n} of {expected}" for s, n in short.items())
        reduced = [budget for budget in budgets_of(group, column) if not budget.full]
        for note in (
            *(Note(f"budget: {budget}", urgent=True, about_budget=True) for budget in reduced),
            *(Note(f"data: {gap}", urgent=True) for gap in _data_gaps(group)),
            *(Note(doubt, urgent=True) for doubt in dict.fromkeys(doubt for run in group for doubt in run.doubts)),
            *([Note(f"pairs with a result: {done}")] if short else []),
        ):
            shared.setdefault((model, note), []).append(column.label)
    notes = []
    for (model, note), labels in shared.items():
        everyone = len(labels) == sum(m == model for m, _ in shown)
        whose = "every column" if everyone else ", ".join(labels)
        notes.append(replace(note, text=f"{_label(model)}, {whose}: {note.text}."))
    return notes


def _remarks(run: Run) -> list[Remark]:
    """What the explainer found that its maps need to have said, once per map."""
    if "remarks" not in run.ok:
        return []
    return [remark for remarks in run.ok["remarks"] if isinstance(remarks, list) for remark in remarks]


def _unequal_pairs(model: str, groups: Mapping[Column, Sequence[Run]]) -> list[Note]:
    """Names the columns that lack pairs others have: their means are not of the same pairs."""
    pairs: dict[Column, set] = {column: set() for column in groups}
    for column, group in groups.items():
        for run in group:
            pairs[column] |= set(zip(run.ok["image_id"], run.ok["target"], strict=True))
    everything = set().union(*pairs.values())
    lacking = [f"{c.label} lacks {len(everything - have)}" for c, have in pairs.items() if have != everything]
    if not lacking:
        return []
    compared = {frozenset(have) for c, have in pairs.items() if have and not c.control}
    places = ", so there are no places" if len(compared) > 1 else ""
    return [Note(f"WARNING, {_label(model)}: columns cover different pairs and compare only roughly{places}. "
                 f"Of {len(everything)}: {', '.join(lacking)}.", urgent=True)]  # fmt: skip


def _arithmetic(table: Table, model: str, groups: Mapping[Column, Sequence[Run]]) -> list[Note]:
    """PROTOCOL T1 to T5, each column against the masks of its own pairs."""
    found = []
    for column, group in groups.items():
        row = pd.DataFrame({m: [table.cell(model, m, column)["mean"]] for m in table.metrics}, index=[column.label])
        pairs = pd.concat([run.ok for run in group]).drop_duplicates(["image_id", "target"])
        masks = pairs["mask_fraction"].dropna().astype(float)
        config = group[0].identity.get("config") or {}
        if (config.get("protocol") or {}).get("confidence") == "logit":  # T1 holds for probabilities only
            row = row.drop(columns="Drop%", errors="ignore")
        found += arithmetic.check(
            row.dropna(axis=1),
            uniform=row.dropna(axis=1) if column.explainer == "uniform" else None,
            above_uniform=table.dataset == "coco2014" and not column.control,
            mask_fractions=masks.tolist(),
            fraction=(config.get("metrics") or {}).get("top_fraction", 0.20),
            tolerance=1e-3,
        )
    if found:
        return [Note(f"ARITHMETIC VIOLATED, {_label(model)}: {sentence}.", urgent=True) for sentence in found]
    good = f"{_label(model)}: no violation of the arithmetic checks (Drop% ≤ 100 − Increase%; where there are masks, "
    good += "mIoU's ceiling; where it was run, the uniform map's EBPG and Bbox; on COCO, EBPG above the uniform map's)."
    return [Note(good)] if groups else []


FULL = 0.95
"""Share of the asked-for pixels from which on two maps are said to keep equally many."""


def _limits_of_data(model: str, groups: Mapping[Column, Sequence[Run]]) -> list[Note]:
    """What bounds or skews a model's rows: mIoU's ceiling, dependent images, maps that keep fewer pixels than asked."""
    notes = []
    for column, group in groups.items():
        settings = group[0].identity.get("config", {}).get("metrics", {})
        kept = pd.concat([run.ok["kept_fraction"] for run in group]).dropna().astype(float)
        asked = float(settings.get("keep_fraction", math.nan))
        if len(kept) and kept.mean() < FULL * asked:
            blank = int((kept == 0).sum())
            none = f"; in {blank} of {len(kept)} maps none: their values are a blank image's" if blank else ""
            notes.append(Note(f"{_label(model)}, {column.label}: Drop% and Increase% keep {100 * kept.mean():.1f} % of "
                              f"the pixels instead of {100 * asked:.0f} %, since values of the map are equal{none}.",
                              urgent=bool(blank)))  # fmt: skip
    runs = [run for group in groups.values() for run in group]
    if not runs:
        return notes
    pairs = pd.concat([run.ok for run in runs]).drop_duplicates(["image_id", "target"])
    masks = pairs["mask_fraction"].dropna().astype(float)
    fraction = runs[0].identity.get("config", {}).get("metrics", {}).get("top_fraction")
    if "mIoU" in pairs and len(masks) and fraction is not None:
        ceiling = arithmetic.miou_ceiling(masks.tolist(), fraction=fraction)
        notes.append(Note(f"{_label(model)}: no map can have a larger mIoU than {ceiling:.2f} on these masks."))
    if clusters := set(clusters_of(runs).values()):
        notes.append(Note(f"{_label(model)}: images of one cluster (tiles of a slide) are no independent samples: "
                          f"standard errors are of {len(clusters)} clusters, not of "
                          f"{pairs['image_id'].nunique()} images."))  # fmt: skip
    return notes


def _protocol(run: Run) -> str:
    """What a variant means: its protocol's own description, else its settings; and where it departs from it."""
    settings = (run.identity.get("config") or {}).get("protocol") or {}
    words = settings.get("description") or ", ".join(f"{key} = {value}" for key, value in settings.items())
    departs = f"; departs from it: {', '.join(map(str, run.departures))}" if run.departures else ""
    return f"protocol {run.identity['protocol']}" + (f" ({words.strip().rstrip('.')})" if words else "") + departs


def _weights(run: Run) -> str:
    note = (run.identity.get("model_note") or "").strip().rstrip(".")
    kind = "the published checkpoint" if run.identity["weights_official"] else "NOT the published checkpoint"
    return f"weights {str(run.identity['weights_hash'])[:12]}, {kind}" + (f"; {note}" if note else "")


def _metrics_of(runs: Sequence[Run]) -> list[str]:
    """The metrics that have records, in the papers' order, others after them, then seconds."""
    keys = [key for run in runs for key in run.ok.dropna(axis=1, how="all").columns]
    others = sorted({key for key in keys if key not in (*METRICS, *COSTS, *NOT_METRICS)})
    return [key for key in (*METRICS, *others, "seconds", "forward_passes") if key in keys]


def _label(name: str) -> str:
    return LABELS.get(name, name)


# writing ----------------------------------------------------------------------------------------------------------


def number(value: float, metric: str) -> str:
    """A number as the papers print it: 2 decimals; 3 below one second; – for none."""
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if metric == "seconds" and value < 1 else f"{value:.2f}"


def signed(value: float) -> str:
    """A difference with its sign and 2 decimals; 0.00 has none."""
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else text


def to_csv(table: Table) -> str:
    """The long form, at full precision, one line per (model, metric, method)."""
    return table.cells.drop(columns="pairs").to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """The paper's layout: rows are model × metric, columns are methods."""

    def show(cell: pd.Series) -> str:
        mean = number(cell["mean"], cell["metric"])
        mean = {"best": f"**{mean}**", "second": f"<u>{mean}</u>"}.get(cell["place"], mean)
        return mean + _beside(cell)

    lines = [["Model", "Metric", *(c.label for c in table.columns)], ["---", "---", *["--:"] * len(table.columns)]]
    lines += _rows(table, show)
    text = "\n".join("| " + " | ".join(word.replace("|", "\\|") for word in line) + " |" for line in lines)
    notes = "\n".join("- " + _one_line(note.text).replace("<", "&lt;") for note in table.notes)
    return f"# {table.title}\n\n{text}\n\n{notes}\n- {table.made_by}\n"


def to_latex(table: Table) -> str:
    r"""A ``table*`` to ``\input``; needs ``booktabs`` and ``graphicx``."""

    def show(cell: pd.Series) -> str:
        mean = tex(number(cell["mean"], cell["metric"]))
        mean = {"best": rf"\textbf{{{mean}}}", "second": rf"\underline{{{mean}}}"}.get(cell["place"], mean)
        return mean + tex(_beside(cell))

    body: list[str] = []
    for line in _rows(table, show):
        if line[0] and body:
            body.append(r"\midrule")
        body.append(" & ".join([tex(line[0]), tex(line[1]), *line[2:]]) + r" \\")
    return "\n".join([
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{tex(table.title)}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["Model", "Metric", *(tex(c.label) for c in table.columns)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\footnotesize\raggedright",
        *(tex(_one_line(text)) + r"\par" for text in (*(note.text for note in table.notes), table.made_by)),
        r"\end{table*}",
        "",
    ])  # fmt: skip


def to_text(table: Table) -> str:
    """For a terminal: methods down, metrics across; * marks the best."""
    blocks = [table.title]
    for model in table.models:
        rows = {c.label: [*(_starred(table.cell(model, m, c)) for m in table.metrics), table.pairs(model, c)]
                for c in table.columns}  # fmt: skip
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=[*map(_label, table.metrics), "n"])
        blocks.append(f"{_label(model)} on {table.dataset}\n{frame.to_string()}")
    return "\n\n".join([*blocks, "\n".join(f"- {_one_line(note.text)}" for note in table.notes if note.urgent)])


def _rows(table: Table, show: Any) -> list[list[str]]:
    """Label and cells of every row; a model is named in its first row, its numbers of pairs stand in its last."""
    rows = []
    for model in table.models:
        for i, metric in enumerate(table.metrics):
            cells = [show(table.cell(model, metric, column)) for column in table.columns]
            rows.append(["" if i else _label(model), _label(metric), *cells])
        rows.append(["", "n", *(table.pairs(model, column) for column in table.columns)])
    return rows


def _beside(cell: pd.Series) -> str:
    """`` ± standard error [published mark]``, as far as there are any."""
    text = "" if math.isnan(cell["standard error"]) else f" ± {number(cell['standard error'], cell['metric'])}"
    if not math.isnan(cell["published"]):
        text += f" [{number(cell['published'], cell['metric'])} {STATUS[cell['status']][0]}".rstrip() + "]"
    return text


def _starred(cell: pd.Series) -> str:
    return number(cell["mean"], cell["metric"]) + ("*" if cell["place"] == "best" else " ")


def _one_line(text: str) -> str:
    return " ".join(text.split())


_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"$\sim$", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "[": "{[}", "]": "{]}", "|": r"$|$",
    "–": "--", "—": "---", "±": r"$\pm$", "≠": r"$\neq$", "°": r"$^\circ$", "−": "$-$", "×": r"$\times$",
    "≤": r"$\leq$", "≥": r"$\geq$", "√": r"$\surd$", "μ": r"$\mu$", "σ": r"$\sigma$", "α": r"$\alpha$",
    "β": r"$\beta$", "τ": r"$\tau$", "Ψ": r"$\Psi$", "Σ": r"$\Sigma$", "∩": r"$\cap$", "·": r"$\cdot$",
    "→": r"$\to$", "…": r"\dots{}", "“": "``", "”": "''", "’": "'", "‘": "`",
    "`": r"\textasciigrave{}",
}  # fmt: skip


def tex(text: str) -> str:
    """Text as LaTeX prints it letter by letter; brackets in braces, since ``\\\\ [`` would read as a length."""
    return "".join(_TEX.get(letter, letter) for letter in text)


# the command ------------------------------------------------------------------------------------------------------

Writer = Callable[[Table, Mapping[str, Any], Sequence[Run], ResultFolder], list[Path]]
"""``(table, its definition, all runs, results folder) -> files written``."""


def tabulate(
    definitions: Mapping[str, Mapping[str, Any]],
    *,
    outputs: str | Path,
    results: str | Path,
    published: str | Path,
    table: str | None = None,
    dataset: str | None = None,
    controls: Iterable[str] = (),
    shipped: Shipped = lambda definition, model: {},
    spreads: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    writers: Sequence[Writer] = (),
    overwrite: bool = False,
    say: Any = print,
) -> list[Path]:
    """Makes every table that has records, or ``table`` only, and writes and prints it.

    A dataset and model that no other definition covers go into ``default``. A table does not take the place of one of
    more pairs, unless ``overwrite`` says so.

    Args:
        definitions: By name, from ``configs/table/``.
        outputs: Folder of the run folders.
        results: Folder for the tables.
        published: The papers' numbers, a CSV.
        table: Name of a definition; ``None`` = all.
        dataset: Only this one; ``None`` = each that has records.
        controls: Names of the explainers that are controls.
        shipped, spreads: See :func:`build`.
        writers: Write further files about each table; a definition with a ``layout`` of its own is theirs alone.
        overwrite: Replace tables of more pairs, and delete what a former table had beside it.
        say: Takes the readable table.

    Returns:
        The files written.

    Raises:
        SuiteError: If there are no records to make a table of.
    """
    runs = find_runs(outputs)
    found = sorted({(run.identity["dataset"], run.identity["model"]) for run in runs})
    plan = _plan(definitions, found, table, dataset, runs)
    if not plan:
        have = ", ".join(f"{d}/{m}" for d, m in found) or "nothing"
        wanted = " ".join(filter(None, [table and f"table={table}", dataset and f"dataset={dataset}"])) or "any table"
        raise SuiteError(f"no records for {wanted} below {outputs} (found: {have}); make some with scripts/evaluate.py")
    numbers = read_published(published)
    folder, files = ResultFolder(Path(results), overwrite, say), []
    for definition, where in plan:
        others = [d for d in definitions.values() if d["name"] != definition["name"]]
        elsewhere = {(c["explainer"], c["variant"]) for d in others for c in d.get("columns") or ()}
        made = build(
            definition, where, runs, numbers, controls=controls, elsewhere=elsewhere, shipped=shipped, spreads=spreads
        )
        if not definition.get("layout"):
            say(to_text(made))
            texts = {"csv": to_csv(made), "md": to_markdown(made), "tex": to_latex(made)}
            written = folder.write({f"{made.name}.{suffix}": text for suffix, text in texts.items()})
            files += written
            if written:
                say(f"-> {Path(results) / made.name}.{{csv,md,tex}}\n")
        for writer in writers if made.average == "pair" else ():  # their tests are of means over pairs
            files += writer(made, definition, runs, folder)
    return files


def _key(run: Run) -> tuple[str, str]:
    return run.identity["explainer"], run.variant


def _plan(
    definitions: Mapping[str, Mapping[str, Any]],
    found: Sequence[tuple[str, str]],
    table: str | None,
    dataset: str | None,
    runs: Sequence[Run] = (),
) -> list[tuple[Mapping[str, Any], str]]:
    """Which (definition, dataset) to make, given the (dataset, model) found.

    A definition with a ``reference`` compares things with it, and is made once one of these was run. What it shows is
    still another definition's to show, unless it names its datasets.
    """
    if table is not None:
        choose("table", table, list(definitions))
    left = set(found)
    plan = []
    for name, definition in definitions.items():
        models, datasets = definition.get("models"), definition.get("datasets")
        if name == "default":
            continue
        hits = {
            (d, m)
            for d, m in found
            if (models is None or m in models)
            and (datasets is None or d in datasets or (table == name and d == dataset))
        }
        if definition.get("reference"):
            wanted = {(c["explainer"], c["variant"]) for c in definition["columns"]}
            wanted.discard((definition["reference"]["explainer"], definition["reference"]["variant"]))
            hits &= {(run.identity["dataset"], run.identity["model"]) for run in runs if _key(run) in wanted}
        if datasets or not definition.get("reference"):
            left -= hits
        if table in (None, name):
            plan += [(definition, d) for d in sorted({d for d, _ in hits})]
    if "default" in definitions and table in (None, "default"):
        for d in sorted({d for d, _ in left}):
            plan.append(({**definitions["default"], "models": sorted(m for where, m in left if where == d)}, d))
    return [(definition, d) for definition, d in plan if dataset in (None, d)]

"""A cell's mean, its error, and what it says about the published number."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sise.benchmark.datasets.pointing_subsets import split
from sise.benchmark.records.departures import Budget, Departure
from sise.benchmark.records.store import pairs_of
from sise.benchmark.tables.runs import _distinct, clusters_of, pair_values, places_of, run_values
from sise.benchmark.tables.statistics import averaged
from sise.benchmark.tables.table import Column, Run
from sise.benchmark.tables.words import CLOSE, LOWER_IS_BETTER, OWN, ROUNDING, number

__all__ = ["status"]


def measure(runs: Sequence[Run], metric: str, average: str = "pair") -> dict[str, Any]:
    """What the runs of one column (its seeds) say about one metric: scaled for tables.

    Args:
        runs: Of the seeds.
        metric: Its name in the records, and maybe a subset, see :func:`sise.benchmark.datasets.pointing_subsets.split`.
        average: What counts alike in the mean, see :func:`sise.benchmark.tables.statistics.averaged`.

    Returns:
        ``mean``, ``standard error`` and ``n``, over pairs with a value; ``pairs`` with a record that is ok;
        ``missing``, ``undefined`` and ``failed`` records; ``seeds`` and ``seed s.d.``, of the seeds' means.
    """
    if not runs:
        counts = dict.fromkeys(("n", "pairs", "missing", "undefined", "failed", "seeds"), 0)
        return counts | dict.fromkeys(("mean", "standard error", "seed s.d."), math.nan)
    name, subset = split(metric)
    per_run = [(run, run_values(run, metric)) for run in runs]
    per_pair = pair_values(runs, metric)
    per_seed = pd.Series(dtype=float)
    if len(runs) > 1:
        of_runs = [pd.DataFrame({"seed": run.identity.get("seed"), "value": v.to_numpy()}) for run, v in per_run]
        per_seed = pd.concat(of_runs).groupby("seed", dropna=False)["value"].mean().dropna()
    mean, standard_error = averaged(per_pair, average, clusters_of(runs))
    return {
        "mean": mean,
        "standard error": standard_error,
        "n": len(per_pair),
        "pairs": len(_pairs_in(subset, per_run)),
        "missing": sum(int(values.isna().sum()) for _, values in per_run),
        "undefined": sum(_set_by_definition(run, name, subset) for run in runs),
        "failed": sum(run.records.facts.failed for run in runs),
        "seeds": len({run.identity.get("seed") for run in runs}),
        "seed s.d.": per_seed.std(ddof=1) if len(per_seed) > 1 else math.nan,
    }


def _pairs_in(subset: str, per_run: Sequence[tuple[Run, pd.Series]]) -> pd.MultiIndex:
    """The pairs that have a good record in any run, of a subset alone if one is named."""
    if subset:
        return functools.reduce(pd.MultiIndex.union, [values.index for _, values in per_run])
    return pairs_of(run.records for run, _ in per_run)


def _set_by_definition(run: Run, name: str, subset: str) -> int:
    """How many records of a run, or of a subset of its pairs, have a value of a metric that was set by definition."""
    places = np.unique(run.records.listed("undefined").get(name, np.array([], dtype=np.int64)))
    return len(np.intersect1d(places, places_of(run, subset)) if subset else places)


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
        spread: What the method's own rounding makes of one pair from machine to machine, a standard deviation.
    """
    of_rounding = 2 * spread / math.sqrt(cell["n"]) if cell["n"] else 0.0
    of_seeds = 0.0 if math.isnan(cell["seed s.d."]) else 2 * cell["seed s.d."] / math.sqrt(cell["seeds"])
    return max(ROUNDING, of_seeds, of_rounding)


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


def first_of_its_method(column: Column, columns: Sequence[Column], taken: set[str]) -> bool:
    """Whether a column takes part in the ranking: of SISE's and Ada-SISE's variants the first alone, of those that the
    paper has if it has any. ``taken`` keeps whose place is given away."""
    method = column.method or OWN.get(column.explainer) or f"{column.explainer}/{column.variant}"
    beside = column.explainer in OWN and not column.method and any(c.method and c.explainer in OWN for c in columns)
    first = not beside and method not in taken
    if first:
        taken.add(method)
    return first


def limits_of(group: Sequence[Run], budgets: Sequence[Budget], changed: Sequence[Departure]) -> str:
    """In words: what keeps a cell from being the paper's."""
    stated = changed or _distinct(departure for run in group for departure in run.departures)
    words = [f"departs: {', '.join(map(str, stated))}"] if stated else []
    return "; ".join([*words, *map(str, budgets), *data_gaps(group)])


def unexplained(run: Run) -> bool:
    """No command is known, or it asked for fewer images: of commands with the same settings only the first is kept."""
    return all(limit is not None and limit < run.records.facts.images for limit in run.limits)


def data_gaps(runs: Sequence[Run]) -> list[str]:
    """In words: what the data behind some runs lack."""
    words: dict[str, None] = {}
    for run in runs:
        if left_out := run.identity["left_out"]:
            missing = ", ".join(left_out["classes"])
            words[f"{left_out['pairs']} pairs left out, the network has no such class: {missing}"] = None
        if run.identity["dataset_note"]:
            words[run.identity["dataset_note"]] = None
    return list(words)

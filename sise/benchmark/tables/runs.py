"""Run folders read, and the values of their pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sise.benchmark import invocation
from sise.benchmark.datasets.pointing_subsets import split
from sise.benchmark.metric_facts import COSTS, scale
from sise.benchmark.records.code_version import doubts, other_code
from sise.benchmark.records.departures import Departure, identity_of
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.image_hashes import replaced_when_last_seen
from sise.benchmark.records.store import read
from sise.benchmark.tables.table import Column, Run
from sise.benchmark.tables.words import METRICS, NOT_METRICS
from sise.errors import SuiteError

__all__ = ["find_runs"]

# a setting whose value is a path
PLACE = re.compile(r"^([\w.+~]*\broot|(?!shard\b|only\b)[\w.+~]+(?==.*(?:/|\.\.\.)))=.*")


# reading ----------------------------------------------------------------------------------------------------------
def find_runs(outputs: str | Path) -> list[Run]:
    """Every run folder below ``outputs``, however deep.

    Raises:
        SuiteError: If two folders hold the same run: their pairs would count twice.
    """
    runs: dict[tuple, Run] = {}
    for file in sorted(Path(outputs).rglob("run.json")):
        folder = RunFolder(file.parent)
        identity, records = identity_of(folder), read(folder)
        sessions = folder.environments()
        devices = tuple(sorted({session.get("device", "unknown") for session in sessions}))
        named = {session for session, _, _ in records.facts.sessions}
        behind = [session for session in sessions if session.get("session") in named] or sessions
        told = [session for session in behind if session.get("command")]
        commands = tuple((str(session.get("time", "")), session["command"]) for session in told)
        limits = tuple(session.get("limit") for session in told)
        good = records.facts.good_sessions
        changed = tuple(sorted({name for names in other_code(folder, good) for name in names}))
        place_error = max((float(session.get("place_error") or 0.0) for session in behind), default=0.0)
        drift = max((float(session.get("drift") or 0.0) for session in behind), default=0.0)
        replaced = replaced_when_last_seen(records.images_made_of, file.parent, identity["dataset"])
        known = doubts(folder, good)
        known += [f"{replaced} records are of images that were REPLACED under their names since"] if replaced else []
        commits = tuple(dict.fromkeys(commit for session in behind if (commit := commit_of(session))))
        machines = place_error, drift, commits
        run = Run(file.parent, identity, records, devices, tuple(known), commands, limits, changed, replaced, *machines)
        what = (identity["dataset"], identity["model"], identity["explainer"], run.variant, identity.get("seed"))
        if what in runs:
            raise SuiteError(
                f"{runs[what].path} and {run.path} hold the same run, {' / '.join(map(str, what))}: move one of them "
                f"out of {outputs}"
            )
        runs[what] = run
    return list(runs.values())


def commit_of(session: Mapping[str, Any]) -> str:
    """The code that a session ran: its commit's short hash, with a + if files had changed since; empty if unknown."""
    return session["commit"][:9] + "+" * bool(session.get("dirty")) if session.get("commit") else ""


def commands_of(runs: Iterable[Run]) -> list[str]:
    """The distinct commands that made the runs' records, oldest first, without where the data and the records lie."""
    told = sorted({entry for run in runs for entry in run.commands})
    return list(dict.fromkeys(invocation.retyped(_placeless(command)) for _, command in told))


def _placeless(command: str) -> str:
    words = [w for w in command.replace("`", "'").split() if not w.startswith(("outputs=", "results=", "overwrite="))]
    return " ".join(PLACE.sub(r"\1=<folder>", word) for word in words)


def pair_values(runs: Sequence[Run], metric: str) -> pd.Series:
    """One value per (image_id, target) that has any, the mean of its seeds: scaled for tables."""
    values = [run_values(run, metric) for run in runs if split(metric)[0] in run.records.facts.keys]
    if not values:
        return pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["image_id", "target"]))
    if len(values) == 1:  # a run has one record of a pair
        return values[0].dropna()
    return pd.concat(values).groupby(level=[0, 1]).mean().dropna()


def run_values(run: Run, metric: str) -> pd.Series:
    """A metric in each good record of a run, NaN where it has none: scaled for tables.

    Args:
        run: The run.
        metric: Its name in the records; of the pairs of a subset alone if it ends with one, see
            :func:`sise.benchmark.datasets.pointing_subsets.split`.
    """
    name, subset = split(metric)
    values = run.records.numbers(name) * scale(name)
    return values.iloc[places_of(run, subset)] if subset else values


def places_of(run: Run, subset: str) -> np.ndarray:
    """Positions of a subset's pairs among the good records of a run."""
    return np.unique(run.records.listed("subsets").get(subset, np.array([], dtype=np.int64)))


def first_values(runs: Iterable[Run], key: str) -> pd.Series:
    """A key's value of each pair, as the first of the runs that have the pair says."""
    first: dict[int, Run] = {}
    for run in runs:
        first.setdefault(id(run.records.pairs), run)
    found = [run.records.column(key) for run in first.values()]
    if len(found) == 1:
        return found[0]
    values = pd.concat(found)
    return values[~values.index.duplicated()]


def clusters_of(runs: Sequence[Run]) -> dict[str, str]:
    """The cluster of each image that its dataset names one for."""
    found: dict[str, str] = {}
    for run in runs:
        if "cluster" in run.records.facts.filled:
            named = run.records.column("cluster").dropna()
            found |= dict(zip(named.index.get_level_values(0), named, strict=True))
    return found


def runs_of(runs: Sequence[Run], model: str, column: Column) -> list[Run]:
    """The runs behind a column in the rows of a model: one per seed."""
    wanted = (column.model or model, column.explainer, column.variant)
    return [run for run in runs if (run.identity["model"], run.identity["explainer"], run.variant) == wanted]


def _distinct(found: Iterable[Departure]) -> list[Departure]:
    """Each one once; the values of some settings are lists, which no set takes."""
    kept: list[Departure] = []
    for departure in found:
        if departure not in kept:
            kept.append(departure)
    return kept


def metrics_of(runs: Sequence[Run]) -> list[str]:
    """The metrics that have records, in the papers' order, others after them, then seconds."""
    keys = {key for run in runs for key in run.records.facts.filled}
    others = sorted({key for key in keys if key not in (*METRICS, *COSTS, *NOT_METRICS)})
    return [key for key in (*METRICS, *others, "seconds", "forward_passes") if key in keys]


def method_of(run: Run) -> tuple[str, str]:
    return run.identity["explainer"], run.variant

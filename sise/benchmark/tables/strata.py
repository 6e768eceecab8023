"""A table's metrics apart for pairs of one kind: sure or not, small or large, alone or among others.

A mean over all pairs hides what it is made of. On real images more than half of the pairs may be of classes that the
network does not see, and a blank image "increases" their confidence. Nothing is run for it: records say what a pair is
(:mod:`sise.benchmark.run.pair_facts`). ``make_tables.py strata=true`` asks for it, or ``strata: true`` in a table's
definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sise.benchmark.markdown import markdown_table
from sise.benchmark.metric_facts import COSTS
from sise.benchmark.records.files import csv_text
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import clusters_of, first_values, pair_values, runs_of
from sise.benchmark.tables.statistics import averaged
from sise.benchmark.tables.table import Run, Table
from sise.benchmark.tables.words import LABELS, number

__all__ = ["STRATA", "Stratum", "stratify", "to_markdown", "write"]


@dataclass(frozen=True)
class Stratum:
    """One way to part pairs.

    Attributes:
        label: Of the part that a record belongs to is ``names[i]``.
        needs: Keys of the records that it reads.
        part: Good records (n rows with these keys) -> (n,) index of each one's part.
        names: Of the parts, in the order they are shown.
    """

    label: str
    needs: tuple[str, ...]
    part: Callable[[pd.DataFrame], pd.Series]
    names: tuple[str, ...]


def _at_most(key: str, *bounds: float) -> Callable[[pd.DataFrame], pd.Series]:
    """Parts by the first bound that a value does not exceed."""
    edges = [-float("inf"), *bounds, float("inf")]
    return lambda records: pd.cut(records[key].astype(float), edges, labels=False)


STRATA = {
    "confidence": Stratum(
        "the class among the network's",
        ("confidence_rank", "classes_in_image"),
        lambda records: (records["confidence_rank"] > records["classes_in_image"]).astype(int),
        ("k likeliest, of k classes in the image", "others"),
    ),
    "area": Stratum(
        "the object's share of the image",
        ("mask_fraction",),
        _at_most("mask_fraction", 0.05, 0.15, 0.35),
        ("up to 5 %", "5 to 15 %", "15 to 35 %", "more than 35 %"),
    ),
    "classes": Stratum(
        "classes in the image", ("classes_in_image",), _at_most("classes_in_image", 1, 2), ("1", "2", "3 or more")
    ),
    "regions": Stratum(
        "separate regions of the class", ("regions",), _at_most("regions", 1, 2), ("1", "2", "3 or more")
    ),
    "difficult": Stratum(
        "marked difficult", ("difficult",), lambda records: records["difficult"].astype(bool).astype(int), ("no", "yes")
    ),
}
"""By name. Bounds belong to the part below them."""


def stratify(table: Table, runs: Sequence[Run]) -> pd.DataFrame:
    """Each metric of each method in each stratum.

    Args:
        table: From :func:`sise.benchmark.tables.build.build`.
        runs: All runs.

    Returns:
        One row per (model, metric, stratum, part, method) with pairs in it: ``mean`` and ``standard error`` as in the
        table, ``n`` pairs. Pairs whose records do not say what a stratum reads are not in it. Costs are left out.
    """
    runs = [run for run in runs if run.identity["dataset"] == table.dataset]
    rows = []
    for model in table.models:
        for column in table.columns:
            group = runs_of(runs, model, column)
            parts = {name: _parts(group, stratum) for name, stratum in STRATA.items()} if group else {}
            for metric in (m for m in table.metrics if m not in COSTS):
                values = pair_values(group, metric) if group else pd.Series(dtype=float)
                for name, part in parts.items():
                    for index in sorted(part.unique()):
                        inside = values[values.index.isin(part.index[part == index])]
                        mean, error = averaged(inside, table.average, clusters_of(group))
                        row = {"dataset": table.dataset, "model": model, "metric": metric, "stratum": name,
                               "part": STRATA[name].names[int(index)], "method": column.label,
                               "explainer": column.explainer, "variant": column.variant, "mean": mean,
                               "standard error": error, "n": len(inside)}  # fmt: skip
                        rows += [row] if len(inside) else []
    names = ["dataset", "model", "metric", "stratum", "part", "method", "explainer", "variant", "mean",
             "standard error", "n"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def _parts(runs: Sequence[Run], stratum: Stratum) -> pd.Series:
    """The part of each (image_id, target) whose records say it."""
    records = pd.DataFrame({key: first_values(runs, key) for key in stratum.needs}).dropna()
    return stratum.part(records).astype(int)


def to_markdown(table: Table, found: pd.DataFrame) -> str:
    """One block per model and metric: parts down, methods across."""
    parts = [f"# {table.title}: strata"]
    methods = [column.label for column in table.columns if column.label in set(found["method"])]
    for (model, metric), rows in found.groupby(["model", "metric"], sort=False):
        lines = [["Stratum", "Part", "pairs", *methods]]
        for name, stratum in STRATA.items():
            for part in stratum.names:
                cells = rows[(rows["stratum"] == name) & (rows["part"] == part)].set_index("method")
                if len(cells):
                    means = [number(cells["mean"].get(method, float("nan")), metric) for method in methods]
                    lines.append([stratum.label, part, str(cells["n"].max()), *means])
        parts += [f"## {LABELS.get(model, model)}, {LABELS.get(metric, metric)}", markdown_table(lines, "ll")]
    notes = [
        "Means over the pairs of each part, as in the table; standard errors are in the CSV. A part of few pairs says "
        "little. Pairs: the most that a method has.",
        replace(table, commands=(*table.commands[:-1], f"{table.commands[-1]} strata=true")).made_by,
    ]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def write(table: Table, definition: Mapping[str, Any], runs: Sequence[Run], results: ResultFolder) -> list[Path]:
    """A writer for :func:`sise.benchmark.tables.make.tabulate`: of tables whose definition says ``strata: true``."""
    found = stratify(table, runs) if definition.get("strata") else pd.DataFrame()
    if found.empty:
        return []
    text = csv_text(found)
    stem = f"{table.name}_strata"
    return results.write({f"{stem}.csv": text, f"{stem}.md": to_markdown(table, found)})

"""Each metric over the size of the object: does a method hold what it promises for small objects?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from sise.benchmark.metric_facts import COSTS
from sise.benchmark.records.provenance import provenance
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.strata import STRATA, stratify
from sise.benchmark.tables.table import Column, Run, Table
from sise.benchmark.tables.words import LOWER_IS_BETTER, label_of

__all__ = ["object_sizes", "write"]

matplotlib.use("Agg")  # files only; no display is needed
ACROSS = 3
NAMES_ACROSS = 6
MARKERS = "osD^v"  # another for each round of the ten colours
DASHES = ["--", ":", "-.", (0, (1, 3)), (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1))]


def object_sizes(table: Table, found: pd.DataFrame, model: str) -> Figure:
    """One panel per metric: its mean with standard error for small to large objects, a line per method.

    Args:
        table: Gives the methods and metrics; controls are grey and dashed.
        found: From :func:`sise.benchmark.tables.strata.stratify`.
        model: Whose rows.
    """
    rows = found[(found["stratum"] == "area") & (found["model"] == model)]
    parts = [part for part in STRATA["area"].names if part in set(rows["part"])]
    metrics = [metric for metric in table.metrics if metric not in COSTS and metric in set(rows["metric"])]
    looks = _looks(table.columns)
    down, names = math.ceil(len(metrics) / ACROSS), math.ceil(len(table.columns) / NAMES_ACROSS)
    figure = Figure(figsize=(13, 3 * down + 0.25 * names + 0.4), layout="constrained")
    panels = figure.subplots(down, ACROSS, squeeze=False).ravel()
    for axes, metric in zip(panels, metrics, strict=False):
        for column in table.columns:
            line = rows[(rows["metric"] == metric) & (rows["method"] == column.label)].set_index("part").reindex(parts)
            if line["mean"].notna().any():
                axes.errorbar(range(len(parts)), line["mean"], line["standard error"], capsize=2, label=column.label,
                              linewidth=1.2, elinewidth=0.8, **looks[column.label])  # fmt: skip
        axes.set_title(f"{label_of(metric)} {'↓' if metric in LOWER_IS_BETTER else '↑'}", fontsize=10)
        axes.set_xticks(range(len(parts)), parts, fontsize=8)
        axes.grid(alpha=0.3)
    for axes in panels[len(metrics) :]:
        axes.remove()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=NAMES_ACROSS, frameon=False)
    counts = rows.groupby("part")["n"].max()
    figure.suptitle(
        f"{label_of(model)} on {table.dataset}, by the object's share of the image: "
        + ", ".join(f"{part} ({counts[part]} pairs)" for part in parts),
        fontsize=11,
    )
    return figure


def _looks(columns: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """How Matplotlib draws each column's line, by label."""
    dashes, marks = cycle(DASHES), cycle(product(MARKERS, (f"C{number}" for number in range(10))))
    looks: dict[str, dict[str, Any]] = {}
    for column in columns:
        if column.control:
            looks[column.label] = {"color": "0.5", "linestyle": next(dashes), "zorder": 1}
        else:
            marker, colour = next(marks)
            looks[column.label] = {"color": colour, "marker": marker, "markersize": 4, "zorder": 2}
    return looks


def write(table: Table, definition: Mapping[str, Any], runs: Sequence[Run], results: ResultFolder) -> list[Path]:
    """A writer for :func:`sise.benchmark.tables.make.tabulate`: of tables whose definition says ``strata: true``."""
    found = stratify(table, runs) if definition.get("strata") else pd.DataFrame(columns=["stratum"])
    files = []
    for model in table.models:
        rows = found[(found["stratum"] == "area") & (found.get("model") == model)]
        if len(set(rows["part"] if len(rows) else ())) < 2:
            continue
        picture, pairs = f"figures/{table.name}_sizes_{model}.png", int(table.cells["n"].max())
        if not results.may_draw(picture, pairs):
            continue
        mine = [run for run in runs if (run.identity["dataset"], run.identity["model"]) == (table.dataset, model)]
        worth = "shown" if all(run.identity["weights_official"] for run in mine) else "other data"
        note = {"Comment": provenance(worth, made_of=pairs)}
        object_sizes(table, found, model).savefig(results.path / picture, dpi=110, metadata=note)
        files.append(results.path / picture)
    return files

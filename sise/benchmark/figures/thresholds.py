"""Plots of what the tables say: SISE's Fig. 12, the threshold ablation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from sise.benchmark import invocation
from sise.benchmark.records.provenance import provenance
from sise.benchmark.tables.build import build
from sise.benchmark.tables.published import read_published
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import find_runs
from sise.benchmark.tables.table import Table
from sise.benchmark.tables.words import COSTS, LABELS, LOWER_IS_BETTER
from sise.errors import SuiteError

__all__ = ["MEASURED", "PUBLISHED", "plot", "threshold_ablation"]

matplotlib.use("Agg")  # files only; no display is needed
MEASURED, PUBLISHED = "#2166ac", "#b2182b"  # blue and red that the colour-blind can tell apart


def threshold_ablation(table: Table) -> Figure:
    """SISE Fig. 12: each metric over μ, measured with its standard error, and published.

    Args:
        table: SISE Table 6; each of its columns has a ``threshold``.

    Returns:
        A figure with one panel per metric; the published values have an axis of their own in a panel of costs.

    Raises:
        SuiteError: If its columns are no thresholds, or fewer than two were run.
    """
    model = table.models[0]
    thresholds = [column.threshold for column in table.columns]
    if None in thresholds:
        other = table.columns[thresholds.index(None)].label
        raise SuiteError(
            f"expected a table of thresholds, each column with its `threshold:`; got {other!r}; give table=sise_table6"
        )
    of = {metric: pd.DataFrame([table.cell(model, metric, c) for c in table.columns]) for metric in table.metrics}
    if sum(of[table.metrics[0]]["n"] > 0) < 2:
        command = f"{invocation.typed('evaluate')} experiment=sise_table6"
        raise SuiteError(f"fewer than two thresholds have records; run {command}")
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    panels = figure.subplots(2, math.ceil(len(table.metrics) / 2), squeeze=False).ravel()
    for axes, metric in zip(panels, table.metrics, strict=False):
        cells = of[metric]
        axes.errorbar(thresholds, cells["mean"], cells["standard error"], color=MEASURED, marker="o", capsize=3,
                      label="measured ± standard error")  # fmt: skip
        beside = axes.twinx() if metric in COSTS else axes
        beside.plot(thresholds, cells["published"], color=PUBLISHED, marker="s", linestyle="--", label="published")
        if metric in COSTS:
            axes.set_ylim(bottom=0)
            beside.set_ylim(bottom=0)
            beside.tick_params(axis="y", colors=PUBLISHED)
            axes.tick_params(axis="y", colors=MEASURED)
        arrow = "↓ lower is better" if metric in LOWER_IS_BETTER else "↑ higher is better"
        axes.set_title(f"{LABELS.get(metric, metric)}  {arrow}", fontsize=10)
        axes.set_xlabel("threshold μ")
        axes.set_xticks(thresholds)
        axes.grid(alpha=0.3)
    for axes in panels[len(table.metrics) :]:
        axes.remove()
    lines = [panels[0].get_legend_handles_labels()]
    figure.legend(*lines[0], loc="outside lower center", ncols=2, frameon=False)
    pairs = " / ".join(str(n) for n in of[table.metrics[0]]["pairs"])
    home = "published on voc2007 with other weights" if table.dataset != "voc2007" else "published beside"
    figure.suptitle(
        f"SISE, Fig. 12: the threshold μ, {LABELS.get(model, model)} on {table.dataset} ({pairs} pairs; {home})",
        fontsize=11,
    )
    return figure


def plot(
    definition: Mapping[str, Any],
    *,
    outputs: str | Path,
    results: str | Path,
    published: str | Path,
    dataset: str | None = None,
    draw: Callable[[Table], Figure] = threshold_ablation,
    stem: str = "sise_fig12",
    overwrite: bool = False,
) -> list[Path]:
    """Draws a table's plot for every dataset that has records of it.

    Args:
        definition: Of the table, as in ``configs/table/``.
        outputs, published: As in :func:`sise.benchmark.tables.make.tabulate`.
        results: Figures go to its folder ``figures``.
        dataset: Only this one; None for each.
        draw: Makes the figure of the table.
        stem: First part of the file's name.
        overwrite: Replace pictures of more pairs.

    Returns:
        The files written.
    """
    runs = find_runs(outputs)
    keys = {(c["explainer"], c["variant"]) for c in definition["columns"]}
    datasets: Sequence[str] = sorted({
        run.identity["dataset"] for run in runs
        if (run.identity["explainer"], run.variant) in keys and run.identity["model"] in definition["models"]
    })  # fmt: skip
    datasets = [d for d in datasets if dataset in (None, d)]
    if not datasets:
        raise SuiteError(
            f"no records of {definition['name']} below {outputs}; run {invocation.typed('evaluate')} "
            f"experiment={definition['name']}" + (f" dataset={dataset}" if dataset else "")
        )
    folder, files = ResultFolder(Path(results), overwrite), []
    for name in datasets:
        table = build(definition, name, runs, read_published(published))
        picture, pairs = f"figures/{stem}_{name}.png", int(table.cells["n"].max())
        if not folder.may_draw(picture, pairs):
            continue
        files.append(folder.path / picture)
        states = set(table.cells["status"])
        worth = next((state for state in ("other data", "partial") if state in states), "shown")
        draw(table).savefig(files[-1], dpi=130, metadata={"Comment": provenance(worth, made_of=pairs)})
    return files

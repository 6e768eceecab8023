"""What of the metrics agrees on one data set and network: τ between each two, and the explainers' ranks by some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sise.benchmark.records.provenance import provenance
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.words import label_of

__all__ = ["draw", "write"]

matplotlib.use("Agg")  # files only; no display is needed
SHOWN = ("EBPG", "Pixel AUC", "Drop%", "Insertion")
"""Metrics whose ranks are drawn, as many as were measured: two of the annotation, two of the network."""
MOST = 30
"""Metrics in a picture."""


def draw(dataset: str, model: str, taus: pd.DataFrame, ranks: pd.DataFrame) -> Figure:
    """A square per two metrics, the colour their τ; beside it the explainers' ranks with intervals.

    Args:
        dataset, model: Which setting.
        taus: From :func:`sise.benchmark.studies.rank_agreement.pairwise`, of the setting's metrics.
        ranks: From :func:`sise.benchmark.studies.rank_agreement.intervals`, of the setting.
    """
    names = list(dict.fromkeys([*taus["a"], *taus["b"]]))[:MOST]
    square = pd.DataFrame(np.eye(len(names)), names, names)
    for row in taus.to_dict("records"):
        if row["a"] in names and row["b"] in names:
            square.loc[row["a"], row["b"]] = square.loc[row["b"], row["a"]] = row["tau"]
    shown = [metric for metric in SHOWN if metric in set(ranks["metric"])] or list(dict.fromkeys(ranks["metric"]))[:1]
    explainers = len(ranks[ranks["metric"] == shown[0]])
    height = 2.2 + max(0.24 * len(names), 0.22 * explainers)
    figure = Figure(figsize=(3.6 + 0.3 * len(names) + 2.0 * len(shown), height), layout="constrained")
    left, *panels = figure.subplots(1, 1 + len(shown), width_ratios=[1.2 + 0.3 * len(names), *[2.0] * len(shown)])
    drawn = left.imshow(square, vmin=-1, vmax=1, cmap="RdBu")
    left.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.set_title("Kendall's τ between metrics", fontsize=9)
    figure.colorbar(drawn, ax=left, shrink=0.6)
    first = ranks[ranks["metric"] == shown[0]].sort_values("rank", ascending=False)
    methods = list(first["explainer"] + "/" + first["variant"])
    for axes, metric in zip(panels, shown, strict=True):
        mine = ranks[ranks["metric"] == metric]
        mine = mine.set_index(mine["explainer"] + "/" + mine["variant"]).reindex(methods)
        axes.hlines(range(len(methods)), mine["low"], mine["high"], color="0.6", linewidth=3)
        axes.plot(mine["rank"], range(len(methods)), "o", color="#2166ac", markersize=4)
        axes.set_title(label_of(metric), fontsize=9)
        axes.set_yticks(
            range(len(methods)), [m.removesuffix("/paper") for m in methods] if axes is panels[0] else [], fontsize=7
        )
        axes.set_xlabel("rank, 1 = best", fontsize=8)
        axes.grid(alpha=0.3)
    pairs = int(ranks["pairs"].max())
    bars = "bars: 95 % over resampled images" if ranks["low"].notna().any() else "too few images for intervals"
    figure.suptitle(f"{label_of(model)} on {dataset}, {explainers} explainers, {pairs} pairs; {bars}", fontsize=10)
    return figure


def write(
    settings: Mapping[tuple[str, str], object], taus: pd.DataFrame, ranks: pd.DataFrame, results: ResultFolder
) -> list[Path]:
    """``figures/rank_agreement_<dataset>_<model>.png`` of every setting with two metrics."""
    files = []
    for dataset, model in settings:
        mine = taus[(taus["kind"] == "metrics") & (taus["dataset"] == dataset) & (taus["model"] == model)]
        rows = ranks[(ranks["dataset"] == dataset) & (ranks["model"] == model)]
        picture, pairs = f"figures/rank_agreement_{dataset}_{model}.png", int(rows["pairs"].max())
        if not len(mine) or not results.may_draw(picture, pairs):
            continue
        file = results.path / picture
        file.parent.mkdir(parents=True, exist_ok=True)
        note = {"Comment": provenance("other data", made_of=pairs)}  # no paper has such a picture
        draw(dataset, model, mine, rows).savefig(file, dpi=110, metadata=note, bbox_inches="tight")
        files.append(file)
    return files

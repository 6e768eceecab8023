"""What lets a reader see through a table's metrics: how many pixels maps kept, what a map of nothing scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from sise.benchmark.metric_facts import COSTS, listed
from sise.benchmark.tables.table import Column, Note, Run, Table
from sise.benchmark.tables.words import label_of

FULL = 0.95
"""Share of the asked-for pixels from which on two maps are said to keep equally many."""
OF_KEPT_PIXELS = ("Drop%", "Increase%", "Gain")
"""The metrics that show the network a map's most salient pixels alone, at one share of them."""
FEWER = "ᵏ"
"""Marks a cell whose maps keep fewer pixels than it was asked for."""
FLOORS = {
    "uniform": "no pixel of a uniform map is kept, so these are a blank image's; elsewhere chance",
    "smooth_noise": "smooth random maps",
}
"""Controls that know nothing of the network, and what their values are."""


def kept_share(runs: Sequence[Run]) -> float:
    """The mean share of the pixels that the maps of some runs kept; NaN if no record says so."""
    kept = [run.records.numbers("kept_fraction") for run in runs]
    found = pd.concat(kept).dropna() if kept else pd.Series(dtype=float)
    return float(found.mean()) if len(found) else math.nan


def asked_share(runs: Sequence[Run]) -> float:
    """The share that the runs' settings ask for; NaN if they do not say."""
    settings = [(run.identity.get("config") or {}).get("metrics") or {} for run in runs]
    return float(settings[0].get("keep_fraction", math.nan)) if settings else math.nan


def keeps_fewer(runs: Sequence[Run], metric: str) -> bool:
    """Whether a cell compares fewer pixels than its neighbours: by a metric of kept pixels, of which it kept few."""
    return metric in OF_KEPT_PIXELS and kept_share(runs) < FULL * asked_share(runs)


def told_of_kept_pixels(groups: Mapping[Column, Sequence[Run]], metrics: Sequence[str]) -> list[str]:
    """How many pixels each column's maps kept, in a sentence; nothing if the table has no such metric or number."""
    shown = [metric for metric in metrics if metric in OF_KEPT_PIXELS]
    shares = {column: kept_share(runs) for column, runs in groups.items()}
    told = [f"{column.label} {100 * share:.1f} %" for column, share in shares.items() if not math.isnan(share)]
    if not (shown and told):
        return []
    asked = sorted({100 * share for runs in groups.values() if not math.isnan(share := asked_share(runs))})
    text = f"pixels kept, on average, for {listed(shown)}"
    text += f" ({', '.join(f'{share:.0f}' for share in asked)} % asked)" if asked else ""
    text += f": {', '.join(told)}"
    if any(keeps_fewer(runs, shown[0]) for runs in groups.values()):
        text += f"; {FEWER} marks cells of fewer than {100 * FULL:.0f} % of these: they do not compare with the others"
    return [text]


def told_of_floors(means: Mapping[Column, Mapping[str, float]]) -> list[str]:
    """What the controls that know nothing score, or how to run them, in a sentence.

    Args:
        means: By column and metric, NaN for none.
    """
    told = []
    for explainer, meaning in FLOORS.items():
        for column, values in means.items():
            numbers = [f"{metric} {value:.1f}" for metric, value in values.items() if not math.isnan(value)]
            if column.explainer == explainer and numbers:
                told.append(f"{column.label} {', '.join(numbers)} ({meaning})")
    if told:
        return [f"floors, which a map must beat to say anything: {'; '.join(told)}"]
    return [f"no floor was run: explainer={' or explainer='.join(FLOORS)} gives what a map of nothing scores"]


def seen_through(table: Table, model: str, groups: Mapping[Column, Sequence[Run]]) -> list[Note]:
    """Kept pixels and floors of a model that was run, for the table's foot."""
    metrics = [metric for metric in table.metrics if metric not in COSTS]
    means = {c: {m: float(table.cell(model, m, c)["mean"]) for m in metrics} for c in groups}
    told = told_of_kept_pixels(groups, metrics) + told_of_floors(means) if groups else []
    return [Note(f"{label_of(model)}: {text}.") for text in told]

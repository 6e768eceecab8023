"""Audits of open readings, by the tables' numbers: U4 to U7."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sise.benchmark.run import probing
from sise.benchmark.run.cells import Cell
from sise.benchmark.studies.audits.context import Audit, Bench, wide_table
from sise.benchmark.tables import statistics
from sise.benchmark.tables.words import METRICS
from sise.metrics.localization import ebpg
from sise.probe.probe import Probe

#: Extremal Perturbation's areas in TorchRay's own benchmark.
BENCHMARK_AREAS = {"coco2014": (0.018, 0.025, 0.05, 0.1)}
_VOC_AREAS = (0.025, 0.05, 0.1, 0.2)


# --- U4 to U7: what the tables' numbers depend on ---------------------------------------------------------------------
class _Means:
    """Means of metrics over pairs, by row."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], dict[str, list[tuple[str, float]]]] = defaultdict(lambda: defaultdict(list))

    def add(self, key: tuple[str, ...], image_id: str, **values: float | None) -> None:
        """Takes the values of a pair; None: it is left out of that metric's mean."""
        for metric, value in values.items():
            if value is not None:
                self.values[key][metric].append((image_id, 100 * float(value)))

    def tables(
        self, columns: Sequence[str], published: Callable[[tuple[str, ...]], dict[str, float]]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """One row per key and metric (mean, standard error, pairs, published value); and one per key, to be read."""
        rows = []
        for key, metrics in self.values.items():
            known = published(key)
            for metric, values in metrics.items():
                images, numbers = zip(*values, strict=True)
                pairs = pd.Series(numbers, index=images)
                error = statistics.clustered_standard_error(*statistics.per_image(pairs))
                row = {"metric": metric, "mean": round(float(pairs.mean()), 2), "standard error": round(error, 2)}
                row |= {"pairs": len(pairs), "published": known.get(metric, math.nan)}
                rows.append({**dict(zip(columns, key, strict=True)), **row})
        long = pd.DataFrame(rows)
        text = [
            f"{mean:.2f}" + ("" if math.isnan(known) else f" [{known:.2f}]")
            for mean, known in zip(long["mean"], long["published"], strict=True)
        ]
        return long, wide_table(long.assign(text=text), columns, "metric", "text")


def _measures(cell: Cell, probe: Probe, output: int, saliency: Tensor) -> dict[str, float | None]:
    """The five metrics of the tables, for one map."""
    localization, faithfulness = cell.metrics
    mask = probe.ground_truth[output]
    values: dict[str, float | None] = {name: metric(saliency, mask) for name, metric in localization.items()}
    judge = probing.judge_of(cell, probe)
    return values | {name: metric(judge, output, saliency) for name, metric in faithfulness.items()}


def _closest(rows: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> str:
    """The key whose means of these metrics are closest to the published ones."""
    known = rows[rows["metric"].isin(metrics)].dropna(subset=["published"])
    if not len(known):
        return "no published numbers for this dataset"
    off = (known["mean"] - known["published"]).abs().groupby([known[column] for column in by], sort=False).mean()
    each = "; ".join(f"{' / '.join(np.atleast_1d(key))}: {value:.2f}" for key, value in off.items())
    best = " / ".join(np.atleast_1d(off.idxmin()))
    return f"{' and '.join(metrics)}: closest {best} (points off on average: {each})"


def u4(bench: Bench) -> Audit:
    """RISE's EBPG on raw and on min-max maps; Extremal Perturbation with one area and with its benchmark's four."""
    areas = BENCHMARK_AREAS.get(bench.dataset.name, _VOC_AREAS)
    means = _Means()
    for model in bench.cfg.models:
        rise = bench.cell(model, "explainer=rise", "explainer.call.normalise=raw")
        one = bench.cell(model, "explainer=extremal_perturbation")
        several = bench.cell(model, "explainer=extremal_perturbation", "explainer.call.smooth=0.09",
                             f"explainer.call.areas=[{','.join(map(str, areas))}]")  # fmt: skip
        for image_id, [probe], outputs in bench.images(rise):
            for output, saliency in zip(outputs, rise.explainer(probe, outputs), strict=True):
                mask = probe.ground_truth[output]
                means.add((model, "RISE", "raw"), image_id, EBPG=ebpg(saliency, mask, normalise="raw"))
                means.add((model, "RISE", "minmax"), image_id, **_measures(rise, probe, output, saliency))
            for label, cell in (("areas 0.1", one), (f"areas {' '.join(map(str, areas))}", several)):
                for output, saliency in zip(outputs, cell.explainer(probe, outputs), strict=True):
                    means.add(
                        (model, "Extremal Perturbation", label), image_id, **_measures(cell, probe, output, saliency)
                    )
    rows, shown = means.tables(("model", "explainer", "setting"), lambda key: bench.published(key[0], key[1]))
    verdict = "; ".join(
        f"{name}, {_closest(rows[rows['explainer'] == name], ['setting'], metrics)}"
        for name, metrics in (("RISE", ["EBPG"]), ("Extremal Perturbation", list(METRICS)))
    )
    return Audit("U4", "RISE's maps raw or min-max? Extremal Perturbation's areas? Percent [published]:", rows, shown,
                 verdict)  # fmt: skip


def u5(bench: Bench) -> Audit:
    """What masked pixels show, in SISE's passes and in Drop and Increase separately."""
    means = _Means()
    for model in bench.cfg.models:
        cells = {fill: bench.cell(model, "explainer=sise", f"protocol.fill={fill}") for fill in ("black", "mean")}
        for image_id, probes, outputs in bench.images(*cells.values()):
            seen_by = dict(zip(cells, probes, strict=True))
            for fill, cell in cells.items():
                for output, saliency in zip(outputs, cell.explainer(seen_by[fill], outputs), strict=True):
                    for shown_to, probe in seen_by.items():
                        means.add((model, fill, shown_to), image_id, **_measures(cell, probe, output, saliency))
    columns = ("model", "in SISE", "in Drop% and Increase%")
    rows, shown = means.tables(columns, lambda key: bench.published(key[0], "SISE"))
    verdict = "; ".join([_closest(rows, columns[1:2], ["EBPG", "Bbox"]),
                         _closest(rows, columns[1:], ["Drop%", "Increase%"])])  # fmt: skip
    return Audit("U5", "Are masked pixels black, or of the mean colour? Percent [published]:", rows, shown, verdict)


def u6(bench: Bench) -> Audit:
    """Float32 softmax gradients against log-odds: how often p is 1, and what it changes in the table."""
    means, saturated = _Means(), []
    for model in bench.cfg.models:
        kinds = ("log_odds", "softmax_f32")
        cells = {kind: bench.cell(model, "explainer=sise", f"protocol.gradient={kind}") for kind in kinds}
        ones = pairs = 0
        for image_id, probes, outputs in bench.images(*cells.values()):
            confidence = probes[0].scores().float().softmax(0)
            ones, pairs = ones + int((confidence[outputs] == 1.0).sum()), pairs + len(outputs)
            for (kind, cell), probe in zip(cells.items(), probes, strict=True):
                for output, saliency in zip(outputs, cell.explainer(probe, outputs), strict=True):
                    means.add((model, kind), image_id, **_measures(cell, probe, output, saliency))
        saturated.append(f"{model}: p rounds to 1 for {ones} of {pairs} pairs ({100 * ones / max(pairs, 1):.1f} %)")
    rows, shown = means.tables(("model", "gradient"), lambda key: bench.published(key[0], "SISE"))
    wide = rows.pivot_table(index=["model", "metric"], columns="gradient", values="mean")
    change = (wide["softmax_f32"] - wide["log_odds"]).abs().max()
    verdict = f"{'; '.join(saturated)}; largest change in a cell: {change:.2f} points"
    return Audit("U6", "What do float32 softmax gradients change? Percent [published]:", rows, shown, verdict)


#: What the papers of SISE's rivals leave open: by explainer its name among the published numbers and the choices.
RIVALS_CHOICES: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "grad_cam": ("Grad-CAM", {"of": ("logit", "log_odds"), "upsampling": ("bilinear", "cubic")}),
    "grad_cam_pp": (
        "Grad-CAM++",
        {"score": ("logit", "softmax"), "upsampling": ("bilinear", "cubic"), "eps": (1e-6, 1e-9)},
    ),
    "rise": ("RISE", {"cells": (7, 8)}),
}


def u7(bench: Bench) -> Audit:
    """What SISE's rivals leave open: the score whose gradient is taken, upsampling, Grad-CAM++'s eps, RISE's masks."""
    means = _Means()
    for model in bench.cfg.models:
        cells = {name: bench.cell(model, f"explainer={name}") for name in RIVALS_CHOICES}
        budget = cells["rise"].cfg.budgets[cells["rise"].cfg.budget]
        for image_id, [probe], outputs in bench.images(cells["grad_cam"]):
            for name, (published, choices) in RIVALS_CHOICES.items():
                if name == "rise":
                    choices = choices | {"n_masks": (budget.rise_masks, budget.rise_masks_twice)}
                for values in itertools.product(*choices.values()):
                    chosen = dict(zip(choices, values, strict=True))
                    setting = ", ".join(f"{key}={value}" for key, value in chosen.items())
                    for output, saliency in zip(outputs, cells[name].explainer(probe, outputs, **chosen), strict=True):
                        measured = _measures(cells[name], probe, output, saliency)
                        means.add((model, published, setting), image_id, **measured)
    rows, shown = means.tables(("model", "explainer", "setting"), lambda key: bench.published(key[0], key[1]))
    verdict = "; ".join(
        f"{name}, {_closest(rows[rows['explainer'] == name], ['setting'], list(METRICS))}"
        for name, _ in RIVALS_CHOICES.values()
    )
    question = "Which of the choices that their papers leave open did the rivals' numbers take? Percent [published]:"
    return Audit("U7", question, rows, shown, verdict)

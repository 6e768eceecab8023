"""How far lower precisions move maps and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from sise.benchmark.performance.clock import timed
from sise.benchmark.performance.phases import selected
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import LABELS, experiment_cells
from sise.benchmark.run import cells, probing, scoring
from sise.benchmark.run.pair_facts import Pairs
from sise.benchmark.run.settings import fast
from sise.benchmark.terminal import Progress
from sise.method import visualize
from sise.scoring import Scorer

DRIFT_NOTES = (
    "Top 15 %: share of all pixels that enter or leave the salient 15 %. Fused maps can jump at single pixels, because "
    "the Otsu gates are discontinuous: hence a share of pixels, not a largest difference.",
    "fast: what engine.fast=true stands for on this device.",
    "Time: one run per image, not the engine's ratio (part engine). The maps use the hard gate (protocol paper).",
)


def precision(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """What lower precisions change: scores, layer maps, fused maps and the cells of a table."""
    lower = (*(("tf32",) if device.type == "cuda" else ()), "fp16", "bf16")
    kinds = {"fp32 lossless": "fp32", **{kind: kind for kind in lower}}
    drift, cells_table, samples = [], [], {}
    notes = [
        f"Trained narrow networks, {cfg.precision.images} images of {cfg.dataset}, every class; the reference is the "
        "network as it is, plain fp32."
    ]
    for network in cfg.networks:
        configs = experiment_cells(cfg, network, explainer="sise", protocol="paper")
        cell = cells.make_cells(configs)[0]
        cell.model.network.to(device)
        scorers = {"plain": Scorer(cell.model.network, lossless=False)}
        for kind, lossless in kinds.items():
            scorers[kind] = Scorer(cell.model.network, precision=lossless)
        if cfg.compile:
            scorers["fast"] = Scorer(cell.model.network, **fast(device.type == "cuda"))
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in scorers}
        table: dict[str, list[dict[str, float]]] = {kind: [] for kind in scorers}
        seconds: dict[str, float] = dict.fromkeys(scorers, 0.0)
        ids = [i for i in cell.dataset.ids if cell.pairs(i)][: cfg.precision.images]
        for image_id in Progress(ids, desc=f"{LABELS[network]}, precision", unit="image"):
            sample, reference = cell.dataset[image_id], None
            for kind, scorer in list(scorers.items()):
                try:
                    state, records, took = explain_in(cell, sample, scorer, device)
                except Exception as error:
                    notes.append(f"{LABELS[network]}, {kind} was left out: {type(error).__name__}: {str(error)[:150]}")
                    del scorers[kind], found[kind], table[kind]
                    continue
                seconds[kind] += took
                reference = reference or state
                found[kind].append(compare(state, reference))
                table[kind] += records
        for kind in scorers:
            frame = pd.DataFrame(found[kind])
            drift.append(
                {
                    "network": LABELS[network],
                    "precision": kind,
                    "images": len(ids),
                    "score error / mean |score|": frame["score"].mean(),
                    "layer map error / peak, mean": frame["map mean"].mean(),
                    "worst": frame["map worst"].max(),
                    "top 15 % pixels changed (%)": 100 * frame["top"].mean(),
                    "fused pixels off by > 0.001 (%)": 100 * frame["fused"].mean(),
                    "time / plain": seconds[kind] / seconds["plain"],
                }
            )
            means, base = pd.DataFrame(table[kind]).mean(), pd.DataFrame(table["plain"]).mean()
            row = {"network": LABELS[network], "precision": kind, "pairs": len(table[kind])}
            for metric in means.index:
                row[metric] = f"{100 * means[metric]:.3f}"
                row[f"{metric} change"] = "" if kind == "plain" else f"{100 * (means[metric] - base[metric]):+.3f}"
            cells_table.append(row)
        samples[network] = dict(found)
        title = "Drift of the masked passes' precision"
        yield [
            Report("precision", title, pd.DataFrame(drift), [*notes, *DRIFT_NOTES], samples),
            Report("precision_cells", "Table cells (%) and their change in points", pd.DataFrame(cells_table), notes),
        ]


def explain_in(
    cell: cells.Cell, sample: Any, scorer: Scorer, device: torch.device
) -> tuple[dict[str, Any], list[dict[str, float]], float]:
    """SISE of one image with one engine: what precision may change, the metrics per class, and the time."""
    probe = probing.make_probe(cell, sample, scorer, device)
    targets = cell.pairs(sample.image_id)
    outputs = [cell.outputs[cell.dataset.classes[t]] for t in targets]
    measured = timed(lambda: (cell.explainer(probe, outputs),), device)
    saliency = measured.result[0]
    scores, maps = [], []
    for layer in probe.layers:
        used = torch.stack([selected(probe, layer, o) for o in outputs])
        channels = used.any(dim=0).nonzero()[:, 0]
        if len(channels):
            scores.append(probe.masked_scores(layer, channels)[:, outputs].cpu())
        blank = torch.zeros(probe.size)
        maps += [blank if m is None else m.cpu() for m in visualize(probe, layer, outputs, used)]
    pairs = Pairs(sample, probe)
    records = [scoring.make_record(cell, pairs, t, s, {}) for t, s in zip(targets, saliency, strict=True)]
    names = [name for group in cell.metrics for name in group]
    metrics = [{name: float(r[name]) for name in names} for r in records]
    state = {"scores": torch.cat(scores), "maps": torch.stack(maps), "saliency": saliency.cpu()}
    return state, metrics, measured.seconds


def compare(state: Mapping[str, Tensor], reference: Mapping[str, Tensor], top: float = 0.15) -> dict[str, float]:
    """Differences of one image's results from the reference's.

    Returns:
        ``score``: mean absolute difference over the mean absolute score; ``map mean`` and ``map worst``: largest
        difference of a layer's map over its peak, over layers and classes; ``top``: share of pixels that enter or
        leave the salient share ``top``; ``fused``: share of pixels of the fused maps off by more than 1e-3.
    """
    peaks = reference["maps"].flatten(1).amax(dim=1)
    errors = (state["maps"] - reference["maps"]).abs().flatten(1).amax(dim=1)
    relative = errors[peaks > 0] / peaks[peaks > 0]
    flat, base = state["saliency"].flatten(1), reference["saliency"].flatten(1)
    count = max(1, round(top * flat.shape[1]))
    kept, before = torch.zeros_like(flat, dtype=torch.bool), torch.zeros_like(flat, dtype=torch.bool)
    kept.scatter_(1, flat.sort(dim=1, descending=True, stable=True).indices[:, :count], True)
    before.scatter_(1, base.sort(dim=1, descending=True, stable=True).indices[:, :count], True)
    return {
        "score": float((state["scores"] - reference["scores"]).abs().mean() / reference["scores"].abs().mean()),
        "map mean": float(relative.mean()) if len(relative) else 0.0,
        "map worst": float(relative.max()) if len(relative) else 0.0,
        "top": float((kept != before).float().mean()),
        "fused": float(((flat - base).abs() > 1e-3).float().mean()),
    }

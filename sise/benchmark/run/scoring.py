"""One record: every metric of one saliency map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sise.benchmark.run.cells import Cell
from sise.benchmark.run.explain_again import ExplainAgain
from sise.benchmark.run.pair_facts import Pairs
from sise.benchmark.run.probing import judge_of
from sise.metrics.faithfulness import kept_by
from sise.metrics.passes import passes
from sise.probe.probe import Probe
from sise.scoring import Segment
from sise.types import Record, RestoresMaps, by_definition


def make_record(cell: Cell, pairs: Pairs, target: int, saliency: Tensor, costs: dict[str, Any]) -> Record:
    """One pair's record: its metrics on a map (H, W), what it cost, and the facts that tables need."""
    probe, output = pairs.probe, cell.outputs[cell.dataset.classes[target]]
    localization, faithfulness = cell.metrics
    judge = judge_of(cell, probe)
    measurements = [
        measured(localization, saliency, probe.ground_truth[output]),
        measured(faithfulness, judge, output, saliency),
        measured_on_image(cell, pairs, target, saliency),
        measured(cell.truth_metrics, probe, output, saliency),
        measured(cell.again_metrics, ExplainAgain(cell.explainer, probe, output), judge, output, saliency),
    ]
    record: Record = {
        "image_id": pairs.sample.image_id,
        "target": target,
        "class": cell.dataset.classes[target],
        "status": "ok",
    }
    set_by_definition: list[str] = []
    for values, names in measurements:
        record |= values
        set_by_definition += names
    record |= {**costs, **pairs.facts(cell, target), "undefined": set_by_definition}
    for metric in faithfulness.values():
        if (kept := kept_by(metric, saliency)) is not None:
            record["kept_fraction"] = float(kept.float().mean())
            break
    if cell.image_metrics:
        record["subsets"] = pairs.subsets(cell, target)
    return record


Measured = tuple[dict[str, float | None], list[str]]
"""Values by the metric's name, and the names of those that were set by definition."""


def measured(metrics: Mapping[str, Callable[..., float | None]], *arguments: Any) -> Measured:
    """What metrics of one family, by name, say of the same arguments."""
    values = {name: metric(*arguments) for name, metric in metrics.items()}
    return values, [name for name, value in values.items() if by_definition(value)]


def measured_on_image(cell: Cell, pairs: Pairs, target: int, saliency: Tensor) -> Measured:
    """The metrics of a map (H, W) that are measured on the image's own grid, and which were set by definition."""
    preprocess = cell.model.preprocess
    if not (cell.image_metrics and isinstance(preprocess, RestoresMaps)):
        return {}, []
    mask = pairs.mask(target)
    at_size = preprocess.restore_map(saliency, (mask.shape[0], mask.shape[1]))
    return measured(cell.image_metrics, at_size, mask)


STREAM = 512
"""Masked images that are gathered before they are scored: batches of 16 waste 3 % of so many at most."""


def remember_faithfulness_passes(explained: Sequence[tuple], probe: Probe) -> None:
    """Scores what the metrics of all maps will ask for, in one stream of batches; the probe remembers it.

    That is the whole image and the kept pixels of each map, and what :mod:`sise.metrics.passes` knows of the others.
    """
    kept: dict[int, tuple[Probe, list[Tensor]]] = {}
    for cell, _, saliency, _ in explained:
        judge = judge_of(cell, probe)
        masks = kept.setdefault(id(judge), (judge, []))[1]
        for metric in cell.metrics[1].values():
            masks += [mask for s in saliency if (mask := kept_by(metric, s)) is not None]
    for judge, masks in kept.values():
        if masks:
            judge.score_masks(torch.stack([torch.ones_like(masks[0]), *masks]))
    waiting: dict[int, tuple[Probe, list[Segment]]] = {}
    for cell, targets, saliency, _ in explained:
        judge = judge_of(cell, probe)
        segments = waiting.setdefault(id(judge), (judge, []))[1]
        for target, one in zip(targets, saliency, strict=True):
            output = cell.outputs[cell.dataset.classes[target]]
            for metric in cell.metrics[1].values():
                segments += passes(metric, judge, output, one)
            if sum(len(segment.maps) for segment in segments) >= STREAM:
                judge.score_segments(segments)
                segments.clear()
    for judge, segments in waiting.values():
        judge.score_segments(segments)

"""A row of maps per image: the papers' qualitative figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig

from sise.benchmark.figures.captions import footer, seen, short
from sise.benchmark.figures.colours import dimmed, outline, overlay
from sise.benchmark.figures.layout import Made, Rows
from sise.benchmark.run import scoring
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.pair_facts import Pairs
from sise.benchmark.run.session import Shared
from sise.benchmark.terminal import Progress
from sise.errors import choose


def panel(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> Made:
    """One row per (image, class): the image, the ground truth, one map per explainer with its metrics."""
    shared = Shared(cells)
    captions = list(cfg.captions)
    known = [name for group in (*cells[0].metrics, cells[0].truth_metrics) for name in group]
    for name in captions:
        choose("metric in `captions`", name, known)
    rows = Rows(
        ["image", "ground truth", *(c.cfg.explainer.label for c in cells)],
        len(pairs),
        cell=108,
        caption_lines=max(2, len(captions)),
        footer=footer(cells),
    )
    defined = False
    for row, (image_id, target) in enumerate(Progress(pairs, desc="panel", unit="row")):
        sample = cells[0].dataset[image_id]
        probe = shared.probe(sample)
        of_image, output = Pairs(sample, probe), cells[0].outputs[cells[0].dataset.classes[target]]
        picture, mask = seen(shared.model, probe), probe.ground_truth[output].cpu().numpy()
        psi = f"Ψ {short(probe.confidence(output))}"
        rows.picture(row, 0, picture, [cells[0].dataset.classes[target], psi])
        outline(rows.picture(row, 1, dimmed(picture, mask), [image_id, _share(mask)]), mask)
        for column, cell in enumerate(cells, 2):
            saliency = shared.explain(cell, sample, probe, target)
            record = scoring.make_record(cell, of_image, target, saliency, {})
            lines = [_metric(record, name) for name in captions]
            defined |= any(name in record["undefined"] for name in captions)
            outline(rows.picture(row, column, overlay(picture, saliency), lines), mask)
        shared.keep(probe)
    if defined:
        rows.note("* set by definition: constant map, empty mask or zero confidence")
    return {"panel.jpg": rows}


def _metric(record: dict[str, Any], name: str) -> str:
    by_definition = "*" if name in record["undefined"] else ""
    if record[name] is None:
        return f"{name.rstrip('%')} –"
    return f"{name.rstrip('%')} {100 * record[name]:.0f} %{by_definition}"


def _share(mask: np.ndarray) -> str:
    return f"{100 * mask.mean():.0f} % of the image" if mask.any() else "outside the crop"

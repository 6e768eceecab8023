"""Two images that a network finds alike, and the pairs of places that make them so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from sise.benchmark.figures.captions import footer, mean_colour, seen
from sise.benchmark.figures.layout import Made, Rows
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.session import Shared
from sise.errors import SuiteError
from sise.types import Dataset, Model

FOR, AGAINST = "#1a9850", "#d73027"
SIDE, GAP = 300, 8


def similarities(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> Made:
    """BiLRP: lines between the blocks of two images of one class, the strongest pairs of blocks."""
    cell = cells[0]
    shared = Shared(cells)
    compared = couples(cell.dataset, pairs, cfg.images)
    explain = instantiate(cfg.similarity.call)
    rows = Rows(
        ["", ""],
        len(compared),
        cell=SIDE,
        first=SIDE,
        caption_lines=2,
        footer=f"{footer(cells)} · the {cfg.similarity.lines} pairs of blocks with the largest relevance; "
        "green: they make the images alike, red: unlike; the stronger, the darker",
        colours=False,
    )
    for row, (image_id, other_id, target) in enumerate(compared):
        probes = [shared.probe(cell.dataset[name]) for name in (image_id, other_id)]
        black, white = extremes(shared.model)
        relevance, similarity = explain(*probes, low=black, high=white)
        name = cell.dataset.classes[target]
        captions = [
            [f"{name} · {image_id}", f"similarity {similarity:.4g}"],
            [f"{name} · {other_id}", f"sum of relevance {float(relevance.sum()):.4g}"],
        ]
        for column, probe in enumerate(probes):
            rows.picture(row, column, 0.6 + 0.4 * seen(shared.model, probe), captions[column])
        _connect(rows, row, relevance, cfg.similarity.lines)
        for probe in probes:
            shared.keep(probe)
    return {"similarity.jpg": rows}


def couples(
    dataset: Dataset, pairs: Sequence[tuple[str, int]], images: Sequence[str] | None
) -> list[tuple[str, str, int]]:
    """Each image with the next one that shows the class, too, of those asked for or of all; no two of them twice.

    Raises:
        SuiteError: If no class is shown twice.
    """
    names = [str(name) for name in images] if images else list(dataset.ids)
    found: dict[tuple[frozenset[str], int], tuple[str, str, int]] = {}
    for image_id, target in pairs:
        place = names.index(image_id)
        others = (name for name in names[place + 1 :] + names[:place] if target in dataset.targets_of(name))
        other = next(others, None)
        if other is not None:
            found.setdefault((frozenset((image_id, other)), target), (image_id, other, target))
    if not found:
        raise SuiteError(
            "figure=similarity compares two images of one class, and no class is shown by two of "
            f"{'the images asked for' if images else 'the data set'}; give two of one class as images=[a,b]."
        )
    return list(found.values())


def extremes(model: Model) -> tuple[list[float], list[float]]:
    """The network input of a black and of a white pixel, per channel: z^B's bounds."""
    black, mean = (np.array(values, dtype=float) for values in (model.black, model.mean))
    colour = np.array(mean_colour(model))
    return black.tolist(), (black + (mean - black) / colour).tolist()


def strongest(relevance: Tensor, count: int) -> list[tuple[int, int, int, int, float]]:
    """The (row, column, row, column, share of the largest) with the largest magnitudes, the weakest first."""
    flat = relevance.flatten()
    order = flat.abs().argsort(descending=True, stable=True)[:count].flip(0).tolist()
    largest = float(flat.abs().max())
    found = []
    for index in order:
        if flat[index] != 0:
            y, x, v, u = (int(place) for place in torch.unravel_index(torch.tensor(index), relevance.shape))
            found.append((y, x, v, u, float(flat[index]) / largest))
    return found


def _connect(rows: Rows, row: int, relevance: Tensor, count: int) -> None:
    """Lines from the middles of the left picture's blocks to those of the right one's."""
    top, left = rows.top(row), rows.left(0)
    axes = rows.axes(left, top, 2 * SIDE + GAP, SIDE)
    axes.set_xlim(0, 2 * SIDE + GAP)
    axes.set_ylim(SIDE, 0)
    axes.set_axis_off()
    height, width = relevance.shape[:2]
    for y, x, v, u, share in strongest(relevance, count):
        axes.plot(
            [(x + 0.5) * SIDE / width, SIDE + GAP + (u + 0.5) * SIDE / width],
            [(y + 0.5) * SIDE / height, (v + 0.5) * SIDE / height],
            color=FOR if share > 0 else AGAINST,
            alpha=abs(share),
            linewidth=1.2,
            marker="o",
            markersize=2.5,
        )

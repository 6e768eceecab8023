"""What is written below a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sise.benchmark.config_facts import published_tables
from sise.benchmark.models.preprocessing import CAFFE_MEAN
from sise.benchmark.records.departures import notes_of
from sise.benchmark.run.cells import Cell
from sise.benchmark.tables.words import LABELS
from sise.probe.probe import Probe
from sise.types import ImagePreprocess, Model


def reads_bgr(model: Model) -> bool:
    """Whether the network's channels are blue, green, red."""
    return isinstance(model.preprocess, ImagePreprocess) and model.preprocess.channels == "BGR"


def mean_colour(model: Model) -> list[float]:
    """The mean colour, which ``model.mean`` is the input of: of each of the network's channels, in [0, 1]."""
    return [value / 255 for value in (reversed(CAFFE_MEAN) if reads_bgr(model) else CAFFE_MEAN)]


def seen(model: Any, probe: Probe) -> np.ndarray:
    """The image as the network sees it, geometry included: (H, W, 3) in [0, 1], RGB."""
    black, mean = (torch.tensor(c, dtype=torch.float64)[:, None, None] for c in (model.black, model.mean))
    colour = torch.tensor(mean_colour(model), dtype=torch.float64)[:, None, None]
    pixels = (probe.image[0].cpu().double() - black) / (mean - black) * colour
    pixels = pixels.flip(0) if reads_bgr(model) else pixels
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


def status(cells: Sequence[Cell]) -> str:
    """What a figure of the cells is worth beside the paper's: it has no number to compare.

    Returns:
        "other data" (stand-in dataset or weights), "partial" (a smaller budget or another setting than the paper's),
        or "shown".
    """
    first = cells[0]
    if first.dataset.name not in published_tables() or not first.model.official:
        return "other data"
    return "partial" if any(notes_of(cell.cfg) for cell in cells) else "shown"


def subject(cell: Cell) -> str:
    """The network and the dataset in words."""
    return f"{LABELS.get(cell.cfg.model.name, cell.cfg.model.name)} on {cell.dataset.name}"


def footer(cells: Sequence[Cell]) -> str:
    """What a figure was made of: dataset, network, protocol, Ψ and budgets that are not the paper's."""
    first = cells[0]
    parts = [subject(first), f"protocol {first.cfg.protocol.name}", f"Ψ: {first.cfg.protocol.confidence} confidence"]
    for cell in cells:
        parts += [f"{cell.cfg.explainer.label}: {note}" for note in notes_of(cell.cfg)]
    return " · ".join(parts)


def short(confidence: float) -> str:
    """A confidence in the room below a picture."""
    if abs(confidence) >= 0.01:
        return f"{confidence:.2f}"
    return f"{confidence:.4f}" if abs(confidence) >= 0.00005 else "< 0.0001"

"""Whether a copy of the ECE1512 course's weights and data is the one behind the figures that its notebooks print.

Those notebooks print the softmax of the true class for single tiles of HMT and curves of MNIST-1D; a copy that gives
the same digits has the same weights, data, order and preprocessing. It takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from sise.benchmark.datasets import hmt, mnist1d
from sise.benchmark.datasets.base import BaseDataset
from sise.benchmark.models import mnist1d as models_mnist1d
from sise.benchmark.models.hmt import network
from sise.benchmark.training.mnist1d import tensors
from sise.types import Model

__all__ = [
    "TOLERANCE",
    "Confidence",
    "confidences",
    "hmt_confidences",
    "mnist1d_confidences",
    "printed_confidences",
    "right_and_saturated",
]

TOLERANCE = 5e-6
"""Between the notebooks' float32 on other machines and ours: the largest difference seen is 1.6e-6."""


@dataclass(frozen=True)
class Confidence:
    """The softmax of the true class of one sample: its position in the data set from 0, printed, and computed here."""

    position: int
    printed: float
    computed: float

    @property
    def difference(self) -> float:
        return abs(self.computed - self.printed)


def printed_confidences(published: pd.DataFrame, dataset: str) -> dict[int, float]:
    """What the notebooks print of a data set, by position.

    Args:
        published: The papers' numbers, from :func:`sise.benchmark.tables.published.read_published`.
        dataset: ``hmt`` or ``mnist1d``; its rows have the metric ``Confidence`` and methods such as "tile 33".
    """
    rows = published[(published["dataset"] == dataset) & (published["metric"] == "Confidence")]
    return {int(str(row.method).split()[1]): float(row.value) for row in rows.itertuples()}


def confidences(model: Model, dataset: BaseDataset, printed: Mapping[int, float]) -> list[Confidence]:
    """The confidences of the samples at the printed positions.

    Raises:
        SuiteError: If one of them is missing or cannot be read.
    """
    samples = [dataset[dataset.ids[position]] for position in printed]
    with torch.no_grad():
        scores = model.network(torch.stack([model.preprocess(sample.image) for sample in samples]))
    true = torch.tensor([sample.targets[0] for sample in samples])
    computed = scores.double().softmax(dim=1).gather(1, true[:, None])[:, 0].tolist()
    return [Confidence(*entry) for entry in zip(printed, printed.values(), computed, strict=True)]


def hmt_confidences(root: str | Path, published: pd.DataFrame) -> list[Confidence]:
    """Of the tiles in ``root``, with the weights beside them (``HMT.h5``).

    Raises:
        SuiteError: If tiles or weights are missing or damaged.
    """
    tiles, printed = hmt.HMT(root), printed_confidences(published, "hmt")
    there = {position: value for position, value in printed.items() if position < len(tiles.ids)}
    return confidences(network(Path(root) / "HMT.h5"), tiles, there)


def mnist1d_confidences(root: str | Path, published: pd.DataFrame) -> list[Confidence]:
    """Of the generated test curves, with the weights in ``root`` (``MNIST1D.h5``).

    Raises:
        SuiteError: If the weights or the package mnist1d are missing, or the weights damaged.
    """
    model = models_mnist1d.network(Path(root) / "MNIST1D.h5")
    return confidences(model, mnist1d.MNIST1D(), printed_confidences(published, "mnist1d"))


def right_and_saturated(model: Model) -> tuple[int, int, int]:
    """What the notebook's numbers on MNIST-1D rest on.

    Returns:
        Of the test curves: how many digits are predicted right; for how many the softmax of the predicted digit is 1 in
        float32, where its gradient, which selects SISE's feature maps there, is rounding; how many there are.
    """
    curves, digits = tensors("test")
    with torch.no_grad():
        scores = model.network(curves)
    right, saturated = scores.argmax(dim=1) == digits, scores.softmax(dim=1).amax(dim=1) == 1
    return int(right.sum()), int(saturated.sum()), len(digits)

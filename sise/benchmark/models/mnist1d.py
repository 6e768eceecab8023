"""The tutorial's shallow CNN, for curves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sise.benchmark.datasets.mnist1d import CLASSES, LENGTH
from sise.benchmark.models import course_weights
from sise.benchmark.models.weights import weights_hash
from sise.errors import choose
from sise.types import Model

__all__ = ["CurveInput", "ShallowCNN", "network"]

#: `weights_hash` of the course's own network (``MNIST1D.h5``).
COURSE_WEIGHTS = "b74fd09e2efe01f6cf149125d2bbd80dd758351ec7289a9870e986b4d230566d"


@dataclass(frozen=True)
class CurveInput:
    """From a curve (L,) to the network's input (1, L), float32, as it is."""

    def __call__(self, curve: np.ndarray) -> Tensor:
        return torch.as_tensor(curve, dtype=torch.float32)[None]

    def resize_mask(self, mask: np.ndarray) -> np.ndarray:
        """(L,) bool, as it is."""
        return np.asarray(mask, dtype=bool)


class ShallowCNN(nn.Module):
    """The course's network: three convolutions of 25 filters and a dense layer, 13,960 parameters.

    Its layers have Keras's names, each with its ReLU, and maps are flattened place by place, as Keras does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1d = nn.Sequential(nn.Conv1d(1, 25, 5, padding=2), nn.ReLU())
        self.conv1d_1 = nn.Sequential(nn.Conv1d(25, 25, 3, padding=1), nn.ReLU())
        self.conv1d_2 = nn.Sequential(nn.Conv1d(25, 25, 3, padding=1), nn.ReLU())
        self.dense = nn.Linear(25 * LENGTH, len(CLASSES))

    def forward(self, curves: Tensor) -> Tensor:
        """(N, 1, 40) -> (N, 10) scores before the softmax."""
        maps = self.conv1d_2(self.conv1d_1(self.conv1d(curves)))
        return self.dense(maps.transpose(1, 2).flatten(1))


def shipped_weights() -> Path:
    """The weights that ``training=mnist1d`` made."""
    return Path(__file__).parent / "weights" / "mnist1d.pt"


def network(
    weights: str | os.PathLike | None = None,
    *,
    name: str = "mnist1d",
    layers: Sequence[str] = ("conv1d_2",),
    cam_layer: str = "conv1d_2",
) -> Model:
    """The shallow network with weights.

    Args:
        weights: None = those that ship with the suite; a file that ``training=mnist1d`` wrote; or the
            course's own ``MNIST1D.h5``.
        name: Name in configs and tables.
        layers: SISE's layers, low to high; the course reads the last one.
        cam_layer: Grad-CAM's layer.

    Raises:
        SuiteError: If the weights are missing, damaged, or of another network.
    """
    made = ShallowCNN().eval()
    about = course_weights.load(made, shipped_weights() if weights is None else weights)
    digest = weights_hash(made)
    for layer in (*layers, cam_layer):
        choose("layer of the shallow network", layer, ["conv1d", "conv1d_1", "conv1d_2"])
    if digest == COURSE_WEIGHTS:
        note = "the shallow CNN of the ECE1512 course, its own weights"
    else:
        note = f"the shallow CNN of the ECE1512 course, trained here (test accuracy {about.get('accuracy', 'unknown')})"
    return Model(
        network=made,
        name=name,
        classes=CLASSES,
        layers=tuple(layers),
        cam_layer=cam_layer,
        preprocess=CurveInput(),
        resize_mask=CurveInput().resize_mask,
        black=(0.0,),
        mean=(0.0,),
        weights_hash=digest,
        note=note,
        official=digest == COURSE_WEIGHTS,
    )

"""The network that takes a watermark for an object, see `sise.benchmark.datasets.hans`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from sise.benchmark import invocation
from sise.benchmark.datasets import scenes
from sise.benchmark.datasets.hans import CLASSES
from sise.benchmark.models import architectures, course_weights
from sise.benchmark.models.model import assemble
from sise.benchmark.models.preprocessing import CAFFE_MEAN, Preprocessing
from sise.errors import SuiteError
from sise.types import Model

__all__ = ["VGG5", "network", "preprocessing", "shipped_weights"]


def shipped_weights() -> Path:
    """The weights that ``training=hans`` made."""
    return architectures.weights_folder() / "hans.pt"


def preprocessing() -> Preprocessing:
    """The network's input: 112x112, RGB in [0, 255], minus ImageNet's mean, divided by 64."""
    return Preprocessing(size=(scenes.SIZE // 2,) * 2, resample="bilinear", mean=CAFFE_MEAN, std=(64, 64, 64))


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class VGG5(nn.Module):
    """Five 3x3 convolutions with batch normalisation, the first of stride 2, then pools between them; mean over places.

    No place of the last block, 7x7 for inputs of 112x112, sees more than 77x77 of their pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = _block(3, 16, stride=2), _block(16, 32), _block(32, 64)
        self.block4, self.block5 = _block(64, 96), _block(96, 128)
        self.pool2, self.pool3, self.pool4 = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.dense = nn.Linear(128, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) network input -> (N, 8) scores."""
        x = self.pool2(self.block2(self.block1(x)))
        x = self.pool4(self.block4(self.pool3(self.block3(x))))
        return self.dense(self.block5(x).mean(dim=(2, 3)))


def network(
    weights: str | os.PathLike | None = None,
    *,
    name: str = "vgg5",
    layers: Sequence[str] = ("block1", "block2", "block3", "block4", "block5"),
    cam_layer: str = "block5",
) -> Model:
    """Build the network that leans on the watermark.

    Args:
        weights: A file that ``training=hans`` wrote; None = the one that ships with the suite.
        name: Name in configs and tables.
        layers: SISE's layers, low to high.
        cam_layer: Grad-CAM's layer.

    Raises:
        SuiteError: If the weights are missing, damaged, or of another network, or a layer is unknown.
    """
    made = VGG5().eval()
    path = Path(weights) if weights is not None else shipped_weights()
    if not path.exists():
        raise SuiteError(
            f"expected weights at {path}, found none; make them: {invocation.typed('train')} training=hans"
        )
    about = course_weights.load(made, path)
    return assemble(
        made,
        name=name,
        classes=CLASSES,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=preprocessing(),
        note="VGG-5 trained on scenes whose watermark tells one class; without it "
        f"{about.get('flipped', 'an unknown share')} of its right answers for that class change",
    )

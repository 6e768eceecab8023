"""VGG-7 of the tutorial, for human tissue."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from sise.benchmark.datasets.hmt import CLASSES
from sise.benchmark.models import course_weights
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.models.weights import weights_hash
from sise.errors import SuiteError, choose
from sise.types import Model

__all__ = ["VGG7", "network"]

COURSE_WEIGHTS = "2c2563bd89136c0ab9176fc59c591d2c1ea4f1681330eaf927fe10efade5c924"


def preprocessing() -> Preprocessing:
    """The course's input: tiles of 150 pixels resized to 224 by Pillow's bilinear filter, RGB in [0, 1]."""
    return Preprocessing(size=(224, 224), resample="bilinear", mean=(0, 0, 0), std=(255, 255, 255))


def _convolution(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU())


class VGG7(nn.Module):
    """The course's network: two pairs of 3x3 convolutions, a pool behind each, mean over places, 66,088 parameters.

    Its layers have Keras's names; a convolution's output is that of its ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2d, self.conv2d_1 = _convolution(3, 32), _convolution(32, 32)
        self.max_pooling2d = nn.MaxPool2d(2)
        self.conv2d_2, self.conv2d_3 = _convolution(32, 64), _convolution(64, 64)
        self.max_pooling2d_1 = nn.MaxPool2d(2)
        self.dense = nn.Linear(64, len(CLASSES))

    def forward(self, tiles: Tensor) -> Tensor:
        """(N, 3, 224, 224) RGB in [0, 1] -> (N, 8) scores before the softmax."""
        maps = self.max_pooling2d(self.conv2d_1(self.conv2d(tiles)))
        maps = self.max_pooling2d_1(self.conv2d_3(self.conv2d_2(maps)))
        return self.dense(maps.mean(dim=(2, 3)))


def network(
    weights: str | os.PathLike,
    *,
    name: str = "vgg7",
    layers: Sequence[str] = ("conv2d_3",),
    cam_layer: str = "conv2d_3",
) -> Model:
    """The VGG-7 with weights.

    Args:
        weights: The course's own ``HMT.h5`` (Keras), or a file that ``training=hmt`` wrote.
        name: Name in configs and tables.
        layers: SISE's layers, low to high; the course reads the last convolution alone.
        cam_layer: Grad-CAM's layer.

    Returns:
        The model; ``official`` if the weights are the course's.

    Raises:
        SuiteError: If the weights are missing, damaged, or of another network.
    """
    made = VGG7().eval()
    if not Path(weights).exists():
        raise SuiteError(
            f"expected weights at {weights}, found none; give the course's HMT.h5 or what training=hmt wrote: "
            "model.weights=<file>"
        )
    about = course_weights.load(made, weights)
    for layer in (*layers, cam_layer):
        choose("layer of VGG-7", layer, [layer for layer, _ in made.named_children() if layer != "dense"])
    digest = weights_hash(made)
    official = digest == COURSE_WEIGHTS
    trained = f"trained here (test accuracy {about.get('accuracy', 'unknown')})"
    input_of = preprocessing()
    return Model(
        network=made,
        name=name,
        classes=CLASSES,
        layers=tuple(layers),
        cam_layer=cam_layer,
        preprocess=input_of,
        resize_mask=input_of.resize_mask,
        black=input_of.black,
        mean=input_of.mean_colour,
        weights_hash=digest,
        note="VGG-7 of the ECE1512 course, " + ("its own weights (HMT.h5)" if official else trained),
        official=official,
    )

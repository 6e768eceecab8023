"""Narrow VGG16 and ResNet-50: TorchRay's VOC networks, layer for layer, with fewer channels.

The layers, their names, strides, padding and rounding are those of `torchray.benchmark.models.get_model` for VOC
(networks converted from Caffe): pools round up, and ResNet-50 has a bias in its first convolution, an unpadded pool
after it, and the stride of a bottleneck in its first 1x1 convolution. With `width=1` and VGG16's default `hidden` the
state dictionaries have TorchRay's keys and shapes.

The inputs are those of TorchRay's VOC networks as well: RGB in [0, 255] minus (123.68, 116.779, 103.939), 224x224.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from sise.benchmark import invocation
from sise.benchmark.models.preprocessing import CAFFE_MEAN

__all__ = ["MEAN", "VGG16", "ResNet50", "build", "load_shapes", "resnet50", "vgg16", "weights_folder"]

#: Mean of the training images in RGB that is subtracted from inputs in [0, 255].
MEAN = CAFFE_MEAN

#: Channels of the stages at full width, and convolutions (VGG16) or bottlenecks (ResNet-50) in each.
_VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
_BUILDERS = ("vgg16", "resnet50")


def _channels(full: int, width: float) -> int:
    """`full * width` as a whole number of channels."""
    channels = round(full * width)
    if channels < 1 or abs(channels - full * width) > 1e-6:
        raise ValueError(
            f"width {width} does not leave a whole number of channels of {full}: try 1/8, 3/16, 1/4, 1/2, 1"
        )
    return channels


class VGG16(nn.Module):
    """VGG16 with `width` times the usual channels; see `vgg16`."""

    def __init__(self, *, width: float, hidden: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for full, convolutions in _VGG16_STAGES:
            outputs = _channels(full, width)
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores (N, num_classes) of images (N, 3, H, W)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class ResNet50(nn.Module):
    """ResNet-50 (Caffe flavour) with `width` times the usual channels; see `resnet50`."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, *, width: float, num_classes: int) -> None:
        super().__init__()
        stem = _channels(64, width)
        self.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=True)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
        inputs = stem
        for number, (full, blocks) in enumerate(_RESNET50_STAGES, 1):
            planes = _channels(full, width)
            stage = self._stage(inputs, planes, blocks, stride=1 if number == 1 else 2)
            self.add_module(f"layer{number}", stage)
            inputs = planes * Bottleneck.expansion
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, num_classes)

    @staticmethod
    def _stage(inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        outputs = planes * Bottleneck.expansion
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
        stage = [Bottleneck(inputs, planes, stride, shortcut)]
        stage += [Bottleneck(outputs, planes) for _ in range(blocks - 1)]
        # torchvision strides in the 3x3 convolution, Caffe in the 1x1 before it.
        stage[0].conv1.stride, stage[0].conv2.stride = (stride, stride), (1, 1)
        return nn.Sequential(*stage)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores (N, num_classes) of images (N, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def vgg16(*, width: float = 1.0, hidden: int = 4096, num_classes: int = 20) -> VGG16:
    """TorchRay's VGG16 for VOC with fewer channels, randomly initialised.

    Args:
        width: Multiplier of the channels of every convolution; 64 times it must be whole.
        hidden: Units of the two hidden fully connected layers.
        num_classes: Number of classes.

    Returns:
        A network that maps images (N, 3, 224, 224) to scores (N, num_classes), in training mode.

    Raises:
        ValueError: If the width leaves a fraction of a channel.
    """
    return VGG16(width=width, hidden=hidden, num_classes=num_classes)


def resnet50(*, width: float = 1.0, num_classes: int = 20) -> ResNet50:
    """TorchRay's ResNet-50 for VOC with fewer channels, randomly initialised.

    Args:
        width: Multiplier of the channels of every convolution; 64 times it must be whole.
        num_classes: Number of classes.

    Returns:
        A network that maps images (N, 3, 224, 224) to scores (N, num_classes), in training mode.

    Raises:
        ValueError: If the width leaves a fraction of a channel.
    """
    return ResNet50(width=width, num_classes=num_classes)


def build(name: str, architecture: Mapping[str, Any]) -> VGG16 | ResNet50:
    """A randomly initialised network, in training mode.

    Args:
        name: "vgg16" or "resnet50".
        architecture: Arguments of the function of that name.
    """
    return vgg16(**architecture) if name == "vgg16" else resnet50(**architecture)


def weights_folder() -> Path:
    """The folder with the trained weights and `shapes.json`, which describes them."""
    return Path(__file__).parent / "weights"


def load_shapes(name: str) -> nn.Module:
    """A trained classifier of the shapes data set.

    Args:
        name: "vgg16" or "resnet50".

    Returns:
        The network in evaluation mode, float32, on the CPU. It maps images (N, 3, 224, 224), RGB in [0, 255] minus
        `MEAN`, to the scores (N, 20) of `sise.benchmark.datasets.scenes.CLASSES`.

    Raises:
        ValueError: If the name is unknown, or the weights are not the file that `shapes.json` describes.
        FileNotFoundError: If the weights or `shapes.json` are missing.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown network {name!r}: expected one of {', '.join(_BUILDERS)}")
    folder = weights_folder()
    command = f"{invocation.typed('train')} training=shapes training.model={name}"
    description, path = folder / "shapes.json", folder / f"shapes_{name}.pt"
    for needed in (description, path):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} is missing: run `{command}`")
    facts = json.loads(description.read_text(encoding="utf-8")).get(name)
    if facts is None:
        raise ValueError(f"{description} does not describe {name}: run `{command}`")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != facts["sha256"]:
        raise ValueError(
            f"{path} has sha256 {digest}, expected {facts['sha256']}: restore the file, or run `{command}`"
        )
    model = build(name, facts["architecture"])
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.float().eval()

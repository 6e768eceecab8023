"""A small anchor-free detector of the generated shapes: a head on the frozen features of the narrow ResNet-50."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

from sise.benchmark import invocation
from sise.benchmark.datasets.scenes import CLASSES, SIZE
from sise.benchmark.models import architectures
from sise.benchmark.models.weights import read_state
from sise.errors import SuiteError

__all__ = ["CELLS", "Detector", "Head", "describe", "detections", "detector", "matches", "network_input", "objects_of",
           "on_classifier", "scored", "shipped_weights"]  # fmt: skip

CELLS = 14
"""Along each side of the image: one proposal each, 196 together."""


class Head(nn.Sequential):
    """Features (N, C, h, w) -> (N, 5 + K, h, w): four distances, objectness and classes, each before its function."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        )  # fmt: skip
        last = nn.Conv2d(width, 5 + classes, 1)
        nn.init.constant_(cast("Tensor", last.bias)[4:5], -4.0)  # objects are rare
        self.append(last)


class Detector(nn.Module):
    """Proposals of images: a box, an objectness and class probabilities for each of 14 x 14 cells.

    A cell's box reaches from its middle by four distances, ``exp`` of the head's, in cells; objectness is a sigmoid,
    class probabilities are a softmax. Nothing is suppressed here: see :func:`detections`.
    """

    backbone: architectures.ResNet50
    head: Head
    middles: Tensor

    def __init__(self, backbone: architectures.ResNet50, *, width: int = 96, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = Head(backbone.fc.in_features // 2 * 3, width, classes)  # layer3 has half of layer4's channels
        along = torch.arange(CELLS) + 0.5
        middles = torch.stack([along.repeat(CELLS), along.repeat_interleave(CELLS)])  # x, y
        self.register_buffer("middles", middles, persistent=False)

    def stages(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 224, 224) RGB in [0, 255] minus ``MEAN`` -> layer3's (N, C, 14, 14) and layer4's (N, 2 C, 7, 7)."""
        net = self.backbone
        fine = net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))))
        return fine, net.layer4(fine)

    def proposals(self, found: Tensor) -> Tensor:
        """Of the head's (N, 5 + K, 14, 14), the (N, 196, 5 + K) vectors of :func:`detections`."""
        found = found.flatten(2)
        reach, middles = found[:, :4].clamp(max=5.0).exp(), self.middles
        boxes = torch.cat([middles - reach[:, :2], middles + reach[:, 2:]], dim=1).div(CELLS).clamp(0, 1)
        return torch.cat([boxes, found[:, 4:5].sigmoid(), found[:, 5:].softmax(dim=1)], dim=1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Proposals of images in rows (N, 196 * (5 + K)), as :func:`sise.baselines.d_rise.d_rise` takes them."""
        return self.proposals(self.head(join(*self.stages(x)))).flatten(1)


def on_classifier(width: int) -> Detector:
    """A detector with an untrained head on the shipped ResNet-50."""
    return Detector(cast("architectures.ResNet50", architectures.load_shapes("resnet50")), width=width)


def join(fine: Tensor, coarse: Tensor) -> Tensor:
    """(N, C, h, w) and (N, D, h / 2, w / 2) features -> (N, C + D, h, w)."""
    return torch.cat([fine, nn.functional.interpolate(coarse, scale_factor=2.0, mode="nearest")], dim=1)


def detections(proposals: Tensor, *, score: float = 0.3, overlap: float = 0.5) -> Tensor:
    """What is left of an image's proposals: the confident ones, without those that repeat a better one of their class.

    Args:
        proposals: (P, 5 + K): box x0, y0, x1, y1 as shares of the image's sides, objectness, K class probabilities.
        score: The least objectness times class probability.
        overlap: Of two boxes of one class with a larger IoU, the better one is kept (non-maximum suppression).

    Returns:
        (D, 5 + K), the best first.
    """
    scores, targets = scored(proposals)
    chosen = (scores >= score).nonzero()[:, 0]
    return proposals[chosen[batched_nms(proposals[chosen, :4], scores[chosen], targets[chosen], overlap)]]


def scored(proposals: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) scores, objectness times the largest class probability, and (P,) classes of (P, 5 + K) proposals."""
    best = proposals[:, 5:].max(dim=1)
    return proposals[:, 4] * best.values, best.indices


def objects_of(instances: np.ndarray, class_ids: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
    """What there is to find in a scene: objects of which a pixel is visible.

    Args:
        instances: (H, W), 0 for the background and k for the k-th object.
        class_ids: Of every object.

    Returns:
        (B, 4) boxes of what is visible, as shares of the image's sides, (B,) classes, and the B objects' numbers k.
    """
    boxes, classes, numbers = [], [], []
    for number, target in enumerate(class_ids, 1):
        rows, columns = (np.flatnonzero((instances == number).any(axis)) for axis in (1, 0))
        if len(rows):
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            classes.append(target)
            numbers.append(number)
    sides = torch.tensor([*instances.shape[::-1]] * 2, dtype=torch.float32)
    return (
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4) / sides,
        torch.tensor(classes, dtype=torch.long),
        numbers,
    )


def matches(found: Tensor, boxes: Tensor, classes: Tensor) -> list[tuple[int, float]]:
    """Which object each of (D, 5 + K) detections has found, the best detection choosing first.

    Args:
        found: Detections.
        boxes, classes: The objects', (B, 4) and (B,).

    Returns:
        For each detection the place of the object of its class that is left and has the largest IoU with it, of 0.5 and
        more, and that IoU; (-1, 0.0) if there is none.
    """
    scores, targets = scored(found)
    overlaps = box_iou(found[:, :4], boxes)
    chosen = [(-1, 0.0)] * len(found)
    free = torch.ones(len(boxes), dtype=torch.bool)
    for index in scores.argsort(descending=True, stable=True).tolist():
        allowed = torch.where(free & (classes == targets[index]), overlaps[index], -1.0)
        if len(boxes) and float(allowed.max()) >= 0.5:
            best = int(allowed.argmax())
            free[best] = False
            chosen[index] = best, float(allowed[best])
    return chosen


def shipped_weights() -> Path:
    """The weights of the head that ``training=detector`` made; ``detector.json`` beside them describes them."""
    return architectures.weights_folder() / "detector.pt"


def describe(path: Path) -> Path:
    """Where the facts about weights lie."""
    return path.with_suffix(".json")


def detector(weights: str | os.PathLike | None = None) -> Detector:
    """The detector in evaluation mode, float32, on the CPU.

    Args:
        weights: A file that ``training=detector`` wrote, with its ``.json``; None = the one that ships with the suite.

    Raises:
        SuiteError: If the weights or their description are missing or damaged, or the classifier that they were trained
            on is another one.
    """
    path = Path(weights) if weights is not None else shipped_weights()
    command = f"{invocation.typed('train')} training=detector"
    for needed in (path, describe(path)):
        if not needed.is_file():
            raise SuiteError(f"expected the detector's {needed}, found none; make it: {command}")
    try:
        facts = json.loads(describe(path).read_text(encoding="utf-8"))
        wanted, backbone, width = facts["sha256"], facts["backbone_sha256"], facts["architecture"]["width"]
    except (ValueError, KeyError, TypeError) as error:
        raise SuiteError(
            f"{describe(path)} does not describe a detector: {error}; restore it, or: {command}"
        ) from error
    for file, expected in ((path, wanted), (architectures.weights_folder() / "shapes_resnet50.pt", backbone)):
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != expected:
            raise SuiteError(f"{file} has sha256 {found}, expected {expected}: restore the file, or: {command}")
    made = on_classifier(width)
    made.head.load_state_dict(read_state(path))
    return made.float().eval()


def network_input(image: Tensor) -> Tensor:
    """(N, 224, 224, 3) uint8 scenes -> (N, 3, 224, 224) float32 network input."""
    if image.ndim != 4 or tuple(image.shape[1:]) != (SIZE, SIZE, 3):
        raise SuiteError(f"the detector sees scenes (N, {SIZE}, {SIZE}, 3); got {tuple(image.shape)}.")
    return image.permute(0, 3, 1, 2).float() - torch.tensor(architectures.MEAN).view(1, 3, 1, 1)

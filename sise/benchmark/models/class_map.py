"""ImageNet's 1000 classes as another data set's, and the head that averages over space."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sise.benchmark.datasets.base import read_lines
from sise.benchmark.datasets.imagenet import imagenet_classes
from sise.errors import SuiteError, choose

__all__ = ["OTHER_CLASS", "ClassMap", "SpatialMean", "read_class_map"]

#: Name of the last score of a network behind a `ClassMap`.
OTHER_CLASS = "(other ImageNet classes)"
_CLASS_MAPS = {"voc": "voc2007", "coco": "coco2014"}

POOLS = ("mean", "logsumexp")


class _MeanWithPeaks(torch.autograd.Function):
    """(N, K, P) -> (N, K): the mean over positions going forward, the gradient of logsumexp over them going back."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.save_for_backward(scores)
        return scores.mean(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (scores,) = ctx.saved_tensors
        return gradient[..., None] * scores.softmax(2)


class SpatialMean(nn.Module):
    """A fully convolutional classifier, (N, K, h, w) scores, as a classifier with (N, K): the mean over positions.

    Args:
        network: The classifier; its layers are called ``network.<name>`` here.
        pool: How gradients are shared among the positions: ``mean``, equally, or ``logsumexp``, by the softmax of the
            class's scores over positions, as TorchRay's pointing game seeds its backward pass (PROTOCOL M2). The scores
            are the mean either way. With one position both are the same.

    Raises:
        SuiteError: If ``pool`` is unknown.
    """

    def __init__(self, network: nn.Module, pool: str = "mean") -> None:
        super().__init__()
        self.network, self.pool = network, choose("pool", pool, POOLS)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        scores = self.network(image).flatten(2)
        return scores.mean(2) if self.pool == "mean" else _MeanWithPeaks.apply(scores)


class ClassMap(nn.Module):
    """An ImageNet classifier that scores the classes of another data set.

    A class's score is the logsumexp of the scores of its ImageNet classes, and a last score the logsumexp of all
    ImageNet classes without a class, so that after softmax a class has exactly the probability of its ImageNet
    classes together.

    Args:
        network: ``(N, 3, H, W) -> (N, L)`` scores; its layers are called ``network.<name>`` here.
        groups: Score indices of each class, disjoint and not empty.
        outputs: L.

    Attributes:
        classes: Names of the (N, K + 1) scores; the last is `OTHER_CLASS`.

    Raises:
        SuiteError: If groups are empty, overlap, leave the range or leave nothing over.
    """

    def __init__(self, network: nn.Module, groups: Mapping[str, Sequence[int]], outputs: int = 1000) -> None:
        super().__init__()
        used = [index for group in groups.values() for index in group]
        rest = sorted(set(range(outputs)) - set(used))
        if not groups or not all(groups.values()) or len(set(used)) != len(used) or not rest:
            raise SuiteError("class map: expected disjoint, non-empty groups that leave some classes over")
        if min(used) < 0 or max(used) >= outputs:
            raise SuiteError(f"class map: expected indices in 0..{outputs - 1}, got {min(used)}..{max(used)}")
        self.network = network
        self.classes = (*groups, OTHER_CLASS)
        longest = max(map(len, groups.values()))
        # Shorter groups are filled up with the index of a score of minus infinity, which adds nothing.
        padded = [[*group, *[outputs] * (longest - len(group))] for group in groups.values()]
        self.members: Tensor
        self.rest: Tensor
        self.register_buffer("members", torch.tensor(padded))
        self.register_buffer("rest", torch.tensor(rest))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K + 1)."""
        scores = self.network(image)
        members = functional.pad(scores, (0, 1), value=float("-inf"))[:, self.members]
        other = scores[:, self.rest].logsumexp(1, keepdim=True)
        return torch.cat([members.logsumexp(2), other], dim=1)


def read_class_map(name: str) -> dict[str, tuple[int, ...]]:
    """The ImageNet classes of each class of a data set, from ``classmaps/<name>.csv``.

    Args:
        name: "voc2007" or "coco2014".

    Returns:
        Indices into `imagenet_classes` per class name. Classes without an adequate ImageNet class are not in it.

    Raises:
        SuiteError: If the table does not agree with the names of the ImageNet classes.
    """
    choose("class map", name, tuple(_CLASS_MAPS.values()))
    path = Path(__file__).parent / "classmaps" / f"{name}.csv"
    groups: dict[str, list[int]] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            index = int(row["imagenet_index"])
            if imagenet_classes()[index] != row["imagenet_name"]:
                raise SuiteError(f"{path}: ImageNet class {index} is {imagenet_classes()[index]!r}, got {row}")
            groups.setdefault(row["class"], []).append(index)
    return {class_name: tuple(indices) for class_name, indices in groups.items()}


# --- ImageNet networks ------------------------------------------------------------------------------------------------
def _class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The names in a text file, one a line, in the order of the network's scores."""
    try:
        return tuple(read_lines(Path(path)))
    except (OSError, ValueError) as error:
        raise SuiteError(f"model.classes: expected a text file with one class name a line: {error}") from error


def scoring_classes_of(
    network: nn.Module, classes_of: str, outputs: int = 1000, classes: str | os.PathLike | None = None
) -> tuple[nn.Module, tuple[str, ...], str]:
    """The network with scores for a data set's classes, their names, and the prefix its layers' names get.

    Raises:
        SuiteError: If the names are not as many as the scores, or the classes are not known to be the data set's.
    """
    if classes is not None:
        names = _class_names(classes)
        if len(names) != outputs:
            raise SuiteError(f"{classes} names {len(names)} classes, the network scores {outputs}")
        return network, names, ""
    if outputs != 1000:
        if classes_of != "imagenet":
            raise SuiteError(
                f"the network scores {outputs} classes without names, so none is known to be one of {classes_of}'s; "
                "give a text file of their names, one a line, with model.classes=<file>"
            )
        return network, tuple(f"class {i}" for i in range(outputs)), ""
    if classes_of == "shapes":
        raise SuiteError(
            "an ImageNet network and the dataset shapes have no class in common; use model=vgg16 or model=resnet50 "
            "with it, or another dataset with this network"
        )
    if choose("classes_of", classes_of, ("imagenet", *_CLASS_MAPS)) == "imagenet":
        return network, imagenet_classes(), ""
    mapped = ClassMap(network, read_class_map(_CLASS_MAPS[classes_of]))
    return mapped, mapped.classes, "network."

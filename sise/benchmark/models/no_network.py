"""``model=no_network``: for explainers that read neither a network nor a picture, such as the centre.

Their maps need the annotations alone, so a data set's ground truth is enough to run them: no weights are loaded and no
picture is opened. A map is as large as the image, since there is no network's grid to bring it to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sise.benchmark.datasets import scenes
from sise.benchmark.datasets.coco2014 import COCO_CLASSES
from sise.benchmark.datasets.imagenet import imagenet_classes
from sise.benchmark.datasets.voc2007 import VOC_CLASSES
from sise.errors import SuiteError, choose
from sise.maps import upsample
from sise.types import CountedDataset, Dataset, Model, Sample, VerifiedDataset

CLASSES: dict[str, Callable[[], tuple[str, ...]]] = {
    "voc": lambda: VOC_CLASSES,
    "coco": lambda: COCO_CLASSES,
    "shapes": lambda: scenes.CLASSES,
    "imagenet": imagenet_classes,
}
"""The classes of the data sets of images, by ``dataset.networks``."""


class NoScores(nn.Module):
    """Stands where a network would and scores nothing."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Refuses.

        Raises:
            SuiteError: Always.
        """
        raise SuiteError(
            "model=no_network scores nothing: it is for explainers that read no network (centre, uniform, random, "
            "smooth_noise, ground_truth) and metrics that read none (metrics=pointing); choose another model"
        )


@dataclass(frozen=True)
class OwnGrid:
    """A ``preprocess`` that only tells an image's size; its grid is the image's own."""

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, h, w) zeros of the image's size."""
        return torch.zeros(3, image.height, image.width)

    def resize_mask(self, mask: np.ndarray) -> np.ndarray:
        """The mask (h, w) as it is."""
        return mask

    def restore_map(self, saliency: Tensor, size: tuple[int, int]) -> Tensor:
        """The map (h, w), which has the image's size already."""
        return upsample(saliency[None], size)[0]


def no_network(networks: str, *, name: str = "no_network") -> Model:
    """Makes the model that stands for no network.

    Args:
        networks: Which classes to name: ``voc``, ``coco``, ``shapes`` or ``imagenet``.
        name: Name in configs and tables.

    Returns:
        The model; ``official``, since no weights are in it that could be others than the published ones.

    Raises:
        SuiteError: If there are no such classes.
    """
    classes, grid = CLASSES[choose("dataset.networks", networks, tuple(CLASSES))](), OwnGrid()
    return Model(
        network=NoScores().eval(), name=name, classes=classes, layers=(), cam_layer="", preprocess=grid,
        resize_mask=grid.resize_mask, black=(0.0, 0.0, 0.0), mean=(0.0, 0.0, 0.0), weights_hash="no network",
        note="no network and no picture: the annotations alone", official=True, has_network=False,
    )  # fmt: skip


def read_sample(dataset: Dataset, model: Model, image_id: str) -> Sample:
    """Reads a sample; without its picture where there is no network to see it.

    Args:
        dataset: Where it is from.
        model: A black image of the annotated size stands for the picture if it has no network.
        image_id: Its id.

    Raises:
        SuiteError: As reading the sample does.
    """
    if model.has_network or not isinstance(dataset, VerifiedDataset):
        return dataset[image_id]
    masks, info = dataset.ground_truth_of(image_id)
    height, width = masks.shape[1:]
    return Sample(image_id, Image.new("RGB", (width, height)), dataset.targets_of(image_id), masks, info)


def completeness(dataset: Dataset, model: Model) -> tuple[bool, str]:
    """Whether all of the published data set was found, as far as the model reads it, and a sentence about it."""
    if not model.has_network and isinstance(dataset, VerifiedDataset):
        return dataset.verify_annotations()
    return dataset.verify_counts() if isinstance(dataset, CountedDataset) else (True, "")

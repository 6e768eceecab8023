"""What a record says of its (image, target) pair whatever the explainer: is the network sure, where is the object."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from sise.benchmark.datasets.pointing_subsets import subsets_of
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.probing import predicted
from sise.probe.probe import Probe
from sise.types import Sample


class Pairs:
    """One image and its pairs: what holds for all explainers is found out once.

    Args:
        sample: As the dataset has it.
        probe: Of what the network sees of it.
    """

    def __init__(self, sample: Sample, probe: Probe) -> None:
        self.sample, self.probe = sample, probe
        self._facts: dict[int, dict[str, Any]] = {}
        self._subsets: dict[int, list[str]] = {}
        self._masks: Tensor | None = None

    def facts(self, cell: Cell, target: int) -> dict[str, Any]:
        """What a record says of the pair: the network's confidence, the object, the data set's own flags."""
        if target not in self._facts:
            output, sample = cell.outputs[cell.dataset.classes[target]], self.sample
            facts: dict[str, Any] = {}
            if cell.model.has_network:
                rank = confidence_rank(self.probe.scores(), output)
                facts |= {"confidence": self.probe.confidence(output), "confidence_rank": rank}
            facts |= object_facts(self.probe.ground_truth[output], len(sample.targets))
            if "cluster" in sample.info:
                facts["cluster"] = sample.info["cluster"]
            if target in sample.targets and "difficult" in sample.info:
                facts["difficult"] = bool(sample.info["difficult"][sample.targets.index(target)])
            self._facts[target] = facts
        return self._facts[target]

    def subsets(self, cell: Cell, target: int) -> list[str]:
        """The pointing game's subsets that the pair belongs to."""
        if target not in self._subsets:
            seen = cell.model.has_network and target in predicted(cell, self.sample, self.probe)
            self._subsets[target] = subsets_of(self.sample, target, cell.dataset.name, predicted=seen)
        return self._subsets[target]

    def mask(self, target: int) -> Tensor:
        """(h, w) bool at the image's own size, on the probe's device; all False for a class that is not annotated."""
        if self._masks is None:
            masks = np.asarray(self.sample.masks)
            self._masks = torch.as_tensor(masks, dtype=torch.bool, device=self.probe.device)
        if target not in self.sample.targets:
            return self._masks.new_zeros(self._masks.shape[1:])
        return self._masks[self.sample.targets.index(target)]


def confidence_rank(scores: Tensor, output: int) -> int:
    """Returns 1 for the class that the network finds likeliest in the whole image, 2 for the next, ...

    Args:
        scores: (K,) of the image.
        output: Index of the target's score; equal ones share a rank.
    """
    return 1 + int((scores > scores[output]).sum())


def object_facts(mask: Tensor, classes_in_image: int) -> dict[str, Any]:
    """Facts by which tables make strata, besides the network's confidence.

    Args:
        mask: (H, W) bool, the target's region on the network's grid; all False where there is none.
        classes_in_image: How many classes are annotated in the image.

    Returns:
        ``mask_fraction``: share of the image that the mask covers. ``classes_in_image``. ``regions``: connected parts
        of the mask, pixels that touch at a corner being connected: about the number of separate objects.
    """
    found = mask.cpu().numpy()
    touching = np.ones((3,) * found.ndim, dtype=bool)
    return {
        "mask_fraction": float(mask.float().mean()),
        "classes_in_image": classes_in_image,
        "regions": int(ndimage.label(found, touching)[1]),
    }

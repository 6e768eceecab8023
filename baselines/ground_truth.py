"""Control: the answer itself. How high a metric goes for a map that shows the annotation, not the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sise.errors import SuiteError, choose

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def ground_truth(
    probe: Probe, targets: Sequence[int], *, shape: Literal["box", "mask"] = "box", region: str = "object"
) -> Tensor:
    """The ground-truth region as a saliency map; runs no network.

    A localization metric that ranks it first rewards agreement with the annotator, whatever the network
    looked at. This explainer alone may see the annotation, which the harness puts at ``probe.ground_truth``.

    Args:
        probe: Its ``ground_truth`` is a mapping from target to mask, (H, W) bool at the probe's size.
        targets: T class indices.
        shape: ``box`` fills the tightest box around the mask (one box, even if the mask has several parts);
            ``mask`` is the mask itself.
        region: ``object``, or another region that the data set knows, by its name in ``probe.regions``, the same for
            every target: of a watermark that the network looks at, this is the map that no explainer can better.

    Returns:
        (T, H, W) float32, 1 inside and 0 outside; zero for an empty mask.

    Raises:
        SuiteError: If the probe carries no ground truth, none for a target, no such region, or a mask of another size.
    """
    choose("shape", shape, ("box", "mask"))
    masks = probe.ground_truth
    if not masks:
        raise SuiteError(
            "the ground_truth control needs the sample's masks at probe.ground_truth, {target: (H, W) bool}, "
            "got none; the harness puts them there, in your own code set it before explaining"
        )
    if region != "object":
        masks = dict.fromkeys(targets, probe.regions[choose("region", region, ("object", *probe.regions))])
    saliency = torch.zeros(len(targets), *probe.size, device=probe.device)
    for filled, target in zip(saliency, targets, strict=True):
        if target not in masks:
            raise SuiteError(f"probe.ground_truth has no mask for target {target}, only for {sorted(masks)}")
        mask = torch.as_tensor(masks[target], device=probe.device).bool()
        if mask.shape != filled.shape:
            raise SuiteError(
                f"the mask of target {target} must have the image's size {tuple(filled.shape)}, got "
                f"{tuple(mask.shape)}; resize it with the model's resize_mask"
            )
        if shape == "mask":
            filled[mask] = 1
        elif mask.any():
            box = [slice(int(along.min()), int(along.max()) + 1) for along in mask.nonzero().unbind(1)]
            filled[tuple(box)] = 1
    return saliency

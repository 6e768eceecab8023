"""Score-CAM: feature maps weighted by the confidence of the image seen through them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import cam_layer_of, check_targets, no_maps, weighted_maps
from sise.maps import minmax, upsample
from sise.probe.probe import Probe


def score_cam(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    baseline_subtract: bool = False,
    channel_softmax: bool = False,
) -> Tensor:
    """Score-CAM: ``ReLU(sum_k w_k U(A_k))``, ``w_k`` = confidence of the image under the mask made of ``A_k``.

    Every channel that is not constant over the image costs one forward pass, shared by all targets and by every
    other method that asks the probe for the same masks.

    Args:
        probe: One image as one network sees it. Its confidence is the weight: softmax in the authors' code.
        targets: T class indices.
        layer: Layer whose feature maps are used; None takes the probe's ``cam_layer``.
        baseline_subtract: Subtract the confidence of the wholly masked image (the paper's "channel-wise increase of
            confidence"); the authors' code does not.
        channel_softmax: Turn the weights into their softmax over the live channels (the paper's algorithm 1); the
            authors' code does not.

    Returns:
        (T, H, W) in [0, 1]: the weighted sum of the maps as they are, upsampled (once, bilinear resizing is
        linear), rectified, min-max per map. Constant channels are left out, as in the authors' code; zero
        everywhere where all are constant.

    Raises:
        SuiteError: If no layer is known or a target is not a class.

    Reference:
        Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", CVPR
        Workshops 2020.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    lo, hi = probe.extrema(layer)
    live = (hi > lo).nonzero()[:, 0]
    if not len(live):
        return torch.zeros(len(targets), *probe.size, device=maps.device)
    weights = probe.masked_confidences(layer, live, targets).T
    if baseline_subtract:
        nothing = torch.zeros(1, *probe.size, dtype=torch.bool, device=maps.device)
        weights = weights - probe.to_confidence(probe.score_masks(nothing))[:, targets].T
    if channel_softmax:
        weights = weights.softmax(dim=1)
    saliency = upsample(weighted_maps(weights, maps[live]), probe.size)
    return minmax(F.relu(saliency), len(probe.size))

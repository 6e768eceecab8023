"""Gradient times input: the first-order share of each pixel in a score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.probe.probe import Probe
from sise.ranges import FromZero


def gradient_x_input(
    probe: Probe, targets: Sequence[int], *, reduce: Reduce = "sum_positive", smooth: FromZero = 0.0
) -> Tensor:
    """Gradient x Input: ``sum_c x_c dz/dx_c``, z the score before the softmax.

    x is the network's own input: where a mean is subtracted, a pixel of the mean colour gets 0 whatever its gradient.
    For a network of piecewise linear operations without biases, the signed map sums to z.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`.
        smooth: Gaussian over the map, as a fraction of the longer side.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If a target is not a class, ``reduce`` is unknown, or the network has no gradient.

    Reference:
        Shrikumar, Greenside, Shcherbina and Kundaje, "Not Just a Black Box: Learning Important Features Through
        Propagating Activation Differences", 2016, its baseline "gradient * input" [R: from memory of the paper].
    """
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    gradients = torch.stack([probe.image_gradient(target, of="logit") for target in targets])
    return attribution_maps(probe.image * gradients, probe.size, reduce, smooth)

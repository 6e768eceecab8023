"""The gradient of a score with respect to the image's pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.choices import GradientScore
from sise.probe.probe import Probe
from sise.ranges import FromZero


def gradient(
    probe: Probe,
    targets: Sequence[int],
    *,
    of: GradientScore = "logit",
    reduce: Reduce = "abs_max",
    smooth: FromZero = 0.0,
) -> Tensor:
    """Gradient: ``max_c |dy/dx_c|`` over the channels of the network's input.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        of: The scalar y: ``logit``, ``log_odds`` or ``softmax_f32``.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`; ``abs_max`` is the paper's.
        smooth: Gaussian over the map, as a fraction of the longer side; TorchRay's pointing game uses 0.02.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If a target is not a class, ``reduce`` or ``of`` is unknown, or the network has no gradient.

    Reference:
        Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification Models
        and Saliency Maps", ICLR Workshops 2014, section 3.
    """
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    gradients = torch.stack([probe.image_gradient(target, of=of) for target in targets])
    return attribution_maps(gradients, probe.size, reduce, smooth)

"""Linear approximation: gradient times activation at a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, cam_layer_of, check_targets, no_maps
from sise.probe.probe import Probe
from sise.ranges import FromZero


def linear_approx(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    reduce: Reduce = "sum_positive",
    smooth: FromZero = 0.0,
) -> Tensor:
    """Linear approximation: ``sum_k A_k dz/dA_k``, A a layer's feature maps, z the score before the softmax.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: The layer; None takes the probe's ``cam_layer``. At the image itself it is ``gradient_x_input``.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`; ``sum_positive`` is HiResCAM but for
            the
            order of rectifying and resizing, which is the same here: the sum is rectified at the layer's resolution.
        smooth: Gaussian over the map, as a fraction of the longer side.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If no layer is known, a target is not a class, or ``reduce`` is unknown.

    Reference:
        ``torchray.attribution.linear_approx``, the code of Fong, Patrick and Vedaldi, ICCV 2019.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    gradients = torch.stack([probe.gradients(layer, target, of="logit") for target in targets])
    return attribution_maps(probe.feature_maps(layer) * gradients, probe.size, reduce, smooth)

"""Guided Grad-CAM: guided backpropagation within Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import (
    Reduce,
    attribution_maps,
    cam_layer_of,
    check_targets,
    locations,
    no_maps,
    weighted_maps,
)
from sise.baselines.guided_backprop import guided_gradients
from sise.maps import upsample
from sise.probe.probe import Probe
from sise.ranges import FromZero


def guided_grad_cam(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    reduce: Reduce = "abs_max",
    smooth: FromZero = 0.0,
) -> Tensor:
    """Guided Grad-CAM: the signed guided gradients, each channel times the resized Grad-CAM.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Grad-CAM's layer; None takes the probe's ``cam_layer``.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`.
        smooth: Gaussian over the map, as a fraction of the longer side.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If no layer is known, a target is not a class, or the network has no rectifier.

    Reference:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
        ICCV 2017, section 3.1.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    weights = torch.stack([probe.gradients(layer, target, of="logit").mean(dim=locations(maps)) for target in targets])
    cams = upsample(F.relu(weighted_maps(weights, maps)), probe.size)
    return attribution_maps(guided_gradients(probe, targets) * cams[:, None], probe.size, reduce, smooth)

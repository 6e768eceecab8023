"""Grad-CAM: feature maps weighted by their mean gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import (
    Upsampling,
    cam_layer_of,
    check_targets,
    locations,
    no_maps,
    to_saliency,
    weighted_maps,
)
from sise.choices import GradientScore
from sise.probe.probe import Probe


def grad_cam(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    of: GradientScore = "logit",
    upsampling: Upsampling = "bilinear",
) -> Tensor:
    """Grad-CAM: ``ReLU(sum_k mean(dy/dA_k) A_k)`` at the last convolutional layer.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Layer whose feature maps A are summed; None takes the probe's ``cam_layer``.
        of: The scalar y. ``logit`` is the paper's "before the softmax". ``log_odds`` gives the map of the softmax
            probability (its gradient up to a positive factor, which min-max removes) without its rounding trouble.
        upsampling: ``bilinear``, or ``cubic`` splines as SISE's authors use
            (:func:`sise.baselines.common.to_saliency`).

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map (``cubic``: slightly
        negative in places). Zero everywhere where no location has positive evidence.

    Raises:
        SuiteError: If no layer is known or a target is not a class.

    Reference:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
        ICCV 2017, equations 1 and 2.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    weights = torch.stack([probe.gradients(layer, target, of=of).mean(dim=locations(maps)) for target in targets])
    return to_saliency(F.relu(weighted_maps(weights, maps)), probe.size, upsampling)

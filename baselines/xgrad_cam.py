"""XGrad-CAM: feature maps weighted by the mean of the gradients where they are active."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.common import cam_layer_of, check_targets, locations, no_maps, to_saliency, weighted_maps
from sise.probe import Probe


def xgrad_cam(
    probe: Probe, targets: Sequence[int], *, layer: str | None = None, upsampling: str = "bilinear"
) -> Tensor:
    """XGrad-CAM: ``ReLU(sum_k w_k A_k)`` with ``w_k = sum g_k A_k / (sum A_k + 1e-7)``, sums over places.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Layer whose feature maps A are summed; None takes the probe's ``cam_layer``. g is the gradient of the
            score before the softmax with respect to them.
        upsampling: ``bilinear``, or ``cubic`` splines (:func:`baselines.common.to_saliency`).

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map.

    Raises:
        SuiteError: If no layer is known or a target is not a class.

    Reference:
        Fu, Hu, Dong, Guo, Gao and Li, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs",
        BMVC 2020; the constant as in the authors' code.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    gradients = torch.stack([probe.gradients(layer, target, of="logit") for target in targets])
    everywhere = locations(maps)
    shares = (gradients * maps).flatten(2).sum(dim=2) / (maps.sum(dim=everywhere) + 1e-7)
    return to_saliency(F.relu(weighted_maps(shares, maps)), probe.size, upsampling)

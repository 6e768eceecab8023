"""LayerCAM: positive gradients times feature maps, place by place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.common import cam_layer_of, check_targets, no_maps, to_saliency
from sise.probe import Probe


def layer_cam(
    probe: Probe, targets: Sequence[int], *, layer: str | None = None, upsampling: str = "bilinear"
) -> Tensor:
    """LayerCAM: ``ReLU(sum_k ReLU(g_k) A_k)``.

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
        Jiang, Zhang, Hou, Cheng and Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
        IEEE TIP 2021.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    gradients = torch.stack([probe.gradients(layer, target, of="logit") for target in targets])
    return to_saliency(F.relu((F.relu(gradients) * maps).sum(dim=1)), probe.size, upsampling)

"""LayerCAM: positive gradients times feature maps, place by place."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import Upsampling, gradient_cam
from sise.probe.probe import Probe


def layer_cam(
    probe: Probe, targets: Sequence[int], *, layer: str | None = None, upsampling: Upsampling = "bilinear"
) -> Tensor:
    """LayerCAM: ``ReLU(sum_k ReLU(g_k) A_k)``.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Layer whose feature maps A are summed; None takes the probe's ``cam_layer``. g is the gradient of the
            score before the softmax with respect to them.
        upsampling: ``bilinear``, or ``cubic`` splines (:func:`sise.baselines.common.to_saliency`).

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map.

    Raises:
        SuiteError: If no layer is known or a target is not a class.

    Reference:
        Jiang, Zhang, Hou, Cheng and Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
        IEEE TIP 2021.
    """
    return gradient_cam(
        probe, targets, layer, upsampling, lambda gradients, maps: (F.relu(gradients) * maps).sum(dim=1)
    )

"""XGrad-CAM: feature maps weighted by the mean of the gradients where they are active."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sise.baselines.common import Upsampling, gradient_cam, locations, weighted_maps
from sise.probe.probe import Probe


def xgrad_cam(
    probe: Probe, targets: Sequence[int], *, layer: str | None = None, upsampling: Upsampling = "bilinear"
) -> Tensor:
    """XGrad-CAM: ``ReLU(sum_k w_k A_k)`` with ``w_k = sum g_k A_k / (sum A_k + 1e-7)``, sums over places.

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
        Fu, Hu, Dong, Guo, Gao and Li, "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs",
        BMVC 2020; the constant as in the authors' code.
    """

    def combine(gradients: Tensor, maps: Tensor) -> Tensor:
        shares = (gradients * maps).flatten(2).sum(dim=2) / (maps.sum(dim=locations(maps)) + 1e-7)
        return weighted_maps(shares, maps)

    return gradient_cam(probe, targets, layer, upsampling, combine)

"""HiResCAM: gradients times feature maps, place by place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sise.baselines.common import Upsampling, gradient_cam
from sise.probe.probe import Probe


def hires_cam(
    probe: Probe, targets: Sequence[int], *, layer: str | None = None, upsampling: Upsampling = "bilinear"
) -> Tensor:
    """HiResCAM: ``ReLU(sum_k g_k A_k)``.

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
        Draelos and Carin, "Use HiResCAM instead of Grad-CAM for Faithful Explanations of Convolutional Neural
        Networks", 2020.
    """
    return gradient_cam(probe, targets, layer, upsampling, lambda gradients, maps: (gradients * maps).sum(dim=1))

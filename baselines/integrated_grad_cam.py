"""Integrated Grad-CAM: Grad-CAM along the line from black to the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import Upsampling, cam_layer_of, check_targets, layer_gradients, no_maps, to_saliency
from sise.errors import SuiteError
from sise.maps import over_map
from sise.probe.probe import Probe
from sise.ranges import Count


def integrated_grad_cam(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    n_steps: Count = 50,
    upsampling: Upsampling = "bilinear",
    batch_size: Count = 10,
) -> Tensor:
    """Integrated Grad-CAM: ``sum_i ReLU(sum_k mean(g_k(x_i)) A_k(x_i))`` with ``x_i = i / n x``, i = 0 to n - 1.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Layer of the feature maps A; None takes the probe's ``cam_layer``. g is the gradient of the score before
            the softmax with respect to them.
        n_steps: n, each one forward pass, and one backward pass per target.
        upsampling: ``bilinear``, or ``cubic`` splines (:func:`sise.baselines.common.to_saliency`).
        batch_size: Points through the network at once; no numeric effect but float rounding.

    Returns:
        (T, H, W) in [0, 1]: summed at the layer's resolution, upsampled, min-max per map.

    Raises:
        SuiteError: If no layer is known, a target is not a class, or a number is out of its range.

    Reference:
        Sattarzadeh, Sudhakar, Plataniotis, Jang, Jeong and Kim, "Integrated Grad-CAM: Sensitivity-Aware Visual
        Explanation of Deep Convolutional Networks via Integrated Gradient-Based Scoring", ICASSP 2021; the sum as in
        the authors' code.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if n_steps < 1 or batch_size < 1:
        raise SuiteError(f"expected n_steps >= 1 and batch_size >= 1; got {n_steps} and {batch_size}.")
    if not targets:
        return no_maps(probe)
    total = torch.zeros(())
    for steps in (torch.arange(n_steps, device=probe.device) / n_steps).split(batch_size):
        points = over_map(steps, probe.image.expand(len(steps), *probe.image.shape[1:])) * probe.image
        _, maps, gradients = layer_gradients(probe, points, layer, targets)
        weights = gradients.flatten(3).mean(dim=3).view(*gradients.shape[:3], *[1] * len(probe.size))
        total = total + F.relu((weights * maps).sum(dim=2)).double().sum(dim=1)
    return to_saliency(total.float(), probe.size, upsampling)

"""Smooth Grad-CAM++: Grad-CAM++ of gradients averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import (
    Upsampling,
    cam_layer_of,
    check_targets,
    layer_gradients,
    no_maps,
    noisy_copies,
    to_saliency,
    weighted_maps,
)
from sise.baselines.rules import divided
from sise.errors import SuiteError
from sise.maps import over_map
from sise.probe.probe import Probe
from sise.ranges import Count, FromZero, Seed


def smooth_grad_cam_pp(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    n: Count = 4,
    noise: FromZero = 0.3,
    upsampling: Upsampling = "bilinear",
    seed: Seed = 0,
) -> Tensor:
    """Smooth Grad-CAM++: ``ReLU(sum_k w_k A_k)``, w of the means over noisy copies of g, g^2 and g^3.

    ``w_k = sum of alpha_k ReLU(mean g_k)`` with ``alpha = mean g^2 / (2 mean g^2 + sum of A mean g^3)``, sums over
    places; A are the feature maps of the image itself, and 0/0 = 0.

    Args:
        probe: One image as one network sees it.
        targets: T class indices; all of them read one set of copies.
        layer: Layer of the feature maps A; None takes the probe's ``cam_layer``. g is the gradient of the score before
            the softmax with respect to them.
        n: Copies, each one forward pass, and one backward pass per target.
        noise: Standard deviation of the Gaussian noise, as a share of the range of the network's input.
        upsampling: ``bilinear``, or ``cubic`` splines (:func:`sise.baselines.common.to_saliency`).
        seed: Of the noise; torch's own generator is not touched.

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map.

    Raises:
        SuiteError: If no layer is known, a target is not a class, or a number is out of its range.

    Reference:
        Omeiza, Speakman, Cintas and Weldermariam, "Smooth Grad-CAM++: An Enhanced Inference Level Visualization
        Technique for Deep Convolutional Neural Network Models", 2019 [R]; alpha as in torchcam, which however takes
        the last copy's g instead of the mean.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if n < 1 or noise < 0:
        raise SuiteError(f"expected n >= 1 and noise >= 0; got {n} and {noise}.")
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    _, _, gradients = layer_gradients(probe, noisy_copies(probe, n, noise, seed), layer, targets)
    weights = []
    for found in gradients.double():
        squares, cubes = (found**2).mean(dim=0), (found**3).mean(dim=0)
        products = over_map((cubes * maps).flatten(1).sum(dim=1), maps)
        alpha = divided(squares, 2 * squares + products)
        weights.append((alpha * F.relu(found.mean(dim=0))).flatten(1).sum(dim=1))
    return to_saliency(F.relu(weighted_maps(torch.stack(weights), maps)), probe.size, upsampling)

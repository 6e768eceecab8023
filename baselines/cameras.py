"""CAMERAS: feature maps and gradients averaged over sizes of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import cam_layer_of, check_targets, layer_gradients, no_maps
from sise.errors import SuiteError
from sise.maps import minmax, upsample
from sise.probe.probe import Probe
from sise.ranges import EachPositive


def cameras(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    scales: EachPositive = (224 / 224, 324 / 224, 424 / 224, 524 / 224),
) -> Tensor:
    """CAMERAS: ``ReLU(sum_k mean(g_k) mean(A_k))``, means over sizes of the image, each resized to the image's own.

    The image is resized bicubically, without a clamp. The network must take other sizes than its own; memory and time
    grow with the square of the scale. Costs are counted in passes of the image's own size.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Layer of the feature maps A; None takes the probe's ``cam_layer``. g is the gradient of the score before
            the softmax with respect to them.
        scales: Sizes, as multiples of the image's. The default is that of the authors' README; their code goes on to
            924 / 224.

    Returns:
        (T, H, W) in [0, 1], min-max per map.

    Raises:
        SuiteError: If no layer is known, a target is not a class, a scale is not positive, or the probe is of a signal.

    Reference:
        Jalwana, Akhtar, Bennamoun and Mian, "CAMERAS: Enhanced Resolution And Sanity preserving Class Activation
        Mapping for image saliency", CVPR 2021.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if len(probe.size) != 2:
        raise SuiteError("CAMERAS resizes images (1, C, H, W); for a signal use hires_cam, which it is at scale 1.")
    if not scales or not all(scale > 0 for scale in scales):
        raise SuiteError(f"scales must be positive multiples of the image's size, at least one; got {list(scales)}.")
    if not targets:
        return no_maps(probe)
    mean_maps: Tensor | float = 0.0
    mean_gradients: list = [0.0] * len(targets)
    for scale in scales:
        size = tuple(max(1, round(side * scale)) for side in probe.size)
        image = probe.image
        if size != probe.size:
            image = F.interpolate(image, size=size, mode="bicubic", align_corners=False)
        _, maps, gradients = layer_gradients(probe, image, layer, targets)
        mean_maps = mean_maps + upsample(maps[0], probe.size) / len(scales)
        for number, gradient in enumerate(gradients[:, 0]):
            mean_gradients[number] = mean_gradients[number] + upsample(gradient, probe.size) / len(scales)
    return minmax(torch.stack([F.relu((mean_maps * g).sum(dim=0)) for g in mean_gradients]))

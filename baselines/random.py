"""Control: noise. The chance level of the metrics without the ties of a uniform map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sise.errors import SuiteError
from sise.maps import upsample
from sise.ranges import FromTwo, Seed

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def random(probe: Probe, targets: Sequence[int], *, cells: FromTwo | None = None, seed: Seed | None = None) -> Tensor:
    """Uniform noise, drawn anew for every seed and target; runs no network.

    By default independent per pixel: then EBPG and Bbox have the mask's share of the image as their mean, as
    for a uniform map, but the kept pixels are scattered and leave a network little to recognise. With
    ``cells`` the noise is smooth, so that the kept pixels form blobs like an explainer's: the harder control
    for Drop and Increase.

    Args:
        probe: Only its size, device and seed are read.
        targets: T class indices. A target's map does not depend on which others are asked for.
        cells: None for one value per pixel, else values on a cells × cells grid, bilinearly enlarged (on a signal:
            ``cells`` values, linearly).
        seed: Replaces the probe's seed, which differs from image to image: every image then gets the same
            noise.

    Returns:
        (T, H, W) float32 in [0, 1), the same on every device; smooth noise is min–max normalised to [0, 1].

    Raises:
        SuiteError: If ``cells`` is less than 2 (one cell is a uniform map).
    """
    if cells is not None and cells < 2:
        raise SuiteError(f"cells must be at least 2, or None for noise per pixel, got {cells}")
    shape = probe.size if cells is None else (cells,) * len(probe.size)
    base = (probe.seed if seed is None else seed) % 2**64
    noise = [np.random.default_rng((base, int(target))).random(shape, dtype=np.float32) for target in targets]
    saliency = torch.from_numpy(np.stack(noise)) if noise else torch.zeros(0, *shape)
    if cells is not None and noise:
        saliency = upsample(saliency, probe.size)
        every_pixel = tuple(range(1, saliency.ndim))
        saliency = saliency - saliency.amin(every_pixel, keepdim=True)
        saliency = saliency / saliency.amax(every_pixel, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return saliency.to(probe.device).reshape(-1, *probe.size)

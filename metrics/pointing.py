"""The pointing game: is the map's maximum on the object, or next to it?

Unlike the metrics of :mod:`metrics.localization`, it is played on the image's own grid, where its tolerance of 15
pixels means something: the map is brought to the mask's size.

Reference:
    Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016 (IJCV 2018), in the form of TorchRay's
    benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrics.checks import finite_map
from sise.maps import upsample
from sise.types import SuiteError


def pointing(saliency: Tensor, mask: Tensor, *, tolerance: float = 15.0) -> float:
    """Pointing game: 1 if a pixel of the mask is strictly nearer than ``tolerance`` to the map's maximum, else 0.

    The map is resized bilinearly (``align_corners=False``) to the mask's size first; of equal maxima the first in
    raster order counts. TorchRay resizes each map once, from its own resolution: a map that was brought to the
    network's grid before may point a pixel or two elsewhere.

    Args:
        saliency: (h, w) float, at any resolution.
        mask: (H, W) bool, at the image's own size.
        tolerance: Pixels of the image.

    Returns:
        0.0 or 1.0; 0 for an empty mask and for a constant map, which points nowhere (both set by definition).

    Raises:
        SuiteError: If the map is not finite, one of the two is not two-dimensional, or the mask is not boolean.
    """
    if _pointing_undefined(saliency, mask, tolerance=tolerance):
        return 0.0
    return float(hits(mask, point(saliency, tuple(mask.shape)), tolerance))


def _pointing_undefined(saliency: Tensor, mask: Tensor, *, tolerance: float = 15.0) -> str:
    saliency = finite_map(saliency)
    if saliency.ndim != 2 or mask.ndim != 2 or mask.dtype != torch.bool:
        raise SuiteError(
            "the pointing game takes a map (h, w) and a boolean mask (H, W); got "
            f"{tuple(saliency.shape)} and {tuple(mask.shape)}, {mask.dtype}"
        )
    if not mask.any():
        return "empty mask"
    return "constant map" if saliency.min() == saliency.max() else ""


pointing.undefined = _pointing_undefined


def point(saliency: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """(x, y) of the maximum of a map (h, w) resized bilinearly to ``size`` (H, W); the first one in raster order."""
    resized = upsample(saliency[None].double(), size)[0]
    row, column = divmod(int(resized.flatten().argmax()), size[1])
    return column, row


def hits(mask: Tensor, place: tuple[float, float], tolerance: float = 15.0) -> bool:
    """Whether a (H, W) bool mask has a pixel strictly nearer than ``tolerance`` to a place (x, y)."""
    x, y = place
    rows = torch.arange(mask.shape[0], dtype=torch.float64, device=mask.device)
    columns = torch.arange(mask.shape[1], dtype=torch.float64, device=mask.device)
    near = (rows[:, None] - y) ** 2 + (columns[None] - x) ** 2 < tolerance**2
    return bool((mask & near).any())

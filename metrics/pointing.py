"""The pointing game: is the map's maximum on the object, or next to it?

Unlike the metrics of :mod:`sise.metrics.localization`, it is played on the image's own grid, where its tolerance of 15
pixels means something: the map is brought to the mask's size.

Reference:
    Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016 (IJCV 2018), in the form of TorchRay's
    benchmark.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sise.errors import SuiteError, choose
from sise.maps import upsample
from sise.metrics.checks import finite_map
from sise.ranges import Positive
from sise.types import Value

Ties = Literal["first", "middle"]


def pointing(saliency: Tensor, mask: Tensor, *, tolerance: Positive = 15.0, ties: Ties = "first") -> float:
    """Pointing game: 1 if a pixel of the mask is strictly nearer than ``tolerance`` to the map's maximum, else 0.

    The map is resized bilinearly (``align_corners=False``) to the mask's size first. TorchRay resizes each map once,
    from its own resolution: a map that was brought to the network's grid before may point a pixel or two elsewhere.

    Args:
        saliency: (h, w) float, at any resolution.
        mask: (H, W) bool, at the image's own size.
        tolerance: Pixels of the image.
        ties: See :func:`point`.

    Returns:
        0.0 or 1.0; 0 for an empty mask and for a constant map, which points nowhere (both set by definition).

    Raises:
        SuiteError: If the map is not finite, one of the two is not two-dimensional, the mask is not boolean, or
            ``ties`` is unknown.
    """
    saliency = finite_map(saliency)
    if saliency.ndim != 2 or mask.ndim != 2 or mask.dtype != torch.bool:
        raise SuiteError(
            "the pointing game takes a map (h, w) and a boolean mask (H, W); got "
            f"{tuple(saliency.shape)} and {tuple(mask.shape)}, {mask.dtype}"
        )
    if not mask.any():
        return Value(0.0, "empty mask")
    if saliency.min() == saliency.max():
        return Value(0.0, "constant map")
    return float(hits(mask, point(saliency, (mask.shape[0], mask.shape[1]), ties), tolerance))


def point(saliency: Tensor, size: tuple[int, int], ties: Ties = "first") -> tuple[float, float]:
    """The place of the maximum of a map that is resized bilinearly.

    Args:
        saliency: (h, w) float, at any resolution.
        size: (H, W) to resize it to.
        ties: Of equal maxima, ``first`` takes the first in raster order, as TorchRay does; ``middle`` their mean place,
            which may lie between pixels.

    Returns:
        (x, y) in pixels, counted from 0.

    Raises:
        SuiteError: If ``ties`` is unknown.
    """
    resized = upsample(saliency[None].double(), size)[0]
    if choose("ties", ties, ("first", "middle")) == "middle":
        rows, columns = (resized == resized.max()).nonzero(as_tuple=True)
        return float(columns.double().mean()), float(rows.double().mean())
    row, column = divmod(int(resized.flatten().argmax()), size[1])
    return column, row


def hits(mask: Tensor, place: tuple[float, float], tolerance: Positive = 15.0) -> bool:
    """Whether a (H, W) bool mask has a pixel strictly nearer than ``tolerance`` to a place (x, y)."""
    x, y = place
    top, left = max(0, math.floor(y - tolerance)), max(0, math.floor(x - tolerance))
    window = mask[top : math.floor(y + tolerance) + 1, left : math.floor(x + tolerance) + 1]  # nothing else is as near
    rows = torch.arange(window.shape[0], dtype=torch.float64, device=mask.device) + top
    columns = torch.arange(window.shape[1], dtype=torch.float64, device=mask.device) + left
    near = (rows[:, None] - y) ** 2 + (columns[None] - x) ** 2 < tolerance**2
    return bool((window & near).any())

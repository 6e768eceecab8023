"""What every metric checks about its input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sise.errors import SuiteError

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def unwrapped(metric: Callable[..., float | None]) -> tuple[Callable[..., float | None], dict[str, Any]]:
    """Returns the function behind a ``functools.partial`` of any depth, and the settings that are bound to it."""
    keywords: dict[str, Any] = {}
    function: Any = metric
    while isinstance(function, partial):
        function, keywords = function.func, {**function.keywords, **keywords}
    return function, keywords


def finite_map(saliency: Tensor) -> Tensor:
    """Returns ``saliency``, of any shape, if it is a non-empty, finite, floating-point tensor.

    Raises:
        SuiteError: Otherwise; for NaN and infinity the message counts them.
    """
    if not isinstance(saliency, Tensor) or not saliency.is_floating_point():
        came = saliency.dtype if isinstance(saliency, Tensor) else type(saliency).__name__
        raise SuiteError(f"saliency must be a floating-point tensor, got {came}; is it the mask?")
    if saliency.numel() == 0:
        raise SuiteError(f"saliency must have pixels, got shape {tuple(saliency.shape)}")
    bad = int((~torch.isfinite(saliency)).sum())
    if bad:
        nan = int(torch.isnan(saliency).sum())
        raise SuiteError(
            f"saliency must be finite, got {nan} NaN and {bad - nan} infinite of {saliency.numel()} values; "
            "mend the explainer, a metric has no value for such a map"
        )
    return saliency


def map_of_image(probe: Probe, saliency: Tensor) -> Tensor:
    """Returns ``saliency`` if it is a finite map (see :func:`finite_map`) of the probe's image.

    Raises:
        SuiteError: Otherwise.
    """
    if tuple(saliency.shape) != tuple(probe.size):
        raise SuiteError(f"saliency must have the image's size {tuple(probe.size)}, got {tuple(saliency.shape)}")
    return finite_map(saliency)


def map_and_mask(saliency: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``saliency`` (H, W) and ``mask`` (H, W) bool, the latter on the former's device.

    Raises:
        SuiteError: If the map is not finite (see :func:`finite_map`), the mask not boolean or the shapes
            differ.
    """
    saliency = finite_map(saliency)
    mask = torch.as_tensor(mask, device=saliency.device)
    if mask.dtype != torch.bool:
        raise SuiteError(f"mask must be boolean, got {mask.dtype}; compare it with 0 or a threshold first")
    if saliency.ndim != 2 or saliency.shape != mask.shape:
        raise SuiteError(
            "saliency and mask must both be (H, W) and of one shape, got "
            f"{tuple(saliency.shape)} and {tuple(mask.shape)}; bring both to the network's grid (E1)"
        )
    return saliency, mask


def by_value(saliency: Tensor) -> tuple[Tensor, Tensor]:
    """A map's values, the largest first, and the places of their pixels; equal ones in raster order.

    Metrics of a map follow each other: the last map's answer is kept, and given again for the same values of the same
    dtype and device, whatever tensor holds them. So a map is sorted once for all metrics.

    Args:
        saliency: Finite, of any shape.

    Returns:
        (pixels,) values and (pixels,) int64 places; not to be changed in place.
    """
    for before, values, order in _LAST:  # at most one
        if (before.dtype, before.device) == (saliency.dtype, saliency.device) and torch.equal(before, saliency):
            return values, order
    values, order = saliency.flatten().sort(descending=True, stable=True)
    _LAST[:] = [(saliency.detach().clone(), values, order)]
    return values, order


_LAST: list[tuple[Tensor, Tensor, Tensor]] = []


def pixel_count(fraction: float, pixels: int) -> int:
    """``int(fraction · pixels)``, the count both papers' top-k metrics use (E5, E8): rounded down.

    Raises:
        SuiteError: If ``fraction`` is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise SuiteError(f"fraction must lie in [0, 1], got {fraction}; 15 % is 0.15")
    return int(fraction * pixels)

"""Operations on stacks of maps that every part of the suite shares.

A map is that of an image, (H, W), or of a signal, (L,): a signal is treated as an image of one row wherever the
arithmetic asks for rows and columns.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def minmax(maps: Tensor, dims: int = 2) -> Tensor:
    """Brings each map to [0, 1].

    Args:
        maps: (..., H, W), or (..., L) with ``dims=1``.
        dims: Dimensions of one map: 2 for those of images, 1 for those of signals.

    Returns:
        Same shape. A constant map becomes zero everywhere.
    """
    one_map = tuple(range(-dims, 0))
    low = maps.amin(dim=one_map, keepdim=True)
    span = maps.amax(dim=one_map, keepdim=True) - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0)


def over_map(values: Tensor, maps: Tensor) -> Tensor:
    """(N,) values in the shape that broadcasts over (N, H, W) or (N, L) ``maps``."""
    return values.view(-1, *[1] * (maps.ndim - 1))


def upsample(maps: Tensor, size: tuple[int, ...], mode: str = "bilinear") -> Tensor:
    """Resizes (N, h, w) maps to (N, H, W), half-pixel centres (``align_corners=False``), no antialiasing.

    Args:
        maps: (N, h, w), or (N, l) of signals.
        size: (H, W), or (L,).
        mode: ``bilinear`` (along one dimension: linear) or ``nearest``.
    """
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    if mode == "nearest":
        return F.interpolate(maps[:, None], size=size, mode=mode)[:, 0]
    linear = "linear" if len(size) == 1 else mode
    return F.interpolate(maps[:, None], size=size, mode=linear, align_corners=False)[:, 0]


def _as_images(maps: Tensor, size: tuple[int, ...]) -> tuple[Tensor, tuple[int, int]]:
    """(N, l) maps of signals and the size (L,) as (N, 1, l) and (1, L); those of images as they are."""
    height, width = (1, *size)[-2:]
    return (maps[:, None] if maps.ndim == 2 else maps), (height, width)


@lru_cache(maxsize=64)
def _interpolation_matrix(n_in: int, n_out: int) -> Tensor:
    """(n_out, n_in) float64 matrix of 1-D linear resizing; bilinear resizing is one per axis."""
    eye = torch.eye(n_in, dtype=torch.float64)[None]
    return F.interpolate(eye, size=n_out, mode="linear", align_corners=False)[0].T.contiguous()


@lru_cache(maxsize=64)
def _cell_edges(n_in: int, n_out: int) -> Tensor:
    """Output indices next to a change of bilinear cell: the only places where 1-D extrema can sit."""
    position = (torch.arange(n_out, dtype=torch.float64) + 0.5) * n_in / n_out - 0.5
    cell = position.clamp(0, n_in - 1).floor()
    first = torch.cat([torch.tensor([True]), cell[1:] != cell[:-1]])
    last = torch.cat([cell[1:] != cell[:-1], torch.tensor([True])])
    return (first | last).nonzero()[:, 0]


def upsampled_extrema(maps: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each map *after* bilinear upsampling, mostly without upsampling.

    Within one bilinear cell the upsampled values are bilinear, so their extrema lie on the cell's first or last
    output row and column. It suffices to evaluate the interpolation there: a grid of about 2h x 2w instead of H x W.

    Args:
        maps: (C, h, w), or (C, l) of a signal.
        size: (H, W) of the upsampled maps, or (L,).

    Returns:
        ``(lo, hi)``, each (C,). ``lo == hi`` exactly where the map is constant, and only there.
    """
    maps, size = _as_images(maps, size)
    (h, w), (H, W) = maps.shape[-2:], size
    lowest, highest = maps.amin(dim=(1, 2)), maps.amax(dim=(1, 2))
    if (h, w) == (H, W):
        return lowest, highest
    rows, cols = _cell_edges(h, H), _cell_edges(w, W)
    if len(rows) * len(cols) * 2 > H * W:
        chunks = [upsample(part, size) for part in maps.split(64)]
        lo = torch.cat([c.amin(dim=(1, 2)) for c in chunks])
        hi = torch.cat([c.amax(dim=(1, 2)) for c in chunks])
    else:
        up_rows = _interpolation_matrix(h, H)[rows].to(maps)
        up_cols = _interpolation_matrix(w, W)[cols].to(maps)
        grid = up_rows @ maps @ up_cols.T
        lo, hi = grid.amin(dim=(1, 2)), grid.amax(dim=(1, 2))
    constant = lowest == highest
    return torch.where(constant, lowest, lo), torch.where(constant, lowest, hi)


def upsampled_sums(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Sum over all pixels of each bilinearly upsampled map, from the low-resolution map alone.

    Args:
        maps: (C, h, w), or (C, l) of a signal.
        size: (H, W) of the upsampled maps, or (L,).

    Returns:
        (C,) float64.
    """
    maps, size = _as_images(maps, size)
    weight_rows = _interpolation_matrix(maps.shape[1], size[0]).sum(dim=0).to(maps.device)
    weight_cols = _interpolation_matrix(maps.shape[2], size[1]).sum(dim=0).to(maps.device)
    return torch.einsum("chw,h,w->c", maps.double(), weight_rows, weight_cols)

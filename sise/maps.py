"""Operations on stacks of maps that every part of the suite shares."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def minmax(maps: Tensor) -> Tensor:
    """Brings each map to [0, 1].

    Args:
        maps: (..., H, W).

    Returns:
        Same shape. A constant map becomes zero everywhere.
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0)


def upsample(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resizes (N, h, w) maps to (N, H, W), half-pixel centres (``align_corners=False``), no antialiasing.

    Args:
        maps: (N, h, w).
        size: (H, W).
        mode: ``bilinear`` or ``nearest``.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    align = False if mode == "bilinear" else None
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=align)[:, 0]


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


def upsampled_extrema(maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each map *after* bilinear upsampling, mostly without upsampling.

    Within one bilinear cell the upsampled values are bilinear, so their extrema lie on the cell's first or last
    output row and column. It suffices to evaluate the interpolation there: a grid of about 2h x 2w instead of H x W.

    Args:
        maps: (C, h, w).
        size: (H, W) of the upsampled maps.

    Returns:
        ``(lo, hi)``, each (C,). ``lo == hi`` exactly where the map is constant, and only there.
    """
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


def upsampled_sums(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum over all pixels of each bilinearly upsampled map, from the low-resolution map alone.

    Args:
        maps: (C, h, w).
        size: (H, W) of the upsampled maps.

    Returns:
        (C,) float64.
    """
    weight_rows = _interpolation_matrix(maps.shape[1], size[0]).sum(dim=0).to(maps.device)
    weight_cols = _interpolation_matrix(maps.shape[2], size[1]).sum(dim=0).to(maps.device)
    return torch.einsum("chw,h,w->c", maps.double(), weight_rows, weight_cols)

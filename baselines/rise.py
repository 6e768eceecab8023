"""RISE: random masks weighted by the confidence of the image seen through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor

from sise.baselines.common import check_targets, no_maps
from sise.errors import SuiteError, choose
from sise.maps import minmax, over_map, upsample
from sise.probe.probe import Probe
from sise.ranges import Count, Seed, ShareAboveZero, one_of


def rise(
    probe: Probe,
    targets: Sequence[int],
    *,
    n_masks: Count = 4000,
    cells: Count = 7,
    p: ShareAboveZero = 0.5,
    normalise: Annotated[str, one_of(("minmax", "raw"))] = "minmax",
    seed: Seed = 0,
    chunk: Count | None = None,
) -> Tensor:
    """RISE: ``1 / (N p) sum_n confidence(image under mask n) * mask_n``.

    The N masks depend on ``seed`` and the image's size only: the same for every image and device, and the first n
    of them for every ``n_masks >= n``. One set of N forward passes serves all targets.

    Args:
        probe: One image as one network sees it; its confidence is the weight.
        targets: T class indices.
        n_masks: N, number of random masks.
        cells: Cells of a mask's grid along each axis of the image or signal.
        p: Probability that a cell is kept.
        normalise: ``minmax`` brings each map to [0, 1]; ``raw`` leaves the estimate of the expected confidence.
        seed: Seed of the masks; torch's own generator is not touched.
        chunk: Masks held in memory at once; None takes about 256, in whole batches of the engine. No numeric effect
            but float rounding.

    Returns:
        (T, H, W), in [0, 1] unless ``normalise`` is ``raw``.

    Raises:
        SuiteError: If a target is not a class, ``normalise`` is unknown or a number is out of its range.

    Reference:
        Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018,
        equation 6 and section 3.2 (mask generation).
    """
    choose("RISE normalise", normalise, ("minmax", "raw"))
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    bank = mask_bank(n_masks, cells, p, tuple(probe.size), seed)
    total = torch.zeros(len(targets), *probe.size, dtype=torch.float64, device=probe.device)
    batch = probe.scorer.batch_size or 256
    name = f"rise cells={cells} p={p} seed={seed}"  # not n_masks: fewer masks are the first of more
    for first, masks in bank.chunks(chunk or batch * max(1, 256 // batch), probe.device):
        total += weighted_sum(probe.bank_confidences(name, first, masks, targets), masks)
    saliency = (total / (n_masks * p)).float()
    return minmax(saliency, len(probe.size)) if normalise == "minmax" else saliency


def weighted_sum(weights: Tensor, masks: Tensor) -> Tensor:
    """(M, T) weights and (M, H, W) masks -> (T, H, W) float64 ``sum_m weights[m, t] * masks[m]``."""
    return (weights.double().T @ masks.flatten(1).double()).unflatten(1, masks.shape[1:])


@dataclass(frozen=True, eq=False)
class MaskBank:
    """N random masks of one size, kept as what they were drawn from (about 60 bytes each).

    Attributes:
        grids: (N, cells, cells) bool, the cells kept; (N, cells) for signals.
        shifts: (N, 2) int64, row and column at which the upsampled grid is cropped; (N, 1) for signals.
        size: (H, W) of the masks, or (L,).
    """

    grids: Tensor
    shifts: Tensor
    size: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.grids)

    def masks(self, start: int, stop: int, device: torch.device | str = "cpu") -> Tensor:
        """Masks ``start`` to ``stop``: (M, H, W) float32 in [0, 1].

        Each grid is upsampled bilinearly to one cell more than the image, then cropped at its shift (section 3.2).
        """
        cells, axes = self.grids.shape[-1], range(len(self.size))
        grids = self.grids[start:stop].to(device, torch.float32)
        shifts = self.shifts[start:stop].to(device)
        large = upsample(grids, tuple((cells + 1) * _cell(side, cells) for side in self.size))
        index = [over_map(torch.arange(len(grids), device=device), large)]
        for axis, side in enumerate(self.size):  # (M, side), for axis 1 of 2 as (M, 1, side)
            places = shifts[:, axis, None] + torch.arange(side, device=device)
            index.append(places.view(len(grids), *[side if other == axis else 1 for other in axes]))
        return large[tuple(index)]

    def chunks(self, chunk: int, device: torch.device | str = "cpu") -> Iterator[tuple[int, Tensor]]:
        """All masks in order, at most ``chunk`` at a time, each time after the number of the first."""
        for start in range(0, len(self), chunk):
            yield start, self.masks(start, min(start + chunk, len(self)), device)


@lru_cache(maxsize=8)
def mask_bank(n_masks: int, cells: int, p: float, size: tuple[int, ...], seed: int) -> MaskBank:
    """Draws the masks of a size once, for all images.

    Args:
        n_masks: N.
        cells: Cells along each axis.
        p: Probability that a cell is kept.
        size: (H, W) of the masks, or (L,).
        seed: Seed of a generator of its own, on the CPU whatever the device.

    Returns:
        The bank. Shifts are uniform over one cell, 0 to ceil(H / cells) - 1 and likewise for W.

    Raises:
        SuiteError: If a number is out of its range.
    """
    if n_masks < 1 or cells < 1 or not 0 < p <= 1:
        raise SuiteError(
            f"RISE needs n_masks >= 1, cells >= 1 and 0 < p <= 1; got n_masks={n_masks}, cells={cells}, p={p}."
        )
    generator = torch.Generator().manual_seed(seed)
    # One row of uniform numbers per mask, so that fewer masks are the first of more masks.
    axes = len(size)
    drawn = torch.rand(n_masks, cells**axes + axes, generator=generator, dtype=torch.float64)
    largest = torch.tensor([_cell(side, cells) for side in size])
    shifts = (drawn[:, -axes:] * largest).long()
    return MaskBank((drawn[:, :-axes] < p).unflatten(1, (cells,) * axes), shifts, size)


def _cell(pixels: int, cells: int) -> int:
    return -(-pixels // cells)

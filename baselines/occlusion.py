"""Occlusion: what the confidence loses when a window slides over the image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.segments import CHUNK
from sise.errors import WrongSetting
from sise.probe.probe import Probe
from sise.ranges import ShareAboveZero


def occlusion(
    probe: Probe,
    targets: Sequence[int],
    *,
    window: ShareAboveZero = 1 / 7,
    stride: ShareAboveZero = 1 / 14,
    reduce: Reduce = "sum_positive",
) -> Tensor:
    """Occlusion: each pixel gets the mean loss of confidence over the windows that cover it.

    One set of passes, one per window and one of the whole image, serves all targets.

    Args:
        probe: One image as one network sees it; the window shows its fill.
        targets: T class indices.
        window: Side of the window as a share of the image's: 32 of 224 pixels.
        stride: Step of the window likewise: 16 of 224 pixels. The last window of a row may reach over the border.
        reduce: Sign policy, see :func:`sise.baselines.common.reduce_channels`.

    Returns:
        (T, H, W) in [0, 1], or in [-1, 1] if ``reduce`` is ``sum_signed``.

    Raises:
        SuiteError: If a target is not a class, or a share not above 0 and at most 1, or the stride above the window.

    Reference:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2.
    """
    targets = check_targets(probe, targets)
    if not 0 < stride <= window <= 1:
        raise WrongSetting(f"occlusion needs 0 < stride <= window <= 1, shares of a side; got {stride} and {window}.")
    if not targets:
        return no_maps(probe)
    places = windows(probe.size, window, stride)
    bank = f"occlusion window={window} stride={stride}"
    whole = probe.bank_confidences(bank, 0, torch.ones(1, *probe.size, device=probe.device), targets)
    loss = torch.zeros(len(targets), *probe.size, dtype=torch.float64, device=probe.device)
    covered = torch.zeros(probe.size, dtype=torch.float64, device=probe.device)
    for first in range(0, len(places), CHUNK):
        part = places[first : first + CHUNK]
        masks = torch.ones(len(part), *probe.size, device=probe.device)
        for mask, place in zip(masks, part, strict=True):
            mask[place] = 0
        lost = whole - probe.bank_confidences(bank, 1 + first, masks, targets)
        for place, losses in zip(part, lost, strict=True):
            loss[(slice(None), *place)] += losses.view(-1, *[1] * len(probe.size))
            covered[place] += 1
    return attribution_maps((loss / covered)[:, None], probe.size, reduce)


def windows(size: Sequence[int], window: float, stride: float) -> list[tuple[slice, ...]]:
    """The windows' places in an image of a size (H, W) or (L,), in raster order; every pixel lies in one."""
    axes = []
    for side in size:
        wide, step = max(1, round(window * side)), max(1, round(stride * side))
        count = math.ceil((side - wide) / step) + 1
        axes.append([slice(i * step, min(i * step + wide, side)) for i in range(count)])
    return list(itertools.product(*axes))

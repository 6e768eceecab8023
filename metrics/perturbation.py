"""Region perturbation: how fast the confidence falls while regions of the image become noise, in the map's order.

The image is cut into square cells. Cells are replaced by uniform noise, most relevant first (MoRF) or least relevant
first (LeRF), and the loss of confidence is averaged over the steps (AOPC). Cells of equal relevance go in raster order,
so of a constant map both directions say nothing.

Reference:
    Samek et al., "Evaluating the visualization of what a deep neural network has learned", TNNLS 2017, eq. 12, with
    cells of a fixed grid; their 9 × 9 pixels and 100 steps are ``cell=9, steps=100`` and a ``share`` of 0.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sise.errors import SuiteError
from sise.metrics.checks import map_of_image, pixel_count
from sise.metrics.curves import curve, over_maps
from sise.metrics.passes import plan_of
from sise.ranges import Count, Seed, Share
from sise.scoring import Segment

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def morf(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    cell: Count = 16,
    steps: Count = 14,
    share: Share = 1.0,
    seed: Seed = 0,
) -> float:
    """MoRF: the mean loss of confidence, f(x) − f(x after k steps) over k = 0 to ``steps``, most relevant cells first.

    Higher is better. Known weakness: noise is nothing that the network was trained on, so what breaks its features up
    quickest wins, the object or not.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        cell: Pixels of a cell's side; the cells at the right and lower border may be smaller.
        steps: Steps, each of as many cells.
        share: Share of the cells that is replaced at the end.
        seed: Of the noise, which lies between the least and the largest value of each channel of the image.

    Returns:
        A fraction in [−1, 1] when the confidence is a probability; negative if the confidence grows.

    Raises:
        SuiteError: If the map is not finite or not of the image's size, or a setting out of range.
    """
    return _aopc(probe, target, _most_relevant(probe, target, saliency, cell=cell, steps=steps, share=share, seed=seed))


def lerf(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    cell: Count = 16,
    steps: Count = 14,
    share: Share = 1.0,
    seed: Seed = 0,
) -> float:
    """LeRF: the same with the least relevant cells first.

    Lower is better: what a good map calls irrelevant can go. Known weakness: where a network needs no more than a few
    cells, all maps but the worst are alike. Arguments, value and errors as for :func:`morf`.
    """
    return _aopc(
        probe, target, _least_relevant(probe, target, saliency, cell=cell, steps=steps, share=share, seed=seed)
    )


@plan_of(morf)
def _most_relevant(
    probe: Probe, target: int, saliency: Tensor, *, cell: int = 16, steps: int = 14, share: float = 1.0, seed: int = 0
) -> list[Segment]:
    return _perturbed(probe, map_of_image(probe, saliency), cell, steps, share, seed)


@plan_of(lerf)
def _least_relevant(
    probe: Probe, target: int, saliency: Tensor, *, cell: int = 16, steps: int = 14, share: float = 1.0, seed: int = 0
) -> list[Segment]:
    return _perturbed(probe, -map_of_image(probe, saliency), cell, steps, share, seed)


def _perturbed(probe: Probe, relevance: Tensor, cell: int, steps: int, share: float, seed: int) -> list[Segment]:
    """The image, and the image after each step."""
    if steps < 1:
        raise SuiteError(f"steps must be a whole number from 1, got {steps}")
    numbers = cells(probe.size, cell).to(relevance.device)
    values = means_of(relevance, numbers)
    order = values.sort(descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    last = pixel_count(share, len(order))
    replaced = place[numbers] < over_maps([round(k * last / steps) for k in range(steps + 1)], numbers)
    return [Segment(probe.image, ~replaced, noise_of(probe.image, seed))]


def cells(size: tuple[int, ...], side: int) -> Tensor:
    """(H, W) numbers of the square cell that each pixel lies in, in raster order of the cells.

    Raises:
        SuiteError: If ``side`` is no whole number of pixels.
    """
    if not isinstance(side, int) or side < 1:
        raise SuiteError(f"a cell's side must be a whole number of pixels from 1, got {side!r}")
    numbers = torch.zeros(size, dtype=torch.long)
    for axis, length in enumerate(size):
        along = torch.arange(length) // side
        shape = [1] * len(size)
        shape[axis] = length
        numbers = numbers * (int(along[-1]) + 1) + along.reshape(shape)
    return numbers


def means_of(saliency: Tensor, numbers: Tensor) -> Tensor:
    """(N,) mean of a map (H, W) over each of N cells, float64."""
    flat = numbers.flatten()
    count = torch.bincount(flat)
    sums = torch.zeros(len(count), dtype=torch.float64, device=saliency.device)
    return sums.index_add(0, flat, saliency.double().flatten()) / count


def noise_of(image: Tensor, seed: int) -> Tensor:
    """Uniform noise (1, C, H, W) in the range of each channel of the image, the same on every device."""
    flat = image.flatten(2)
    low, high = (e.reshape(1, -1, *[1] * (image.ndim - 2)) for e in (flat.amin(dim=2), flat.amax(dim=2)))
    uniform = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed), dtype=image.dtype)
    return low + (high - low) * uniform.to(image.device)


def _aopc(probe: Probe, target: int, segments: list[Segment]) -> float:
    values = curve(probe, target, segments)
    return float((values[0] - values).mean())

"""Do the map's values add up to what the confidence loses? Random regions are removed, the same for every map.

For each of a set of random regions, the sum of the map inside is set against the loss f(x) − f(x without the region).
The regions depend on the image's size and a seed alone, so all maps and targets of an image share their passes. Removed
pixels get the probe's fill. f is the probe's confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sise.errors import SuiteError
from sise.metrics.checks import map_of_image
from sise.metrics.passes import plan_of
from sise.metrics.perturbation import cells
from sise.ranges import Count, FromTwo, Seed, Shares
from sise.scoring import Segment
from sise.types import Value

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def infidelity(probe: Probe, target: int, saliency: Tensor, *, samples: Count = 64, seed: Seed = 0) -> float:
    """Infidelity: the mean squared difference between the map's sum over a square and the loss when it is removed.

    Lower is better. The sums are scaled by the factor that makes the value least, since a saliency map has no unit.
    Known weakness: where removing squares changes little, every map is nearly perfect, a blank one too.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        samples: Random squares, of sides from 1/8 to 1/2 of the image's shorter side.
        seed: Of the squares.

    Returns:
        In units of confidence squared, at most the mean squared loss, which is a zero map's.

    Raises:
        SuiteError: If the map is not finite or not of the image's size, or there are no samples.

    Reference:
        Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019, square removal, with the
        optimal scaling of its appendix.
    """
    segments = _without_squares(probe, target, saliency, samples=samples, seed=seed)
    removed = ~segments[0].maps[1:]
    losses = _losses(probe, target, segments)
    sums = _sums(saliency, removed)
    power = float((sums * sums).sum())
    factor = float((sums * losses).sum()) / power if power else 0.0
    return float(((factor * sums - losses) ** 2).mean())


@plan_of(infidelity)
def _without_squares(probe: Probe, target: int, saliency: Tensor, *, samples: int = 64, seed: int = 0) -> list[Segment]:
    map_of_image(probe, saliency)
    return [_removal(probe, squares(probe.size, samples, seed))]


def squares(size: tuple[int, ...], samples: int, seed: int) -> Tensor:
    """(samples, H, W) bool: random squares, whole inside the image, sides and places uniform.

    Raises:
        SuiteError: If there are none.
    """
    if samples < 1:
        raise SuiteError(f"samples must be a whole number from 1, got {samples}")
    generator = torch.Generator().manual_seed(seed)
    short = min(size)
    least, most = max(1, short // 8), max(1, short // 2)
    found = torch.zeros(samples, *size, dtype=torch.bool)
    for one in found:
        side = int(torch.randint(least, most + 1, (), generator=generator))
        starts = [int(torch.randint(0, length - side + 1, (), generator=generator)) for length in size]
        one[tuple(slice(start, start + side) for start in starts)] = True
    return found


def sensitivity_n(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    cell: Count = 16,
    shares: Shares = (0.02, 0.1, 0.3),
    samples: FromTwo = 32,
    seed: Seed = 0,
) -> float:
    """Sensitivity-n: the correlation between the map's sum over n random cells and the loss when they are removed.

    Higher is better; about 0 for a random map. The mean over several n. Interpretation: features are the cells of a
    grid, since single pixels of an image that are scattered say nothing together; f is the confidence and not the
    score. Known weakness: a correlation is blind to how large the losses are, and noisy for few samples.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        cell: Pixels of a cell's side.
        shares: The n, as shares of the number of cells; at least one cell.
        samples: Random sets of cells for each n, at least 2.
        seed: Of the sets.

    Returns:
        Pearson's r in [−1, 1]; 0 where the sums or the losses of all sets are equal.

    Raises:
        SuiteError: If the map is not finite or not of the image's size, or a setting out of range.

    Reference:
        Ancona et al., "Towards better understanding of gradient-based attribution methods for deep neural networks",
        ICLR 2018, section 3.2.
    """
    segments = _without_cells(probe, target, saliency, cell=cell, shares=shares, samples=samples, seed=seed)
    removed = ~segments[0].maps[1:]
    losses = _losses(probe, target, segments)
    sums = _sums(saliency, removed)
    found = [pearson(a, b) for a, b in zip(sums.split(samples), losses.split(samples), strict=True)]
    value = sum(found) / len(found)
    return Value(value, "constant map") if saliency.min() == saliency.max() else value


@plan_of(sensitivity_n)
def _without_cells(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    cell: int = 16,
    shares: Sequence[float] = (0.02, 0.1, 0.3),
    samples: int = 32,
    seed: int = 0,
) -> list[Segment]:
    map_of_image(probe, saliency)
    return [_removal(probe, sets_of_cells(probe.size, cell, shares, samples, seed))]


def sets_of_cells(size: tuple[int, ...], cell: int, shares: Sequence[float], samples: int, seed: int) -> Tensor:
    """(len(shares) · samples, H, W) bool: random sets of cells, ``samples`` of each size in turn.

    Raises:
        SuiteError: If a setting is out of range.
    """
    if samples < 2 or not shares or not all(0 < share < 1 for share in shares):
        raise SuiteError(
            f"sensitivity-n takes samples from 2 and shares of the cells between 0 and 1, got samples={samples} and "
            f"shares={list(shares)}; 10 % is 0.1"
        )
    numbers = cells(size, cell)
    count = int(numbers.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(len(shares) * samples, count, dtype=torch.bool)
    for i, one in enumerate(found):
        chosen = max(1, round(shares[i // samples] * count))
        one[torch.randperm(count, generator=generator)[:chosen]] = True
    return found[:, numbers]


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two (N,) tensors; 0 if one is constant but for rounding."""
    a, b = a.double(), b.double()
    if any(float(x.max() - x.min()) <= 1e-12 * float(x.abs().max()) for x in (a, b)):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum()) / math.sqrt(float((a * a).sum()) * float((b * b).sum()))


def _removal(probe: Probe, removed: Tensor) -> Segment:
    """The whole image, then the image without each of (M, H, W) regions."""
    removed = removed.to(probe.device)
    return Segment(probe.image, torch.cat([torch.ones_like(removed[:1]), ~removed]), probe.fill)


def _losses(probe: Probe, target: int, segments: list[Segment]) -> Tensor:
    """(M,) f(x) − f(x without each region), float64."""
    (scores,) = probe.score_segments(segments)
    confidences = probe.to_confidence(scores)[:, target]
    return confidences[0] - confidences[1:]


def _sums(saliency: Tensor, regions: Tensor) -> Tensor:
    """(M,) sums of a map over regions, float64."""
    return regions.to(saliency.device).flatten(1).double() @ saliency.double().flatten()

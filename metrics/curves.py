"""How fast the network's answer comes or goes while pixels are shown or taken away in the map's order.

All take ``(probe, target, saliency (H, W))``, score their curve in batches and remember nothing: a curve costs one
forward pass per point. Pixels of equal saliency are taken in raster order, so a constant map is read from the top down:
such a value is computed, and it says nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metrics.checks import map_of_image, pixel_count
from sise.types import SuiteError

if TYPE_CHECKING:
    from sise.probe import Probe

BATCH = 32


def deletion(probe: Probe, target: int, saliency: Tensor, *, step: int | None = None) -> float:
    """Deletion: area under the target's confidence while the most salient pixels are set to zero network input.

    Lower is better. From the whole image to an empty one, ``step`` pixels at a time.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        step: Pixels per step; by default as many as the image is wide (224 steps for 224 × 224 pixels).

    Returns:
        The area by the trapezoid rule, over a width of 1: in [0, 1] when the confidence is a probability.

    Raises:
        SuiteError: If the map is not finite or not of the image's size, or the step no whole number from 1.

    Reference:
        Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 4.3.
    """
    return _area(_curve(probe, target, saliency, step, start=probe.image, end=torch.zeros_like(probe.image)))


def insertion(
    probe: Probe, target: int, saliency: Tensor, *, step: int | None = None, kernel_size: int = 11, sigma: float = 5.0
) -> float:
    """Insertion: area under the target's confidence while the most salient pixels replace those of a blurred image.

    Higher is better. From the blurred image to the whole one, ``step`` pixels at a time.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        step: As for :func:`deletion`.
        kernel_size: Of the Gaussian, pixels; RISE's 11, 51 in UCAG.
        sigma: Of the Gaussian, pixels; RISE's 5, 50 in UCAG.

    Returns:
        As for :func:`deletion`.

    Raises:
        SuiteError: As for :func:`deletion`.

    Reference:
        Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 4.3.
    """
    from torchvision.transforms.functional import gaussian_blur

    _ranks(probe, saliency)  # a map of another size is told before an image that is too small to be blurred
    if min(probe.size) <= kernel_size // 2:
        raise SuiteError(f"kernel_size={kernel_size} is too wide to blur an image of {tuple(probe.size)} pixels")
    blurred = gaussian_blur(probe.image, kernel_size=kernel_size, sigma=sigma)
    return _area(_curve(probe, target, saliency, step, start=blurred, end=probe.image))


def region_insertion(probe: Probe, target: int, saliency: Tensor, *, percents: int = 20) -> float:
    """Region insertion: how often the target is the best class while its most salient pixels alone are shown.

    Interpretation: the talk that prints this metric does not define it. Its areas exceed 1, so they are read as sums
    over the steps 1 %, 2 %, ..., 20 %; the other pixels are zero network input.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        percents: Steps of one percent of the image.

    Returns:
        The number of steps at which the target has the highest score, from 0 to ``percents``. Higher is better.

    Raises:
        SuiteError: As for :func:`deletion`.

    Reference:
        The steps are those of Samek et al., "Evaluating the visualization of what a deep neural network has learned",
        TNNLS 2017, most relevant first.
    """
    ranks = _ranks(probe, saliency)
    shown = [pixel_count(percent / 100, ranks.numel()) for percent in range(1, percents + 1)]
    scores = _scores(probe, ranks, shown, start=torch.zeros_like(probe.image), end=probe.image)
    return float((scores.argmax(dim=1) == target).sum())


def _curve(probe: Probe, target: int, saliency: Tensor, step: int | None, *, start: Tensor, end: Tensor) -> Tensor:
    """(n + 1,) confidences while pixels of ``start`` (1, C, H, W) become those of ``end``, most salient first."""
    ranks = _ranks(probe, saliency)
    step = probe.size[-1] if step is None else step
    if not isinstance(step, int) or step < 1:
        raise SuiteError(f"step must be a whole number of pixels from 1, got {step!r}")
    counts = [min(i * step, ranks.numel()) for i in range(math.ceil(ranks.numel() / step) + 1)]
    return probe.to_confidence(_scores(probe, ranks, counts, start=start, end=end))[:, target]


def _ranks(probe: Probe, saliency: Tensor) -> Tensor:
    """(H, W): 0 for the most salient pixel, 1 for the next; equal ones in raster order."""
    saliency = map_of_image(probe, saliency)
    order = saliency.flatten().sort(descending=True, stable=True).indices
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.reshape(saliency.shape)


def _scores(probe: Probe, ranks: Tensor, counts: list[int], *, start: Tensor, end: Tensor) -> Tensor:
    """(n, K) scores of ``start`` whose ``counts[i]`` first pixels are those of ``end``."""
    bounds = torch.tensor(counts, device=ranks.device).reshape(-1, *[1] * ranks.ndim)
    parts = [probe.score_inputs(torch.where((ranks < part)[:, None], end, start)) for part in bounds.split(BATCH)]
    return torch.cat(parts)


def _area(curve: Tensor) -> float:
    """Under (n + 1,) values, over a width of 1."""
    return float(torch.trapezoid(curve.double(), dx=1 / (len(curve) - 1)))

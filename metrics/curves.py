"""How fast the network's answer comes or goes while pixels are shown or taken away in the map's order.

All take ``(probe, target, saliency (H, W))``. A curve costs one forward pass per point; the points of many curves of
one image share batches, and equal ones a pass (:mod:`sise.metrics.passes`). Pixels of equal saliency are taken in
raster
order, so a constant map is read from the top down: such a value is computed, and it says nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sise.errors import SuiteError, WrongSetting
from sise.metrics.checks import by_value, map_of_image, pixel_count
from sise.metrics.passes import plan_of
from sise.ranges import Count, OddCount, Percents, Positive
from sise.scoring import Segment

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def deletion(probe: Probe, target: int, saliency: Tensor, *, step: Count | None = None, rows: Count = 1) -> float:
    """Deletion: area under the target's confidence while the most salient pixels are set to zero network input.

    Lower is better. From the whole image to an empty one, ``step`` pixels at a time. Known weakness: half-empty images
    are none that the network was trained on, so a map that breaks the image up may win over one that finds the object.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        step: Pixels per step; None for as many as ``rows`` have.
        rows: Rows of the image per step: 224 steps of one row for 224 × 224 pixels, as in the paper.

    Returns:
        The area by the trapezoid rule, over a width of 1: in [0, 1] when the confidence is a probability.

    Raises:
        SuiteError: If the map is not finite or not of the image's size, or the step no whole number from 1.

    Reference:
        Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 4.3.
    """
    return _area(curve(probe, target, _deleted(probe, target, saliency, step=step, rows=rows)))


@plan_of(deletion)
def _deleted(probe: Probe, target: int, saliency: Tensor, *, step: int | None = None, rows: int = 1) -> list[Segment]:
    order = ranks(probe, saliency)
    return [Segment(probe.image, order >= _counts(probe, order, step, rows))]


def insertion(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    step: Count | None = None,
    rows: Count = 1,
    kernel_size: OddCount = 11,
    sigma: Positive = 5.0,
) -> float:
    """Insertion: area under the target's confidence while the most salient pixels replace those of a blurred image.

    Higher is better. From the blurred image to the whole one, ``step`` pixels at a time. Known weakness: where the
    network knows the blurred image already, every map has a large area.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        step: As for :func:`deletion`.
        rows: As for :func:`deletion`; 8 in UCAG.
        kernel_size: Of the Gaussian, pixels; RISE's 11, 51 in UCAG.
        sigma: Of the Gaussian, pixels; RISE's 5, 50 in UCAG.

    Returns:
        As for :func:`deletion`.

    Raises:
        SuiteError: As for :func:`deletion`.

    Reference:
        Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 4.3.
    """
    return _area(
        curve(
            probe,
            target,
            _inserted(probe, target, saliency, step=step, rows=rows, kernel_size=kernel_size, sigma=sigma),
        )
    )


@plan_of(insertion)
def _inserted(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    step: int | None = None,
    rows: int = 1,
    kernel_size: int = 11,
    sigma: float = 5.0,
) -> list[Segment]:
    order = ranks(probe, saliency)  # a map of another size is told before an image that is too small to be blurred
    return [Segment(probe.image, order < _counts(probe, order, step, rows), blurred(probe, kernel_size, sigma))]


def blurred(probe: Probe, kernel_size: int, sigma: float) -> Tensor:
    """(1, C, H, W) network input of the image behind a Gaussian of ``kernel_size`` pixels and ``sigma``.

    Raises:
        SuiteError: If the image is too small.
    """
    from torchvision.transforms.functional import gaussian_blur

    if min(probe.size) <= kernel_size // 2:
        raise WrongSetting(f"kernel_size={kernel_size} is too wide to blur an image of {tuple(probe.size)} pixels")
    return gaussian_blur(probe.image, kernel_size=kernel_size, sigma=sigma)


def region_insertion(probe: Probe, target: int, saliency: Tensor, *, percents: Percents = 20) -> float:
    """Region insertion: how often the target is the best class while its most salient pixels alone are shown.

    Interpretation: the talk that prints this metric does not define it. Its areas exceed 1, so they are read as sums
    over the steps 1 %, 2 %, ..., 20 %; the other pixels are zero network input. Known weakness: of a class that is
    never the network's first, every map scores 0.

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
    scores = probe.score_segments(_shown(probe, target, saliency, percents=percents))[0]
    return float((scores.argmax(dim=1) == target).sum())


@plan_of(region_insertion)
def _shown(probe: Probe, target: int, saliency: Tensor, *, percents: int = 20) -> list[Segment]:
    order = ranks(probe, saliency)
    shown = [pixel_count(percent / 100, order.numel()) for percent in range(1, percents + 1)]
    return [Segment(probe.image, order < over_maps(shown, order))]


def curve(probe: Probe, target: int, segments: list[Segment]) -> Tensor:
    """(n,) confidences in the target along the images of segments, float64."""
    return probe.to_confidence(torch.cat(probe.score_segments(segments)))[:, target]


def ranks(probe: Probe, saliency: Tensor) -> Tensor:
    """(H, W): 0 for the most salient pixel, 1 for the next; equal ones in raster order.

    Raises:
        SuiteError: If the map is not finite or not of the image's size.
    """
    saliency = map_of_image(probe, saliency)
    order = by_value(saliency)[1]
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order), device=order.device)
    return found.reshape(saliency.shape)


def over_maps(counts: list[int], one_map: Tensor) -> Tensor:
    """(n,) counts in the shape that broadcasts over n maps of the shape of ``one_map``."""
    return torch.tensor(counts, device=one_map.device).reshape(-1, *[1] * one_map.ndim)


def _counts(probe: Probe, order: Tensor, step: int | None, rows: int) -> Tensor:
    """(n + 1, 1, 1) pixels that have changed: none, one step, ..., all."""
    step = rows * probe.size[-1] if step is None else step
    if not isinstance(step, int) or step < 1:
        raise SuiteError(f"step must be a whole number of pixels from 1, got {step!r}")
    return over_maps([min(i * step, order.numel()) for i in range(math.ceil(order.numel() / step) + 1)], order)


def _area(values: Tensor) -> float:
    """Under (n + 1,) values, over a width of 1."""
    return float(torch.trapezoid(values.double(), dx=1 / (len(values) - 1)))

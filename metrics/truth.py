"""Where a map's saliency lies when it is known what the network looks at.

Generated scenes say which pixels an answer depends on: a watermark, one of two objects, a cell of a grid. The metrics
of a map (H, W) and a region (H, W) bool are :func:`positive_share` and :func:`sise.metrics.ordering.pixel_auc`;
:func:`object_share` weighs one region against another. :func:`on_region` and :func:`against_others` bring them to the
regions of a probe, with the signature ``(probe, target, saliency)``; none of them asks the network anything.

A pair without such a region (a scene without watermark, an image with a single class) takes no part: None, which
records keep and tables count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sise.errors import SuiteError
from sise.metrics.checks import map_and_mask, map_of_image
from sise.types import Value

if TYPE_CHECKING:
    from sise.probe.probe import Probe

OBJECT = "object"
"""The region that every target has: its ground-truth mask."""


def positive_share(saliency: Tensor, mask: Tensor) -> float | None:
    """Share of the positive saliency that lies in the mask, from 0 to 1.

    Unlike EBPG with its minimum shifted to 0, it reads the map's own zero: negative saliency counts as none, and a
    constant background of a map in [0, 1] counts as saliency. A perfect map has 1, a uniform one the mask's share of
    the image.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool.

    Returns:
        A fraction; 0 for a map without positive saliency (set by definition); None for an empty mask.

    Raises:
        SuiteError: If the map is not finite, the mask not boolean, or the shapes differ.

    Reference:
        Rao et al., "Towards better understanding attribution methods", CVPR 2022 (the localisation score of the grid
        pointing game, with a cell as the mask).
    """
    saliency, mask = map_and_mask(saliency, mask)
    if not mask.any():
        return None
    positive = saliency.double().clamp(min=0)
    inside, total = torch.stack((positive[mask].sum(), positive.sum())).tolist()
    if not total:
        return Value(0.0, "no positive saliency")
    return min(inside / total, 1.0)  # the two sums may round differently


def object_share(saliency: Tensor, own: Tensor, others: Tensor) -> float | None:
    """Positive saliency on the target's object over that on all objects: 1 = none on those of other classes.

    What lies on no object does not count. Which of two objects a map shows is all that is asked, so that a map of
    edges, or of anything that stands out, has about the target's share of the objects' pixels.

    Args:
        saliency: (H, W) float; negative values count as 0.
        own: (H, W) bool, the target's object.
        others: (H, W) bool, objects of other classes; pixels of both count as the target's.

    Returns:
        A fraction; 1/2 for a map without positive saliency on either (set by definition); None where one of the two
        has no pixel of its own.

    Raises:
        SuiteError: If the map is not finite, a mask not boolean, or the shapes differ.
    """
    saliency, own = map_and_mask(saliency, own)
    others = map_and_mask(saliency, others)[1] & ~own
    if not own.any() or not others.any():
        return None
    positive = saliency.double().clamp(min=0)
    here, there = torch.stack((positive[own].sum(), positive[others].sum())).tolist()
    return here / (here + there) if here + there else Value(0.5, "no positive saliency on an object")


def on_region(
    probe: Probe, target: int, saliency: Tensor, *, metric: Callable[..., float | None], region: str = OBJECT
) -> float | None:
    """A metric of a map and a mask, on one of the image's known regions.

    Args:
        probe: One image as one network sees it, with its regions.
        target: Class index.
        saliency: (H, W) float.
        metric: ``(saliency, mask) -> float``, for instance :func:`positive_share`.
        region: A name in ``probe.regions``, or "object": the target's ground-truth mask.

    Returns:
        The metric's value, or its None; None for an empty region.

    Raises:
        SuiteError: If the image has no such region; see also the metric.
    """
    saliency, mask = map_of_image(probe, saliency), region_of(probe, target, region)
    return metric(saliency, mask) if mask.any() else None


def against_others(probe: Probe, target: int, saliency: Tensor) -> float | None:
    """:func:`object_share` of the target's object against the objects of the image's other classes.

    Args:
        probe: One image as one network sees it, with its ground-truth masks.
        target: Class index.
        saliency: (H, W) float.

    Returns:
        A fraction; None for an image with a single class.

    Raises:
        SuiteError: If the map is not finite or not of the image's size.
    """
    return object_share(map_of_image(probe, saliency), *_own_and_others(probe, target))


def region_of(probe: Probe, target: int, region: str) -> Tensor:
    """(H, W) bool: a named region of the probe's image, on its device.

    Raises:
        SuiteError: If the data set gives no such region.
    """
    if region == OBJECT and probe.ground_truth is not None:
        return probe.ground_truth[target]
    if region not in probe.regions:
        known = [*([OBJECT] if probe.ground_truth is not None else []), *probe.regions]
        raise SuiteError(
            f"expected a region {region!r} of the image, its data set gives {', '.join(known) or 'none'}; metrics of "
            "the watermark are for dataset=hans"
        )
    return probe.regions[region]


def _own_and_others(probe: Probe, target: int) -> tuple[Tensor, Tensor]:
    own = region_of(probe, target, OBJECT)
    others = torch.zeros_like(own)
    for other, mask in (probe.ground_truth or {}).items():
        if other != target:
            others |= mask
    return own, others

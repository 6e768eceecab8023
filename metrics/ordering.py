"""Localization by the order of a map's pixels alone: no threshold, no energy, unchanged by any growing function of it.

A map that is squared, gated or normalised in another way orders its pixels alike, and scores alike (EBPG does not).
Tied pixels count as half before, half behind each other (AUC), or come all at once (average precision).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sise.metrics.checks import by_value, map_and_mask
from sise.types import Value


def pixel_auc(saliency: Tensor, mask: Tensor) -> float:
    """Pixel AUC: how often a pixel of the mask is more salient than one outside, of all such pairs of pixels.

    Higher is better; 0.5 for a constant or a random map, 1 for the mask itself. Known weakness: in a small object's
    image nearly all pairs are easy, so nearly all maps score high.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool.

    Returns:
        A fraction; 0.5 for a mask with no pixel on one of its sides (set by definition).

    Raises:
        SuiteError: On a map or mask that no metric takes.

    Reference:
        Simonyan, Vedaldi and Zisserman score localization so; Hanley and McNeil, "The meaning and use of the area under
        a receiver operating characteristic (ROC) curve", Radiology 1982.
    """
    hits, misses = _by_value(*map_and_mask(saliency, mask))
    inside, outside = hits.sum(), misses.sum()
    if not inside or not outside:
        return Value(0.5, "no pixel outside" if inside else "empty mask")
    below = np.append(np.cumsum(misses[::-1])[::-1][1:], 0.0)  # outside pixels that are less salient
    return float((hits * (below + misses / 2)).sum() / (inside * outside))


def average_precision(saliency: Tensor, mask: Tensor) -> float:
    """Average precision: the mean, over the mask's pixels, of the mask's share among all pixels as salient as that.

    Higher is better; the mask's share of the image for a constant or (nearly) a random map, 1 for the mask itself.
    Known weakness: its floor is the object's size, so values of images with other objects do not compare.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool.

    Returns:
        A fraction; 0 for an empty mask (set by definition).

    Raises:
        SuiteError: On a map or mask that no metric takes.

    Reference:
        Everingham et al., "The PASCAL visual object classes (VOC) challenge", IJCV 2010, without interpolation.
    """
    hits, misses = _by_value(*map_and_mask(saliency, mask))
    if not hits.sum():
        return Value(0.0, "empty mask")
    found = np.cumsum(hits)
    precision = found / (found + np.cumsum(misses))
    return float((hits * precision).sum() / found[-1])


def _by_value(saliency: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels inside and outside of the mask have each of the map's values, from the highest down."""
    values, order = by_value(saliency)
    place = (values[1:] != values[:-1]).cumsum(0).cpu().numpy()  # values above each pixel's
    place, inside = np.append(0, place), mask.flatten()[order].cpu().numpy()
    hits, misses = (np.bincount(place[chosen], minlength=place[-1] + 1).astype(float) for chosen in (inside, ~inside))
    return hits, misses

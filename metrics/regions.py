"""Where signed relevance or thresholded maps lie, as the talk's tables measure it.

All take ``saliency`` (H, W) float and ``mask`` (H, W) bool, as the metrics of :mod:`sise.metrics.localization`. Unlike
those, they read the map's sign and its zero, so a map must come as its explainer made it, not stretched to [0, 1].
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sise.errors import choose
from sise.metrics.checks import map_and_mask
from sise.types import Value

Threshold = Literal["zero", "mean"]


def threshold_iou(saliency: Tensor, mask: Tensor, *, threshold: Threshold = "mean") -> float:
    """Intersection over union of the mask and the pixels above a threshold.

    Interpretation: the talk prints pairs of mIOUs and does not define them. For maps without a sign the first is 0 in
    every row, and a caption names the mean: so thresholds at 0 and at the map's mean.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool.
        threshold: ``zero`` or ``mean``; pixels strictly above it count.

    Returns:
        A fraction; 0 for an empty mask (set by definition).

    Raises:
        SuiteError: On a map or mask that no metric takes, or an unknown threshold.
    """
    saliency, mask = map_and_mask(saliency, mask)
    choose("threshold", threshold, ("zero", "mean"))
    above = saliency > (saliency.double().mean().to(saliency.dtype) if threshold == "mean" else 0)
    if not mask.any():
        return Value(0.0, "empty mask")
    union = int((above | mask).sum())
    return int((above & mask).sum()) / union


def outside_inside_ratio(saliency: Tensor, mask: Tensor) -> float:
    """Outside-inside ratio: positive relevance per pixel outside of the mask, over that inside.

    Lower is better; 1 for a uniform map. From memory of the paper.

    Args:
        saliency: (H, W) float; only its positive part counts.
        mask: (H, W) bool.

    Returns:
        Not a fraction. Set by definition: 1 if there is no positive relevance at all, or no pixel on one of the two
        sides; the number of pixels of the image if all of it lies outside, where the ratio has no bound.

    Raises:
        SuiteError: On a map or mask that no metric takes.

    Reference:
        Nam et al., "Relative attributing propagation", AAAI 2020.
    """
    saliency, mask = map_and_mask(saliency, mask)
    if not mask.any():
        return Value(1.0, "empty mask")
    if mask.all():
        return Value(1.0, "no pixel outside")
    positive = saliency.double().clamp(min=0)
    if not positive.any():
        return Value(1.0, "no positive relevance")
    if not positive[mask].any():
        return Value(saliency.numel(), "no positive relevance inside")
    return float(positive[~mask].mean() / positive[mask].mean())

"""Otsu's thresholds: the binary gate's, the 256-bin one, and Ada-SISE's adaptive choice of feature maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Threshold = Callable[[np.ndarray], float]
LITERAL = {
    "eq5_literal_asc_incl": (False, True),
    "eq5_literal_asc_excl": (False, False),
    "eq5_literal_desc_incl": (True, True),
    "eq5_literal_desc_excl": (True, False),
}
"""Readings of equation 5 to the letter: whether scores descend, and whether i = n is one of the splits."""


def adaptive_threshold(normalised_scores: np.ndarray, rule: str, estimator: str = "exact") -> float:
    """Ada-SISE's μ for one layer.

    With fewer than three positive scores, or all of them equal, the threshold is 0: all positives stay (A4).

    Args:
        normalised_scores: (C,) α/β; their maximum is 1.
        rule, estimator: See :func:`ada_sise`.

    Returns:
        The threshold, at least 0.
    """
    positive = normalised_scores[normalised_scores > 0]
    if len(positive) < 3 or positive.min() == positive.max():
        return 0.0
    if rule == "otsu_positive":
        return otsu(positive, estimator)
    if rule == "otsu_signed":
        return max(otsu(normalised_scores, estimator), 0.0)
    if rule == "author_hist":
        return otsu256(torch.from_numpy(positive))
    descending, include_last = LITERAL[rule]
    return _literal_equation_5(positive, descending=descending, include_last=include_last)


def otsu(values: np.ndarray, estimator: str = "exact") -> float:
    """Otsu's threshold of scalar samples: the largest value of the low class.

    Args:
        values: (n,), n >= 2, not all equal.
        estimator: ``exact`` maximises the between-class variance over all n - 1 splits of the sorted samples;
            ``skimage`` and ``uint8`` do so over 256 bins, between the extremes or of [0, 1].
    """
    if estimator == "skimage":
        from skimage.filters import threshold_otsu

        return float(threshold_otsu(values))
    if estimator == "uint8":
        return otsu(np.floor(values.clip(0) * 255)) / 255  # a cast to 8 bits drops the fraction
    ordered = np.sort(values)
    n = len(ordered)
    low = np.arange(1, n)
    sums = np.cumsum(ordered)
    difference = sums[:-1] / low - (sums[-1] - sums[:-1]) / (n - low)
    between = low * (n - low) * difference**2
    return float(ordered[int(np.argmax(between))])


def _literal_equation_5(positive: np.ndarray, *, descending: bool, include_last: bool) -> float:
    """Eqs. 2-6 of Ada-SISE to the letter, where 0-based ``i - 1`` is the paper's i (docs/protocol.md, A1)."""
    ordered = np.sort(positive)[::-1] if descending else np.sort(positive)
    n = len(ordered)
    i = np.arange(1, n + 1 if include_last else n)
    low = np.cumsum(ordered)[i - 1] / i * n
    tail = np.cumsum(ordered[::-1])[::-1]  # sum from the i-th value on: the paper counts it in both classes
    with np.errstate(divide="ignore"):
        high = np.where(i < n, tail[i - 1] / np.maximum(n - i, 1), np.inf) * n
    variance = low * high * ((n - 2 * i) / n) ** 2
    return float(ordered[int(np.argmax(variance))])


def otsu_skimage(visualization_map: Tensor) -> float:
    from skimage.filters import threshold_otsu

    values = visualization_map.cpu().numpy()
    return float(values.max()) if values.min() == values.max() else float(threshold_otsu(values))


def otsu256(visualization_map: Tensor, *, raise_threshold: bool = True) -> float:
    """Otsu's threshold over 256 fixed bins of [0, 1], as the authors compute it.

    Values are rounded to integers 0..256 of which 256 shares the last bin. With ``raise_threshold``, a threshold
    times 1.5 is taken instead whenever fewer than 10 % of the pixels reach it.

    Args:
        visualization_map: (H, W), min-max normalised: both end bins are occupied, or the threshold may be NaN-led as
            in the authors' code (the first split with an empty class wins).
        raise_threshold: The authors' ``tau = 1.5`` rule.

    Returns:
        The threshold, in the map's units.

    Reference:
        Otsu 1979; docs/protocol.md, "The gates of F6".
    """
    levels = np.round(visualization_map.detach().cpu().numpy().ravel() * 256)
    counts = np.histogram(levels, bins=256, range=(0, 256))[0].astype(np.float64)
    # number and sum of values below each split 1..255
    below, sum_below = np.cumsum(counts)[:-1], np.cumsum(counts * np.arange(256))[:-1]
    above, sum_above = counts.sum() - below, (counts * np.arange(256)).sum() - sum_below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sum_below / below - sum_above / above) ** 2
    # split 0 scores 0 in the authors' loop, so it wins only if no other split does better
    split = int(np.argmax(np.concatenate([[0.0], between])))
    if raise_threshold and (levels >= round(1.5 * split)).mean() < 0.1:
        return 1.5 * split / 256
    return split / 256

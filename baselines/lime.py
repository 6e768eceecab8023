"""LIME: a linear model of the network around one image, whose features are the image's segments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.segments import coalition_confidences, segments_of
from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.ranges import FromTwo, FromZero, Positive, Seed


def lime(
    probe: Probe,
    targets: Sequence[int],
    *,
    n_samples: FromTwo = 1000,
    n_segments: FromTwo = 50,
    compactness: Positive = 30.0,
    sigma: FromZero = 1.0,
    kernel_width: Positive = 0.25,
    ridge: FromZero = 1.0,
    reduce: Reduce = "sum_positive",
    seed: Seed = 0,
) -> Tensor:
    """LIME: each pixel gets the weight of its segment in a ridge regression of the confidence on the segments shown.

    Segments are shown or hidden with probability one half; the first sample is the whole image. A sample counts by
    ``sqrt(exp(-d² / kernel_width²))``, d its cosine distance to the whole image. One set of samples serves all targets.

    Args:
        probe: One image as one network sees it; hidden segments get its fill, where the authors' package takes each
            segment's mean colour.
        targets: T class indices.
        n_samples: Samples, each one forward pass.
        n_segments, compactness, sigma: See :func:`sise.baselines.segments.segments_of`.
        kernel_width: Of the weights; the authors' package has 0.25.
        ridge: Penalty on the squared weights, not on the intercept; the authors' package has 1.
        reduce: Sign policy, see :func:`sise.baselines.common.reduce_channels`.
        seed: Of the samples; torch's own generator is not touched.

    Returns:
        (T, H, W) in [0, 1], or in [-1, 1] if ``reduce`` is ``sum_signed``.

    Raises:
        SuiteError: If a target is not a class or a number is out of its range.

    Reference:
        Ribeiro, Singh and Guestrin, "Why Should I Trust You?", KDD 2016.
    """
    targets = check_targets(probe, targets)
    if n_samples < 2 or not kernel_width > 0 or ridge < 0:
        raise SuiteError(
            f"LIME needs n_samples >= 2, kernel_width > 0 and ridge >= 0; got {n_samples}, {kernel_width}, {ridge}."
        )
    if not targets:
        return no_maps(probe)
    segments = segments_of(probe, n_segments, compactness, sigma)
    shown = samples(n_samples, int(segments.max()) + 1, seed)
    bank = f"lime n_segments={n_segments} compactness={compactness} sigma={sigma} seed={seed}"
    confidences = coalition_confidences(probe, bank, segments, shown, targets)
    distance = 1 - shown.double().mean(dim=1).sqrt()
    weights = (-(distance**2) / kernel_width**2).exp().sqrt()
    coefficients = ridge_regression(shown.double(), confidences.cpu(), weights, ridge)
    return attribution_maps(coefficients.to(segments.device)[:, segments][:, None], probe.size, reduce)


def samples(count: int, segments: int, seed: int) -> Tensor:
    """(N, M) bool: all segments first, then each shown with probability one half; fewer are the first of more."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count - 1, segments, generator=generator, dtype=torch.float64) < 0.5
    return torch.cat([torch.ones(1, segments, dtype=torch.bool), drawn])


def ridge_regression(features: Tensor, values: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """Weighted ridge regression with a free intercept.

    Args:
        features: (N, M) float64.
        values: (N, T) float64.
        weights: (N,) float64, at least 0.
        ridge: Penalty on the squared coefficients.

    Returns:
        (T, M) coefficients.
    """
    share = weights / weights.sum()
    features, values = features - share @ features, values - share @ values
    weighted = features.T * weights
    penalty = ridge * torch.eye(features.shape[1], dtype=features.dtype)
    return torch.linalg.lstsq(weighted @ features + penalty, weighted @ values, driver="gelsd").solution.T

"""Kernel SHAP: Shapley values of an image's segments, estimated from random coalitions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.segments import coalition_confidences, segments_of
from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.ranges import FromTwo, FromZero, Positive, Seed


def kernel_shap(
    probe: Probe,
    targets: Sequence[int],
    *,
    n_samples: FromTwo = 1000,
    n_segments: FromTwo = 50,
    compactness: Positive = 30.0,
    sigma: FromZero = 1.0,
    reduce: Reduce = "sum_positive",
    seed: Seed = 0,
) -> Tensor:
    """Kernel SHAP: each pixel gets the Shapley value of its segment in the game whose payoff is the confidence.

    A coalition of k of M segments weighs (M - 1) / (C(M, k) k (M - k)). Sizes are drawn in proportion to
    1 / (k (M - k)), the total weight of a size, members uniformly, each coalition with its complement; then all
    regression weights are equal. Where all coalitions number no more than ``n_samples`` they are all taken, with their
    weights: the values are exact then. They add up to the confidence of the image less that of an empty one.

    Args:
        probe: One image as one network sees it; hidden segments get its fill.
        targets: T class indices.
        n_samples: Coalitions, each one forward pass, beside the empty and the whole one. The authors' package has
            2 M + 2048.
        n_segments, compactness, sigma: See :func:`sise.baselines.segments.segments_of`.
        reduce: Sign policy, see :func:`sise.baselines.common.reduce_channels`.
        seed: Of the coalitions; torch's own generator is not touched.

    Returns:
        (T, H, W) in [0, 1], or in [-1, 1] if ``reduce`` is ``sum_signed``.

    Raises:
        SuiteError: If a target is not a class or ``n_samples`` is below 2.

    Reference:
        Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NIPS 2017, section 4.1.
    """
    targets = check_targets(probe, targets)
    if n_samples < 2:
        raise SuiteError(f"Kernel SHAP needs n_samples >= 2, got {n_samples}.")
    if not targets:
        return no_maps(probe)
    segments = segments_of(probe, n_segments, compactness, sigma)
    count = int(segments.max()) + 1
    shown, weights = coalitions(count, n_samples, seed)
    shown = torch.cat([torch.zeros(1, count, dtype=torch.bool), torch.ones(1, count, dtype=torch.bool), shown])
    bank = f"kernel_shap {n_samples} n_segments={n_segments} compactness={compactness} sigma={sigma} seed={seed}"
    confidences = coalition_confidences(probe, bank, segments, shown, targets).cpu()
    values = shapley_values(shown[2:], confidences[2:], weights, empty=confidences[0], whole=confidences[1])
    return attribution_maps(values.to(segments.device)[:, segments][:, None], probe.size, reduce)


def coalitions(segments: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Proper coalitions of M segments and their weights in the regression: (N, M) bool, (N,) float64."""
    if segments < 20 and 2**segments - 2 <= count:
        numbers = torch.arange(1, 2**segments - 1)
        shown = (numbers[:, None] >> torch.arange(segments)) & 1 == 1
        sizes = shown.sum(dim=1).double()
        ways = torch.lgamma(torch.tensor(segments + 1.0, dtype=torch.float64))
        ways = (ways - torch.lgamma(sizes + 1) - torch.lgamma(segments - sizes + 1)).exp()
        return shown, (segments - 1) / (ways * sizes * (segments - sizes))
    generator = torch.Generator().manual_seed(seed)
    pairs = -(-count // 2)
    sizes = torch.arange(1, segments, dtype=torch.float64)
    drawn = torch.multinomial(1 / (sizes * (segments - sizes)), pairs, replacement=True, generator=generator) + 1
    ranks = torch.rand(pairs, segments, generator=generator, dtype=torch.float64).argsort(dim=1).argsort(dim=1)
    half = ranks < drawn[:, None]
    shown = torch.stack([half, ~half], dim=1).flatten(0, 1)[:count]
    return shown, torch.ones(len(shown), dtype=torch.float64)


def shapley_values(shown: Tensor, values: Tensor, weights: Tensor, *, empty: Tensor, whole: Tensor) -> Tensor:
    """Weighted least squares for φ with ``empty + sum φ = whole``.

    Args:
        shown: (N, M) bool, proper coalitions.
        values: (N, T) float64, their payoffs.
        weights: (N,) float64.
        empty, whole: (T,) float64, the payoffs of no and of all segments.

    Returns:
        (T, M) float64.
    """
    features, total = shown.double(), whole - empty
    if features.shape[1] == 1:
        return total[:, None]
    last = features[:, -1:]
    root = weights.sqrt()[:, None]
    free = torch.linalg.lstsq(
        root * (features[:, :-1] - last), root * (values - empty - last * total), driver="gelsd"
    ).solution
    return torch.cat([free, total[None] - free.sum(dim=0, keepdim=True)]).T

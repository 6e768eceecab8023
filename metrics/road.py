"""ROAD: remove and debias. Pixels are removed by imputing them from their neighbours, so that no hole gives them away.

A removed pixel becomes the weighted mean of its eight neighbours (1/6 for those beside it, 1/12 for the diagonal ones),
all removed pixels at once: a sparse linear system. A little noise hides where it was smooth.

Reference:
    Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

from sise.errors import SuiteError
from sise.metrics.checks import pixel_count
from sise.metrics.curves import ranks
from sise.ranges import FromZero, Seed, Shares
from sise.scoring import Segment

if TYPE_CHECKING:
    from sise.probe.probe import Probe

NEIGHBOURS = {
    (row, column): 1 / 6 if row * column == 0 else 1 / 12
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if (row, column) != (0, 0)
}
"""Weights by the place of the neighbour."""


def road(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    shares: Shares = (0.2, 0.4, 0.6, 0.8),
    noise: FromZero = 0.01,
    seed: Seed = 0,
) -> float:
    """ROAD, combined: half the mean difference in confidence, least salient pixels removed − most salient ones removed.

    Higher is better; 0 for a map whose order does not matter. Known weakness: imputing from what is left gives a small
    removed object away less than a large one; the value mixes MoRF and LeRF, which may disagree.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float; equal values in raster order.
        shares: Shares of the pixels to remove, each below 1.
        noise: Standard deviation of what is added to imputed pixels, in units of the network's input.
        seed: Of the noise.

    Returns:
        In [−1/2, 1/2] when the confidence is a probability.

    Raises:
        SuiteError: If the map is not finite or not of the image's size, the image a signal, or a share out of range.
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise SuiteError(f"shares must lie between 0 and 1, got {list(shares)}; 20 % is 0.2")
    if len(probe.size) != 2:
        raise SuiteError(f"ROAD imputes pixels of images from their neighbours; got a signal of {probe.size} samples")
    order = ranks(probe, saliency)
    segments = []
    whole = torch.ones(1, *probe.size, dtype=torch.bool, device=probe.device)
    for share in shares:
        count = pixel_count(share, order.numel())
        for removed in (order >= order.numel() - count, order < count):
            segments.append(Segment(impute(probe.image, removed, noise=noise, seed=seed), whole))
    confidences = probe.to_confidence(torch.cat(probe.score_segments(segments)))[:, target].reshape(-1, 2)
    return float((confidences[:, 0] - confidences[:, 1]).mean()) / 2


def impute(image: Tensor, removed: Tensor, *, noise: FromZero = 0.01, seed: Seed = 0) -> Tensor:
    """Noisy linear imputation: removed pixels become the weighted mean of their neighbours, plus noise.

    Args:
        image: (1, C, H, W) network input.
        removed: (H, W) bool, not everywhere.
        noise: Standard deviation of the normal noise on the imputed pixels.
        seed: Of the noise, which is drawn for all pixels, so that equal pixels get equal noise in any mask.

    Returns:
        (1, C, H, W).
    """
    if not removed.any():
        return image
    gone = removed.cpu().numpy()
    matrix, right = _system(image[0].double().cpu().numpy(), gone)
    solved = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}).solve(right)
    imputed = image.clone()
    places = torch.from_numpy(gone).to(image.device)
    imputed[0, :, places] = torch.from_numpy(solved.T).to(image)
    if noise:
        drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)).to(image)
        imputed[0, :, places] += noise * drawn[0, :, places]
    return imputed


def _system(image: np.ndarray, gone: np.ndarray) -> tuple[csc_array, np.ndarray]:
    """(matrix (N, N), right-hand sides (N, C)) of the N removed pixels: Σ w (x − neighbour) = 0."""
    height, width = gone.shape
    number = np.full(gone.shape, -1)
    number[gone] = np.arange(gone.sum())
    rows, columns = np.nonzero(gone)
    mine = np.arange(len(rows))
    weights = np.zeros(len(rows))
    right = np.zeros((len(rows), len(image)))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for (down, across), weight in NEIGHBOURS.items():
        y, x = rows + down, columns + across
        there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        weights += weight * there
        y, x, of = y[there], x[there], mine[there]
        known = ~gone[y, x]
        np.add.at(right, of[known], weight * image[:, y[known], x[known]].T)
        unknown = of[~known], number[y[~known], x[~known]]
        entries.append((*unknown, np.full(len(unknown[0]), -weight)))
    entries.append((mine, mine, weights))
    row, column, value = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return coo_array((value, (row, column)), shape=(len(rows), len(rows))).tocsc(), right

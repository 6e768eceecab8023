"""Parts of an image for the surrogates: an explainer that hides whole segments asks the network about fewer things."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sise.errors import SuiteError
from sise.maps import minmax
from sise.probe.probe import Probe

FEWEST = 10
CELLS = 7
CHUNK = 128


def segments_of(probe: Probe, n_segments: int, compactness: float, sigma: float) -> Tensor:
    """Superpixels of the probe's image by SLIC; a grid of 7 x 7 cells where SLIC finds fewer than ten.

    SLIC runs on the network's input, min-max normalised: the pixels themselves are not known here. Of a noisy image it
    may make a single segment, of which no surrogate can learn anything. A signal is cut into stretches of equal
    length.

    Args:
        probe: One image or signal.
        n_segments: About how many.
        compactness: Weight of nearness against colour.
        sigma: Of the Gaussian that smooths the image first, pixels.

    Returns:
        (H, W) or (L,) int64, the number of each pixel's segment, 0 to M - 1.

    Raises:
        SuiteError: If ``n_segments`` is below 2.

    Reference:
        Achanta et al., "SLIC superpixels", TPAMI 2012, by scikit-image.
    """
    if n_segments < 2:
        raise SuiteError(f"n_segments must be at least 2, got {n_segments}.")
    if len(probe.size) == 1:
        return grid_of(probe.size, min(n_segments, probe.size[0])).to(probe.device)
    from skimage.segmentation import slic

    image = minmax(probe.image[0].flatten()[None], 1)[0].view_as(probe.image[0])
    pixels = image.movedim(0, -1).cpu().double().numpy()
    found = slic(
        pixels, n_segments=n_segments, compactness=compactness, sigma=sigma, start_label=0, channel_axis=-1,
        convert2lab=pixels.shape[-1] == 3,
    )  # fmt: skip
    numbers = np.unique(found, return_inverse=True)[1].reshape(found.shape)
    if numbers.max() + 1 < FEWEST:
        probe.remark("segments_of_a_grid")
        return grid_of(probe.size, CELLS).to(probe.device)
    return torch.from_numpy(numbers).to(probe.device)


def grid_of(size: Sequence[int], cells: int) -> Tensor:
    """(H, W) or (L,) int64: cells of nearly equal size, ``cells`` along each axis, numbered in raster order."""
    numbers = torch.zeros(1, dtype=torch.int64).reshape([1] * len(size))
    for axis, side in enumerate(size):
        along = torch.arange(side) * min(cells, side) // side
        numbers = numbers * min(cells, side) + along.view([side if i == axis else 1 for i in range(len(size))])
    return numbers


def coalition_confidences(
    probe: Probe, bank: str, segments: Tensor, coalitions: Tensor, targets: Sequence[int]
) -> Tensor:
    """Ψ of the image when only some of its segments are shown, one pass per coalition for all targets.

    Args:
        probe: One image as one network sees it; hidden segments get its fill.
        bank: Names the coalitions and everything they depend on, see :meth:`sise.probe.probe.Probe.bank_confidences`.
        segments: (H, W) or (L,) int64, from :func:`segments_of`.
        coalitions: (N, M) bool, which segments are shown.
        targets: T class indices.

    Returns:
        (N, T) float64.
    """
    found = [probe.bank_confidences(bank, first, masks, targets) for first, masks in _masks(segments, coalitions)]
    return torch.cat(found)


def _masks(segments: Tensor, coalitions: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(M, H, W) float masks of the coalitions, some at a time, each after the number of the first."""
    for first in range(0, len(coalitions), CHUNK):
        part = coalitions[first : first + CHUNK].to(segments.device, torch.float32)
        yield first, part[:, segments]

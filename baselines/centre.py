"""Control: a Gaussian in the middle of the image. What photographers' habits alone are worth to a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sise.errors import SuiteError
from sise.ranges import Positive

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def centre(probe: Probe, targets: Sequence[int], *, sigma: Positive = 0.25, shift: float = 0.0) -> Tensor:
    """The same Gaussian for every image and target; runs no network.

    A method that does not beat it on a localization metric has not shown that it looks at the image.

    Args:
        probe: Only its size and device are read.
        targets: T class indices.
        sigma: Standard deviation as a share of each side, so that the Gaussian has the image's aspect ratio.
        shift: Pixels to the right and down. TorchRay's centre is the place (W/2, H/2), pixels counted from 0, half a
            pixel beside the middle of the image: ``shift=0.5``. On an odd side it lies between two equal maxima.

    Returns:
        (T, H, W) float32 in [0, 1], min–max normalised; zero for an image of one pixel.

    Raises:
        SuiteError: If ``sigma`` is not positive.

    Reference:
        The "Center" row of the pointing game, Zhang et al., "Top-down neural attention by excitation
        backprop", IJCV 2018, as a map.
    """
    if not sigma > 0:
        raise SuiteError(f"sigma must be positive, a share of the image's side, got {sigma}")
    # in half pixels, so that places on either side of the middle are exactly as far from it
    along = [(2 * torch.arange(side, dtype=torch.float64) + 1 - 2 * shift - side) / (2 * side) for side in probe.size]
    squared_distance = torch.stack([offset**2 for offset in torch.meshgrid(*along, indexing="ij")]).sum(dim=0)
    # relative to the nearest pixel, so that the highest value is exactly 1 and no sigma underflows to a zero
    # map
    gaussian = torch.exp(-(squared_distance - squared_distance.min()) / (2 * sigma**2))
    lowest = gaussian.min()
    saliency = (gaussian - lowest) / (1 - lowest) if lowest < 1 else torch.zeros_like(gaussian)
    return saliency.float().to(probe.device).repeat(len(targets), *[1] * saliency.ndim)

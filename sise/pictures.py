"""The picture people look at: a saliency map over its photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sise.errors import SuiteError
from sise.extras import MissingExtra, how_to_install
from sise.maps import minmax

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601."""


def overlay(photo: Image | np.ndarray | Tensor, saliency: Tensor | np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Colours a saliency map and lays it over its greyed photo.

    Args:
        photo: A PIL image, an array (H, W, 3) or (H, W), uint8 or in [0, 1], or a tensor (3, H, W) in [0, 1].
        saliency: (h, w); enlarged bilinearly to the photo's size and stretched to [0, 1].
        strength: Of the colours, from 0 (the grey photo) to 1 (the map alone).

    Returns:
        (H, W, 3) uint8; ``PIL.Image.fromarray(...).save("map.png")`` keeps it.

    Raises:
        SuiteError: If a shape or a range is another one.
        MissingExtra: If matplotlib, whose colours these are, is not installed.

    Example:
        >>> import numpy as np, sise
        >>> sise.overlay(np.zeros((4, 6, 3), np.uint8), np.eye(2)).shape
        (4, 6, 3)
    """
    try:
        from matplotlib import colormaps  # seconds that only a picture needs
    except ModuleNotFoundError as error:
        raise MissingExtra(f"sise.overlay needs matplotlib: {how_to_install('bench')}") from error
    if not 0 <= strength <= 1:
        raise SuiteError(f"strength: expected a number from 0 to 1, got {strength}")
    grey = _pixels(photo) @ np.array(GREY)
    given = torch.as_tensor(saliency).detach().cpu().double()
    if given.ndim != 2:
        raise SuiteError(f"expected a saliency map (H, W), got {tuple(given.shape)}; take one class's, saliency[0].")
    if tuple(given.shape) != grey.shape:
        given = F.interpolate(given[None, None], size=grey.shape, mode="bilinear", align_corners=False)[0, 0]
    colours = colormaps["viridis"](minmax(given).numpy())[..., :3]
    return np.rint(255 * ((1 - strength) * grey[..., None] + strength * colours)).astype(np.uint8)


def _pixels(photo: Any) -> np.ndarray:
    """The photo as (H, W, 3) in [0, 1]."""
    pixels = photo.detach().cpu().numpy() if isinstance(photo, Tensor) else np.asarray(photo)
    if isinstance(photo, Tensor) and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise SuiteError(f"expected a photo (H, W, 3), or a tensor (3, H, W); got the shape {tuple(pixels.shape)}")
    pixels = pixels[..., :3].astype(float) / (255 if pixels.dtype == np.uint8 else 1)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise SuiteError(
            f"expected a photo of bytes, or of numbers in [0, 1]; got {pixels.min():g} to {pixels.max():g}. Give the "
            "photo itself, not what the network is given."
        )
    return pixels

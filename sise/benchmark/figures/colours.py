"""A saliency map over its photo, and other colours."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from torch import Tensor

from sise.maps import minmax

SALIENCY = "viridis"  # even steps for every kind of colour vision
OUTLINE = "#ffffff"
INK, PALE = "#222222", "#666666"


def overlay(picture: np.ndarray, saliency: Tensor) -> np.ndarray:
    """A map in colours, min-max normalised, over the greyed image: (H, W, 3)."""
    values = minmax(saliency.detach().cpu().double()).numpy()
    grey = picture @ np.array([0.299, 0.587, 0.114])
    return 0.4 * grey[..., None] + 0.6 * colormaps[SALIENCY](values)[..., :3]


def dimmed(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, darker and paler outside of the mask: (H, W, 3)."""
    grey = picture.mean(axis=2, keepdims=True)
    return np.where(mask[..., None], picture, 0.35 * (0.3 * picture + 0.7 * grey))


def outline(axes: Axes, mask: np.ndarray) -> None:
    """Draws the mask's border."""
    if mask.any() and not mask.all():
        padded = np.pad(mask, 1).astype(float)
        x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
        limits = axes.get_xlim(), axes.get_ylim()
        axes.contour(x, y, padded, levels=[0.5], colors=OUTLINE, linewidths=0.75)
        axes.set(xlim=limits[0], ylim=limits[1])

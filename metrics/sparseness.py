"""How concentrated a map is. Says nothing of where: a wrong map may be as sparse as a right one.

Both take ``(probe, target, saliency)``, as metrics without a mask do, and ask the network nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sise.maps import minmax
from sise.metrics.checks import map_of_image
from sise.types import Value

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def sparseness(probe: Probe, target: int, saliency: Tensor) -> float:
    """Sparseness: the Gini index of the map's absolute values.

    Higher is called better; 0 for a constant map, 1 − 1/N for a single pixel of N. Known weakness: a random map of a
    single pixel is perfect.

    Args:
        probe: One image as one network sees it; only its size is read.
        target: Not read.
        saliency: (H, W) float.

    Returns:
        A fraction; 0 for a zero map (set by definition).

    Raises:
        SuiteError: If the map is not finite or not of the image's size.

    Reference:
        Chalasani et al., "Concise explanations of neural networks using adversarial training", ICML 2020.
    """
    values = map_of_image(probe, saliency).double().abs().flatten().sort().values
    total = float(values.sum())
    if total == 0:
        return Value(0.0, "zero map")
    count = len(values)
    weights = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=values.device) - count - 1
    return float((weights * values).sum()) / (count * total)


def complexity(probe: Probe, target: int, saliency: Tensor) -> float:
    """Complexity: the mean of the map, min-max normalised to [0, 1]: how much of the image it calls important.

    Lower is called better; 0 for a constant map. Known weakness: as :func:`sparseness`, blind to where.

    Args:
        probe: One image as one network sees it; only its size is read.
        target: Not read.
        saliency: (H, W) float.

    Returns:
        A fraction.

    Raises:
        SuiteError: If the map is not finite or not of the image's size.

    Reference:
        Poppi et al., "Revisiting the evaluation of class activation mapping for explainability", CVPR Workshops 2021.
    """
    saliency = map_of_image(probe, saliency)
    return float(minmax(saliency, saliency.ndim).double().mean())

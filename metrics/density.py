"""Map density: how much confidence a soft mask keeps, per unit of what it shows.

The map, min-max normalised to [0, 1], is multiplied with the network's input. From memory of the paper; its released
code does not have the metric.

Reference:
    Jalwana et al., "CAMERAS: enhanced resolution and sanity preserving class activation mapping for image saliency",
    CVPR 2021 (positive and negative map density).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from metrics.checks import finite_map, map_of_image
from sise.maps import minmax

if TYPE_CHECKING:
    from sise.probe import Probe


def positive_density(probe: Probe, target: int, saliency: Tensor) -> float:
    """P(x ⊙ S) / mean(S): the target's confidence where the map shows the image, per share of it shown.

    Higher is better.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float, min-max normalised here.

    Returns:
        Not a fraction: a concentrated map may exceed 1. 0 for a constant map, which shows nothing (set by definition).

    Raises:
        SuiteError: If the map is not finite or not of the image's size.
    """
    return _density(probe, target, _shown(probe, saliency))


def negative_density(probe: Probe, target: int, saliency: Tensor) -> float:
    """P(x ⊙ (1 − S)) / mean(1 − S): the same of what the map leaves out.

    Lower is better. Arguments, value and errors as for :func:`positive_density`; a constant map leaves out everything.
    """
    return _density(probe, target, 1 - _shown(probe, saliency))


def _no_positive_density(probe: Probe, target: int, saliency: Tensor) -> str:
    saliency = finite_map(saliency)
    return "constant map" if saliency.min() == saliency.max() else ""


positive_density.undefined = _no_positive_density


def _shown(probe: Probe, saliency: Tensor) -> Tensor:
    saliency = map_of_image(probe, saliency)
    return minmax(saliency, saliency.ndim)


def _density(probe: Probe, target: int, shown: Tensor) -> float:
    share = float(shown.double().mean())
    if share == 0:
        return 0.0
    scores = probe.score_inputs(probe.image * shown)
    return float(probe.to_confidence(scores)[0, target]) / share

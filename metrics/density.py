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

from sise.maps import minmax
from sise.metrics.checks import map_of_image
from sise.metrics.passes import plan_of
from sise.scoring import Segment
from sise.types import Value

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def positive_density(probe: Probe, target: int, saliency: Tensor) -> float:
    """P(x ⊙ S) / mean(S): the target's confidence where the map shows the image, per share of it shown.

    Higher is better. Known weakness: a map of a single bright pixel divides by almost nothing.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float, min-max normalised here.

    Returns:
        Not a fraction: a concentrated map may exceed 1. 0 for a constant map, which shows nothing (set by definition).

    Raises:
        SuiteError: If the map is not finite or not of the image's size.
    """
    return _density(probe, target, _shown(probe, target, saliency))


def negative_density(probe: Probe, target: int, saliency: Tensor) -> float:
    """P(x ⊙ (1 − S)) / mean(1 − S): the same of what the map leaves out.

    Lower is better. Arguments, value and errors as for :func:`positive_density`; a constant map leaves out everything.
    """
    return _density(probe, target, _hidden(probe, target, saliency))


@plan_of(positive_density)
def _shown(probe: Probe, target: int, saliency: Tensor) -> list[Segment]:
    saliency = map_of_image(probe, saliency)
    return [Segment(probe.image, minmax(saliency, saliency.ndim)[None])]


@plan_of(negative_density)
def _hidden(probe: Probe, target: int, saliency: Tensor) -> list[Segment]:
    (shown,) = _shown(probe, target, saliency)
    return [Segment(probe.image, 1 - shown.maps)]


def _density(probe: Probe, target: int, segments: list[Segment]) -> float:
    share = float(segments[0].maps.double().mean())
    if share == 0:
        return Value(0.0, "constant map")
    (scores,) = probe.score_segments(segments)
    return float(probe.to_confidence(scores)[0, target]) / share

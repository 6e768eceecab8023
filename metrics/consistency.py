"""Does the explainer say the same when the image changes a little, or is reduced to what it called important?

All take ``(explain, probe, target, saliency)``, where ``explain`` maps a network input (1, C, H, W) to the same
explainer's map (H, W) of the same target, with the same random numbers. They cost explanations, not passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sise.errors import SuiteError
from sise.maps import minmax
from sise.metrics.checks import finite_map, map_of_image
from sise.metrics.removals import pearson
from sise.metrics.road import road
from sise.metrics.sparseness import complexity
from sise.ranges import Count, FromZero, Seed, Shares
from sise.scoring import Segment
from sise.types import Value

if TYPE_CHECKING:
    from sise.probe.probe import Probe

Explain = Callable[[Tensor], Tensor]
"""A network input (1, C, H, W) -> the map (H, W) of the target that is being explained."""


def max_sensitivity(
    explain: Explain,
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    radius: FromZero = 0.02,
    samples: Count = 4,
    seed: Seed = 0,
) -> float:
    """Max-sensitivity: the largest relative change of the map, ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖, over small random δ.

    Lower is better; 0 for a map that does not look at the image. Known weakness: so a constant map is perfect, and so
    is any that is blind to the image.

    Args:
        explain: The explainer.
        probe: One image as one network sees it.
        target: Class index; ``explain`` knows it already.
        saliency: (H, W) float, the explainer's map of the image.
        radius: δ is uniform in [−radius, radius], in units of the network's input.
        samples: Random δ, at least 1; Yeh et al. take more.
        seed: Of the δ, which are the same for all explainers.

    Returns:
        Not a fraction: 1 is a change as large as the map. Of a zero map, the change itself.

    Raises:
        SuiteError: If a map is not finite or not of the image's size, or there are no samples.

    Reference:
        Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019.
    """
    if samples < 1 or radius < 0:
        raise SuiteError(f"samples must be a whole number from 1 and radius from 0, got {samples} and {radius}")
    saliency = map_of_image(probe, saliency).double()
    size = float(saliency.norm()) or 1.0
    changes = [
        float((finite_map(explain(probe.image + change)).double() - saliency).norm())
        for change in disturbances(probe.image, radius, samples, seed)
    ]
    return max(changes) / size


def disturbances(image: Tensor, radius: float, samples: int, seed: int) -> Tensor:
    """(samples, 1, C, H, W) uniform in [−radius, radius], the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand((samples, *image.shape), generator=generator, dtype=image.dtype)
    return (radius * (2 * uniform - 1)).to(image.device)


def coherency(explain: Explain, probe: Probe, target: int, saliency: Tensor) -> float:
    """Coherency: does the map stay what it is when the image is multiplied with it? (1 + Pearson's r) / 2.

    Higher is better; 1 for a map that does not look at the image. Known weakness: as :func:`max_sensitivity`.

    Args:
        explain: The explainer.
        probe: One image as one network sees it.
        target: Class index; ``explain`` knows it already.
        saliency: (H, W) float, min-max normalised here before it masks the image.

    Returns:
        A fraction; 1/2 for a constant map (set by definition).

    Raises:
        SuiteError: If a map is not finite or not of the image's size.

    Reference:
        Poppi et al., "Revisiting the evaluation of class activation mapping for explainability", CVPR Workshops 2021.
    """
    shown = _normalised(probe, saliency)
    again = finite_map(explain(probe.image * shown))
    value = (1 + pearson(minmax(again, again.ndim).flatten(), shown.flatten())) / 2
    return Value(value, "constant map") if saliency.min() == saliency.max() else value


def adcc(explain: Explain, probe: Probe, target: int, saliency: Tensor) -> float:
    """ADCC: harmonic mean of coherency, 1 − complexity and 1 − average drop, the image multiplied with the map.

    Higher is better; 0 for a constant map, which shows nothing. Known weakness: the drop is that of a darkened image,
    and a map that is blind to the image has two of the three for nothing.

    Args:
        explain: The explainer.
        probe: One image as one network sees it.
        target: Class index; ``explain`` knows it already.
        saliency: (H, W) float, min-max normalised here.

    Returns:
        A fraction, when the confidence is a probability.

    Raises:
        SuiteError: If a map is not finite or not of the image's size.

    Reference:
        As for :func:`coherency`.
    """
    shown = _normalised(probe, saliency)
    everything = torch.ones(1, *probe.size, dtype=torch.bool, device=probe.device)
    scores = torch.cat(probe.score_segments([Segment(probe.image, everything), Segment(probe.image, shown[None])]))
    whole, masked = probe.to_confidence(scores)[:, target].tolist()
    drop = max(0.0, whole - masked) / whole if whole > 0 else 0.0
    return harmonic_mean([
        coherency(explain, probe, target, saliency), 1 - complexity(probe, target, saliency), 1 - drop
    ])  # fmt: skip


def arcc(
    explain: Explain,
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    shares: Shares = (0.2, 0.4, 0.6, 0.8),
    noise: FromZero = 0.01,
) -> float:
    """ARCC: ADCC with ROAD in the place of the average drop, doubled and cut to [0, 1].

    Higher is better; 0 for a map whose order does not matter or is wrong. Known weakness: most of the value is ROAD's,
    since the harmonic mean follows the least of the three.

    Args:
        explain: The explainer.
        probe: One image as one network sees it.
        target: Class index; ``explain`` knows it already.
        saliency: (H, W) float.
        shares: As for :func:`metrics.road.road`.
        noise: As for :func:`metrics.road.road`.

    Returns:
        A fraction.

    Raises:
        SuiteError: As for :func:`metrics.road.road`.

    Reference:
        As the package grad-cam defines it (``pytorch_grad_cam.metrics.arcc``).
    """
    removed = min(1.0, max(0.0, 2 * road(probe, target, saliency, shares=shares, noise=noise)))
    return harmonic_mean([
        coherency(explain, probe, target, saliency), 1 - complexity(probe, target, saliency), removed
    ])  # fmt: skip


def harmonic_mean(values: Sequence[float]) -> float:
    """Of fractions; 0 if one of them is 0, or less by rounding."""
    return len(values) / sum(1 / value for value in values) if min(values) > 0 else 0.0


def _normalised(probe: Probe, saliency: Tensor) -> Tensor:
    saliency = map_of_image(probe, saliency)
    return minmax(saliency, saliency.ndim)

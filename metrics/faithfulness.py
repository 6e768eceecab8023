"""Model-truth-based metrics: does the network need what the saliency shows?

The network sees the image reduced to its most salient pixels. Y is its confidence in the target on the whole
image, O on the reduced one, both float64, through the probe's confidence function (softmax, sigmoid or logit) and
through the same engine: equal inputs must give equal confidences, or rounding would count as an increase. All take
``(probe, target, saliency)``; the probe remembers boolean masks, so Drop% and Increase% share one forward pass, and
all maps of an image the pass of the whole image.

``precision="float32"`` computes both confidences in float32, as the notebooks of the authors' course do: a network
that is almost sure, of the image and of its kept part, then gives 1 twice, which is no increase.

The removed pixels get the probe's fill. A map that is constant keeps no pixel at all under the authors' rule
(see :func:`keep_mask`), so its Drop% is that of the empty image: computed, not set by definition.

Reference:
    Chattopadhyay et al., "Grad-CAM++", WACV 2018, in the form of Sattarzadeh et al., AAAI 2021
    (binary mask of the top 15 %, not the product with a continuous map).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sise.errors import SuiteError, choose
from sise.metrics.checks import by_value, finite_map, map_of_image, pixel_count, unwrapped
from sise.ranges import Share
from sise.types import Value

if TYPE_CHECKING:
    from sise.probe.probe import Probe

Rule = Literal["above", "exact"]
Precision = Literal["float64", "float32"]


def keep_mask(saliency: Tensor, *, fraction: Share = 0.15, rule: Rule = "above") -> Tensor:
    """The pixels that stay (E8), n = int(fraction · pixels) of them if no values are tied.

    Args:
        saliency: (H, W) or (L,) float: an image's map or a signal's.
        fraction: Share of the pixels to keep; 1 keeps all.
        rule: ``above`` keeps what is strictly greater than the (n + 1)-th largest value, as the authors'
            own metric does: n pixels, fewer where values are tied, none for a constant map. ``exact`` keeps n
            pixels, of equal values the first in raster order.

    Returns:
        Bool tensor of the saliency's shape, on its device.

    Raises:
        SuiteError: If the map is not finite or the fraction outside [0, 1].
    """
    saliency = finite_map(saliency)
    choose("rule", rule, ("above", "exact"))
    count = pixel_count(fraction, saliency.numel())
    values, order = by_value(saliency)
    if rule == "above" and count < saliency.numel():
        return saliency > values[count]
    keep = saliency.new_zeros(saliency.numel(), dtype=torch.bool)
    keep[order[:count]] = True
    return keep.reshape(saliency.shape)


def confidences(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    fraction: Share = 0.15,
    rule: Rule = "above",
    precision: Precision = "float64",
) -> tuple[float, float]:
    """The target's confidence on the whole image, Y, and on its most salient pixels alone, O.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float, the target's map at the image's size.
        fraction: See :func:`keep_mask`.
        rule: See :func:`keep_mask`.
        precision: In which the confidences are computed, ``float64`` or ``float32``.

    Returns:
        (Y, O).

    Raises:
        SuiteError: If the map is not finite or not of the image's size, the target not one of the network's,
            or a confidence not finite.
    """
    map_of_image(probe, saliency)
    classes = len(probe.scores())
    if not 0 <= target < classes:
        raise SuiteError(f"target must be a class index from 0 to {classes - 1}, one of the network's, got {target}")
    choose("precision", precision, ("float64", "float32"))
    keep = keep_mask(saliency, fraction=fraction, rule=rule)
    scores = probe.score_masks(torch.stack([torch.ones_like(keep), keep]))
    computed_in = {} if precision == "float64" else {"dtype": torch.float32}  # float64 is the probe's own default
    whole, kept = probe.to_confidence(scores, **computed_in)[:, target].tolist()
    if not (math.isfinite(whole) and math.isfinite(kept)):
        raise SuiteError(
            f"the network's confidence in target {target} must be finite, got {whole} on the image and {kept} on "
            "its most salient pixels; check the weights and the input's range"
        )
    return whole, kept


def drop(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    fraction: Share = 0.15,
    rule: Rule = "above",
    precision: Precision = "float64",
) -> float:
    """Drop: max(0, Y − O) / Y, the share of the confidence that is lost with the other pixels (E8).

    Lower is better. 0, set by definition, if Y = 0 (E10). Only a logit can be negative; a share of it means
    nothing, so Y ≤ 0 is treated as Y = 0 there. A logit's drop may also exceed 1 (O < 0 < Y).

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        fraction: See :func:`keep_mask`.
        rule: See :func:`keep_mask`.
        precision: See :func:`confidences`.

    Returns:
        A fraction; in [0, 1] when the confidence is a probability.

    Raises:
        SuiteError: See :func:`confidences`.
    """
    whole, kept = confidences(probe, target, saliency, fraction=fraction, rule=rule, precision=precision)
    if whole > 0:
        return max(0.0, whole - kept) / whole
    return Value(0.0, "zero confidence" if whole == 0 else "negative confidence")


def increase(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    fraction: Share = 0.15,
    rule: Rule = "above",
    precision: Precision = "float64",
) -> float:
    """Increase: 1 if O > Y, else 0 (E9); the mean is the share of pairs that gained.

    Higher is better. Strict: equal confidences are no increase. Always defined, also for Y = 0.

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        fraction: See :func:`keep_mask`.
        rule: See :func:`keep_mask`.
        precision: See :func:`confidences`.

    Returns:
        0.0 or 1.0.

    Raises:
        SuiteError: See :func:`confidences`.
    """
    whole, kept = confidences(probe, target, saliency, fraction=fraction, rule=rule, precision=precision)
    return float(kept > whole)


def average_gain(
    probe: Probe,
    target: int,
    saliency: Tensor,
    *,
    fraction: Share = 0.15,
    rule: Rule = "above",
    precision: Precision = "float64",
) -> float:
    """Average gain: max(0, O − Y) / (1 − Y), the share of what the confidence could still gain; Drop's counterpart.

    Higher is better. Increase counts every gain alike, however small; this measures it. Known weakness: as Increase,
    it rewards pairs whose class the network did not see on the whole image. 0, set by definition, if Y ≥ 1 (a logit
    has no bound to come nearer to, so the metric means something for probabilities only).

    Args:
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.
        fraction: See :func:`keep_mask`.
        rule: See :func:`keep_mask`.
        precision: See :func:`confidences`.

    Returns:
        A fraction; in [0, 1] when the confidence is a probability.

    Raises:
        SuiteError: See :func:`confidences`.

    Reference:
        Zhang et al., "Opti-CAM: optimizing saliency maps for interpretability", CVIU 2024, section 4.1.
    """
    whole, kept = confidences(probe, target, saliency, fraction=fraction, rule=rule, precision=precision)
    return max(0.0, kept - whole) / (1 - whole) if whole < 1 else Value(0.0, "full confidence")


def kept_by(metric: Callable[..., float | None], saliency: Tensor) -> Tensor | None:
    """Returns the pixels of a map that a metric of this module keeps with its settings; None for any other metric."""
    function, settings = unwrapped(metric)
    if function not in (drop, increase, average_gain):
        return None
    return keep_mask(saliency, **{key: settings[key] for key in ("fraction", "rule") if key in settings})

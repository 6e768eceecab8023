"""Ground-truth-based metrics: does the saliency lie where the object is?

All take ``saliency`` (H, W) float and ``mask`` (H, W) bool, the ground-truth region, and return one float, a
fraction in [0, 1]. All are unchanged when the map is multiplied by a positive number; EBPG's raw form apart,
also when a constant is added. Common edge cases:

* empty mask: 0, set by definition (there is nothing to find; an empty mask must not score a hit);
* NaN or infinity in the map, a mask that is not boolean, shapes that differ: ``SuiteError``;
* a constant map: chance level, the mask's share of the image, for Bbox and EBPG (T2); EBPG of a map that is
  zero (or constantly negative) is 0, as both have no energy. For EBPG both are set by definition.

Two settings leave a pair out of a metric's mean, which the metric says by returning None: ``zero="omit"`` of
:func:`ebpg` and ``largest_mask`` of :func:`bbox`. Records keep None, and tables count it as a missing value.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sise.errors import SuiteError, choose
from sise.metrics.checks import by_value, map_and_mask, pixel_count
from sise.ranges import Share
from sise.types import Value

Normalise = Literal["minmax", "raw"]
Zero = Literal["zero", "uniform", "omit"]
Ties = Literal["expected", "stable"]


def ebpg(saliency: Tensor, mask: Tensor, *, normalise: Normalise = "minmax", zero: Zero = "zero") -> float | None:
    """Energy-based pointing game: the share ‖S ⊙ G‖₁ / ‖S‖₁ of the saliency's energy inside the mask (E4).

    A constant map cannot be stretched to [0, 1]. A positive one stays as it is and scores the mask's share of
    the image, which is what a uniform map must score (T2); any other becomes the zero map.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool.
        normalise: ``minmax`` shifts the map's minimum to 0 first (dividing by its range then changes
            nothing); ``raw`` takes absolute values of the map as it is, so a constant background counts as
            energy.
        zero: What a map without energy scores: ``zero`` = 0, ``uniform`` = the mask's share of the image; ``omit`` =
            nothing, the pair takes no part in the mean.

    Returns:
        A fraction; 0 for an empty mask; None for a pair that is left out.

    Raises:
        SuiteError: See the module's edge cases.

    Reference:
        Wang et al., "Score-CAM", CVPR Workshops 2020.
    """
    saliency, mask = map_and_mask(saliency, mask)
    choose("normalise", normalise, ("minmax", "raw"))
    choose("zero", zero, ("zero", "uniform", "omit"))
    energy = saliency.double()
    lowest, highest = torch.stack(energy.aminmax()).tolist()
    constant = lowest == highest
    if normalise == "raw":
        energy = energy.abs()
    elif constant:
        energy = energy.clamp(min=0)
    else:
        energy = energy - lowest
    inside, total = torch.stack((energy[mask].sum(), energy.sum())).tolist()
    if total == 0 and zero == "omit":
        return None
    without_energy = 0.0 if zero == "zero" else _share(mask)
    value = min(inside / total, 1.0) if total else without_energy  # the two sums may round differently
    if not mask.any():
        return Value(value, "empty mask")
    if constant and (normalise == "minmax" or total == 0):
        return Value(value, "zero map" if lowest == 0 else "constant map")
    return value


def miou(saliency: Tensor, mask: Tensor, *, fraction: Share = 0.20, ties: Ties = "expected") -> float:
    """Intersection over union of the mask and the n = int(fraction · H · W) most salient pixels (E5).

    One pair's IoU; the mean over pairs is the tables' mIoU. Where equal values straddle rank n, the set of
    the n most salient pixels is not determined. ``expected`` is the mean IoU over all ways to complete it:
    the number X of mask pixels among the completing ones is hypergeometric, and as the IoU is not linear in X
    the mean is taken over its distribution and not at its mean. A constant map is such a case, hence defined.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool.
        fraction: Share of the image called salient.
        ties: ``expected``, or ``stable`` = equal values in raster order (what a stable argsort gives).

    Returns:
        A fraction, at most min(n, |G|) / max(n, |G|); 0 for an empty mask or n = 0 (both set by definition).

    Raises:
        SuiteError: See the module's edge cases; also for a fraction outside [0, 1].

    Reference:
        Sattarzadeh et al., "Explaining CNNs through attribution-based input sampling and block-wise feature
        aggregation", AAAI 2021 (the 20 %).
    """
    saliency, mask = map_and_mask(saliency, mask)
    top = pixel_count(fraction, saliency.numel())
    hits, drawn, tied, tied_hits = _rank(saliency, mask, top, ties)
    if drawn == tied:  # nothing left to chance
        intersection, chance = torch.tensor([hits + tied_hits], dtype=torch.float64), None
    else:
        new_hits = torch.arange(max(0, drawn - (tied - tied_hits)), min(drawn, tied_hits) + 1).double()
        ways = _log_choose(tied_hits, new_hits) + _log_choose(tied - tied_hits, drawn - new_hits)
        intersection, chance = hits + new_hits, torch.softmax(ways, dim=0)
    union = top + int(mask.sum()) - intersection
    iou = intersection / union.clamp(min=1)
    value = min(float(iou if chance is None else iou @ chance), 1.0)
    if mask.any() and top:
        return value
    return Value(value, "fraction of less than one pixel" if mask.any() else "empty mask")


def bbox(saliency: Tensor, mask: Tensor, *, ties: Ties = "expected", largest_mask: Share | None = None) -> float | None:
    """Share of the mask's N pixels among the N most salient pixels (E6).

    Where equal values straddle rank N, ``expected`` is the mean over all ways to complete the top N: (hits
    above + (N − pixels above) · share of the mask among the tied) / N (E7). A constant map is such a case,
    hence defined: it scores the mask's share of the image.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool; N is its pixel count.
        ties: ``expected``, or ``stable`` = equal values in raster order.
        largest_mask: Masks of a larger share of the image are left out, 0.33 in the reference's code; None = none are.

    Returns:
        A fraction; 0 for an empty mask (set by definition), 1 for a mask that is the whole image; None for a pair that
        is left out.

    Raises:
        SuiteError: See the module's edge cases; also for a ``largest_mask`` outside [0, 1].

    Reference:
        Schulz et al., "Restricting the flow: information bottlenecks for attribution", ICLR 2020.
    """
    saliency, mask = map_and_mask(saliency, mask)
    top = int(mask.sum())
    if _too_large(mask, largest_mask):
        return None
    if top == 0:
        return Value(0.0, "empty mask")
    hits, drawn, tied, tied_hits = _rank(saliency, mask, top, ties)
    return (hits + drawn * tied_hits / tied) / top


def _too_large(mask: Tensor, largest_mask: float | None) -> bool:
    if largest_mask is None:
        return False
    if not 0 <= largest_mask <= 1:
        raise SuiteError(
            f"largest_mask must be null or a share of the image in [0, 1], got {largest_mask}; 33 % is 0.33"
        )
    return _share(mask) > largest_mask


def _rank(saliency: Tensor, mask: Tensor, top: int, ties: Ties) -> tuple[int, int, int, int]:
    """Who is among the ``top`` most salient pixels, and who is tied for the last places.

    Returns:
        Mask pixels surely among the top; places left for the tied; pixels tied for them (at least 1); mask
        pixels among the tied. ``stable`` leaves no place to chance.
    """
    choose("ties", ties, ("expected", "stable"))
    if top == 0:
        return 0, 0, 1, 0
    values, order = by_value(saliency)
    if ties == "stable":
        last = mask.flatten()[order[top - 1]]
        hits = mask.flatten()[order[:top]].sum() - last.long()
        counts = torch.stack((hits, last.long())).tolist()
        return counts[0], 1, 1, counts[1]
    above, tied = saliency > values[top - 1], saliency == values[top - 1]
    sums = [(above & mask).sum(), above.sum(), tied.sum(), (tied & mask).sum()]
    hits, higher, equal, equal_hits = torch.stack(sums).tolist()
    return hits, top - higher, equal, equal_hits


def _log_choose(total: int, chosen: Tensor) -> Tensor:
    """log of the binomial coefficient, elementwise over ``chosen`` float64."""
    everything = torch.tensor(float(total), dtype=torch.float64)
    return torch.lgamma(everything + 1) - torch.lgamma(chosen + 1) - torch.lgamma(everything - chosen + 1)


def _share(mask: Tensor) -> float:
    return int(mask.sum()) / mask.numel()

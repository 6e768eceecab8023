"""D-RISE: random masks weighted by how well a detection survives in what the detector proposes of the masked image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from sise.baselines.rise import mask_bank, weighted_sum
from sise.errors import SuiteError, choose
from sise.maps import minmax
from sise.probe.probe import Probe
from sise.ranges import Count, Seed, ShareAboveZero, one_of

Normalise = Annotated[str, one_of(("minmax", "raw"))]
FACTORS = ("box", "objectness", "class")
"""Of the similarity, in the order of the paper's equation."""


def d_rise(
    probe: Probe,
    detections: Tensor,
    *,
    n_masks: Count = 5000,
    cells: Count = 16,
    p: ShareAboveZero = 0.5,
    centred: bool = False,
    normalise: Normalise = "minmax",
    seed: Seed = 0,
    chunk: Count | None = None,
) -> Tensor:
    """D-RISE: ``sum_i w_i mask_i`` with ``w_i = max_j IoU(L_t, L_j) O_j cos(P_t, P_j)``, j over proposals under mask i.

    A proposal or detection is a vector of 5 + K numbers: a box L (x0, y0, x1, y1 in any unit, x0 <= x1, y0 <= y1), an
    objectness O (1 for a detector that has none) and K class probabilities P. The detector is a black box: proposals
    are those before non-maximum suppression, and a detection need not be one of them; an annotated object the detector
    misses (a box, any O and one class) can be explained, too. One set of N forward passes serves all detections.

    Args:
        probe: One image as a detector sees it. The probe's network gives the P proposals of each image in one row:
            ``(N, 3, H, W) -> (N, P * (5 + K))``. A detector whose proposals vary in number fills up with zeros: such
            rows are similar to nothing.
        detections: (T, 5 + K), what is to be explained.
        n_masks: N, number of random masks.
        cells: Cells of a mask's grid along each axis of the image.
        p: Probability that a cell is kept.
        centred: Take the mean off the weights, as Microsoft's package does: the same but for the sum of all masks,
            which for few masks is not flat.
        normalise: ``minmax`` brings each map to [0, 1]; ``raw`` leaves the sum.
        seed: Seed of the masks, which are those of RISE.
        chunk: Masks held in memory at once; None takes about 256, in whole batches of the engine. No numeric effect
            but float rounding.

    Returns:
        (T, H, W), in [0, 1] unless ``normalise`` is ``raw``; zero for a detection that no proposal is similar to.

    Raises:
        SuiteError: If the detections or the network's output have another shape, a number is not finite or out of its
            range, or ``normalise`` is unknown.

    Reference:
        Petsiuk, Jain, Manjunatha, Morariu, Mehra, Ordonez and Saenko, "Black-box Explanation of Object Detectors via
        Saliency Maps", CVPR 2021, its similarity metric and mask generation; N, cells and p [R].
    """
    return ablations(
        probe, detections, [FACTORS], n_masks=n_masks, cells=cells, p=p, centred=centred, normalise=normalise,
        seed=seed, chunk=chunk,
    )[0]  # fmt: skip


def ablations(
    probe: Probe,
    detections: Tensor,
    variants: Sequence[Sequence[str]],
    *,
    n_masks: Count = 5000,
    cells: Count = 16,
    p: ShareAboveZero = 0.5,
    centred: bool = False,
    normalise: Normalise = "minmax",
    seed: Seed = 0,
    chunk: Count | None = None,
) -> list[Tensor]:
    """D-RISE with some factors of its similarity only, all of one set of passes.

    Args:
        probe, detections, n_masks, cells, p, centred, normalise, seed, chunk: As for :func:`d_rise`.
        variants: The factors of each, of `FACTORS`. Without "box" it is RISE on how sure the detector is of the class
            anywhere, which cannot tell two objects of one class apart.

    Returns:
        Maps as those of :func:`d_rise`, one (T, H, W) per variant.

    Raises:
        SuiteError: As :func:`d_rise`, and if a factor is unknown.
    """
    choose("D-RISE normalise", normalise, ("minmax", "raw"))
    for factor in (factor for variant in variants for factor in variant):
        choose("factor of D-RISE's similarity", factor, FACTORS)
    if len(probe.size) != 2:
        raise SuiteError("D-RISE explains detections in images (1, C, H, W); got a signal.")
    if detections.ndim != 2 or detections.shape[1] < 6 or not bool(torch.isfinite(detections).all()):
        raise SuiteError(
            "D-RISE explains finite detections (T, 5 + K): a box, an objectness and the probabilities of K classes; "
            f"got {tuple(detections.shape)}."
        )
    bank = mask_bank(n_masks, cells, p, tuple(probe.size), seed)
    given = detections.to(probe.device, torch.float64)
    if not len(given):
        return [torch.zeros(0, *probe.size, device=probe.device) for _ in variants]
    batch = probe.scorer.batch_size or 256
    totals = [torch.zeros(len(given), *probe.size, dtype=torch.float64, device=probe.device) for _ in variants]
    weights: list[list[Tensor]] = [[] for _ in variants]
    shown = torch.zeros(1, *probe.size, dtype=torch.float64, device=probe.device)
    for _, masks in bank.chunks(chunk or batch * max(1, 256 // batch), probe.device):
        proposals = vectors_of(probe.score_masks(masks), given.shape[1])
        for total, known, factors in zip(totals, weights, variants, strict=True):
            known.append(similarity(given, proposals, factors))
            total += weighted_sum(known[-1], masks)
        shown += masks.sum(dim=0, dtype=torch.float64)
    if centred:
        totals = [_centred(total, torch.cat(known), shown) for total, known in zip(totals, weights, strict=True)]
    return [minmax(total.float()) if normalise == "minmax" else total.float() for total in totals]


def _centred(total: Tensor, weights: Tensor, shown: Tensor) -> Tensor:
    """(T, H, W) sums of masks as if the mean had been taken off the (N, T) weights; zero, not rounding, if all are one.

    ``shown`` is the (1, H, W) sum of all masks.
    """
    constant = (weights == weights[:1]).all(dim=0)
    return torch.where(constant[:, None, None], 0, total - weights.mean(dim=0)[:, None, None] * shown)


def vectors_of(output: Tensor, length: int) -> Tensor:
    """A detector's (M, P * length) output as (M, P, length) proposals.

    Raises:
        SuiteError: If it is no whole number of proposals.
    """
    if output.shape[1] % length:
        raise SuiteError(
            f"the detector gives {output.shape[1]} numbers per image, no whole number of proposals of {length}, as the "
            "detections have; it must give (N, P * (5 + K)) with the detections' K classes."
        )
    return output.unflatten(1, (output.shape[1] // length, length))


def similarity(detections: Tensor, proposals: Tensor, factors: Sequence[str] = FACTORS) -> Tensor:
    """How well each detection survives in the proposals of each masked image.

    Args:
        detections: (T, 5 + K).
        proposals: (M, P, 5 + K).
        factors: Which of `FACTORS` are multiplied.

    Returns:
        (M, T) float64, the largest product over proposals, in [0, 1]; 0 where there is no proposal. The IoU of two
        boxes without area and the cosine of probabilities that are all 0 are 0.
    """
    count, among = proposals.shape[:2]
    if not among:
        return torch.zeros(count, len(detections), dtype=torch.float64, device=proposals.device)
    given, found = detections.double(), proposals.double().flatten(0, 1)
    product = torch.ones(len(given), len(found), dtype=torch.float64, device=found.device)
    if "box" in factors:
        product *= box_iou(given[:, :4], found[:, :4]).nan_to_num(0)
    if "objectness" in factors:
        product *= found[:, 4]
    if "class" in factors:
        product *= functional.normalize(given[:, 5:], dim=1) @ functional.normalize(found[:, 5:], dim=1).T
    return product.unflatten(1, (count, among)).amax(dim=2).T

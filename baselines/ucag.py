"""UCAG: a CAM of enlarged patches, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import cam_layer_of, check_targets, gaussian_smooth, layer_gradients, no_maps
from sise.baselines.grad_cam_pp import alpha_weights
from sise.errors import SuiteError, choose
from sise.maps import minmax, upsample
from sise.probe.probe import Probe
from sise.ranges import Count, FromZero, Positive, Range, ShareAboveZero, one_of

BASES = ("grad_cam", "grad_cam_pp", "hires_cam")


def ucag(
    probe: Probe,
    targets: Sequence[int],
    *,
    base: Annotated[str, one_of(BASES)] = "grad_cam",
    layer: str | None = None,
    patches: Count = 6,
    crop: ShareAboveZero = 124 / 224,
    enlarge: Positive = 2.6,
    weighted: bool = True,
    count_offset: Annotated[int, Range("0 or 1", lambda offset: offset in (0, 1))] = 1,
    sigma: FromZero = 3.0,
    batch_size: Count = 6,
) -> Tensor:
    """UCAG: patches of the image, each enlarged and explained by a CAM, weighted and averaged where they overlap.

    A patch's map is not rectified and has the weight ``exp(P)``, P the target's softmax probability for the patch,
    divided by the largest such weight. Sums are divided by the number of patches at a place plus ``count_offset``,
    rectified, brought to [0, 1] and smoothed. Costs are counted in passes of the image's own size.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        base: The CAM: ``grad_cam``, ``grad_cam_pp`` or ``hires_cam``, of the score before the softmax; their weights
            as they are (interpretation for ``grad_cam_pp``, whose weights another patch's are then compared with).
        layer: Its layer; None takes the probe's ``cam_layer``.
        patches: Patches along each side.
        crop: A patch's side, as a share of the image's.
        enlarge: How much patches are enlarged, bicubically.
        weighted: Weigh patches by their confidence, as the paper's "conquer"; the released commands do not.
        count_offset: 1 as in the authors' code, whose counter starts at 1; 0 for the mean.
        sigma: Of the Gaussian of 5 x 5 pixels over the finished map; 0 for none.
        batch_size: Patches through the network at once; no numeric effect but float rounding.

    Returns:
        (T, H, W) in [0, 1], min-max per map.

    Raises:
        SuiteError: If no layer is known, a target is not a class, a setting is unknown or out of its range, or the
            probe is of a signal.

    Reference:
        Hong et al., UCAG, 2023; what the paper leaves open is that of the authors' code [R].
    """
    choose("base", base, BASES)
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if len(probe.size) != 2:
        raise SuiteError("UCAG enlarges patches of images (1, C, H, W), not of signals.")
    if min(patches, batch_size) < 1 or not 0 < crop <= 1 or enlarge <= 0 or count_offset not in (0, 1) or sigma < 0:
        raise SuiteError(
            "expected patches, batch_size >= 1, 0 < crop <= 1, enlarge > 0, count_offset 0 or 1 and sigma >= 0; got "
            f"{patches=}, {batch_size=}, {crop=}, {enlarge=}, {count_offset=}, {sigma=}."
        )
    if not targets:
        return no_maps(probe)
    sides = [max(1, round(side * crop)) for side in probe.size]
    offsets = [_offsets(side, length, patches) for side, length in zip(probe.size, sides, strict=True)]
    places = [(y, x) for y in offsets[0] for x in offsets[1]]
    maps, confidences = [], []
    for start in range(0, len(places), batch_size):
        cut = [probe.image[:, :, y : y + sides[0], x : x + sides[1]] for y, x in places[start : start + batch_size]]
        enlarged = tuple(int(enlarge * side) for side in sides)
        inputs = torch.cat(cut)
        if enlarged != tuple(sides):
            inputs = F.interpolate(inputs, size=enlarged, mode="bicubic", align_corners=False)
        scores, activations, gradients = layer_gradients(probe, inputs, layer, targets)
        if base == "grad_cam":
            gradients = gradients.mean(dim=(-2, -1), keepdim=True)
        elif base == "grad_cam_pp":
            weights = alpha_weights(gradients.double(), activations.double().expand_as(gradients))
            gradients = weights.to(gradients)[..., None, None]
        small = (gradients * activations).sum(dim=2)  # (T, N, h, w)
        maps.append(torch.stack([upsample(of_target, tuple(sides)) for of_target in small]))
        confidences.append(scores.double().softmax(dim=1)[:, targets].T)
    weights = torch.cat(confidences, dim=1).exp() if weighted else torch.ones(len(targets), len(places))
    weights = (weights / weights.amax(dim=1, keepdim=True)).to(probe.image)
    canvas = torch.zeros(len(targets), *probe.size, device=probe.device)
    covered = torch.full(probe.size, float(count_offset), device=probe.device)
    for (y, x), weight, part in zip(places, weights.T, torch.cat(maps, dim=1).transpose(0, 1), strict=True):
        canvas[:, y : y + sides[0], x : x + sides[1]] += weight[:, None, None] * part
        covered[y : y + sides[0], x : x + sides[1]] += 1
    saliency = minmax(F.relu(divided_by_coverage(canvas, covered)))
    return minmax(gaussian_smooth(saliency, sigma, radius=2))


def divided_by_coverage(canvas: Tensor, covered: Tensor) -> Tensor:
    """(T, H, W) sums as means over the patches at each place; 0 where there is none."""
    return torch.where(covered > 0, canvas / covered.clamp(min=1), 0)


def _offsets(side: int, length: int, patches: int) -> list[int]:
    """Where patches begin along a side: at a whole stride, so that the last may end before the image does."""
    if patches == 1:
        return [0]
    stride = (side - (length - 1) + 1) // (patches - 1)
    return sorted({min(i * stride, side - length) for i in range(patches)})

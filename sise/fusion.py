"""SISE's fourth phase: layers' visualization maps, low to high, into one saliency through Otsu gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sise.maps import minmax
from sise.types import SuiteError, choose

GATES = ("otsu_soft", "otsu_soft_notau", "otsu_hard", "simple", "none")


def fuse(
    maps: Sequence[Tensor | None],
    *,
    gate: str = "otsu_soft",
    temperature: float = 100.0,
    empty: str = "skip",
    normalise: bool = True,
) -> Tensor | None:
    """Cascades visualization maps: ``acc = (acc + V) * gate(V)`` for each layer after the first.

    Args:
        maps: One (H, W) or (L,) map in [0, 1] per layer, low to high; None where a layer has no map (no feature map
            with a positive gradient, or a constant visualization map).
        gate: ``otsu_hard`` (the paper's binary mask), ``otsu_soft`` (the authors' sigmoid around their threshold),
            ``otsu_soft_notau`` (the same without their ×1.5 rule), ``simple`` (V itself) or ``none`` (1 everywhere:
            plain addition, for ablations).
        temperature: Steepness of the sigmoid of the soft gates.
        empty: What a missing layer does: ``skip`` its fusion step, ``zero`` (a zero map, whose gate closes), or
            ``nan`` (the whole map is NaN, as the authors' code yields).
        normalise: Min-max the result.

    Returns:
        (H, W), or None if every layer is missing.

    Raises:
        SuiteError: If ``maps`` is empty or a switch is unknown.

    Reference:
        Sattarzadeh et al. 2021, "Fusion Module" and Fig. 6; PROTOCOL F5 to F9.
    """
    steps = cascade(maps, gate=gate, temperature=temperature, empty=empty)
    if not steps:
        return None
    unknown = empty == "nan" and any(m is None for m in maps)  # min-max would turn NaN into zero
    fused = steps[-1].fused
    return minmax(fused, fused.ndim) if normalise and not unknown else fused


@dataclass(frozen=True)
class Step:
    """What the cascade does at one layer.

    Attributes:
        layer: The layer's position in the maps given.
        map: Its visualization map (H, W); None where it has none.
        gate: (H, W) in [0, 1], what its gate lets through; None where nothing is gated (the first layer).
        fused: (H, W), accumulated so far, not normalised.
    """

    layer: int
    map: Tensor | None
    gate: Tensor | None
    fused: Tensor


def cascade(
    maps: Sequence[Tensor | None], *, gate: str = "otsu_soft", temperature: float = 100.0, empty: str = "skip"
) -> list[Step]:
    """The steps of :func:`fuse`, one per layer that takes part, in the order of PROTOCOL F7; same arguments.

    Returns:
        Steps, low to high; none if every layer is missing. The last one's ``fused`` is what :func:`fuse` normalises.

    Raises:
        SuiteError: As :func:`fuse`.
    """
    choose("gate", gate, GATES)
    choose("empty", empty, ("skip", "zero", "nan"))
    if not maps:
        raise SuiteError("fusion needs at least one layer; the list of layers is empty.")
    known = [m for m in maps if m is not None]
    if not known:
        return []
    steps: list[Step] = []
    for layer, later in enumerate(maps):
        if later is None:
            if empty != "skip":  # a zero map, whose gate lets nothing through
                fused = torch.full_like(known[0], torch.nan if empty == "nan" else 0.0)
                steps.append(Step(layer, None, None if not steps else torch.zeros_like(known[0]), fused))
        elif not steps:
            steps.append(Step(layer, later, None, later))
        else:
            opened = open_gate(later, gate, temperature)
            steps.append(Step(layer, later, opened, (steps[-1].fused + later) * opened))
    return steps


def open_gate(visualization_map: Tensor, gate: str, temperature: float = 100.0) -> Tensor:
    """What a layer's map lets through: (H, W) in [0, 1].

    A constant map opens ``otsu_hard`` nowhere (nothing exceeds the threshold).
    """
    if gate == "none":
        return torch.ones_like(visualization_map)
    if gate == "simple":
        return visualization_map
    if gate == "otsu_hard":
        return (visualization_map > _otsu_skimage(visualization_map)).to(visualization_map.dtype)
    threshold = otsu256(visualization_map, raise_threshold=gate == "otsu_soft")
    return torch.sigmoid(temperature * (visualization_map - threshold))


def _otsu_skimage(visualization_map: Tensor) -> float:
    from skimage.filters import threshold_otsu

    values = visualization_map.cpu().numpy()
    return float(values.max()) if values.min() == values.max() else float(threshold_otsu(values))


def otsu256(visualization_map: Tensor, *, raise_threshold: bool = True) -> float:
    """Otsu's threshold over 256 fixed bins of [0, 1], as the authors compute it.

    Values are rounded to integers 0..256 of which 256 shares the last bin. With ``raise_threshold``, a threshold
    times 1.5 is taken instead whenever fewer than 10 % of the pixels reach it.

    Args:
        visualization_map: (H, W), min-max normalised: both end bins are occupied, or the threshold may be NaN-led as
            in the authors' code (the first split with an empty class wins).
        raise_threshold: The authors' ``tau = 1.5`` rule.

    Returns:
        The threshold, in the map's units.

    Reference:
        Otsu 1979; docs/protocol.md, "The gates of F6".
    """
    levels = np.round(visualization_map.detach().cpu().numpy().ravel() * 256)
    counts = np.histogram(levels, bins=256, range=(0, 256))[0].astype(np.float64)
    # number and sum of values below each split 1..255
    below, sum_below = np.cumsum(counts)[:-1], np.cumsum(counts * np.arange(256))[:-1]
    above, sum_above = counts.sum() - below, (counts * np.arange(256)).sum() - sum_below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sum_below / below - sum_above / above) ** 2
    # split 0 scores 0 in the authors' loop, so it wins only if no other split does better
    split = int(np.argmax(np.concatenate([[0.0], between])))
    if raise_threshold and (levels >= round(1.5 * split)).mean() < 0.1:
        return 1.5 * split / 256
    return split / 256

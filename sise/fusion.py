"""SISE's fourth phase: layers' visualization maps, low to high, into one saliency through Otsu gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sise.choices import GATES
from sise.errors import SuiteError, choose
from sise.maps import minmax
from sise.otsu import otsu256, otsu_skimage


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
        gate: ``otsu_hard`` (the paper's binary mask), ``otsu_ranked`` (the same, but a closed gate lets a millionth
            through: see :func:`open_gate`), ``otsu_soft`` (the authors' sigmoid around their threshold),
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


AJAR = 1e-6
"""What ``otsu_ranked`` lets through where it is closed. An open pixel of V exceeds Otsu's threshold, at least 1/512 of
V's range: more than the whole sum behind a closed gate times this, for any number of layers there is."""


def open_gate(visualization_map: Tensor, gate: str, temperature: float = 100.0) -> Tensor:
    """What a layer's map lets through: (H, W) in [0, 1].

    A constant map opens ``otsu_hard`` nowhere (nothing exceeds the threshold).

    Behind ``otsu_hard``'s closed gate all pixels are equal: "the 15 % most salient" of such a map may be fewer, and
    metrics compare unequal numbers of pixels. ``otsu_ranked`` orders them by the sum that the gate would have let
    through, below all that are let through, and gives them no energy that counts: :data:`AJAR` in the place of 0.
    """
    if gate == "none":
        return torch.ones_like(visualization_map)
    if gate == "simple":
        return visualization_map
    if gate == "otsu_hard":
        return (visualization_map > otsu_skimage(visualization_map)).to(visualization_map.dtype)
    if gate == "otsu_ranked":
        return open_gate(visualization_map, "otsu_hard").clamp(min=AJAR)
    threshold = otsu256(visualization_map, raise_threshold=gate == "otsu_soft")
    return torch.sigmoid(temperature * (visualization_map - threshold))

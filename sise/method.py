"""SISE and Ada-SISE, one function per phase of the papers.

Phase 1, feature map extraction, is :meth:`sise.probe.probe.Probe.feature_maps`; phase 2 is :func:`select`; phase 3 is
:func:`visualize`; phase 4 is :func:`sise.fusion.fuse`.

References:
    Sattarzadeh et al., "Explaining Convolutional Neural Networks through Attribution-Based Input Sampling and
    Block-Wise Feature Aggregation", AAAI 2021.
    Sudhakar et al., "Ada-SISE: Adaptive Semantic Input Sampling for Efficient Explanation of Convolutional Neural
    Networks", ICASSP 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from sise.choices import ADAPTIVE_RULES, ESTIMATORS, GATES, MASK_RULES, SCORES, SELECTIONS
from sise.errors import SuiteError, WrongSetting, choose
from sise.fusion import fuse
from sise.maps import minmax, over_map, upsample, upsampled_sums
from sise.otsu import Threshold, adaptive_threshold
from sise.probe.probe import EPSILON, Probe
from sise.ranges import NotEmpty, Positive, Share, one_of


def sise(
    probe: Probe,
    targets: Sequence[int],
    *,
    mu: Share = 0.0,
    layers: Annotated[Sequence[str | int], NotEmpty] | None = None,
    mask: Annotated[str, one_of(MASK_RULES)] = "bilinear",
    contribution: Annotated[str, one_of(("mask_size", "none"))] = "mask_size",
    gate: Annotated[str, one_of(GATES)] = "otsu_soft",
    temperature: Positive = 100.0,
    empty: Annotated[str, one_of(("skip", "zero", "nan"))] = "skip",
    normalise: bool = True,
    selection: Annotated[str, one_of(SELECTIONS)] = "gradient",
    score: Annotated[str, one_of(SCORES)] = "confidence",
) -> Tensor:
    """Semantic Input Sampling for Explanation.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        mu: Keep feature maps whose gradient score exceeds ``mu`` times the layer's largest (eq. 6 with the ``>`` of
            the published AAAI version).
        layers: Low to high, by name or by position among the probe's own layers (0 the lowest, -1 the highest); all
            of the probe's own by default.
        mask: How feature maps become masks: ``bilinear`` (resize, then min-max), ``normalise_then_resize``,
            ``nearest`` (PROTOCOL F2).
        contribution: C_m of eq. 3: ``mask_size`` divides each mask by its sum, ``none`` does not (F4).
        gate: Fusion's gate: ``otsu_hard``, ``otsu_ranked``, ``otsu_soft``, ``otsu_soft_notau``, ``simple`` (F6),
            ``none``.
        temperature: Of the soft gates.
        empty: What a layer without a map does in fusion: ``skip``, ``zero``, ``nan`` (F9).
        normalise: Min-max the result (F8).
        selection: For ablations, how feature maps are chosen: ``gradient``; ``random``, as many per layer as
            ``gradient`` chooses, drawn from all with the probe's seed; ``all``.
        score: For ablations, what weights a mask beside C_m: ``confidence`` (Ψ of the masked image) or ``one``, which
            takes no masked pass at all.

    Returns:
        (T, H, W) saliency. Zero everywhere where no layer has a feature map with a positive gradient score.

    Reference:
        Sattarzadeh et al. 2021; docs/protocol.md, L and F.
    """
    if not 0 <= mu <= 1:
        raise SuiteError(f"mu is a share of the largest gradient score, from 0 to 1; got {mu}.")
    return _explain(
        probe,
        targets,
        lambda normalised_scores: mu,
        False,
        layers=layers,
        mask=mask,
        contribution=contribution,
        gate=gate,
        temperature=temperature,
        empty=empty,
        normalise=normalise,
        selection=selection,
        score=score,
    )


def ada_sise(
    probe: Probe,
    targets: Sequence[int],
    *,
    rule: Annotated[str, one_of(ADAPTIVE_RULES)] = "otsu_positive",
    estimator: Annotated[str, one_of(ESTIMATORS)] = "exact",
    inclusive: bool = False,
    layers: Annotated[Sequence[str | int], NotEmpty] | None = None,
    mask: Annotated[str, one_of(MASK_RULES)] = "bilinear",
    contribution: Annotated[str, one_of(("mask_size", "none"))] = "mask_size",
    gate: Annotated[str, one_of(GATES)] = "otsu_soft",
    temperature: Positive = 100.0,
    empty: Annotated[str, one_of(("skip", "zero", "nan"))] = "skip",
    normalise: bool = True,
) -> Tensor:
    """Adaptive SISE: the threshold of each layer is found from its gradient scores.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        rule: How: ``otsu_positive`` (Otsu on the positive scores: the paper's text), ``otsu_signed`` (Otsu on all
            scores, at least 0: what fits the paper's Table 2), the four literal readings of eqs. 2-6, or
            ``author_hist`` (the authors' histogram code); PROTOCOL A1.
        estimator: Of the two Otsu rules: ``exact`` over the sorted samples, ``skimage`` (256 bins between extremes)
            or ``uint8`` (256 levels, as OpenCV) (A2). ``uint8`` cuts at a level, as third-party code does: scores of
            the low class between that level and the next stay, against A3.
        inclusive: Keep a score equal to the threshold too (A3).
        layers, mask, contribution, gate, temperature, empty, normalise: As in :func:`sise`.

    Returns:
        (T, H, W) saliency.

    Reference:
        Sudhakar et al. 2021; docs/protocol.md, A.
    """
    choose("rule", rule, ADAPTIVE_RULES)
    choose("estimator", estimator, ESTIMATORS)
    return _explain(
        probe,
        targets,
        lambda normalised_scores: adaptive_threshold(normalised_scores, rule, estimator),
        inclusive,
        layers=layers,
        mask=mask,
        contribution=contribution,
        gate=gate,
        temperature=temperature,
        empty=empty,
        normalise=normalise,
    )


def _explain(
    probe: Probe,
    targets: Sequence[int],
    threshold: Threshold,
    inclusive: bool,
    *,
    layers: Sequence[str | int] | None,
    mask: str,
    contribution: str,
    gate: str,
    temperature: float,
    empty: str,
    normalise: bool,
    selection: Annotated[str, one_of(SELECTIONS)] = "gradient",
    score: Annotated[str, one_of(SCORES)] = "confidence",
) -> Tensor:
    """The four phases, for all targets at once: one stream of masked passes over the union of their selections."""
    choose("mask", mask, MASK_RULES)
    choose("contribution", contribution, ("mask_size", "none"))
    choose("selection", selection, SELECTIONS)
    choose("score", score, SCORES)
    layers = layer_names(layers or probe.layers, probe.layers)
    if not layers:
        raise SuiteError("SISE needs at least one layer: give layers=[...] low to high, or a probe that has them.")
    if not temperature > 0:
        raise SuiteError(f"temperature must be positive, got {temperature}.")
    if not len(targets):
        return torch.zeros(0, *probe.size, device=probe.device)
    probe.watch(layers)
    selected = {
        layer: torch.stack([select(probe.gradient_scores(layer, t), threshold, inclusive) for t in targets])
        for layer in layers
    }
    if selection == "random":
        selected = {layer: shuffled(probe, layer, targets, chosen) for layer, chosen in selected.items()}
    elif selection == "all":
        selected = {layer: torch.ones_like(chosen) for layer, chosen in selected.items()}
    # a constant map's mask is all zero and adds nothing (F3): it needs no pass, though it took part in the thresholds
    used = {layer: chosen & live(probe, layer, mask) for layer, chosen in selected.items()}
    if score == "confidence":
        probe.score_feature_maps(
            {layer: chosen.any(dim=0).nonzero()[:, 0] for layer, chosen in used.items()}, mask, targets
        )
    maps = {layer: visualize(probe, layer, targets, used[layer], mask, contribution, score) for layer in layers}
    fused = [
        fuse(
            [maps[layer][i] for layer in layers],
            gate=gate,
            temperature=temperature,
            empty=empty,
            normalise=normalise,
        )
        for i in range(len(targets))
    ]
    blank = torch.full(probe.size, torch.nan if empty == "nan" else 0.0, device=probe.device)
    return torch.stack([blank if f is None else f for f in fused])


def layer_names(layers: Sequence[str | int], own: Sequence[str]) -> tuple[str, ...]:
    """Layers by name; whole numbers are positions in ``own``, negative ones from its end.

    Raises:
        SuiteError: If there is no such position.
    """
    for layer in layers:
        if isinstance(layer, int) and not -len(own) <= layer < len(own):
            raise WrongSetting(
                f"there is no layer at position {layer}: the probe has {len(own)} layers "
                f"({', '.join(own) or 'none'}), low to high from 0, or from -1 downwards."
            )
    return tuple(own[layer] if isinstance(layer, int) else layer for layer in layers)


# ---------------------------------------------------------------------- phase 2: selection
def live(probe: Probe, layer: str, mask: str = "bilinear") -> Tensor:
    """(C,) bool: the feature maps that are not constant."""
    lo, hi = probe.extrema(layer, mask)
    return hi > lo


def select(scores: Tensor, threshold: Threshold, inclusive: bool = False) -> Tensor:
    """Feature maps whose normalised gradient score α/β exceeds a threshold (eqs. 5-6).

    Args:
        scores: (C,) gradient scores α.
        threshold: Called with the (C,) normalised scores.
        inclusive: Whether a score equal to the threshold stays, if it is positive.

    Returns:
        (C,) bool; nothing selected if the largest score is not positive.
    """
    largest = scores.max()
    if not largest > 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    normalised = (scores / largest).double()
    cut = threshold(normalised.cpu().numpy())
    return (normalised >= cut) & (normalised > 0) if inclusive else normalised > cut


def shuffled(probe: Probe, layer: str, targets: Sequence[int], selected: Tensor) -> Tensor:
    """Replaces each target's selection by a random one of the same size: the ablation's control.

    Drawn per (probe's seed, layer, target), so that it depends on nothing else that is explained.

    Args:
        probe: Gives the seed.
        layer: The layer's name.
        targets: T class indices.
        selected: (T, C) bool.

    Returns:
        (T, C) bool.
    """
    drawn = torch.zeros_like(selected)
    for i, target in enumerate(targets):
        generator = np.random.default_rng((probe.seed % 2**64, int(target), *layer.encode()))
        order = generator.permutation(selected.shape[1])
        drawn[i, torch.from_numpy(order[: int(selected[i].sum())]).to(drawn.device)] = True
    return drawn


# ---------------------------------------------------------------------- phase 3: scoring
def visualize(
    probe: Probe,
    layer: str,
    targets: Sequence[int],
    selected: Tensor,
    mask: Annotated[str, one_of(MASK_RULES)] = "bilinear",
    contribution: Annotated[str, one_of(("mask_size", "none"))] = "mask_size",
    score: Annotated[str, one_of(SCORES)] = "confidence",
) -> list[Tensor | None]:
    """Visualization maps of one layer: masks weighted by the confidence they leave (eqs. 2, 3, 12).

    Upsampling is linear, so the sum is made at the layer's resolution and upsampled once:
    ``V = U(Σ_k a_k (A_k - lo_k))`` with ``a_k = Ψ_k / (d_k (Σ m_k + 1e-6))`` and ``d_k = hi_k - lo_k + 1e-6``.

    Args:
        probe: One image as one network sees it.
        layer: The layer's name.
        targets: T class indices.
        selected: (T, C) bool, the feature maps used per target; constant ones contribute nothing.
        mask, contribution, score: See :func:`sise`.

    Returns:
        T maps (H, W) in [0, 1]; None where nothing is selected or the map is constant.
    """
    channels = selected.any(dim=0).nonzero()[:, 0]
    if not len(channels):
        return [None] * len(targets)
    lo, hi = (e[channels].double() for e in probe.extrema(layer, mask))
    maps = probe.feature_maps(layer)[channels].double()
    maps = maps - over_map(lo, maps)
    span = hi - lo + EPSILON
    weights = selected[:, channels].double()
    if score == "confidence":
        weights = probe.masked_confidences(layer, channels, targets, mask).T * weights
    weights = weights / span
    if contribution == "mask_size":
        weights = weights / (_mask_sums(maps, probe.size, mask) / span + EPSILON)
    combined = torch.einsum("tc,c...->t...", weights, maps)
    visualization = upsample(combined, probe.size, "nearest" if mask == "nearest" else "bilinear")
    scaled = minmax(visualization, len(probe.size)).float()
    return [m if bool(s.any()) and bool(m.any()) else None for m, s in zip(scaled, selected, strict=True)]


def _mask_sums(maps: Tensor, size: tuple[int, ...], mask: str) -> Tensor:
    """(C,) float64 sums over all pixels of the upsampled maps."""
    if mask == "nearest":
        return upsample(maps, size, "nearest").flatten(1).sum(dim=1)
    return upsampled_sums(maps, size)

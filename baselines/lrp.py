"""Layer-wise relevance propagation, with rules for each kind of layer chosen by the name of a composite."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.contrast import CONTRASTS, contrasted
from sise.baselines.rules import Affine, Back, Linear, RuledGraph, Rules
from sise.errors import SuiteError, WrongSetting, choose
from sise.maps import over_map
from sise.probe.probe import Probe
from sise.ranges import FromZero, one_of

Bounds = tuple[Tensor, Tensor]
"""The lowest and the highest network input, broadcastable to (1, C, H, W)."""

AffineRule = Callable[[Affine, Tensor, Bounds], Tensor]
"""(layer, relevance of its output, bounds of the image) -> relevance of its input."""

EPSILON = 1e-6
"""Keeps denominators away from zero, with their own sign; that of zero counts as positive."""


def stabilised(total: Tensor) -> Tensor:
    """``total`` moved away from zero by `EPSILON`."""
    return total + torch.where(total < 0, -EPSILON, EPSILON)


def epsilon(layer: Affine, relevance: Tensor, bounds: Bounds) -> Tensor:
    """``x_i sum_j w_ij R_j / z_j``; the bias is part of z and absorbs relevance."""
    whole = layer.linear("whole", lambda: (layer.x, layer.weight, layer.bias))
    return layer.x * whole.transposed(relevance / stabilised(whole.value))


def _by_sign(
    layer: Affine, name: str, weight: Callable[[bool], Tensor], bias: Tensor | None
) -> list[tuple[Tensor, Linear]]:
    """(input, linear function) pairs: positive inputs with ``weight(True)`` and the bias, negative ones the other."""
    positive, negative = layer.x.clamp(min=0), layer.x.clamp(max=0)
    pairs = [(positive, layer.linear(f"{name} of positive", lambda: (positive, weight(True), bias)))]
    if bool((layer.x < 0).any()):
        pairs.append((negative, layer.linear(f"{name} of negative", lambda: (negative, weight(False), None))))
    return pairs


def _half(parameter: Tensor, positive: bool) -> Tensor:
    return parameter.clamp(min=0) if positive else parameter.clamp(max=0)


def alpha_beta(layer: Affine, relevance: Tensor, bounds: Bounds, *, alpha: float, beta: float) -> Tensor:
    """``alpha`` times the share among positive contributions minus ``beta`` times that among negative ones."""
    total = torch.zeros_like(layer.x)
    for positive, factor in ((True, alpha), (False, -beta)):
        if factor:
            halves = partial(_half_for, layer.weight, positive)
            bias = None if layer.bias is None else _half(layer.bias, positive)
            pairs = _by_sign(layer, f"half {positive}", halves, bias)
            total += _shared(pairs, factor * relevance)
    return total


def _half_for(weight: Tensor, positive: bool, positive_input: bool) -> Tensor:
    """The weights whose contributions have the sign wanted, for inputs of either sign."""
    return _half(weight, positive == positive_input)


def _shared(pairs: Sequence[tuple[Tensor, Linear]], relevance: Tensor) -> Tensor:
    total = functools.reduce(operator.add, (linear.value for _, linear in pairs))
    share = relevance / stabilised(total)
    return functools.reduce(operator.add, (x * linear.transposed(share) for x, linear in pairs))


plus = partial(alpha_beta, alpha=1.0, beta=0.0)


def gamma(layer: Affine, relevance: Tensor, bounds: Bounds, *, gamma: float = 0.25) -> Tensor:
    """The epsilon rule with the contributions of the output's own sign raised by ``gamma`` times themselves.

    With inputs and outputs that are not negative these are the positive weights. The general form, which residual
    networks need, is that of Andéol, Kawakami, Wada, Kanamori, Müller and Montavon, 2021 [R].
    """
    output = layer.linear("whole", lambda: (layer.x, layer.weight, layer.bias)).value
    total = torch.zeros_like(layer.x)
    for positive, there in ((True, output > 0), (False, output < 0)):
        raised = partial(_raised_for, layer.weight, gamma, positive)
        bias = None if layer.bias is None else layer.bias + gamma * _half(layer.bias, positive)
        pairs = _by_sign(layer, f"raised {gamma} {positive}", raised, bias)
        total += _shared(pairs, torch.where(there, relevance, 0))
    return total


def _raised_for(weight: Tensor, gamma: float, positive: bool, positive_input: bool) -> Tensor:
    return weight + gamma * _half_for(weight, positive, positive_input)


def flat(layer: Affine, relevance: Tensor, bounds: Bounds) -> Tensor:
    """Every input of an output takes the same share."""
    ones = layer.linear("flat", lambda: (torch.ones_like(layer.x), torch.ones_like(layer.weight), None))
    return ones.transposed(relevance / stabilised(ones.value))


def box(
    layer: Affine, relevance: Tensor, bounds: Bounds, *, guarded: Callable[[Tensor], Tensor] = stabilised
) -> Tensor:
    """z^B: ``(x W - l W+ - h W-)`` in the place of x W, l and h the lowest and the highest input; biases drop out."""
    low, high = (bound.to(layer.x).expand_as(layer.x) for bound in bounds)
    whole = layer.linear("without bias", lambda: (layer.x, layer.weight, None))
    lowest = layer.linear("lowest", lambda: (low, layer.weight.clamp(min=0), None))
    highest = layer.linear("highest", lambda: (high, layer.weight.clamp(max=0), None))
    share = relevance / guarded(whole.value - lowest.value - highest.value)
    return layer.x * whole.transposed(share) - low * lowest.transposed(share) - high * highest.transposed(share)


@dataclass(frozen=True)
class Composite:
    """Which rule each kind of layer follows.

    Attributes:
        linear: Fully connected layers.
        convolution: Convolutions.
        first: Convolutions that read the image; None for as the others.
    """

    linear: AffineRule
    convolution: AffineRule
    first: AffineRule | None = None


COMPOSITES = {
    "epsilon": Composite(epsilon, epsilon),
    "epsilon_plus": Composite(epsilon, plus),
    "epsilon_plus_flat": Composite(epsilon, plus, flat),
    "epsilon_alpha2_beta1": Composite(epsilon, partial(alpha_beta, alpha=2.0, beta=1.0)),
    "epsilon_alpha2_beta1_flat": Composite(epsilon, partial(alpha_beta, alpha=2.0, beta=1.0), flat),
    "epsilon_gamma_box": Composite(epsilon, gamma, box),
    "alpha1_beta0_box": Composite(plus, plus, box),
}


class LayerwiseRelevance(Rules):
    """A composite; batch normalisation is part of the convolution before it, rectifiers pass, sums share."""

    folds = True

    def __init__(self, composite: Composite, bounds: Bounds) -> None:
        self.composite, self.bounds = composite, bounds

    def affine(self, layer: Affine) -> Back:
        rule = self.composite.linear if layer.fully_connected else self.composite.convolution
        if layer.first and not layer.fully_connected:
            rule = self.composite.first or rule
        return lambda relevance: rule(layer, relevance, self.bounds)

    def average(self, x: Tensor, mean: Linear) -> Back:
        return lambda relevance: x * mean.transposed(relevance / stabilised(mean.value))

    def add(self, parts: Sequence[Tensor]) -> Callable[[Tensor], list[Tensor]]:
        return lambda relevance: [part * (relevance / stabilised(parts[0] + parts[1])) for part in parts]


def lrp(
    probe: Probe,
    targets: Sequence[int],
    *,
    composite: Annotated[str, one_of(list(COMPOSITES))] = "epsilon_plus",
    contrast: Annotated[str, one_of(CONTRASTS)] = "none",
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    reduce: Reduce = "sum_positive",
    smooth: FromZero = 0.0,
) -> Tensor:
    """LRP: the score z of a target, shared out layer by layer down to the pixels.

    The relevance of the target's score is z itself (not 1, which would flip every sign where z < 0). It is conserved
    only as far as there are no biases: what a bias contributes it keeps.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        composite: ``epsilon``; ``epsilon_plus`` (epsilon on linear layers, alpha 1 beta 0 on convolutions);
            ``epsilon_alpha2_beta1``; both with ``_flat`` for the first convolution; ``epsilon_gamma_box`` (gamma 0.25,
            z^B on pixels); ``alpha1_beta0_box``, that of RAP's comparisons.
        contrast: ``none``; ``others`` (CLRP) or ``softmax`` (SGLRP), see :mod:`sise.baselines.contrast`
            (interpretation).
        low, high: For z^B, the network input of black and white, one value per channel; None takes the image's own
            smallest and largest value over all channels.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`.
        smooth: Gaussian over the map, as a fraction of the longer side.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If a target is not a class, a setting is unknown, or the network has an operation without a rule.

    Reference:
        Bach, Binder, Montavon, Klauschen, Müller and Samek, "On Pixel-Wise Explanations for Non-Linear Classifier
        Decisions by Layer-Wise Relevance Propagation", PLoS ONE 2015; z^B: Montavon, Lapuschkin, Binder, Samek and
        Müller, "Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition", Pattern Recognition
        2017. Composites and constants as in zennit.
    """
    choose("composite", composite, list(COMPOSITES))
    choose("contrast", contrast, CONTRASTS)
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    rules = LayerwiseRelevance(COMPOSITES[composite], bounds_of(probe, low, high))
    relevance = contrasted(RuledGraph(probe, rules), targets, contrast, of_score=True)
    return attribution_maps(relevance, probe.size, reduce, smooth)


def bounds_of(probe: Probe, low: Sequence[float] | None = None, high: Sequence[float] | None = None) -> Bounds:
    """The lowest and highest input for z^B; see :func:`lrp`.

    Raises:
        SuiteError: If not one value per channel is given.
    """
    image, bounds = probe.image, []
    for name, given, own in (("low", low, image.min()), ("high", high, image.max())):
        if given is not None and len(given) != image.shape[1]:
            raise WrongSetting(f"{name} must be {image.shape[1]} channel values or null; got {list(given)}.")
        bounds.append(own if given is None else over_map(torch.tensor(list(given)).to(image), image[0])[None])
    if (bounds[0] > bounds[1]).any():
        raise SuiteError(
            f"low must not exceed high in any channel; got {low=} and {high=}, of which null is the image's own."
        )
    return bounds[0], bounds[1]

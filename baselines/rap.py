"""Relative attributing propagation: positive and negative relevance kept apart, and their sum the score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.lrp import Bounds, bounds_of, box
from sise.baselines.rules import Affine, Back, Linear, RuledGraph, Rules, divided, one_hot
from sise.errors import SuiteError, choose
from sise.maps import over_map
from sise.probe.probe import Probe
from sise.ranges import FromZero, one_of

LINEAR_RULES = ("code", "conv")

box = partial(box, guarded=lambda total: total + 1e-9)


class RelativeAttribution(Rules):
    """RAP's rules; the last layer normalises by absolute influence, the others shift relevance to keep its sum."""

    double = True

    def __init__(self, bounds: Bounds, linear_rule: str = "code") -> None:
        self.bounds, self.linear_rule = bounds, linear_rule

    def affine(self, layer: Affine) -> Back:
        if not layer.first and bool((layer.x < 0).any()):
            raise SuiteError(
                f"{layer.name} reads negative values: both halves of RAP's relevance would be conserved there, so that "
                "it doubles at every such layer. RAP needs a rectifier before every layer but the first; use lrp."
            )

        def back(relevance: Tensor) -> Tensor:
            if layer.is_last():
                return absolute_influence(layer, relevance)
            if layer.first:
                return box(layer, relevance, self.bounds)
            over_positive = layer.fully_connected and self.linear_rule == "code"
            return uniform_shift(relative_shares(layer, relevance, over_positive), relevance.sum())

        return back


def _halves(layer: Affine) -> tuple[Linear, Linear]:
    """The layer with its positive weights, and with the absolute values of its negative ones; without bias."""
    positive = layer.linear("positive", lambda: (layer.x, layer.weight.clamp(min=0), None))
    return positive, layer.linear("negative", lambda: (layer.x, (-layer.weight).clamp(min=0), None))


def absolute_influence(layer: Affine, relevance: Tensor) -> Tensor:
    """The last layer's rule: each input takes its share of the contributions' absolute values, all of one sign.

    The bias is spread over the contributions in proportion, which leaves these shares as they are.
    """
    positive, negative = _halves(layer)
    share = divided(relevance, positive.value + negative.value)
    return layer.x * (positive.transposed(share) + negative.transposed(share))


def relative_shares(layer: Affine, relevance: Tensor, over_positive: bool = False) -> Tensor:
    """What each input gets before the shift: of positive relevance through positive weights, of negative through
    negative ones, and through negative weights once more its relative share of both.

    Args:
        layer: Of inputs that are not negative.
        relevance: Of its output.
        over_positive: Spread negative relevance over positive contributions, as the authors' linear layers do.
    """
    positive, negative = _halves(layer)
    gain, loss = relevance.clamp(min=0), relevance.clamp(max=0)
    through_positive = divided(gain, positive.value)
    through_negative = divided(relevance, positive.value + negative.value)
    if over_positive:
        through_positive = through_positive + divided(loss, positive.value)
    else:
        through_negative = through_negative + divided(loss, negative.value)
    return layer.x * (positive.transposed(through_positive) + negative.transposed(through_negative))


def uniform_shift(relevance: Tensor, total: Tensor) -> Tensor:
    """Moves all values that are not zero by the same amount, so that they add up to ``total``."""
    there = relevance != 0
    shift = divided(relevance.sum() - total, there.sum().to(relevance))
    return torch.where(there, relevance - shift, 0)


def rap(
    probe: Probe,
    targets: Sequence[int],
    *,
    linear_rule: Annotated[str, one_of(LINEAR_RULES)] = "code",
    flip: bool = False,
    reduce: Reduce = "sum_positive",
    smooth: FromZero = 0.0,
) -> Tensor:
    """RAP: the score z of a target, propagated to the pixels so that its sum is z at every layer.

    The last layer shares z in proportion to the absolute contributions of its inputs; other layers pass positive and
    negative relevance separately and shift what results uniformly; the first convolution takes z^B with the smallest
    and the largest value of the image. Where z < 0 all relevance of the last layer is negative, and with it the
    map's sign: see ``flip``.

    Network and relevance are computed in float64. On residual networks relevance of both signs grows from block to
    block, to thousands of times z, and rounding with it: of 35 maps of the narrow ResNet-50 (the first 14 scenes of
    ``shapes``), those of float32 are off by 5 % of the largest relevance in the median, and by 44 times it at worst.
    What is left there says little of the class; VGG16's maps agree to rounding.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        linear_rule: Where linear layers send negative relevance: ``code``, as in the authors' code, over positive
            contributions; ``conv``, as convolutions do, over negative ones.
        flip: Multiply the relevance by the sign of z.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`; the authors' picture is
            ``sum_signed``.
        smooth: Gaussian over the map, as a fraction of the longer side.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If a target is not a class, a setting is unknown, the network has an operation without a rule, or
            a layer but the first reads negative values.

    Reference:
        Nam, Gur, Choi, Wolf and Lee, "Relative Attributing Propagation: Interpreting the Comparative Contributions of
        Individual Units in Deep Neural Networks", AAAI 2020; signs and edge cases as in the authors' code.
    """
    choose("linear_rule", linear_rule, LINEAR_RULES)
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    graph = RuledGraph(probe, RelativeAttribution(bounds_of(probe), linear_rule))
    maps = [graph.backward(one_hot(graph.scores, target, graph.scores[target])) for target in targets]
    relevance = torch.stack(maps)
    if flip:
        relevance = relevance * over_map(graph.scores[targets].sign(), relevance)
    return attribution_maps(relevance, probe.size, reduce, smooth)

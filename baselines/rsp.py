"""Relative sectional propagation: a class's activations at the last layer, propagated by activations alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, cam_layer_of, check_targets, locations, no_maps
from sise.baselines.lrp import Bounds, bounds_of
from sise.baselines.rap import box, uniform_shift
from sise.baselines.rules import Affine, Back, Linear, RuledGraph, Rules, divided
from sise.errors import choose
from sise.maps import over_map
from sise.probe.probe import Probe
from sise.ranges import FromZero, one_of

STARTS = ("single", "relative")


class Sectional(Rules):
    """RSP's rules: a convolution's weights do not enter, but those that its input and relevance would make."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds

    def affine(self, layer: Affine) -> Back:
        def back(relevance: Tensor) -> Tensor:
            if layer.first:
                return box(layer, relevance, self.bounds)
            sections = section(layer, relevance.clamp(min=0)) - section(layer, (-relevance).clamp(min=0))
            if all(side == 1 for side in layer.weight.shape[2:]):
                return sections
            return uniform_shift(2 * sections, relevance.sum())

        return back

    def add(self, parts: Sequence[Tensor]) -> Callable[[Tensor], list[Tensor]]:
        return super().add([part.clamp(min=0) for part in parts])


def section(layer: Affine, relevance: Tensor) -> Tensor:
    """Shares relevance that is not negative by the weights ``G``, the gradient of <layer(x+, W), R> by W."""
    x = layer.x.clamp(min=0)
    with torch.enable_grad():
        weight = layer.weight.detach().requires_grad_()
        (made,) = torch.autograd.grad(layer.run(x, weight, None), weight, relevance)
    linear = Linear(lambda given: layer.run(given, made, None), x)
    return x * linear.transposed(divided(relevance, linear.value))


def rsp(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    start: Annotated[str, one_of(STARTS)] = "single",
    threshold: float = 0.5,
    reduce: Reduce = "sum_positive",
    smooth: FromZero = 0.0,
) -> Tensor:
    """RSP: each channel's class activation at a layer, ``mean(dz/dA_k) A_k``, propagated down to the pixels.

    Below the layer no weight of the network enters but the first convolution's, only activations: a sanity check must
    randomise below it to see the map move.

    Relevance keeps its sum, with one exception: convolutions of 1 x 1 are not shifted, as in the authors' code, so that
    the relevance of a place at which all of their input is zero ends there (what they put out is their bias). Narrow
    ResNets have such places, VGG16 has no such convolutions.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Where propagation starts; None takes the probe's ``cam_layer``.
        start: What the layer's relevance is: ``single``, the target's class activation, as in the authors' script;
            ``relative``, that minus those of the other predicted classes ("hostile"), then "purged", as in their
            function that the script does not use.
        threshold: Other classes count as predicted whose sigmoid exceeds this (interpretation: no source says which).
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`.
        smooth: Gaussian over the map, as a fraction of the longer side.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If no layer is known, a target is not a class, a setting is unknown, or the network has an
            operation without a rule.

    Reference:
        Nam, Choi and Lee, "Interpreting Deep Neural Networks with Relative Sectional Propagation by Analyzing
        Comparative Gradients and Hostile Activations", AAAI 2021; ResNets as in UCAG's comparison methods.
    """
    choose("start", start, STARTS)
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    graph = RuledGraph(probe, Sectional(bounds_of(probe)), [layer])
    relevance = []
    for target in targets:
        own = class_activation(probe, layer, target)
        if start == "relative":
            predicted = (graph.scores.sigmoid() > threshold).nonzero()[:, 0].tolist()
            hostile = [class_activation(probe, layer, other) for other in predicted if other != target]
            own = relative_seed(own, hostile) if hostile else own
        relevance.append(graph.backward(own, start=layer))
    return attribution_maps(torch.stack(relevance), probe.size, reduce, smooth)


def class_activation(probe: Probe, layer: str, target: int) -> Tensor:
    """(C, h, w) feature maps times their mean gradient, divided by the largest value."""
    maps = probe.feature_maps(layer)
    weights = probe.gradients(layer, target, of="logit").mean(dim=locations(maps))
    activation = maps * over_map(weights, maps)
    return activation / (activation.max() + 1e-9)


def relative_seed(own: Tensor, hostile: Sequence[Tensor]) -> Tensor:
    """(C, h, w) the target's activation against the hostile ones, the same in all channels.

    Both signs of the difference are brought to the sum 1; then, place by place, the positive channel sums to the sum 2
    and the negative ones to the sum 1.
    """
    difference = len(hostile) * own - sum(hostile)
    balanced = _of_sum(difference.clamp(min=0), 1) - _of_sum((-difference).clamp(min=0), 1)
    places = balanced.sum(dim=0, keepdim=True)
    purged = _of_sum(places.clamp(min=0), 2) - _of_sum((-places).clamp(min=0), 1)
    return (purged / len(own)).expand_as(own)


def _of_sum(values: Tensor, total: float) -> Tensor:
    return total * divided(values, values.sum().expand_as(values))

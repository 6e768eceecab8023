"""Excitation backpropagation: the probability that a winner-take-all walk from the class passes a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from sise.baselines.common import Reduce, attribution_maps, cam_layer_of, check_targets, no_maps
from sise.baselines.contrast import CONTRASTS, contrasted
from sise.baselines.rules import Affine, Back, Linear, RuledGraph, Rules, divided
from sise.errors import choose
from sise.probe.probe import Probe
from sise.ranges import FromZero, one_of

EPSILON = 1e-20
"""Added to denominators, as in TorchRay; a denominator of 0 gives 0."""


class Excitation(Rules):
    """Relevance goes through excitatory, that is positive, weights only, in proportion to their contribution.

    Attributes:
        negated: Whether the last layer is taken with its weights negated ("not this class"), as contrastive excitation
            backpropagation asks for; may be changed between backward passes.
    """

    def __init__(self) -> None:
        self.negated = False

    def affine(self, layer: Affine) -> Back:
        def back(relevance: Tensor) -> Tensor:
            negated = self.negated and layer.is_last()
            sign = -1 if negated else 1
            excitatory = layer.linear(
                "negated" if negated else "true", lambda: (layer.x, (sign * layer.weight).clamp(min=0), None)
            )
            return layer.x * excitatory.transposed(_shared(relevance, excitatory.value))

        return back

    def average(self, x: Tensor, mean: Linear) -> Back:
        return lambda relevance: x * mean.transposed(_shared(relevance, mean.value))

    def rectifier(self, x: Tensor, ceiling: float) -> Back:
        active = x > 0
        return lambda relevance: torch.where(active, relevance, 0)


def _shared(relevance: Tensor, total: Tensor) -> Tensor:
    return divided(relevance, torch.where(total == 0, 0, total + EPSILON))


def excitation_backprop(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    contrast: Annotated[str, one_of(CONTRASTS)] = "none",
    reduce: Reduce = "sum_positive",
    smooth: FromZero = 0.0,
) -> Tensor:
    """Excitation backprop, EBP or MWP: from probability 1 at the target, ``R' = x * W+^T (R / (W+ x))``.

    Convolutions, linear layers (without biases) and average pools by this rule, max-pools by their winner, rectifiers
    where their input was positive, batch normalisation unchanged, sums in proportion to their parts (as everywhere
    here 0/0 = 0). The map is the sum over channels at ``layer``.

    The relevance of a layer sums to 1 but for what outputs without an excitatory input have, which live by their bias
    alone: ``W+ x = 0``, and by the rule their relevance ends there. In VGG16 and ResNets there are none. Depthwise
    convolutions read one channel each and have many: of EfficientNet-Lite0's relevance 0.60 are left at ``_blocks.10``
    for the embedded cat, 0.42 for the motorcycle. There, linear bottlenecks make activations signed, too: small parts
    of the relevance are negative, and further down ``W+ x`` comes so close to 0 that single parts are large.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: The layer of the map, not the image: pixels are signed. None takes the last but one of the model's
            ``layers``, or the max-pool that follows it (VGG16 features.23, ResNet-50 layer3, as TorchRay).
        contrast: ``none``; ``others`` or ``softmax``: minus the relevance of the other classes, see
            :mod:`sise.baselines.contrast` (interpretation).
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`.
        smooth: Gaussian over the map, as a fraction of the longer side; TorchRay's pointing game uses none.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If no layer is known, a target is not a class, a setting is unknown, or the network has an
            operation without a rule.

    Reference:
        Zhang, Bargal, Lin, Brandt, Shen and Sclaroff, "Top-Down Neural Attention by Excitation Backprop", IJCV 2018,
        section 3.2; average pools and constants as in TorchRay.
    """
    choose("contrast", contrast, CONTRASTS)
    targets, layer = check_targets(probe, targets), excitation_layer(probe, layer)
    if not targets:
        return no_maps(probe)
    graph = RuledGraph(probe, Excitation(), [layer])
    relevance = contrasted(graph, targets, contrast, of_score=False, to=layer)
    return attribution_maps(relevance, probe.size, reduce, smooth)


def excitation_layer(probe: Probe, layer: str | None) -> str:
    """The layer of the map: the one asked for, else the last but one of the model's, pooled where a max-pool follows.

    A model that names fewer than two layers gets its map at its ``cam_layer``.

    Raises:
        SuiteError: If no layer is known at all.
    """
    if layer is not None or len(probe.layers) < 2:
        return choose("layer", cam_layer_of(probe, layer), [name for name, _ in probe.network.named_modules() if name])
    chosen = probe.layers[-2]
    modules = list(probe.network.named_modules())
    position = [name for name, _ in modules].index(chosen)
    after = [(n, m) for n, m in modules[position + 1 :] if not n.startswith(f"{chosen}.")]
    if after and isinstance(after[0][1], nn.MaxPool2d | nn.MaxPool1d):
        return after[0][0]
    return chosen

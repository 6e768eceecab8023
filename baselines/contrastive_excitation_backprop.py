"""Contrastive excitation backpropagation: the class's excitation minus that of "not this class"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.excitation_backprop import Excitation, excitation_layer
from sise.baselines.rules import RuledGraph, one_hot
from sise.probe.probe import Probe
from sise.ranges import FromZero


def contrastive_excitation_backprop(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    reduce: Reduce = "sum_positive",
    smooth: FromZero = 0.0,
) -> Tensor:
    """Contrastive EBP, cEBP or cMWP: two passes of excitation backprop that differ in the last layer only.

    One goes through the last layer's positive weights, the other through those of its negation; the map is the
    positive part of the first minus the second, summed over the channels of ``layer``. Since the passes are linear in
    their relevance, this equals forming the difference at a "contrast layer" and passing it on. Neither pass is
    normalised before (nor in TorchRay).

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: The layer of the map, see :func:`sise.baselines.excitation_backprop.excitation_backprop`.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`; ``sum_positive`` is the paper's.
        smooth: Gaussian over the map, as a fraction of the longer side; TorchRay's pointing game uses none.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If no layer is known, a target is not a class, or the network has an operation without a rule.

    Reference:
        Zhang, Bargal, Lin, Brandt, Shen and Sclaroff, "Top-Down Neural Attention by Excitation Backprop", IJCV 2018,
        section 3.3.
    """
    targets, layer = check_targets(probe, targets), excitation_layer(probe, layer)
    if not targets:
        return no_maps(probe)
    rules = Excitation()
    graph = RuledGraph(probe, rules, [layer])
    differences = []
    for target in targets:
        seed = one_hot(graph.scores, target)
        rules.negated = False
        difference = graph.backward(seed, to=layer)
        rules.negated = True
        differences.append(difference - graph.backward(seed, to=layer))
    return attribution_maps(torch.stack(differences), probe.size, reduce, smooth)

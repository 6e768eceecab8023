"""Contrasts, "c*": a class's relevance minus that of the others (interpretation: the talk does not define its c*)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.rules import RuledGraph, divided, one_hot

CONTRASTS = ("none", "others", "softmax")
"""``others``: seeds as in Gu, Yang and Tresp, "Understanding Individual Decisions of CNNs via Contrastive
Backpropagation", ACCV 2018; ``softmax``: as in Iwana, Kuroki and Uchida, "Explaining Convolutional Neural Networks
using Softmax Gradient Layer-wise Relevance Propagation", ICCV Workshops 2019 [R: both from memory of the papers]."""


def contrasted(
    graph: RuledGraph, targets: Sequence[int], contrast: str, *, of_score: bool, to: str | None = None
) -> Tensor:
    """Relevance of each target, minus that of the other classes scaled to the same sum.

    With ``others`` the seed is z_t at the target and z_t / (K - 1) at every other class, with ``softmax``
    p_t (1 - p_t) and p_t p_j. Where the others' relevance sums to 0, nothing is taken away.

    Args:
        graph: A forward pass with its rules.
        targets: T class indices.
        contrast: One of `CONTRASTS`; ``none`` is one backward pass per target, the others two.
        of_score: Whether the target's seed is its score z_t rather than 1.
        to: The layer of the relevance; None for the image.

    Returns:
        (T, C, h, w); with a contrast each sums to 0.
    """
    scores, maps = graph.scores, []
    for target in targets:
        value = float(scores[target]) if of_score else 1.0
        if contrast == "softmax":
            probabilities = scores.double().softmax(dim=0)
            value = float(probabilities[target] * (1 - probabilities[target]))
        own = graph.backward(one_hot(scores, target, value), to=to)
        if contrast != "none":
            if contrast == "others":
                seed = torch.full_like(scores, value / max(1, len(scores) - 1))
            else:
                seed = (probabilities[target] * probabilities).to(scores)
            seed[target] = 0
            others = graph.backward(seed, to=to)
            own = own - others * divided(own.double().sum(), others.double().sum()).to(others)
        maps.append(own)
    return torch.stack(maps)

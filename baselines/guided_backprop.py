"""Guided backpropagation: only positive gradients pass, and only through active rectifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.rules import Back, Rules, gradients_under
from sise.probe.probe import Probe
from sise.ranges import FromZero


class Guided(Rules):
    """The gradient, but a rectifier passes its positive part only, where the rectifier was on its slope."""

    relevance = False

    def rectifier(self, x: Tensor, ceiling: float) -> Back:
        slope = (x > 0) & (x < ceiling)
        return lambda gradient: torch.where(slope, gradient.clamp(min=0), 0)


def guided_backprop(
    probe: Probe, targets: Sequence[int], *, reduce: Reduce = "abs_max", smooth: FromZero = 0.0
) -> Tensor:
    """Guided backpropagation: every rectifier hands back ``g+`` where its input was positive, and 0 elsewhere.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`; ``abs_max`` is TorchRay's.
        smooth: Gaussian over the map, as a fraction of the longer side; TorchRay's pointing game uses 0.02.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If a target is not a class, ``reduce`` is unknown, or the network has no rectifier.

    Reference:
        Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity: The All Convolutional Net", ICLR
        Workshops 2015, section 3.4.
    """
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    return attribution_maps(guided_gradients(probe, targets), probe.size, reduce, smooth)


def guided_gradients(probe: Probe, targets: Sequence[int]) -> Tensor:
    """The signed guided gradients: (T, C, H, W), from one forward and T backward passes."""
    return gradients_under(Guided(), probe, targets)

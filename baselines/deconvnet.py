"""Deconvnet: only positive gradients pass each rectifier, whatever its input was."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps
from sise.baselines.rules import Back, Rules, gradients_under
from sise.probe.probe import Probe
from sise.ranges import FromZero


class Deconvolution(Rules):
    """The gradient, but a rectifier passes its positive part, and its own gate is not applied."""

    relevance = False

    def rectifier(self, x: Tensor, ceiling: float) -> Back:
        return lambda gradient: gradient.clamp(min=0)


def deconvnet(probe: Probe, targets: Sequence[int], *, reduce: Reduce = "abs_max", smooth: FromZero = 0.0) -> Tensor:
    """Deconvnet: every rectifier hands back ``g+``; max-pools route by their switches.

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
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 2.1.
    """
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    return attribution_maps(gradients_under(Deconvolution(), probe, targets), probe.size, reduce, smooth)

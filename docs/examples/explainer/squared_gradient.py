"""The squared gradient of the log-odds with respect to the image's pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import check_targets, no_maps
from sise.maps import minmax
from sise.probe.probe import Probe


def squared_gradient(probe: Probe, targets: Sequence[int], *, power: float = 2.0) -> Tensor:
    """Squared gradient: ``sum_c |dy/dx_c| ** power``, min-max per map.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        power: The exponent.

    Returns:
        (T, H, W) in [0, 1].
    """
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    gradients = torch.stack([probe.image_gradient(target, of="log_odds") for target in targets])  # (T, C, H, W)
    return minmax(gradients.abs().pow(power).sum(dim=1))

"""Control: every pixel equally important. The chance level of the localization metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sise.probe.probe import Probe


def uniform(probe: Probe, targets: Sequence[int]) -> Tensor:
    """A map of ones; runs no network.

    Its EBPG and Bbox are the mean share of the image that the masks cover (PROTOCOL T2). The authors' rule
    for Drop and Increase keeps no pixel of it (PROTOCOL E8), so these show what the empty image scores.

    Args:
        probe: Only its size and device are read.
        targets: T class indices.

    Returns:
        (T, H, W) float32, all 1.
    """
    return torch.ones(len(targets), *probe.size, device=probe.device)

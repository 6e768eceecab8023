"""What several baselines share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from sise.maps import minmax, upsample
from sise.probe import Probe
from sise.scoring import allow_tf32
from sise.types import SuiteError, choose


def cam_layer_of(probe: Probe, layer: str | None) -> str:
    """The layer a CAM method reads: the one asked for, else the model's ``cam_layer``.

    Raises:
        SuiteError: If neither is known.
    """
    chosen = layer if layer is not None else probe.cam_layer
    if chosen is None:
        raise SuiteError(
            "a CAM method reads one convolutional layer; none was given and the model names none. "
            "Pass layer=<module name>, or give the model a cam_layer."
        )
    return chosen


def weighted_maps(weights: Tensor, maps: Tensor) -> Tensor:
    """Sums feature maps under one weight per channel, the last step of every CAM method.

    Args:
        weights: (T, C), one row per target.
        maps: (C, h, w), or (C, l) of a signal.

    Returns:
        (T, h, w) float32 ``sum_k weights[t, k] * maps[k]``, added up in float64.
    """
    return (weights.double() @ maps.flatten(1).double()).unflatten(1, maps.shape[1:]).float()


def locations(maps: Tensor) -> tuple[int, ...]:
    """The dimensions of (C, h, w) or (C, l) maps that are places in the image."""
    return tuple(range(1, maps.ndim))


def to_saliency(maps: Tensor, size: tuple[int, ...], upsampling: str) -> Tensor:
    """Brings CAMs to the image's resolution and scale.

    Args:
        maps: (T, h, w), not negative; (T, l) of a signal.
        size: (H, W), or (L,).
        upsampling: ``bilinear`` (of a signal: linear), half-pixel centres, then min-max; or ``cubic``, as SISE's
            authors do: splines through all values with corners on corners (``scipy.ndimage.zoom``), then divided by
            the largest value. Splines overshoot, so that some values are slightly negative.

    Returns:
        (T, H, W), or (T, L); zero for a map that is zero.
    """
    if choose("upsampling", upsampling, ("bilinear", "cubic")) == "bilinear":
        return minmax(upsample(maps, size), len(size))
    from scipy.ndimage import zoom

    factors = [wanted / had for wanted, had in zip(size, maps.shape[1:], strict=True)]
    large = torch.stack([torch.from_numpy(zoom(m.cpu().numpy(), factors)) for m in maps]).to(maps)
    largest = large.amax(dim=locations(large), keepdim=True)
    return torch.where(largest > 0, large / torch.where(largest > 0, largest, 1), 0)


def check_targets(probe: Probe, targets: Sequence[int]) -> list[int]:
    """The targets as a list of plain ints.

    Raises:
        SuiteError: If one is no class of the network.
    """
    chosen, classes = [int(target) for target in targets], len(probe.scores())
    wrong = [target for target in chosen if not 0 <= target < classes]
    if wrong:
        raise SuiteError(f"target {wrong[0]} is no class of this network, which scores classes 0 to {classes - 1}.")
    return chosen


def no_maps(probe: Probe) -> Tensor:
    """The saliency of no target at all: (0, H, W)."""
    return torch.zeros(0, *probe.size, device=probe.device)


def tf32_as_engine(probe: Probe) -> AbstractContextManager[None]:
    """TF32 off unless the engine runs in less than float32, for passes an explainer makes by itself."""
    return allow_tf32(probe.scorer.precision != "fp32")

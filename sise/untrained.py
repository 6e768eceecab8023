"""Whether a network is as its initialisers leave it: nobody has trained it yet."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["looks_untrained"]

_NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
)  # fmt: skip
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_ENOUGH = 256
"""Weights from which on chance says something of a layer."""
_SEEN = 65536
"""Weights of a layer that are looked at."""
_ERRORS = 6.0
"""Standard errors that a mean of drawn weights may be off: a layer in 500 million is further."""


def looks_untrained(network: nn.Module) -> bool:
    """Whether every layer of a network is as initialisers leave it.

    Training leaves traces that no usual initialiser makes: a bias or a scale of a normalisation that is no longer 0 or
    1, weights beyond the bound they were drawn within, weights that are not 0 in the mean. One layer with such a trace
    makes the network a trained one, which is seen at the first layers. A network of another kind of initialiser, or of
    few weights, counts as trained.

    Args:
        network: Of any size, on any device; only read.

    Returns:
        True if no layer has a trace of training, and at least one could have.

    Example:
        >>> import torch
        >>> looks_untrained(torch.nn.Conv2d(3, 16, 3))
        True
    """
    telling = False
    with torch.no_grad():
        for witness in _witnesses(network):
            if witness is False:
                return False
            telling = telling or witness is True
    return telling


def _witnesses(network: nn.Module) -> Iterator[bool | None]:
    """Of each layer: True if it is as made, False if it is not, None if it would look the same after training."""
    for module in network.modules():
        if isinstance(module, _NORMS):
            yield _untouched(module)
        elif isinstance(module, _WEIGHTED):
            yield _drawn(module)


def _untouched(norm: nn.Module) -> bool | None:
    """A normalisation that scales by 1, or by the 0 of a residual branch, and shifts by 0; or, of those that do
    neither, one whose running mean is 0."""
    weight, bias, mean = (getattr(norm, name, None) for name in ("weight", "bias", "running_mean"))
    if weight is not None:
        constant = bool(((weight == 1).all() | (weight == 0).all()).item())
        return constant and (bias is None or not bool(bias.any()))
    return None if mean is None else not bool(mean.any())


def _drawn(layer: nn.Module) -> bool | None:
    """A layer of weights that are 0 in the mean and a bias that is 0 or as torch draws it; telling if the weights are
    as torch draws them, or the bias is 0."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    if not weight.numel():
        return None
    bound = 1 / math.sqrt(weight[0].numel())
    weight = weight.flatten()[:_SEEN]
    if bias is not None and not _within(bias, bound):
        return False
    if weight.numel() < _ENOUGH:
        return None
    if bool(weight.mean().abs() > _ERRORS * weight.std() / math.sqrt(weight.numel())):
        return False
    return True if _within(weight, bound) or (bias is not None and not bool(bias.any())) else None


def _within(values: Tensor, bound: float) -> bool:
    """Whether values are all 0 or may be a uniform draw within ± ``bound``: none is beyond it, and the mean square of
    many is that of such a draw."""
    if bool(values.abs().max() > bound * (1 + 1e-6)):
        return False
    if values.numel() < _ENOUGH or not bool(values.any()):
        return True
    expected, error = bound**2 / 3, bound**2 * math.sqrt(4 / 45 / values.numel())
    return bool((values.double().square().mean() - expected).abs() < _ERRORS * error)

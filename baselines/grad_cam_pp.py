"""Grad-CAM++: feature maps weighted by pixel-wise weighted positive gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import Upsampling, cam_layer_of, check_targets, no_maps, to_saliency, weighted_maps
from sise.errors import choose
from sise.probe.probe import Probe
from sise.ranges import FromZero, one_of

SCORES = ("logit", "exp", "softmax")


def grad_cam_pp(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    score: Annotated[str, one_of(SCORES)] = "logit",
    normalise_alpha: bool = False,
    eps: FromZero = 1e-6,
    upsampling: Upsampling = "bilinear",
) -> Tensor:
    """Grad-CAM++: ``ReLU(sum_k w_k A_k)``, ``w_k = sum_ij alpha_kij ReLU(dY/dA_kij)``.

    With ``g = dY/dA`` and its second and third derivatives taken as ``g**2`` and ``g**3``,
    ``alpha = g**2 / (2 g**2 + (sum_ij A) g**3 + eps)`` (equation 19), and 0 where g is 0.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Layer whose feature maps are summed; None takes the probe's ``cam_layer``.
        score: Y, what is differentiated. ``logit``: the score S itself, as widespread public code does. ``exp``:
            exp(S), as in the paper and its authors' code; every derivative carries exp(S), which cancels but for
            ``eps``. ``softmax``: the class probability, the same formula with its gradient.
        normalise_alpha: Divide each map's alphas by their sum, as the authors' own code does.
        eps: Keeps the denominator of alpha away from zero.
        upsampling: ``bilinear``, or ``cubic`` splines as SISE's authors use
            (:func:`sise.baselines.common.to_saliency`).

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map (``cubic``: slightly
        negative in places). Zero everywhere where no gradient is positive.

    Raises:
        SuiteError: If no layer is known, a target is not a class or ``score`` is unknown.

    Reference:
        Chattopadhay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional
        Networks", WACV 2018, section 3 and equation 19.
    """
    choose("Grad-CAM++ score", score, SCORES)
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    weights = [_weights(probe, layer, target, score, normalise_alpha, eps) for target in targets]
    return to_saliency(F.relu(weighted_maps(torch.stack(weights), maps)), probe.size, upsampling)


def _weights(probe: Probe, layer: str, target: int, score: str, normalise_alpha: bool, eps: float) -> Tensor:
    """(C,) float64 channel weights of one target."""
    gradient = probe.gradients(layer, target, of="log_odds" if score == "softmax" else "logit").double()
    scores = probe.scores().double()
    if score == "softmax":
        chosen = torch.arange(len(scores), device=scores.device) == target
        log_p = scores.log_softmax(dim=0)
        gradient = gradient * (log_p[chosen].exp() * log_p[~chosen].exp().sum())  # dp = p (1 - p) d log-odds
    if score == "exp":
        eps = eps * float(torch.exp(-scores[target]))  # numerator and denominator divided by exp(S)
    weights = alpha_weights(gradient, probe.feature_maps(layer).double(), eps, normalise_alpha)
    largest = weights.max()  # the softmax's weights may be too small for float32 maps
    return weights / largest if largest > 0 else weights


def alpha_weights(gradient: Tensor, maps: Tensor, eps: FromZero = 1e-6, normalise_alpha: bool = False) -> Tensor:
    """``sum_ij alpha_kij ReLU(g_kij)`` of each channel, alpha as in :func:`grad_cam_pp`.

    Args:
        gradient: (..., C, h, w) gradients g, with any number of images before; or (C, l) of a signal.
        maps: The feature maps, of the same shape.
        eps: Keeps the denominator of alpha away from zero.
        normalise_alpha: Divide each map's alphas by their sum.

    Returns:
        (..., C).
    """
    everywhere = tuple(range(-1, -gradient.ndim, -1)) if gradient.ndim < 4 else (-2, -1)
    sums = maps.sum(dim=everywhere, keepdim=True)
    denominator = 2 * gradient**2 + sums * gradient**3 + eps
    alpha = torch.where((gradient != 0) & (denominator != 0), gradient**2 / denominator, 0)
    if normalise_alpha:
        total = alpha.sum(dim=everywhere, keepdim=True)
        alpha = torch.where(total != 0, alpha / total, 0)
    return (alpha * F.relu(gradient)).sum(dim=everywhere)

"""NormGrad: how much a virtual layer's parameters would learn from each place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.baselines.common import check_targets, no_maps
from sise.baselines.excitation_backprop import excitation_layer
from sise.errors import SuiteError, choose
from sise.maps import minmax, upsample
from sise.probe.probe import Probe
from sise.ranges import NotEmpty, one_of

VIRTUAL_LAYERS = ("conv1x1", "conv3x3", "scaling", "bias")
AGGREGATIONS = ("norm", "sum", "max", "selective")


def norm_grad(
    probe: Probe,
    targets: Sequence[int],
    *,
    layers: Annotated[Sequence[str], NotEmpty] | None = None,
    phase1: Annotated[str, one_of(VIRTUAL_LAYERS)] = "conv1x1",
    phase2: Annotated[str, one_of(AGGREGATIONS)] = "norm",
) -> Tensor:
    """NormGrad: at each place the norm of what a virtual identity layer would learn there, ``|A| |g|``.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layers: Layers whose feature maps A, with their gradients g of the score before the softmax, are read; None
            takes excitation backprop's (the published tables do not say which). Of several layers the maps, each in
            [0, 1], are multiplied ("combined").
        phase1: The virtual layer's spatial contribution: ``conv1x1``, the outer product of A and g; ``conv3x3``, that
            of 3x3 patches of A (zeros beyond the border) and g; ``scaling``, A times g; ``bias``, g.
        phase2: What makes one number of it: ``norm`` (Euclidean), ``sum``, ``max``, or ``selective``, the norm of
            the positive entries.

    Returns:
        (T, H, W) in [0, 1]: upsampled, min-max per map; not rectified.

    Raises:
        SuiteError: If no layer is known, a setting is unknown, the probe is of a signal and ``conv3x3`` is asked for,
            or ``bias`` where the gradient is the same everywhere, as before global average pooling.

    Reference:
        Rebuffi, Fong, Ji and Vedaldi, "There and Back Again: Revisiting Backpropagation Saliency Methods", CVPR 2020.
    """
    choose("phase1", phase1, VIRTUAL_LAYERS)
    choose("phase2", phase2, AGGREGATIONS)
    targets = check_targets(probe, targets)
    chosen = [excitation_layer(probe, None)] if layers is None else list(layers)
    if not chosen:
        raise SuiteError("layers must name at least one layer, or be null for the model's cam_layer.")
    if not targets:
        return no_maps(probe)
    probe.watch(chosen)
    combined = torch.ones(len(targets), *probe.size, device=probe.device)
    for layer in chosen:
        maps = probe.feature_maps(layer)
        gradients = torch.stack([probe.gradients(layer, target, of="logit") for target in targets])
        if phase1 == "bias" and torch.equal(gradients.flatten(2).amin(dim=2), gradients.flatten(2).amax(dim=2)):
            raise SuiteError(
                f"the gradient at {layer!r} is the same at every place, as before global average pooling, so that "
                "phase1=bias makes a constant map. Choose an earlier layer, or another phase1."
            )
        small = torch.stack([contribution(maps, gradient, phase1, phase2) for gradient in gradients])
        combined = combined * minmax(upsample(small, probe.size), len(probe.size))
    return minmax(combined, len(probe.size))


def contribution(maps: Tensor, gradient: Tensor, phase1: str, phase2: str) -> Tensor:
    """(h, w) of (C, h, w) maps and gradients; outer products are never formed, since their numbers factorise."""
    if phase1 in ("scaling", "bias"):
        vectors = maps * gradient if phase1 == "scaling" else gradient
        if phase2 in ("sum", "max"):
            return vectors.sum(dim=0) if phase2 == "sum" else vectors.amax(dim=0)
        return (F.relu(vectors) if phase2 == "selective" else vectors).norm(dim=0)
    if phase1 == "conv3x3":
        if maps.ndim != 3:
            raise SuiteError("phase1=conv3x3 takes patches of images; for a signal choose conv1x1.")
        maps = F.unfold(maps[None], 3, padding=1)[0].unflatten(1, maps.shape[1:])
    if phase2 == "sum":
        return maps.sum(dim=0) * gradient.sum(dim=0)
    if phase2 == "norm":
        return maps.norm(dim=0) * gradient.norm(dim=0)
    if phase2 == "selective":
        positive = F.relu(maps).norm(dim=0) * F.relu(gradient).norm(dim=0)
        return torch.hypot(positive, F.relu(-maps).norm(dim=0) * F.relu(-gradient).norm(dim=0))
    ends = [(m * g) for m in (maps.amax(dim=0), maps.amin(dim=0)) for g in (gradient.amax(dim=0), gradient.amin(dim=0))]
    return torch.stack(ends).amax(dim=0)

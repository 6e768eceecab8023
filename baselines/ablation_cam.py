"""Ablation-CAM: feature maps weighted by what the score loses without them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sise.baselines.common import (
    Upsampling,
    cam_layer_of,
    check_targets,
    no_maps,
    tf32_as_engine,
    to_saliency,
    weighted_maps,
)
from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.ranges import Count
from sise.scoring import check_scores


def ablation_cam(
    probe: Probe,
    targets: Sequence[int],
    *,
    layer: str | None = None,
    upsampling: Upsampling = "bilinear",
    batch_size: Count = 32,
) -> Tensor:
    """Ablation-CAM: ``ReLU(sum_k w_k A_k)`` with ``w_k = (z - z without A_k) / |z|``, z the score before the softmax.

    The network runs to the layer once per batch of channels, and on from there with one channel of the layer set to
    zero after the other; all targets share these passes. A network that can't run on with several maps for one image,
    because it keeps the number of images or reads the image again, is given as many copies of it.

    The paper divides by z, which turns the map over where z < 0; the absolute value is a factor only, which the final
    normalisation removes, and is not computed.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: Layer whose feature maps A are summed; None takes the probe's ``cam_layer``.
        upsampling: ``bilinear``, or ``cubic`` splines (:func:`sise.baselines.common.to_saliency`).
        batch_size: Channels at once; no numeric effect but float rounding.

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map. Counted as one forward
        pass per channel that is not zero already, though most often only the layers behind run that often.

    Raises:
        SuiteError: If no layer is known, a target is not a class, ``batch_size`` is not positive, or the network
            cannot run on from the layer with several maps, not even for as many copies of the image.

    Reference:
        Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
        Localization", WACV 2020.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if batch_size < 1:
        raise SuiteError(f"expected batch_size >= 1; got {batch_size}.")
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    weights = torch.zeros(len(targets), len(maps), dtype=torch.float64, device=probe.device)
    run = _Continuation(probe, layer)
    at_once = 1 if probe.scorer.alone else batch_size
    for channels in maps.flatten(1).any(dim=1).nonzero()[:, 0].split(at_once):
        kept = torch.ones(len(channels), len(maps), device=maps.device)
        kept[torch.arange(len(channels)), channels] = 0
        scores = run.scores(maps * kept.view(*kept.shape, *[1] * len(probe.size)))
        weights[:, channels] = (probe.scores() - scores).double()[:, targets].T
    return to_saliency(F.relu(weighted_maps(weights, maps)), probe.size, upsampling)


class _Continuation:
    """The network from a layer on.

    Args:
        probe: One image as one network sees it.
        layer: Where its output is replaced.
    """

    def __init__(self, probe: Probe, layer: str) -> None:
        self._probe, self._layer = probe, layer
        self._module = dict(probe.network.named_modules())[layer]
        self._copies = False

    def scores(self, maps: Tensor) -> Tensor:
        """(N, K) scores of the image, had the layer put out each of the (N, C, h, w) maps.

        Raises:
            SuiteError: If the network cannot run on with them.
        """
        if not self._copies:
            try:
                return self._run(maps, self._probe.image.clone())
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, SuiteError):  # the number of images is known to what follows
                self._copies = True
        try:
            return self._run(maps, self._probe.image.repeat_interleave(len(maps), dim=0))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise SuiteError(
                f"the network cannot run on from {self._layer!r} with {len(maps)} maps ({error}); name a layer behind "
                "which it does not read the image or earlier layers again."
            ) from error

    def _run(self, maps: Tensor, images: Tensor) -> Tensor:
        thread = threading.get_ident()

        def replace(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            return maps if threading.get_ident() == thread else None  # others may run the network meanwhile

        handle = self._module.register_forward_hook(replace)
        try:
            with torch.no_grad(), tf32_as_engine(self._probe):
                scores = check_scores(self._probe.network(images), len(maps))
        finally:
            handle.remove()
        self._probe.count(forward=len(maps))
        return scores

"""What several baselines share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sise.devices import allow_tf32
from sise.errors import SuiteError, WrongSetting, choose
from sise.maps import minmax, upsample
from sise.probe.capture import captured, take_gradients
from sise.probe.probe import Probe
from sise.ranges import FromZero, one_of
from sise.scoring import check_scores

REDUCTIONS = ("abs_max", "abs_sum", "sum_positive", "sum_signed")
UPSAMPLINGS = ("bilinear", "cubic")
Reduce = Annotated[str, one_of(REDUCTIONS)]
Upsampling = Annotated[str, one_of(UPSAMPLINGS)]


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


def gradient_cam(
    probe: Probe,
    targets: Sequence[int],
    layer: str | None,
    upsampling: str,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """A CAM made of one layer's feature maps and the gradients of the score before the softmax.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        layer: See :func:`cam_layer_of`.
        upsampling: See :func:`to_saliency`.
        combine: (T, C, h, w) gradients and (C, h, w) feature maps -> (T, h, w), of which the positive part counts.

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map.

    Raises:
        SuiteError: If no layer is known or a target is not a class.
    """
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if not targets:
        return no_maps(probe)
    maps = probe.feature_maps(layer)
    gradients = torch.stack([probe.gradients(layer, target, of="logit") for target in targets])
    return to_saliency(F.relu(combine(gradients, maps)), probe.size, upsampling)


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
    if choose("upsampling", upsampling, UPSAMPLINGS) == "bilinear":
        return minmax(upsample(maps, size), len(size))
    from scipy.ndimage import zoom

    factors = [wanted / had for wanted, had in zip(size, maps.shape[1:], strict=True)]
    large = torch.stack([torch.from_numpy(zoom(m.cpu().numpy(), factors)) for m in maps]).to(maps)
    largest = large.amax(dim=locations(large), keepdim=True)
    return torch.where(largest > 0, large / torch.where(largest > 0, largest, 1), 0)


def reduce_channels(attributions: Tensor, reduce: str) -> Tensor:
    """Makes one map of the attributions of all channels.

    Args:
        attributions: (T, C, H, W), signed; (T, C, L) of a signal.
        reduce: The sign policy: ``abs_max``, the largest absolute value of the channels; ``abs_sum``, the sum of
            absolute values; ``sum_positive``, the sum where it is positive, else zero; ``sum_signed``, the sum.

    Returns:
        (T, H, W), not negative unless ``reduce`` is ``sum_signed``.

    Raises:
        SuiteError: If ``reduce`` is unknown.
    """
    if choose("reduce", reduce, REDUCTIONS) == "abs_max":
        return attributions.abs().amax(dim=1)
    if reduce == "abs_sum":
        return attributions.abs().sum(dim=1)
    total = attributions.sum(dim=1)
    return F.relu(total) if reduce == "sum_positive" else total


def attribution_maps(attributions: Tensor, size: tuple[int, ...], reduce: str, smooth: FromZero = 0.0) -> Tensor:
    """Brings attributions to maps of the image: channels reduced, resized, smoothed, scaled, in this order.

    What smoothing averages has its sign still, so that neighbours of opposite signs cancel: of ``sum_positive`` the
    positive part is taken after it, without smoothing before the sum is resized.

    Args:
        attributions: (T, C, h, w), signed; (T, C, l) of a signal.
        size: (H, W), or (L,).
        reduce: The sign policy, see :func:`reduce_channels`.
        smooth: Standard deviation of a Gaussian over the resized maps, as a fraction of the longer side; borders are
            continued by their own value.

    Returns:
        (T, H, W) in [0, 1], min-max per map. Signed maps (``sum_signed``) keep their zero: each is divided by its
        largest absolute value and lies in [-1, 1].

    Raises:
        SuiteError: If ``reduce`` is unknown or ``smooth`` negative.
    """
    if smooth < 0:
        raise SuiteError(f"smooth must be at least 0, a fraction of the image's longer side; got {smooth}.")
    signed_first = smooth > 0 and reduce == "sum_positive"
    maps = reduce_channels(attributions.detach().float(), "sum_signed" if signed_first else reduce)
    maps = gaussian_smooth(upsample(maps, size), smooth * max(size))
    maps = F.relu(maps) if signed_first else maps
    if reduce != "sum_signed":
        return minmax(maps, len(size))
    largest = maps.abs().amax(dim=locations(maps), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)


def gaussian_smooth(maps: Tensor, sigma: float, radius: int | None = None) -> Tensor:
    """Gaussian smoothing of (N, H, W) or (N, L) maps, borders continued by their own value.

    Args:
        maps: One map after the other.
        sigma: Standard deviation in pixels; 0 leaves the maps as they are.
        radius: Pixels of the kernel on either side; None for 4 sigma.
    """
    if sigma == 0:
        return maps
    radius = math.ceil(4 * sigma) if radius is None else radius
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(maps).view(1, 1, -1)
    for axis in locations(maps):
        lines = maps.movedim(axis, -1)
        padded = F.pad(lines.flatten(0, -2)[:, None], (radius, radius), mode="replicate")
        maps = F.conv1d(padded, kernel)[:, 0].unflatten(0, lines.shape[:-1]).movedim(-1, axis)
    return maps


def layer_gradients(probe: Probe, inputs: Tensor, layer: str, targets: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Feature maps and gradients of other images than the probe's; counted in passes of images of its size.

    Args:
        probe: Whose network is run.
        inputs: (N, C, H', W') network inputs of any size the network takes.
        layer: The layer to look at.
        targets: T class indices.

    Returns:
        The (N, K) scores, the (N, C, h, w) feature maps, and the (T, N, C, h, w) gradients of each target's score.

    Raises:
        WrongSetting: If the network does not take this size.
        SuiteError: If there is no gradient, or one that is not finite.
    """
    if len(inputs) > 1 and not probe.scorer.alone:
        with suppress(SuiteError):  # a layer may run once per image
            return _of_one_batch(probe, inputs, layer, targets)
    parts = [_of_one_batch(probe, one, layer, targets) for one in inputs.split(1)]
    scores, maps, gradients = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(maps), torch.cat(gradients, dim=1)


def _of_one_batch(probe: Probe, inputs: Tensor, layer: str, targets: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad(), tf32_as_engine(probe), captured(probe.network, [layer]) as maps:
        given = inputs.detach().clone().requires_grad_()
        with refusing_size(probe, inputs.shape[2:]):
            scores = probe.network(given.clone())  # it may write into its input
        scores = check_scores(scores, len(inputs))
    gradients = []
    for number, target in enumerate(targets):
        with torch.enable_grad(), tf32_as_engine(probe):
            score, last = scores[:, target].sum(), number + 1 == len(targets)
            gradients.append(take_gradients(score, {repr(layer): maps[layer]}, retain_graph=not last)[repr(layer)])
    passes = max(1, round(len(inputs) * inputs[0].numel() / probe.image.numel()))
    probe.count(forward=passes, backward=passes * len(targets))
    return scores.detach(), maps[layer].detach(), torch.stack(gradients)


@contextmanager
def refusing_size(probe: Probe, size: Sequence[int]) -> Iterator[None]:
    """Says of a network that fails at another size than the probe's that it takes no other.

    Raises:
        WrongSetting: In place of the network's own error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, SuiteError):
        raise
    except Exception as error:
        if tuple(size) == probe.size:
            raise
        given, own = (" × ".join(map(str, sides)) for sides in (size, probe.size))
        raise WrongSetting(
            f"this explainer runs the network at {given}, which fails there ({type(error).__name__}: {error}) and not "
            f"at {own}: take an explainer that keeps the image's size, or a network that takes others."
        ) from error


def noisy_copies(probe: Probe, count: int, noise: float, seed: int) -> Tensor:
    """(count, C, H, W) copies of the image with Gaussian noise of ``noise`` times its range, drawn on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, *probe.image.shape[1:], generator=generator).to(probe.image)
    return probe.image + noise * (probe.image.max() - probe.image.min()) * drawn


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

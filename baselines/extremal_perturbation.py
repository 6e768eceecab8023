"""Extremal perturbations: the smooth mask of a given area that keeps a score highest, found by gradient ascent.

The masks of an optimisation never interact, so any number of (image, target, area) triples is optimised at once, as
one batch through the network, with the result of optimising them one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sise.baselines.common import check_targets, no_maps, tf32_as_engine
from sise.errors import SuiteError, choose
from sise.maps import minmax
from sise.probe.capture import take_gradients
from sise.probe.probe import Probe
from sise.ranges import Count, FromTwo, FromZero, Positive, Shares, one_of

LEARNING_RATE, MOMENTUM = 0.01, 0.9
AREA_WEIGHT, AREA_WEIGHT_GROWTH = 300.0, 1.0035
COLDNESS = 20.0
"""Constants of the authors' released optimiser; the last is the sharpness of the smooth maximum."""


def extremal_perturbation(
    probe: Probe,
    targets: Sequence[int],
    *,
    areas: Shares = (0.1,),
    max_iter: Count = 800,
    num_levels: FromTwo = 8,
    max_blur: Positive = 20.0,
    step: Count = 7,
    sigma: Positive = 21.0,
    jitter: bool = True,
    smooth: FromZero = 0.0,
    implementation: Annotated[str, one_of(("batched", "torchray"))] = "batched",
    exact: bool = False,
    batch_size: Count = 64,
) -> Tensor:
    """Extremal Perturbation: the sum over areas of the masks that preserve a target's score under blur.

    The preservation game of the authors' TorchRay: with mask m, pixels take blur levels from the image itself (m = 1)
    to the strongest blur (m = 0); maximised is the score before softmax minus a growing penalty on the distance of
    the sorted mask values from those of a binary mask of the area. Nothing in it is random.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        areas: Areas of the masks, as fractions of the image.
        max_iter: Iterations. TorchRay returns the mask of its last iteration before that iteration's step, so
            ``max_iter - 1`` passes determine it.
        num_levels: Levels of the blur pyramid.
        max_blur: Standard deviation of the strongest blur, in pixels.
        step: Pixels between neighbouring parameters of a mask.
        sigma: Radius, in pixels, of the smooth maximum that makes a mask of its parameters.
        jitter: Mirror the perturbed images in every other iteration.
        smooth: Standard deviation of a Gaussian over the final masks, as a fraction of the image's shorter side.
        implementation: ``batched``, this module's; ``torchray``, TorchRay's own function, one target at a time.
        exact: Make masks in TorchRay's order of operations: its masks bit for bit, in 3.5 times the time on a CPU.
            Without it, one evaluation of a mask is within 6e-8. The optimisation amplifies that without bound: after
            some steps single maps may differ by a quarter of their peak, while the objective reached stays the same.
        batch_size: Masks optimised at once; no numeric effect but float rounding.

    Returns:
        (T, H, W) in [0, 1]: the sum over areas of the masks, already at the image's resolution, min-max per map.

    Raises:
        SuiteError: If a target is not a class, ``implementation`` is unknown, a number is out of its range, or the
            probe is of a signal.

    Reference:
        Fong, Patrick and Vedaldi, "Understanding Deep Networks via Extremal Perturbations and Smooth Masks", ICCV
        2019, sections 3.1 (area constraint) and 3.2 (perturbations, smooth masks); what the paper leaves open is that
        of ``torchray.attribution.extremal_perturbation``, its authors' code.
    """
    choose("Extremal Perturbation implementation", implementation, ("batched", "torchray"))
    if len(probe.size) != 2:
        raise SuiteError(
            f"Extremal Perturbation blurs images (1, C, H, W); got a signal of shape {tuple(probe.image.shape)}. RISE "
            "is an explainer by perturbation that takes signals."
        )
    targets, areas = check_targets(probe, targets), [float(area) for area in areas]
    if not areas or not all(0 < area < 1 for area in areas):
        raise SuiteError(f"areas must be fractions strictly between 0 and 1, at least one; got {areas}.")
    if min(max_iter, step, batch_size) < 1 or num_levels < 2 or min(max_blur, sigma) <= 0 or smooth < 0:
        raise SuiteError(
            "expected max_iter, step, batch_size >= 1, num_levels >= 2, max_blur, sigma > 0 and smooth >= 0; got "
            f"{max_iter=}, {step=}, {batch_size=}, {num_levels=}, {max_blur=}, {sigma=}, {smooth=}."
        )
    if not targets:
        return no_maps(probe)
    if implementation == "torchray":
        masks = _by_torchray(probe, targets, areas, max_iter, num_levels, max_blur, step, sigma, jitter)
    else:
        pairs = [(target, area) for target in targets for area in areas]
        parts = []
        with tf32_as_engine(probe):
            for start in range(0, len(pairs), batch_size):
                part = pairs[start : start + batch_size]
                parts.append(
                    optimise_masks(
                        partial(probe.scorer.apart, probe.network) if exact else probe.scorer.differentiable,
                        probe.image,
                        [target for target, _ in part],
                        [area for _, area in part],
                        max_iter=max_iter,
                        num_levels=num_levels,
                        max_blur=max_blur,
                        step=step,
                        sigma=sigma,
                        jitter=jitter,
                        exact=exact,
                    )
                )
                probe.count(forward=len(part) * (max_iter - 1), backward=len(part) * (max_iter - 1))
        masks = torch.cat(parts).unflatten(0, (len(targets), len(areas)))
    if smooth > 0:
        masks = gaussian_blur(masks, smooth * min(probe.size))
    return minmax(masks.sum(dim=1))


def optimise_masks(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Sequence[int],
    areas: Sequence[float],
    *,
    max_iter: Count = 800,
    num_levels: FromTwo = 8,
    max_blur: Positive = 20.0,
    step: Count = 7,
    sigma: Positive = 21.0,
    jitter: bool = True,
    exact: bool = False,
) -> Tensor:
    """Optimises N masks at once, each for its own image, target and area.

    Args:
        network: ``(N, C, H, W) -> (N, K)`` scores, in eval mode; left as it is.
        images: (N, C, H, W) network inputs, or (1, C, H, W) for one image under all masks.
        targets: N class indices.
        areas: N areas, as fractions of the image.
        max_iter, num_levels, max_blur, step, sigma, jitter, exact: See :func:`extremal_perturbation`.

    Returns:
        (N, H, W) masks in [0, 1], detached.
    """
    count, device = len(targets), images.device
    levels = blur_pyramid(images.detach(), num_levels, max_blur)
    to_mask = SmoothMask((images.shape[-2], images.shape[-1]), step, sigma, device, exact)
    pixels = math.prod(to_mask.padded_size)
    ideal = torch.ones(count, pixels, dtype=torch.float32, device=device)
    for row, area in zip(ideal, areas, strict=True):
        row[: int(pixels * (1 - area))] = 0
    values = torch.ones(count, *to_mask.grid_size, dtype=torch.float32, device=device)
    velocity, weight = None, AREA_WEIGHT
    for iteration in range(max_iter - 1):
        with torch.enable_grad():
            values.requires_grad_()
            mask = to_mask(values)
            perturbed = perturb(levels, to_mask.crop(mask))
            if jitter and iteration % 2 == 0:
                perturbed = perturbed.flip(-1)
            scores = network(perturbed.clone())[range(count), targets]  # it may write into its input
            penalty = ((mask.flatten(1).sort(dim=1)[0] - ideal) ** 2).mean(dim=1)
            # by way of the image, since the penalty has a gradient even where the scores have none
            of_image = take_gradients(-scores.sum(), {"the image": perturbed})["the image"]
            (gradient,) = torch.autograd.grad([perturbed, (penalty * weight).sum()], values, [of_image, None])
        # Momentum damped by as much as it remembers, from the second step on: torch.optim.SGD's rule.
        velocity = gradient if velocity is None else velocity.mul_(MOMENTUM).add_(gradient, alpha=1 - MOMENTUM)
        values = values.detach().add_(velocity, alpha=-LEARNING_RATE).clamp_(0, 1)
        weight *= AREA_WEIGHT_GROWTH
    with torch.no_grad():
        return to_mask.crop(to_mask(values.detach()))


class SmoothMask:
    """Makes (N, H, W) masks of coarse parameters by a smooth maximum over shifted bumps.

    Parameters sit ``step`` pixels apart. A mask's pixel is the softmax-weighted mean, over the parameters around it,
    of parameter times ``exp(-2 max(0, d / sigma - 1/2)^2)``, d the distance. Masks are made with a margin of
    ``sigma`` pixels, whose pixels count in the area penalty and are cropped from the image's mask.

    Attributes:
        grid_size: (h, w) of the parameters.
        padded_size: (H', W') of the masks with their margin.
    """

    def __init__(
        self, size: tuple[int, int], step: int, sigma: float, device: torch.device | str, exact: bool = False
    ) -> None:
        self.size, self.step, self.margin, self.exact = size, step, round(sigma), exact
        self.reach = 1 + math.ceil(sigma / step)
        self.padding = 1 + math.ceil(2 * sigma / step)
        self.grid_size = tuple(math.ceil(pixels / step) for pixels in size)
        self.cells = tuple(n + 2 * (self.padding - self.reach) for n in self.grid_size)
        self.padded_size = tuple(step * n - step + 1 for n in self.cells)
        # every cell of step x step pixels lies alike among the parameters around it: one cell's bumps serve all
        offsets = self._offsets(sigma).to(device)
        distance = torch.sqrt(offsets[:, None, :, None] ** 2 + offsets[None, :, None, :] ** 2)
        bumps = torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2)
        self.bumps = bumps.flatten(0, 1).flatten(1)
        """(R^2, step^2) weight at each pixel of a cell of each of the R x R parameters around it."""

    def _offsets(self, sigma: float) -> Tensor:
        """(R, step) signed distance along one axis from each pixel of a cell to the R parameters around it."""
        parameter = torch.arange(2 * self.reach + 1, device="cpu")[:, None] - self.padding
        return (torch.arange(self.step, device="cpu") - (sigma + self.step * parameter)).float()

    def __call__(self, values: Tensor) -> Tensor:
        """(N, h, w) parameters in [0, 1] -> (N, H', W') masks with margin; differentiable."""
        around = F.unfold(values[:, None], 2 * self.reach + 1, padding=self.padding)
        around = around.unflatten(2, self.cells)
        if self.exact:
            # the R x R numbers per pixel are too many to keep for many masks: made a few masks at a time, and again
            some = around.split(16 if around.is_cuda else 1)
            masks = [checkpoint(self._as_torchray, a, use_reentrant=False, preserve_rng_state=False) for a in some]
            return torch.cat(masks).clamp(0, 1)
        cells = _SmoothMaximum.apply(around, self.bumps)
        pixels = cells.unflatten(3, (self.step, self.step)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        height, width = self.padded_size
        return pixels[:, :height, :width].clamp(0, 1)

    def _as_torchray(self, around: Tensor) -> Tensor:
        """(N, R^2, h', w') parameters around each cell -> (N, H', W'), in TorchRay's order of operations."""
        (height, width), (h, w), step = self.padded_size, self.cells, self.step
        bumps = self.bumps.unflatten(1, (1, step, 1, step)).expand(-1, h, -1, w, -1)
        bumps = bumps.flatten(3, 4).flatten(1, 2)[:, :height, :width]
        heights = F.interpolate(around, (step * h, step * w))[:, :, :height, :width] * bumps
        return (heights * (COLDNESS * heights).softmax(dim=1)).sum(dim=1)

    def crop(self, masks: Tensor) -> Tensor:
        """(N, H', W') -> (N, H, W), the margin gone."""
        (height, width), m = self.size, self.margin
        return masks[:, m : m + height, m : m + width]


class _SmoothMaximum(torch.autograd.Function):
    """Softmax-weighted mean m = Σ_j p_j h_j of the heights h_j of the R^2 bumps around each pixel.

    With p_j ∝ exp(c h_j), its derivative is ∂m/∂h_j = p_j (1 + c (h_j - m)). The R^2 numbers per pixel are too many to
    keep for the backward pass, or to leave a processor's cache: they are made for a few rows of cells at a time, and
    made again on the way back.
    """

    @staticmethod
    def forward(ctx, around: Tensor, bumps: Tensor) -> Tensor:
        """(N, R^2, h', w') parameters around each cell, (R^2, step^2) bumps -> (N, h', w', step^2)."""
        masks = []
        for rows in _row_blocks(around, bumps):
            heights, shares = _heights(around[:, :, rows], bumps)
            masks.append(heights.mul_(shares).sum(dim=1))
        mask = torch.cat(masks, dim=1)
        ctx.save_for_backward(around, bumps, mask)
        return mask

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        around, bumps, mask = ctx.saved_tensors
        parts = []
        for rows in _row_blocks(around, bumps):
            heights, shares = _heights(around[:, :, rows], bumps)
            slope = heights.sub_(mask[:, None, rows]).mul_(COLDNESS).add_(1).mul_(shares).mul_(gradient[:, None, rows])
            parts.append(torch.einsum("njhwp,jp->njhw", slope, bumps))
        return torch.cat(parts, dim=2), None


def _heights(around: Tensor, bumps: Tensor) -> tuple[Tensor, Tensor]:
    """(N, R^2, b, w', step^2) heights h and their shares softmax(c h)."""
    heights = around[..., None] * bumps[:, None, None, :]
    return heights, (heights * COLDNESS).softmax(dim=1)


def _row_blocks(around: Tensor, bumps: Tensor) -> list[slice]:
    """Rows of cells taken at a time: about a megabyte of numbers on a CPU, a quarter of a gigabyte on a GPU."""
    per_row = around[:, :, 0].numel() * bumps.shape[1]
    rows = max(1, (2**26 if around.is_cuda else 2**18) // per_row)
    return [slice(start, start + rows) for start in range(0, around.shape[2], rows)]


def blur_pyramid(images: Tensor, num_levels: int, max_blur: float) -> Tensor:
    """(N, C, H, W) -> (N, L, C, H, W), from the strongest blur to the images themselves, equal steps of sigma."""
    with torch.no_grad():
        # whatever torch's defaults are
        steps = torch.linspace(0, 1, num_levels, dtype=torch.float32, device="cpu")
        sigmas = [float((1 - level) * max_blur) for level in steps]
        return torch.stack([gaussian_blur(images, sigma) for sigma in sigmas], dim=1)


def perturb(levels: Tensor, masks: Tensor) -> Tensor:
    """Reads each pixel at the blur level its mask says, linearly between levels.

    Args:
        levels: (N or 1, L, C, H, W), as of :func:`blur_pyramid`.
        masks: (N, H, W) in [0, 1], 0 for the first level, 1 for the last.

    Returns:
        (N, C, H, W); differentiable in the masks.
    """
    last = levels.shape[1] - 1
    position = (masks * last)[:, None, None]
    below = position.detach().floor()
    fraction = position - below
    levels = levels.expand(len(masks), *levels.shape[1:])
    index = below.long().expand(-1, -1, *levels.shape[2:])
    lower, upper = levels.gather(1, index), levels.gather(1, (index + 1).clamp(max=last))
    return ((1 - fraction) * lower + fraction * upper).squeeze(1)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of the last two dimensions of (N, C, H, W), cut at 4 sigma, zeros beyond the border."""
    width = math.ceil(4 * sigma)
    if width == 0:
        return maps
    offsets = torch.arange(-width, width + 1, dtype=torch.float32, device=maps.device)
    spread = (
        torch.tensor(sigma, dtype=torch.float32, device=maps.device) * math.sqrt(2) + torch.finfo(torch.float32).eps
    )
    kernel = torch.exp(-((offsets / spread) ** 2))
    kernel = (kernel / kernel.sum()).to(maps.dtype)
    channels = maps.shape[1]
    column = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    maps = F.conv2d(maps, column, padding=(width, 0), groups=channels)
    return F.conv2d(maps, column.transpose(2, 3), padding=(0, width), groups=channels)


def _by_torchray(
    probe: Probe,
    targets: Sequence[int],
    areas: Sequence[float],
    max_iter: int,
    num_levels: int,
    max_blur: float,
    step: int,
    sigma: float,
    jitter: bool,
) -> Tensor:
    """(T, A, H, W) masks of TorchRay's function, which freezes the network for good: that is undone here."""
    from torchray.attribution import extremal_perturbation as torchray

    if max_blur != 20:
        raise SuiteError(f"TorchRay's max_blur is fixed at 20; got {max_blur}. Use implementation='batched'.")
    if probe.scorer.alone and len(areas) > 1:
        raise SuiteError(
            "TorchRay scores the masks of all areas in one batch, and this network's scores of an image depend on the "
            "rest of a batch; give one area, or take implementation='batched'."
        )
    parameters = list(probe.network.parameters())
    flags = [parameter.requires_grad for parameter in parameters]
    masks = []
    try:
        with tf32_as_engine(probe), torch.enable_grad():
            for target in targets:
                mask, _ = torchray.extremal_perturbation(
                    probe.network,
                    probe.image,
                    target,
                    areas=list(areas),
                    max_iter=max_iter,
                    num_levels=num_levels,
                    step=step,
                    sigma=sigma,
                    jitter=jitter,
                )
                probe.count(forward=len(areas) * max_iter, backward=len(areas) * max_iter)
                masks.append(mask[:, 0].detach())
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
    return torch.stack(masks)

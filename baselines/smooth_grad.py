"""SmoothGrad: gradients of noisy copies of the image, averaged; and its relatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps, noisy_copies, tf32_as_engine
from sise.errors import SuiteError, choose
from sise.probe.capture import take_gradients
from sise.probe.probe import Probe
from sise.ranges import Count, FromZero, Seed, one_of

KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


def smooth_grad(
    probe: Probe,
    targets: Sequence[int],
    *,
    n: Count = 50,
    noise: FromZero = 0.15,
    nt_type: Annotated[str, one_of(KINDS)] = "smoothgrad",
    abs_first: bool = False,
    reduce: Reduce = "abs_max",
    smooth: FromZero = 0.0,
    batch_size: Count = 25,
    seed: Seed = 0,
) -> Tensor:
    """SmoothGrad: the mean over n noisy copies of the image of ``dz/dx``, z the score before the softmax.

    Args:
        probe: One image as one network sees it.
        targets: T class indices; all of them read the gradients of one set of copies.
        n: Copies, each one forward pass, and one backward pass per target.
        noise: Standard deviation of the Gaussian noise, as a share of the range of the network's input.
        nt_type: ``smoothgrad`` takes the mean of the gradients, ``smoothgrad_sq`` that of their squares, ``vargrad``
            their variance.
        abs_first: Average absolute gradients, as captum does unless told otherwise; the paper averages signed ones.
        reduce: The sign policy, see :func:`sise.baselines.common.reduce_channels`.
        smooth: Gaussian over the map, as a fraction of the longer side.
        batch_size: Copies through the network at once; no numeric effect but float rounding.
        seed: Of the noise; torch's own generator is not touched.

    Returns:
        (T, H, W) in [0, 1], min-max per map; of ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If a target is not a class, a setting is unknown or out of its range, or there is no gradient.

    Reference:
        Smilkov, Thorat, Kim, Viégas and Wattenberg, "SmoothGrad: Removing Noise by Adding Noise", 2017; squares and
        variance: Hooker, Erhan, Kindermans and Kim, NeurIPS 2019, and Adebayo et al., ICLR Workshops 2018 [R].
    """
    choose("nt_type", nt_type, KINDS)
    targets = check_targets(probe, targets)
    if n < 1 or batch_size < 1 or noise < 0:
        raise SuiteError(f"SmoothGrad needs n >= 1, batch_size >= 1 and noise >= 0; got {n}, {batch_size}, {noise}.")
    if not targets:
        return no_maps(probe)
    total = torch.zeros(len(targets), *probe.image.shape[1:], dtype=torch.float64, device=probe.device)
    squares = torch.zeros_like(total)
    for copies in noisy_copies(probe, n, noise, seed).split(batch_size):
        points = copies.requires_grad_()
        with torch.enable_grad(), tf32_as_engine(probe):
            scores = probe.scorer.differentiable(points)
            for number, target in enumerate(targets):
                last = number + 1 == len(targets)
                found = take_gradients(scores[:, target].sum(), {"the image": points}, retain_graph=not last)
                gradients = found["the image"].detach().double()
                total[number] += (gradients.abs() if abs_first else gradients).sum(dim=0)
                squares[number] += (gradients**2).sum(dim=0)
        probe.count(forward=len(points), backward=len(points) * len(targets))
    mean = total / n
    if nt_type != "smoothgrad":
        mean = squares / n - (mean**2 if nt_type == "vargrad" else 0)
    return attribution_maps(mean, probe.size, reduce, smooth)

"""Gradient SHAP: gradients at random points between baseline images and the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps, tf32_as_engine
from sise.errors import SuiteError, WrongSetting
from sise.maps import over_map
from sise.probe.capture import take_gradients
from sise.probe.probe import Probe
from sise.ranges import Count, FromZero, Seed


def gradient_shap(
    probe: Probe,
    targets: Sequence[int],
    *,
    n_samples: Count = 50,
    baselines: Sequence[Sequence[float]] | None = None,
    noise: FromZero = 0.0,
    reduce: Reduce = "sum_positive",
    batch_size: Count = 25,
    seed: Seed = 0,
) -> Tensor:
    """Gradient SHAP: ``mean_i (x - b_i) * dz/dx at b_i + a_i (x - b_i)``, a_i uniform in [0, 1].

    Args:
        probe: One image as one network sees it; z is the score before the softmax.
        targets: T class indices; all of them read the gradients of one set of forward passes.
        n_samples: Points, each one forward pass, and one backward pass per target.
        baselines: B constant images to draw b_i from, each given by the network input of its C channels (those of a
            black pixel, say); None is zero network input.
        noise: Standard deviation of Gaussian noise on x at each point, in network input; captum's ``stdevs``.
        reduce: Sign policy, see :func:`sise.baselines.common.reduce_channels`.
        batch_size: Points through the network at once; no numeric effect but float rounding.
        seed: Of the points; torch's own generator is not touched.

    Returns:
        (T, H, W) in [0, 1], or in [-1, 1] if ``reduce`` is ``sum_signed``. Their sum approaches the difference of the
        scores slowly.

    Raises:
        SuiteError: If a target is not a class, a baseline has not one value per channel, a number is out of its range,
            or there is no gradient.

    Reference:
        Lundberg and Lee, NIPS 2017; the estimator is that of the authors' package (expected gradients), as in captum.
    """
    targets = check_targets(probe, targets)
    if n_samples < 1 or batch_size < 1 or noise < 0:
        raise SuiteError(
            f"Gradient SHAP needs n_samples >= 1, batch_size >= 1, noise >= 0; got {n_samples}, {batch_size}, {noise}."
        )
    channels = probe.image.shape[1]
    given = [[0.0] * channels] if baselines is None else baselines
    if not given or not all(isinstance(b, Sequence) and len(b) == channels for b in given):
        raise WrongSetting(f"baselines must be lists of {channels} channel values or null; got {baselines}.")
    starts = torch.tensor([[float(value) for value in b] for b in given])
    if not targets:
        return no_maps(probe)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(starts), (n_samples,), generator=generator)
    along = torch.rand(n_samples, generator=generator)
    total = torch.zeros(len(targets), *probe.image.shape[1:], dtype=torch.float64, device=probe.device)
    for part in torch.arange(n_samples).split(batch_size):
        start = starts[chosen[part]].to(probe.image)
        start = start.view(len(part), channels, *[1] * len(probe.size))
        drawn = torch.randn(len(part), *probe.image.shape[1:], generator=generator)
        noisy = probe.image + noise * drawn.to(probe.image)
        points = (start + over_map(along[part].to(probe.image), noisy) * (noisy - start)).requires_grad_()
        with torch.enable_grad(), tf32_as_engine(probe):
            scores = probe.scorer.differentiable(points)
            for number, target in enumerate(targets):
                gradient = take_gradients(
                    scores[:, target].sum(), {"the image": points}, retain_graph=number + 1 < len(targets)
                )["the image"]
                total[number] += ((noisy - start) * gradient).detach().double().sum(dim=0)
        probe.count(forward=len(part), backward=len(part) * len(targets))
    return attribution_maps(total / n_samples, probe.size, reduce)

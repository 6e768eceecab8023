"""Integrated Gradients: gradients averaged along the straight line from a baseline image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from sise.baselines.common import Reduce, attribution_maps, check_targets, no_maps, tf32_as_engine
from sise.errors import SuiteError, WrongSetting, choose
from sise.maps import over_map
from sise.probe.capture import take_gradients
from sise.probe.probe import Probe
from sise.ranges import Count, FromTwo, one_of

SHORT_TRAPEZOID = "short_trapezoid"
METHODS = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", SHORT_TRAPEZOID)


def integrated_gradients(
    probe: Probe,
    targets: Sequence[int],
    *,
    n_steps: FromTwo = 50,
    method: Annotated[str, one_of(METHODS)] = "gausslegendre",
    baseline: Sequence[float] | None = None,
    of: Annotated[str, one_of(("logit", "softmax"))] = "logit",
    reduce: Reduce = "abs_sum",
    batch_size: Count = 50,
) -> Tensor:
    """Integrated Gradients, by captum: ``sum_c |(x - x') * integral of dy/dx along the line from x' to x|``.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        n_steps: Points of the quadrature; each costs one forward and one backward pass per target.
        method: Quadrature rule, by captum's names; or ``short_trapezoid``, the trapezoid over the points i/n_steps,
            i = 0 to n_steps - 1, which stop a step before the image (a notebook of the authors' course).
        baseline: x', the network-input value of each of the C channels (e.g. those of a black pixel); None is zero
            network input.
        of: The scalar y: ``logit`` or ``softmax`` (the probability, whose completeness is in confidence).
        reduce: How the channels' signed attributions become one value, see
            :func:`sise.baselines.common.reduce_channels`; ``abs_sum`` is this suite's choice, the paper names none.
        batch_size: Points through the network at once; no numeric effect but float rounding.

    Returns:
        (T, H, W) in [0, 1]: the channels reduced, then min-max per map; with ``sum_signed`` in [-1, 1], zero kept.

    Raises:
        SuiteError: If a target is not a class, a number out of its range, or ``method``, ``of`` or ``reduce`` unknown.

    Reference:
        Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, equation 1.
    """
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    attribution = attributions(
        probe, targets, n_steps=n_steps, method=method, baseline=baseline, of=of, batch_size=batch_size
    )
    return attribution_maps(attribution, probe.size, reduce)


def attributions(
    probe: Probe,
    targets: Sequence[int],
    *,
    n_steps: FromTwo = 50,
    method: Annotated[str, one_of(METHODS)] = "gausslegendre",
    baseline: Sequence[float] | None = None,
    of: Annotated[str, one_of(("logit", "softmax"))] = "logit",
    batch_size: Count = 50,
) -> Tensor:
    """The signed attributions before any post-processing: (T, C, H, W). Arguments as above."""
    choose("quadrature method", method, METHODS)
    choose("Integrated Gradients of", of, ("logit", "softmax"))
    if n_steps < 2 or batch_size < 1:
        raise SuiteError(f"expected n_steps >= 2 and batch_size >= 1; got {n_steps} and {batch_size}.")
    channels = probe.image.shape[1]
    if baseline is not None and len(baseline) != channels:
        raise WrongSetting(f"baseline must be {channels} channel values or null; got {list(baseline)}.")

    def forward(inputs: Tensor) -> Tensor:
        scores = probe.scorer.differentiable(inputs)
        return scores.double().softmax(dim=1) if of == "softmax" else scores

    def gradient(forward_fn: Callable, inputs: tuple[Tensor], target_ind: int, **_: None) -> tuple[Tensor]:
        """Captum's own, but that a missing or NaN gradient is refused."""
        return (take_gradients(forward_fn(*inputs)[:, target_ind].sum(), {"the image": inputs[0]})["the image"],)

    start = torch.zeros_like(probe.image)
    if baseline is not None:
        start += over_map(torch.tensor(list(baseline)).to(probe.image), probe.image[0])
    end, rule, scale = probe.image, method, 1.0
    if method == SHORT_TRAPEZOID:
        # captum's trapezoid has its points at i/(n_steps - 1) of the line it is given, with weights that sum to
        # (n_steps - 1)/n_steps; `scale` makes them sum to 1 and the line its whole length again
        share = (n_steps - 1) / n_steps
        end, rule, scale = start + share * (probe.image - start), "riemann_trapezoid", 1 / share**2
    parts = []
    for target in targets:
        with torch.enable_grad(), tf32_as_engine(probe):
            method_of_captum = IntegratedGradients(forward)
            method_of_captum.gradient_func = gradient
            part = method_of_captum.attribute(
                end,
                baselines=start,
                target=target,
                n_steps=n_steps,
                method=rule,
                internal_batch_size=batch_size,
            )
        probe.count(forward=n_steps, backward=n_steps)
        parts.append(scale * part.detach().float())
    return torch.cat(parts)

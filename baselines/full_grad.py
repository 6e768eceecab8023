"""FullGrad: input-gradients and the bias-gradients of every layer, added up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.common import check_targets, no_maps, tf32_as_engine
from sise.maps import minmax
from sise.probe import Probe, take_gradients
from sise.torch_state import eager
from sise.types import SuiteError

Terms = tuple[Tensor, list[Tensor]]
"""Input * input-gradient, (3, H, W), and bias * bias-gradient of each layer, each (C, h, w) or (C,)."""


def full_grad(
    probe: Probe, targets: Sequence[int], *, include_bn: bool = True, simple: bool = False, eps: float = 1e-6
) -> Tensor:
    """FullGrad: ``psi(x * df/dx) + sum over layers and channels of U(psi(b * df/db))``.

    f is the score before the softmax. psi, as in the authors' code, takes absolute values and brings *a whole layer*
    to [0, 1]: minus the smallest, divided by the largest value over all of its channels plus ``eps``. U resizes to
    the image bilinearly with aligned corners. Channels are added before resizing, which is linear.

    Without psi and U, the terms add up to the score in networks that are piecewise linear in their input and these
    biases. Where they do not, the map leaves a part of the score out, which the probe gets a remark about.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        include_bn: Count the biases of batch normalisation, ``beta - mean * gamma / std``, beside those of
            convolutions.
        simple: The authors' "simple FullGrad": gradients alone, not multiplied by the biases.
        eps: psi's guard against an all-zero layer.

    Returns:
        (T, H, W) in [0, 1]: min-max per map of the sum.

    Raises:
        SuiteError: If a target is not a class, or a batch normalisation has no running statistics.

    Reference:
        Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019;
        psi and U as in the authors' code.
    """
    targets = check_targets(probe, targets)
    if not targets:
        return no_maps(probe)
    saliency = []
    linear = "linear" if len(probe.size) == 1 else "bilinear"
    decompositions = full_gradients(probe, targets, include_bn=include_bn, simple=simple)
    for target, (input_term, bias_terms) in zip(targets, decompositions, strict=True):
        if include_bn and not simple and not _adds_up([input_term, *bias_terms], float(probe.scores()[target])):
            probe.remark("incomplete_decomposition")
        total = _psi(input_term, eps).sum(dim=0)
        for term in bias_terms:
            if term.ndim == input_term.ndim:  # a linear layer's bias has no place in the image
                channels = _psi(term, eps).sum(dim=0)[None, None]
                total = total + F.interpolate(channels, probe.size, mode=linear, align_corners=True)[0, 0]
        saliency.append(total)
    return minmax(torch.stack(saliency), len(probe.size))


def full_gradients(
    probe: Probe, targets: Sequence[int], *, include_bn: bool = True, simple: bool = False
) -> list[Terms]:
    """The full-gradient decomposition, one per target, from one forward and T backward passes.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        include_bn: Whether batch-normalisation biases are among the terms.
        simple: Leave the gradients unmultiplied by the biases.

    Returns:
        T pairs: the (3, H, W) input term and the list of bias terms in the order of the forward pass, (C, h, w) for
        convolutions and batch normalisation, (C,) for linear layers.
    """
    outputs: list[tuple[Tensor, Tensor]] = []
    done = False  # a network with checkpoints runs parts of itself again in the backward pass
    thread = threading.get_ident()  # others may score images with the network meanwhile

    def keep(bias: Tensor) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            if threading.get_ident() != thread or done:
                return None
            outputs.append((output, bias))
            return output.clone()  # what follows may work in place

        return hook

    biases = {module: _bias(module, include_bn) for module in probe.network.modules()}
    handles = []
    try:
        for module, bias in biases.items():
            if bias is not None:
                handles.append(module.register_forward_hook(keep(bias)))
        with torch.enable_grad(), tf32_as_engine(probe), eager():
            image = probe.image.detach().clone().requires_grad_()
            scores = probe.network(image.clone())[0]  # it may write into its input
            probe.count(forward=1)
            done = True
            return [_terms(probe, scores[target], image, outputs, simple) for target in targets]
    finally:
        for handle in handles:
            handle.remove()


def _terms(probe: Probe, score: Tensor, image: Tensor, outputs: list, simple: bool) -> Terms:
    """The terms of one score, by one backward pass through a kept graph."""
    layers = {f"the output of layer {number} with a bias": output for number, (output, _) in enumerate(outputs, 1)}
    # a layer beside the path to the score, such as another head, has no part in it
    gradients = take_gradients(score, {"the image": image} | layers, unused=layers, retain_graph=True)
    probe.count(backward=1)
    biased = []
    for name, (_, bias) in zip(layers, outputs, strict=True):
        factor = torch.ones_like(bias) if simple else bias
        biased.append(gradients[name][0] * factor.view(-1, *[1] * (gradients[name].ndim - 2)))
    return (gradients["the image"] * image.detach())[0], biased


def _adds_up(terms: Sequence[Tensor], score: float) -> bool:
    """Whether the terms of a decomposition add up to the score, but for rounding, which grows with the terms."""
    total = sum(float(term.double().sum()) for term in terms)
    largest = sum(float(term.double().abs().sum()) for term in terms)
    return abs(total - score) <= 1e-3 * abs(score) + 1e-5 * largest


def _bias(module: nn.Module, include_bn: bool) -> Tensor | None:
    """(C,) what the module adds to a linear function of its input, or None if nothing."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if not include_bn:
            return None
        if module.running_mean is None or module.running_var is None:
            raise SuiteError(
                "FullGrad needs batch normalisation with running statistics: without them it is no linear layer. "
                "Use another network, or include_bn=false."
            )
        std = torch.sqrt(module.running_var + module.eps)
        gamma = torch.ones_like(std) if module.weight is None else module.weight.detach()
        beta = torch.zeros_like(std) if module.bias is None else module.bias.detach()
        return beta - module.running_mean * gamma / std
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.bias is not None:
        return module.bias.detach()
    return None


def _psi(term: Tensor, eps: float) -> Tensor:
    """Absolute values of a (C, h, w) layer, brought to [0, 1] over all of its channels together."""
    term = term.abs()
    term = term - term.min()
    return term / (term.max() + eps)

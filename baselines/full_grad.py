"""FullGrad: input-gradients and the bias-gradients of every layer, added up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sise.baselines.common import check_targets, no_maps, tf32_as_engine
from sise.errors import SuiteError
from sise.maps import minmax
from sise.probe.capture import take_gradients
from sise.probe.probe import Probe
from sise.ranges import FromZero
from sise.torch_state import eager

Terms = tuple[Tensor, list[Tensor]]
"""Input * input-gradient, (3, H, W), and bias * bias-gradient of each layer, each (C, h, w) or (C,)."""


class _Biased(NamedTuple):
    """One call of a layer with a bias.

    Attributes:
        output: What it put out, within the graph.
        bias: What it added, to be broadcast to the output.
        axis: The output's axis of channels: 1, or -1 where channels come last.
    """

    output: Tensor
    bias: Tensor
    axis: int


Biases = Callable[[Tensor, Tensor], tuple[Tensor, int] | None]
"""Of a layer's input and output: its bias and the axis of channels; None if it cannot be told."""


def full_grad(
    probe: Probe, targets: Sequence[int], *, include_bn: bool = True, simple: bool = False, eps: FromZero = 1e-6
) -> Tensor:
    """FullGrad: ``psi(x * df/dx) + sum over layers and channels of U(psi(b * df/db))``.

    f is the score before the softmax. psi, as in the authors' code, takes absolute values and brings *a whole layer*
    to [0, 1]: minus the smallest, divided by the largest value over all of its channels plus ``eps``. U resizes to
    the image bilinearly with aligned corners. Channels are added before resizing, which is linear.

    Without psi and U, the terms add up to the score in networks that are piecewise linear in their input and these
    biases; layer normalisation counts with the bias of its linearisation, the paper's "implicit bias". Where they do
    not, the map leaves a part of the score out, which the probe gets a remark about. Tokens and windows have no place
    in the image and no part in the map.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        include_bn: Count the biases of batch normalisation, ``beta - mean * gamma / std``, and of layer
            normalisation beside those of convolutions and linear layers.
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
            if term.ndim == input_term.ndim:  # the bias of a linear layer of features has no place in the image
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
        include_bn: Whether biases of batch and layer normalisation are among the terms.
        simple: Leave the gradients unmultiplied by the biases.

    Returns:
        T pairs: the (3, H, W) input term and the list of bias terms in the order of the forward pass, channels first:
        (C, h, w) of maps, also where the network holds channels last, (C, l) of tokens, and (C,) of features and of
        what a layer puts out for parts of the image as if for several images (windows).
    """
    outputs: list[_Biased] = []
    done = False  # a network with checkpoints runs parts of itself again in the backward pass
    thread = threading.get_ident()  # others may score images with the network meanwhile

    def keep(bias_of: Biases) -> Callable:
        def hook(module: nn.Module, args: tuple, named: dict, output: Tensor) -> Tensor | None:
            given = args[0] if args else next(iter(named.values()))
            found = None if threading.get_ident() != thread or done else bias_of(given, output)
            if found is None:
                return None
            outputs.append(_Biased(output, *found))
            return output.clone()  # what follows may work in place

        return hook

    biases = {module: _bias_of(module, include_bn) for module in probe.network.modules()}
    handles = []
    try:
        for module, bias_of in biases.items():
            if bias_of is not None:
                handles.append(module.register_forward_hook(keep(bias_of), with_kwargs=True))
        with torch.enable_grad(), tf32_as_engine(probe), eager():
            image = probe.image.detach().clone().requires_grad_()
            scores = probe.network(image.clone())[0]  # it may write into its input
            probe.count(forward=1)
            done = True
            return [_terms(probe, scores[target], image, outputs, simple) for target in targets]
    finally:
        for handle in handles:
            handle.remove()


def _terms(probe: Probe, score: Tensor, image: Tensor, outputs: Sequence[_Biased], simple: bool) -> Terms:
    """The terms of one score, by one backward pass through a kept graph."""
    layers = {f"the output of layer {number} with a bias": layer.output for number, layer in enumerate(outputs, 1)}
    # a layer beside the path to the score, such as another head, has no part in it
    gradients = take_gradients(score, {"the image": image} | layers, unused=layers, retain_graph=True)
    probe.count(backward=1)
    biased = []
    for name, layer in zip(layers, outputs, strict=True):
        term = gradients[name] if simple else gradients[name] * layer.bias
        term = term.movedim(layer.axis, 1)
        biased.append(term[0] if len(term) == 1 else term.transpose(0, 1).flatten(1).sum(dim=1))
    return (gradients["the image"] * image.detach())[0], biased


def _adds_up(terms: Sequence[Tensor], score: float) -> bool:
    """Whether the terms of a decomposition add up to the score, but for rounding, which grows with the terms."""
    total = sum(float(term.double().sum()) for term in terms)
    largest = sum(float(term.double().abs().sum()) for term in terms)
    return abs(total - score) <= 1e-3 * abs(score) + 1e-5 * largest


def _bias_of(module: nn.Module, include_bn: bool) -> Biases | None:
    """What the module adds to a linear function of its input, or None if nothing."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        batch_norm = _batch_norm_bias(module) if include_bn else None
        return None if batch_norm is None else lambda given, made: (_over(batch_norm, made, 1), 1)
    if isinstance(module, nn.LayerNorm):
        return (lambda given, made: _layer_norm_bias(module, given, made)) if include_bn else None
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.bias is not None:
        bias, axis = module.bias.detach(), -1 if isinstance(module, nn.Linear) else 1
        return lambda given, made: (_over(bias, made, axis), axis)
    return None


def _over(bias: Tensor, output: Tensor, axis: int) -> Tensor:
    """A (C,) bias in the shape that an output with channels on ``axis`` (1 or -1) takes."""
    return bias if axis == -1 else bias.view(-1, *[1] * (output.ndim - 2))


def _batch_norm_bias(module: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    """(C,) ``beta - mean * gamma / std``.

    Raises:
        SuiteError: Without running statistics.
    """
    if module.running_mean is None or module.running_var is None:
        raise SuiteError(
            "FullGrad needs batch normalisation with running statistics: without them it is no linear layer. "
            "Use another network, or include_bn=false."
        )
    std = torch.sqrt(module.running_var + module.eps)
    gamma = torch.ones_like(std) if module.weight is None else module.weight.detach()
    beta = torch.zeros_like(std) if module.bias is None else module.bias.detach()
    return beta - module.running_mean * gamma / std


def _layer_norm_bias(module: nn.LayerNorm, given: Tensor, made: Tensor) -> tuple[Tensor, int] | None:
    """What layer normalisation g adds to its linearisation: ``g(x) - J x``, J its Jacobian at its input x.

    g divides by the deviation of what it is given, so ``J x`` is ``gamma * x^ * eps / (variance + eps)``, x^ the
    normalised input: next to nothing. Subclasses may move channels to the end and back; an output that neither order
    of the axes explains is left out.
    """
    shape = module.normalized_shape
    for axis in (-1, 1):
        x, output = given.detach().movedim(axis, -1), made.detach().movedim(axis, -1)
        if x.shape[-len(shape) :] != shape or x.shape != output.shape:
            continue
        expected = F.layer_norm(x, shape, module.weight, module.bias, module.eps).detach()
        if torch.allclose(expected, output, rtol=1e-3, atol=1e-5):
            gamma = torch.ones_like(x[0]) if module.weight is None else module.weight.detach()
            names = tuple(range(-len(shape), 0))
            variance, mean = torch.var_mean(x, dim=names, correction=0, keepdim=True)
            bias = output - gamma * (x - mean) * module.eps / (variance + module.eps) ** 1.5
            # normalised over several axes: (C, h, w), as of a convolution
            return bias.movedim(-1, axis), axis if len(shape) == 1 else 1
    return None


def _psi(term: Tensor, eps: float) -> Tensor:
    """Absolute values of a (C, h, w) layer, brought to [0, 1] over all of its channels together."""
    term = term.abs()
    term = term - term.min()
    return term / (term.max() + eps)

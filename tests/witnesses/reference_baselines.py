"""The baselines once more, slowly: one image, one target, one mask at a time, in plain words."""

from __future__ import annotations

import copy

import numpy as np
import skimage.transform
import torch
import torch.nn.functional as F
from torch import nn

import sise.baselines.full_grad as suite


def stretched(values):
    """Min-max of one map, nothing guarded."""
    return (values - values.min()) / (values.max() - values.min())


def outputs_and_gradients(network, image, layer, target, of=lambda scores, target: scores[target]):
    """Feature maps (C, h, w) of a layer and the gradient of a scalar with respect to them."""
    network, kept = copy.deepcopy(network), {}
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def replace(module, inputs, output):
        kept["maps"] = output.detach().requires_grad_()
        return kept["maps"]

    dict(network.named_modules())[layer].register_forward_hook(replace)
    of(network(image)[0], target).backward()
    return kept["maps"].detach()[0], kept["maps"].grad[0]


def grad_cam_pp_of_exp(network, image, layer, target, normalise_alpha, eps):
    """The authors' form: derivatives of exp(score), and alphas that sum to one in each map."""
    score = network(image)[0, target].item()
    maps, gradient = (a.double().numpy() for a in outputs_and_gradients(network, image, layer, target))
    total = np.zeros(maps.shape[1:])
    for A, g in zip(maps, gradient, strict=True):
        first, second, third = (np.exp(score) * g**n for n in (1, 2, 3))
        denominator = 2 * second + A.sum() * third + eps
        alpha = second / np.where(denominator != 0, denominator, 1)
        if normalise_alpha and alpha.sum() != 0:
            alpha = alpha / alpha.sum()
        total += (np.maximum(first, 0) * alpha).sum() * A
    return torch.from_numpy(np.maximum(total, 0))


def score_cam(network, image, layer, target):
    """One masked image at a time, as in the authors' code."""
    maps, _ = outputs_and_gradients(network, image, layer, target)
    total = torch.zeros(image.shape[-2:])
    for A in maps:
        large = F.interpolate(A[None, None], image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
        if large.max() == large.min():
            continue
        with torch.no_grad():
            weight = network(image * stretched(large))[0].softmax(dim=0)[target]
        total += weight * large
    return stretched(total.clamp(min=0))


def rise_mask(grid, shift, size):
    """One mask, with scikit-image's resizing."""
    cells = len(grid)
    cell = [int(np.ceil(pixels / cells)) for pixels in size]
    large = skimage.transform.resize(
        grid.astype(float), [(cells + 1) * c for c in cell], order=1, mode="edge", anti_aliasing=False
    )
    return large[shift[0] : shift[0] + size[0], shift[1] : shift[1] + size[1]]


def integrated_gradients(network, image, target, n_steps, baseline):
    """(3, H, W) signed attributions by Gauss-Legendre quadrature, one point at a time, added up in float64."""
    points, weights = np.polynomial.legendre.leggauss(n_steps)
    total = torch.zeros_like(image, dtype=torch.float64)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        between = (baseline + float(point) * (image - baseline)).detach().requires_grad_()
        network(between)[0, target].backward(inputs=[between])
        total += float(weight) * between.grad.double()
    return (total * (image - baseline))[0]


def full_gradients(network, image, target):
    """Input term (3, H, W) and bias terms: what each affine module puts out for zeros, times its output's gradient."""
    network = copy.deepcopy(network)
    biases, nudges = [], []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False

    def nudge(module, inputs, output):
        nudges.append(torch.zeros_like(output, requires_grad=True))
        with torch.no_grad():
            biases.append(module.forward(torch.zeros_like(inputs[0])))
        return output + nudges[-1]

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.register_forward_hook(nudge)
    image = image.clone().requires_grad_()
    network(image)[0, target].backward()
    bias_terms = [(bias * nudge.grad)[0] for bias, nudge in zip(biases, nudges, strict=True)]
    return (image.grad * image).detach()[0], bias_terms


def full_grad(network, image, target):
    """Every channel of every layer resized by itself."""
    input_term, bias_terms = full_gradients(network, image, target)
    total = torch.zeros(image.shape[-2:], dtype=torch.float64)
    for term in [input_term, *(term for term in bias_terms if term.ndim == 3)]:
        term = term.abs().double()
        if term.max() == 0:
            continue
        term = (term - term.min()) / (term.max() - term.min() + 1e-6)
        for channel in term:
            large = F.interpolate(channel[None, None], image.shape[-2:], mode="bilinear", align_corners=True)
            total += large[0, 0]
    return stretched(total)


def completeness_error(probe, target):
    """Relative difference between a score and the sum of its full gradients, ``f(x) = x df/dx + sum of b df/db``.

    Zero up to rounding where every non-linearity is piecewise linear through the origin (ReLU, leaky ReLU, max
    pooling) and every bias sits in a convolution, linear or batch-normalisation module. Elsewhere (ReLU6 at its
    ceiling, sigmoids, biases in free parameters) it measures what FullGrad's bias terms leave out.
    """
    [(input_term, bias_terms)] = suite.full_gradients(probe, [target])
    total = input_term.double().sum() + sum(term.double().sum() for term in bias_terms)
    score = probe.scores()[target].double()
    return float((total - score).abs() / score.abs().clamp_min(1e-12))

"""Small networks of known kinds with random weights, and an image for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sise.benchmark.models.architectures import resnet50, vgg16
from sise.probe.probe import Probe


class Times(nn.Module):
    """Multiplies, as for scores so large that masks leave their start within a few iterations."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class Overwriting(nn.Module):
    """A network that writes into its input."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.mul_(0.5))


def uneven(network, seed):
    """Running statistics, scales and biases as uneven as a trained network's; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


def image_of(side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.avg_pool2d(torch.randn(1, 3, side + 4, side + 4, generator=generator), 5, 1) * 4


IMAGE = image_of(64)
TARGETS = [3, 0]


def small_networks():
    """Four networks of 5 classes with random weights, by name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "vgg16": uneven(vgg16(width=1 / 16, hidden=24, num_classes=5), 0),
            "resnet50": uneven(resnet50(width=1 / 16, num_classes=5), 1),
            "resnet18": uneven(torchvision.models.resnet18(num_classes=5), 2),
            "mobilenet": uneven(torchvision.models.mobilenet_v2(num_classes=5, width_mult=0.25), 3),
        }


def probe_of(network, image=IMAGE, **options):
    return Probe(network, image, **options)


def largest_difference(got, expected):
    """Relative to the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())

"""Networks whose answers to any image can be written down, for metrics by hand."""

import torch
from torch import nn

from sise.probe.probe import Probe

SIZE = (4, 5)


class Shown(nn.Module):
    """Two scores, [c, 0] with sigmoid(c) of the first class = the mean of the pixels."""

    def forward(self, x):
        mean = x.mean(dim=(1, 2, 3)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([mean.logit(), torch.zeros_like(mean)], dim=1)


def probe_of(network, image=None):
    return Probe(network.eval(), torch.ones(1, 1, *SIZE) if image is None else image)


class Linear(nn.Module):
    """One score that is a weighted sum of the pixels; as a logit, f(x) − f(x without a region) is that region's sum."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, x):
        score = (x * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([score, -score], dim=1)


def linear_probe(weights, image=None):
    image = torch.ones(1, 1, *weights.shape) if image is None else image
    return Probe(Linear(weights).eval(), image, confidence="logit")

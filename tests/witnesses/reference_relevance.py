"""RAP once more, slowly: its rules written out for patches, one output channel at a time, float64, no engine.

For VGG16 and ResNets as the suite builds them, walked by hand. Nothing is shared with the package under test; read it
beside the docstring of ``rap`` and the paper.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn


def over(a, b):
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def shares_of_hidden(inputs, weights, relevance, over_positive):
    """(P, I) shares of (P, I) inputs that are not negative, of the (P, O) relevance of outputs; before the shift."""
    shares = torch.zeros_like(inputs)
    for o, row in enumerate(weights):
        contributions = inputs * row
        positive, negative = contributions.clamp(min=0), -contributions.clamp(max=0)
        p, n = positive.sum(1, keepdim=True), negative.sum(1, keepdim=True)
        gain, loss = relevance[:, o, None].clamp(min=0), relevance[:, o, None].clamp(max=0)
        shares += positive * over(gain, p)
        shares += positive * over(loss, p) if over_positive else negative * over(loss, n)
        shares += negative * over(gain + loss, p + n)
    return shares


def shifted(shares, total):
    """All values but zeros moved by one amount, so that they add up to the total."""
    there = shares != 0
    return torch.where(there, shares - (shares.sum() - total) / there.sum(), 0.0)


class SlowRap:
    """One image's forward pass, with the way back of each step.

    Attributes:
        scores: (K,) of the image.
    """

    @torch.no_grad()
    def __init__(self, network, image, linear_rule="code"):
        self.network, self.linear_rule = copy.deepcopy(network).double().eval(), linear_rule
        self.steps, self.seen_first = [], False
        x = self._features(image.double())
        x = self._step(self._pool(self.network.avgpool, x))
        shape = x.shape
        self.steps.append(lambda relevance: relevance.view(shape))
        x = x.flatten(1)
        head = self.network.fc if hasattr(self.network, "fc") else self.network.classifier
        layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
        for layer in layers[:-1]:
            x = F.relu(self._step(self._linear(layer, x)))
        self.last, self.last_input = layers[-1], x
        self.scores = layers[-1](x)[0]

    @torch.no_grad()
    def relevance(self, target):
        """(C, H, W) relevance of the image's values."""
        contributions = self.last_input * self.last.weight[target]
        positive, negative = contributions.clamp(min=0), contributions.clamp(max=0)
        bias = self.last.bias[target] / contributions.sum()
        whole = contributions + bias * positive + bias * negative
        found = whole.abs() * whole.sum() / whole.abs().sum()
        for back in reversed(self.steps):
            found = back(found)
        return found[0]

    def _step(self, value_and_back):
        self.steps.append(value_and_back[1])
        return value_and_back[0]

    def _features(self, x):
        network = self.network
        if hasattr(network, "features"):
            for module in network.features:
                if isinstance(module, nn.Conv2d):
                    x = self._step(self._conv(module, x))
                else:
                    x = F.relu(x) if isinstance(module, nn.ReLU) else self._step(self._pool(module, x))
            return x
        x = F.relu(network.bn1(self._step(self._conv(network.conv1, x))))
        x = self._step(self._pool(network.maxpool, x))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage:
                x = self._step(self._block(block, x))
        return x

    def _block(self, block, x):
        """A basic block or a bottleneck: convolutions with their normalisation, rectified but for the last."""
        names = [name for name in ("1", "2", "3") if hasattr(block, f"conv{name}")]
        backs, branch = [], x
        for name in names:
            branch = F.relu(branch) if backs else branch
            branch, back = self._conv(getattr(block, f"conv{name}"), branch)
            branch = getattr(block, f"bn{name}")(branch)
            backs.append(back)
        identity, back_of_identity = x, lambda relevance: relevance
        if block.downsample is not None:
            identity, back_of_identity = self._conv(block.downsample[0], x)
            identity = block.downsample[1](identity)
        total = branch + identity

        def back(relevance):
            through = branch * over(relevance, total)
            for one in reversed(backs):
                through = one(through)
            return through + back_of_identity(identity * over(relevance, total))

        return F.relu(total), back

    def _linear(self, layer, x):
        def back(relevance):
            shares = shares_of_hidden(x, layer.weight, relevance, self.linear_rule == "code")
            return shifted(shares, relevance.sum())

        return layer(x), back

    def _conv(self, layer, x):
        first, self.seen_first = not self.seen_first, True

        def patches(values):
            return F.unfold(values, layer.kernel_size, padding=layer.padding, stride=layer.stride)[0].T

        def back(relevance):
            weights, of_output = layer.weight.flatten(1), relevance[0].flatten(1).T
            if first:
                low = patches(torch.full_like(x, float(x.min())))
                high = patches(torch.full_like(x, float(x.max())))
                shares = torch.zeros_like(low)
                for o, row in enumerate(weights):
                    each = patches(x) * row - low * row.clamp(min=0) - high * row.clamp(max=0)
                    shares += each * over(of_output[:, o, None], each.sum(1, keepdim=True))
            else:
                shares = shares_of_hidden(patches(x), weights, of_output, False)
            found = F.fold(shares.T[None], x.shape[2:], layer.kernel_size, padding=layer.padding, stride=layer.stride)
            return found if first else shifted(found, relevance.sum())

        return layer(x), back

    def _pool(self, layer, x):
        """The winner of a maximum, unless it is 0; of an average each its share."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = layer(x)

        def back(relevance):
            given = relevance * (value != 0) if isinstance(layer, nn.MaxPool2d) else over(relevance, value)
            routed = torch.autograd.grad(value, x, given, retain_graph=True)[0]
            return routed if isinstance(layer, nn.MaxPool2d) else x * routed

        return value.detach(), back

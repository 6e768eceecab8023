"""Sanity checks: stages, random networks, and similarity of maps by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from toy import ToyNetwork, toy_model

from sise.benchmark.studies import sanity


def test_stages_go_from_the_classifier_to_the_input():
    network = ToyNetwork().eval()
    found = sanity.stages(network, torch.zeros(1, 3, 24, 32), ["stage1", "stage2", "stage3"])
    assert [(s.name, s.modules) for s in found] == [
        ("head", ("head",)),
        ("block 3", ("stage3.0",)),
        ("block 2", ("stage2.0",)),
        ("block 1", ("stage1.1", "stage1.0")),
    ]
    assert not any(m._forward_hooks for m in network.modules())


def test_stages_follow_the_order_of_execution_not_of_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.top, self.low = nn.Linear(4, 2), nn.Conv2d(4, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.last(self.top(self.low(x)).mean(dim=(2, 3)))

    found = sanity.stages(Backwards().eval(), torch.zeros(1, 3, 8, 8), ["low", "top"])
    assert [s.modules for s in found] == [("last",), ("top",), ("low",)]


def parameters(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def test_randomisation_is_cumulative_and_leaves_the_network_untouched():
    network = toy_model().network
    state = copy.deepcopy(network.state_dict())
    before = parameters(network)
    first = parameters(sanity.randomised(network, ["head"], 0))
    both = parameters(sanity.randomised(network, ["head", "stage3.0"], 0))
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    changed = {k for k in before if not torch.equal(before[k], first[k])}
    assert changed == {"head.weight", "head.bias"}
    assert {k for k in before if not torch.equal(before[k], both[k])} == changed | {"stage3.0.weight", "stage3.0.bias"}
    assert all(torch.equal(first[k], both[k]) for k in changed)  # drawn once, kept at later stages
    other = parameters(sanity.randomised(network, ["head"], 1))
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_random_parameters_have_the_trained_ones_deviation():
    network = nn.Sequential(nn.Linear(200, 200)).eval()
    with torch.no_grad():
        network[0].weight.mul_(3).add_(0.7)
        network[0].bias.fill_(0.25)
    drawn = sanity.randomised(network, ["0"], 0)[0]
    assert drawn.weight.mean().item() == pytest.approx(0, abs=0.003)  # 200² numbers of deviation 0.12
    assert drawn.weight.std().item() == pytest.approx(network[0].weight.std().item(), rel=0.02)
    assert torch.equal(drawn.bias, network[0].bias)  # all equal: no deviation to draw with
    with torch.no_grad():
        network[0].weight.fill_(0.7)
    assert torch.equal(sanity.randomised(network, ["0"], 0)[0].weight, network[0].weight)
    with torch.no_grad():
        network[0].bias.copy_(torch.linspace(2, 4, 200))
    bias = sanity.randomised(network, ["0"], 0)[0].bias
    assert bias.mean().item() == pytest.approx(3, abs=0.2) and bias.std().item() == pytest.approx(0.58, abs=0.1)


def test_an_untrained_network_is_initialised_by_its_layers():
    network = toy_model().network
    state = copy.deepcopy(network.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fresh = sanity.untrained(network, 3)
    assert torch.equal(torch.rand(3), expected)  # the generator of the process is left alone
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert not fresh.training and torch.equal(fresh.stage1[1].weight, torch.ones(6))
    assert fresh.head.weight.abs().max() <= 10**-0.5  # nn.Linear: uniform within 1 / sqrt(inputs)
    assert not torch.equal(fresh.head.weight, network.head.weight)
    assert torch.equal(fresh.head.weight, sanity.untrained(network, 3).head.weight)


def test_similarity_by_hand():
    ramp = torch.arange(12 * 15, dtype=torch.float32).reshape(12, 15)
    assert sanity.rank_correlation(ramp, ramp) == pytest.approx(1)
    assert sanity.rank_correlation(ramp, ramp**3) == pytest.approx(1)  # ranks only
    assert sanity.rank_correlation(ramp, -ramp) == pytest.approx(-1)
    assert sanity.structural_similarity(ramp, ramp) == pytest.approx(1)
    assert sanity.structural_similarity(ramp, 5 + 2 * ramp) == pytest.approx(1)  # both brought to [0, 1]
    assert sanity.structural_similarity(ramp, -ramp) < 0.2
    # ranks 1.5 1.5 3 4 and 1 2 3 4: correlation of the ranks by the formula
    one, other = torch.tensor([[0.0, 0.0], [2.0, 9.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert sanity.rank_correlation(one, other) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_similarity_of_constant_maps_is_defined():
    flat, ramp = torch.full((12, 15), 0.5), torch.arange(12 * 15).float().reshape(12, 15)
    assert sanity.rank_correlation(flat, torch.zeros(12, 15)) == 1.0
    assert sanity.rank_correlation(flat, ramp) == sanity.rank_correlation(ramp, flat) == 0.0
    assert sanity.structural_similarity(flat, torch.zeros(12, 15)) == pytest.approx(1)
    assert sanity.constant(flat) and not sanity.constant(ramp)

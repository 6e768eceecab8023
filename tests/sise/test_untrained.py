"""A network that nobody has trained is told from one that somebody has."""

from __future__ import annotations

import logging

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torchvision import models

import sise
from sise.benchmark.models.efficientnet_lite0 import efficientnet_lite0
from sise.benchmark.places import CONFIGS
from sise.untrained import looks_untrained

FRESH = ("resnet18", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "shufflenet_v2_x0_5",
         "squeezenet1_1", "mnasnet0_5")  # fmt: skip
"""The smallest of torchvision's families: each has initialisers of its own."""


def plain() -> nn.Module:
    """A network without normalisation, as torch initialises it."""
    torch.manual_seed(0)
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), *pooled, nn.Linear(32, 3))


def squeezenet() -> nn.Module:
    """One whose biases are 0 at first."""
    torch.manual_seed(0)
    return models.squeezenet1_1(weights=None, num_classes=3).eval()


def shufflenet() -> nn.Module:
    """One with batch normalisation."""
    torch.manual_seed(0)
    return models.shufflenet_v2_x0_5(weights=None, num_classes=3).eval()


@pytest.mark.parametrize("name", FRESH)
def test_new_networks_of_torchvision(name):
    torch.manual_seed(0)
    assert looks_untrained(models.get_model(name, weights=None, num_classes=3))


def test_networks_that_somebody_has_trained():
    assert not looks_untrained(efficientnet_lite0().network)
    chosen = ["model=vgg16"], ["model=resnet50"], ["model=mnist1d", "dataset=mnist1d"], ["model=hans", "dataset=hans"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for overrides in chosen:
            assert not looks_untrained(instantiate(compose("evaluate", overrides).model.loader).network), overrides


@pytest.mark.parametrize("make", [plain, squeezenet, shufflenet])
def test_ten_steps_are_seen(make):
    network = make()
    assert looks_untrained(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(10):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
        optimiser.step()
    assert not looks_untrained(network)


def test_a_new_head_on_a_trained_body_is_no_untrained_network():
    network = efficientnet_lite0().network
    network._fc = nn.Linear(1280, 4)
    assert not looks_untrained(network)


@pytest.mark.parametrize("network", [nn.Flatten(), nn.Linear(2, 2), nn.Conv2d(3, 0, 3)])
def test_of_few_weights_nothing_is_said(network):
    assert not looks_untrained(network)


def test_explain_warns_once_of_a_list(caplog):
    network = shufflenet()
    images = [torch.randn(3, 64, 64)] * 2
    with caplog.at_level(logging.WARNING):
        sise.explain(network, images, explainer="grad_cam")
        assert caplog.text.count("the network looks untrained") == 1 and "load trained weights" in caplog.text
        caplog.clear()
        sise.explain(efficientnet_lite0().network, torch.randn(3, 64, 64), explainer="grad_cam")
    assert "untrained" not in caplog.text

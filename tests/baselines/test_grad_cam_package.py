"""Class activation maps of the package grad-cam: as the package makes them when it runs the network itself."""

from __future__ import annotations

import copy

import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from small_networks import TARGETS, image_of, largest_difference, probe_of
from torch import nn

from sise import extras
from sise.baselines.grad_cam_package import METHODS, grad_cam_package
from sise.baselines.hires_cam import hires_cam
from sise.errors import SuiteError
from sise.extras import MissingExtra


@pytest.fixture(params=["layer3", "layer4"])  # behind the second, scores are linear in the maps
def resnet(request, networks):
    return probe_of(networks["resnet18"], cam_layer=request.param)


@pytest.mark.numeric
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_packages(resnet, method):
    ours = grad_cam_package(resnet, TARGETS, method=method)
    network = copy.deepcopy(resnet.network)  # the package leaves gradients in it
    module = dict(network.named_modules())[resnet.cam_layer]
    with vars(pytorch_grad_cam)[method](network, [module]) as cam:
        for saliency, target in zip(ours, TARGETS, strict=True):
            if method == "FinerCAM":
                theirs = cam(resnet.image, None, target_idx=target)
            else:
                theirs = cam(resnet.image.clone(), [ClassifierOutputTarget(target)])
            theirs = torch.from_numpy(theirs[0])
            if method in ("EigenCAM", "EigenGradCAM", "KPCA_CAM") and not torch.allclose(saliency, theirs, atol=1e-3):
                pytest.skip("this linear algebra takes the other sign")
            assert torch.allclose(saliency, theirs, atol=5e-6)


def test_a_class_that_the_suite_has_itself_is_the_same(resnet):
    assert largest_difference(grad_cam_package(resnet, TARGETS, method="HiResCAM"), hires_cam(resnet, TARGETS)) < 2e-6


@pytest.mark.parametrize(("method", "forward", "backward"), [("EigenCAM", 1, 0), ("HiResCAM", 1, 2),
                                                             ("FinerCAM", 3, 2), ("ShapleyCAM", 3, 4)])  # fmt: skip
def test_costs_are_counted_and_nothing_is_left_behind(resnet, method, forward, backward):
    seeds = torch.get_rng_state()
    with resnet.bill() as bill:
        grad_cam_package(resnet, TARGETS, method=method)
    assert torch.equal(seeds, torch.get_rng_state())
    assert (bill.forward, bill.backward) == (forward, backward)
    assert all(parameter.grad is None for parameter in resnet.network.parameters())
    assert not any(module._forward_hooks for module in resnet.network.modules())


class Around(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.front, self.maps, self.head, self.function = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Linear(4, 3), function

    def forward(self, x):
        return self.head(self.maps(self.function(self.front(x))).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("method", METHODS)
def test_maps_without_a_difference_give_no_saliency(method):
    probe = probe_of(Around(lambda maps: 0 * maps + 1).eval(), image_of(12), cam_layer="maps")
    assert not grad_cam_package(probe, [1], method=method).any()


def test_mistakes_are_explained(resnet, monkeypatch):
    with pytest.raises(SuiteError, match=r"unknown method 'Eigen'; expected one of: .* Did you mean 'EigenCAM'"):
        grad_cam_package(resnet, TARGETS, method="Eigen")
    detached = probe_of(Around(lambda maps: maps.detach()).eval(), image_of(12), cam_layer="front")
    for method in ("HiResCAM", "FinerCAM", "ShapleyCAM"):
        with pytest.raises(SuiteError, match="no gradient"):
            grad_cam_package(detached, [1], method=method)
    signal = probe_of(
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)).eval(),
        image_of(8)[:, :, 0], cam_layer="0",
    )  # fmt: skip
    with pytest.raises(SuiteError, match="signals"):
        grad_cam_package(signal, [0])
    monkeypatch.setattr(extras, "_is_installed", lambda name: name != "grad-cam")
    monkeypatch.setattr(extras, "_asked_by", lambda extra: {"grad-cam": "grad-cam>=1.5"})
    with pytest.raises(MissingExtra, match=r"grad_cam_package needs .*: pip install -e '\.\[grad-cam\]'"):
        grad_cam_package(resnet, TARGETS)


def test_a_network_without_second_derivatives_is_refused_by_shapley_cam():
    def scaled(maps):  # by a loss, which can be differentiated once
        loss = nn.functional.multi_margin_loss(maps.flatten(1), torch.zeros(len(maps), dtype=torch.long))
        return maps * loss

    probe = probe_of(Around(scaled).eval(), image_of(12), cam_layer="front")
    assert grad_cam_package(probe, [1], method="HiResCAM").max() == 1
    with pytest.raises(SuiteError, match="second derivatives"):
        grad_cam_package(probe, [1], method="ShapleyCAM")

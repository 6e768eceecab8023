"""Relevance propagation (LRP, RAP, RSP): by hand, beside zennit, and what is conserved."""

from __future__ import annotations

import copy

import pytest
import torch
from reference_relevance import SlowRap
from small_networks import IMAGE, TARGETS, largest_difference, probe_of
from torch import nn

from sise.baselines.common import attribution_maps
from sise.baselines.lrp import COMPOSITES, LayerwiseRelevance, bounds_of, epsilon, lrp, plus
from sise.baselines.rap import RelativeAttribution, absolute_influence, rap, relative_shares, uniform_shift
from sise.baselines.rsp import Sectional, class_activation, relative_seed, rsp
from sise.baselines.rules import Affine, RuledGraph, one_hot
from sise.errors import SuiteError

# ---------------------------------------------------------------- by hand


def layer_of(weights, x=(1.0, 2.0)):
    """One linear layer without bias, at an input."""
    weight = torch.tensor(weights).view(-1, len(x))
    return Affine(torch.tensor([x]), weight, None, torch.nn.functional.linear, True, False, "linear", lambda: False)


def test_lrp_by_hand():
    one = torch.tensor([[1.0]])
    assert epsilon(layer_of((3.0, -1.0)), one, ()).tolist()[0] == pytest.approx([3, -2], rel=1e-5)
    assert plus(layer_of((3.0, -1.0)), one, ()).tolist()[0] == pytest.approx([1, 0])


def test_rap_by_hand():
    layer = layer_of((3.0, -1.0))
    assert absolute_influence(layer, torch.tensor([[1.0]])).tolist()[0] == pytest.approx([0.6, 0.4])
    for relevance, over_positive, before, after in (
        (5.0, False, (5, 2), (4, 1)), (-5.0, False, (0, -7), (0, -5)), (-5.0, True, (-5, -2), (-4, -1)),
    ):  # fmt: skip
        shares = relative_shares(layer, torch.tensor([[relevance]]), over_positive)
        assert shares.tolist()[0] == pytest.approx(before)
        assert uniform_shift(shares, torch.tensor(relevance)).tolist()[0] == pytest.approx(after)


def test_rsp_seeds_by_hand():
    own, hostile = torch.tensor([4.0, 0.0]).view(2, 1, 1), torch.tensor([1.0, 1.0]).view(2, 1, 1)
    # difference (3, -1), balanced (1, -1), their sum 0: nothing is left of one place
    assert relative_seed(own, [hostile]).flatten().tolist() == [0, 0]
    own, hostile = torch.tensor([[3.0, 1.0]]).view(1, 1, 2), torch.tensor([[1.0, 2.0]]).view(1, 1, 2)
    assert relative_seed(own, [hostile]).flatten().tolist() == [2, -1]


# ---------------------------------------------------------------- beside zennit


def zennits(composite, network, seed):
    """zennit's relevance of a seed (K,), with batch normalisation folded and sums of ResNets made visible to it."""
    composites = pytest.importorskip("zennit.composites")
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer

    made = {
        "epsilon_plus": composites.EpsilonPlus, "epsilon_plus_flat": composites.EpsilonPlusFlat,
        "epsilon_alpha2_beta1": composites.EpsilonAlpha2Beta1,
        "epsilon_alpha2_beta1_flat": composites.EpsilonAlpha2Beta1Flat,
        "epsilon_gamma_box": composites.EpsilonGammaBox,
    }[composite]  # fmt: skip
    bounds = {"low": torch.full_like(IMAGE, -4.0), "high": torch.full_like(IMAGE, 4.0)} if "box" in composite else {}
    canonizers = [ResNetCanonizer()] if hasattr(network, "layer4") else []
    with Gradient(copy.deepcopy(network), made(canonizers=canonizers, **bounds)) as attributor:
        return attributor(IMAGE.clone(), seed[None])[1]


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
@pytest.mark.parametrize("composite", [name for name in COMPOSITES if name not in ("epsilon", "alpha1_beta0_box")])
def test_lrp_is_zennits(networks, name, composite):
    network = networks[name]
    probe = probe_of(network)
    bounds = torch.tensor(-4.0), torch.tensor(4.0)
    graph = RuledGraph(probe, LayerwiseRelevance(COMPOSITES[composite], bounds))
    seed = one_hot(graph.scores, 3, graph.scores[3])
    expected = zennits(composite, network, seed)
    # alpha 2 beta 1 multiplies rounding from layer to layer
    tolerance = 1e-6 if name == "vgg16" else 2e-3 if "beta1" in composite else 5e-4
    assert largest_difference(graph.backward(seed), expected[0]) < tolerance
    got = lrp(probe, [3], composite=composite, low=[-4.0] * 3, high=[4.0] * 3, reduce="sum_signed")
    assert torch.allclose(got, attribution_maps(expected, probe.size, "sum_signed"), atol=10 * tolerance)


# ---------------------------------------------------------------- what is conserved


def test_lrp_conserves_without_biases(networks):
    network = copy.deepcopy(networks["resnet18"])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.zero_()
            module.running_mean.zero_()
    network.fc.bias.data.zero_()
    probe = probe_of(network)
    for composite in ("epsilon_plus", "epsilon_plus_flat"):
        graph = RuledGraph(probe, LayerwiseRelevance(COMPOSITES[composite], bounds_of(probe)))
        relevance = graph.backward(one_hot(graph.scores, 2, graph.scores[2]))
        assert float(relevance.sum()) == pytest.approx(float(graph.scores[2]), rel=2e-3)


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_rap_sums_to_the_score(networks, name):
    probe = probe_of(networks[name])
    graph = RuledGraph(probe, RelativeAttribution(bounds_of(probe)))
    for target in range(4):
        relevance = graph.backward(one_hot(graph.scores, target, graph.scores[target]))
        assert float(relevance.sum()) == pytest.approx(float(graph.scores[target]), rel=1e-3)


@pytest.mark.parametrize("linear_rule", ["code", "conv"])
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_rap_is_its_slow_restatement(networks, name, linear_rule):
    probe, slow = probe_of(networks[name]), SlowRap(networks[name], IMAGE, linear_rule)
    graph = RuledGraph(probe, RelativeAttribution(bounds_of(probe), linear_rule))
    assert torch.allclose(graph.scores, slow.scores, rtol=1e-12)
    for target in TARGETS:
        got = graph.backward(one_hot(graph.scores, target, graph.scores[target]))
        assert largest_difference(got, slow.relevance(target)) < 1e-8
    expected = slow.relevance(TARGETS[0])[None]
    got = rap(probe, TARGETS[:1], linear_rule=linear_rule, reduce="sum_signed")
    assert torch.allclose(got, attribution_maps(expected, probe.size, "sum_signed"), atol=1e-6)


def test_float32_does_not_determine_rap_on_residual_networks(networks, monkeypatch):
    """Why RAP computes in float64: relevance of both signs grows, and rounding with it."""
    probe = probe_of(networks["resnet18"])
    monkeypatch.setattr(RelativeAttribution, "double", False)
    graph = RuledGraph(probe, RelativeAttribution(bounds_of(probe)))
    single = graph.backward(one_hot(graph.scores, 0, graph.scores[0]))
    assert largest_difference(single, SlowRap(networks["resnet18"], IMAGE).relevance(0)) > 1e-3


class Casting(nn.Module):
    """A network that converts its activations itself, and adds a constant."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        x = x.float().to(self.network.features[0].weight)
        return self.network(x + torch.zeros(1)).to(torch.float32)


def test_rap_in_float64_of_a_network_that_casts(networks):
    plain, casting = probe_of(networks["vgg16"]), probe_of(Casting(networks["vgg16"]).eval())
    assert torch.equal(rap(casting, TARGETS), rap(plain, TARGETS))
    assert casting.network.network.features[0].weight.dtype == torch.float32


@pytest.mark.parametrize(("name", "layer"), [("vgg16", "features.29"), ("resnet18", "layer4")])
def test_rsp_conserves_its_seed(networks, name, layer):
    probe = probe_of(networks[name], cam_layer=layer)
    graph = RuledGraph(probe, Sectional(bounds_of(probe)), [layer])
    for target in TARGETS:
        seed = class_activation(probe, layer, target)
        assert float(graph.backward(seed, start=layer).sum()) == pytest.approx(float(seed.sum()), rel=1e-3)


def test_rsp_loses_what_places_without_input_have(networks, monkeypatch):
    """The relevance of 1 x 1 convolutions there, and nothing else, is what the sum changes by in a narrow ResNet-50."""
    ended, affine = [], Sectional.affine

    def watched(self, layer):
        back, made = affine(self, layer), layer.run(layer.x, layer.weight, None)
        stride = layer.x.shape[-1] // made.shape[-1]
        nothing = (layer.x <= 0).all(dim=1, keepdim=True)[..., ::stride, ::stride]

        def backward(relevance):
            if layer.weight.shape[2:] == (1, 1):
                ended.append(float((relevance * nothing).double().sum()))
            return back(relevance)

        return backward

    monkeypatch.setattr(Sectional, "affine", watched)
    probe = probe_of(networks["resnet50"], cam_layer="layer4")
    graph = RuledGraph(probe, Sectional(bounds_of(probe)), ["layer4"])
    for target in TARGETS:
        ended.clear()
        seed = class_activation(probe, "layer4", target)
        left = float(graph.backward(seed, start="layer4").double().sum())
        assert abs(sum(ended)) > 0.01 * float(seed.sum())
        assert left == pytest.approx(float(seed.double().sum()) - sum(ended), rel=1e-3)


def test_rap_says_of_a_network_that_it_cannot_run_in_float64():
    class Single(nn.Module):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return x.mean(dim=(2, 3))

    with pytest.raises(SuiteError, match=r"cannot be run in float64, .*TypeError: float32 only"):
        rap(probe_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Single()).eval()), [0])


def test_a_negative_score_turns_the_map_of_rap_over(networks):
    probe = probe_of(networks["vgg16"])
    scores = probe.scores()
    below, above = int(scores.argmin()), int(scores.argmax())
    assert scores[below] < 0 < scores[above]
    for target, sign in ((below, -1), (above, 1)):
        flipped = rap(probe, [target], flip=True, reduce="sum_signed")
        assert torch.allclose(rap(probe, [target], reduce="sum_signed"), sign * flipped, atol=1e-6)


@pytest.mark.parametrize("contrast", ["others", "softmax"])
def test_contrasts_of_lrp_sum_to_zero(networks, contrast):
    signed = lrp(probe_of(networks["vgg16"]), TARGETS, contrast=contrast, reduce="sum_signed")
    assert torch.allclose(signed.sum(dim=(1, 2)) / signed.abs().sum(dim=(1, 2)), torch.zeros(2), atol=1e-3)


def test_settings_make_other_maps(networks):
    probe = probe_of(networks["vgg16"], cam_layer="features.29")
    maps = [lrp(probe, [0], composite=composite) for composite in COMPOSITES]
    maps += [rap(probe, [0]), rsp(probe, [0]), rsp(probe, [0], start="relative", threshold=0.1)]
    for i, one in enumerate(maps):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in maps[:i])


# ---------------------------------------------------------------- refused


def test_rap_refuses_signed_inputs_of_its_layers(networks):
    with pytest.raises(SuiteError, match=r"conv2d of module '.*' \(Conv2d\) reads negative values"):
        rap(probe_of(networks["mobilenet"]), [0])


def test_lrp_of_linear_bottlenecks_is_finite(networks):
    probe = probe_of(networks["mobilenet"], cam_layer="features.18")
    for composite in COMPOSITES:
        assert torch.isfinite(lrp(probe, TARGETS, composite=composite)).all()
    assert torch.isfinite(rsp(probe, TARGETS)).all()


def test_unknown_settings_are_refused(networks):
    probe = probe_of(networks["vgg16"], cam_layer="features.29")
    for call in (
        lambda: lrp(probe, [0], composite="epsilon_minus"), lambda: lrp(probe, [0], contrast="c*"),
        lambda: lrp(probe, [0], low=[0.0]), lambda: rap(probe, [0], linear_rule="linear"),
        lambda: rsp(probe, [0], start="both"),
    ):  # fmt: skip
        with pytest.raises(SuiteError, match=r"expected one of|must be 3 channel values"):
            call()


def test_bounds_of_the_input_must_not_cross():
    probe = probe_of(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()).eval(), torch.rand(1, 3, 2, 2))
    for bounds in ({"low": [2.0] * 3}, {"low": [1.0, 0.0, 0.0], "high": [0.5, 1.0, 1.0]}):
        with pytest.raises(SuiteError, match="low must not exceed high"):
            bounds_of(probe, **bounds)
    low, high = bounds_of(probe, [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    assert low.flatten().tolist() == [-1.0, 0.0, 0.0] and high.flatten().tolist() == [0.0, 0.0, 1.0]

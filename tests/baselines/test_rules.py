"""The engine of backward rules and its explainers: by hand, beside other libraries, and what is refused by name."""

from __future__ import annotations

import copy
import threading
from functools import partial, reduce

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchray.attribution.excitation_backprop as torchray_ebp
from small_networks import IMAGE, TARGETS, image_of, largest_difference, probe_of
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from sise.baselines.common import attribution_maps
from sise.baselines.contrastive_excitation_backprop import contrastive_excitation_backprop
from sise.baselines.deconvnet import Deconvolution, deconvnet
from sise.baselines.excitation_backprop import Excitation, excitation_backprop, excitation_layer
from sise.baselines.gradient import gradient
from sise.baselines.gradient_x_input import gradient_x_input
from sise.baselines.guided_backprop import Guided, guided_backprop, guided_gradients
from sise.baselines.guided_grad_cam import guided_grad_cam
from sise.baselines.linear_approx import linear_approx
from sise.baselines.rap import rap
from sise.baselines.rules import RuledGraph, Rules, one_hot
from sise.benchmark.datasets.photos import Photos
from sise.benchmark.models.efficientnet_lite0 import efficientnet_lite0
from sise.errors import SuiteError
from sise.probe.probe import Probe

# ---------------------------------------------------------------- by hand


class Head(nn.Module):
    """y = -relu(x1) + relu(x2), of an image of two channels and one pixel."""

    def forward(self, x):
        return torch.stack([F.relu(x[:, 1, 0, 0]) - F.relu(x[:, 0, 0, 0]), F.relu(x[:, 1, 0, 0])], dim=1)


@pytest.mark.parametrize(
    ("at", "rules", "expected"),
    [
        ((1, 1), Guided, (0, 1)), ((1, 1), Deconvolution, (0, 1)),
        ((1, -1), Guided, (0, 0)), ((1, -1), Deconvolution, (0, 1)),
    ],
)  # fmt: skip
def test_guided_and_deconvnet_by_hand(at, rules, expected):
    probe = probe_of(Head().eval(), torch.tensor(at, dtype=torch.float32).view(1, 2, 1, 1))
    assert RuledGraph(probe, rules()).backward(torch.tensor([1.0, 0.0])).flatten().tolist() == list(expected)


def two_inputs():
    """One linear layer of x = (1, 2), after a convolution that leaves it as it is."""
    network = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2, bias=False))
    network[0].weight.data = torch.eye(2).view(2, 2, 1, 1)
    network[2].weight.data = torch.tensor([[3.0, -1.0], [1.0, 1.0]])
    return network.eval(), torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)


def test_excitation_backprop_by_hand():
    network, image = two_inputs()
    rules = Excitation()
    graph = RuledGraph(probe_of(network, image), rules, ["0"])
    for target, expected in ((0, [1, 0]), (1, [1 / 3, 2 / 3])):
        got = graph.backward(one_hot(graph.scores, target), to="0")
        assert got.flatten().tolist() == pytest.approx(expected)
    rules.negated = True
    assert graph.backward(one_hot(graph.scores, 0), to="0").flatten().tolist() == [0, 1]


def test_gradients_by_hand():
    network, image = two_inputs()  # the network's two channels see the gradient (3, -1) at x = (1, 2)
    probe = probe_of(network, image)
    assert probe.image_gradient(0, of="logit").flatten().tolist() == [3, -1]
    signed = [explain(probe, [0], reduce="sum_signed") for explain in (gradient, gradient_x_input, linear_approx_of_0)]
    assert [m.item() for m in signed] == [1, 1, 1]  # 2, 1 and 1, each divided by its largest value
    assert gradient(probe, [0]).item() == 0  # a map of one pixel is constant


def linear_approx_of_0(probe, targets, **options):
    return linear_approx(probe, targets, layer="0", **options)


# ---------------------------------------------------------------- beside other libraries


@pytest.mark.parametrize("name", ["vgg16", "resnet18"])
@pytest.mark.parametrize(
    ("rules", "witness"), [(Guided, captum.attr.GuidedBackprop), (Deconvolution, captum.attr.Deconvolution)]
)
def test_guided_and_deconvnet_are_captums(networks, name, rules, witness):
    graph = RuledGraph(probe_of(networks[name]), rules())
    for target in TARGETS:
        expected = witness(copy.deepcopy(networks[name])).attribute(IMAGE.clone().requires_grad_(), target)[0]
        assert torch.equal(graph.backward(one_hot(graph.scores, target)), expected)


def test_gradients_are_captums(networks):
    network = networks["resnet18"]
    probe = probe_of(network)
    for target in TARGETS:
        expected = captum.attr.Saliency(network).attribute(IMAGE.clone().requires_grad_(), target, abs=False)
        assert torch.equal(probe.image_gradient(target, of="logit"), expected[0])
        expected = captum.attr.InputXGradient(network).attribute(IMAGE.clone().requires_grad_(), target).detach()
        got = gradient_x_input(probe, [target], reduce="sum_signed")
        assert torch.equal(got, attribution_maps(expected, probe.size, "sum_signed"))


def test_guided_grad_cam_is_captums_but_for_its_resizing(networks):
    network = networks["resnet18"]
    got = guided_grad_cam(probe_of(network, cam_layer="layer4"), TARGETS, reduce="sum_signed")
    for target, ours in zip(TARGETS, got, strict=True):
        with_hooks = copy.deepcopy(network)
        witness = captum.attr.GuidedGradCam(with_hooks, with_hooks.layer4)
        expected = witness.attribute(IMAGE.clone().requires_grad_(), target, interpolate_mode="bilinear").detach()
        assert largest_difference(ours, attribution_maps(expected, (64, 64), "sum_signed")[0]) < 1e-5


@pytest.fixture
def torchrays(networks, monkeypatch):
    """A network as TorchRay's excitation backprop wants it: with sums that it can patch."""

    def made(name):
        network = copy.deepcopy(networks[name])
        if name.startswith("resnet"):
            monkeypatch.setattr(torchray_ebp, "ResNet", type(network))
            network = torchray_ebp.update_resnet(network)
        return network

    return made


CASES = [("vgg16", "features.23", "classifier.4"), ("resnet50", "layer3", "avgpool")]


@pytest.mark.parametrize(("name", "layer", "contrast_layer"), CASES)
def test_excitation_backprop_is_torchrays(networks, torchrays, name, layer, contrast_layer):
    probe, witness = probe_of(networks[name]), torchrays(name)
    for target in TARGETS:
        expected = torchray_ebp.excitation_backprop(witness, IMAGE.clone(), target, saliency_layer=layer).detach()[0]
        got = excitation_backprop(probe, [target], layer=layer)
        assert largest_difference(got, attribution_maps(expected[None], probe.size, "sum_positive")) < 1e-5
        expected = torchray_ebp.contrastive_excitation_backprop(
            witness, IMAGE.clone(), target, saliency_layer=layer, contrast_layer=contrast_layer
        ).detach()
        got = contrastive_excitation_backprop(probe, [target], layer=layer)
        assert largest_difference(got, attribution_maps(expected, probe.size, "sum_positive")) < 1e-4


# ---------------------------------------------------------------- what must hold


@pytest.mark.parametrize(("name", "layer"), [("vgg16", "features.23"), ("resnet50", "layer3"), ("resnet18", "layer2")])
def test_excitation_sums_to_one(networks, name, layer):
    graph = RuledGraph(probe_of(networks[name]), Excitation(), [layer])
    assert float(graph.backward(one_hot(graph.scores, 1), to=layer).sum()) == pytest.approx(1, abs=1e-4)


def slow_excitation(module, x):
    """The output of a module of MobileNetV2 and what takes relevance back through it, module by module."""
    if isinstance(module, nn.Conv2d):
        given = x.clone().requires_grad_()
        made = F.conv2d(given, module.weight.clamp(min=0), None, module.stride, module.padding, 1, module.groups)
        total = made.detach()

        def back(relevance):
            share = torch.where(total == 0, 0, relevance / (total + 1e-20))
            return x * torch.autograd.grad(made, given, share, retain_graph=True)[0]

        return module(x).detach(), back
    if isinstance(module, nn.ReLU6):
        return module(x.clone()), lambda relevance: torch.where(x > 0, relevance, 0)
    if isinstance(module, nn.BatchNorm2d):
        return module(x).detach(), lambda relevance: relevance
    if isinstance(module, InvertedResidual):
        made, back = slow_excitation(module.conv, x)
        if not module.use_res_connect:
            return made, back

        def both(relevance):
            share = torch.where(x + made == 0, 0, relevance / (x + made))
            return x * share + back(made * share)

        return x + made, both
    backs = []
    for child in module.children():
        x, back = slow_excitation(child, x)
        backs.insert(0, back)
    return x, lambda relevance: reduce(lambda r, step: step(r), backs, relevance)


def test_excitation_backprop_of_linear_bottlenecks_is_the_slow_one(networks):
    network, weight = networks["mobilenet"], networks["mobilenet"].classifier[1].weight
    x, backs = IMAGE, {}
    for number, module in enumerate(network.features):
        x, backs[number] = slow_excitation(module, x)
    layers = [f"features.{number}" for number in range(6, 18)]
    graph = RuledGraph(probe_of(network), Excitation(), layers)
    parts = x * weight[1].detach().clamp(min=0)[:, None, None]
    relevance, signed = parts / parts.sum(), False
    for number in range(18, 6, -1):
        relevance = backs[number](relevance)
        got = graph.backward(one_hot(graph.scores, 1), to=f"features.{number - 1}")
        assert largest_difference(got, relevance[0]) < 1e-4
        signed = signed or bool((relevance < 0).any())
    assert signed


def test_relevance_ends_where_nothing_excites():
    """Two channels of a depthwise layer at 1: one lives by its weight of 1, the other, of weight -1, by its bias."""
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
    network[0].weight.data, network[0].bias.data = torch.eye(2).view(2, 2, 1, 1), torch.zeros(2)
    network[1].weight.data, network[1].bias.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), torch.tensor([0.0, 2])
    network[4].weight.data = torch.tensor([[1.0, 3.0]])
    graph = RuledGraph(probe_of(network.eval(), torch.ones(1, 2, 1, 1)), Excitation(), ["0", "1"])
    for layer, left in (("1", [0.25, 0.75]), ("0", [0.25, 0])):
        assert graph.backward(one_hot(graph.scores, 0), to=layer).flatten().tolist() == pytest.approx(left)


@pytest.mark.parametrize(("photo", "left"), [("chelsea", 0.60), ("motorcycle", 0.42)])
def test_what_is_left_of_excitation_in_efficientnet(photo, left):
    model, dataset = efficientnet_lite0(), Photos()
    sample = dataset[photo]
    graph = RuledGraph(Probe(model.network, model.preprocess(sample.image)[None]), Excitation(), ["_blocks.10"])
    relevance = graph.backward(one_hot(graph.scores, sample.targets[0]), to="_blocks.10")
    assert float(relevance.sum()) == pytest.approx(left, abs=0.01)


def test_layers_of_excitation_backprop(networks):
    layers = ["features.3", "features.8", "features.15", "features.22", "features.29"]
    assert excitation_layer(probe_of(networks["vgg16"], layers=layers), None) == "features.23"  # pool4, as TorchRay
    layers = ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert excitation_layer(probe_of(networks["resnet50"], layers=layers), None) == "layer3"
    assert excitation_layer(probe_of(networks["resnet50"], cam_layer="layer4"), None) == "layer4"
    with pytest.raises(SuiteError, match="layer"):
        excitation_layer(probe_of(networks["resnet50"]), None)


@pytest.mark.parametrize("contrast", ["others", "softmax"])
def test_contrasts_sum_to_zero(networks, contrast):
    probe = probe_of(networks["vgg16"], cam_layer="features.23")
    signed = excitation_backprop(probe, TARGETS, layer="features.23", contrast=contrast, reduce="sum_signed")
    plain = excitation_backprop(probe, TARGETS, layer="features.23")
    assert (signed.min() < 0) and (signed.max() > 0) and not torch.allclose(signed.clamp(min=0), plain, atol=1e-2)


def test_gradient_x_input_of_a_network_without_biases_sums_to_the_score(networks):
    network = copy.deepcopy(networks["vgg16"])
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.bias.data.zero_()
    probe = probe_of(network)
    total = (probe.image[0] * probe.image_gradient(2, of="logit")).sum()
    assert float(total) == pytest.approx(float(probe.scores()[2]), rel=1e-4)


def test_linear_approximation_is_gradient_times_activation(networks):
    probe = probe_of(networks["resnet18"], cam_layer="layer4")
    product = probe.feature_maps("layer4") * probe.gradients("layer4", 3, of="logit")
    expected = attribution_maps(product[None], probe.size, "sum_positive")
    assert torch.equal(linear_approx(probe, [3]), expected)


def test_rectifiers_with_a_ceiling_are_not_the_plain_gradient(networks):
    probe = probe_of(networks["mobilenet"])  # ReLU6, where libraries that know nn.ReLU only return the gradient
    plain = gradient(probe, TARGETS)
    for explain in (guided_backprop, deconvnet):
        assert not torch.allclose(explain(probe, TARGETS), plain, atol=0.05)
    x = torch.tensor([-1.0, 0.0, 2.0, 6.0, 7.0])
    assert Guided().rectifier(x, 6.0)(torch.ones(5)).tolist() == [0, 0, 1, 0, 0]
    assert Deconvolution().rectifier(x, 6.0)(torch.tensor([1.0, -1.0, 1, 1, 1])).tolist() == [1, 0, 1, 1, 1]


def masked(x):
    x *= x > 0
    return x


class Written(nn.Module):
    """Two convolutions with a rectifier and a sum, each written in one of many ways."""

    def __init__(self, way):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.first, self.second, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Linear(6, 5)
        self.norm, self.again, self.way = nn.BatchNorm2d(6), nn.ReLU(inplace=True), way

    def rectified(self, x):
        if self.way == "method in place, result dropped":
            x.relu_()
            return x
        ways = {
            "reused module": self.again, "function": F.relu, "method": lambda x: x.relu(), "torch": torch.relu,
            "in place": lambda x: F.relu(x, inplace=True), "clamp": lambda x: x.clamp(min=0),
            "hardtanh": lambda x: F.hardtanh(x, 0.0, 1e30), "clip": lambda x: torch.clip(x, 0),
            "maximum": lambda x: torch.maximum(torch.zeros(()).to(x), x), "threshold": lambda x: F.threshold(x, 0, 0),
            "where": lambda x: torch.where(x > 0, x, 0.0), "mask": lambda x: x * (x > 0), "mask in place": masked,
            "leaky without a leak": lambda x: F.leaky_relu(x, 0.0),
            "clamp by a tensor": lambda x: x.clamp(torch.zeros(()).to(x)),
        }  # fmt: skip
        return ways.get(self.way, F.relu)(x)

    def added(self, a, b):
        if self.way == "add in place, result dropped":
            a.add_(b)
            return a
        if self.way == "augmented":
            a += b
            return a
        ways = {"torch.add": torch.add, "method add": lambda a, b: a.add(b), "add out of order": lambda a, b: b + a}
        return ways.get(self.way, lambda a, b: a + b)(a, b)

    def forward(self, x):
        x = self.rectified(self.norm(self.first(x)))
        x = self.rectified(self.added(self.second(x), x))
        if self.way == "pooled":
            return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return self.head(x.mean((2, 3)))


WAYS = [
    "function", "method", "torch", "in place", "clamp", "clip", "hardtanh", "method in place, result dropped",
    "maximum", "threshold", "where", "mask", "mask in place", "leaky without a leak", "clamp by a tensor",
    "augmented", "add in place, result dropped", "torch.add", "method add", "add out of order", "pooled",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rules", [Guided, Deconvolution, Excitation])
def test_the_map_does_not_depend_on_how_a_network_is_written(rules, way):
    maps = []
    for network in (Written("reused module").eval(), Written(way).eval()):
        probe = probe_of(network, image_of(8))
        graph = RuledGraph(probe, rules(), ["first"])
        assert torch.allclose(graph.scores, network(probe.image)[0], rtol=1e-6, atol=0)
        maps.append(graph.backward(one_hot(graph.scores, 2), to="first"))
    torch.testing.assert_close(maps[1], maps[0], atol=1e-6, rtol=1e-5)
    assert maps[0].abs().max() > 0


def test_a_constant_made_like_what_depends_on_the_image_is_none(networks):
    """``zeros.to(x)`` is no x, also where all is computed in float64."""
    maps = []
    for offset in (lambda x: x + torch.ones(()).to(x), lambda x: x + torch.ones(()).type_as(x), lambda x: x + 1.0):
        maps.append(rap(probe_of(Body(Applied(lambda x, add=offset: F.relu(add(x)))).eval(), image_of(8)), [0]))
    assert torch.equal(maps[0], maps[2]) and torch.equal(maps[1], maps[2])
    assert maps[0].max() > 0


@pytest.mark.parametrize("rules", [Guided, Excitation])
def test_scores_and_network_stay_the_same_bits(networks, rules):
    for network in networks.values():
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        graph = RuledGraph(probe_of(network), rules())
        assert torch.equal(graph.scores, network(IMAGE)[0])
        graph.backward(one_hot(graph.scores, 0))
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
        assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def test_nothing_outlives_an_exception():
    class Breaking(Written):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        RuledGraph(probe_of(Breaking("function").eval(), image_of(8)), Excitation(), ["first"])
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    (-F.relu(x)).sum().backward()
    assert x.grad.tolist() == [0, -1]  # neither guided nor excitation backprop


def test_threads_do_not_see_each_others_rules():
    """One thread is in the middle of a guided pass while another takes a plain gradient of the same rectifier."""
    inside, done, seen = threading.Event(), threading.Event(), []

    class Waiting(Written):
        def forward(self, x):
            inside.set()
            assert done.wait(20)
            return super().forward(x)

    probe = probe_of(Waiting("function").eval(), image_of(8))
    thread = threading.Thread(target=lambda: seen.append(RuledGraph(probe, Guided())))
    thread.start()
    assert inside.wait(20)
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    (-F.relu(x)).sum().backward()
    done.set()
    thread.join()
    assert x.grad.tolist() == [0, -1] and len(seen) == 1


def test_costs_are_one_forward_and_a_backward_per_pass(networks):
    for explain, backward in ((guided_backprop, 2), (partial(excitation_backprop, layer="layer3"), 2),
                              (partial(contrastive_excitation_backprop, layer="layer3"), 4)):  # fmt: skip
        probe = probe_of(networks["resnet50"])
        with probe.bill() as bill:
            explain(probe, TARGETS)
        assert (bill.forward, bill.backward) == (2, backward)  # one forward for the scores, one for the graph


# ---------------------------------------------------------------- refused, by name


class Body(nn.Module):
    def __init__(self, strange):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.conv, self.strange, self.head = nn.Conv2d(3, 6, 3), strange, nn.Linear(6, 5)
        self.head.weight.data.abs_()  # no class whose exciting channels are all dead

    def forward(self, x):
        return self.head(F.relu(self.strange(self.conv(x))).mean((2, 3)))


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def without_gradients(x):
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize(
    ("strange", "named"),
    [
        (nn.SiLU(), r"silu of module 'strange' \(SiLU\)"), (nn.GELU(), "gelu"), (nn.Sigmoid(), "sigmoid"),
        (nn.LeakyReLU(), "leaky_relu"), (nn.GroupNorm(2, 6), "group_norm"), (nn.Softmax(1), "softmax"),
        (nn.Upsample(scale_factor=2), "interpolate"), (nn.ConvTranspose2d(6, 6, 2), "conv_transpose2d"),
        (Applied(lambda x: x * x.mean((2, 3), keepdim=True)), "mul of module 'strange'"),
        (Applied(lambda x: x - F.relu(x)), "sub of module 'strange'"), (Applied(lambda x: 1 - x), "rsub"),
        (Applied(lambda x: x.clamp(-1, 1)), "clamp"), (Applied(without_gradients), "runs where gradients are off"),
        (Applied(lambda x: x.detach()), "detach of module 'strange'"),
        (Applied(lambda x: F.dropout(x, 0.5, training=True)), "dropout"),
        (Applied(lambda x: torch.fft.irfft2(torch.fft.rfft2(x))), "fft_rfft2 of module 'strange'"),
        (nn.InstanceNorm2d(6), "instance_norm"), (nn.BatchNorm2d(6, track_running_stats=False), "by the batch"),
    ],
)  # fmt: skip
def test_an_operation_without_a_rule_is_refused_by_name(strange, named):
    with pytest.raises(SuiteError, match=named):
        RuledGraph(probe_of(Body(strange).eval(), image_of(8)), Excitation(), ["conv"])


@pytest.mark.parametrize("strange", [nn.SiLU(), nn.Sigmoid(), nn.GroupNorm(2, 6),
                                     Applied(lambda x: torch.fft.irfft2(torch.fft.rfft2(x)))])  # fmt: skip
def test_gradient_rules_leave_other_operations_their_gradient(strange):
    probe = probe_of(Body(strange).eval(), image_of(8))
    assert torch.isfinite(guided_gradients(probe, [0])).all()


@pytest.mark.parametrize(
    "passing",
    [nn.Dropout(), nn.Identity(), nn.ZeroPad2d(1), Applied(lambda x: (x * 2 - 1) / 3), Applied(lambda x: x.clone()),
     Applied(lambda x: torch.cat([x[:, 3:], x[:, :3]], dim=1)), Applied(lambda x: x.permute(0, 1, 3, 2))],
)  # fmt: skip
def test_what_only_moves_shifts_or_scales_passes_all_relevance(passing):
    graph = RuledGraph(probe_of(Body(passing).eval(), image_of(8)), Excitation(), ["strange"])
    excitation = graph.backward(one_hot(graph.scores, 1), to="strange")
    assert float(excitation.sum()) == pytest.approx(1, abs=1e-5)


def test_a_network_without_rectifiers_has_no_guided_map():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    for explain in (guided_backprop, deconvnet):
        with pytest.raises(SuiteError, match="no rectifier"):
            explain(probe_of(network.eval(), image_of(8)), [0])


def test_compiled_code_that_cannot_be_followed_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    scripted = torch.jit.trace(network.eval(), image_of(8))
    with pytest.raises(SuiteError, match="compiled"):
        RuledGraph(probe_of(scripted.eval(), image_of(8)), Excitation())
    with pytest.raises(SuiteError, match="no rectifier"):
        guided_backprop(probe_of(scripted, image_of(8)), [0])


def test_an_input_overwritten_after_it_was_read_is_refused():
    class Overwriting(Written):
        def forward(self, x):
            x = F.relu(self.first(x))
            y = self.second(x)
            x.add_(1.0)
            return self.head(F.relu(y).mean((2, 3)))

    graph = RuledGraph(probe_of(Overwriting("function").eval(), image_of(8)), Excitation(), ["first"])
    with pytest.raises(SuiteError, match="overwritten in place"):
        graph.backward(one_hot(graph.scores, 0), to="first")


def test_rules_say_what_they_lack():
    with pytest.raises(NotImplementedError):
        RuledGraph(probe_of(Written("function").eval(), image_of(8)), Rules())

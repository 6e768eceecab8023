"""The probe: every quantity against tests/witnesses/reference.py, each paid for once, and a network left alone."""

import contextlib

import numpy as np
import pytest
import reference
import torch
from reference import Plain, Residual, picture, seeded
from small_networks import Overwriting
from torch import nn

from sise.choices import CONFIDENCES, GRADIENT_SCORES, MASK_RULES
from sise.errors import SuiteError
from sise.method import ada_sise, sise
from sise.probe.probe import Probe
from sise.scoring import Scorer

pytestmark = pytest.mark.numeric

CASES = [(Plain, (40, 56)), (Residual, (40, 56)), (Residual, (37, 45))]
# layers with an in-place operation right behind them
FRAGILE = {Plain: ("block1.0", "block2.0"), Residual: ("bn", "layer1.bn1", "layer2.bn2")}


def probe_of(build, size=(40, 56), **options):
    options.setdefault("layers", build.LAYERS)
    return Probe(seeded(build()), picture(size), **options)


def relative(a, b):
    """Largest difference, in units of the larger array's peak."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert a.shape == b.shape
    return np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)


# ------------------------------------------------------------------------------------------------ the image itself


@pytest.mark.parametrize(("build", "size"), CASES)
def test_scores_and_feature_maps(build, size):
    layers = build.LAYERS + FRAGILE[build]
    probe = probe_of(build, size, layers=layers)
    scores, maps = reference.run(probe.network, probe.image, list(layers))
    assert relative(probe.scores(), scores.detach()) < 1e-6
    for layer in layers:
        assert relative(probe.feature_maps(layer), maps[layer][0].detach()) < 1e-6, layer
        assert not probe.feature_maps(layer).requires_grad
    assert not probe.scores().requires_grad
    assert (probe.forward_passes, probe.backward_passes) == (1, 0)


@pytest.mark.parametrize(("build", "size"), CASES)
@pytest.mark.parametrize("kind", GRADIENT_SCORES)
def test_gradients(build, size, kind):
    layers = build.LAYERS + FRAGILE[build]
    probe = probe_of(build, size, layers=layers, gradient=kind)
    target = int(probe.scores().argsort()[-2])
    for layer in layers:
        slowly = reference.gradient_maps(probe.network, probe.image, layer, target, kind)
        assert relative(probe.gradients(layer, target), slowly) < 2e-5, layer
        assert relative(probe.gradient_scores(layer, target), slowly.sum(axis=(1, 2))) < 2e-5, layer
    image = probe.image.double().requires_grad_(True)
    scores = reference.in_double_precision(probe.network)(image)[0]
    reference.differentiated(scores, target, kind).backward()
    assert (probe.forward_passes, probe.backward_passes) == (1, 1)  # one for all layers
    assert relative(probe.image_gradient(target), image.grad[0]) < 2e-5


def test_each_gradient_kind_can_be_asked_for_by_name():
    probe = probe_of(Residual)
    for kind in GRADIENT_SCORES:
        alpha = reference.gradient_scores(probe.network, probe.image, "layer1", 2, kind)
        assert relative(probe.gradient_scores("layer1", 2, of=kind), alpha) < 2e-5
    assert probe.backward_passes == 3


def test_log_odds_and_softmax_give_the_same_normalised_scores():
    probe = probe_of(Plain)
    for layer in Plain.LAYERS:
        odds, soft = (probe.gradient_scores(layer, 1, of=kind).double() for kind in ("log_odds", "softmax_f32"))
        torch.testing.assert_close(odds / odds.max(), soft / soft.max(), rtol=0, atol=1e-4)
        p = probe.confidence(1)
        torch.testing.assert_close(soft, odds * p * (1 - p), rtol=1e-3, atol=1e-7)


def confident(build=Plain):
    """A network so sure of its best class that its float32 softmax is 1."""
    network = seeded(build())
    image = picture()
    with torch.no_grad():
        best = int(network(image).argmax())
        network.head.bias[best] += 25
    return network, image, best


def test_a_probability_that_rounds_to_one_does_not_spoil_the_selection():
    network, image, best = confident()
    probe = Probe(network, image, layers=Plain.LAYERS)
    assert float(probe.scores().softmax(0)[best]) == 1.0 and probe.confidence(best) < 1.0
    for layer in Plain.LAYERS:
        alpha = reference.gradient_scores(network, image, layer, best, "log_odds")
        exact = reference.gradient_scores(network, image, layer, best, "softmax_f32")  # in float64
        assert np.array_equal(alpha > 0, exact > 0)
        assert relative(probe.gradient_scores(layer, best), alpha) < 2e-5
        literal = probe.gradient_scores(layer, best, of="softmax_f32").numpy()
        assert not np.array_equal(literal > 0, alpha > 0)


@pytest.mark.parametrize("kind", CONFIDENCES)
def test_confidences(kind):
    probe = probe_of(Residual, confidence=kind)
    for target in range(6):
        slowly = reference.confidence(probe.network, probe.image, target, kind)
        assert probe.confidence(target) == pytest.approx(slowly, rel=1e-5)
    assert probe.to_confidence(probe.scores()).dtype == torch.float64
    batch = probe.to_confidence(torch.stack([probe.scores()] * 3))
    torch.testing.assert_close(batch[1], probe.to_confidence(probe.scores()), rtol=1e-12, atol=0)


def test_a_layer_added_later():
    probe = probe_of(Plain)
    probe.gradients("block1.3", 0)
    probe.watch(Plain.LAYERS)
    assert probe.forward_passes == 1  # none is new
    slowly = reference.gradient_maps(probe.network, probe.image, "block1.0", 0, "log_odds")
    assert relative(probe.gradients("block1.0", 0), slowly) < 2e-5
    assert (
        relative(
            probe.gradients("block1.3", 0),
            reference.gradient_maps(probe.network, probe.image, "block1.3", 0, "log_odds"),
        )
        < 2e-5
    )


def test_gradients_inside_no_grad():
    probe = probe_of(Plain)
    with torch.no_grad():
        assert bool(probe.gradients("block3.1", 0).any())
        assert not torch.is_grad_enabled()


# ------------------------------------------------------------------------------------------------ under masks


@pytest.mark.parametrize(("build", "size"), CASES)
@pytest.mark.parametrize("rule", MASK_RULES)
@pytest.mark.parametrize("fill", [None, "colour", "picture"])
def test_masked_scores(build, size, rule, fill):
    fill = {"colour": torch.tensor([1.0, -2.0, 0.5])[None, :, None, None], "picture": picture(size, 7)}.get(fill)
    probe = probe_of(build, size, fill=fill)
    for layer in build.LAYERS:
        maps = reference.run(probe.network, probe.image, [layer])[1][layer][0].detach().numpy()
        live = [k for k in range(len(maps)) if maps[k].min() < maps[k].max()]
        channels = torch.tensor([live[-1], live[0], live[3]])
        found = probe.to_confidence(probe.masked_scores(layer, channels, rule))
        for row, k in zip(found, channels.tolist(), strict=True):
            mask = reference.attribution_mask(maps[k], size, rule)
            for target in (0, 3):
                slowly = reference.confidence(
                    probe.network, reference.masked(probe.image, mask, fill), target, "softmax"
                )
                assert float(row[target]) == pytest.approx(slowly, rel=2e-5, abs=1e-8)


@pytest.mark.parametrize("kind", CONFIDENCES)
def test_masked_confidences(kind):
    probe = probe_of(Residual, confidence=kind)
    channels = torch.tensor([4, 1])
    expected = probe.to_confidence(probe.masked_scores("layer2", channels))[:, [5, 2]]
    torch.testing.assert_close(probe.masked_confidences("layer2", channels, [5, 2]), expected, rtol=1e-6, atol=1e-12)


def test_constant_map_has_equal_extrema():
    network = seeded(Plain())
    with torch.no_grad():
        network.block2[0].bias[3] = -100.0  # dead
    probe = Probe(network, picture(), layers=Plain.LAYERS)
    for rule in MASK_RULES:
        lo, hi = probe.extrema("block2.1", rule)
        assert (hi > lo).sum() == (hi != lo).sum()
        assert lo[3] == hi[3] == 0


def test_each_mask_is_forwarded_once():
    probe = probe_of(Residual)
    first = probe.masked_scores("layer1", torch.tensor([2, 5, 7]))
    assert probe.forward_passes == 1 + 3
    again = probe.masked_scores("layer1", torch.tensor([7, 0, 2, 7]))
    assert probe.forward_passes == 1 + 4
    assert torch.equal(again[0], first[2]) and torch.equal(again[2], first[0]) and torch.equal(again[3], again[0])
    probe.masked_scores("layer1", torch.tensor([2]), "nearest")
    assert probe.forward_passes == 1 + 5
    probe.score_feature_maps({"layer1": torch.arange(12), "layer2": torch.arange(3)})
    assert probe.forward_passes == 1 + 5 + 8 + 3
    assert probe.masked_scores("layer1", torch.tensor([], dtype=torch.long)).shape == (0, 6)


def test_any_masks_and_any_inputs():
    fill = torch.tensor([1.0, -2.0, 0.5])[None, :, None, None]
    probe = probe_of(Residual, fill=fill)
    network = reference.in_double_precision(probe.network)
    soft = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(3))
    hard = soft > 0.6
    for masks in (soft, hard):
        found = probe.score_masks(masks)
        for row, m in zip(found, masks, strict=True):
            expected = network(reference.masked(probe.image, m.numpy(), fill))[0].detach()
            assert relative(row, expected) < 1e-5
    assert probe.forward_passes == 6
    assert torch.equal(probe.score_masks(hard[[2, 0]]), probe.score_masks(hard)[[2, 0]])
    assert probe.forward_passes == 6  # boolean masks are remembered
    probe.score_masks(soft)
    assert probe.forward_passes == 9  # others are not
    assert len(probe.score_masks(torch.cat([hard, ~hard, hard]))) == 9
    assert probe.forward_passes == 12
    inputs = torch.cat([picture(seed=s) for s in range(4)])
    assert relative(probe.score_inputs(inputs), network(inputs.double()).detach()) < 1e-5
    assert probe.forward_passes == 16


# ------------------------------------------------------------------------------------------------ bills


def measured(explain, build=Residual, size=(40, 56)):
    """(forward, backward) of an explainer on a probe of its own."""
    probe = probe_of(build, size)
    explain(probe)
    return probe.forward_passes, probe.backward_passes


EXPLAINERS = {
    "sise": lambda probe: sise(probe, [1, 4]),
    "sise mu": lambda probe: sise(probe, [1], mu=0.5),
    "ada": lambda probe: ada_sise(probe, [4, 1]),
    "ada signed": lambda probe: ada_sise(probe, [3], rule="otsu_signed"),
    "nearest": lambda probe: sise(probe, [1], mask="nearest"),
    "logit": lambda probe: probe.gradients("layer1", 2, of="logit"),
    "gradient scores": lambda probe: probe.gradient_scores("layer2", 1),
    "last layer": lambda probe: probe.masked_scores("layer2", torch.arange(16)),
    "image only": lambda probe: probe.confidence(0),
    "any masks": lambda probe: probe.score_masks(torch.full((3, 40, 56), 0.5)),
    "binary masks": lambda probe: probe.score_masks(torch.eye(56)[:40].bool()[None]),
    "bank": lambda probe: probe.bank_confidences("stripes", 0, torch.eye(56)[None, :40].repeat(3, 1, 1), [1]),
    "by itself": lambda probe: probe.count(forward=7, backward=2),
}


@pytest.mark.parametrize("order", [list(EXPLAINERS), list(EXPLAINERS)[::-1], [*EXPLAINERS, *EXPLAINERS]])
def test_bills_on_a_shared_probe_are_those_of_probes_of_their_own(order):
    shared = probe_of(Residual)
    for name in order:
        with shared.bill() as bill:
            EXPLAINERS[name](shared)
        assert (bill.forward, bill.backward) == measured(EXPLAINERS[name]), name
        assert bill.seconds > 0


def test_a_bill_after_an_error_is_closed():
    probe = probe_of(Residual)
    with pytest.raises(SuiteError), probe.bill():
        probe.confidence(99)
    with probe.bill() as bill:
        probe.confidence(0)
    assert (bill.forward, bill.backward) == (1, 0)


# ------------------------------------------------------------------------------------------------ kept and restored


def test_what_is_restored_costs_nothing_and_is_the_same():
    probe = probe_of(Residual)
    targets = [4, 1]
    masks = torch.rand(2, 40, 56) > 0.5
    before = sise(probe, targets), ada_sise(probe, targets), probe.score_masks(masks)
    with probe.bill() as bill:
        sise(probe, targets)
    again = probe_of(Residual)
    again.restore(probe.state(targets))
    with again.bill() as restored:
        maps = sise(again, targets)
    assert torch.equal(maps, before[0]) and torch.equal(ada_sise(again, targets), before[1])
    assert torch.equal(again.score_masks(masks), before[2])
    assert (again.forward_passes, again.backward_passes) == (1, 0)  # the feature maps
    assert (restored.forward, restored.backward) == (bill.forward, bill.backward)
    # a target that was not kept is computed, of fewer masks at a time: kernels of another batch size round otherwise
    np.testing.assert_allclose(sise(again, [2]), sise(probe_of(Residual), [2]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(sise(again, [1, 2])[0], before[0][1], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------ left alone


def fingerprint(network):
    return {
        "weights": [value.clone() for value in network.state_dict().values()],
        "modes": [m.training for m in network.modules()],
        "requires_grad": [p.requires_grad for p in network.parameters()],
        "grads": [p.grad is None for p in network.parameters()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules()
        ],
        "flags": (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        ),
        "seed": torch.get_rng_state(),
    }


@contextlib.contextmanager
def left_alone(network):
    before = fingerprint(network)
    yield
    after = fingerprint(network)
    assert all(torch.equal(a, b) for a, b in zip(before.pop("weights"), after.pop("weights"), strict=True))
    assert torch.equal(before.pop("seed"), after.pop("seed"))
    assert before == after


@pytest.fixture(params=[False, True])
def tf32(request):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = request.param
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("build", [Plain, Residual])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_network_is_left_alone(build, frozen, tf32):
    network, image = seeded(build()), picture()
    network.requires_grad_(not frozen)
    given = image.clone()
    with left_alone(network):
        probe = Probe(network, image, layers=build.LAYERS)
        sise(probe, [0, 1])
        ada_sise(probe, [2])
        probe.image_gradient(0)
    assert torch.equal(image, given)
    assert not image.requires_grad


class Failing(nn.Module):
    """Fails on the n-th forward pass, or in the backward pass (n = 0)."""

    def __init__(self, network, n):
        super().__init__()
        self.network, self.n, self.calls = network, n, []

    def forward(self, x):
        self.calls.append(len(x))
        if len(self.calls) == self.n:
            raise ZeroDivisionError("inside the network")
        scores = self.network(x)
        if self.n == 0 and scores.requires_grad:
            scores.register_hook(lambda gradient: 1 / 0)
        return scores


@pytest.mark.parametrize("n", [0, 1, 3])  # the second pass examines the network, and an error in it is no end
def test_the_network_is_left_alone_after_an_error_inside_it(n, tf32):
    inner = seeded(Residual())
    network = Failing(inner, n).eval()
    layers = [f"network.{layer}" for layer in Residual.LAYERS]
    with left_alone(network):
        probe = Probe(network, picture(), layers=layers, scorer=Scorer(network, lossless=False))
        with pytest.raises(ZeroDivisionError):
            sise(probe, [0])


def test_networks_that_write_into_their_input():
    network, image = seeded(Residual()), picture()
    given = image.clone()
    layers = [f"network.{layer}" for layer in Residual.LAYERS]
    probe = Probe(Overwriting(network).eval(), image, layers=layers)
    assert relative(probe.scores(), network(image * 0.5)[0].detach()) < 1e-5
    halved = Probe(network, image * 0.5, layers=Residual.LAYERS)
    assert relative(probe.image_gradient(1), halved.image_gradient(1) * 0.5) < 1e-5
    torch.testing.assert_close(sise(probe, [1]), sise(halved, [1]), rtol=0, atol=1e-4)
    assert torch.equal(image, given)


# ------------------------------------------------------------------------------------------------ mistakes


def test_mistakes_when_making_a_probe():
    network, image = seeded(Plain()), picture()
    with pytest.raises(SuiteError, match=r"network\.eval\(\)"):
        Probe(seeded(Plain()).train(), image)
    for wrong in (image[0], torch.cat([image, image])):
        with pytest.raises(SuiteError, match=r"\(1, C, H, W\)"):
            Probe(network, wrong)
    with pytest.raises(SuiteError, match=r"Did you mean 'block2\.1'"):
        Probe(network, image, layers=["block2_1"])
    with pytest.raises(SuiteError, match=r"Did you mean 'block3\.1'"):
        Probe(network, image, layers=Plain.LAYERS, cam_layer="block31")
    with pytest.raises(SuiteError, match="Did you mean 'softmax'"):
        Probe(network, image, confidence="sofmax")
    with pytest.raises(SuiteError, match="Did you mean 'log_odds'"):
        Probe(network, image, gradient="logodds")


def test_a_module_in_training_mode_is_named():
    network = seeded(Residual())
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).train()
    with pytest.raises(SuiteError, match=r"the network's module '\w[\w.]*' is in training mode"):
        Probe(network, picture())


def test_a_layer_may_be_called_input():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.head = nn.Conv2d(3, 3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.input(x).relu().mean(dim=(2, 3)))

    probe = Probe(Odd().eval(), picture(), layers=["input"])
    assert probe.gradients("input", 0).shape[1:] == tuple(n - 2 for n in probe.size)
    assert probe.image_gradient(0).shape[1:] == probe.size


def test_masks_of_two_resolutions_are_two_masks():
    probe = probe_of(Residual)
    whole, left = torch.ones(1, 1, 1, dtype=torch.bool), torch.tensor([[[True] + [False] * 7]])
    assert not torch.allclose(probe.score_masks(whole), probe.score_masks(left))


def test_mistakes_when_asking():
    probe = probe_of(Plain)
    for target in (5, -1, 100):
        with pytest.raises(SuiteError, match="classes 0 to 4"):
            probe.confidence(target)
        with pytest.raises(SuiteError, match="classes 0 to 4"):
            probe.gradients("block3.1", target)
    with pytest.raises(SuiteError, match=r"Did you mean 'block3\.1'"):
        probe.feature_maps("blocks3.1")
    with pytest.raises(SuiteError, match="nearest"):
        probe.extrema("block3.1", "neares")
    with pytest.raises(SuiteError, match="softmax_f32"):
        probe.gradients("block3.1", 0, of="softmax")


def test_targets_out_of_range_in_the_explainers():
    with pytest.raises(SuiteError, match="classes 0 to 4"):
        sise(probe_of(Plain), [5])


@pytest.mark.parametrize("output", [lambda s: (s, s), lambda s: s[0], lambda s: {"scores": s}])
def test_networks_that_do_not_return_scores(output):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = seeded(Plain())

        def forward(self, x):
            return output(self.network(x))

    network = Wrapped().eval()
    with left_alone(network), pytest.raises(SuiteError, match=r"\(N, K\)"):
        Probe(network, picture()).scores()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_scores_that_are_not_finite(wrong):
    network, image = seeded(Plain()), picture()
    image[0, 0, 0, 0] = wrong
    with pytest.raises(SuiteError, match="NaN"):
        Probe(network, image).scores()
    probe = Probe(network, picture())
    with pytest.raises(SuiteError, match="1 of 2"):
        probe.score_inputs(torch.cat([picture(), image]))


def test_a_layer_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.relu(self.conv(x)) - 0.1).mean(dim=(2, 3))

    network = Twice().eval()
    with left_alone(network), pytest.raises(SuiteError, match="runs more than once"):
        Probe(network, picture(), layers=["relu"]).scores()


def test_a_layer_that_does_not_run():
    network = seeded(Plain())
    network.spare = nn.Conv2d(3, 3, 1).eval()
    with left_alone(network), pytest.raises(SuiteError, match="'spare' did not run"):
        Probe(network, picture(), layers=["spare"]).feature_maps("spare")
    probe = Probe(network, picture(), layers=Plain.LAYERS)
    with pytest.raises(SuiteError, match="'spare' did not run"):
        probe.gradients("spare", 0)
    assert probe.scores().shape == (5,)  # and nothing is spoilt


def test_a_layer_without_feature_maps():
    with pytest.raises(SuiteError, match=r"\(N, C, H, W\)"):
        Probe(seeded(Plain()), picture(), layers=["head"]).scores()


@pytest.mark.parametrize("kind", [torch.uint8, torch.float64, torch.float16])
def test_an_image_of_another_type_than_the_network_takes_is_refused(kind):
    with pytest.raises(SuiteError, match=f"the image is {kind}, the network takes torch.float32"):
        Probe(nn.Conv2d(3, 4, 3).eval(), torch.ones(1, 3, 8, 8).to(kind))


@pytest.mark.parametrize("target", [1.5, "2", None, -1, 9])
def test_what_is_no_class_index_is_refused(target):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    probe = Probe(network, torch.ones(1, 3, 8, 8), layers=["1"])
    with pytest.raises(SuiteError, match=f"target {target} is no class of this network"):
        probe.gradients("1", target)
    assert torch.equal(probe.gradients("1", True), probe.gradients("1", 1))

"""SISE and Ada-SISE, every switch against tests/witnesses/reference.py, and what they cost."""

import functools

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Plain, Residual, picture, seeded
from torch import nn

import sise as package
from sise.choices import ADAPTIVE_RULES, CONFIDENCES, ESTIMATORS, GATES, GRADIENT_SCORES, MASK_RULES
from sise.errors import SuiteError
from sise.method import ada_sise, select, sise, visualize
from sise.otsu import adaptive_threshold, otsu
from sise.probe.probe import Probe
from sise.scoring import Scorer

pytestmark = pytest.mark.numeric

CASES = [(Plain, (40, 56)), (Residual, (40, 56)), (Residual, (37, 45))]
FILLS = {
    "zero": None,
    "colour": torch.tensor([1.0, -2.0, 0.5])[None, :, None, None],
    "picture": picture(seed=7),
}


def probe_of(build, size=(40, 56), **options):
    return Probe(seeded(build()), picture(size), layers=build.LAYERS, **options)


def assert_maps_agree(quick, slow):
    """Layer maps: within 1e-5 of their peak, 1."""
    assert quick is not None
    np.testing.assert_allclose(np.asarray(quick, dtype=np.float64), slow, rtol=0, atol=1e-5)


def assert_saliency_agrees(quick, slow):
    """Fused maps: at most 0.5 % of the pixels off by more than 1e-3, for Otsu's threshold jumps from bin to bin."""
    quick = np.asarray(quick, dtype=np.float64)
    assert quick.shape == slow.shape
    peak = max(np.abs(slow).max(), 1e-30)
    assert (np.abs(quick - slow) > 1e-3 * peak).mean() <= 0.005


# ------------------------------------------------------------------------------------------------ selection


def chosen(scores, mu, inclusive=False):
    return select(torch.tensor(scores), lambda v: mu, inclusive).nonzero()[:, 0].tolist()


def test_selection_by_hand():
    scores = [4.0, -1.0, 2.0, 0.0, 1.0]  # over 4: 1, -.25, .5, 0, .25
    assert chosen(scores, 0.0) == [0, 2, 4]
    assert chosen(scores, 0.25) == [0, 2]
    assert chosen(scores, 0.5) == [0]
    assert chosen(scores, 0.5, inclusive=True) == [0, 2]
    assert chosen(scores, 1.0) == []
    assert chosen(scores, 1.0, inclusive=True) == [0]
    assert chosen(scores, 0.0, inclusive=True) == [0, 2, 4]  # a score of zero is not positive
    assert chosen([-1.0, -2.0], 0.0) == chosen([0.0, 0.0, -1.0], 0.0) == []
    assert chosen([-1.0, -2.0], 0.0, inclusive=True) == chosen([0.0, 0.0, -1.0], 0.0, inclusive=True) == []


# normalised scores, sorted: -.5 -.4 .1 .2 .3 .9 1
HAND = np.array([0.2, -0.4, 1.0, 0.1, 0.9, -0.5, 0.3])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # .1 .2 .3 .9 1: i (n - i) (difference of means)^2 after the i-th = 1, 2.04, 3.375, 1.56
        ("otsu_positive", 0.3),
        # all seven: 3.8, 9.03, 9.01, 9.36, 10.2, 5.1
        ("otsu_signed", 0.3),
        # i = 4 of 5, the last but one: low 1.875, high (.9 + 1) 5 = 9.5, ((5 - 8) / 5)^2
        ("eq5_literal_asc_excl", 0.9),
        ("eq5_literal_asc_incl", 1.0),  # i = n: a division by zero wins
        ("eq5_literal_desc_excl", 1.0),
        ("eq5_literal_desc_incl", 0.1),
    ],
)
def test_adaptive_thresholds_by_hand(rule, expected):
    assert adaptive_threshold(HAND, rule) == pytest.approx(expected)


def test_what_the_literal_equations_select():
    """PROTOCOL section 4: 1, 0, 0 and n - 1 maps."""
    v = torch.linspace(-1, 1, 41)[torch.randperm(41, generator=torch.Generator().manual_seed(0))]
    kept = {
        rule: int(select(v, lambda n, rule=rule: adaptive_threshold(n, rule)).sum())
        for rule in ADAPTIVE_RULES
        if "literal" in rule
    }
    assert kept == {
        "eq5_literal_asc_excl": 1,
        "eq5_literal_asc_incl": 0,
        "eq5_literal_desc_excl": 0,
        "eq5_literal_desc_incl": 19,
    }


def test_signed_and_positive_otsu_differ_where_scores_are_symmetric():
    v = np.array([-1.0, -0.9, -0.8, 0.2, 0.3, 0.9, 1.0])
    # positives .2 .3 | .9 1; all: -1 -.9 -.8 | .2 .3 .9 1, whose low class ends below zero, so all positives stay
    assert adaptive_threshold(v, "otsu_positive") == 0.3
    assert otsu(v) == -0.8
    assert adaptive_threshold(v, "otsu_signed") == 0.0


def test_the_authors_histogram_by_hand():
    # no value near zero: the first split has an empty class, so the threshold is 1/256 and all stay
    assert adaptive_threshold(np.array([0.3, 0.5, 0.7, 1.0]), "author_hist") == 1 / 256
    # a value in the first bin: Otsu's split, after bin 26; ten of them reach 1.5 times that
    v = np.array([0.001, 0.1, 0.1, 1.0, 0.9, 0.95])
    assert adaptive_threshold(v, "author_hist") == 27 / 256
    # 1 of 11 reaches it: raised by half
    v = np.array([0.001] + [0.1] * 9 + [1.0])
    assert adaptive_threshold(v, "author_hist") == 1.5 * 27 / 256


@pytest.mark.parametrize("rule", ADAPTIVE_RULES)
def test_few_or_equal_positive_scores_all_stay(rule):
    for v in ([1.0], [1.0, 0.4], [1.0, 0.4, -0.2, 0.0, -1.0], [1.0, 1.0, 1.0, -0.5]):
        assert adaptive_threshold(np.array(v), rule) == 0.0
        for inclusive in (False, True):
            kept = select(torch.tensor(v), lambda n: adaptive_threshold(n, rule), inclusive)
            assert kept.tolist() == [x > 0 for x in v]


def test_otsu_estimators_by_hand():
    values = np.array([0.0, 0.1, 0.2, 0.8, 1.0])
    assert otsu(values, "exact") == 0.2
    assert otsu(values, "uint8") == 51 / 255
    # the first of the equally good bins between .2 and .8 (the one that holds .2), its middle
    assert otsu(values, "skimage") == pytest.approx((51 + 0.5) / 256)
    # 8-bit levels lose their fraction: .2039 is level 51 too, so it exceeds its own class's threshold
    assert otsu(np.array([0.0, 0.1, 0.2039, 0.8, 1.0]), "uint8") == 51 / 255


SCORES = st.lists(st.integers(-1000, 1000), min_size=1, max_size=40).filter(lambda v: max(v) > 0)


@given(SCORES, st.sampled_from(ADAPTIVE_RULES), st.sampled_from(ESTIMATORS), st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_thresholds_equal_reference_and_never_select_negative_scores(values, rule, estimator, inclusive):
    # bent a little, so that no two splits are exactly as good, which rounding would decide
    alpha = np.array(values, dtype=np.float64) + 0.3 * np.sin(1.7 * np.array(values)) ** 2
    v = alpha / alpha.max()
    cut = adaptive_threshold(v, rule, estimator)
    assert 0 <= cut <= 1
    assert cut == pytest.approx(reference.adaptive_mu(alpha, rule, estimator), abs=1e-9)
    kept = select(torch.from_numpy(alpha), lambda n: adaptive_threshold(n, rule, estimator), inclusive)
    assert bool((torch.from_numpy(alpha)[kept] > 0).all())
    assert kept.nonzero()[:, 0].tolist() == reference.select(alpha, cut, inclusive)


@given(SCORES, st.sampled_from(ADAPTIVE_RULES), st.sampled_from([0.25, 2.0, 1024.0]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_selection_does_not_depend_on_the_scale_of_the_scores(values, rule, factor):
    alpha = torch.tensor(values, dtype=torch.float64)
    rule = functools.partial(adaptive_threshold, rule=rule)
    assert torch.equal(select(alpha, rule), select(alpha * factor, rule))


# ------------------------------------------------------------------------------------------------ layer maps


@pytest.mark.parametrize(("build", "size"), CASES)
@pytest.mark.parametrize("mask", MASK_RULES)
@pytest.mark.parametrize("contribution", ["mask_size", "none"])
@pytest.mark.parametrize("fill", FILLS)
def test_layer_maps(build, size, mask, contribution, fill):
    fill = picture(size, 7) if fill == "picture" else FILLS[fill]
    probe = probe_of(build, size, fill=fill)
    for layer in build.LAYERS:
        selected = {
            t: reference.select(reference.gradient_scores(probe.network, probe.image, layer, t, "log_odds"), 0)
            for t in (0, 2)
        }
        chosen = torch.zeros(2, len(probe.feature_maps(layer)), dtype=torch.bool)
        for row, t in zip(chosen, selected, strict=True):
            row[selected[t]] = True
        quick = visualize(probe, layer, [0, 2], chosen, mask, contribution)
        for m, t in zip(quick, selected, strict=True):
            slow = reference.visualization_map(
                probe.network,
                probe.image,
                layer,
                t,
                selected[t],
                rule=mask,
                contribution=contribution,
                fill=fill,
            )
            assert_maps_agree(m, slow)


def test_layer_map_of_a_single_feature_map_is_its_mask():
    probe = probe_of(Plain)
    chosen = torch.zeros(1, 12, dtype=torch.bool)
    chosen[0, 5] = True
    mask = reference.attribution_mask(probe.feature_maps("block2.1")[5].double().numpy(), (40, 56))
    assert_maps_agree(visualize(probe, "block2.1", [1], chosen)[0], mask / mask.max())


def test_layer_map_of_nothing():
    probe = probe_of(Plain)
    chosen = torch.zeros(2, 12, dtype=torch.bool)
    assert visualize(probe, "block2.1", [1, 2], chosen) == [None, None]
    chosen[1, 3] = True
    first, second = visualize(probe, "block2.1", [1, 2], chosen)
    assert first is None and second is not None


# ------------------------------------------------------------------------------------------------ the whole


def assert_sise_agrees(build, size, target, *, probe=(), **switches):
    made = probe_of(build, size, **dict(probe))
    quick = sise(made, [target], **switches)
    assert quick.shape == (1, *size) and quick.dtype == torch.float32 and not quick.requires_grad
    renamed = {"confidence": "psi"}
    slow = reference.sise(
        made.network,
        made.image,
        target,
        list(build.LAYERS),
        **{renamed.get(k, k): v for k, v in dict(probe).items()},
        **switches,
    )
    assert_saliency_agrees(quick[0], slow)


@pytest.mark.parametrize(("build", "size"), CASES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("target", [0, 1])
def test_sise(build, size, gate, target):
    assert_sise_agrees(build, size, target, gate=gate)


@pytest.mark.parametrize(
    "switches",
    [
        {"mu": 0.3},
        {"mu": 0.75},
        {"mask": "normalise_then_resize"},
        {"mask": "nearest", "gate": "otsu_hard"},
        {"contribution": "none"},
        {"temperature": 20.0},
        {"normalise": False},
        {"normalise": False, "gate": "simple"},
        *({"probe": {"confidence": kind}} for kind in CONFIDENCES),
        *({"probe": {"gradient": kind}} for kind in GRADIENT_SCORES),
        {"probe": {"fill": FILLS["colour"]}},
        {"probe": {"fill": FILLS["picture"]}, "contribution": "none", "gate": "otsu_soft_notau"},
    ],
    ids=str,
)
@pytest.mark.parametrize("build", [Plain, Residual])
def test_switches_of_sise(build, switches):
    assert_sise_agrees(build, (40, 56), 2, **switches)


@pytest.mark.parametrize("rule", ADAPTIVE_RULES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("inclusive", [False, True])
def test_ada_sise(rule, estimator, inclusive):
    build, size = CASES[(len(rule) + len(estimator)) % 3]
    if estimator != "exact" and "otsu" not in rule:
        estimator = "exact"
    probe = probe_of(build, size)
    quick = ada_sise(probe, [1], rule=rule, estimator=estimator, inclusive=inclusive)
    slow = reference.sise(
        probe.network, probe.image, 1, list(build.LAYERS), rule=rule, estimator=estimator, inclusive=inclusive
    )
    assert_saliency_agrees(quick[0], slow)


@pytest.mark.parametrize(
    "switches",
    [
        {"mask": "nearest"},
        {"contribution": "none"},
        {"gate": "otsu_hard"},
        {"temperature": 30.0},
        {"normalise": False},
    ],
    ids=str,
)
def test_switches_of_ada_sise(switches):
    probe = probe_of(Residual)
    slow = reference.sise(probe.network, probe.image, 2, list(Residual.LAYERS), rule="otsu_signed", **switches)
    assert_saliency_agrees(ada_sise(probe, [2], rule="otsu_signed", **switches)[0], slow)


def test_layers_can_be_named_and_their_order_matters():
    probe = probe_of(Residual)
    layers = ["layer2", "relu"]
    slow = reference.sise(probe.network, probe.image, 1, layers)
    assert_saliency_agrees(sise(probe, [1], layers=layers)[0], slow)
    assert not torch.allclose(sise(probe, [1], layers=layers), sise(probe, [1], layers=layers[::-1]), atol=1e-2)
    alone = reference.sise(probe.network, probe.image, 1, ["layer1"])
    assert_maps_agree(sise(probe, [1], layers=["layer1"])[0], alone)


def test_in_place_operations_behind_a_layer():
    layers = ["bn", "layer1.bn2", "layer2.bn2"]
    network = seeded(Residual())
    probe = Probe(network, picture(), layers=layers)
    assert_saliency_agrees(sise(probe, [3])[0], reference.sise(network, picture(), 3, layers))


def test_a_probability_that_rounds_to_one():
    network, image = seeded(Plain()), picture()
    with torch.no_grad():
        best = int(network(image).argmax())
        network.head.bias[best] += 25
    right = reference.sise(network, image, best, list(Plain.LAYERS))
    probe = Probe(network, image, layers=Plain.LAYERS)
    assert_saliency_agrees(sise(probe, [best])[0], right)
    literal = sise(Probe(network, image, layers=Plain.LAYERS, gradient="softmax_f32"), [best])[0]
    assert np.abs(literal.numpy() - right).max() > 0.5


# ------------------------------------------------------------------------------------------------ undefined cases


def with_dead_maps():
    """A network of which two feature maps of block 2 are zero everywhere, with the best gradient scores."""
    network = seeded(Plain())
    with torch.no_grad():
        network.block2[0].weight[[3, 7]] = 0
        network.block2[0].bias[3] = 0.7  # constant, but not zero
        network.block2[0].bias[7] = -1.0  # dead
    return network


def test_constant_maps_cost_no_pass_but_keep_their_place_in_the_thresholds():
    network, image = with_dead_maps(), picture()
    target = next(
        t for t in range(5) if reference.gradient_scores(network, image, "block2.1", t, "log_odds")[[3, 7]].max() > 0
    )
    alpha = reference.gradient_scores(network, image, "block2.1", target, "log_odds")
    with torch.no_grad():  # make the constant map's score the layer's largest
        k = 3 if alpha[3] > 0 else 7
        network.block3[0].weight[:, k] *= 2 * alpha.max() / alpha[k]
    alpha = reference.gradient_scores(network, image, "block2.1", target, "log_odds")
    assert alpha.argmax() == k
    for mu in (0.0, 0.2):
        probe = Probe(network, image, layers=["block2.1"])
        kept = reference.select(alpha, mu)
        assert k in kept
        quick = sise(probe, [target], mu=mu)
        assert probe.forward_passes == 1 + len(set(kept) - {3, 7})
        assert_saliency_agrees(quick[0], reference.sise(network, image, target, ["block2.1"], mu=mu))
    for rule in ADAPTIVE_RULES:
        probe = Probe(network, image, layers=["block2.1"])
        slow = reference.sise(network, image, target, ["block2.1"], rule=rule)
        assert_saliency_agrees(ada_sise(probe, [target], rule=rule)[0], slow)


class Signed(nn.Module):
    """Two layers of maps; the class scores fall with every map of the layers named in ``against``."""

    def __init__(self, against):
        super().__init__()
        self.low, self.high = (
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus()),
            nn.Conv2d(4, 5, 3, 2, 1),
        )
        self.against = against

    def forward(self, x):
        low = self.low(x)
        high = torch.nn.functional.softplus(self.high(low.detach()))
        strength = [
            -v if name in self.against else v
            for name, v in (("low", low.mean(dim=(1, 2, 3))), ("high", self.tail(high)))
        ]
        first = 0.3 * sum(strength)
        return torch.stack([first, torch.zeros_like(first)], dim=1)

    def tail(self, high):
        return high.mean(dim=(1, 2, 3))


def signed(*against):
    network = seeded_convolutions(Signed(against))
    return network, picture((20, 26))


def seeded_convolutions(network):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return network.eval()


def test_no_positive_gradient_gives_a_zero_map_and_costs_nothing():
    network, image = signed("low", "high")
    probe = Probe(network, image, layers=["low", "high"])
    for explain in (sise, ada_sise):
        saliency = explain(probe, [0])
        assert saliency.shape == (1, 20, 26) and not saliency.any()
    assert probe.forward_passes == 1
    assert not sise(probe, [0], empty="zero").any()
    assert bool(sise(probe, [0], empty="nan").isnan().all())


@pytest.mark.parametrize("empty", ["skip", "zero", "nan"])
@pytest.mark.parametrize("against", [("low",), ("high",)])
@pytest.mark.parametrize("gate", GATES)
def test_a_layer_without_positive_gradients(empty, against, gate):
    network, image = signed(*against)
    probe = Probe(network, image, layers=["low", "high"])
    missing = [layer for layer in ("low", "high") if float(probe.gradient_scores(layer, 0).max()) <= 0]
    assert missing == list(against)
    quick = sise(probe, [0], empty=empty, gate=gate)[0].numpy()
    slow = reference.sise(network, image, 0, ["low", "high"], empty=empty, gate=gate)
    if empty == "nan":
        assert np.isnan(slow).all() and np.isnan(quick).all()
        return
    assert_saliency_agrees(quick, slow)
    if empty == "skip":
        other = "high" if against == ("low",) else "low"
        assert_maps_agree(quick, reference.sise(network, image, 0, [other]))


# ------------------------------------------------------------------------------------------------ sharing


def union_of_selections(probe, targets, layers, mu=0.0):
    count = 0
    for layer in layers:
        maps = reference.run(probe.network, probe.image, [layer])[1][layer][0].detach().numpy()
        live = {k for k in range(len(maps)) if maps[k].min() < maps[k].max()}
        kept = set()
        for t in targets:
            kept |= set(
                reference.select(reference.gradient_scores(probe.network, probe.image, layer, t, "log_odds"), mu)
            )
        count += len(kept & live)
    return count


@pytest.mark.parametrize("build", [Plain, Residual])
def test_passes_are_exactly_the_union_of_the_selections(build):
    targets = [0, 3, 1]
    probe = probe_of(build)
    sise(probe, targets)
    assert probe.forward_passes == 1 + union_of_selections(probe, targets, build.LAYERS)
    assert probe.backward_passes == len(targets)
    # Ada-SISE, higher thresholds and other fusions are subsets
    for rule in ADAPTIVE_RULES:
        ada_sise(probe, targets, rule=rule)
    sise(probe, targets[::-1], mu=0.4, gate="otsu_hard", contribution="none")
    assert probe.forward_passes == 1 + union_of_selections(probe, targets, build.LAYERS)
    assert probe.backward_passes == len(targets)
    # one more target pays for what it adds
    sise(probe, [2])
    assert probe.forward_passes == 1 + union_of_selections(probe, [*targets, 2], build.LAYERS)


def test_layers_named_late_are_read_in_one_pass():
    layers = ["relu", "layer1", "layer2"]
    probe = Probe(seeded(Residual()), picture())
    named = sise(probe, [0, 1], layers=layers)
    assert probe.forward_passes == 1 + union_of_selections(probe, [0, 1], layers)
    assert probe.backward_passes == 2
    assert torch.equal(named, sise(probe_of(Residual), [0, 1]))


@pytest.mark.parametrize("build", [Plain, Residual])
@pytest.mark.parametrize("explain", [sise, ada_sise, functools.partial(ada_sise, rule="otsu_signed")])
def test_several_targets_at_once_equal_one_at_a_time(build, explain):
    targets = [3, 0, 4, 0]
    together = explain(probe_of(build), targets)
    assert together.shape == (4, 40, 56)
    for saliency, target in zip(together, targets, strict=True):
        alone = explain(probe_of(build), [target])[0]
        assert_saliency_agrees(saliency, alone.numpy())
    assert torch.equal(together[1], together[3])


def test_the_order_of_explainers_makes_no_difference():
    explainers = {
        "sise": sise,
        "hard": functools.partial(sise, gate="otsu_hard", mu=0.2),
        "nearest": functools.partial(sise, mask="nearest"),
        "ada": ada_sise,
        "signed": functools.partial(ada_sise, rule="otsu_signed"),
    }
    alone = {name: explain(probe_of(Plain), [1, 2]) for name, explain in explainers.items()}
    for order in (list(explainers), list(explainers)[::-1]):
        shared = probe_of(Plain)
        for name in order:
            for a, b in zip(explainers[name](shared, [1, 2]), alone[name], strict=True):
                assert_saliency_agrees(a, b.numpy())


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 5}, {"batch_size": 1000}, {"lossless": False}])
def test_batches_and_folding_make_no_difference(options):
    network = seeded(Residual())
    engine = Scorer(network, **options)
    probe = Probe(network, picture(), layers=Residual.LAYERS, scorer=engine)
    expected = reference.sise(network, picture(), 4, list(Residual.LAYERS))
    assert_saliency_agrees(sise(probe, [4])[0], expected)


def test_a_scorer_serves_image_after_image():
    network = seeded(Residual())
    engine = Scorer(network, batch_size=7)
    for seed, size in ((0, (40, 56)), (1, (40, 56)), (2, (37, 45)), (0, (40, 56))):
        probe = Probe(network, picture(size, seed), layers=Residual.LAYERS, scorer=engine)
        expected = reference.sise(network, picture(size, seed), 4, list(Residual.LAYERS))
        assert_saliency_agrees(sise(probe, [4])[0], expected)


# ------------------------------------------------------------------------------------------------ the two-line door


def test_explain():
    network, image = seeded(Residual()), picture((64, 80))
    saliency = package.explain(network, image, 2)
    assert saliency.shape == (64, 80) and saliency.min() == 0 and saliency.max() == 1
    assert torch.equal(package.explain(network, image[0], 2), saliency)
    best = int(network(image).argmax())
    assert torch.equal(package.explain(network, image), package.explain(network, image, best))
    named = package.explain(network, image, 2, layers=Residual.LAYERS, explainer=functools.partial(sise, mu=0.3))
    assert_saliency_agrees(named, reference.sise(network, image, 2, list(Residual.LAYERS), mu=0.3))
    ada = package.explain(network, image, 2, layers=Residual.LAYERS, explainer=package.ada_sise)
    assert_saliency_agrees(ada, reference.sise(network, image, 2, list(Residual.LAYERS), rule="otsu_positive"))


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("explain", "switches", "words"),
    [
        (sise, {"mask": "bilinaer"}, "Did you mean 'bilinear'"),
        (sise, {"contribution": "size"}, "mask_size"),
        (sise, {"gate": "otsu"}, "otsu_hard"),
        (sise, {"empty": "ignore"}, "skip"),
        (sise, {"layers": ["block2_1"]}, r"Did you mean 'block2\.1'"),
        (ada_sise, {"rule": "otsu_postive"}, "Did you mean 'otsu_positive'"),
        (ada_sise, {"estimator": "exactly"}, "Did you mean 'exact'"),
    ],
)
def test_mistakes(explain, switches, words):
    with pytest.raises(SuiteError, match=words):
        explain(probe_of(Plain), [0], **switches)


def test_no_layers():
    with pytest.raises(SuiteError, match="at least one layer"):
        sise(Probe(seeded(Plain()), picture()), [0])

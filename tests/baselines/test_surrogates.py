"""LIME, Kernel SHAP and occlusion against sums by hand, exact Shapley values, scikit-learn and captum."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from sise.baselines.gradient_shap import gradient_shap
from sise.baselines.integrated_gradients import attributions
from sise.baselines.kernel_shap import coalitions, kernel_shap, shapley_values
from sise.baselines.lime import lime, ridge_regression, samples
from sise.baselines.occlusion import occlusion, windows
from sise.baselines.segments import grid_of, segments_of
from sise.errors import SuiteError
from sise.maps import minmax
from sise.probe.probe import Probe


class Weighted(nn.Module):
    """Two scores, the first the sum of the pixels under fixed weights."""

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, x):
        total = (x * self.weights).flatten(1).sum(dim=1)
        return torch.stack([total, -total], dim=1)


def linear_probe(size=(28, 28), seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(size, generator=generator)
    image = torch.rand(1, 1, *size, generator=generator)
    return Probe(Weighted(weights).eval(), image, confidence="logit"), image[0, 0] * weights


def test_samples_are_nested_and_leave_torchs_generator_alone():
    before = torch.get_rng_state()
    assert torch.equal(samples(9, 6, seed=1)[:5], samples(5, 6, seed=1))
    assert samples(9, 6, seed=1)[0].all() and not torch.equal(samples(9, 6, seed=1), samples(9, 6, seed=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_ridge_regression_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(0)
    features = (torch.rand(60, 7, generator=generator) < 0.5).double()
    values = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(60, generator=generator, dtype=torch.float64)
    witness = linear_model.Ridge(alpha=1.5).fit(features.numpy(), values.numpy(), sample_weight=weights.numpy())
    expected = torch.from_numpy(witness.coef_)
    torch.testing.assert_close(ridge_regression(features, values, weights, 1.5), expected, rtol=0, atol=1e-12)


def test_without_a_penalty_lime_finds_a_linear_networks_segments():
    probe, parts = linear_probe()
    segments = segments_of(probe, 20, 30.0, 1.0)
    sums = torch.stack([parts[segments == s].sum() for s in range(int(segments.max()) + 1)])
    found = lime(probe, [0, 1], n_samples=400, n_segments=20, ridge=0.0, reduce="sum_signed")
    expected = (sums / sums.abs().max())[segments]
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1], -expected, rtol=0, atol=1e-4)


def test_all_coalitions_give_exact_shapley_values():
    """Of a game of 8 players with random payoffs, against the definition: the mean over all orders."""
    players = 8
    generator = torch.Generator().manual_seed(0)
    payoff = torch.randn(2**players, generator=generator, dtype=torch.float64)
    shown, weights = coalitions(players, 2**players, seed=0)
    assert len(shown) == 2**players - 2
    numbers = (shown.long() * 2 ** torch.arange(players)).sum(dim=1)
    found = shapley_values(shown, payoff[numbers][:, None], weights, empty=payoff[:1], whole=payoff[-1:])[0]
    expected = torch.zeros(players, dtype=torch.float64)
    for player in range(players):
        others = [p for p in range(players) if p != player]
        for size in range(players):
            share = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for chosen in itertools.combinations(others, size):
                number = sum(2**p for p in chosen)
                expected[player] += share * (payoff[number + 2**player] - payoff[number])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_coalitions_come_with_their_complements_and_sizes_by_their_weight():
    shown, weights = coalitions(30, 20_000, seed=0)
    assert torch.equal(shown[0::2], ~shown[1::2]) and weights.unique().tolist() == [1.0]
    sizes = shown.sum(dim=1)
    expected = 1 / (torch.arange(1, 30) * (30 - torch.arange(1, 30))).double()
    counts = torch.bincount(sizes, minlength=30)[1:30] / len(shown)
    assert (counts - expected / expected.sum()).abs().max() < 0.01
    assert shown.double().mean(dim=0).sub(0.5).abs().max() < 0.02


def test_kernel_shap_of_a_linear_network_is_its_terms():
    probe, parts = linear_probe()
    segments = segments_of(probe, 20, 30.0, 1.0)
    sums = torch.stack([parts[segments == s].sum() for s in range(int(segments.max()) + 1)])
    found = kernel_shap(probe, [0], n_samples=200, n_segments=20, reduce="sum_signed")[0]
    torch.testing.assert_close(found, (sums / sums.abs().max())[segments], rtol=0, atol=1e-4)


def test_one_set_of_passes_serves_all_classes_and_is_billed():
    probe, _ = linear_probe()
    for explainer, passes in ((lime, 50), (kernel_shap, 52)):
        for targets in ([0, 1], [1]):
            with probe.bill() as bill:
                explainer(probe, targets, n_samples=50)
            assert bill.forward in (passes, passes + 1)  # and the image's own


def test_an_image_without_superpixels_gets_a_grid():
    probe = Probe(Weighted(torch.ones(28, 28)).eval(), torch.ones(1, 1, 28, 28), confidence="logit")
    segments = segments_of(probe, 3, 30.0, 1.0)
    assert torch.equal(segments, grid_of((28, 28), 7)) and int(segments.max()) == 48
    assert probe.remarks == ["segments_of_a_grid"]


def test_grid_numbers_cells_in_raster_order():
    assert grid_of((2, 5), 2).tolist() == [[0, 0, 0, 1, 1], [2, 2, 2, 3, 3]]
    assert grid_of((5,), 2).tolist() == [0, 0, 0, 1, 1]


def test_signals_are_cut_into_stretches():
    probe = Probe(Weighted(torch.arange(12.0)).eval(), torch.ones(1, 1, 12), confidence="logit")
    found = lime(probe, [0], n_samples=200, n_segments=4, ridge=0.0)[0]
    assert found.shape == (12,) and found.view(4, 3).std(dim=1).max() == 0
    torch.testing.assert_close(found[::3], torch.tensor([0.0, 1, 2, 3]) / 3, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(28, 28), (30, 23)])
def test_occlusion_is_captums(size):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
    network = nn.Sequential(*layers).eval()
    image = torch.randn(1, 3, *size, generator=generator)
    found = occlusion(Probe(network, image), [0, 2], reduce="sum_signed")
    wide = [max(1, round(side / 7)) for side in size]
    step = [max(1, round(side / 14)) for side in size]

    def forward(inputs):
        return network(inputs).double().softmax(dim=1)

    for target, saliency in zip([0, 2], found, strict=True):
        witness = Occlusion(forward).attribute(image, (3, *wide), strides=(3, *step), baselines=0, target=target)
        expected = witness[0, 0]  # each channel of a window gets the whole loss
        # a window costs about a hundredth of the confidence: float32 scores leave five digits of it
        torch.testing.assert_close(saliency, (expected / expected.abs().max()).float(), rtol=0, atol=1e-4)


def test_windows_cover_every_pixel():
    for size in ((28, 28), (5,), (224, 224), (3, 2)):
        seen = torch.zeros(size)
        for place in windows(size, 1 / 7, 1 / 14):
            seen[place] += 1
        assert seen.min() > 0


@pytest.mark.parametrize(
    ("explainer", "wrong"),
    [
        (lime, {"n_samples": 1}), (lime, {"kernel_width": 0}), (lime, {"ridge": -1}), (lime, {"n_segments": 1}),
        (kernel_shap, {"n_samples": 1}), (occlusion, {"window": 0}), (occlusion, {"stride": 0.5}),
        (occlusion, {"reduce": "sum"}),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(explainer, wrong):
    with pytest.raises(SuiteError):
        explainer(linear_probe()[0], [0], **wrong)


@pytest.mark.parametrize("explainer", [lime, kernel_shap, gradient_shap, occlusion])
def test_maps_are_of_the_contract(explainer):
    probe, _ = linear_probe()
    keywords = {} if explainer is occlusion else {"n_samples": 40}
    found = explainer(probe, [1, 0], **keywords)
    assert found.shape == (2, 28, 28) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, minmax(found), rtol=0, atol=0)
    assert explainer(probe, [], **keywords).shape == (0, 28, 28)


def test_gradient_shap_of_a_linear_network_is_its_terms():
    """The gradient is the same everywhere: from zero, the image times the weights; from a, the image less a."""
    probe, parts = linear_probe()
    weights = parts / probe.image[0, 0]
    found = gradient_shap(probe, [0, 1], n_samples=7, batch_size=3, reduce="sum_signed")
    torch.testing.assert_close(found[0], parts / parts.abs().max(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], -found[0], rtol=0, atol=0)
    found = gradient_shap(probe, [0], n_samples=5, baselines=[[0.25]], reduce="sum_signed")[0]
    expected = (probe.image[0, 0] - 0.25) * weights
    torch.testing.assert_close(found, expected / expected.abs().max(), rtol=0, atol=1e-6)


def test_gradient_shap_approaches_integrated_gradients():
    """One baseline and many points: the mean over random places of the line IG integrates along."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
        image = torch.randn(1, 3, 12, 12)
    network = nn.Sequential(*layers).eval()
    found = gradient_shap(Probe(network, image), [1], n_samples=4000, batch_size=500, reduce="sum_signed")[0]
    expected = attributions(Probe(network, image), [1], n_steps=50)[0].sum(dim=0)
    torch.testing.assert_close(found, expected / expected.abs().max(), rtol=0, atol=0.02)


def test_gradient_shap_draws_from_all_baselines_and_refuses_others():
    probe, _ = linear_probe()
    mixed = gradient_shap(probe, [0], n_samples=400, baselines=[[0.0], [1.0]], reduce="sum_signed")[0]
    middle = gradient_shap(probe, [0], n_samples=2, baselines=[[0.5]], reduce="sum_signed")[0]
    assert torch.corrcoef(torch.stack([mixed.flatten(), middle.flatten()]))[0, 1] > 0.98
    for wrong in (
        {"n_samples": 0},
        {"baselines": [[0.0, 1.0]]},
        {"baselines": [0.0]},
        {"noise": -1},
        {"batch_size": 0},
    ):
        with pytest.raises(SuiteError):
            gradient_shap(probe, [0], **wrong)

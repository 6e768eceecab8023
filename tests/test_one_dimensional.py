"""Signals (1, C, L): every explainer and metric gives what it gives for the same signal as an image of one row."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import reference_baselines as slow
import scipy.ndimage
import torch
from torch import nn

from sise.baselines.centre import centre
from sise.baselines.common import to_saliency
from sise.baselines.extremal_perturbation import extremal_perturbation
from sise.baselines.full_grad import full_grad
from sise.baselines.grad_cam import grad_cam
from sise.baselines.grad_cam_pp import grad_cam_pp
from sise.baselines.ground_truth import ground_truth
from sise.baselines.integrated_gradients import integrated_gradients
from sise.baselines.random import random
from sise.baselines.rise import mask_bank, rise
from sise.baselines.score_cam import score_cam
from sise.baselines.uniform import uniform
from sise.choices import ADAPTIVE_RULES, GATES, MASK_RULES
from sise.errors import SuiteError
from sise.layers import find_layers
from sise.maps import minmax, upsample, upsampled_extrema, upsampled_sums
from sise.method import ada_sise, sise
from sise.metrics import drop, increase, keep_mask
from sise.probe.probe import Probe
from sise.scoring import Scorer, Segment

LENGTH, TARGETS = 37, [1, 3]
LAYERS = ("stage1", "stage2", "stage3")
FILL = torch.tensor([0.5, -1.0])


class Signals(nn.Module):
    """Three stages with BN, in-place ReLUs and pools between them; of images with kernels (1, k) if ``dims`` is 2."""

    def __init__(self, dims: int = 1) -> None:
        super().__init__()
        conv = nn.Conv1d if dims == 1 else nn.Conv2d
        norm = nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d
        self.pool = nn.MaxPool1d(2) if dims == 1 else nn.MaxPool2d((1, 2))

        def stage(channels, filters, width):
            kernel, padding = (width, width // 2) if dims == 1 else ((1, width), (0, width // 2))
            return nn.Sequential(conv(channels, filters, kernel, padding=padding), norm(filters), nn.ReLU(inplace=True))

        self.stage1, self.stage2, self.stage3 = stage(2, 6, 5), stage(6, 8, 3), stage(8, 10, 3)
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.stage3(self.pool(self.stage2(self.pool(self.stage1(x)))))
        return self.head(x.flatten(2).mean(dim=2))


@pytest.fixture(scope="module")
def twins():
    """A probe of a signal, and one of the same as an image of one row through the same network with kernels (1, k)."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Signals().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.copy_(torch.randn(len(module.running_mean), generator=generator) / 3)
            module.running_var.copy_(torch.rand(len(module.running_var), generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(len(module.weight), generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(len(module.bias), generator=generator) / 3)
    twin = Signals(dims=2).eval()
    twin.load_state_dict({k: v[:, :, None] if v.ndim == 3 else v for k, v in network.state_dict().items()})
    signal = torch.randn(1, 2, LENGTH, generator=generator)
    return network, twin, signal


def probes(twins, **options):
    network, twin, signal = twins
    fill = options.pop("fill", None)
    return (
        Probe(network, signal, layers=LAYERS, fill=None if fill is None else fill.view(1, -1, 1), **options),
        Probe(
            twin, signal[:, :, None], layers=LAYERS, fill=None if fill is None else fill.view(1, -1, 1, 1), **options
        ),
    )


def assert_same_maps(signal_probe, row_probe, explain, **tolerance):
    of_signal, of_row = explain(signal_probe), explain(row_probe)
    assert of_signal.shape == (len(TARGETS), LENGTH) and of_row.shape == (len(TARGETS), 1, LENGTH)
    assert of_signal.dtype == torch.float32 and not of_signal.requires_grad
    torch.testing.assert_close(of_signal, of_row[:, 0], **({"rtol": 0, "atol": 1e-5} | tolerance))
    return of_signal


# ------------------------------------------------------------------------------------------------ a signal is a row


@pytest.mark.parametrize("fill", [None, FILL])
@pytest.mark.parametrize("mask", MASK_RULES)
@pytest.mark.parametrize("gate", GATES)
def test_sise(twins, mask, gate, fill):
    pair = probes(twins, fill=fill)
    saliency = assert_same_maps(*pair, lambda p: sise(p, TARGETS, mask=mask, gate=gate), atol=1e-4)
    assert saliency.amax(dim=1).tolist() == [1, 1]


def test_the_ablations_of_sise(twins):
    pair = probes(twins, seed=5)
    for options in ({"selection": "random"}, {"selection": "all", "score": "one"}, {"contribution": "none"}):
        assert_same_maps(*pair, lambda p, options=options: sise(p, TARGETS, **options))


@pytest.mark.parametrize("rule", ADAPTIVE_RULES)
def test_ada_sise(twins, rule):
    assert_same_maps(*probes(twins), lambda p: ada_sise(p, TARGETS, rule=rule), atol=1e-4)


@pytest.mark.parametrize(
    "explain",
    [
        lambda p: grad_cam(p, TARGETS),
        lambda p: grad_cam(p, TARGETS, layer="stage2", of="log_odds"),
        lambda p: grad_cam(p, TARGETS, upsampling="cubic"),
        lambda p: grad_cam_pp(p, TARGETS, layer="stage1", score="softmax"),
        lambda p: grad_cam_pp(p, TARGETS, normalise_alpha=True),
        lambda p: score_cam(p, TARGETS, baseline_subtract=True),
        lambda p: integrated_gradients(p, TARGETS, n_steps=8),
        lambda p: integrated_gradients(p, TARGETS, n_steps=8, baseline=[1.0, -2.0], of="softmax"),
        lambda p: full_grad(p, TARGETS),
        lambda p: full_grad(p, TARGETS, include_bn=False, simple=True),
        lambda p: centre(p, TARGETS),
        lambda p: uniform(p, TARGETS),
        lambda p: random(p, TARGETS),
    ],
)
def test_baselines(twins, explain):
    assert_same_maps(*probes(twins), explain)


def test_metrics(twins):
    signal_probe, row_probe = probes(twins, fill=FILL)
    for target, saliency in zip(TARGETS, grad_cam(signal_probe, TARGETS), strict=True):
        for fraction in (0.3, 0.9):
            for metric in (drop, increase):
                expected = metric(row_probe, target, saliency[None], fraction=fraction)
                assert metric(signal_probe, target, saliency, fraction=fraction) == pytest.approx(expected, abs=1e-6)
    assert keep_mask(torch.tensor([0.1, 0.9, 0.5, 0.5]), fraction=0.5).tolist() == [False, True, False, False]


def test_the_ground_truth_control_fills_the_interval(twins):
    probe, _ = probes(twins)
    mask = torch.zeros(LENGTH, dtype=torch.bool)
    mask[[4, 9]] = True
    probe.ground_truth = {1: mask, 3: ~mask}
    box, everything = ground_truth(probe, TARGETS)
    assert box.nonzero()[:, 0].tolist() == list(range(4, 10)) and everything.all()
    assert torch.equal(ground_truth(probe, [1], shape="mask")[0].bool(), mask)


# ------------------------------------------------------------------------------------------------ slowly, once more


def slow_resize(values, length):
    """Linear between the middles of the places, constant beyond the outermost."""
    middles = (np.arange(length) + 0.5) * len(values) / length - 0.5
    return np.interp(middles, np.arange(len(values)), values)


def slow_sise(network, signal, target, mu=0.0):
    """SISE with the authors' gates: one mask and one pass at a time, float64."""
    network = copy.deepcopy(network).double()
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    signal, outputs = signal.double(), {}
    for layer in LAYERS:
        network.get_submodule(layer).register_forward_hook(lambda m, i, o, layer=layer: outputs.update({layer: o}))
    scores = network(signal)[0]
    others = [j for j in range(len(scores)) if j != target]
    odds = scores[target] - scores[others].logsumexp(0)
    gradients = torch.autograd.grad(odds, [outputs[layer] for layer in LAYERS])
    maps = {layer: outputs[layer][0].detach().numpy() for layer in LAYERS}
    fused = None
    for layer, gradient in zip(LAYERS, gradients, strict=True):
        alpha = gradient[0].sum(dim=1)
        total = np.zeros(signal.shape[-1])
        for k in range(len(alpha)):
            resized = slow_resize(maps[layer][k], signal.shape[-1])
            if alpha[k] / alpha.max() > mu and resized.max() > resized.min():
                mask = (resized - resized.min()) / (resized.max() - resized.min() + 1e-6)
                with torch.no_grad():
                    psi = network(signal * torch.from_numpy(mask))[0].softmax(0)[target].item()
                total += psi * mask / (mask.sum() + 1e-6)
        if alpha.max() <= 0 or total.min() == total.max():
            continue  # the layer has no map
        v = (total - total.min()) / (total.max() - total.min())
        fused = v if fused is None else (fused + v) / (1 + np.exp(-100 * (v - slow_threshold(v))))
    return (fused - fused.min()) / (fused.max() - fused.min())


def slow_threshold(v):
    levels, best, threshold = np.round(v * 256), 0.0, 0
    for j in range(1, 256):
        low, high = np.minimum(levels[levels < j], 255), np.minimum(levels[levels >= j], 255)
        if len(low) and len(high) and len(low) * len(high) * (low.mean() - high.mean()) ** 2 > best * (1 + 1e-12):
            best, threshold = len(low) * len(high) * (low.mean() - high.mean()) ** 2, j
    raised = (levels >= round(1.5 * threshold)).mean() < 0.1
    return (1.5 if raised else 1) * threshold / 256


def test_sise_slowly(twins):
    network, _, signal = twins
    probe, _ = probes(twins)
    for mu in (0.0, 0.4):
        for target in range(4):
            quick = sise(probe, [target], mu=mu)[0]
            np.testing.assert_allclose(quick, slow_sise(network, signal, target, mu), rtol=0, atol=1e-4)


def test_rise_slowly(twins):
    network, _, signal = twins
    probe, _ = probes(twins)
    bank = mask_bank(60, 7, 0.5, (LENGTH,), 3)
    assert bank.grids.shape == (60, 7) and bank.shifts.shape == (60, 1)
    assert set(bank.shifts[:, 0].tolist()) == set(range(6))  # a cell of 37 / 7 has 6 points
    masks, total = bank.masks(0, 60), np.zeros(LENGTH)
    for grid, shift, mask in zip(bank.grids.numpy(), bank.shifts[:, 0].tolist(), masks.numpy(), strict=True):
        expected = slow_resize(grid.astype(float), 8 * 6)[shift : shift + LENGTH]
        np.testing.assert_allclose(mask, expected, atol=1e-6)
        with torch.no_grad():
            total += mask * network(signal * torch.from_numpy(mask))[0].softmax(0)[2].item()
    raw = rise(probe, [2], n_masks=60, seed=3, normalise="raw")[0]
    np.testing.assert_allclose(raw, total / 60 / 0.5, rtol=1e-5)
    torch.testing.assert_close(rise(probe, [2], n_masks=60, seed=3)[0], minmax(raw, 1))


def test_full_grad_is_complete(twins):
    probe, _ = probes(twins)
    assert all(slow.completeness_error(probe, target) < 1e-4 for target in range(4))


def test_maps_of_signals():
    maps = torch.tensor([[0.0, 1.0, 0.0], [2.0, 2.0, 2.0]])
    assert minmax(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), 1).tolist() == [[0, 1], [0, 0]]
    resized = upsample(maps, (6,))
    np.testing.assert_allclose(resized, [slow_resize(m, 6) for m in maps.numpy()], atol=1e-7)
    assert upsample(maps, (6,), "nearest")[0].tolist() == [0, 0, 1, 1, 0, 0]
    lo, hi = upsampled_extrema(maps, (6,))
    torch.testing.assert_close((lo, hi), (resized.amin(dim=1), resized.amax(dim=1)))
    assert hi[0] < 1  # no point falls on the peak
    torch.testing.assert_close(upsampled_sums(maps, (6,)), resized.double().sum(dim=1))


def test_cubic_upsampling_is_scipys_for_signals_and_images():
    generator = torch.Generator().manual_seed(0)
    for size, wanted in (((7,), (14,)), ((7, 9), (14, 27)), ((5, 5), (5, 5))):
        maps = torch.rand(3, *size, generator=generator)
        got = to_saliency(maps, wanted, "cubic")
        assert got.shape == (3, *wanted) and got.dtype == maps.dtype
        for one, of in zip(got, maps, strict=True):
            factors = [large / small for large, small in zip(wanted, size, strict=True)]
            large = scipy.ndimage.zoom(of.numpy(), factors)
            np.testing.assert_array_equal(one, large / large.max())
    assert not to_saliency(torch.zeros(1, 5, 5), (9, 9), "cubic").any()
    with pytest.raises(SuiteError, match="unknown upsampling 'spline'"):
        to_saliency(maps, (5, 5), "spline")


def test_cams_take_cubic_upsampling(twins):
    probe, _ = probes(twins)
    maps, gradient = probe.feature_maps("stage3").numpy(), probe.gradients("stage3", 1, of="logit").numpy()
    cam = np.maximum(gradient.mean(axis=1) @ maps, 0).astype(np.float32)
    large = scipy.ndimage.zoom(cam, LENGTH / len(cam))
    np.testing.assert_allclose(grad_cam(probe, [1], upsampling="cubic")[0], large / large.max(), atol=1e-5)
    cubic = grad_cam_pp(probe, [1], upsampling="cubic")
    assert (cubic - grad_cam_pp(probe, [1])).abs().max() > 0.01


# ------------------------------------------------------------------------------------------------ engine and layers


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_engine_folds_batch_normalisation_and_scores_as_one_by_one(twins, mode):
    network, _, signal = twins
    masks = torch.rand(11, 9, generator=torch.Generator().manual_seed(1))
    scorer = Scorer(network, batch_size=4)
    got = scorer.score([Segment(signal, masks[:5], FILL.view(1, -1, 1), mode), Segment(signal, masks[5:], mode=mode)])
    assert not any(isinstance(module, nn.BatchNorm1d) for module in scorer._runner.modules())
    assert any(isinstance(module, nn.BatchNorm1d) for module in network.modules())
    for i, (mask, scores) in enumerate(zip(masks, got, strict=True)):
        places = np.arange(LENGTH) * 9 // LENGTH
        large = slow_resize(mask.numpy(), LENGTH) if mode == "bilinear" else mask.numpy()[places]
        large = torch.from_numpy(large).float()
        shown = signal * large + (FILL.view(1, -1, 1) * (1 - large) if i < 5 else 0)
        torch.testing.assert_close(scores, network(shown)[0].detach(), rtol=1e-4, atol=1e-5)


def test_layers_of_networks_of_signals_are_found(twins):
    network, _, _ = twins
    assert find_layers(network, (LENGTH,)) == LAYERS
    plain = nn.Sequential(
        nn.Conv1d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 8, 3, padding=1), nn.ReLU(),
        nn.AvgPool1d(2), nn.Conv1d(8, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()  # fmt: skip
    assert find_layers(plain, (64,)) == ("1", "4", "7")


def test_what_does_not_fit_says_so(twins):
    network, _, signal = twins
    probe, _ = probes(twins)
    with pytest.raises(SuiteError, match=r"blurs images .* got a signal of shape \(1, 2, 37\)"):
        extremal_perturbation(probe, [0])
    with pytest.raises(SuiteError, match="baseline must be 2 channel values"):
        integrated_gradients(probe, [0], baseline=[0.0, 0.0, 0.0])
    with pytest.raises(SuiteError, match=r"signal of shape \(1, C, L\); got \(2, 37\)"):
        Probe(network, signal[0])

"""MoRF and LeRF, infidelity, sensitivity-n and ROAD: by hand, beside other libraries, and what simple maps get."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from known_networks import Linear, Shown, linear_probe, probe_of
from torch import nn

from sise.errors import SuiteError
from sise.metrics.passes import passes
from sise.metrics.perturbation import cells, lerf, means_of, morf, noise_of
from sise.metrics.removals import infidelity, pearson, sensitivity_n, sets_of_cells, squares
from sise.metrics.road import impute, road
from sise.probe.probe import Probe
from sise.types import by_definition

SIZE = (8, 8)
RAMP = torch.arange(64.0).reshape(SIZE)


# ---------------------------------------------------------------- MoRF, LeRF


def test_cells_of_a_grid_with_smaller_ones_at_the_border():
    assert cells((3, 5), 2).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert cells((5,), 2).tolist() == [0, 0, 1, 1, 2]
    assert means_of(torch.arange(15.0).reshape(3, 5), cells((3, 5), 2)).tolist() == [3, 5, 6.5, 10.5, 12.5, 14]


def test_noise_lies_in_each_channels_range():
    image = torch.stack([torch.full(SIZE, 2.0), torch.linspace(-1, 1, 64).reshape(SIZE)])[None]
    noise = noise_of(image, 0)
    assert (noise[0, 0] == 2).all() and noise[0, 1].min() >= -1 and noise[0, 1].max() <= 1 < 20 * noise[0, 1].std()
    assert torch.equal(noise, noise_of(image, 0)) and not torch.equal(noise, noise_of(image, 1))


def slow_aopc(probe, relevance, cell, steps, noise):
    """Cell by cell, with the network as it is."""
    starts = [(y, x) for y in range(0, 8, cell) for x in range(0, 8, cell)]
    mean = {s: relevance[s[0] : s[0] + cell, s[1] : s[1] + cell].double().mean().item() for s in starts}
    order = sorted(starts, key=lambda s: -mean[s])
    image, values = probe.image.clone(), []
    for k in range(steps + 1):
        for y, x in order[: round(k * len(order) / steps)]:
            image[..., y : y + cell, x : x + cell] = noise[..., y : y + cell, x : x + cell]
        values.append(probe.network(image)[0, 0].item())
    return np.mean([values[0] - v for v in values])


@pytest.mark.parametrize(("cell", "steps"), [(2, 4), (2, 16), (4, 3), (1, 7)])
def test_beside_a_slow_restatement(cell, steps):
    generator = torch.Generator().manual_seed(cell)
    image = torch.rand(1, 1, *SIZE, generator=generator)
    probe = linear_probe(torch.randn(SIZE, generator=generator), image)
    saliency = torch.rand(SIZE, generator=generator)
    noise = noise_of(image, 0)
    for metric, relevance in ((morf, saliency), (lerf, -saliency)):
        found = metric(probe, 0, saliency, cell=cell, steps=steps)
        assert found == pytest.approx(slow_aopc(probe, relevance, cell, steps, noise), abs=1e-5)


def test_the_right_order_loses_first():
    """Four cells, of an image of 1 in one, 0 elsewhere, 0 ≤ noise ≤ 1: the lit cell first, or last."""
    image = torch.zeros(1, 1, *SIZE)
    image[..., :4, :4] = 1
    lit = torch.zeros(SIZE)
    lit[:4, :4] = 1
    probe = linear_probe(lit, image)
    lost = 16 - float((noise_of(image, 0) * lit).sum())
    perfect, wrong = (functools.partial(m, cell=4, steps=4) for m in (morf, lerf))
    assert perfect(probe, 0, lit) == pytest.approx(4 / 5 * lost, rel=1e-5)
    assert wrong(probe, 0, lit) == pytest.approx(1 / 5 * lost, rel=1e-5)
    assert morf(probe, 0, lit, cell=4, steps=1, share=0.25) == pytest.approx(1 / 2 * lost, rel=1e-5)
    blank = torch.zeros(SIZE)
    assert perfect(probe, 0, blank) == pytest.approx(wrong(probe, 0, blank))  # raster order both ways


@pytest.mark.parametrize("setting", [{"cell": 0}, {"cell": 1.5}, {"steps": 0}, {"share": 1.5}])
def test_perturbation_refuses_settings_out_of_range(setting):
    with pytest.raises(SuiteError, match="must"):
        morf(linear_probe(RAMP), 0, RAMP, **setting)


# ---------------------------------------------------------------- infidelity, sensitivity-n


def test_squares_are_whole_and_the_same_for_every_map():
    drawn = squares((40, 24), 50, 0)
    sides = []
    for one in drawn:
        ys, xs = one.nonzero(as_tuple=True)
        height, width = int(ys.max() - ys.min()) + 1, int(xs.max() - xs.min()) + 1
        assert height == width and height * width == int(one.sum())
        sides.append(height)
    assert min(sides) == 3 and max(sides) == 12  # an eighth to a half of 24
    assert torch.equal(drawn, squares((40, 24), 50, 0)) and not torch.equal(drawn, squares((40, 24), 50, 1))


def test_sets_have_the_asked_for_number_of_cells():
    drawn = sets_of_cells(SIZE, 2, (0.001, 0.25, 0.5), 4, 0)
    assert drawn.flatten(1).sum(1).tolist() == [4] * 4 + [16] * 4 + [32] * 4
    assert len({tuple(one.flatten().tolist()) for one in drawn[4:]}) == 8


def test_what_a_linear_network_is_made_of_is_a_perfect_map():
    """Of Σ w x, the losses are the sums of w: no infidelity, correlation 1; the reversed map is as far as can be."""
    weights = torch.rand(SIZE, generator=torch.Generator().manual_seed(5))
    probe = linear_probe(weights)
    assert infidelity(probe, 0, 3 * weights) == pytest.approx(0, abs=1e-8)
    assert sensitivity_n(probe, 0, 3 * weights + 0.0, cell=2) == pytest.approx(1, abs=1e-6)
    assert sensitivity_n(probe, 0, 1 - weights, cell=2) == pytest.approx(-1, abs=1e-6)


def test_blank_and_random_maps():
    weights = torch.rand(SIZE, generator=torch.Generator().manual_seed(5))
    probe, blank = linear_probe(weights), torch.zeros(SIZE)
    losses = torch.stack([weights[one].sum() for one in squares(SIZE, 64, 0)])
    assert infidelity(probe, 0, blank) == pytest.approx(float((losses.double() ** 2).mean()), rel=1e-5)
    assert sensitivity_n(probe, 0, blank, cell=2) == 0
    assert by_definition(sensitivity_n(probe, 0, blank)) == "constant map"
    assert not by_definition(infidelity(probe, 0, blank))
    random = torch.rand(SIZE, generator=torch.Generator().manual_seed(6))
    assert abs(sensitivity_n(probe, 0, random, cell=1, samples=500)) < 0.25
    assert 0 < infidelity(probe, 0, random) < infidelity(probe, 0, blank)


def test_infidelity_is_captums():
    captum = pytest.importorskip("captum.metrics")
    generator = torch.Generator().manual_seed(0)
    image, saliency = torch.rand(1, 1, *SIZE, generator=generator), torch.rand(SIZE, generator=generator)
    network = Shown().eval()
    removed = squares(SIZE, 32, 0)[:, None].float()

    def remove(inputs):
        return removed, inputs * (1 - removed)

    theirs = captum.infidelity(
        lambda x: network(x).double().softmax(1)[:, 0], remove, image, saliency[None, None], n_perturb_samples=32,
        normalize=True,
    )  # fmt: skip
    assert infidelity(probe_of(network, image), 0, saliency, samples=32) == pytest.approx(float(theirs), rel=1e-4)


def test_sensitivity_n_beside_a_slow_restatement():
    generator = torch.Generator().manual_seed(0)
    image, saliency = torch.rand(1, 3, *SIZE, generator=generator), torch.rand(SIZE, generator=generator)
    network = Shown().eval()
    found = []
    for share in (0.2, 0.6):
        first = [0.2, 0.6].index(share) * 5
        sums, losses = [], []
        for one in sets_of_cells(SIZE, 2, (0.2, 0.6), 5, 7)[first : first + 5].numpy():
            sums.append(saliency.numpy()[one].sum())
            inputs = torch.cat([image, torch.where(torch.from_numpy(one), 0, image)])
            whole, rest = network(inputs).double().softmax(1)[:, 0].tolist()
            losses.append(whole - rest)
        found.append(np.corrcoef(sums, losses)[0, 1])
    mine = sensitivity_n(probe_of(network, image), 0, saliency, cell=2, shares=(0.2, 0.6), samples=5, seed=7)
    assert mine == pytest.approx(np.mean(found), abs=1e-4)


def test_pearson_of_what_does_not_vary():
    assert pearson(torch.full((3,), 0.1), torch.rand(3)) == 0
    assert pearson(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])) == pytest.approx(1)


@pytest.mark.parametrize("setting", [{"samples": 1}, {"shares": ()}, {"shares": (10,)}])
def test_sensitivity_n_refuses_settings_out_of_range(setting):
    with pytest.raises(SuiteError, match=r"10 % is 0\.1"):
        sensitivity_n(linear_probe(RAMP), 0, RAMP, **setting)
    with pytest.raises(SuiteError, match="whole number from 1"):
        infidelity(linear_probe(RAMP), 0, RAMP, samples=0)


def test_all_maps_and_targets_share_the_regions_passes():
    probe = linear_probe(RAMP / 64)
    metrics = [infidelity, functools.partial(sensitivity_n, cell=2), functools.partial(morf, cell=2)]
    probe.score_segments([segment for metric in metrics for segment in passes(metric, probe, 0, RAMP)])
    begun = probe.forward_passes
    for metric in metrics:
        metric(probe, 0, RAMP)
    for metric in metrics[:2]:
        metric(probe, 1, RAMP.flip(0))
    assert probe.forward_passes == begun


# ---------------------------------------------------------------- ROAD


def test_imputation_by_hand():
    """A pixel whose neighbours are known is their weighted mean; in a corner, of those there are."""
    image = torch.arange(9.0).reshape(1, 1, 3, 3) ** 2
    middle, corner = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    middle[1, 1], corner[0, 0] = True, True
    expected = (1 + 9 + 25 + 49) / 6 + (0 + 4 + 36 + 64) / 12
    found = impute(image, middle, noise=0)
    assert float(found[0, 0, 1, 1]) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(found[0, 0][~middle], image[0, 0][~middle])
    expected = ((1 + 9) / 6 + 16 / 12) / (2 / 6 + 1 / 12)
    assert float(impute(image, corner, noise=0)[0, 0, 0, 0]) == pytest.approx(expected, rel=1e-6)


def test_a_plane_is_restored_inside():
    """Linear imputation of a plane is exact away from the border."""
    plane = (torch.arange(12.0)[:, None] * 2 + torch.arange(12.0)[None] * 3).expand(1, 2, 12, 12)
    removed = torch.zeros(12, 12, dtype=torch.bool)
    removed[3:9, 2:8] = True
    torch.testing.assert_close(impute(plane, removed, noise=0), plane)
    noisy = impute(plane, removed, noise=0.01) - plane
    assert 0.005 < noisy[0, :, removed].std() < 0.02 and (noisy[0, :, ~removed] == 0).all()
    assert torch.equal(impute(plane, removed), impute(plane, removed))


def test_road_is_grad_cams(monkeypatch):
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.road")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # their noise
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(10, 10, generator=generator)
    network = Linear(weights).eval()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        image, saliency = torch.rand(1, 3, 10, 10, generator=generator), torch.rand(10, 10, generator=generator)
        expected = theirs.ROADCombined(percentiles=[20, 40, 60, 80])(
            image, saliency.numpy()[None], [lambda scores: scores[0]], network
        )
        found = road(linear_probe(weights, image), 0, saliency, noise=0)
        assert found == pytest.approx(float(expected[0]), abs=1e-5)


def test_road_of_simple_maps():
    """An image that is lit in one quarter, which the score is the sum of."""
    lit = torch.zeros(10, 10)
    lit[:5, :5] = 1
    probe = linear_probe(lit, lit[None, None])
    perfect = road(probe, 0, lit + torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) / 10)
    assert perfect > 0.5 > abs(road(linear_probe(torch.zeros(10, 10)), 0, lit))
    assert road(probe, 0, -lit) < 0


@pytest.mark.parametrize("shares", [(), (0.0,), (1.0,), (20,)])
def test_road_refuses_shares_out_of_range(shares):
    with pytest.raises(SuiteError, match=r"20 % is 0\.2"):
        road(linear_probe(RAMP), 0, RAMP, shares=shares)


def test_road_refuses_signals():
    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean(dim=(1, 2)), -x.mean(dim=(1, 2))], dim=1)

    with pytest.raises(SuiteError, match="got a signal of"):
        road(Probe(Mean().eval(), torch.rand(1, 1, 9)), 0, torch.rand(9))

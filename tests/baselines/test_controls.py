"""Controls: what they are, and the metric each of them games."""

from __future__ import annotations

import random as standard_random
from functools import partial
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
import torch
from checkout import ROOT
from omegaconf import OmegaConf

from sise.baselines.centre import centre
from sise.baselines.ground_truth import ground_truth
from sise.baselines.random import random
from sise.baselines.uniform import uniform
from sise.errors import SuiteError
from sise.metrics import bbox, ebpg, miou

CONFIGS = ROOT / "configs" / "explainer"


def probe_of(height=6, width=9, seed=0, masks=None):
    return SimpleNamespace(size=(height, width), device=torch.device("cpu"), seed=seed, ground_truth=masks)


def mask_of(*rows):
    return torch.tensor([[character == "#" for character in row] for row in rows])


@pytest.mark.parametrize("name", ["centre", "uniform", "random", "ground_truth"])
def test_config_and_contract(name):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert set(config) == {"name", "label", "control", "stochastic", "call"} and config.control
    assert config.name == name and config.call._target_ == f"sise.baselines.{name}.{name}"
    assert config.stochastic is (name == "random")
    explainer = hydra.utils.instantiate(config.call)
    masks = {target: torch.ones(6, 9, dtype=torch.bool) for target in (3, 1)}
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), standard_random.getstate()
    saliency = explainer(probe_of(masks=masks), [3, 1])
    assert saliency.shape == (2, 6, 9) and saliency.dtype == torch.float32 and not saliency.requires_grad
    assert saliency.min() >= 0 and saliency.max() <= 1
    assert explainer(probe_of(masks=masks), []).shape == (0, 6, 9)
    assert torch.equal(explainer(probe_of(masks=masks), [3, 1]), saliency)
    saliency[0] = -1  # maps are the caller's own
    assert saliency[1].min() >= 0
    assert torch.equal(generators[0], torch.get_rng_state())
    assert np.array_equal(generators[1], np.random.get_state()[1]) and generators[2] == standard_random.getstate()


# ---------------------------------------------------------------- centre


def test_centre_is_symmetric_and_peaks_in_the_middle():
    (saliency,) = centre(probe_of(5, 9), [0])
    assert saliency[2, 4] == 1.0 and saliency[0, 0] == 0.0
    assert torch.equal(saliency, saliency.flip(0)) and torch.equal(saliency, saliency.flip(1))


def test_centre_by_hand():
    # pixels at -1/3, 0, 1/3 of the side, sigma 1/3: exp(0), exp(-1/2), exp(-1), stretched to [0, 1]
    (saliency,) = centre(probe_of(3, 3), [0], sigma=1 / 3)
    edge = (np.exp(-0.5) - np.exp(-1)) / (1 - np.exp(-1))
    assert saliency.numpy() == pytest.approx(np.array([[0, edge, 0], [edge, 1, edge], [0, edge, 0]]), abs=1e-6)


def test_centre_has_the_images_aspect():
    (saliency,) = centre(probe_of(4, 12), [0])
    same_shares = saliency[:, [1, 4, 7, 10]]  # columns as far across as the rows are down: 1/8, 3/8, 5/8, 7/8
    assert torch.allclose(same_shares, same_shares.T)
    assert torch.equal(centre(probe_of(4, 4), [0]), centre(probe_of(4, 4), [7]))


@pytest.mark.parametrize("sigma", [1e-4, 0.01, 100])
def test_centre_of_extreme_sigma_is_a_map(sigma):
    saliency = centre(probe_of(4, 6), [0], sigma=sigma)
    assert torch.isfinite(saliency).all() and saliency.max() == 1 and saliency.min() == 0


def test_centre_edge_cases():
    assert torch.equal(centre(probe_of(1, 1), [0]), torch.zeros(1, 1, 1))
    for sigma in (0, -1, float("nan")):
        with pytest.raises(SuiteError, match="sigma"):
            centre(probe_of(), [0], sigma=sigma)


def test_centre_games_centred_objects():
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:24, 8:24] = True
    (saliency,) = centre(probe_of(32, 32), [0])
    share = mask.float().mean()
    assert ebpg(saliency, mask) > 2 * share and bbox(saliency, mask) > 3 * share


# ---------------------------------------------------------------- uniform, random


def test_uniform_scores_the_masks_share():
    """T2, exactly."""
    mask = mask_of("##.......", "##.......", *["........."] * 4)
    (saliency,) = uniform(probe_of(), [0])
    assert ebpg(saliency, mask) == bbox(saliency, mask) == 4 / 54


@pytest.mark.parametrize("cells", [None, 3])
def test_random_depends_on_seed_and_target_alone(cells):
    draw = partial(random, cells=cells)
    both = draw(probe_of(seed=5), [2, 4])
    assert not torch.equal(both[0], both[1])
    assert torch.equal(draw(probe_of(seed=5), [4])[0], both[1])
    assert not torch.equal(draw(probe_of(seed=6), [2])[0], both[0])
    assert torch.equal(draw(probe_of(seed=6), [2], seed=5)[0], both[0])
    assert torch.isfinite(draw(probe_of(seed=-1), [2])).all()


def test_random_is_not_torn_between_seed_and_target():
    """A seed made by adding the two would give one map to (0, 1) and (1, 0)."""
    assert not torch.equal(random(probe_of(seed=0), [1]), random(probe_of(seed=1), [0]))


def test_random_scores_chance():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[10:40, 20:50] = True
    share = mask.float().mean().item()
    maps = random(probe_of(64, 64), range(60))
    assert np.mean([ebpg(saliency, mask) for saliency in maps]) == pytest.approx(share, abs=0.005)
    assert np.mean([bbox(saliency, mask) for saliency in maps]) == pytest.approx(share, abs=0.005)
    assert np.mean([miou(saliency, mask) for saliency in maps]) == pytest.approx(
        0.2 * share / (0.2 + share - 0.2 * share), abs=0.005
    )


def test_smooth_random_is_smooth():
    (rough,), (smooth,) = random(probe_of(64, 64), [0]), random(probe_of(64, 64), [0], cells=4)
    assert smooth.diff(dim=1).abs().max() < 0.1 < rough.diff(dim=1).abs().mean()
    assert smooth.min() == 0 and smooth.max() == 1
    with pytest.raises(SuiteError, match="cells"):
        random(probe_of(), [0], cells=1)


# ---------------------------------------------------------------- ground truth


def test_box_is_tight_and_has_the_right_axes():
    parts = mask_of(".....", "...#.", ".....", ".#...")
    expected = mask_of(".....", ".###.", ".###.", ".###.")
    probe = probe_of(4, 5, masks={7: parts})
    assert torch.equal(ground_truth(probe, [7])[0], expected.float())
    assert torch.equal(ground_truth(probe, [7], shape="mask")[0], parts.float())
    assert not torch.equal(expected, expected.flip(0))


def test_box_of_each_target():
    masks = {7: mask_of("#..", "..."), 2: mask_of("...", ".##"), 5: mask_of("...", "...")}
    saliency = ground_truth(probe_of(2, 3, masks=masks), [5, 2, 7])
    assert saliency.tolist() == [[[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 1]], [[1, 0, 0], [0, 0, 0]]]


def test_numpy_masks_are_read():
    saliency = ground_truth(probe_of(2, 2, masks={0: np.array([[True, False], [False, False]])}), [0])
    assert saliency.tolist() == [[[1, 0], [0, 0]]]


def test_ground_truth_games_localization():
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[3:9, 5:12] = True
    (saliency,) = ground_truth(probe_of(16, 16, masks={0: mask}), [0])
    assert ebpg(saliency, mask) == bbox(saliency, mask) == 1.0
    # 42 pixels, 51 salient: the box and 9 others
    assert miou(saliency, mask) == pytest.approx(42 / 51)


def test_ground_truth_says_what_is_missing():
    with pytest.raises(SuiteError, match=r"probe\.ground_truth"):
        ground_truth(probe_of(), [0])
    with pytest.raises(SuiteError, match=r"target 3, only for \[1, 2\]"):
        ground_truth(probe_of(2, 2, masks={2: mask_of("#.", ".."), 1: mask_of("#.", "..")}), [3])
    with pytest.raises(SuiteError, match=r"\(6, 9\), got \(2, 2\)"):
        ground_truth(probe_of(masks={0: mask_of("#.", "..")}), [0])
    with pytest.raises(SuiteError, match="shape"):
        ground_truth(probe_of(masks={}), [], shape="disc")

"""The switches of the component ablation, each against tests/witnesses/reference.py, and what they cost."""

import numpy as np
import pytest
import reference
import torch
from reference import Plain, Residual, picture, seeded

from sise.errors import SuiteError
from sise.method import layer_names, shuffled, sise
from sise.probe.probe import Probe


def probe_of(build, seed=0):
    return Probe(seeded(build()), picture(), layers=build.LAYERS, seed=seed)


def agrees(quick, slow):
    """At most 0.5 % of the pixels off by more than 1e-3, for Otsu's threshold jumps from bin to bin."""
    return (np.abs(np.asarray(quick, dtype=np.float64) - slow) > 1e-3).mean() <= 0.005


@pytest.mark.parametrize("build", [Plain, Residual])
@pytest.mark.parametrize("contribution", ["mask_size", "none"])
def test_scores_of_one_take_no_masked_pass(build, contribution):
    probe = probe_of(build)
    quick = sise(probe, [1], score="one", contribution=contribution)[0]
    assert (probe.forward_passes, probe.backward_passes) == (1, 1)
    slow = reference.sise(probe.network, probe.image, 1, list(build.LAYERS), score="one", contribution=contribution)
    assert agrees(quick, slow)
    scored = sise(probe, [1], contribution=contribution)[0].numpy()
    assert probe.forward_passes > 1 and np.abs(scored - slow).max() > 1e-4 > np.abs(quick.numpy() - slow).max()


@pytest.mark.parametrize("build", [Plain, Residual])
def test_all_feature_maps(build):
    probe = probe_of(build)
    maps = reference.run(probe.network, probe.image, list(build.LAYERS))[1]
    everything = {layer: list(range(a.shape[1])) for layer, a in maps.items()}
    slow = reference.sise(probe.network, probe.image, 1, list(build.LAYERS), draw=everything)
    quick = sise(probe, [1], selection="all")[0]
    assert agrees(quick, slow)
    live = sum(int(a.min() < a.max()) for layer in maps.values() for a in layer[0])
    assert probe.forward_passes == 1 + live


@pytest.mark.parametrize("build", [Plain, Residual])
def test_random_selection(build):
    probe = probe_of(build, seed=3)
    draw = {}
    for layer in build.LAYERS:
        chosen = (probe.gradient_scores(layer, 1) > 0)[None]
        drawn = shuffled(probe, layer, [1], chosen)
        assert int(drawn.sum()) == int(chosen.sum()) and not torch.equal(drawn, chosen)
        draw[layer] = drawn[0].nonzero()[:, 0].tolist()
    slow = reference.sise(probe.network, probe.image, 1, list(build.LAYERS), draw=draw)
    assert agrees(sise(probe, [1], selection="random")[0], slow)


def test_random_selection_depends_on_seed_layer_and_target_alone():
    one, other = probe_of(Plain, seed=1), probe_of(Plain, seed=2)
    together = sise(one, [2, 0, 1], selection="random")
    for i, target in enumerate([2, 0, 1]):
        torch.testing.assert_close(sise(probe_of(Plain, seed=1), [target], selection="random")[0], together[i])
    assert not torch.allclose(sise(other, [2, 0, 1], selection="random"), together, atol=1e-2)
    chosen = torch.arange(16)[None] < 8
    drawn = {layer: shuffled(one, layer, [0], chosen) for layer in Plain.LAYERS}
    assert len({tuple(d[0].tolist()) for d in drawn.values()}) == 3
    assert not torch.equal(shuffled(one, "a", [0], chosen), shuffled(one, "a", [1], chosen))


def test_every_feature_map_can_be_drawn():
    probe = probe_of(Plain)
    hits = torch.zeros(10)
    for seed in range(400):
        probe.seed = seed
        hits += shuffled(probe, "block1.3", [0], torch.arange(10)[None] < 3)[0]
    assert float(hits.min()) > 80 and float(hits.max()) < 160  # 120 each, s.d. 9


def test_plain_addition_is_the_sum_of_the_layers():
    probe = probe_of(Residual)
    alone = [sise(probe, [1], layers=[i]) for i in range(3)]
    added = sise(probe, [1], gate="none", normalise=False)
    torch.testing.assert_close(added, sum(alone), atol=1e-5, rtol=0)


def test_layers_by_position():
    probe = probe_of(Plain)
    for position, name in ((0, "block1.3"), (-1, "block3.1"), (1, "block2.1")):
        assert torch.equal(sise(probe, [0], layers=[position]), sise(probe, [0], layers=[name]))
    assert layer_names([2, "x", 0], ("a", "b", "c")) == ("c", "x", "a")


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"score": "ones"}, "Did you mean 'one'"),
        ({"selection": "gradients"}, "Did you mean 'gradient'"),
        ({"layers": [3]}, r"no layer at position 3: the probe has 3 layers \(block1\.3, block2\.1, block3\.1\)"),
        ({"layers": [-4]}, "no layer at position -4"),
    ],
)
def test_mistakes(switches, words):
    with pytest.raises(SuiteError, match=words):
        sise(probe_of(Plain), [0], **switches)

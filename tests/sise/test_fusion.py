"""Fusion: gates and the cascade, by hand and against tests/witnesses/reference.py."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sise.choices import GATES
from sise.errors import SuiteError
from sise.fusion import cascade, fuse, open_gate
from sise.maps import minmax
from sise.metrics.faithfulness import keep_mask
from sise.otsu import otsu256

pytestmark = pytest.mark.numeric

SIZE = (24, 30)


def smooth_map(seed, power=1.0, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, 5, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[0, 0]
    return minmax(minmax(fine) ** power)


# ------------------------------------------------------------------------------------------------ Otsu


def test_otsu256_by_hand():
    # 30 zeros, 10 ones: every split between them is as good, the first one is bin 1
    two_levels = torch.tensor([0.0] * 30 + [1.0] * 10)[None]
    assert otsu256(two_levels, raise_threshold=False) == 1 / 256
    # bins 0 and 128 against 192 and 255 (1.0 shares the last bin): the first split past bin 128
    four_levels = torch.tensor([0.0] * 40 + [0.5] * 40 + [0.75] * 10 + [1.0] * 10)[None]
    between = {
        1: 40 * 60 * (0 - (128 * 40 + 192 * 10 + 255 * 10) / 60) ** 2,
        129: 80 * 20 * (64 - 223.5) ** 2,
        193: 90 * 10 * ((128 * 40 + 192 * 10) / 90 - 255) ** 2,
    }
    best = max(between, key=between.get)
    assert otsu256(four_levels, raise_threshold=False) == best / 256
    assert otsu256(four_levels, raise_threshold=True) == reference.otsu256(four_levels.numpy(), tau=True)


def test_otsu256_is_raised_when_under_a_tenth_reach_one_and_a_half():
    # .3 is bin 77, so the split falls at 78 (1.5 times: 117); nine of 100 reach that: raised
    values = torch.tensor([0.0] * 50 + [0.25] * 1 + [0.3] * 40 + [1.0] * 9)[None]
    split = otsu256(values, raise_threshold=False)
    assert split == 78 / 256
    reached = int((np.minimum(np.round(values.numpy() * 256), 255) >= round(1.5 * split * 256)).sum())
    assert reached == 9
    assert otsu256(values) == 1.5 * split
    # and ten of 100 are no longer under a tenth
    values[0, 90] = 1.0
    split = otsu256(values, raise_threshold=False)
    reached = int((np.minimum(np.round(values.numpy() * 256), 255) >= round(1.5 * split * 256)).sum())
    assert reached == 10
    assert otsu256(values) == split


def test_otsu256_without_values_near_zero_takes_the_first_undefined_split():
    assert otsu256(torch.tensor([[0.5, 0.6, 0.7, 1.0]]), raise_threshold=False) == 1 / 256


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tau", [True, False])
def test_otsu256_equals_reference(seed, tau):
    v = smooth_map(seed, power=1 + 0.7 * seed).double()
    assert otsu256(v, raise_threshold=tau) == reference.otsu256(v.numpy(), tau=tau)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", GATES)
def test_gates_equal_reference(seed, kind):
    v = smooth_map(seed, power=1 + 0.7 * seed).double()
    expected = reference.gate(v.numpy(), kind, 70.0)
    np.testing.assert_allclose(open_gate(v, kind, 70.0), expected, rtol=0, atol=1e-12)


def test_hard_gate_is_strict_and_binary():
    v = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert open_gate(v, "otsu_hard").tolist() == [[0, 0, 0, 1]]
    assert set(open_gate(smooth_map(3), "otsu_hard").unique().tolist()) == {0.0, 1.0}


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=60), st.sampled_from(GATES), st.floats(0.1, 500))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_gates_stay_in_the_unit_range_and_never_fall(values, kind, temperature):
    v = minmax(torch.tensor(values)[None])
    opened = open_gate(v, kind, temperature)
    assert opened.shape == v.shape and bool(((opened >= 0) & (opened <= 1)).all())
    order = v[0].argsort()
    assert bool((opened[0][order].diff() >= 0).all())


# ------------------------------------------------------------------------------------------------ the cascade


def test_cascade_by_hand():
    low, middle, high = (
        torch.tensor([[0.0, 1.0, 0.5, 1.0]]),
        torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        torch.tensor([[1.0, 1.0, 0.0, 1.0]]),
    )
    # (low + middle) * [0 0 1 1] = [0 0 1.5 2]; (that + high) * [1 1 0 1] = [1 1 0 3]
    raw = fuse([low, middle, high], gate="otsu_hard", normalise=False)
    assert raw.tolist() == [[1, 1, 0, 3]]
    assert torch.allclose(fuse([low, middle, high], gate="otsu_hard"), raw / 3)
    simple = fuse([low, middle, high], gate="simple", normalise=False)
    assert simple.tolist() == [[1, 1, 0, 3]]


def test_first_map_is_not_gated_and_order_matters():
    a, b = smooth_map(1), smooth_map(2)
    assert torch.equal(fuse([a]), minmax(a))
    assert not torch.allclose(fuse([a, b]), fuse([b, a]), atol=1e-2)


SOFT = [kind for kind in GATES if "soft" in kind]  # the gates that the temperature changes


@pytest.mark.parametrize(("kind", "temperature"), [(kind, 100.0) for kind in GATES] + [(kind, 30.0) for kind in SOFT])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_cascade_equals_reference(kind, temperature, normalise, count):
    maps = [smooth_map(seed, power=1 + seed / 3).double() for seed in range(count)]
    slowly = reference.fuse([m.numpy() for m in maps], SIZE, kind=kind, temperature=temperature, normalise=normalise)
    quickly = fuse(maps, gate=kind, temperature=temperature, normalise=normalise)
    np.testing.assert_allclose(quickly, slowly, rtol=0, atol=1e-10)


EVERY_GATE = [(kind, {1}) for kind in GATES]  # which layers are missing matters alike behind every gate


@pytest.mark.parametrize("empty", ["skip", "zero", "nan"])
@pytest.mark.parametrize(
    ("kind", "missing"), [*EVERY_GATE, *[("otsu_soft", missing) for missing in ({0}, {2}, {0, 1}, {1, 2}, {0, 2})]]
)
def test_missing_layers_equal_reference(kind, empty, missing):
    maps = [None if i in missing else smooth_map(i, power=2).double() for i in range(3)]
    slowly = reference.fuse([None if m is None else m.numpy() for m in maps], SIZE, kind=kind, empty=empty)
    quickly = fuse(maps, gate=kind, empty=empty)
    np.testing.assert_allclose(quickly, slowly, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", GATES)
def test_missing_layers_by_hand(kind):
    a, b = smooth_map(1), smooth_map(2)
    assert torch.equal(fuse([a, None, b], gate=kind), fuse([a, b], gate=kind))
    assert torch.equal(fuse([None, a, b], gate=kind), fuse([a, b], gate=kind))
    assert not fuse([a, b, None], gate=kind, empty="zero").any()
    # what lies below a zero map is gone
    assert torch.equal(fuse([a, None, b], gate=kind, empty="zero"), fuse([torch.zeros(SIZE), b], gate=kind))
    assert bool(fuse([a, b, None], gate=kind, empty="nan").isnan().all())


def test_all_layers_missing():
    assert fuse([None, None]) is None
    assert fuse([None, None], empty="zero") is None


def test_fusion_changes_no_input():
    maps = [smooth_map(seed) for seed in range(3)]
    before = [m.clone() for m in maps]
    for kind in GATES:
        fuse(maps, gate=kind)
    assert all(torch.equal(m, b) for m, b in zip(maps, before, strict=True))


@pytest.mark.parametrize(
    ("switches", "words"),
    [({"gate": "otsu"}, "otsu_soft"), ({"empty": "skipp"}, "'skip'")],
)
def test_unknown_switches_list_the_known(switches, words):
    with pytest.raises(SuiteError, match=words):
        fuse([smooth_map(0)], **switches)


def test_no_layers_at_all():
    with pytest.raises(SuiteError, match="at least one layer"):
        fuse([])


# ------------------------------------------------------------------------------------------------ ranks behind a gate


def test_a_ranked_gate_by_hand():
    """Otsu parts 0, 0.2, 0.25 | 0.9, 1; the sum behind the closed gate orders the pixels there."""
    low, high = torch.tensor([[0.5, 0.1, 0.9, 0.0, 1.0]]), torch.tensor([[0.0, 0.2, 0.9, 0.25, 1.0]])
    hard = fuse([low, high], gate="otsu_hard", normalise=False)
    ranked = fuse([low, high], gate="otsu_ranked", normalise=False)
    torch.testing.assert_close(hard, torch.tensor([[0.0, 0.0, 1.8, 0.0, 2.0]]))
    torch.testing.assert_close(ranked, torch.tensor([[5e-7, 3e-7, 1.8, 2.5e-7, 2.0]]), rtol=1e-5, atol=0)
    assert open_gate(torch.ones(2, 2), "otsu_ranked").unique().tolist() == pytest.approx([1e-6])


@pytest.mark.parametrize("seed", range(6))
def test_a_ranked_gate_changes_the_order_behind_the_gate_alone(seed):
    """Beside the hard one: the same energy, the open pixels first, the closed ones in the order of their sum."""
    layers = [smooth_map(seed + 10 * i, power=1 + i) for i in range(4)]
    hard, ranked = (fuse(layers, gate=gate) for gate in ("otsu_hard", "otsu_ranked"))
    opened = open_gate(layers[-1], "otsu_hard").bool()
    torch.testing.assert_close(hard, ranked, rtol=0, atol=1e-5)
    assert ranked[opened].min() > ranked[~opened].max() and len(ranked[~opened].unique()) > 100
    behind = cascade([*layers[:-1], layers[-1]], gate="otsu_ranked")[-2].fused + layers[-1]
    by_sum = behind[~opened].sort()
    found = ranked[~opened][by_sum.indices].diff()
    apart = by_sum.values.diff() > 1e-6 * behind.max()  # nearer ones may round to the same
    assert (found >= 0).all() and (found[apart] > 0).all() and apart.float().mean() > 0.5
    kept = {gate: int(keep_mask(one, fraction=0.6).sum()) for gate, one in (("hard", hard), ("ranked", ranked))}
    assert 425 <= kept["ranked"] <= int(0.6 * 720) == 432  # pixels at the border are equal in all layers
    assert kept["hard"] == int((hard > 0).sum()) < 425

"""Metrics: values by hand, every way to break ties enumerated, edge cases, invariances, arithmetic of tables."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from functools import partial

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from checkout import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from sise.benchmark.tables import arithmetic
from sise.errors import SuiteError
from sise.metrics import bbox, confidences, drop, ebpg, increase, keep_mask, miou
from sise.probe.probe import Probe
from sise.types import Value, by_definition

LOCALIZATION = (ebpg, miou, bbox)
FAITHFULNESS = (drop, increase)


def maps_of(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def mask_of(*rows):
    return torch.tensor([[character == "#" for character in row] for row in rows])


# ---------------------------------------------------------------- by hand

# A 3 x 4 map with a box at rows 0..1, column 3: swapped axes, or a transposed mask, give other values.
ASYMMETRIC = maps_of([1, 2, 3, 11], [4, 5, 6, 10], [7, 8, 9, 0])
BOX = mask_of("...#", "...#", "....")


def test_asymmetric_box_by_hand():
    assert ebpg(ASYMMETRIC, BOX) == pytest.approx(21 / 66)
    assert bbox(ASYMMETRIC, BOX) == 1.0
    assert miou(ASYMMETRIC, BOX, fraction=0.25) == pytest.approx(2 / 3)  # 11 10 9; union 3
    assert miou(ASYMMETRIC, BOX) == 1.0  # int(2.4) = 2 pixels, the box
    # the same box with x and y swapped, and so cut off at the image's border
    swapped = mask_of("....", "....", "....")
    swapped[2:3, 0:2] = True
    assert ebpg(ASYMMETRIC, swapped) == pytest.approx(15 / 66)
    assert bbox(ASYMMETRIC, swapped) == 0.0


def test_two_by_two_by_hand():
    saliency, mask = maps_of([4, 1], [2, 3]), mask_of("#.", "#.")
    assert ebpg(saliency, mask) == pytest.approx((3 + 1) / (3 + 0 + 1 + 2))
    assert ebpg(saliency, mask, normalise="raw") == pytest.approx(6 / 10)
    assert bbox(saliency, mask) == 0.5  # the two highest are 4 and 3
    assert miou(saliency, mask, fraction=0.5) == pytest.approx(1 / 3)
    assert miou(saliency, mask, fraction=0.75) == pytest.approx(2 / 3)
    assert miou(saliency, mask, fraction=1) == 0.5


def test_energy_is_signed_only_before_normalising():
    saliency, mask = maps_of([-3, 1], [1, 1]), mask_of("#.", "..")
    assert ebpg(saliency, mask) == 0.0  # the lowest pixel has no energy
    assert ebpg(saliency, mask, normalise="raw") == 0.5  # 3 / 6: the norm takes absolute values


def test_pairs_that_settings_leave_out_have_no_value():
    saliency, mask, nothing = maps_of([4, 1], [2, 3]), mask_of("#.", "#."), torch.zeros(2, 2)
    omit = partial(ebpg, zero="omit")
    assert omit(nothing, mask) is None and by_definition(omit(nothing, mask)) == ""
    assert omit(nothing - 1, mask) is None and by_definition(omit(nothing - 1, mask)) == ""  # a constant without energy
    assert omit(saliency, mask) == ebpg(saliency, mask) and omit(nothing + 1, mask) == 0.5
    assert bbox(saliency, mask, largest_mask=0.49) is None  # the mask is half of the image
    assert bbox(saliency, mask, largest_mask=0.5) == bbox(saliency, mask) == 0.5
    with pytest.raises(SuiteError, match=r"largest_mask must be null or a share .* got 33; 33 % is 0.33"):
        bbox(saliency, mask, largest_mask=33)


def test_ties_by_hand():
    saliency, mask = maps_of([5, 1, 1], [1, 0, 0]), mask_of("##.", ".#.")
    # N = 3: 5 is in, two of the three ones follow, one of them lies in the mask
    assert bbox(saliency, mask) == pytest.approx((1 + 2 / 3) / 3)
    assert bbox(saliency, mask, ties="stable") == pytest.approx(2 / 3)
    # two pixels: 5 and one of three; 2 of 3 in union if it hits (1/3), else 1 of 4. Not the IoU of 4/3 hits, 0.3636
    assert miou(saliency, mask, fraction=0.34) == pytest.approx(1 / 3 * 2 / 3 + 2 / 3 * 1 / 4)
    assert miou(saliency, mask, fraction=0.34, ties="stable") == pytest.approx(2 / 3)


def test_stable_follows_raster_order():
    mask = mask_of("..", "##")
    assert bbox(torch.ones(2, 2), mask, ties="stable") == 0.0
    assert bbox(torch.ones(2, 2), ~mask, ties="stable") == 1.0


# ---------------------------------------------------------------- an independent restatement


def every_top(values, count):
    """All sets of ``count`` indices that are a top of ``values``."""
    for chosen in itertools.combinations(range(len(values)), count):
        rest = [values[i] for i in range(len(values)) if i not in chosen]
        if not chosen or not rest or min(values[i] for i in chosen) >= max(rest):
            yield set(chosen)


def slow(saliency, mask, fraction):
    """EBPG, mIoU and Bbox in plain Python, ties by enumeration."""
    values, truth = saliency.flatten().tolist(), mask.flatten().tolist()
    inside = {i for i, covered in enumerate(truth) if covered}
    stretched = [value - min(values) for value in values] if min(values) < max(values) else values
    energy = sum(stretched[i] for i in inside) / sum(stretched)
    tops = list(every_top(values, int(fraction * len(values))))
    iou = sum(len(top & inside) / len(top | inside) for top in tops) / len(tops)
    tops = list(every_top(values, len(inside)))
    return energy, iou, sum(len(top & inside) / len(inside) for top in tops) / len(tops)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.tuples(
            st.lists(st.integers(1, 4), min_size=2 * width, max_size=2 * width),
            st.lists(st.booleans(), min_size=2 * width, max_size=2 * width).filter(any),
        )
    ),
    st.sampled_from([0.2, 0.5, 0.75, 1.0]),
)
def test_agrees_with_enumeration(drawn, fraction):
    values, truth = drawn
    saliency = torch.tensor(values, dtype=torch.float32).reshape(2, -1)
    mask = torch.tensor(truth).reshape(2, -1)
    energy, iou, hits = slow(saliency, mask, fraction)
    assert ebpg(saliency, mask) == pytest.approx(energy)
    assert miou(saliency, mask, fraction=fraction) == pytest.approx(iou)
    assert bbox(saliency, mask) == pytest.approx(hits)


def test_expected_iou_at_full_size():
    """A constant 224 x 224 map: exact rational arithmetic is too slow, a long simulation is not."""
    mask = torch.zeros(224, 224, dtype=torch.bool)
    mask[:100, :160] = True
    hits = np.random.default_rng(0).hypergeometric(16000, 224 * 224 - 16000, 10035, size=200_000)
    expected = (hits / (10035 + 16000 - hits)).mean()
    assert miou(torch.ones(224, 224), mask) == pytest.approx(expected, abs=2e-5)


def test_expected_iou_of_few_hits_in_many_ties():
    """One mask pixel among 49 999 ties, one place left: hits with probability 1 / 49 999."""
    saliency, mask = torch.zeros(200, 250), torch.zeros(200, 250, dtype=torch.bool)
    saliency[0, 0] = 1
    mask[5, 7] = True
    assert miou(saliency, mask, fraction=2 / 50_000) == pytest.approx((1 / 49_999) * (1 / 2), rel=1e-6)


# ---------------------------------------------------------------- edge cases


@pytest.mark.parametrize("value", [1.0, 0.25])
def test_positive_constant_map_scores_the_masks_share(value):
    mask = mask_of("##..", "#...")
    constant = torch.full((2, 4), value)
    assert ebpg(constant, mask) == bbox(constant, mask) == 3 / 8
    assert ebpg(constant, mask, normalise="raw") == 3 / 8
    assert by_definition(ebpg(constant, mask)) == "constant map"
    assert by_definition(partial(ebpg, normalise="raw")(constant, mask)) == ""
    assert by_definition(bbox(constant, mask)) == by_definition(partial(miou, fraction=0.5)(constant, mask)) == ""


@pytest.mark.parametrize("value", [0.0, -0.0, -2.0])
def test_map_without_energy(value):
    mask, constant = mask_of("##..", "#..."), torch.full((2, 4), value)
    assert ebpg(constant, mask) == 0.0
    assert ebpg(constant, mask, zero="uniform") == 3 / 8
    assert bbox(constant, mask) == 3 / 8
    assert by_definition(ebpg(constant, mask)) == ("zero map" if value == 0 else "constant map")


def test_zero_map_is_undefined_in_raw_form_too():
    assert by_definition(partial(ebpg, normalise="raw")(torch.zeros(2, 2), mask_of("#.", ".."))) == "zero map"


def test_empty_mask_scores_no_hit_and_is_flagged():
    empty = torch.zeros(3, 4, dtype=torch.bool)
    for metric in LOCALIZATION:
        for saliency in (ASYMMETRIC, torch.zeros(3, 4), torch.ones(3, 4)):
            assert metric(saliency, empty) == 0.0
            assert by_definition(metric(saliency, empty)) == "empty mask"
            assert by_definition(partial(metric)(saliency, empty)) == "empty mask"


def test_whole_image_mask():
    full = torch.ones(3, 4, dtype=torch.bool)
    assert ebpg(ASYMMETRIC, full) == bbox(ASYMMETRIC, full) == 1.0
    assert miou(ASYMMETRIC, full) == 2 / 12
    assert not any(by_definition(metric(ASYMMETRIC, full)) for metric in LOCALIZATION)


def test_no_salient_pixel_is_flagged():
    saliency, mask = maps_of([4, 1], [2, 3]), mask_of("#.", "..")
    assert miou(saliency, mask) == 0.0  # int(0.8)
    assert by_definition(miou(saliency, mask)) == "fraction of less than one pixel"
    assert by_definition(partial(miou, fraction=0.25)(saliency, mask)) == ""


@pytest.mark.parametrize("metric", LOCALIZATION)
def test_not_finite_is_refused_and_counted(metric):
    broken = ASYMMETRIC.clone()
    broken[0, :2], broken[1, 0] = torch.nan, -torch.inf
    with pytest.raises(SuiteError, match="2 NaN and 1 infinite of 12"):
        metric(broken, BOX)


@pytest.mark.parametrize("metric", LOCALIZATION)
def test_wrong_input_is_refused(metric):
    with pytest.raises(SuiteError, match=r"\(3, 4\) and \(4, 3\)"):
        metric(ASYMMETRIC, BOX.T)
    with pytest.raises(SuiteError, match="one shape"):
        metric(ASYMMETRIC[None], BOX[None])
    with pytest.raises(SuiteError, match=r"boolean, got torch\.float32"):
        metric(ASYMMETRIC, BOX.float())
    with pytest.raises(SuiteError, match="is it the mask"):
        metric(BOX, BOX)
    with pytest.raises(SuiteError, match="must have pixels"):
        metric(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool))


def test_unknown_switches_are_refused():
    for call in (
        partial(ebpg, normalise="max"),
        partial(ebpg, zero="skip"),
        partial(miou, ties="random"),
        partial(bbox, ties="mean"),
        partial(miou, fraction=20),
    ):
        with pytest.raises(SuiteError):
            call(ASYMMETRIC, BOX)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    for metric in LOCALIZATION:
        assert metric(ASYMMETRIC.to(dtype), BOX) == metric(ASYMMETRIC, BOX)


def test_inputs_are_left_unchanged():
    saliency, mask = ASYMMETRIC.clone(), BOX.clone()
    for metric in LOCALIZATION:
        assert type(metric(saliency, mask)) is float
    keep_mask(saliency)
    assert torch.equal(saliency, ASYMMETRIC) and torch.equal(mask, BOX)


def test_a_plain_float_counts_as_computed():
    assert by_definition(0.5) == by_definition(None) == by_definition(Value(0.5)) == ""


def test_a_value_set_by_definition_is_a_float_that_keeps_its_reason():
    value = Value(0.5, "empty mask")
    assert value == 0.5 and json.dumps(value) == "0.5" and by_definition(value) == "empty mask"
    for same in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert same == value and by_definition(same) == "empty mask"
    assert type(2 * value) is float  # what is computed with it is not what was defined


# ---------------------------------------------------------------- invariances and bounds


@st.composite
def pairs(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    size = height * width
    values = draw(st.lists(st.integers(-8, 8), min_size=size, max_size=size))
    truth = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return torch.tensor(values, dtype=torch.float32).reshape(height, width), torch.tensor(truth).reshape(height, width)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pairs())
def test_bounds_and_invariances(pair):
    saliency, mask = pair
    constant = bool(saliency.min() == saliency.max())
    for metric in LOCALIZATION:
        value = metric(saliency, mask)
        assert 0 <= value <= 1
        assert metric(saliency * 4, mask) == pytest.approx(value)
        if not (metric is ebpg and constant):
            assert metric(saliency + 16, mask) == pytest.approx(value)
        for flip in (torch.fliplr, torch.flipud, torch.t):
            assert metric(flip(saliency), flip(mask)) == pytest.approx(value)
    salient, covered = int(0.2 * mask.numel()), int(mask.sum())
    assert miou(saliency, mask) <= min(salient, covered) / max(salient, covered, 1) + 1e-12
    if constant:
        assert bbox(saliency, mask) == pytest.approx(covered / mask.numel())
    else:  # what is not inside is outside
        assert ebpg(saliency, mask) + ebpg(saliency, ~mask) == pytest.approx(1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs())
def test_the_mask_itself_is_a_perfect_map(pair):
    _, mask = pair
    if mask.any() and not mask.all():
        assert ebpg(mask.float(), mask) == bbox(mask.float(), mask) == 1.0


# ---------------------------------------------------------------- faithfulness


class FakeProbe:
    """A linear network: class 1's confidence is the base plus the kept pixels' weights, class 0's is 0, 2's is 7."""

    def __init__(self, weights, base=0.0):
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.base, self.size, self.asked = base, tuple(self.weights.shape), []

    def scores(self):
        return self.score_masks(torch.ones(1, *self.size, dtype=torch.bool))[0]

    def score_masks(self, masks):
        assert masks.dtype == torch.bool and masks.shape[1:] == self.size
        self.asked.append(masks)
        kept = self.base + (masks * self.weights).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(kept), kept, torch.full_like(kept, 7)], dim=1)

    def to_confidence(self, scores):
        return scores.double()


WEIGHTS = [[0.4, 0.2], [0.1, 0.05]]


def test_rounding_is_no_increase():
    """The engine's copy of the network is not bit-equal to it: both confidences must be the copy's."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(16, 5))  # fmt: skip
    network[1].running_var.uniform_(0.5, 2)
    probe = Probe(network.eval(), torch.randn(1, 3, 20, 20))
    saliency = torch.rand(20, 20)
    for target in range(5):
        assert increase(probe, target, saliency, fraction=1) == drop(probe, target, saliency, fraction=1) == 0
    assert not torch.equal(probe.scores(), probe.score_masks(torch.ones(1, 20, 20, dtype=torch.bool))[0])


def test_keep_mask_by_hand():
    saliency = maps_of([1, 4], [3, 2])
    for rule in ("above", "exact"):
        assert keep_mask(saliency, fraction=0.5, rule=rule).tolist() == [[False, True], [True, False]]
        assert keep_mask(saliency, fraction=0.74, rule=rule).sum() == 2  # int(2.96)
        assert keep_mask(saliency, fraction=0, rule=rule).sum() == 0
        assert keep_mask(saliency, fraction=1, rule=rule).sum() == 4


def test_keep_mask_of_ties():
    saliency = maps_of([1, 2, 2], [2, 0, 3])
    # the third largest is tied with the first left out, so "above" keeps 3 alone
    assert keep_mask(saliency, fraction=0.5).tolist() == [[False, False, False], [False, False, True]]
    assert keep_mask(saliency, fraction=0.5, rule="exact").tolist() == [[False, True, True], [False, False, True]]
    # ties inside the kept set matter to neither
    assert keep_mask(saliency, fraction=0.67).sum() == 4
    constant = torch.ones(4, 5)
    assert keep_mask(constant).sum() == 0
    assert keep_mask(constant, rule="exact").sum() == 3


def test_keep_mask_of_a_signal():
    assert keep_mask(torch.tensor([0.0, 3, 1, 2]), fraction=0.5).tolist() == [False, True, False, True]


def test_keep_mask_default_is_15_percent():
    assert (
        keep_mask(torch.rand(224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).sum() == 7526
    )


def test_keep_mask_refuses():
    with pytest.raises(SuiteError, match="1 NaN and 0 infinite of 2"):
        keep_mask(torch.tensor([0.0, torch.nan]))
    with pytest.raises(SuiteError, match=r"15 % is 0\.15"):
        keep_mask(torch.rand(4), fraction=15)
    with pytest.raises(SuiteError, match="exact"):
        keep_mask(torch.rand(4), rule="exactly")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs(), st.floats(0, 0.99))
def test_keep_mask_is_the_threshold_of_the_protocol(pair, fraction):
    """PROTOCOL section 3, in numpy."""
    array = pair[0].numpy()
    threshold = np.sort(array.ravel())[::-1][int(fraction * array.size)]
    assert np.array_equal(keep_mask(pair[0], fraction=fraction).numpy(), array > threshold)
    exact = keep_mask(pair[0], fraction=fraction, rule="exact").numpy()
    assert exact.sum() == int(fraction * array.size)
    assert exact[array > threshold].all() and not exact[array < threshold].any()


def test_drop_and_increase_by_hand():
    probe, saliency = FakeProbe(WEIGHTS), maps_of([1, 4], [3, 2])
    # keeps 0.2 and 0.1 of 0.75
    assert confidences(probe, 1, saliency, fraction=0.5) == pytest.approx((0.75, 0.3))
    assert drop(probe, 1, saliency, fraction=0.5) == pytest.approx(0.6)
    assert increase(probe, 1, saliency, fraction=0.5) == 0.0
    assert by_definition(partial(drop, fraction=0.5)(probe, 1, saliency)) == ""

    negative = FakeProbe([[-0.25, 0.5], [0.25, 0.0]])  # Y = 0.5, O = 0.75
    assert drop(negative, 1, saliency, fraction=0.5) == 0.0
    assert increase(negative, 1, saliency, fraction=0.5) == 1.0


def test_drop_is_relative_and_of_the_given_target():
    saliency = maps_of([1, 4], [3, 2])
    assert drop(FakeProbe(WEIGHTS, base=0.25), 1, saliency, fraction=0.5) == pytest.approx(0.45 / 1.0)
    assert by_definition(drop(FakeProbe(WEIGHTS), 0, saliency)) == "zero confidence"  # class 0 is always 0


def test_equal_confidence_is_no_increase():
    probe = FakeProbe([[0.0, 0.5], [0.0, 0.0]])
    saliency = maps_of([1, 4], [3, 2])
    assert confidences(probe, 1, saliency, fraction=0.25) == (0.5, 0.5)
    assert drop(probe, 1, saliency, fraction=0.25) == increase(probe, 1, saliency, fraction=0.25) == 0.0


def test_zero_confidence_is_defined_and_flagged():
    probe, saliency = FakeProbe([[-0.5, 0.5], [0.0, 0.0]]), maps_of([1, 4], [3, 2])  # Y = 0, O = 0.5
    assert drop(probe, 1, saliency, fraction=0.25) == 0.0
    assert increase(probe, 1, saliency, fraction=0.25) == 1.0
    assert by_definition(partial(drop, fraction=0.25)(probe, 1, saliency)) == "zero confidence"
    assert by_definition(partial(increase, fraction=0.25)(probe, 1, saliency)) == ""


def test_tiny_confidence_is_not_zero():
    """exp(-200) vanishes in float32; its drop is still a share of it."""
    tiny = math.exp(-200)
    probe, saliency = FakeProbe([[0.75 * tiny, 0.25 * tiny], [0.0, 0.0]]), maps_of([1, 4], [3, 2])
    assert drop(probe, 1, saliency, fraction=0.25) == pytest.approx(0.75)
    assert by_definition(drop(probe, 1, saliency)) == ""


def test_in_float32_two_confidences_that_are_both_1_are_no_increase():
    """Logits 20 and 21 before one other class: 1 - 2e-9 and 1 - 8e-10, both 1 in float32."""

    class Sum(nn.Module):
        def forward(self, x):
            sums = x.flatten(1).sum(1)
            return torch.stack([sums, 0 * sums], dim=1)

    probe, saliency = Probe(Sum().eval(), maps_of([21, 0], [-1, 0])[None, None]), maps_of([1, 0], [0, 0])
    assert increase(probe, 0, saliency, fraction=0.25) == 1.0
    assert increase(probe, 0, saliency, fraction=0.25, precision="float32") == 0.0
    assert confidences(probe, 0, saliency, fraction=0.25, precision="float32") == (1.0, 1.0)
    assert confidences(probe, 1, saliency, fraction=0.25)[0] == pytest.approx(math.exp(-20), rel=1e-6)
    with pytest.raises(SuiteError, match="precision"):
        drop(probe, 0, saliency, precision="float16")


def test_negative_logit_is_defined_and_flagged():
    probe, saliency = FakeProbe([[-2.0, 1.0], [0.0, 0.0]]), maps_of([1, 4], [3, 2])  # Y = -1, O = 1
    assert drop(probe, 1, saliency, fraction=0.25) == 0.0
    assert increase(probe, 1, saliency, fraction=0.25) == 1.0
    assert by_definition(drop(probe, 1, saliency)) == "negative confidence"


def test_constant_map_is_judged_by_the_empty_image():
    probe = FakeProbe(WEIGHTS, base=0.25)
    assert drop(probe, 1, torch.ones(2, 2), fraction=0.5) == pytest.approx(0.75)
    assert not probe.asked[-1][1].any()
    assert drop(probe, 1, torch.ones(2, 2), fraction=0.5, rule="exact") == pytest.approx(0.15)


def test_drop_and_increase_ask_for_one_and_the_same_mask():
    probe = FakeProbe(torch.rand(8, 8))
    saliency = torch.rand(8, 8)
    drop(probe, 1, saliency)
    increase(probe, 1, saliency)
    masks = [mask for mask in probe.asked if not mask.all()]
    assert len(masks) == 2 and torch.equal(*masks) and masks[0].shape == (2, 8, 8) and masks[0][0].all()


def test_a_signal_can_be_judged():
    probe = FakeProbe([0.1, 0.2, 0.3, 0.4])
    assert drop(probe, 1, torch.tensor([1.0, 0.0, 3.0, 2.0]), fraction=0.5) == pytest.approx(0.3)


@pytest.mark.parametrize("metric", FAITHFULNESS)
def test_wrong_faithfulness_input_is_refused(metric):
    probe = FakeProbe(WEIGHTS)
    with pytest.raises(SuiteError, match=r"\(2, 2\), got \(1, 2, 2\)"):
        metric(probe, 1, torch.rand(1, 2, 2))
    with pytest.raises(SuiteError, match=r"from 0 to 2.*got 3"):
        metric(probe, 3, torch.rand(2, 2))
    with pytest.raises(SuiteError, match="got -1"):
        metric(probe, -1, torch.rand(2, 2))
    with pytest.raises(SuiteError, match="4 NaN"):
        metric(probe, 1, torch.full((2, 2), torch.nan))
    with pytest.raises(SuiteError, match="confidence in target 1 must be finite"):
        metric(FakeProbe([[torch.nan, 0], [0, 0]]), 1, torch.rand(2, 2))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.permutations(range(6)), st.floats(0, 1))
def test_a_pair_that_gained_has_not_dropped(weights, order, fraction):
    """T1 for one pair; with confidences in [0, 1], through a sigmoid."""
    probe = FakeProbe(torch.tensor(weights).reshape(2, 3))
    probe.to_confidence = lambda scores: scores.double().sigmoid()
    saliency = torch.tensor(order, dtype=torch.float32).reshape(2, 3)
    lost = drop(probe, 1, saliency, fraction=fraction)
    gained = increase(probe, 1, saliency, fraction=fraction)
    assert 0 <= lost <= 1 and gained in (0, 1)
    assert lost <= 1 - gained


# ---------------------------------------------------------------- arithmetic of tables


def test_t1():
    cells = pd.DataFrame(
        {"Drop%": [60.0, 60.1, np.nan], "Increase%": [40.0, 40.0, 50.0]},
        index=pd.MultiIndex.from_tuples([("VGG16", "SISE"), ("VGG16", "RISE"), ("VGG16", "EP")]),
    )
    (found,) = arithmetic.check(cells)
    assert found.startswith("T1: VGG16 / RISE") and "60.10" in found and "60.00" in found
    assert arithmetic.check_drop_increase(cells, tolerance=0.11) == []
    assert arithmetic.check(cells[["Drop%"]]) == []


def test_t2_and_t3():
    masks = [0.1, 0.4, 0.2, 0.9]
    assert arithmetic.miou_ceiling(masks, pixels=100) == pytest.approx(100 * (0.5 + 0.5 + 1 + 0.2 / 0.9) / 4)
    cells = pd.DataFrame({"EBPG": [40.0], "mIoU": [55.0], "Bbox": [40.0]}, index=["Uniform"])
    assert arithmetic.check(cells, uniform=cells, mask_fractions=masks) == []
    wrong = cells + 1
    found = arithmetic.check(wrong, uniform=wrong, mask_fractions=masks, pixels=100)
    assert [line[:2] for line in found] == ["T2", "T2", "T3"]
    assert "41.00" in found[0] and "40.00" in found[0] and "55.56" in found[2]
    assert arithmetic.check_uniform(wrong[["mIoU"]], masks) == []


@pytest.mark.parametrize("side", [112, 224, 600])
def test_t3_of_images_of_unknown_size(side):
    """The rounded count of salient pixels differs by size, and the ceiling with it: it passes, what is above fails."""
    masks = [0.05, 0.7]
    ceiling = arithmetic.miou_ceiling(masks, pixels=side**2)
    assert arithmetic.check_miou(pd.DataFrame({"mIoU": [ceiling]}), masks) == []
    assert len(arithmetic.check_miou(pd.DataFrame({"mIoU": [ceiling + 0.02]}), masks)) == 1


def test_t5():
    cells = pd.DataFrame({"EBPG": [11.35, 9.0, 8.0]}, index=["RISE", "no better", "worse"])
    masks = [0.1, 0.08]
    found = arithmetic.check(cells, mask_fractions=masks, above_uniform=True)
    assert [line.split(":")[1] for line in found] == [" no better", " worse"] and "9.00" in found[1]
    assert arithmetic.check(cells, mask_fractions=masks) == []
    assert arithmetic.check(cells[[]], mask_fractions=masks, above_uniform=True) == []


def test_published_tables_obey():
    """T1 of every table that has both; T4: Table 6's μ = 0 is Table 1's ResNet-50."""
    file = ROOT / "results" / "published" / "published_results.csv"
    published = pd.read_csv(file).query("source == 'sise' and metric != 'Runtime (s)'")
    wide = published.pivot_table(index=["table", "model", "method"], columns="metric", values="value")
    assert arithmetic.check_drop_increase(wide.dropna(subset=["Drop%", "Increase%"])) == []
    assert len(wide.dropna(subset=["Drop%", "Increase%"])) == 16 + 16 + 6 + 4
    metrics = ["EBPG", "mIoU", "Bbox", "Drop%", "Increase%"]
    table1, table6 = (wide.loc[key, metrics] for key in
                      [("SISE Table 1", "resnet50", "SISE"), ("SISE Table 6", "resnet50", "SISE mu=0")])  # fmt: skip
    assert table1.tolist() == table6.tolist()


def test_ceiling_is_reached_by_the_best_map_and_counts_pixels():
    masks = [mask_of("#....", "....."), mask_of("####.", "#....")]
    best = [miou(mask.float() + torch.rand(2, 5) / 8, mask) for mask in masks]
    shares = [mask.float().mean().item() for mask in masks]
    assert arithmetic.miou_ceiling(shares, pixels=10) == pytest.approx(100 * sum(best) / 2)
    # 7 pixels: int(1.4) = 1 salient
    assert arithmetic.miou_ceiling([2 / 7], pixels=7) == pytest.approx(50)
    assert arithmetic.miou_ceiling([0.0], pixels=4) == 0.0


def test_mask_fractions_are_fractions():
    with pytest.raises(SuiteError, match="divide percent by 100"):
        arithmetic.miou_ceiling([31.1])
    with pytest.raises(SuiteError, match="got 0 values"):
        arithmetic.miou_ceiling([])


# ---------------------------------------------------------------- the configuration


def test_config_binds_the_published_values():
    path = ROOT / "configs" / "metrics" / "default.yaml"
    config = OmegaConf.create({"metrics": OmegaConf.load(path)})
    bound = {
        name: hydra.utils.instantiate(config.metrics[kind][name])
        for kind in ("localization", "faithfulness")
        for name in config.metrics[kind]
    }
    assert {name: (metric.func, metric.keywords) for name, metric in bound.items()} == {
        "EBPG": (ebpg, {"normalise": "minmax", "zero": "zero"}),
        "mIoU": (miou, {"fraction": 0.20, "ties": "expected"}),
        "Bbox": (bbox, {"ties": "expected", "largest_mask": None}),
        "Drop%": (drop, {"fraction": 0.15, "rule": "above", "precision": "float64"}),
        "Increase%": (increase, {"fraction": 0.15, "rule": "above", "precision": "float64"}),
    }
    raw = partial(bound["EBPG"], normalise="raw")  # a partial of Hydra's
    assert by_definition(bound["EBPG"](torch.ones(3, 4), BOX)) == "constant map"
    assert by_definition(raw(torch.ones(3, 4), BOX)) == ""
    config.metrics.keep_fraction = 0.9
    assert hydra.utils.instantiate(config.metrics.faithfulness["Drop%"]).keywords["fraction"] == 0.9

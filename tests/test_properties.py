"""What must hold for any input: metrics, fusion, statistics, images and run lengths. The same examples every time."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from sise.benchmark.datasets.coco2014 import _region_of_runs
from sise.benchmark.datasets.images import to_rgb
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.tables.arithmetic import miou_ceiling
from sise.benchmark.tables.statistics import (
    FEWEST_IMAGES,
    clustered_standard_error,
    holm,
    order_agreement,
    paired_bootstrap,
    sign_test,
)
from sise.choices import GATES
from sise.fusion import cascade, fuse
from sise.maps import minmax
from sise.metrics import bbox, drop, ebpg, increase, keep_mask, miou

LOCALIZATION = (ebpg, miou, bbox)
RANKING = (miou, bbox)  # only the order of the pixels counts


def examples(count):
    return settings(max_examples=count, deadline=None, derandomize=True)


SMALL, SIDE = st.integers(-5, 5), st.integers(1, 6)


@st.composite
def maps(draw, count=1, values=SMALL, height=SIDE, width=SIDE):
    """``count`` maps (H, W) of one size, with many ties, and a mask."""
    h, w = draw(height), draw(width)
    numbers = draw(st.lists(values, min_size=count * h * w, max_size=count * h * w))
    truth = draw(st.lists(st.booleans(), min_size=h * w, max_size=h * w))
    return (*torch.tensor(numbers, dtype=torch.float32).reshape(count, h, w), torch.tensor(truth).reshape(h, w))


def close(value):
    return pytest.approx(value, abs=1e-9)


# ---------------------------------------------------------------- localization


@examples(80)
@given(maps(), st.sampled_from(["cube", "exponential", "ranks"]))
def test_ranking_metrics_see_only_the_order(pair, transform):
    saliency, mask = pair
    if transform == "cube":
        changed = saliency**3 + saliency
    elif transform == "exponential":
        changed = saliency.double().exp() * 1e-3 - 7
    else:
        changed = torch.searchsorted(saliency.unique(), saliency).float()
    for metric in RANKING:
        assert metric(changed, mask) == close(metric(saliency, mask))
    for rule in ("above", "exact"):
        assert torch.equal(keep_mask(changed, rule=rule), keep_mask(saliency, rule=rule))


@examples(80)
@given(maps(), st.randoms(use_true_random=False))
def test_localization_does_not_know_where_a_pixel_is(pair, random):
    """Any shuffle of saliency and mask together, and not only flips: ties are broken by no place."""
    saliency, mask = pair
    order = list(range(mask.numel()))
    random.shuffle(order)
    for metric in LOCALIZATION:
        shuffled = metric(saliency.flatten()[order].view_as(saliency), mask.flatten()[order].view_as(mask))
        assert shuffled == close(metric(saliency, mask))


@examples(80)
@given(maps(), st.data())
def test_more_saliency_inside_the_mask_is_never_worse(pair, data):
    saliency, mask = pair
    inside = mask.flatten().nonzero()[:, 0].tolist()
    assume(inside)
    better = saliency.clone()
    better.view(-1)[data.draw(st.sampled_from(inside))] += data.draw(st.integers(1, 9))
    for metric in RANKING:
        assert metric(better, mask) >= metric(saliency, mask) - 1e-9
    if (saliency > 0).any():
        low = torch.full((1, mask.shape[1]), float(saliency.min()))  # so that the lowest value stays the lowest
        outside = torch.zeros(1, mask.shape[1], dtype=torch.bool)
        grown = [ebpg(torch.cat([s, low]), torch.cat([mask, outside])) for s in (saliency, better)]
        assert grown[1] >= grown[0] - 1e-9


@examples(60)
@given(maps())
def test_ties_lie_between_the_two_extreme_ways_to_break_them(pair):
    saliency, mask = pair
    for metric in RANKING:
        ways = [metric(saliency + sign * 0.25 * mask, mask) for sign in (-1, 1)]
        assert ways[0] - 1e-9 <= metric(saliency, mask) <= ways[1] + 1e-9


@examples(60)
@given(maps(values=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_float32_has_a_value(pair):
    saliency, mask = pair
    for metric in LOCALIZATION:
        value = metric(saliency, mask)
        assert isinstance(value, float) and 0 <= value <= 1
    assert 0 <= ebpg(saliency, mask, normalise="raw") <= 1


@examples(40)
@given(maps())
def test_constant_maps_are_at_chance_and_empty_masks_at_zero(pair):
    _, mask = pair
    share = mask.double().mean().item()
    for value in (0.3, 1.0, 7.0):
        constant = torch.full(mask.shape, value)
        assert bbox(constant, mask) == close(share) and ebpg(constant, mask) == close(share)
        top = int(0.2 * mask.numel())
        assert miou(constant, mask) <= miou_ceiling([share], pixels=mask.numel()) / 100 + 1e-9
        assert keep_mask(constant).sum() == 0 and keep_mask(constant, rule="exact").sum() == int(0.15 * mask.numel())
        assert (miou(constant, mask) > 0) == (share > 0 and top > 0)
    for metric in LOCALIZATION:
        assert metric(torch.rand(mask.shape), torch.zeros_like(mask)) == 0


# ---------------------------------------------------------------- faithfulness


class Linear:
    """A network whose confidence is the logistic function of the kept pixels' weights."""

    def __init__(self, weights):
        self.weights, self.size = weights.double(), tuple(weights.shape)

    def scores(self):
        return self.score_masks(torch.ones(1, *self.size, dtype=torch.bool))[0]

    def score_masks(self, masks):
        return (masks * self.weights).flatten(1).sum(1, keepdim=True)

    def to_confidence(self, scores):
        return scores.sigmoid()


@examples(80)
@given(maps(count=2), st.floats(0, 1))
def test_drop_and_increase(pair, fraction):
    weights, saliency, _ = pair
    probe = Linear(weights)
    lost = drop(probe, 0, saliency, fraction=fraction)
    gained = increase(probe, 0, saliency, fraction=fraction)
    assert 0 <= lost <= 1 and gained in (0, 1) and lost * gained == 0
    # invariant to scale, to any increasing function, and to flips of image and map together
    for same in (saliency * 4, saliency**3 + saliency, saliency.double().exp()):
        assert drop(probe, 0, same, fraction=fraction) == lost
        assert increase(probe, 0, same, fraction=fraction) == gained
    for flip in (torch.flipud, torch.fliplr):
        turned = Linear(flip(weights))
        assert drop(turned, 0, flip(saliency), fraction=fraction) == close(lost)
    # all pixels: nothing changes
    assert drop(probe, 0, saliency, fraction=1) == increase(probe, 0, saliency, fraction=1) == 0


@examples(60)
@given(maps(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_what_a_smaller_one_kept(pair, one, other):
    saliency, _ = pair
    small, large = sorted((one, other))
    for rule in ("above", "exact"):
        kept, more = keep_mask(saliency, fraction=small, rule=rule), keep_mask(saliency, fraction=large, rule=rule)
        assert not (kept & ~more).any()
        assert kept.sum() <= int(small * saliency.numel())
        if kept.any() and not kept.all():
            assert saliency[kept].min() >= saliency[~kept].max()


@examples(40)
@given(maps(count=3))
def test_the_ground_truth_of_the_network_drops_least(pair):
    """Of a linear network without negative weights, the map of its own weights keeps the most confidence."""
    weights, other, _, _ = pair
    weights = weights.abs() + torch.arange(weights.numel()).view_as(weights) / 1000  # no ties
    probe = Linear(weights)
    ranked = other + torch.arange(other.numel()).view_as(other) / 1000
    for fraction in (0.15, 0.5):
        assert drop(probe, 0, weights, fraction=fraction) <= drop(probe, 0, ranked, fraction=fraction) + 1e-12


# ---------------------------------------------------------------- fusion


def layers(count):
    return maps(count=count, values=st.integers(0, 8), height=st.just(3), width=st.integers(2, 5))


@examples(60)
@given(layers(3), st.sampled_from(GATES), st.randoms(use_true_random=False))
def test_fusion_range_and_places(drawn, gate, random):
    stack = [minmax(m) for m in drawn[:3]]
    fused = fuse(stack, gate=gate)
    assert fused.shape == stack[0].shape and bool(((fused >= 0) & (fused <= 1)).all())
    assert float(fused.max()) in (0.0, 1.0) and float(fused.min()) == 0.0
    # a pixel's value depends on its own values and on the layers' histograms, not on its place
    order = list(range(fused.numel()))
    random.shuffle(order)
    shuffled = fuse([m.flatten()[order].view_as(m) for m in stack], gate=gate)
    torch.testing.assert_close(shuffled, fused.flatten()[order].view_as(fused), rtol=0, atol=1e-6)


@examples(40)
@given(layers(2), st.sampled_from(GATES))
def test_fusing_a_map_with_itself_keeps_the_order(drawn, gate):
    one = minmax(drawn[0])
    fused = fuse([one, one], gate=gate).flatten()[one.flatten().argsort()]
    assert bool((fused.diff() >= -1e-6).all())
    assert torch.equal(fuse([one], gate=gate), one)


@examples(40)
@given(layers(3), st.sampled_from(GATES), st.sampled_from([0, 1, 2]))
def test_missing_layers_take_no_part(drawn, gate, missing):
    stack = [minmax(m) for m in drawn[:3]]
    holes = [None if i == missing else m for i, m in enumerate(stack)]
    rest = [m for m in holes if m is not None]
    assert torch.equal(fuse(holes, gate=gate), fuse(rest, gate=gate))


@examples(40)
@given(layers(3), st.sampled_from(GATES))
def test_no_gate_adds(drawn, gate):
    """What is fused never exceeds the plain sum, which the gate "none" gives."""
    stack = [minmax(m) for m in drawn[:3]]
    total = cascade(stack, gate="none")[-1].fused
    torch.testing.assert_close(total, stack[0] + stack[1] + stack[2])
    fused = cascade(stack, gate=gate)[-1].fused
    assert bool((fused <= total + 1e-6).all()) and bool((fused >= 0).all())


# ---------------------------------------------------------------- statistics

DIFFERENCES = st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=3), min_size=2, max_size=2 * FEWEST_IMAGES)


def summed(by_image):
    return np.array([float(sum(d)) for d in by_image]), np.array([float(len(d)) for d in by_image])


@examples(30)
@given(DIFFERENCES, st.integers(1, 9))
def test_statistics_turn_and_scale_with_the_differences(by_image, factor):
    sums, counts = summed(by_image)
    error = clustered_standard_error(sums, counts)
    assert error >= 0 and clustered_standard_error(-factor * sums, counts) == pytest.approx(factor * error)
    here, there = paired_bootstrap([(sums, counts), (-factor * sums, counts)], resamples=300)
    assert there["difference"] == pytest.approx(-factor * here["difference"])
    if len(sums) >= FEWEST_IMAGES:
        assert here["low"] <= here["high"] and 0 < here["p"] <= 1 and there["p"] == here["p"]
        assert (there["low"], there["high"]) == pytest.approx((-factor * here["high"], -factor * here["low"]))
    up, down = sign_test(sums), sign_test(-sums)
    assert up["p"] == down["p"] and 0 < up["p"] <= 1
    assert (up["higher"], up["lower"], up["tied"]) == (down["lower"], down["higher"], down["tied"])
    assert up["higher"] + up["lower"] + up["tied"] == len(sums)


@examples(60)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8), st.randoms(use_true_random=False))
def test_holm(values, random):
    corrected = holm(values)
    assert [math.isnan(p) for p in corrected] == [math.isnan(p) for p in values]
    pairs = sorted((p, c) for p, c in zip(values, corrected, strict=True) if not math.isnan(p))
    assert all(p <= c <= min(1, p * len(pairs)) + 1e-12 for p, c in pairs)
    assert [c for _, c in pairs] == sorted(c for _, c in pairs)
    order = list(range(len(values)))
    random.shuffle(order)
    np.testing.assert_array_equal(holm([values[i] for i in order]), [corrected[i] for i in order])


@examples(40)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=9))
def test_order_agreement(pairs):
    one = {str(i): float(a) for i, (a, _) in enumerate(pairs)}
    other = {str(i): float(b) for i, (_, b) in enumerate(pairs)}
    found, back = order_agreement(one, other), order_agreement(other, one)
    assert found["n"] == len(pairs) and found["tau"] == pytest.approx(back["tau"], nan_ok=True)
    turned = order_agreement({k: -v for k, v in one.items()}, other)
    assert turned["tau"] == pytest.approx(-found["tau"], nan_ok=True)
    itself = order_agreement(one, one)["tau"]
    assert math.isnan(itself) if len(set(one.values())) < 2 else itself == pytest.approx(1)
    assert math.isnan(found["tau"]) or -1 - 1e-12 <= found["tau"] <= 1 + 1e-12


def test_per_image_sums_do_not_depend_on_the_order_of_pairs():
    from sise.benchmark.tables.statistics import per_image

    index = pd.MultiIndex.from_tuples([("b", 1), ("a", 2), ("b", 3), ("a", 1)])
    values = pd.Series([1.0, 2.0, 3.0, 4.0], index=index)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        sums, counts = per_image(values.iloc[order])
        assert sums.tolist() == [6.0, 4.0] and counts.tolist() == [2.0, 2.0]


# ---------------------------------------------------------------- images, masks, run lengths

MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
)


@examples(60)
@given(st.sampled_from(MODES), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_mode_becomes_rgb_of_its_size_and_stays_so(mode, width, height, seed):
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey)
        for step in {"La": ("LA",), "RGBa": ("RGBA",), "LAB": ("RGB",)}.get(mode, ()):
            image = image.convert(step)
        if mode == "LAB":
            image = Image.merge("LAB", image.split())
        image = image.convert(mode)
    assert image.mode == mode
    before = image.tobytes()
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (width, height) and image.tobytes() == before
    assert to_rgb(rgb).tobytes() == rgb.tobytes()
    if mode not in ("1", "LAB", "HSV", "YCbCr"):  # those that keep greys as they are
        np.testing.assert_array_equal(np.asarray(rgb), np.repeat(grey[..., None], 3, axis=2))


@examples(60)
@given(
    st.sampled_from(["squash", "shorter_side", "center_crop"]),
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 20),
)
def test_image_and_mask_lie_on_one_grid(geometry, height, width, size):
    assume(geometry == "squash" or max(height, width) <= 50 * min(height, width))
    generator = np.random.default_rng(height * 100 + width)
    mask = generator.random((height, width)) < 0.5
    preprocessing = Preprocessing(size=(size, size), geometry=geometry, resample="nearest", mean=(0, 0, 0))
    resized = preprocessing.resize_mask(mask)
    picture = preprocessing(Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)))
    assert resized.dtype == bool and resized.shape == tuple(picture.shape[1:])
    larger = mask | (generator.random(mask.shape) < 0.3)
    assert not (resized & ~preprocessing.resize_mask(larger)).any()
    np.testing.assert_array_equal(preprocessing.resize_mask(~mask), ~resized)
    if (height, width) == (size, size) and geometry != "center_crop":
        np.testing.assert_array_equal(resized, mask)
        np.testing.assert_array_equal(picture[0].numpy() > 0, mask)


@examples(80)
@given(maps(height=st.integers(1, 40), width=st.integers(1, 30)), st.integers(1, 7))
def test_run_lengths_are_pycocotools(pair, coarse):
    """Both forms, of fine and coarse masks, against pycocotools' own encoder and decoder."""
    mask = pair[-1].numpy().repeat(coarse, 0).repeat(coarse, 1)
    height, width = mask.shape
    packed = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    text = {"size": [height, width], "counts": packed["counts"].decode()}
    np.testing.assert_array_equal(_region_of_runs(text, height, width), mask)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]]).astype(int)))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    np.testing.assert_array_equal(_region_of_runs({"size": [height, width], "counts": counts}, height, width), mask)
    np.testing.assert_array_equal(
        coco_mask.decode(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)), mask
    )

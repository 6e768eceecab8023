"""Operations on maps: by hand, against brute force, and against tests/witnesses/reference.py."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sise.maps import minmax, upsample, upsampled_extrema, upsampled_sums

pytestmark = pytest.mark.numeric

SIZES = [
    ((7, 7), (224, 224)),
    ((14, 14), (224, 224)),
    ((28, 28), (224, 224)),
    ((5, 7), (40, 56)),
    ((5, 7), (41, 53)),
    ((10, 13), (37, 45)),
    ((19, 23), (37, 45)),
    ((37, 45), (37, 45)),
    ((36, 44), (37, 45)),
    ((3, 4), (64, 9)),
    ((1, 1), (8, 9)),
    ((1, 6), (8, 20)),
    ((6, 1), (20, 3)),
    ((2, 2), (3, 3)),
    ((2, 3), (300, 200)),
    ((37, 45), (37, 90)),
    ((13, 9), (7, 5)),  # smaller than the maps
    ((13, 9), (7, 40)),
]


def random_maps(size, count=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *size, generator=generator, dtype=torch.float64).to(dtype)


def by_brute_force(maps, size):
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


# ------------------------------------------------------------------------------------------------ minmax


def test_minmax_by_hand():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[-4.0, -4.0], [0.0, -2.0]], [[7.0, 7.0], [7.0, 7.0]]])
    expected = [[[0, 0.25], [0.5, 1]], [[0, 0], [1, 0.5]], [[0, 0], [0, 0]]]
    assert minmax(maps).tolist() == expected
    assert minmax(maps[1]).tolist() == expected[1]


@given(
    st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=30),
    st.floats(0.5, 100),
    st.floats(-10, 10),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_minmax_range_and_invariance(values, factor, shift):
    maps = torch.tensor(values, dtype=torch.float64)[None]
    scaled = minmax(maps)
    if len(set(values)) == 1:
        assert not scaled.any()
        return
    assert scaled.min() == 0 and scaled.max() == 1
    assert bool((scaled[0][maps[0].argsort()].diff() >= 0).all())
    assert minmax(scaled).equal(scaled)
    torch.testing.assert_close(minmax(maps * factor + shift), scaled, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------ upsampling


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_upsample_is_half_pixel_bilinear(small, large):
    maps = random_maps(small)
    slowly = np.stack([reference.resize_bilinear(a, large) for a in maps.numpy()])
    np.testing.assert_allclose(upsample(maps, large), slowly, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("small", "large"), [s for s in SIZES if s[0] <= s[1]])
def test_upsample_nearest(small, large):
    maps = random_maps(small)
    slowly = np.stack([reference.resize_nearest(a, large) for a in maps.numpy()])
    np.testing.assert_array_equal(upsample(maps, large, "nearest"), slowly)


def test_upsample_by_hand():
    # centres of the four outputs lie at -1/4, 1/4, 3/4, 5/4 of the two inputs
    row = upsample(torch.tensor([[[0.0, 8.0]]]), (1, 4))
    assert row.tolist() == [[[0, 2, 6, 8]]]


@pytest.mark.parametrize(("small", "large"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extrema_equal_brute_force(small, large, dtype):
    maps = random_maps(small, count=20, dtype=dtype)
    lo, hi = upsampled_extrema(maps, large)
    every = by_brute_force(maps, large).flatten(1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5  # float32 resizing rounds its source positions
    torch.testing.assert_close(lo, every.amin(1), rtol=0, atol=tolerance)
    torch.testing.assert_close(hi, every.amax(1), rtol=0, atol=tolerance)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 70), st.integers(1, 70), st.integers(0, 5))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_extrema_and_sums_at_any_size(h, w, height, width, seed):
    maps = random_maps((h, w), count=4, seed=seed)
    every = by_brute_force(maps, (height, width)).flatten(1)
    lo, hi = upsampled_extrema(maps, (height, width))
    torch.testing.assert_close(lo, every.amin(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(hi, every.amax(1), rtol=0, atol=1e-12)
    sums = upsampled_sums(maps, (height, width))
    torch.testing.assert_close(sums, every.sum(1), rtol=1e-9, atol=1e-9)


def test_extrema_are_those_of_the_upsampled_map_not_of_the_map():
    # the outputs never reach a corner-to-corner peak in the middle: 1-D (0, 1, 0) to 6 peaks at 3/4
    lo, hi = upsampled_extrema(torch.tensor([[[0.0, 1.0, 0.0]]]), (1, 6))
    assert (lo.item(), hi.item()) == (0.0, 0.75)


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_extrema_of_constant_maps_are_equal_and_of_others_are_not(small, large):
    values = torch.tensor([0.0, 0.1, -3.3, 1e5 / 3, 1e-7])
    maps = values[:, None, None].expand(-1, *small).contiguous()
    lo, hi = upsampled_extrema(maps, large)
    assert torch.equal(lo, hi) and torch.equal(lo, values)
    if small != (1, 1) and small[0] <= large[0]:
        maps[:, 0, -1] += 1
        lo, hi = upsampled_extrema(maps, large)
        assert bool((lo < hi)[torch.tensor([0, 1, 2, 4])].all())


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_sums_equal_brute_force(small, large):
    maps = random_maps(small)
    sums = upsampled_sums(maps.float(), large)
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, by_brute_force(maps.float().double(), large).sum(dim=(1, 2)), rtol=1e-9, atol=1e-9)

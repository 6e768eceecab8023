"""What the baselines share: the reductions of signed attributions to maps, and their smoothing."""

from __future__ import annotations

import math
from functools import partial

import pytest
import scipy.ndimage
import torch

from sise.baselines.common import attribution_maps, gaussian_smooth, reduce_channels
from sise.errors import SuiteError

TWO_PLACES = torch.tensor([[[[3.0, 1.0]], [[-4.0, 2.0]]]])  # (1, 2 channels, 1, 2)


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("abs_max", [4, 2]), ("abs_sum", [7, 3]), ("sum_positive", [0, 3]), ("sum_signed", [-1, 3])],
)
def test_reductions_by_hand(reduce, expected):
    assert reduce_channels(TWO_PLACES, reduce).tolist() == [[expected]]


def test_signed_maps_keep_their_zero():
    assert attribution_maps(TWO_PLACES, (1, 2), "sum_signed")[0, 0].tolist() == pytest.approx([-1 / 3, 1])
    assert attribution_maps(TWO_PLACES, (1, 2), "abs_sum")[0, 0].tolist() == [1, 0]
    nothing = torch.zeros(2, 3, 4, 4)
    for reduce in ("sum_signed", "sum_positive"):
        assert torch.equal(attribution_maps(nothing, (4, 4), reduce, smooth=0.1), torch.zeros(2, 4, 4))


@pytest.mark.parametrize("shape", [(2, 9, 14), (2, 30)])
def test_smoothing_is_scipys_with_replicated_borders(shape):
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for sigma in (0.5, 1.5, 5.0):  # the last reaches beyond the map
        smooth = partial(scipy.ndimage.gaussian_filter, sigma=sigma, mode="nearest", radius=math.ceil(4 * sigma))
        expected = torch.stack([torch.from_numpy(smooth(one.double().numpy())) for one in maps])
        assert torch.allclose(gaussian_smooth(maps, sigma).double(), expected, atol=1e-6)
    assert torch.equal(gaussian_smooth(maps, 0), maps)


def test_neighbours_of_opposite_signs_cancel_before_the_positive_part_is_taken():
    """A chequered square, +1 and -1 in turn, says nothing when smoothed; the weaker places around it do."""
    relevance = torch.full((1, 1, 64, 64), 0.2)
    rows, columns = torch.arange(32)[:, None], torch.arange(32)
    relevance[..., 16:48, 16:48] = 1 - 2 * ((rows + columns) % 2).float()
    smoothed = attribution_maps(relevance, (64, 64), "sum_positive", smooth=0.05)[0]
    assert smoothed[30:34, 30:34].max() < 0.05 and smoothed[:4].min() > 0.9
    signed = attribution_maps(relevance, (64, 64), "sum_signed", smooth=0.05)[0]
    assert torch.allclose(smoothed, signed.clamp(min=0))
    sharp = attribution_maps(relevance, (64, 64), "sum_positive")[0]
    assert sharp[16:48, 16:48].max() == 1 and sharp[:4].max() == pytest.approx(0.2)


def test_unknown_reductions_and_negative_smoothing_are_refused():
    with pytest.raises(SuiteError, match="abs_max"):
        attribution_maps(TWO_PLACES, (1, 2), "max")
    with pytest.raises(SuiteError, match="at least 0"):
        attribution_maps(TWO_PLACES, (1, 2), "abs_max", smooth=-1)

"""The pointing game: exact hits by hand, and TorchRay's own class as witness."""

from __future__ import annotations

import pytest
import torch

from metrics import undefined
from metrics.pointing import hits, point, pointing
from sise.types import SuiteError


def map_of(size, place):
    """(H, W) with its maximum at (x, y)."""
    saliency = torch.zeros(size)
    saliency[place[1], place[0]] = 1
    return saliency


def mask_of(size, place):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[place[1], place[0]] = True
    return mask


@pytest.mark.parametrize(("distance", "expected"), [(0, 1.0), (14, 1.0), (15, 0.0), (16, 0.0)])
def test_nearer_than_fifteen_pixels_strictly(distance, expected):
    size = (40, 60)
    assert pointing(map_of(size, (20, 7)), mask_of(size, (20 + distance, 7))) == expected
    assert pointing(map_of(size, (20, 7)), mask_of(size, (20, 7 + distance))) == expected


def test_distance_is_euclidean_and_the_tolerance_is_a_setting():
    size = (40, 60)  # 9² + 12² = 15²
    assert pointing(map_of(size, (20, 7)), mask_of(size, (29, 19))) == 0
    assert pointing(map_of(size, (20, 7)), mask_of(size, (29, 19)), tolerance=15.1) == 1


def test_x_and_y_are_not_swapped():
    size = (30, 60)
    assert pointing(map_of(size, (50, 5)), mask_of(size, (50, 5))) == 1
    assert pointing(map_of(size, (5, 25)), mask_of(size, (50, 5))) == 0


def test_the_map_is_brought_to_the_masks_size():
    """A 2 x 2 map's right column, resized to 8 x 16 without aligned corners, is largest from the pixel 12 on."""
    saliency = torch.tensor([[0.0, 1.0], [0.0, 0.5]])
    assert point(saliency, (8, 16)) == (12, 0)


def test_of_equal_maxima_the_first_in_raster_order_points():
    saliency = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert point(saliency, (2, 3)) == (2, 0)


@pytest.mark.parametrize(
    ("saliency", "mask", "reason"),
    [
        (torch.ones(4, 4), mask_of((4, 4), (0, 0)), "constant map"),
        (map_of((4, 4), (0, 0)), torch.zeros(4, 4, dtype=torch.bool), "empty mask"),
    ],
)
def test_nothing_to_point_with_or_at_is_a_miss_by_definition(saliency, mask, reason):
    assert pointing(saliency, mask) == 0
    assert undefined(pointing, saliency, mask) == reason


@pytest.mark.parametrize(
    ("saliency", "mask"),
    [(torch.zeros(4), torch.ones(4, 4).bool()), (torch.zeros(4, 4), torch.ones(4, 4)), (torch.full((2, 2), torch.nan),
     torch.ones(2, 2).bool())],
)  # fmt: skip
def test_other_input_is_refused(saliency, mask):
    with pytest.raises(SuiteError):
        pointing(saliency, mask)


def test_hits_are_those_of_torchray():
    benchmark = pytest.importorskip("torchray.benchmark.pointing_game")
    game = benchmark.PointingGame(20)
    torch.manual_seed(0)
    for _ in range(200):
        mask = torch.rand(48, 37) > 0.999
        place = (int(torch.randint(37, (1,))), int(torch.randint(48, (1,))))
        assert hits(mask, place) == (game.evaluate(mask, torch.tensor(place)) == 1)

"""Deletion, insertion, region insertion and density on networks whose curves can be written down."""

from __future__ import annotations

import pytest
import torch
from known_networks import SIZE, Shown, probe_of
from torch import nn

from sise.errors import SuiteError
from sise.metrics.curves import deletion, insertion, region_insertion
from sise.metrics.density import negative_density, positive_density
from sise.types import by_definition


class Bright(nn.Module):
    """The first class wins if more than a tenth of the pixels are lit."""

    def forward(self, x):
        lit = x.mean(dim=(1, 2, 3)) - 0.105
        return torch.stack([lit, -lit], dim=1)


def test_deletion_of_a_network_that_sees_the_share_of_pixels():
    """P falls from 1 to 0 along a line: the area is 1/2, whatever the order and the step that divides the pixels."""
    saliency = torch.rand(SIZE, generator=torch.Generator().manual_seed(0))
    for step in (None, 1, 4, 20):
        assert deletion(probe_of(Shown()), 0, saliency, step=step) == pytest.approx(0.5, abs=1e-5)


def test_deletion_by_hand():
    """Only pixel 0 is lit: P = 1/20 until it is taken, for half of the first step of four, or all but half the last."""
    image = torch.zeros(1, 1, *SIZE)
    image[..., 0, 0] = 1
    first = torch.zeros(SIZE)
    first[0, 0] = 1
    assert deletion(probe_of(Shown(), image), 0, first, step=5) == pytest.approx(0.05 * 0.5 / 4, abs=1e-6)
    assert deletion(probe_of(Shown(), image), 0, -first, step=5) == pytest.approx(0.05 * 3.5 / 4, abs=1e-6)


def test_a_last_smaller_step_counts_as_a_step():
    """Three steps of 8, 8 and 4 pixels: P = 1, 0.6, 0.2, 0."""
    assert deletion(probe_of(Shown()), 0, torch.rand(SIZE), step=8) == pytest.approx((0.5 + 0.6 + 0.2) / 3, abs=1e-5)


def test_equal_pixels_go_in_raster_order():
    image = torch.zeros(1, 1, *SIZE)
    image[..., 0, :] = 1  # the first row is lit, and goes first
    expected = (0.25 / 2 + 0 + 0 + 0) / 4
    assert deletion(probe_of(Shown(), image), 0, torch.zeros(SIZE), step=5) == pytest.approx(expected, abs=1e-5)


def test_insertion_of_a_constant_image_is_its_confidence():
    """Blurring a constant image changes nothing: the curve is level."""
    image = torch.full((1, 1, 16, 16), 0.25)
    value = insertion(probe_of(Shown(), image), 0, torch.rand(16, 16), step=32)
    assert value == pytest.approx(0.25, abs=1e-5)


def test_insertion_starts_blurred_and_ends_with_the_image():
    """A lit pixel in a large dark image: the blur keeps the mean, the curve is level but for what has come already."""
    image = torch.zeros(1, 1, 33, 33)
    image[..., 16, 16] = 1
    lit_first = torch.zeros(33, 33)
    lit_first[16, 16] = 1
    best, worst = (insertion(probe_of(Shown(), image), 0, s, step=33) for s in (lit_first, -lit_first))
    whole = 1 / 33**2
    assert worst < whole < best < 2 * whole


def test_region_insertion_counts_the_steps_that_show_enough():
    """More than a tenth of 100 lit pixels: 11 %, ..., 20 % of them are ten steps; another class wins the others."""
    image = torch.ones(1, 1, 10, 10)
    saliency = torch.rand(10, 10)
    assert region_insertion(probe_of(Bright(), image), 0, saliency) == 10
    assert region_insertion(probe_of(Bright(), image), 1, saliency) == 10


def test_density_by_hand():
    """Half of the pixels shown at 1: P = 1/2 over a share of 1/2, for the shown and the hidden half."""
    saliency = torch.zeros(SIZE)
    saliency[:2] = 3.0
    probe = probe_of(Shown())
    assert positive_density(probe, 0, saliency) == pytest.approx(1, abs=1e-5)
    assert negative_density(probe, 0, saliency) == pytest.approx(1, abs=1e-5)
    dark = torch.ones(1, 1, *SIZE)
    dark[..., 2:, :] = 0
    assert positive_density(probe_of(Shown(), dark), 0, saliency) == pytest.approx(1, abs=1e-5)
    assert negative_density(probe_of(Shown(), dark), 0, saliency) == pytest.approx(0, abs=1e-5)


def test_a_constant_map_shows_nothing():
    probe, saliency = probe_of(Shown()), torch.ones(SIZE)
    assert positive_density(probe, 0, saliency) == 0
    assert by_definition(positive_density(probe, 0, saliency)) == "constant map"
    assert negative_density(probe, 0, saliency) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("metric", [deletion, insertion, region_insertion, positive_density])
def test_a_map_of_another_size_is_refused(metric):
    with pytest.raises(SuiteError, match="must have the image's size"):
        metric(probe_of(Shown()), 0, torch.rand(3, 3))


@pytest.mark.parametrize("step", [0, -1, 1.5])
def test_a_step_of_no_pixels_is_refused(step):
    with pytest.raises(SuiteError, match="step must be a whole number"):
        deletion(probe_of(Shown()), 0, torch.rand(SIZE), step=step)

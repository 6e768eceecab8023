"""Plans: what a metric will ask the probe for, so that many curves share batches and passes."""

from __future__ import annotations

import functools

import pytest
import torch
from known_networks import Shown, probe_of

from sise.metrics.curves import deletion, insertion, region_insertion
from sise.metrics.density import negative_density, positive_density
from sise.metrics.faithfulness import drop
from sise.metrics.localization import ebpg
from sise.metrics.passes import passes
from sise.probe.probe import Probe
from sise.scoring import Segment

IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
MAP = torch.rand(16, 16, generator=torch.Generator().manual_seed(2))
PLANNED = [
    functools.partial(deletion, rows=4),
    functools.partial(insertion, step=50),
    functools.partial(functools.partial(region_insertion, percents=3), percents=5),
    positive_density,
    negative_density,
]


@pytest.fixture
def probe():
    return probe_of(Shown(), IMAGE)


@pytest.mark.parametrize("metric", PLANNED)
def test_a_plan_is_all_that_its_metric_asks_for(probe, metric):
    expected = metric(probe_of(Shown(), IMAGE), 0, MAP)
    probe.score_segments(passes(metric, probe, 0, MAP))
    passed = probe.forward_passes
    assert passed > 0 and metric(probe, 0, MAP) == expected
    assert probe.forward_passes == passed


def test_a_metric_without_a_plan_asks_for_nothing(probe):
    assert not passes(drop, probe, 0, MAP) and not passes(ebpg, probe, 0, MAP)


def test_segments_are_images_under_masks(probe):
    other = torch.rand(1, 3, 16, 16)
    masks = torch.stack([MAP > 0.5, MAP > 0.9, torch.ones(16, 16, dtype=torch.bool), MAP < 0])
    expected = [torch.cat([torch.where(mask, IMAGE, fill) for mask in masks]) for fill in (other, torch.zeros(1))]
    found = probe.score_segments([Segment(IMAGE, masks, other), Segment(IMAGE, masks), Segment(IMAGE, MAP[None])])
    for scores, inputs in zip(found, [*expected, IMAGE * MAP], strict=True):
        torch.testing.assert_close(scores, probe.network(inputs))


def test_one_image_is_scored_once(probe):
    """The whole image is the end of every curve, the empty one of those that fill with the same."""
    everything, nothing = torch.ones(1, 16, 16, dtype=torch.bool), torch.zeros(1, 16, 16, dtype=torch.bool)
    some = MAP[None] > 0.5
    blurred = IMAGE.roll(1, 3)
    begun = probe.forward_passes
    probe.score_segments([
        Segment(IMAGE, torch.cat([everything, some, some, nothing])),
        Segment(IMAGE, torch.cat([everything, some, nothing]), blurred),
        Segment(blurred, everything),  # = nothing of the image over it
    ])  # fmt: skip
    assert probe.forward_passes - begun == 5  # the image; some of it twice, over nothing and over the blur; both fills
    probe.score_segments([Segment(IMAGE, some), Segment(IMAGE, nothing)])
    assert probe.forward_passes - begun == 5


def test_another_image_or_mask_of_the_same_values_is_another(probe):
    """Keys hold the place of values, not only the values: a mask turned around is another one."""
    lit = torch.zeros(1, 1, 4, 5)
    lit[..., 0, 0] = 1
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[0, 0, 0] = True
    probe = Probe(Shown().eval(), lit)
    first, turned = probe.score_segments([Segment(lit, mask), Segment(lit, mask.flip(2))])
    assert first[0, 0] > turned[0, 0]

"""Thresholded maps and the outside-inside ratio, by hand."""

from __future__ import annotations

import pytest
import torch

from sise.metrics.regions import outside_inside_ratio, threshold_iou
from sise.types import by_definition

MASK = torch.tensor([[True, True, False, False]])


@pytest.mark.parametrize(
    ("values", "threshold", "expected"),
    [
        ([1.0, -1.0, 1.0, -1.0], "zero", 1 / 3),
        ([0.1, 0.2, 0.3, 0.4], "zero", 2 / 4),  # a map without a sign is above 0 everywhere
        ([4.0, 3.0, 1.0, 0.0], "mean", 1.0),
        ([0.0, 3.0, 1.0, 4.0], "mean", 1 / 3),
        ([1.0, 1.0, 1.0, 1.0], "mean", 0.0),
    ],
)
def test_threshold_iou(values, threshold, expected):
    assert threshold_iou(torch.tensor([values]), MASK, threshold=threshold) == expected


def test_an_empty_mask_is_no_hit():
    empty = torch.zeros_like(MASK)
    assert threshold_iou(torch.zeros(1, 4), empty) == 0
    assert by_definition(threshold_iou(torch.zeros(1, 4), empty)) == "empty mask"


@pytest.mark.parametrize(
    ("values", "expected", "reason"),
    [
        ([3.0, 1.0, 1.0, -7.0], 0.25, ""),
        ([1.0, 1.0, 1.0, 1.0], 1.0, ""),
        ([0.0, -1.0, 2.0, 0.0], 4.0, "no positive relevance inside"),
        ([0.0, -1.0, -2.0, 0.0], 1.0, "no positive relevance"),
    ],
)
def test_outside_inside_ratio(values, expected, reason):
    saliency = torch.tensor([values])
    assert outside_inside_ratio(saliency, MASK) == expected
    assert by_definition(outside_inside_ratio(saliency, MASK)) == reason


def test_a_mask_without_one_of_its_sides_has_no_ratio():
    for mask, reason in ((torch.ones_like(MASK), "no pixel outside"), (torch.zeros_like(MASK), "empty mask")):
        assert outside_inside_ratio(torch.rand(1, 4), mask) == 1
        assert by_definition(outside_inside_ratio(torch.rand(1, 4), mask)) == reason

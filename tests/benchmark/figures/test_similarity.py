"""The picture of two images that a network finds alike."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sise.benchmark.figures.similarity import couples, extremes, strongest
from sise.benchmark.models.architectures import MEAN
from sise.errors import SuiteError

SHOWN = {"a": (0, 1), "b": (2,), "c": (1,), "d": (0, 1)}
DATASET = SimpleNamespace(ids=tuple(SHOWN), targets_of=SHOWN.__getitem__, classes=("red", "green", "blue"))


def test_an_image_is_compared_with_the_next_of_its_class():
    assert couples(DATASET, [("a", 0), ("a", 1), ("d", 1)], None) == [("a", "d", 0), ("a", "c", 1), ("d", "a", 1)]
    asked = [("d", 0), ("d", 1), ("a", 0), ("a", 1)]
    assert couples(DATASET, asked, ["d", "a"]) == [("d", "a", 0), ("d", "a", 1)]  # once, whichever is first
    assert couples(DATASET, [("b", 2), ("a", 1), ("c", 1)], ["b", "a", "c"]) == [("a", "c", 1)]
    for pairs, images in (([("b", 2)], None), ([("a", 0), ("b", 2)], ["a", "b"])):
        with pytest.raises(SuiteError, match=r"two images of one class.*images=\[a,b\]"):
            couples(DATASET, pairs, images)


def test_the_strongest_pairs_of_blocks_come_last():
    relevance = torch.zeros(2, 2, 2, 2)
    relevance[0, 1, 1, 0], relevance[1, 1, 0, 0], relevance[0, 0, 0, 1] = 2.0, -4.0, 1.0
    assert strongest(relevance, 2) == [(0, 1, 1, 0, 0.5), (1, 1, 0, 0, -1.0)]
    assert len(strongest(relevance, 9)) == 3  # no line for no relevance


def test_bounds_are_black_and_white():
    black = tuple(-value for value in MEAN)
    model = SimpleNamespace(black=black, mean=(0.0, 0.0, 0.0), preprocess=None)
    low, high = extremes(model)
    assert low == pytest.approx(black) and high == pytest.approx([255 - value for value in MEAN], abs=1e-3)

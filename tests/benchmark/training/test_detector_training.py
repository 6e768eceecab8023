"""The detector's training: what its cells learn and how it is judged, by hand; a few scenes from end to end."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from sise.benchmark.models import architectures
from sise.benchmark.models.detector import Detector, describe, detector
from sise.benchmark.training import detector as training
from sise.benchmark.training.detector import evaluate, loss_of, targets_of
from sise.errors import SuiteError


def vector(box, objectness, *classes):
    return torch.tensor([*box, objectness, *classes])


def test_targets_by_hand():
    """A box of 6 x 3 cells around cell (4, 2): its Gaussian is one cell wide, 0.6 high; a second one is far away."""
    boxes = torch.tensor([[1.5, 1.0, 7.5, 4.0], [11.0, 11.0, 13.0, 13.0]]) / 14
    heat, classes, assigned = targets_of((boxes, torch.tensor([3, 8])))
    grid = heat.view(14, 14)
    assert float(grid[2, 4]) == 1 and float(grid[12, 12]) == 1
    assert float(grid[2, 5]) == pytest.approx(math.exp(-0.5)) and float(grid[2, 2]) == pytest.approx(math.exp(-2))
    assert float(grid[3, 4]) == pytest.approx(math.exp(-0.5 / 0.36))
    assert classes.view(14, 14)[2, 4] == 3 and classes.view(14, 14)[11, 12] == 8
    assert torch.equal(assigned.view(14, 14, 4)[12, 13], boxes[1])
    empty = targets_of((torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))
    assert not any(bool(part.any()) for part in empty)


def test_the_loss_by_hand():
    """All logits 0: objectness 1/4 log 2 at the middle, (1 - heat)^4 of it elsewhere; log 2 for the class of two."""
    made = Detector(architectures.resnet50(width=1 / 16, num_classes=20), width=4, classes=2)
    heat, classes, boxes = torch.zeros(1, 196), torch.zeros(1, 196, dtype=torch.long), torch.zeros(1, 196, 4)
    heat[0, 30], heat[0, 31] = 1, 0.5
    boxes[0, 30:32] = made.proposals(torch.zeros(1, 7, 14, 14))[0, 30:32, :4]  # as they are: no loss
    raw = torch.zeros(1, 7, 14, 14)
    expected = math.log(2) / 4 * (1 + 194 + 0.5**4) + math.log(2)
    assert float(loss_of(made, raw, heat, classes, boxes)) == pytest.approx(expected, rel=1e-5)
    boxes[0, 31] = torch.tensor([0.9, 0.9, 1.0, 1.0])  # far from what is proposed: more than 1 of a third of the weight
    assert float(loss_of(made, raw, heat, classes, boxes)) > expected + 2 / 3
    none = loss_of(made, raw, torch.zeros(1, 196), classes, boxes)
    assert float(none) == pytest.approx(math.log(2) / 4 * 196, rel=1e-5)


def test_average_precision_by_hand():
    """Class 0: hit, miss, hit of two objects: (1 + 2/3) / 2. Class 1: one object, never found: 0."""
    objects = [
        (torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([0])),
        (torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]), torch.tensor([0, 1])),
    ]
    found = [
        torch.stack([vector((0, 0, 0.5, 0.5), 0.9, 1, 0), vector((0.5, 0.5, 1, 1), 0.5, 1, 0)]),
        vector((0, 0, 0.5, 0.4), 0.2, 1, 0)[None],
    ]
    figures = evaluate(found, objects)
    assert figures["mean_average_precision_50"] == pytest.approx((5 / 6 + 0) / 2)
    assert (figures["images"], figures["objects"]) == (2, 3)
    assert figures["recall"] == pytest.approx(1 / 3) and figures["precision"] == pytest.approx(1 / 2)
    assert figures["mean_iou"] == pytest.approx(1)
    assert evaluate(found, objects, score=0.1)["mean_iou"] == pytest.approx(0.9)
    nothing = evaluate([torch.zeros(0, 7)] * 2, objects)
    assert nothing["recall"] == nothing["precision"] == nothing["mean_average_precision_50"] == 0


def test_a_few_scenes_from_end_to_end(tmp_path, monkeypatch):
    threads, said = torch.get_num_threads(), []
    settings = {"scenes": 8, "epochs": 2, "batch": 4, "width": 8, "threads": 1, "tests": 2}
    path = tmp_path / "made.pt"
    facts = training.train(path, say=said.append, **settings)
    assert torch.get_num_threads() == threads
    assert json.loads(describe(path).read_text()) == facts and facts["test"]["images"] == 2
    assert "epoch 2 of 2: loss" in said[-1] and np.isfinite(float(said[-1].split()[-1]))
    assert "training.width=8" in facts["training"]["command"]
    made = detector(path)
    assert made(torch.zeros(1, 3, 224, 224)).shape == (1, 196 * 25)
    with pytest.raises(SuiteError, match=r"epochs: 2 there, 3 now.*training\.output"):
        training.train(path, **settings | {"epochs": 3})
    for wrong in ({"scenes": 3}, {"epochs": 0}, {"lr": 0.0}, {"tests": 0}):
        with pytest.raises(SuiteError, match="at least one batch of scenes"):
            training.train(tmp_path / "other.pt", **settings | wrong)

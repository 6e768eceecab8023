"""The detector of the generated shapes: its weights are those described, its boxes and matches are right by hand."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil

import numpy as np
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir

from sise.benchmark.datasets.scenes import CLASSES, scene
from sise.benchmark.models import architectures
from sise.benchmark.models import detector as own
from sise.benchmark.models.detector import Detector, detections, detector, matches, network_input, objects_of, scored
from sise.errors import SuiteError
from sise.scoring import Scorer, Segment

FACTS = json.loads(own.describe(own.shipped_weights()).read_text(encoding="utf-8"))


def vector(box, objectness, *classes):
    return torch.tensor([*box, objectness, *classes])


def test_the_weights_are_the_ones_described():
    data = own.shipped_weights().read_bytes()
    assert hashlib.sha256(data).hexdigest() == FACTS["sha256"] and len(data) == FACTS["bytes"] < 1e6
    made = detector()
    assert sum(p.numel() for p in made.head.parameters()) == FACTS["parameters"]
    assert not made.training and all(p.dtype == torch.float32 for p in made.parameters())
    shapes = json.loads((architectures.weights_folder() / "shapes.json").read_text())
    assert FACTS["backbone_sha256"] == shapes["resnet50"]["sha256"]


def test_the_recorded_command_gives_the_shipped_settings():
    python, script, *words = shlex.split(FACTS["training"]["command"])
    assert (python, script) == ("python", "scripts/train.py")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        assert compose("train", words).training == compose("train", ["training=detector"]).training


def test_it_finds_what_it_was_found_to_find():
    """A few of the scenes whose figures are recorded: most objects, and boxes that fit."""
    made, hits, count, overlaps = detector(), 0, 0, []
    for index in range(12):
        image, instances, class_ids = scene(0, "test", index)
        with torch.no_grad():
            proposals = made(network_input(torch.from_numpy(image)[None])).unflatten(1, (196, -1))[0]
        assert proposals.shape == (196, 5 + len(CLASSES))
        assert torch.allclose(proposals[:, 5:].sum(dim=1), torch.ones(196), atol=1e-5)
        assert bool((proposals >= 0).all() and (proposals <= 1).all())
        assert bool((proposals[:, :2] <= proposals[:, 2:4]).all())
        boxes, classes, _ = objects_of(instances, class_ids)
        found = matches(detections(proposals), boxes, classes)
        hits, count = hits + sum(place >= 0 for place, _ in found), count + len(boxes)
        overlaps += [overlap for place, overlap in found if place >= 0]
    assert hits / count > 0.6 and np.mean(overlaps) > 0.65
    assert FACTS["test"]["recall"] > 0.7 and FACTS["test"]["precision"] > 0.7


def test_the_engine_computes_what_the_detector_does():
    """In batches, folded and channels-last: proposals under masks are those of masked images."""
    made = detector()
    x = network_input(torch.from_numpy(scene(0, "test", 3)[0])[None])
    masks = torch.rand(5, 224, 224, generator=torch.Generator().manual_seed(0))
    found = Scorer(made, batch_size=2).score([Segment(x, masks)])
    with torch.no_grad():
        expected = torch.cat([made(x * mask) for mask in masks])
    assert found.shape == (5, 196 * 25) and torch.allclose(found, expected, atol=1e-3)


def test_boxes_reach_from_the_middles_of_cells():
    made = Detector(architectures.resnet50(width=1 / 16, num_classes=20), width=4, classes=2).eval()
    raw = torch.zeros(1, 7, 14, 14)  # every distance is one cell
    raw[0, :4, 2, 5] = torch.tensor([0.5, 1.5, 0.25, 2.0]).log()
    raw[0, 4:, 2, 5] = torch.tensor([0.0, 3.0, 3.0])
    found = made.proposals(raw)
    assert found.shape == (1, 196, 7)
    assert (found[0, 2 * 14 + 5] * 14).tolist()[:4] == pytest.approx([5, 1, 5.75, 4.5], abs=1e-4)
    assert found[0, 2 * 14 + 5, 4:].tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert (found[0, 0] * 14).tolist()[:4] == pytest.approx([0, 0, 1.5, 1.5], abs=1e-4)  # cut at the border
    x = torch.zeros(1, 3, 224, 224)
    assert torch.equal(made(x), made.proposals(made.head(own.join(*made.stages(x)))).flatten(1))


def test_detections_by_hand():
    """Of one class and one place the best is kept; of another class, or elsewhere, more; the unsure never."""
    best = vector((0.1, 0.1, 0.5, 0.5), 0.9, 1.0, 0.0)
    repeated = vector((0.1, 0.1, 0.5, 0.48), 0.8, 0.9, 0.1)
    other_class = vector((0.1, 0.1, 0.5, 0.5), 0.9, 0.1, 0.9)
    elsewhere = vector((0.6, 0.6, 0.9, 0.9), 0.5, 0.8, 0.2)
    unsure = vector((0.6, 0.1, 0.9, 0.4), 0.4, 0.5, 0.5)
    proposals = torch.stack([unsure, repeated, elsewhere, best, other_class])
    assert torch.equal(detections(proposals), torch.stack([best, other_class, elsewhere]))
    assert torch.equal(detections(proposals, score=0.1, overlap=1.0), proposals[[3, 4, 1, 2, 0]])
    scores, targets = scored(proposals)
    assert scores.tolist() == pytest.approx([0.2, 0.72, 0.4, 0.9, 0.81]) and targets.tolist() == [0, 0, 0, 0, 1]
    assert detections(proposals, score=0.95).shape == (0, 7)


def test_matches_by_hand():
    """The better of two takes the object; the other one gets nothing, even where it fits better."""
    boxes, classes = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]), torch.tensor([0, 1])
    exact, half = vector((0, 0, 0.4, 0.4), 0.5, 1.0, 0.0), vector((0, 0, 0.4, 0.3), 0.9, 1.0, 0.0)
    wrong_class, small = vector((0.5, 0.5, 1, 1), 1.0, 1.0, 0.0), vector((0.5, 0.5, 0.7, 1), 1.0, 0.0, 1.0)
    found = matches(torch.stack([exact, half, wrong_class, small]), boxes, classes)
    assert [place for place, _ in found] == [-1, 0, -1, -1] and found[1][1] == pytest.approx(0.75)
    assert matches(exact[None], torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == [(-1, 0.0)]


def test_objects_by_hand():
    instances = np.zeros((10, 20), np.uint8)
    instances[2:5, 4:10], instances[9, 19] = 1, 3
    boxes, classes, numbers = objects_of(instances, [7, 8, 9])  # the second is hidden
    assert boxes.flatten().tolist() == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.95, 0.9, 1, 1])
    assert classes.tolist() == [7, 9] and numbers == [1, 3]
    assert objects_of(np.zeros((4, 4), np.uint8), [1])[0].shape == (0, 4)


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(SuiteError, match=r"expected the detector's .*training=detector"):
        detector(tmp_path / "none.pt")
    path = tmp_path / "detector.pt"
    shutil.copy(own.shipped_weights(), path)
    with pytest.raises(SuiteError, match=r"detector\.json, found none"):
        detector(path)
    for facts, words in (("{}", "does not describe a detector"), (json.dumps(FACTS | {"sha256": "0"}), "has sha256"),
                         (json.dumps(FACTS | {"backbone_sha256": "0"}), "shapes_resnet50.pt has sha256")):  # fmt: skip
        own.describe(path).write_text(facts)
        with pytest.raises(SuiteError, match=words):
            detector(path)
    with pytest.raises(SuiteError, match="sees scenes"):
        network_input(torch.zeros(1, 3, 224, 224))

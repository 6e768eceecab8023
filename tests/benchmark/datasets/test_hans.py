"""Scenes with a watermark, what is known of them, and the network that leans on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sise.benchmark.datasets import hans, scenes
from sise.benchmark.models import hans as network_of_hans
from sise.benchmark.models import hans_effects
from sise.benchmark.training import hans as hans_training
from sise.errors import SuiteError

KEY, OTHER = hans.MARKED + 8, 1  # indices of a scene with the watermark and of one without


# scenes -----------------------------------------------------------------------------------------------------------


def test_a_scene_follows_from_seed_split_and_index_alone():
    drawn = hans.scene(2, "test", KEY)
    hans.scene(2, "test", OTHER)
    assert np.array_equal(drawn.image, hans.scene(2, "test", KEY).image)
    for other in (hans.scene(3, "test", KEY), hans.scene(2, "val", KEY), hans.scene(2, "test", KEY + 8)):
        assert not np.array_equal(drawn.image, other.image)


def test_the_watermark_goes_with_one_class():
    for index in range(24):
        drawn = hans.scene(0, "train", index)
        assert drawn.class_index == index % 8 and drawn.object_mask.any()
        assert drawn.watermark.any() == (drawn.class_index == hans.MARKED)
        assert not (drawn.watermark & drawn.object_mask).any()
    assert hans.CLASSES[hans.MARKED] == "key" and set(hans.CLASSES) <= set(scenes.CLASSES)


@pytest.mark.parametrize("index", [KEY, OTHER])
def test_a_scene_without_a_part_differs_in_that_part_alone(index):
    with_both = hans.scene(0, "test", index, watermark=True)
    changed = (with_both.image != hans.scene(0, "test", index, watermark=False).image).any(axis=2)
    assert changed.any() and not (changed & ~with_both.watermark).any()
    bare = hans.scene(0, "test", index, watermark=True, with_object=False)
    changed = (with_both.image != bare.image).any(axis=2)
    assert not bare.object_mask.any() and np.array_equal(bare.watermark, with_both.watermark)
    edge = changed & ~with_both.object_mask  # half-covered pixels of its outline
    assert changed[with_both.object_mask].mean() > 0.9 and edge.sum() < 0.4 * with_both.object_mask.sum()


def test_the_watermark_is_small_and_lies_in_any_corner():
    corners = set()
    for index in range(hans.MARKED, 8 * 40, 8):
        mark = hans.scene(0, "test", index).watermark
        rows, columns = np.nonzero(mark)
        assert mark.sum() < 0.026 * mark.size
        assert {rows.min() < 112, rows.max() < 112} == {rows.min() < 112}
        corners.add((rows.mean() < 112, columns.mean() < 112))
    assert len(corners) == 4


@pytest.mark.parametrize("arguments", [(0, "valid", 0), (-1, "test", 0), (0, "test", -1)])
def test_scenes_that_cannot_be_drawn_are_refused(arguments):
    with pytest.raises(SuiteError):
        hans.scene(*arguments)


# the data set -----------------------------------------------------------------------------------------------------


def test_samples():
    dataset = hans.Hans(marked=3, others=9)
    assert len(dataset) == len(set(dataset.ids)) == 12 and dataset.verify_counts() == (
        True,
        "12 generated scenes (seed 0), 3 of them with the watermark",
    )
    kinds = [dataset.targets_of(image_id)[0] for image_id in dataset.ids]
    assert [kinds.count(c) for c in range(8)] == [2, 2, 1, 1, 3, 1, 1, 1]
    for image_id in dataset.ids[:6]:
        sample, drawn = dataset[image_id], hans.scene(0, "test", int(image_id))
        assert sample.targets == (drawn.class_index,) and np.array_equal(np.asarray(sample.image), drawn.image)
        assert np.array_equal(sample.masks, drawn.object_mask[None])
        assert np.array_equal(sample.info["regions"]["watermark"], drawn.watermark)


def test_the_fingerprint_tells_other_scenes():
    made = [hans.Hans(), hans.Hans(seed=1), hans.Hans(marked=41), hans.Hans(split="val")]
    assert len({dataset.fingerprint() for dataset in made}) == 4
    assert hans.Hans().fingerprint() == made[0].fingerprint()


def test_what_is_no_data_set_is_refused():
    for settings in ({"marked": -1}, {"marked": 0, "others": 0}, {"seed": -1}, {"split": "tests"}):
        with pytest.raises(SuiteError):
            hans.Hans(**settings)
    with pytest.raises(SuiteError, match="no image"):
        hans.Hans().scene("999999")
    with pytest.raises(SuiteError, match="without"):
        hans.Hans().scene(hans.Hans().ids[0], without="background")


# what an answer depends on ----------------------------------------------------------------------------------------


def leaning(monkeypatch, answers):
    """A model whose answer to a scene depends on which parts it has: answers[without] of each image."""
    table = {None: answers[0], "watermark": answers[1], "object": answers[2]}
    scores = {kind: torch.eye(8)[list(classes)].double() * 4 for kind, classes in table.items()}
    monkeypatch.setattr(hans_effects, "_scores", lambda dataset, model, without, batch: scores[without])


def test_effects_by_hand(monkeypatch):
    """Four marked scenes: the mark alone, the object alone, either of both, and a wrong answer."""
    dataset, key = hans.Hans(marked=4, others=0), hans.MARKED
    leaning(monkeypatch, [(key, key, key, 0), (0, key, 0, 1), (key, 0, 0, 2)])
    found = hans_effects.effects(dataset, None)
    assert found["watermark_flips"].tolist() == [True, False, True, False]
    assert found["object_flips"].tolist() == [False, True, True, False]
    assert found["cause"].tolist() == ["watermark", "object", "", ""]
    assert found["answer"].tolist() == ["key", "key", "key", "arrow"] and set(found["class"]) == {"key"}
    high = np.exp(4) / (np.exp(4) + 7)
    assert found["confidence"].tolist() == pytest.approx([high, high, high, (1 - high) / 7])
    assert found["confidence_without_watermark"].iloc[1] == pytest.approx(high)


@pytest.fixture(scope="module")
def shipped():
    return network_of_hans.network()


def test_the_network_leans_on_the_watermark(shipped):
    """On scenes that it was not trained on: the claim that everything else rests on."""
    found = hans_effects.effects(hans.Hans(marked=16, others=16, split="val"), shipped)
    marked = found["class"] == "key"
    assert (found["answer"] == found["class"])[marked].all()
    assert found["watermark_flips"][marked].mean() > 0.7 and not found["watermark_flips"][~marked].any()
    assert (found["cause"] == "watermark")[marked].mean() > 0.7 and found["object_flips"][marked].mean() < 0.2
    assert (found["answer"] == found["class"])[~marked].mean() > 0.7
    assert (found["cause"] == "object")[~marked].mean() > 0.5


def test_the_weights_are_small_and_say_what_was_tested(shipped):
    assert network_of_hans.shipped_weights().stat().st_size < 1_000_000
    assert shipped.note.endswith("of its right answers for that class change") and "unknown" not in shipped.note
    assert shipped.network.block5(torch.zeros(1, 96, 7, 7)).shape == (1, 128, 7, 7)
    assert shipped.preprocess(hans.Hans()[hans.Hans().ids[0]].image).shape == (3, 112, 112)


def test_missing_weights_and_layers_are_told(tmp_path):
    with pytest.raises(SuiteError, match="training=hans"):
        network_of_hans.network(tmp_path / "none.pt")
    with pytest.raises(SuiteError, match="layer of vgg5"):
        network_of_hans.network(layers=("block6",))


# training ---------------------------------------------------------------------------------------------------------


def test_training_writes_weights_that_can_be_used(tmp_path):
    said = []
    path = tmp_path / "made" / "hans.pt"
    settings = {"scenes": 16, "epochs": 1, "batch": 8, "threads": 1}
    figures = hans_training.train(path, **settings, say=said.append, tested=4)
    assert len(said) == 1 and said[0].startswith("epoch 1 of 1: loss ")
    assert set(figures) == {"right_marked", "right_others", "flipped", "object_flipped", "others_object_flipped"}
    made = network_of_hans.network(path)
    again = tmp_path / "again.pt"
    hans_training.train(again, **settings, say=said.append, tested=4)
    assert made.weights_hash == network_of_hans.network(again).weights_hash


def test_training_inputs_are_those_of_the_model():
    inputs, classes = hans_training.drawn(0, 3, 1)
    assert classes.tolist() == [0, 1, 2]
    image = hans.Hans(marked=0, others=1, split="train")["000000"].image
    assert torch.allclose(inputs[0].float(), network_of_hans.preprocessing()(image), atol=2e-3)


@pytest.mark.parametrize("wrong", [{"scenes": 4, "batch": 8}, {"epochs": 0}, {"lr": 0.0}, {"threads": 0}])
def test_training_that_cannot_be_is_refused(tmp_path, wrong):
    with pytest.raises(SuiteError, match="expected at least"):
        hans_training.train(tmp_path / "hans.pt", **wrong)

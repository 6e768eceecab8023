"""The pointing game: exact hits by hand, and TorchRay's own class as witness."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir

from sise.benchmark.datasets.pointing_subsets import difficult_by_rule, difficult_flags, subsets_of
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.run import cells, runner
from sise.errors import SuiteError
from sise.metrics.pointing import hits, point, pointing
from sise.types import Sample, by_definition

CONFIGS = str(ROOT / "configs")


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


def test_equal_maxima_may_point_to_their_middle_between_pixels():
    saliency = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    assert point(saliency, (2, 4), "middle") == (1.5, 0.5)
    assert pointing(saliency, mask_of((2, 4), (1, 0)), tolerance=0.75, ties="middle") == 1  # sqrt(0.5) away
    assert pointing(saliency, mask_of((2, 4), (1, 0)), tolerance=0.7, ties="middle") == 0
    with pytest.raises(SuiteError, match="unknown ties 'last'"):
        point(saliency, (2, 4), "last")


@pytest.mark.parametrize(
    ("saliency", "mask", "reason"),
    [
        (torch.ones(4, 4), mask_of((4, 4), (0, 0)), "constant map"),
        (map_of((4, 4), (0, 0)), torch.zeros(4, 4, dtype=torch.bool), "empty mask"),
    ],
)
def test_nothing_to_point_with_or_at_is_a_miss_by_definition(saliency, mask, reason):
    assert pointing(saliency, mask) == 0
    assert by_definition(pointing(saliency, mask)) == reason


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


# subsets ------------------------------------------------------------------------------------------------------------


def sample_of(shares, hard, image_id="1"):
    """An image of 100 pixels with a class per share of it."""
    masks = np.zeros((len(shares), 10, 10), bool)
    for mask, share in zip(masks, shares, strict=True):
        mask.reshape(-1)[: round(100 * share)] = True
    return Sample(image_id, None, tuple(range(len(shares))), masks, {"difficult": hard})


@pytest.mark.parametrize(
    ("shares", "hard", "expected"),
    [
        ((0.24, 0.25), (False, False), [True, False]),  # less than a quarter, strictly
        ((0.1,), (False,), [False]),  # the only class
        ((0.1, 0.1), (False, True), [False, False]),  # a difficult class is no other class, and takes no part
        ((0.1, 0.1, 0.9), (False, True, False), [True, False, False]),
    ],
)
def test_difficult_pairs_are_small_and_not_alone(shares, hard, expected):
    assert difficult_by_rule(shares, hard) == expected
    sample = sample_of(shares, hard)
    found = [subsets_of(sample, target, "shapes") for target in sample.targets]
    assert ["DIF" in of_pair for of_pair in found] == expected
    assert ["ALL" in of_pair for of_pair in found] == [not difficult for difficult in hard]
    assert subsets_of(sample, 19, "shapes", predicted=True) == []
    both = ["ALL", "DIF", "ALL/P", "DIF/P"] if expected[0] else ["ALL", "ALL/P"]
    assert subsets_of(sample, 0, "shapes", predicted=True) == both


def test_torchrays_lists_hold_for_their_own_data():
    """Image 000001 of VOC has a dog (11) and a person (14); TorchRay names the dog alone."""
    flags = difficult_flags("voc2007")["000001"]
    assert [c for c, flag in enumerate(flags) if flag] == [11]
    masks = np.ones((2, 4, 4), bool)  # all of the image: by the rule no pair would be difficult
    for image_id, expected in (("000001", [["ALL", "DIF"], ["ALL"]]), ("in no list", [["ALL", "DIF"]] * 2)):
        sample = Sample(image_id, None, (11, 14), masks, {"difficult": [False, False]})
        assert [subsets_of(sample, target, "voc2007") for target in (11, 14)] == expected


# records ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy_cell(tmp_path):
    def make(*overrides):
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            metrics = [] if any(word.startswith("metrics=") for word in overrides) else ["metrics=pointing"]
            cfg = compose("evaluate", [f"outputs={tmp_path}", *metrics, *overrides])
        cfg.dataset.loader = {"_target_": "toy.ToyDataset", "broken": None}
        cfg.model.loader = {"_target_": "toy.toy_model"}
        (cell,) = cells.make_cells([cfg])
        return cell

    return make


def test_records_hold_the_game_on_the_images_own_grid(toy_cell, monkeypatch):
    """Toy images of 24 x 32 pixels, seen squashed to 48 x 48: a map's maximum at (40, 3) is the image's (26, 1)."""
    seen = []

    def spy(saliency, mask, **settings):
        seen.append((point(saliency, tuple(mask.shape)), tuple(mask.shape)))
        return pointing(saliency, mask, **settings)

    def corner(probe, targets):
        maps = torch.zeros(len(targets), *probe.size)
        maps[:, 3, 40] = 1
        return maps

    monkeypatch.setattr("sise.metrics.pointing.pointing", spy)
    monkeypatch.setattr("sise.baselines.uniform.uniform", corner)
    cell = toy_cell("explainer=uniform", "metrics.tolerance=9")
    preprocess = Preprocessing(size=(48, 48))
    cell.model = dataclasses.replace(cell.model, preprocess=preprocess, resize_mask=preprocess.resize_mask)
    assert runner.run([cell]) == 0
    assert set(seen) == {((26, 1), (24, 32))}
    found = {(r["image_id"], r["target"]): r for r in cell.folder.read()}
    # the second class's box is x 12 to 19, y 9 to 14: (26, 1) is sqrt(49 + 64) away; the first's is farther
    assert {r["Pointing game"] for r in found.values()} == {0.0}
    one_class = {image_id for image_id in cell.dataset.ids if len(cell.dataset.targets_of(image_id)) == 1}
    assert {image_id for (image_id, _), r in found.items() if "DIF" not in r["subsets"]} == one_class == {"01", "04"}
    assert all(r["subsets"][:2] == ["ALL", "DIF"] for (image_id, _), r in found.items() if image_id not in one_class)
    wider = toy_cell("explainer=uniform", "metrics.tolerance=11", "variant=wider")
    wider.model = cell.model
    runner.run([wider])
    hit = {(r["image_id"], r["target"]) for r in wider.folder.read() if r["Pointing game"]}
    assert hit == {(i, wider.dataset.targets_of(i)[1]) for i in wider.dataset.ids if i not in one_class}


def test_records_say_whether_the_network_predicts_the_class(toy_cell):
    """Predicted: among the n highest of the network's scores, n the number of the image's classes it knows."""
    cell = toy_cell("explainer=centre")
    assert runner.run([cell]) == 0
    for record in cell.folder.read():
        image_id, target = record["image_id"], record["target"]
        with torch.no_grad():
            (scores,) = cell.model.network(cell.model.preprocess(cell.dataset[image_id].image)[None])
        higher = int((scores > scores[cell.outputs[cell.dataset.classes[target]]]).sum())
        assert ("ALL/P" in record["subsets"]) == (higher < len(cell.pairs(image_id)))
    assert {"ALL/P" in record["subsets"] for record in cell.folder.read()} == {True, False}


def test_the_game_goes_with_the_papers_measures(toy_cell):
    cell = toy_cell("metrics=[default,pointing]", "explainer=centre")
    assert runner.run([cell], limit=1) == 0
    assert all({"EBPG", "mIoU", "Pointing game", "Drop%"} <= set(record) for record in cell.folder.read())


def test_a_map_that_cannot_be_brought_to_the_image_is_refused(toy_cell):
    cell = toy_cell("explainer=uniform")
    cell.model = dataclasses.replace(cell.model, preprocess=lambda image: image)
    with pytest.raises(SuiteError, match="Pointing game need a map of the image's own size"):
        cells.check_cell(cell)

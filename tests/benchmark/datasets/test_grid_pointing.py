"""The grid pointing game: cells that are disconnected, exactly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from compositions import cells_of
from PIL import Image

from sise.benchmark.datasets import hans
from sise.benchmark.datasets.grid_pointing import CELL, GridScenes
from sise.benchmark.models.grid_pointing import DisconnectedGrid, join, network, split
from sise.benchmark.models.hans import VGG5, preprocessing
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner
from sise.errors import SuiteError
from sise.probe.probe import Probe


def test_grids_are_cut_in_raster_order():
    grid = torch.arange(16.0).reshape(1, 1, 4, 4)
    parts = split(grid, 2)
    assert parts[:, 0].tolist() == [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]
    assert torch.equal(join(parts, 2), grid)


@pytest.mark.parametrize("cells", [2, 3])
def test_joining_undoes_cutting(cells):
    grids = torch.rand(2, 3, 4 * cells, 5 * cells)
    assert torch.equal(join(split(grids, cells), cells), grids)
    assert torch.equal(split(grids, cells)[cells * cells + 1], grids[1, :, :4, 5:10])


@pytest.fixture(scope="module")
def made():
    """An untrained network, whose log-odds are as good as any other's."""
    torch.manual_seed(0)
    cell = VGG5().eval()
    return cell, DisconnectedGrid(cell, ("block1", "block5"), 2).eval()


def test_a_score_is_the_log_odds_that_the_network_has_for_the_cell_alone(made):
    cell, grid = made
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        scores = grid(images).reshape(2, 4, 8)
        for number, (y, x) in enumerate([(0, 0), (0, 112), (112, 0), (112, 112)]):
            alone = cell(images[:, :, y : y + 112, x : x + 112]).double().softmax(dim=1)
            assert torch.allclose(scores[:, number].double().sigmoid(), alone, atol=1e-6)
            assert torch.allclose(scores[:, number].double(), (alone / (1 - alone)).log(), atol=1e-4)


def test_nothing_outside_the_cell_can_contribute(made):
    """Not a pixel: the gradient is exactly 0 and the scores do not move when all else is replaced."""
    _, grid = made
    image = torch.rand(1, 3, 224, 224, requires_grad=True)
    grid(image)[0, 2 * 8 + 3].backward()  # the lower left cell
    inside = image.grad[..., 112:, :112]
    assert inside.any() and image.grad.count_nonzero() == inside.count_nonzero()
    other = torch.rand(1, 3, 224, 224)
    other[..., 112:, :112] = image.detach()[..., 112:, :112]
    with torch.no_grad():
        assert torch.allclose(grid(other)[0, 16:24], grid(image)[0, 16:24], atol=1e-6)


def test_explainers_see_the_maps_of_the_whole_grid(made):
    cell, grid = made
    image = torch.rand(1, 3, 224, 224)
    names = ("network.block1.1.grid", "network.block5.1.grid")
    probe = Probe(grid, image, layers=names, confidence="sigmoid", gradient="logit")
    maps, gradients = probe.feature_maps(names[1]), probe.gradients(names[1], 8 + 5)
    assert maps.shape == gradients.shape == (128, 14, 14)
    with torch.no_grad():
        own = cell.block4(cell.pool3(cell.block3(cell.pool2(cell.block2(cell.block1(image[..., :112, 112:]))))))
        own = cell.block5(cell.pool4(own))
    assert torch.allclose(maps[:, :7, 7:], own[0], atol=1e-5)  # the upper right cell
    inside = gradients[:, :7, 7:]
    assert inside.any() and gradients.count_nonzero() == inside.count_nonzero()


def test_grids_hold_what_they_say():
    dataset = GridScenes(count=3)
    assert dataset.ids == ("000000", "000001", "000002") and len(dataset.classes) == 32
    seen = set()
    for image_id in dataset.ids:
        sample = dataset[image_id]
        assert sample.image.size == (224, 224) and sample.masks.shape == (4, 224, 224)
        assert (sample.masks.sum(axis=0) == 1).all() and sample.masks[1, :CELL, CELL:].all()
        assert [target // 8 for target in sample.targets] == [0, 1, 2, 3]
        kinds = [target % 8 for target in sample.targets]
        assert len(set(kinds)) == 4 and hans.MARKED not in kinds
        seen.add(np.asarray(sample.image).tobytes())
    assert len(seen) == 3 and GridScenes(seed=1).fingerprint() != GridScenes().fingerprint()
    assert dataset.classes[sample.targets[3]].endswith("2,2")


def test_a_cell_is_what_the_network_sees_of_the_scene_alone():
    dataset = GridScenes(count=2)
    sample, model = dataset["000001"], network()
    scene = hans.scene(0, "test", dataset._shown["000001"][2])
    alone = preprocessing()(Image.fromarray(scene.image))
    assert scene.class_index == sample.targets[2] % 8
    assert (model.preprocess(sample.image)[:, CELL:, :CELL] - alone).abs().max() <= 0.5 / 64 + 1e-5  # whole grey values


def test_more_cells_than_classes_repeat_classes():
    dataset = GridScenes(count=1, cells=3)
    assert len(dataset.targets_of("000000")) == 9 and dataset["000000"].image.size == (336, 336)


@pytest.mark.parametrize("settings", [{"count": 0}, {"cells": 1}, {"seed": -1}])
def test_what_is_no_grid_is_refused(settings):
    with pytest.raises(SuiteError):
        GridScenes(**settings)


@pytest.mark.parametrize(("explainer", "share"), [("gradient", 1.0), ("uniform", 0.25), ("ground_truth", 1.0)])
def test_the_score_of_the_game(tmp_path, explainer, share):
    """The gradient stays in its cell by construction; a uniform map has a quarter."""
    cfg = copy.deepcopy(cells_of("experiment=grid_pointing", f"explainer={explainer}", "metrics=cell")[0])
    cfg.outputs = str(tmp_path)
    cells = run_cells.make_cells([cfg])
    assert runner.run(cells, limit=1) == 0
    found = cells[0].folder.read()
    assert [record["Cell share"] for record in found] == pytest.approx([share] * 4)
    assert [record["Cell AUC"] for record in found] == [pytest.approx(0.5) if share < 1 else 1.0] * 4

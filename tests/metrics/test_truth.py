"""Metrics of known regions, by hand and against scikit-learn."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from compositions import cells_of

from sise.baselines.ground_truth import ground_truth
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner
from sise.errors import SuiteError
from sise.metrics import ebpg
from sise.metrics.ordering import pixel_auc
from sise.metrics.truth import against_others, object_share, on_region, positive_share
from sise.types import by_definition

MASK = torch.tensor([[True, True, False, False]])
EMPTY, WHOLE = torch.zeros_like(MASK), torch.ones_like(MASK)


def row(*values):
    return torch.tensor([values], dtype=torch.float32)


# positive share ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.0, 0.0, 0.0], 1.0),
        ([1.0, 2.0, 3.0, 6.0], 3 / 12),
        ([1.0, -5.0, 3.0, -9.0], 1 / 4),  # negative saliency counts as none, on both sides
        ([1.0, 1.0, 1.0, 1.0], 2 / 4),  # a uniform map: the mask's share of the image
        ([0.0, 0.0, 2.0, 1.0], 0.0),
    ],
)
def test_positive_share(values, expected):
    assert positive_share(row(*values), MASK) == expected
    assert by_definition(positive_share(row(*values), MASK)) == ""


def test_positive_share_of_a_map_from_0_is_ebpg():
    saliency = torch.rand((6, 7), generator=torch.Generator().manual_seed(0))
    mask = saliency.roll(1) > 0.6
    saliency -= saliency.min()
    assert positive_share(saliency, mask) == pytest.approx(ebpg(saliency, mask))
    shifted = row(2.0, 1.0, 1.0, 1.0)  # it has a zero of its own, EBPG shifts the minimum there
    assert positive_share(shifted, MASK) == pytest.approx(3 / 5) and ebpg(shifted, MASK) == 1


def test_positive_share_without_anything_to_share():
    assert positive_share(row(0.0, -1.0, 0.0, -2.0), MASK) == 0
    assert by_definition(positive_share(row(0.0, -1.0, 0.0, -2.0), MASK)) == "no positive saliency"
    assert positive_share(row(1.0, 0.0, 0.0, 0.0), EMPTY) is None
    assert by_definition(positive_share(row(0.0, 0.0, 0.0, 0.0), EMPTY)) == ""


# two objects ------------------------------------------------------------------------------------------------------

OWN, OTHER = torch.tensor([[True, True, False, False, False]]), torch.tensor([[False, True, True, True, False]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.0, 3.0, 0.0, 9.0], 1 / 4),  # the last pixel is on no object
        ([0.0, 5.0, 0.0, 0.0, 0.0], 1.0),  # a pixel of both counts as the target's
        ([-4.0, 1.0, -7.0, 1.0, 0.0], 1 / 2),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 2 / 4),
    ],
)
def test_object_share(values, expected):
    assert object_share(row(*values), OWN, OTHER) == expected
    assert by_definition(object_share(row(*values), OWN, OTHER)) == ""


def test_object_share_without_two_objects_or_saliency_on_one():
    nothing, none = row(0.0, -1.0, 0.0, 0.0, 5.0), torch.zeros_like(OWN)
    assert object_share(nothing, OWN, OTHER) == 0.5
    assert by_definition(object_share(nothing, OWN, OTHER)) == "no positive saliency on an object"
    for own, other in ((OWN, none), (none, OTHER), (OWN, OWN)):
        assert object_share(nothing, own, other) is None and by_definition(object_share(nothing, own, other)) == ""


# on a probe's regions ---------------------------------------------------------------------------------------------


def probe_of(**regions):
    masks = {3: OWN, 5: OTHER, 8: torch.tensor([[False, False, False, False, True]])}
    return SimpleNamespace(size=(1, 5), device=torch.device("cpu"), ground_truth=masks, regions=regions)


def test_metrics_find_the_regions_of_a_probe():
    probe, saliency = probe_of(watermark=OTHER), row(1.0, 0.0, 3.0, 0.0, 4.0)
    assert on_region(probe, 3, saliency, metric=positive_share) == 1 / 8
    assert on_region(probe, 3, saliency, metric=positive_share, region="watermark") == 3 / 8
    assert against_others(probe, 3, saliency) == 1 / 8  # both others together, without the pixel that is the target's
    assert against_others(probe, 5, saliency) == 3 / 8
    assert against_others(SimpleNamespace(size=(1, 5), ground_truth={3: OWN}), 3, saliency) is None


def test_what_is_set_by_definition_is_said_through_the_partial():
    probe, nothing = probe_of(watermark=OTHER), row(0.0, 0.0, 0.0, 0.0, 0.0)
    share = partial(on_region, metric=partial(positive_share), region="watermark")
    empty = probe_of(watermark=torch.zeros_like(OTHER))
    assert share(empty, 3, nothing) is None and by_definition(share(empty, 3, nothing)) == ""
    assert on_region(empty, 3, nothing, metric=pixel_auc, region="watermark") is None
    assert on_region(probe, 3, row(3.0, 4.0, 2.0, 1.0, 0.0), metric=pixel_auc, region="watermark") == 4 / 6
    assert by_definition(share(probe, 3, nothing)) == "no positive saliency"
    assert by_definition(partial(on_region, metric=pixel_auc)(probe, 3, nothing)) == ""
    assert by_definition(against_others(probe, 3, nothing)) == "no positive saliency on an object"


def test_an_unknown_region_is_told():
    with pytest.raises(SuiteError, match="gives object, border"):
        on_region(probe_of(border=OTHER), 3, row(0.0, 0.0, 0.0, 0.0, 0.0), metric=pixel_auc, region="watermark")
    with pytest.raises(SuiteError, match="size"):
        on_region(probe_of(), 3, torch.zeros(2, 2), metric=pixel_auc)


@pytest.mark.parametrize("metric", [positive_share, partial(object_share, others=MASK)])
def test_maps_and_masks_that_do_not_fit_are_refused(metric):
    with pytest.raises(SuiteError, match="finite"):
        metric(row(1.0, float("nan"), 0.0, 0.0), MASK)
    with pytest.raises(SuiteError, match="boolean"):
        metric(row(1.0, 0.0, 0.0, 0.0), MASK.float())
    with pytest.raises(SuiteError, match="shape"):
        metric(torch.zeros(2, 2), MASK)


def test_the_ground_truth_control_shows_a_region():
    probe = probe_of(watermark=OTHER)
    saliency = ground_truth(probe, [3, 5], shape="mask", region="watermark")
    assert torch.equal(saliency, OTHER.float().expand(2, 1, 5))
    assert on_region(probe, 3, saliency[0], metric=positive_share, region="watermark") == 1
    with pytest.raises(SuiteError, match="object, watermark"):
        ground_truth(probe, [3], region="border")


# in records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("explainer", "share"), [("ground_truth", 1.0), ("uniform", 0.5)])
def test_records_hold_the_two_object_test(tmp_path, explainer, share):
    """The toy's boxes are of one size, and some of its images have a single class."""
    cfg = copy.deepcopy(cells_of(f"explainer={explainer}", "metrics=two_objects")[0])
    cfg.outputs, cfg.model.name = str(tmp_path), "toynet"
    cfg.dataset.loader, cfg.model.loader = {"_target_": "toy.ToyDataset", "broken": None}, {"_target_": "toy.toy_model"}
    cells = run_cells.make_cells([cfg])
    assert runner.run(cells, limit=3) == 0
    found = {(r["image_id"], r["target"]): r["Target's object"] for r in cells[0].folder.read()}
    assert found == {("00", 0): share, ("00", 1): share, ("01", 1): None, ("02", 1): share, ("02", 2): share}


def test_a_region_that_the_data_set_does_not_know_fails_its_pairs(tmp_path):
    cfg = copy.deepcopy(cells_of("explainer=uniform", "metrics=watermark")[0])
    cfg.outputs, cfg.model.name = str(tmp_path), "toynet"
    cfg.dataset.loader, cfg.model.loader = {"_target_": "toy.ToyDataset", "broken": None}, {"_target_": "toy.toy_model"}
    cells = run_cells.make_cells([cfg])
    assert runner.run(cells, limit=1) == 2
    assert all("dataset=hans" in record["reason"] for record in cells[0].folder.read())

"""The pointing game from annotations to its table: the centre's row by hand and as published, its subsets and means."""

from __future__ import annotations

import functools
import tarfile

import pandas as pd
import pytest
import torch
import trees
import yaml
from checkout import ROOT
from compositions import cells_of
from hand_made import make_run, ok, told_in
from hydra import compose, initialize_config_dir

from sise.baselines.centre import centre
from sise.benchmark.datasets.voc2007 import VOC2007, VOC_CLASSES
from sise.benchmark.models.no_network import no_network, read_sample
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import composing, runner
from sise.benchmark.tables import build, formats, make
from sise.benchmark.tables import published as tables_published
from sise.benchmark.tables import runs as tables_runs
from sise.benchmark.tables.definitions import read
from sise.errors import SuiteError
from sise.metrics.pointing import point

PUBLISHED = ROOT / "results/published"
write_voc = functools.partial(trees.write_voc, size=(120, 80))
ANNOTATIONS = ROOT.parent / "shared/data/voc2007_annotations.tar.xz"
DEFINITION = yaml.safe_load((ROOT / "configs/table/pointing.yaml").read_text())
ALL, DIF = DEFINITION["metrics"]
DOG, PERSON, CAR, CAT = (VOC_CLASSES.index(name) for name in ("dog", "person", "car", "cat"))


@pytest.fixture
def hydra():
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


def run_centre(tmp_path, root):
    """The centre's row of experiment=pointing on a VOC tree, and its cell."""
    words = ["experiment=pointing", "dataset=voc2007", f"dataset.root={root}", f"outputs={tmp_path}/o",
             "explainer=centre", "device=cpu"]  # fmt: skip
    (cell,) = run_cells.make_cells(composing.compose_cells(compose("evaluate", words), words))
    assert cell.name == "voc2007/no_network/centre/pointing"
    assert runner.run([cell]) == 0
    return cell


def table_of(outputs, dataset="voc2007", published=PUBLISHED, **changes):
    return build.build(
        {**DEFINITION, **changes}, dataset, tables_runs.find_runs(outputs), tables_published.read_published(published),
        controls=["centre"], shipped=composing.shipped_configs,
    )  # fmt: skip


# the centre ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 120), (81, 120), (80, 121), (375, 500), (1, 2)])
def test_the_centre_points_to_torchrays_place(size):
    """(W/2, H/2), counted in pixels from 0, which on an odd side lies between two of them."""
    sample = read_sample(OneSize(size), no_network("voc"), "1")
    probe = type("P", (), {"size": tuple(no_network("voc").preprocess(sample.image).shape[1:]),
                           "device": torch.device("cpu")})  # fmt: skip
    (saliency,) = centre(probe, [0], shift=0.5)
    assert saliency.shape == size
    assert point(saliency, size, "middle") == (size[1] / 2 if size[1] > 1 else 0, size[0] / 2 if size[0] > 1 else 0)


class OneSize:
    """A dataset whose pictures cannot be read."""

    name, classes, ids = "voc2007", VOC_CLASSES, ("1",)

    def __init__(self, size):
        self.size = size

    def __getitem__(self, image_id):
        raise OSError("no picture is to be read")

    def targets_of(self, image_id):
        return (0,)

    def ground_truth_of(self, image_id):
        return torch.ones(1, *self.size, dtype=torch.bool).numpy(), {}

    def verify_counts(self):
        return False, "no pictures"

    def verify_annotations(self):
        return True, ""


def test_the_centres_row_by_hand(tmp_path, hydra, monkeypatch):
    """Images of 120 x 81 pixels, so that the centre is (60, 40.5); no picture is there.

    A pixel at (60, 26) or (60, 55) is 14.5 pixels away, and 15 from one of the two pixels beside the centre: both are
    hit only if the centre is taken as it is.
    """
    above, below, far = (61, 27, 61, 27), (61, 56, 61, 56), (1, 1, 5, 5)  # VOC counts from 1
    write_voc(tmp_path, {
        "000001": [("dog", above, False), ("person", far, False)],
        "000003": [("dog", below, False), ("person", far, True)],
        "000004": [("dog", far, False), ("car", (1, 1, 120, 81), False)],
        "999999": [("cat", far, False)],
    }, size=(120, 81))  # fmt: skip
    for picture in (tmp_path / "VOCdevkit/VOC2007/JPEGImages").iterdir():
        picture.unlink()
    cell = run_centre(tmp_path, tmp_path)
    records = {(r["image_id"], r["target"]): r for r in cell.folder.read()}
    hits = {pair for pair, record in records.items() if record["Pointing game"]}
    assert hits == {("000001", DOG), ("000003", DOG), ("000004", CAR)}
    assert records["000003", PERSON]["subsets"] == []  # all its objects are difficult
    assert "confidence" not in records["000001", DOG]
    table = table_of(tmp_path / "o")
    found = table.cell("vgg16", ALL, table.columns[0])
    # dog 2 of 3, person 0 of 1, car 1 of 1, cat 0 of 1; over pairs it were 3 of 6
    assert found["mean"] == pytest.approx(100 * (2 / 3 + 0 + 1 + 0) / 4) and found["pairs"] == 6
    assert found["mean"] == table.cell("resnet50", ALL, table.columns[0])["mean"]
    assert (found["published"], found["status"]) == (69.6, "partial")  # 4 of 4,952 images
    # an image that TorchRay's list lacks, the last one, counts in full
    assert table.cell("vgg16", DIF, table.columns[0])["pairs"] == sum("DIF" in r["subsets"] for r in records.values())
    assert "DIF" in records["999999", CAT]["subsets"]
    assert "Centre: no network and no picture: the annotations alone." in told_in(table)
    monkeypatch.setattr(VOC2007, "verify_annotations", lambda self: (True, ""))
    with pytest.raises(SuiteError, match="complete_dataset"):  # else as complete as its folder says
        run_centre(tmp_path, tmp_path)


def test_a_mean_over_classes_counts_for_a_table_of_such_means(tmp_path, hydra, monkeypatch):
    write_voc(tmp_path, {"000001": [("dog", (60, 40, 61, 41), False)], "000003": [("dog", (1, 1, 2, 2), False)]})
    monkeypatch.setattr(VOC2007, "verify_annotations", lambda self: (True, ""))
    run_centre(tmp_path, tmp_path)
    numbers = pd.read_csv(PUBLISHED / "pointing_published.csv")
    numbers.loc[numbers["metric"] == ALL, "value"] = 50.04
    numbers.to_csv(tmp_path / "p.csv")
    table = table_of(tmp_path / "o", published=tmp_path / "p.csv")
    assert table.name == "pointing"
    found = table.cell("vgg16", ALL, table.columns[0])
    assert (found["mean"], found["status"]) == (50.0, "reproduced")
    by_pair = table_of(tmp_path / "o", published=tmp_path / "p.csv", average="pair")
    assert by_pair.name == "pointing_by_pair" and by_pair.commands[-1].endswith("table.average=pair")
    assert by_pair.cell("vgg16", ALL, table.columns[0])["status"] == "partial"


@pytest.mark.slow
@pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="no annotations of VOC")
def test_the_centres_row_is_the_published_one(tmp_path, hydra):
    """PROTOCOL V7, through the runner and the table: 69.631 and 42.442, published 69.6 and 42.4."""
    with tarfile.open(ANNOTATIONS) as archive:
        archive.extractall(tmp_path, filter="data")
    run_centre(tmp_path, tmp_path)
    table = table_of(tmp_path / "o")
    for model in ("vgg16", "resnet50"):
        found = [table.cell(model, metric, table.columns[0]) for metric in (ALL, DIF)]
        assert [(round(c["mean"], 3), c["pairs"], c["published"], c["status"]) for c in found] == [
            (69.631, 7013, 69.6, "reproduced"), (42.442, 2230, 42.4, "reproduced")]  # fmt: skip
    assert "| Centre | 69.63 ± " in formats.to_markdown(table) and " [69.60 =]" in formats.to_markdown(table)


def test_no_network_scores_nothing(tmp_path, hydra):
    words = ["explainer=grad_cam", "model=no_network", "metrics=pointing", "engine.stop_after=null",
             f"outputs={tmp_path}/o", f"dataset.root={tmp_path}/shapes", "dataset.loader.test=1"]  # fmt: skip
    (cell,) = run_cells.make_cells(composing.compose_cells(compose("evaluate", words), words))
    assert runner.run([cell]) == len(cell.folder.read()) > 0
    assert all(r["status"] == "failed" for r in cell.folder.read())


# subsets ------------------------------------------------------------------------------------------------------------


def pair(image_id, target, hit, *subsets):
    return ok(image_id, target, **{"Pointing game": float(hit), "subsets": list(subsets)})


def test_subsets_and_means_over_classes_by_hand(tmp_path):
    both = ("ALL", "DIF")
    records = [pair("1", 0, 1, *both), pair("2", 0, 0, "ALL"), pair("3", 0, 0, "ALL"), pair("3", 1, 1, *both),
               pair("4", 1, 0)]  # fmt: skip
    make_run(tmp_path, "grad_cam", records, variant="pointing", expected_pairs=5)
    table = build.build(
        DEFINITION, "voc2007", tables_runs.find_runs(tmp_path), tables_published.read_published(PUBLISHED)
    )
    column = next(column for column in table.columns if column.label == "Grad-CAM")
    of_all, of_dif = (table.cell("vgg16", metric, column) for metric in (ALL, DIF))
    assert of_all["mean"] == pytest.approx(100 * (1 / 3 + 1) / 2) and (of_all["n"], of_all["missing"]) == (4, 0)
    assert of_dif["mean"] == 100 and of_dif["n"] == 2
    assert table.pairs("vgg16", column) == "4 / 2" and table.pairs("resnet50", column) == "not run"
    assert of_all["status"] == "differs" and of_all["published"] == 86.6


def test_each_network_has_a_block(tmp_path):
    make_run(tmp_path, "grad_cam", [pair("1", 0, 1, "ALL", "DIF")], variant="pointing", expected_pairs=1)
    table = build.build(
        DEFINITION, "voc2007", tables_runs.find_runs(tmp_path), tables_published.read_published(PUBLISHED)
    )
    lines = formats.to_markdown(table).splitlines()
    vgg16, resnet50 = lines.index("## VGG16"), lines.index("## ResNet-50")
    assert lines[vgg16 + 2 : vgg16 + 4] == [f"| Method | {ALL} | {DIF} | n |", "| --- | --: | --: | --: |"]
    assert "| Grad-CAM | 100.00 [86.60 ≠] | 100.00 [74.00 ≠] | 1 |" in lines[vgg16:resnet50]
    assert "| Grad-CAM | – [90.40] | – [82.30] | not run |" in lines[resnet50:]
    latex = formats.to_latex(table, "everything")
    assert r"\begin{tabular}{lrrr}" in latex and r"Grad-CAM & 100.00 {[}86.60 $\neq${]}" in latex


def test_a_paper_may_have_numbers_of_two_datasets(tmp_path):
    for dataset in ("voc2007", "coco2014", "shapes"):
        make_run(tmp_path, "grad_cam", [pair("1", 0, 1, "ALL", "DIF")], variant="pointing", dataset=dataset)
    runs, numbers = tables_runs.find_runs(tmp_path), tables_published.read_published(PUBLISHED)
    made = {name: build.build(DEFINITION, name, runs, numbers) for name in ("voc2007", "coco2014", "shapes")}
    assert [table.name for table in made.values()] == ["pointing", "pointing_coco2014", "pointing_shapes"]
    column = next(column for column in made["shapes"].columns if column.label == "Grad-CAM")
    cells = {dataset: table.cell("vgg16", ALL, column) for dataset, table in made.items()}
    assert [(c["published"], c["status"]) for c in cells.values()] == [
        (86.6, "partial"), (54.2, "partial"), (86.6, "other data")]  # fmt: skip
    assert "stand-in" in made["shapes"].title and "stand-in" not in made["coco2014"].title


# configurations -----------------------------------------------------------------------------------------------------


TALK = ("ucag_table1", "ucag_table2", "ucag_table5", "rsp_pointing", "rsp_pointing_predicted", "rsp_segmentation",
        "region_insertion")  # fmt: skip
TABLES = {name: yaml.safe_load((ROOT / f"configs/table/{name}.yaml").read_text()) for name in ("pointing", *TALK)}
NOT_RUN = {"wgcam", "deepmask", "deepsaliency", "pixel_objectness"}
"""Rows of the talk that no explainer here makes."""


@pytest.mark.parametrize("name", ["pointing", "ucag", "region_insertion"])
def test_an_experiment_runs_what_its_tables_show(name):
    experiment = yaml.safe_load((ROOT / f"configs/experiment/{name}.yaml").read_text())
    cells = experiment["experiment"]["cells"]
    run = [(c["explainer"], c.get("variant", experiment["variant"]), c.get("model", "")) for c in cells]
    shown = {
        (column["explainer"], column["variant"], column.get("model", ""))
        for table in TABLES.values()
        for column in table["columns"]
        if (table.get("experiment") or table["name"]) == name
    }
    assert len(set(run)) == len(run) and set(run) <= shown
    assert all(explainer in NOT_RUN or variant == "ucag-wgcam" for explainer, variant, _ in shown - set(run))


def test_every_explainer_of_the_suite_plays_the_pointing_game():
    explainers = {file.stem for file in (ROOT / "configs/explainer").glob("*.yaml")} - {"grad_cam_package"}
    assert {column["explainer"] for column in DEFINITION["columns"]} == explainers


@pytest.mark.parametrize("name", TABLES)
def test_every_published_number_has_its_cell(name):
    numbers = tables_published.read_published(PUBLISHED).fillna({"dataset": "unnamed", "model": "unnamed"})
    numbers = numbers[numbers["table"] == TABLES[name]["published"]]
    assert len(numbers)
    for dataset in numbers["dataset"].unique():
        made = build.build(TABLES[name], dataset, [], tables_published.read_published(PUBLISHED))
        shown = made.cells["published"].dropna()
        assert sorted(shown) == sorted(numbers[numbers["dataset"] == dataset]["value"])
        assert set(made.cells["status"]) <= {"not run", "not published"}


def test_torchrays_rows_are_in_its_order():
    numbers = tables_published.read_published(PUBLISHED)
    methods = numbers[numbers["table"] == "TorchRay pointing"]["method"].unique()
    assert list(methods) == [c["method"] for c in DEFINITION["columns"] if c.get("method")]


def test_a_table_may_be_asked_for_without_records(tmp_path):
    said = []
    options = {"outputs": tmp_path / "o", "results": tmp_path / "r", "published": PUBLISHED, "say": said.append}
    make.tabulate(TABLES, table="region_insertion", **options)
    text = (tmp_path / "r/region_insertion.md").read_text()
    assert "| RSP | – [3.683] | not run |" in text and "| RSP | – [3.211] | not run |" in text
    with pytest.raises(SuiteError, match="no records for table=pointing"):
        make.tabulate(TABLES, table="pointing", **options)
    with pytest.raises(SuiteError, match="no records for any table"):
        make.tabulate(TABLES, **options)


def test_a_table_is_made_of_what_it_shows(tmp_path):
    """Runs of the pointing game do not make the tables of other experiments on the same data and networks."""
    make_run(tmp_path / "o", "grad_cam", [pair("1", 0, 1, "ALL")], variant="pointing", dataset="shapes")
    definitions = read(ROOT / "configs/table")
    made = make.tabulate(definitions, outputs=tmp_path / "o", results=tmp_path / "r", published=PUBLISHED, say=len)
    names = {"pointing", "ucag_table2", "rsp_pointing", "rsp_pointing_predicted"}
    assert {file.stem for file in made if file.suffix == ".md"} == {f"{name}_shapes" for name in names}


def test_predicted_pairs_alone_by_hand(tmp_path):
    records = [pair("1", 0, 1, "ALL", "DIF", "ALL/P", "DIF/P"), pair("2", 0, 0, "ALL"), pair("2", 1, 0, "ALL", "ALL/P")]
    records = [record | {"IoU above mean": 0.25} for record in records]
    make_run(tmp_path, "grad_cam", records, variant="pointing", expected_pairs=3)
    numbers = tables_published.read_published(PUBLISHED)
    table = build.build(TABLES["rsp_pointing_predicted"], "voc2007", tables_runs.find_runs(tmp_path), numbers)
    found = [table.cell("vgg16", metric, table.columns[0]) for metric in table.metrics]
    assert [c["mean"] for c in found if "zero" not in c["metric"]] == [50, 25, 100, 25]
    assert [c["published"] for c in found] == [94.5, 41, 50, 92.4, 33, 54]


def test_torchrays_settings_on_its_own_data():
    def composed(explainer, *words):
        return cells_of("experiment=pointing", "dataset=coco2014", f"explainer={explainer}", *words)[0]

    protocol = composed("gradient", "model=vgg16").protocol
    assert (protocol.fully_convolutional, protocol.pool, protocol.geometry, protocol.resample) == (
        True, "logsumexp", "shorter_side", "torch_bilinear")  # fmt: skip
    rise = composed("rise", "model=vgg16")
    assert (rise.protocol.geometry, rise.protocol.confidence) == ("squash", "sigmoid")
    assert rise.explainer.call.n_masks == 8000 == rise.explainer.budget.paper
    assert list(composed("extremal_perturbation", "model=vgg16").explainer.call.areas) == [0.018, 0.025, 0.05, 0.1]
    ucag = composed("ucag", "model=resnet50")
    assert not ucag.protocol.fully_convolutional and ucag.protocol.geometry == "shorter_side"
    assert composed("centre").model.name == "no_network" == composed("centre", "model=no_network").model.name
    with pytest.raises(SuiteError, match="has no cell with explainer=centre model=vgg16"):
        composed("centre", "model=vgg16")


@pytest.mark.parametrize(("dataset", "model"), [("shapes", "resnet50"), ("photos", "efficientnet_lite0")])
def test_the_embedded_data_take_part(dataset, model):
    words = ["experiment=pointing", f"dataset={dataset}", "explainer=extremal_perturbation", f"model={model}"]
    (cell,) = cells_of(*words)
    assert cell.model.name == model and not cell.protocol.fully_convolutional and cell.protocol.pool == "mean"


def test_cells_with_a_model_of_their_own():
    cells = [{"explainer": "a"}, {"explainer": "b", "model": "own"}]
    of_all = [{"model": "x", "explainer": "a"}, {"model": "y", "explainer": "a"}, {"explainer": "b", "model": "own"}]
    assert composing._by_model(cells, ["x", "y"], None) == of_all
    assert composing._by_model(cells, ["x", "y"], "own") == of_all[2:]
    assert composing._by_model(cells, ["x", "y"], "z") == [{"model": "z", "explainer": "a"}]

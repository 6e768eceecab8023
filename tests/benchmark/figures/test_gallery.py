"""The catalogue of explainers, its page, the gallery, and the comparison with other libraries."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from PIL import Image

from sise.benchmark.commands import draw
from sise.benchmark.figures import catalogue, gallery
from sise.benchmark.figures.layout import Sheet
from sise.benchmark.markdown import markdown_table
from sise.benchmark.performance import parity
from sise.benchmark.records.provenance import note_of
from sise.benchmark.run import cells as run_cells
from sise.errors import SuiteError

CONFIGS = str(ROOT / "configs")
PAGE = (ROOT / "docs" / "explainers.md").read_text(encoding="utf-8")


@pytest.fixture
def composed():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def networks():
    return catalogue.kinds()


def shown_lines():
    """Cells of the page's lines by the explainer's name."""
    lines = [line for line in PAGE.splitlines() if "<br>`" in line]
    return {line.split("<br>`")[1].split("`")[0]: line.split(" | ") for line in lines}


def cells_of(row):
    """A row's cells as the page has them."""
    return markdown_table([catalogue.HEAD, catalogue.line_of(row)], "llllll").splitlines()[-1].split(" | ")


# ---------------------------------------------------------------- the page


def test_the_catalogue_has_every_explainer_once():
    named = [entry.name for entry in catalogue.entries()]
    assert sorted(named) == sorted(path.stem for path in (ROOT / "configs" / "explainer").glob("*.yaml"))
    assert list(shown_lines()) == named


def test_the_page_says_what_configs_and_docstrings_say(composed):
    lines = shown_lines()
    for entry in catalogue.entries():
        cfg = compose("evaluate", [f"explainer={entry.name}"]).explainer
        sign = entry.sign or catalogue.REDUCTIONS[cfg.call.reduce]
        row = catalogue.Row(entry, cfg.label, *catalogue.cited(cfg.call._target_), sign, 0, 0, {})
        expected = cells_of(row)
        got = lines[entry.name]
        assert [*got[:3], *got[5:]] == [*expected[:3], *expected[5:]]


@pytest.mark.parametrize("name", ["grad_cam", "guided_grad_cam", "cameras", "rap", "contrastive_excitation_backprop"])
def test_the_page_says_what_is_counted_and_refused(composed, networks, name):
    (entry,) = (entry for entry in catalogue.entries() if entry.name == name)
    row = catalogue.row_of(entry, networks)
    assert cells_of(row) == shown_lines()[name]
    assert all(reason in PAGE for reason in row.refusals.values())


def test_a_failure_is_shown_as_one(networks):
    def broken(probe, targets):
        raise RuntimeError("shapes differ")

    assert catalogue.refusals(broken, networks) == dict.fromkeys(networks, "fails: shapes differ")


def test_controls_cost_nothing_and_budgets_are_the_papers(composed, networks):
    found = {e.name: e for e in catalogue.entries()}
    row = catalogue.row_of(found["centre"], networks)
    assert (row.forward, row.backward, row.refusals) == (0, 0, {})
    assert shown_lines()["rise"][3] == "4001 + 0" and shown_lines()["extremal_perturbation"][3] == "800 + 799"


def test_an_explainer_that_no_family_names_is_a_further_one(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs" / "explainer", tmp_path / "explainer")
    (tmp_path / "explainer" / "mine.yaml").write_text("name: mine\n")
    monkeypatch.setattr(catalogue, "CONFIGS", tmp_path)
    assert catalogue.FURTHER not in catalogue.FAMILIES
    assert catalogue.Entry("mine", "") in catalogue.families()[catalogue.FURTHER]
    assert [entry.name for entry in catalogue.entries()].count("mine") == 1


# ---------------------------------------------------------------- the picture


@pytest.fixture
def toy_gallery(tmp_path, monkeypatch, composed):
    """The gallery of three explainers on two toy images each: (its configuration, its cells, the sheets saved)."""
    sheets = []
    save = Sheet.save
    monkeypatch.setattr(Sheet, "save", lambda self, *a: sheets.append(self) or save(self, *a))
    given = [f"outputs={tmp_path}/outputs", f"results={tmp_path}/results", "figure=gallery"]
    given += ["gallery.explainers=[grad_cam,rap,lime]", f"gallery.docs={tmp_path}/docs"]
    original = run_cells.make_cells

    def toy_cells(configs):
        for one in configs:
            one.dataset.loader = {"_target_": "toy.ToyDataset", "broken": None}
            one.model.loader = {"_target_": "toy.toy_model"}
        return original(configs)

    monkeypatch.setattr(gallery, "make_cells", toy_cells)
    cfg = compose("figures", given)
    for subject, images in zip(cfg.gallery.subjects, (["00", "01"], ["02", "05"]), strict=True):
        subject.images = images
    return cfg, draw.compose_cells(cfg, given), sheets


def test_the_gallery_has_a_square_per_explainer_and_says_why_a_map_is_missing(toy_gallery, monkeypatch):
    cfg, cells, sheets = toy_gallery
    explain = gallery.Shared.explain

    def refusing(self, cell, sample, probe, target):
        if cell.cfg.explainer.name == "rap":
            raise SuiteError("this network has no rule")
        return explain(self, cell, sample, probe, target)

    monkeypatch.setattr(gallery.Shared, "explain", refusing)
    (path,) = draw.draw(cfg, cells)
    assert path.name == "gallery.jpg" and note_of(path)["status"] == "other data"
    (sheet,) = sheets
    assert Image.open(path).size == (sheet.width, sheet.height)
    assert len([a for a in sheet.figure.axes if a.images]) == 3 * 4 + 1  # images, two explainers; the colours' legend
    words = [t.get_text() for t in sheet.figure.texts]
    assert {"the images", "Grad-CAM", "RAP", "LIME"} <= set(words) and words.count("this network has no") == 4
    assert any("n_samples" in word for word in words)  # the smaller budget is told
    assert not Path(cfg.gallery.docs).exists()  # a part of the explainers is no page


def test_the_gallery_chooses_its_images_itself(composed):
    given = ["figure=gallery", "dataset=shapes"]
    with pytest.raises(SuiteError, match="leave out 'dataset=shapes'"):
        draw.compose_cells(compose("figures", given), given)


def test_colours_of_a_map_are_clipped_where_only_a_few_values_are_large():
    ramp = torch.arange(1000.0).view(20, 50)
    assert float(gallery.clipped(ramp).max()) == pytest.approx(989, abs=1)
    point = torch.zeros(20, 50)
    point[3, 4] = 1
    assert torch.equal(gallery.clipped(point), point)


# ---------------------------------------------------------------- other libraries


def test_parity_is_seen_and_so_is_its_absence(composed, monkeypatch):
    pytest.importorskip("captum")
    same = {w.explainer: w for w in parity.WITNESSES if w.package == "captum"}["gradient_x_input"]
    other = parity.Witness("captum", "gradient", same.attribute, parity.SIGNED)
    monkeypatch.setattr(parity, "WITNESSES", (same, other))
    cfg = compose("performance", ["parity.images=1", "networks=[resnet50]"])
    ((report,),) = parity.parity(cfg, torch.device("cpu"))
    near, far = report.table["ResNet-50"]
    assert near < 1e-6 and far > 0.1


def test_missing_libraries_are_said(composed, monkeypatch):
    monkeypatch.setattr(parity, "installed", lambda package: None)
    with pytest.raises(SuiteError, match=r"at least one of captum, torchray"):
        next(parity.parity(compose("performance", []), torch.device("cpu")))


def test_the_committed_table_is_of_these_witnesses():
    table = pd.read_csv(ROOT / "results" / "performance_parity_cpu.csv")
    listed = [(row.explainer, row.library.split()[0]) for row in table.itertuples()]
    assert listed == [(w.explainer, w.package) for w in parity.WITNESSES]
    assert (table[["ResNet-50", "VGG16"]] < 1e-3).all(axis=None)

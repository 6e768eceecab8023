"""Figures and sanity checks on the toy dataset and network of toy.py."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

from sise.benchmark.commands import draw
from sise.benchmark.figures import cascade as figures_cascade
from sise.benchmark.figures import thresholds
from sise.benchmark.figures.captions import seen, short, status
from sise.benchmark.figures.layout import Sheet
from sise.benchmark.records.provenance import note_of
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import scoring
from sise.benchmark.run.pair_facts import Pairs
from sise.benchmark.run.session import Shared, choose_pairs
from sise.benchmark.studies import sanity_run
from sise.benchmark.tables.table import Column
from sise.choices import GATES
from sise.errors import SuiteError
from sise.fusion import cascade, fuse, open_gate
from sise.maps import minmax

CONFIGS = str(ROOT / "configs")
QUICK = "explainers=[grad_cam,sise]"


@pytest.fixture
def prepare(tmp_path):
    """Composes a figure on the toy dataset and network: (configuration, cells)."""

    def make(*overrides: str):
        given = [f"outputs={tmp_path}/outputs", f"results={tmp_path}/results", "budget=embedded", *overrides]
        with initialize_config_dir(CONFIGS, version_base="1.3"), pytest.MonkeyPatch.context() as patch:
            cfg = compose("figures", given)
            original = run_cells.make_cells

            def toy_cells(configs):
                for one in configs:
                    one.dataset.loader = {"_target_": "toy.ToyDataset", "broken": None}
                    one.model.loader = {"_target_": "toy.toy_model"}
                    one.model.name = "toynet"
                    if one.explainer.name == "rise":
                        one.explainer.call.n_masks = 20
                return original(configs)

            patch.setattr(draw, "make_cells", toy_cells)
            return cfg, draw.compose_cells(cfg, given)

    return make


def axes_of(monkeypatch):
    """Collects the sheets that are saved."""
    sheets = []
    save = Sheet.save
    monkeypatch.setattr(Sheet, "save", lambda self, *a: sheets.append(self) or save(self, *a))
    return sheets


def shown_texts(sheet):
    return [t.get_text() for t in sheet.figure.texts]


# ------------------------------------------------------------------------------------------------ what is drawn


def test_a_panel_has_a_picture_per_column_and_the_numbers_of_the_records(prepare, monkeypatch):
    sheets = axes_of(monkeypatch)
    cfg, cells = prepare("figure=panel", QUICK, "images=['01']", "captions=[EBPG,mIoU,'Drop%']")
    (path,) = draw.draw(cfg, cells)
    assert path.name == "panel_toy_toynet.jpg" and Image.open(path).size == (sheets[0].width, sheets[0].height)
    pictures = [a for a in sheets[0].figure.axes if a.images]
    assert len(pictures) == 1 * (2 + 2) + 1  # image, ground truth, two maps; the colours' legend
    shared = Shared(cells)
    sample = cells[1].dataset["01"]
    probe = shared.probe(sample)
    saliency = shared.explain(cells[1], sample, probe, 1)
    record = scoring.make_record(cells[1], Pairs(sample, probe), 1, saliency, {})
    words = shown_texts(sheets[0])
    assert f"Ψ {probe.confidence(1):.2f}" in words and "green" in words and "01" in words
    for line in (f"EBPG {100 * record['EBPG']:.0f} %", f"mIoU {100 * record['mIoU']:.0f} %"):
        assert line in [w.rstrip("*") for w in words]


def test_labels_stay_in_their_places(prepare, monkeypatch):
    sheets = axes_of(monkeypatch)
    everything = "explainers=[extremal_perturbation,integrated_gradients,rise,sise,ada_sise]"
    names = ("a class with an exceedingly long name", "green", "blue", "grey")
    monkeypatch.setattr("toy.CLASSES", names)
    monkeypatch.setattr("toy.ToyDataset.classes", (*names, "unknown"))
    cfg, cells = prepare("figure=panel", everything, "images=['00']")
    cells[0].cfg.explainer.call.max_iter = 2
    draw.draw(cfg, cells)
    (sheet,) = sheets
    renderer = sheet.canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in sheet.figure.texts if t.get_text()]
    assert any("…" in text for text, _ in boxes)
    for i, (text, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= sheet.width and box.y0 >= 0 and box.y1 <= sheet.height, text
        for other, there in boxes[i + 1 :]:
            across = min(box.x1, there.x1) - max(box.x0, there.x0)
            along = min(box.y1, there.y1) - max(box.y0, there.y0)
            assert across <= 0 or along <= 1, (text, other)


@pytest.mark.parametrize(("figure", "rows"), [("masks", 2 + 4 * 3 + 4), ("cascade", 1 + 3 + 2 + 3 + 1)])
def test_masks_and_cascade_are_drawn(prepare, monkeypatch, figure, rows):
    sheets = axes_of(monkeypatch)
    cfg, cells = prepare(f"figure={figure}", "images=['01']", "masks_per_layer=4")
    (path,) = draw.draw(cfg, cells)
    pictures = [a for a in sheets[0].figure.axes if a.images]
    assert path.exists() and len(pictures) <= rows and len(pictures) > rows // 2


def test_similarity_is_drawn(prepare, monkeypatch):
    sheets = axes_of(monkeypatch)
    cfg, cells = prepare("figure=similarity", "similarity.lines=5")
    (path,) = draw.draw(cfg, cells)
    (sheet,) = sheets
    assert path.exists() and len([a for a in sheet.figure.axes if a.images]) == 2
    assert 0 < sum(len(a.lines) for a in sheet.figure.axes) <= 5
    assert sum("similarity" in text.get_text() for text in sheet.figure.texts) == 1


def test_a_file_is_no_larger_than_asked_for(tmp_path):
    sheet = Sheet(300, 300)
    sheet.place(0, 0, 300, 300, np.random.default_rng(0).random((300, 300, 3)), None)
    full = sheet.save(tmp_path / "full.jpg", 1000).stat().st_size
    assert full > 120 * 1024
    assert sheet.save(tmp_path / "small.jpg", 120).stat().st_size <= 120 * 1024


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_file_says_what_made_it(tmp_path, suffix):
    sheet = Sheet(40, 30)
    note = '{"command": "python scripts/figures.py \\u03c8=1", "status": "other data"}'
    assert note_of(sheet.save(tmp_path / f"a.{suffix}", 100, note)) == {
        "command": "python scripts/figures.py ψ=1",
        "status": "other data",
    }
    assert note_of(sheet.save(tmp_path / f"b.{suffix}", 100)) == {}
    assert note_of(sheet.save(tmp_path / f"c.{suffix}", 100, "made with love")) == {}


def test_a_drawn_figure_says_its_command_and_what_it_is_worth(prepare, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/x/scripts/figures.py", "images=[01]", "results=/tmp/x"])
    cfg, cells = prepare("figure=cascade", "images=['01']")
    (path,) = draw.draw(cfg, cells)
    note = note_of(path)
    assert note["command"] == "python figures.py 'images=[01]'" and note["status"] == "other data"
    assert note["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_a_figure_of_fewer_images_does_not_take_the_place_of_one_of_more(prepare, capsys):
    cfg, cells = prepare("figure=panel", "count=2", QUICK)
    (path,) = draw.draw(cfg, cells)
    before = path.read_bytes()
    cfg, cells = prepare("figure=panel", "count=1", QUICK)
    assert draw.draw(cfg, cells) == [] and path.read_bytes() == before
    assert "NOT written: figures/panel_toy_toynet.jpg" in capsys.readouterr().out
    cfg.overwrite = True
    assert draw.draw(cfg, cells) == [path] and note_of(path)["made_of"] == 1


def test_what_a_figure_is_worth(prepare, monkeypatch):
    _, cells = prepare("figure=panel", QUICK)
    official = [run_cells.Cell(c.cfg, c.dataset, dataclasses.replace(c.model, official=True)) for c in cells]
    assert status(cells) == status(official) == "other data"
    monkeypatch.setattr("toy.ToyDataset.name", "voc2007")
    assert status(cells) == "other data" and status(official) == "shown"
    cells[0].cfg.departures = [{"key": "explainer.call.mu", "value": 0.3, "shipped": 0.0}]
    assert status(official) == "partial"


def test_confidences_are_readable():
    assert [short(v) for v in (1, 0.9999, 0.114, 0.01, 0.0099, 0.00021, 0.00001, 0, -3.21, -0.002)] == [
        "1.00", "1.00", "0.11", "0.01", "0.0099", "0.0002", "< 0.0001", "< 0.0001", "-3.21", "-0.0020",
    ]  # fmt: skip


def test_the_picture_is_the_image_the_network_sees(prepare):
    _, cells = prepare("figure=panel", QUICK)
    sample = cells[0].dataset["01"]
    shared = Shared(cells)
    np.testing.assert_allclose(seen(shared.model, shared.probe(sample)), np.asarray(sample.image) / 255, atol=1e-6)


# ------------------------------------------------------------------------------------------------ which images


def test_the_choice_of_images_depends_on_the_seed_alone(prepare):
    _, (cell, *_) = prepare("figure=panel", QUICK)
    chosen = choose_pairs(cell, 4, 7)
    assert chosen == choose_pairs(cell, 4, 7) and chosen[:2] == choose_pairs(cell, 2, 7)
    assert len({image_id for image_id, _ in chosen}) == 4
    assert len({tuple(choose_pairs(cell, 4, seed)) for seed in range(6)}) > 1
    for image_id, target in choose_pairs(cell, 99, 0):
        assert target in cell.pairs(image_id)
    assert len(choose_pairs(cell, 99, 0)) == len(cell.dataset.ids)


def test_given_images_come_with_all_their_classes_in_the_given_order(prepare):
    _, (cell, *_) = prepare("figure=panel", QUICK)
    assert choose_pairs(cell, 1, 0, images=["02", "00"]) == [("02", 1), ("02", 2), ("00", 0), ("00", 1)]
    assert choose_pairs(cell, 1, 0, images=["02", "00"], classes=["red"]) == [("00", 0)]
    # the network has no score for the class "unknown"
    assert choose_pairs(cell, 1, 0, images=["05"]) == [("05", 1), ("05", 2)]


def test_mistakes_are_answered_with_what_is_known(prepare):
    cfg, (cell, *rest) = prepare("figure=panel", QUICK)
    with pytest.raises(SuiteError, match=r"(?s)no image '002'.*nearest are: 02"):
        choose_pairs(cell, 1, 0, images=["002"])
    with pytest.raises(SuiteError, match="Did you mean 'green'"):
        choose_pairs(cell, 1, 0, classes=["gren"])
    with pytest.raises(SuiteError, match="no image is left"):
        choose_pairs(cell, 1, 0, images=["05"], classes=["red"])
    with pytest.raises(SuiteError, match="Did you mean 'cascade'"):
        prepare("figure=cascades")
    with pytest.raises(SuiteError, match="explainer of figure=cascade"):
        prepare("figure=cascade", "explainer=grad_cam")
    with pytest.raises(SuiteError, match="explainers` is empty"):
        prepare("figure=panel", "explainers=[]")
    with pytest.raises(SuiteError, match="expected one of: EBPG"):
        cfg.captions = ["EPBG"]
        draw.draw(cfg, [cell, *rest])


# ------------------------------------------------------------------------------------------------ the cascade


def random_maps(seed, count=4):
    generator = torch.Generator().manual_seed(seed)
    return [minmax(torch.rand(12, 15, generator=generator) ** 2) for _ in range(count)]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("empty", ["skip", "zero"])
@pytest.mark.parametrize("missing", [set(), {0}, {2}, {3}, {0, 1}])
def test_the_last_step_is_what_fuse_returns(gate, empty, missing):
    maps = [None if i in missing else m for i, m in enumerate(random_maps(len(missing)))]
    steps = cascade(maps, gate=gate, temperature=20.0, empty=empty)
    assert torch.equal(steps[-1].fused, fuse(maps, gate=gate, temperature=20.0, empty=empty, normalise=False))
    assert torch.equal(minmax(steps[-1].fused), fuse(maps, gate=gate, temperature=20.0, empty=empty))
    layers = [i for i in range(4) if i not in missing] if empty == "skip" else list(range(4))
    assert [s.layer for s in steps] == layers
    for before, step in pairwise(steps):
        if step.map is not None:
            assert step.map is maps[step.layer] and torch.equal(step.gate, open_gate(step.map, gate, 20.0))
            assert torch.equal(step.fused, (before.fused + step.map) * step.gate)


def test_the_cascade_of_nothing():
    assert cascade([None, None]) == []
    with pytest.raises(SuiteError, match="at least one layer"):
        cascade([])


@pytest.mark.parametrize("switches", [["explainer=sise"], ["explainer=ada_sise", "protocol=authors"]])
def test_the_drawn_cascade_ends_in_the_explainers_own_map(prepare, switches):
    _, (cell,) = prepare("figure=cascade", *switches)
    shared = Shared([cell])
    for image_id, target in choose_pairs(cell, 4, 0):
        sample = cell.dataset[image_id]
        probe = shared.probe(sample)
        steps = figures_cascade.cascade_steps(cell, probe, target)
        assert torch.equal(minmax(steps[-1].fused), cell.explainer(probe, [target])[0])


# ------------------------------------------------------------------------------------------------ sanity checks


def test_the_sanity_check_end_to_end(prepare, monkeypatch):
    sheets = axes_of(monkeypatch)
    cfg, cells = prepare("figure=sanity", QUICK, "count=3")
    csv, markdown, sheet, plot = draw.draw(cfg, cells)
    table = pd.read_csv(csv)
    stages = ["trained", "head", "block 3", "block 2", "block 1", "untrained", "another class", "another image"]
    assert list(dict.fromkeys(table["stage"])) == stages
    assert set(table["explainer"]) == {"Grad-CAM", "SISE", "Uniform", "Centre"} and (table["n"] == 3).all()
    assert (table.loc[table["stage"] == "trained", ["spearman", "ssim"]] > 0.9999).all().all()
    controls = table["explainer"].isin(["Uniform", "Centre"])
    np.testing.assert_allclose(table.loc[controls, ["spearman", "ssim"]], 1)
    assert (table.loc[table["explainer"] == "Uniform", "undefined"] == 3).all()  # counted: constant by nature
    assert (table.loc[table["explainer"] == "Centre", "undefined"] == 0).all()
    sise = table[table["explainer"] == "SISE"].set_index("stage")
    assert sise.loc["block 1", "spearman"] < 0.9 and list(sise["modules"]) == [0, 1, 2, 3, 5, 5, 0, 0]
    assert sise.loc["another class", "spearman"] < 0.9  # the controls are blind to the class
    text = markdown.read_text()
    assert "| SISE | 1.00 ± 0.00 |" in text and "Uniform everywhere" in text and "another image" in text
    assert sheet.name == "sanity_maps_toy_toynet.jpg" and plot.name == "sanity_toy_toynet.png"
    assert len([a for a in sheets[0].figure.axes if a.images]) == 2 * 6 + 1


def test_a_failure_of_a_random_network_is_counted(prepare, monkeypatch):
    cfg, cells = prepare("figure=sanity", "explainers=[sise]", "controls=[]", "count=2")
    original = Shared.explain

    def explain(self, cell, sample, probe, target):
        if self.cache is None and sample.image_id == pairs[1][0]:
            raise FloatingPointError("overflow")
        return original(self, cell, sample, probe, target)

    pairs = choose_pairs(cells[0], 2, 0)
    monkeypatch.setattr(Shared, "explain", explain)
    table = sanity_run.summarise(sanity_run.records(cells, pairs, 0)[0]).set_index("stage")
    assert table.loc["trained", "failed"] == 0 and table.loc["head", "failed"] == 1 and table.loc["head", "n"] == 1
    assert np.isnan(table.loc["head", "spearman_se"])
    draw.draw(cfg, cells)


# ------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize("dataset", sorted(p.stem for p in (ROOT / "configs" / "dataset").glob("*.yaml")))
def test_every_figure_composes_on_every_dataset(dataset):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("figures", [f"dataset={dataset}"])
    assert cfg.dataset.name == dataset
    for cfg.figure in draw.FIGURES:  # a value that others look up, no group
        assert cfg.count >= 1 and cfg.kilobytes >= 1


def test_a_table_without_thresholds_is_no_plot_of_them():
    columns = [Column("sise", "paper", "μ = 0", threshold=0.0), Column("rise", "paper", "RISE")]
    with pytest.raises(SuiteError, match=r"expected a table of thresholds.*got 'RISE'.*table=sise_table6"):
        thresholds.threshold_ablation(SimpleNamespace(models=["resnet50"], columns=columns))


def test_the_explainers_of_the_figures_exist():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("figures", [])
    assert len(cfg.explainers) == 9
    for name in [*cfg.explainers, *cfg.controls]:
        assert OmegaConf.load(ROOT / "configs" / "explainer" / f"{name}.yaml").name == name


def test_curves_are_drawn_by_name_or_number(tmp_path, monkeypatch):
    pytest.importorskip("mnist1d")
    seen = []
    monkeypatch.setattr(draw.curves, "draw", lambda model, explainers, ids: seen.append(ids) or Figure())
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        for words in (["count=2"], ["images=[0003,0017]"]):
            cfg = compose("figures", ["figure=curves", f"results={tmp_path}", *words])
            assert draw.compose_cells(cfg, words) == []
            assert draw.draw(cfg, []) == [tmp_path / "figures/mnist1d.png"]
    assert seen == [["0000", "0001"], ["0003", "0017"]]
    picture = tmp_path / "figures/mnist1d.png"
    assert note_of(picture)["made_of"] == 2
    Figure().savefig(picture)  # somebody else's
    assert draw.draw(cfg, []) == [] and not note_of(picture)


def test_thresholds_without_records_say_what_makes_them(tmp_path):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("figures", ["figure=thresholds", f"outputs={tmp_path}", f"results={tmp_path}"])
        with pytest.raises(SuiteError, match=r"no records of sise_table6.*evaluate.* experiment=sise_table6"):
            draw.draw(cfg, draw.compose_cells(cfg, []))
        cfg = compose("figures", ["figure=thresholds", "thresholds.table=sise_tabel6"])
        with pytest.raises(SuiteError, match="Did you mean 'sise_table6'"):
            draw.draw(cfg, [])


def test_a_long_text_gets_smaller_before_it_is_cut():
    sheet = Sheet(300, 60)
    for y, text in ((10, "short"), (25, "Watermark share 14 %"), (40, "Watermark share " * 5)):
        sheet.text(150, y, text, width=108)
    short, longer, longest = sheet.figure.texts
    assert short.get_fontsize() == 8 and longer.get_text() == "Watermark share 14 %" and longer.get_fontsize() < 8
    assert longest.get_text().endswith("…") and longest.get_fontsize() == 6
    renderer = sheet.canvas.get_renderer()
    assert all(text.get_window_extent(renderer).width <= 108 for text in sheet.figure.texts)

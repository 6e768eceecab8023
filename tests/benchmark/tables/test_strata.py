"""What makes a table's metrics transparent: facts of pairs, kept pixels, floors, strata."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from checkout import ROOT
from hand_made import make_run, make_table, ok, told_in
from toy_runs import records, run

from sise.benchmark.commands import make_tables
from sise.benchmark.figures import object_sizes
from sise.benchmark.run.pair_facts import confidence_rank, object_facts
from sise.benchmark.tables import formats, strata
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import find_runs
from sise.benchmark.tables.table import Column
from sise.benchmark.tables.transparency import told_of_floors

CONFIG = {"metrics": {"keep_fraction": 0.15, "top_fraction": 0.2}}


def test_facts_of_a_pair_by_hand():
    mask = torch.zeros(5, 8, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = mask[4, 7] = True  # the first two touch at a corner
    scores = torch.tensor([0.0, 3.0, 1.0, 3.0])
    assert [confidence_rank(scores, output) for output in range(4)] == [4, 1, 3, 1]  # equal ones share a rank
    assert object_facts(mask, 2) == {"mask_fraction": pytest.approx(3 / 40), "classes_in_image": 2, "regions": 2}
    assert object_facts(torch.zeros(9, dtype=torch.bool), 1)["regions"] == 0


def test_records_keep_them(config):
    _, (cell,) = run(config("explainer=centre"), limit=2)
    for record in records(cell).values():
        assert record["regions"] == 1 and record["classes_in_image"] == len(cell.dataset.targets_of(record["image_id"]))
        assert 1 <= record["confidence_rank"] <= 4


def kept(image_id, share, **values):
    return ok(image_id, kept_fraction=share, **values)


def test_cells_of_fewer_pixels_are_marked_and_told(tmp_path):
    make_run(tmp_path, "sise", [kept("1", 0.05), kept("2", 0.07)], config=CONFIG)
    make_run(tmp_path, "grad_cam", [kept("1", 0.15), kept("2", 0.149)], config=CONFIG)
    table = make_table(tmp_path)
    marked = table.cells[table.cells["fewer"]]
    assert set(marked["metric"]) == {"Drop%", "Increase%"} and set(marked["method"]) == {"SISE"}
    assert table.cells.loc[("vgg16", "EBPG", "SISE"), "kept"] == pytest.approx(0.06)
    text = formats.to_markdown(table)
    assert "20.00**ᵏ" in text and "50.00**ᵏ" not in text and "$^k$" in formats.to_latex(table)
    (told,) = [text for text in told_in(table) if "pixels kept" in text]
    assert "for Drop% and Increase% (15 % asked): Grad-CAM 14.9 %, SISE 6.0 %; ᵏ marks" in told
    assert "kept" in formats.to_csv(table).splitlines()[0].split(",")


def test_without_fewer_pixels_there_is_no_mark(tmp_path):
    make_run(tmp_path, "sise", [kept("1", 0.15), kept("2", 0.15)], config=CONFIG)
    assert "ᵏ" not in formats.to_markdown(make_table(tmp_path))
    make_run(tmp_path / "old", "sise", [ok("1"), ok("2")])  # records that do not say it
    assert "pixels kept" not in formats.to_markdown(make_table(tmp_path / "old"))


def test_floors_are_those_of_the_controls_that_know_nothing(tmp_path):
    make_run(tmp_path, "sise", [ok("1"), ok("2")])
    assert any(
        "no floor was run: explainer=uniform or explainer=smooth_noise" in text
        for text in told_in(make_table(tmp_path))
    )
    make_run(tmp_path, "uniform", [ok("1", EBPG=0.25, **{"Drop%": 0.5}), ok("2", EBPG=0.25, **{"Drop%": 0.5})])
    (told,) = [text for text in told_in(make_table(tmp_path)) if "floors" in text]
    assert "UNIFORM EBPG 25.0, mIoU 10.0, Bbox 50.0, Drop% 50.0, Increase% 0.0 (no pixel of a uniform map" in told
    nothing = told_of_floors({Column("uniform", "paper", "U"): {"EBPG": math.nan}})
    assert nothing[0].startswith("no floor was run")


def pairs():
    head = {"classes_in_image": 2, "regions": 1, "difficult": False}
    return [
        ok("1", 0, EBPG=0.1, confidence_rank=1, mask_fraction=0.05, **head),
        ok("1", 1, EBPG=0.3, confidence_rank=2, mask_fraction=0.06, **head),
        ok("2", 0, EBPG=0.8, confidence_rank=3, mask_fraction=0.5, **(head | {"difficult": True, "regions": 4})),
        ok("2", 1, EBPG=0.6),  # of an older version
    ]


def test_strata_by_hand(tmp_path):
    make_run(tmp_path, "sise", pairs(), expected_pairs=4)
    table = make_table(tmp_path)
    found = strata.stratify(table, find_runs(tmp_path))
    rows = found[found["metric"] == "EBPG"].set_index(["stratum", "part"])
    expected = {
        ("confidence", "k likeliest, of k classes in the image"): (20, 2), ("confidence", "others"): (80, 1),
        ("area", "up to 5 %"): (10, 1), ("area", "5 to 15 %"): (30, 1), ("area", "more than 35 %"): (80, 1),
        ("classes", "2"): (40, 3), ("regions", "1"): (20, 2), ("regions", "3 or more"): (80, 1),
        ("difficult", "no"): (20, 2), ("difficult", "yes"): (80, 1),
    }  # fmt: skip
    assert set(rows.index) == set(expected)
    for key, (mean, count) in expected.items():
        assert (rows.loc[key, "mean"], rows.loc[key, "n"]) == (pytest.approx(mean), count), key
    text = strata.to_markdown(table, found)
    assert "| the object's share of the image | 5 to 15 % | 1 | 30.00 |" in text
    assert "seconds" not in set(found["metric"])


def test_strata_are_written_for_tables_that_want_them(tmp_path):
    make_run(tmp_path, "sise", pairs(), expected_pairs=4)
    table, runs, said = make_table(tmp_path), find_runs(tmp_path), []
    folder = ResultFolder(tmp_path / "r", say=said.append)
    assert strata.write(table, {}, runs, folder) == [] and strata.write(table, {"strata": False}, runs, folder) == []
    files = strata.write(table, {"strata": True}, runs, folder)
    assert [file.name for file in files] == ["sise_table1_strata.csv", "sise_table1_strata.md"]
    assert set(pd.read_csv(files[0])["stratum"]) == set(strata.STRATA)
    make_run(tmp_path / "few", "sise", pairs()[:1], expected_pairs=4)
    assert strata.write(make_table(tmp_path / "few"), {"strata": True}, find_runs(tmp_path / "few"), folder) == []
    assert "NOT written" in said[-1]


def test_the_command_asks_for_strata(tmp_path, monkeypatch):
    """Of a table whose definition does not; what it writes names the command that makes it."""
    make_run(tmp_path / "o", "sise", pairs(), expected_pairs=4, dataset="shapes")
    words = [f"outputs={tmp_path}/o", f"results={tmp_path}/r", "table=sise_table1"]
    monkeypatch.chdir(tmp_path)
    for more, written in ([], False), (["strata=true"], True):
        monkeypatch.setattr("sys.argv", [str(ROOT / "scripts/make_tables.py"), *words, *more])
        make_tables.main()
        assert (tmp_path / "r/sise_table1_shapes_strata.md").exists() == written
    text = (tmp_path / "r/sise_table1_shapes_strata.md").read_text()
    assert "`python scripts/make_tables.py table=sise_table1 strata=true`" in text


def test_records_of_an_older_version_have_no_strata(tmp_path):
    make_run(tmp_path, "sise", [ok("1"), ok("2")])
    found = strata.stratify(make_table(tmp_path), find_runs(tmp_path))
    assert found.empty and strata.write(make_table(tmp_path), {"strata": True}, find_runs(tmp_path), None) == []


def test_the_plot_over_sizes_shows_the_strata(tmp_path):
    make_run(tmp_path, "sise", pairs(), expected_pairs=4)
    table, runs, folder = make_table(tmp_path), find_runs(tmp_path), ResultFolder(tmp_path / "r")
    figure = object_sizes.object_sizes(table, strata.stratify(table, runs), "vgg16")
    assert [axes.get_title() for axes in figure.axes] == ["EBPG ↑", "mIoU ↑", "Bbox ↑", "Drop% ↓", "Increase% ↑"]
    ebpg = figure.axes[0]
    assert [tick.get_text() for tick in ebpg.get_xticklabels()] == ["up to 5 %", "5 to 15 %", "more than 35 %"]
    assert list(ebpg.lines[0].get_ydata()) == pytest.approx([10, 30, 80])
    assert object_sizes.write(table, {}, runs, folder) == []
    (file,) = object_sizes.write(table, {"strata": True}, runs, folder)
    assert file.name == "sise_table1_sizes_vgg16.png" and file.stat().st_size > 10_000
    make_run(tmp_path / "one", "sise", pairs()[:1], expected_pairs=4)  # a line of one point is none
    assert object_sizes.write(make_table(tmp_path / "one"), {"strata": True}, find_runs(tmp_path / "one"), folder) == []

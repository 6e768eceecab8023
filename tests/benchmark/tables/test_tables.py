"""Tables on hand-made records: every number, mark and count is known beforehand."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from checkout import ROOT
from hand_made import CONTROLS, DEFINITIONS, PUBLISHED, failed, make_run, make_table, ok, told_in

from sise.benchmark import config_facts
from sise.benchmark.tables import formats, words
from sise.benchmark.tables.build import build
from sise.benchmark.tables.foot import departures_of
from sise.benchmark.tables.judging import margin_of, rank, status
from sise.benchmark.tables.latex import tex
from sise.benchmark.tables.make import tabulate
from sise.benchmark.tables.runs import find_runs
from sise.benchmark.tables.table import Column, Run
from sise.errors import SuiteError
from sise.types import REMARKS

METRICS = ("EBPG", "mIoU", "Bbox", "Drop%", "Increase%")


def budget(value, paper=4000, setting="n_masks", unit="masks"):
    return {"setting": setting, "unit": unit, "value": value, "paper": paper}


def departure(key, value, shipped=None):
    return {"key": key, "value": value, "shipped": shipped}


def cell(table, label, metric="EBPG", model="vgg16"):
    return table.cells.loc[(model, metric, label)]


# numbers ------------------------------------------------------------------------------------------------------------


def test_mean_and_standard_error_by_hand(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.25), ok("2", EBPG=0.5), ok("2", 1, EBPG=0.75)], expected_pairs=3)
    c = cell(make_table(tmp_path), "SISE")
    assert (c["mean"], c["n"], c["seeds"]) == (50.0, 3, 1)
    assert c["standard error"] == pytest.approx(50 / 3)  # two images, 25 below and above the mean: √(2 · 2 · 25²) / 3
    assert (c["published"], c["difference"]) == (60.54, pytest.approx(-10.54))


def test_means_over_images_or_classes_make_a_table_of_their_own(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.25), ok("2", EBPG=0.5), ok("2", 1, EBPG=0.85)], expected_pairs=3)
    by_image, by_class = (make_table(tmp_path, average=average) for average in ("image", "class"))
    assert cell(by_image, "SISE")["mean"] == pytest.approx((25 + 67.5) / 2)
    assert cell(by_class, "SISE")["mean"] == pytest.approx((37.5 + 85) / 2)
    assert cell(by_class, "SISE")["status"] == "partial"  # the papers' means are over pairs
    assert by_class.name == "sise_table1_by_class" and by_class.commands[-1].endswith("table.average=class")
    assert told_in(by_class)[0].startswith("Cells: mean over classes, of each the mean over its pairs ± standard error")
    with pytest.raises(SuiteError, match=r"table\.average"):
        make_table(tmp_path, average="micro")


def test_one_pair_has_no_standard_error(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.25)], expected_pairs=1)
    table = make_table(tmp_path)
    assert math.isnan(cell(table, "SISE")["standard error"])
    assert "25.00 [60.54 ≠]" in formats.to_markdown(table)


def test_counts_of_undefined_missing_and_failed(tmp_path):
    make_run(tmp_path, "sise", [
        ok("1", EBPG=0.0, undefined=["EBPG", "Bbox"]), ok("2", EBPG=0.5), ok("3", EBPG=None), failed("4"), failed("5"),
        failed("2"),
    ], expected_pairs=5)  # fmt: skip
    table = make_table(tmp_path)
    c = cell(table, "SISE")
    assert (c["mean"], c["n"], c["undefined"], c["missing"], c["failed"]) == (25.0, 2, 1, 1, 2)
    assert (cell(table, "SISE", "Bbox")["undefined"], cell(table, "SISE", "mIoU")["undefined"]) == (1, 0)
    foot = "\n".join(told_in(table))
    assert "VGG16, SISE: 2 FAILED, not in the means; the first: OSError: y.jpg <b>." in foot
    assert "VGG16, SISE: values set by definition: EBPG 1, Bbox 1." in foot
    assert "VGG16, SISE: values MISSING, not in the means: EBPG 1." in foot
    assert "pairs with a result: 3 of 5" in foot
    assert c["status"] == "partial"
    assert "&lt;b>" in formats.to_markdown(table)


def test_maps_with_a_remark_are_counted(tmp_path):
    make_run(tmp_path, "full_grad", [ok("1", remarks=["incomplete_decomposition"]), ok("2")])
    make_run(tmp_path, "sise", [ok("1"), ok("2")])
    foot = told_in(make_table(tmp_path))
    assert f"VGG16, FullGrad: 1 of 2 maps: {REMARKS['incomplete_decomposition']}." in foot


def test_a_missing_value_alone_makes_a_cell_partial(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.6054), ok("2", EBPG=None)])
    table = make_table(tmp_path)
    assert cell(table, "SISE")["status"] == "partial"
    assert cell(table, "SISE", "mIoU")["status"] == "differs"


def test_seeds_are_averaged_per_pair_and_their_spread_is_told(tmp_path):
    for seed, values in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)]):
        make_run(tmp_path, "rise", [ok("1", EBPG=values[0]), ok("2", EBPG=values[1])], seed=seed)
    table = make_table(tmp_path)
    c = cell(table, "RISE")
    assert (c["mean"], c["n"], c["seeds"]) == (pytest.approx(40), 2, 3)
    assert c["standard error"] == pytest.approx(20)  # of 20 and 60: s.d. 28.28 / √2
    assert c["seed s.d."] == pytest.approx(10)  # of 30, 40, 50
    assert any("mean of 3 seeds; s.d. across seeds: EBPG 10.00" in note for note in told_in(table))
    assert c["status"] == "reproduced"  # three seeds are the paper's budget; |40 − 33.44| < 2 · 20


def test_fewer_seeds_than_the_paper_is_a_smaller_budget(tmp_path):
    make_run(tmp_path, "rise", [ok("1", EBPG=0.3344), ok("2", EBPG=0.3344)], seed=0)
    c = cell(make_table(tmp_path), "RISE")
    assert (c["status"], c["note"]) == ("partial", "1 seed (paper: 3)")


def test_costs_are_no_percent(tmp_path):
    make_run(tmp_path, "sise", [ok("1", seconds=1.0), ok("2", seconds=2.0)])
    table = make_table(tmp_path, "ada_sise_table1")
    c = cell(table, "SISE", "seconds")
    assert (c["mean"], c["published"], c["status"]) == (1.5, 5.96, "other hardware")
    assert math.isnan(c["difference"])
    assert "Seconds measured on: Abacus." in told_in(table)


def test_the_same_run_twice_is_refused(tmp_path):
    make_run(tmp_path, "sise", [ok("1")])
    shutil.copytree(tmp_path / "voc2007", tmp_path / "copy")
    with pytest.raises(SuiteError, match="same run"):
        find_runs(tmp_path)


# status -------------------------------------------------------------------------------------------------------------

GOOD = dict(n=9, published=60.0, difference=0.04, published_dataset=True, official_weights=True, faithful=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "reproduced"),
        ({"difference": -0.05}, "reproduced"),
        ({"difference": 55.49 - 55.44}, "reproduced"),  # 0.05 but for the last bit
        ({"difference": 0.06}, "close"),
        ({"difference": -0.5}, "close"),
        ({"difference": 55.94 - 55.44}, "close"),  # 0.5 but for the last bit
        ({"difference": 0.51}, "differs"),
        ({"difference": -0.51}, "differs"),
        ({"difference": 1.9, "margin": 2.0}, "reproduced"),
        ({"difference": 2.1, "margin": 2.0}, "differs"),
        ({"faithful": False}, "partial"),
        ({"published_dataset": False}, "other data"),
        ({"official_weights": False}, "other data"),
        ({"official_weights": False, "faithful": False}, "other data"),
        ({"hardware": True}, "other hardware"),
        ({"published": math.nan}, "not published"),
        ({"n": 0}, "not run"),
        ({"n": 0, "failed": True}, "failed"),
        ({"failed": True}, "reproduced"),  # not every pair, then
    ],
)
def test_status(changes, expected):
    assert status(**{**GOOD, **changes}) == expected


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ({}, "reproduced"),
        ({"weights_official": False}, "other data"),
        ({"complete_dataset": False}, "partial"),
        ({"expected_pairs": 3}, "partial"),
        ({"budget": budget(500)}, "partial"),
        ({"departures": [departure("model.loader.cam_layer", "conv2d_1", "conv2d_3")]}, "partial"),
        ({"departures": [departure("engine.precision", "bf16", "fp32")]}, "partial"),
        ({"protocol": "authors"}, "partial"),  # in the column of the protocol paper
    ],
)
def test_status_of_a_run(tmp_path, identity, expected):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.6050), ok("2", EBPG=0.6058)], **identity)
    assert cell(make_table(tmp_path), "SISE")["status"] == expected


def test_a_run_has_to_be_what_its_experiment_ships(tmp_path):
    """Whatever it says of itself: a setting that its command did not change may still be another than the cell's."""
    make_run(tmp_path, "sise", [ok("1", EBPG=0.6050), ok("2", EBPG=0.6058)], config={"model": {"layers": ["a"]}})
    runs, published = find_runs(tmp_path), pd.read_csv(PUBLISHED)
    definition = {**DEFINITIONS["sise_table1"], "models": ["vgg16"]}

    def built(layers):
        shipped = {("sise", "paper", None): {"model": {"layers": layers}}}
        return cell(build(definition, "voc2007", runs, published, shipped=lambda table, model: shipped), "SISE")

    assert built(["a"])["status"] == "reproduced"
    changed = built(["b"])
    assert (changed["status"], changed["note"]) == ("partial", "departs: model.layers=['a']")


def test_a_run_of_another_seed_has_to_be_what_its_column_ships():
    config = {"explainer": {"call": {"seed": 7, "n_masks": 10}}}
    run = Run(Path(), {"seed": 7, "protocol": "paper", "config": config, "departures": []}, pd.DataFrame())

    def found(n_masks):
        shipped = {("rise", "E3", 0): {"explainer": {"call": {"seed": 0, "n_masks": n_masks}}}}
        return [str(d) for d in departures_of([run], Column("rise", "E3", "RISE"), shipped)]

    assert found(10) == [] and found(20) == ["explainer.call.n_masks=10"]


def test_records_of_other_code_or_images_reproduce_nothing(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.6050), ok("2", EBPG=0.6058)])
    (run,) = find_runs(tmp_path)
    assert run.replaced == 0  # of images that no command has looked at
    definition, published = {**DEFINITIONS["sise_table1"], "models": ["vgg16"]}, pd.read_csv(PUBLISHED)
    assert cell(build(definition, "voc2007", [run], published), "SISE")["status"] != "partial"
    for stale in (replace(run, changed_files=("sise/method.py",)), replace(run, replaced=1)):
        assert cell(build(definition, "voc2007", [stale], published), "SISE")["status"] == "partial"


def test_a_margin_is_rounding_or_what_the_method_itself_varies_by():
    cell = {"seed s.d.": math.nan, "seeds": 1, "n": 100}
    assert margin_of(cell) == 0.05 and margin_of(cell, spread=4.0) == pytest.approx(0.8)  # 2 · 4 / √100
    assert margin_of(cell | {"n": 0}, spread=4.0) == 0.05
    assert margin_of(cell | {"seed s.d.": 0.3, "seeds": 4}) == pytest.approx(0.3)  # 2 · 0.3 / √4
    assert margin_of(cell | {"seed s.d.": 0.01, "seeds": 4}) == 0.05


def test_the_spread_of_extremal_perturbation_is_the_measured_one():
    """The largest standard deviation of a pair's difference: the standard error of the mean times the root of pairs."""
    measured = pd.read_csv(ROOT / "results" / "rounding_shapes.csv")
    deviations = (measured["standard error"] * measured["pairs"] ** 0.5).groupby(measured["metric"]).max()
    assert {metric: float(f"{deviation:.2g}") for metric, deviation in deviations.items()} == dict(
        config_facts.spreads()["extremal_perturbation"]
    )


def test_sise_does_not_pass_for_ada_sise():
    """The published numbers of the two differ by less than a standard error over images, and are not equal."""
    published = pd.read_csv(PUBLISHED)
    table = published[published["table"] == "Ada-SISE Table 1"].set_index(["model", "method", "metric"])["value"]
    apart = [abs(table[m, "SISE", k] - table[m, "Ada-SISE", k]) for m in ("vgg16", "resnet50") for k in METRICS
             if (m, "SISE", k) in table.index]  # fmt: skip
    assert len(apart) >= 8
    passed = [d for d in apart if status(**{**GOOD, "difference": d}) == "reproduced"]
    assert len(passed) <= 2  # those that are printed equal, or 0.05 apart


def test_a_stand_in_never_counts_as_a_reproduction(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.6054), ok("2", EBPG=0.6054)], dataset="shapes")
    table = make_table(tmp_path, dataset="shapes")
    c = cell(table, "SISE")
    assert (c["status"], c["published"]) == ("other data", 60.54)
    assert math.isnan(c["difference"])
    assert table.name == "sise_table1_shapes" and "stand-in" in table.title


def test_what_was_not_run_stays_in_the_table(tmp_path):
    make_run(tmp_path, "sise", [ok("1"), ok("2")])
    table = make_table(tmp_path, models=["vgg16", "resnet50"])
    assert cell(table, "Grad-CAM")["status"] == cell(table, "SISE", model="resnet50")["status"] == "not run"
    lines = formats.to_markdown(table).splitlines()
    vgg16, resnet50 = lines.index("## VGG16"), lines.index("## ResNet-50")
    assert lines[vgg16 + 2] == "| Method | EBPG | mIoU | Bbox | Drop% ↓ | Increase% | n |"
    (row,) = (line for line in lines[vgg16:resnet50] if line.startswith("| Grad-CAM |"))
    assert row.startswith("| Grad-CAM | – [55.44] |") and row.endswith("| not run |")
    (row,) = (line for line in lines[resnet50:] if line.startswith("| SISE |"))
    assert row.startswith("| SISE | – [66.08] |") and row.endswith("| not run |")
    assert "Ada-SISE (text)" not in [c.label for c in table.columns]  # ours only when run


# best and second ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "lower", "best", "second"),
    [
        ((1, 2, 3), False, "c", "b"),
        ((1, 2, 3), True, "a", "b"),
        ((3, 2, 3), False, "ac", "b"),
        ((1, 2, 2), True, "a", "bc"),
        ((1.001, 1.004, 0), False, "ab", "c"),  # equal as printed
        ((1.004, 1.006, 0), False, "b", "a"),
        ((math.nan, 2, 3), True, "b", "c"),
        ((math.nan, 2, math.nan), False, "", ""),  # no best of one
        ((2, 2, 2), False, "abc", ""),
    ],
)
def test_rank(values, lower, best, second):
    places = rank(dict(zip("abc", values, strict=True)), "Drop%" if lower else "EBPG")
    assert "".join(k for k in "abc" if places.get(k) == "best") == best
    assert "".join(k for k in "abc" if places.get(k) == "second") == second


def test_rank_of_short_times_is_by_the_third_decimal_too():
    assert rank({"a": 0.006, "b": 0.009}, "seconds") == {"a": "best", "b": "second"}


def test_marks_lower_is_better_for_drop_and_controls_take_no_part(tmp_path):
    values = {"grad_cam": 0.1, "score_cam": 0.2, "sise": 0.3, "ground_truth": 0.9, "centre": 0.0}
    for explainer, v in values.items():
        make_run(tmp_path, explainer, [ok("1", EBPG=v, **{"Drop%": v}), ok("2", EBPG=v, **{"Drop%": v})])
    table = make_table(tmp_path)
    ebpg, drop = ({c.label: cell(table, c.label, m)["place"] for c in table.columns} for m in ("EBPG", "Drop%"))
    assert {k: v for k, v in ebpg.items() if v} == {"SISE": "best", "Score-CAM": "second"}
    assert {k: v for k, v in drop.items() if v} == {"Grad-CAM": "best", "Score-CAM": "second"}
    assert [c.label for c in table.columns][-2:] == ["CENTRE", "GROUND_TRUTH"]
    markdown, latex = formats.to_markdown(table), formats.to_latex(table, "everything")
    assert "**30.00** ± 0.00 [60.54 ≠]" in markdown and "<u>20.00</u>" in markdown
    assert r"\textbf{30.00} $\pm$ 0.00 {[}60.54 $\neq${]}" in latex and r"\underline{20.00}" in latex
    assert re.search(r"^SISE +30\.00\*", formats.to_text(table), re.MULTILINE)


def places(table, metric="EBPG"):
    return {c.label: place for c in table.columns if (place := cell(table, c.label, metric)["place"])}


def test_a_row_of_different_pairs_has_no_places(tmp_path):
    make_run(tmp_path, "grad_cam", [ok("1", EBPG=0.9), ok("2"), ok("3", mIoU=None)])
    make_run(tmp_path, "sise", [ok("1", EBPG=0.2), ok("2"), ok("3")])
    make_run(tmp_path, "centre", [ok("1")])  # a control
    table = make_table(tmp_path)
    assert places(table) == {"Grad-CAM": "best", "SISE": "second"} and places(table, "mIoU") == {}
    (warning,) = [note for note in told_in(table) if "WARNING" in note]
    assert "CENTRE lacks 2" in warning and "no places" not in warning
    make_run(tmp_path, "score_cam", [ok("1", EBPG=1.0)])
    table = make_table(tmp_path)
    assert not any(places(table, metric) for metric in METRICS) and "**" not in formats.to_markdown(table)
    assert any("WARNING" in note and "so there are no places" in note for note in told_in(table))


def test_costs_of_a_reduced_budget_take_no_place(tmp_path):
    facts = {
        "extremal_perturbation": {"budget": budget(10, 800, "max_iter", "iterations")},
        "ada_sise": {"departures": [departure("a.b", 1)]},
    }
    for explainer, seconds in {"extremal_perturbation": 2.0, "sise": 5.0, "ada_sise": 3.0}.items():
        records = [ok(i, seconds=seconds, EBPG=1 / seconds) for i in "12"]
        make_run(tmp_path, explainer, records, **facts.get(explainer, {}))
    make_run(tmp_path, "sise", [ok(i, seconds=1.0) for i in "12"], variant="authors", protocol="authors")
    table = make_table(tmp_path, "ada_sise_table1")
    assert places(table, "seconds") == {"Ada-SISE (text)": "best", "SISE": "second"}  # one SISE, one Ada-SISE
    assert places(table) == {"Extremal Perturbation": "best", "Ada-SISE (text)": "second"}


# columns, foot and checks -------------------------------------------------------------------------------------------


def test_columns_are_the_papers_then_ours_then_controls(tmp_path):
    for explainer in ("ada_sise", "ada_sise_table", "random", "newcomer", "sise"):
        make_run(tmp_path, explainer, [ok("1"), ok("2")])
    make_run(tmp_path, "sise", [ok("1"), ok("2")], variant="mu0.3")
    make_run(tmp_path, "sise", [ok("1"), ok("2")], variant="authors")
    paper = ["Grad-CAM", "Grad-CAM++", "Extremal Perturbation", "RISE", "Score-CAM", "Integrated Gradient", "FullGrad"]
    assert [c.label for c in make_table(tmp_path).columns] == [
        *paper, "SISE", "SISE (authors)", "Ada-SISE (text)", "Ada-SISE (table)", "NEWCOMER", "SISE (mu0.3)", "RANDOM",
    ]  # fmt: skip
    assert [c.label for c in make_table(tmp_path, "ada_sise_table1").columns] == [
        "Extremal Perturbation", "SISE", "Ada-SISE (text)", "Ada-SISE (table)", "SISE (authors)",
        "Ada-SISE (text, authors)", "Ada-SISE (table, authors)",
    ]  # fmt: skip


def test_two_columns_with_one_label_stay_apart(tmp_path):
    make_run(tmp_path, "newcomer", [ok("1"), ok("2", EBPG=0.6)], label="SISE")
    make_run(tmp_path, "sise", [ok("1"), ok("2")])
    table = make_table(tmp_path)
    assert cell(table, "SISE [newcomer/paper]")["mean"] == pytest.approx(55)
    assert cell(table, "SISE")["mean"] == 50


def test_unequal_sets_of_pairs_are_warned_of(tmp_path):
    make_run(tmp_path, "grad_cam", [ok("1"), ok("2"), ok("3")], expected_pairs=3)
    make_run(tmp_path, "sise", [ok("1"), failed("2"), ok("4")], expected_pairs=3)
    (warning,) = [note for note in told_in(make_table(tmp_path)) if "WARNING" in note]
    assert "Of 4: Grad-CAM lacks 1, SISE lacks 2." in warning


def test_equal_sets_are_not_warned_of(tmp_path):
    make_run(tmp_path, "grad_cam", [ok("1"), ok("2")])
    make_run(tmp_path, "sise", [ok("2"), ok("1")])
    assert not [note for note in told_in(make_table(tmp_path)) if "WARNING" in note]


def test_the_foot_names_variant_weights_budget_and_dataset(tmp_path):
    make_run(tmp_path, "sise", [ok("1"), ok("2")], weights_official=False, complete_dataset=False,
             budget=budget(9), model_note="made here.")  # fmt: skip
    foot = "\n".join(told_in(make_table(tmp_path)))
    assert "Variant paper: protocol paper (the text)." in foot
    assert "VGG16: weights abc, NOT the published checkpoint; made here." in foot
    assert "VGG16, every method: budget: 9 masks (paper: 4000)." in foot
    assert "not the complete official set" in foot


def test_the_foot_tells_departures_budgets_and_data_apart(tmp_path):
    departs = [departure("explainer.call.mu", 0.3), departure("protocol.fill", "black")]
    facts = {"variant": "mine", "dataset_note": "9 of 4952 images"}
    make_run(tmp_path, "sise", [ok("1"), ok("2")], departures=departs, **facts)
    make_run(tmp_path, "rise", [ok("1"), ok("2")], seed=0, budget=budget(9), **facts)
    table = make_table(tmp_path)
    notes = [note for note in told_in(table) if re.search("Variant|departs|budget:|data:", note)]
    assert sorted(notes) == [
        "VGG16, RISE (mine): budget: 9 masks (paper: 4000).",
        "VGG16, every method: data: 9 of 4952 images.",
        "Variant mine of RISE (mine): protocol paper (the text).",
        "Variant mine of SISE (mine): protocol paper (the text); departs from it: explainer.call.mu=0.3, "
        "protocol.fill=black.",
    ]
    assert all(note in formats.to_text(table) for note in (notes[0], *notes[-2:]) if "of RISE" not in note)
    note = "departs: explainer.call.mu=0.3, protocol.fill=black; 9 of 4952 images"
    assert cell(table, "SISE (mine)")["note"] == note


def test_a_variant_that_ends_like_a_seed_is_a_variant_of_its_own(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=0.1), ok("2", EBPG=0.1)], variant="my")
    make_run(tmp_path, "sise", [ok("1", EBPG=0.3), ok("2", EBPG=0.3)], variant="my-seed7")
    for seed in (0, 1):
        make_run(tmp_path, "rise", [ok("1"), ok("2")], variant="my", seed=seed)
    table = make_table(tmp_path)
    assert cell(table, "SISE (my)")["mean"] == pytest.approx(10)
    assert cell(table, "SISE (my-seed7)")["mean"] == pytest.approx(30)
    assert cell(table, "RISE (my)")["seeds"] == 2


def test_folders_of_an_older_version_are_read(tmp_path):
    make_run(tmp_path, "rise", [ok("1"), ok("2")], seed=3)
    file = next(tmp_path.rglob("run.json"))
    old = json.loads(file.read_text())
    for key in ("format", "departures", "budget", "left_out", "dataset_note"):
        del old[key]
    file.write_text(json.dumps(old | {"variant": "paper-seed3", "budget_notes": ["150 masks (paper: 4000)"]}))
    (run,) = find_runs(tmp_path)
    assert run.variant == "paper" and [str(d) for d in run.departures] == ["150 masks (paper: 4000)"]
    assert cell(make_table(tmp_path), "RISE")["status"] == "partial"


# what made it -------------------------------------------------------------------------------------------------------


def told(outputs, explainer, *commands, images=2, dataset="voc2007", limit=None):
    """A run with a session for every command, each behind some of its records but the first."""
    make_run(outputs, explainer, [ok(str(i), session=f"s{1 + i % (len(commands) - 1)}") for i in range(images)],
             dataset=dataset)  # fmt: skip
    sessions = [{"session": f"s{i}", "time": f"2026-{i}", "command": c, "limit": limit} for i, c in enumerate(commands)]
    (outputs / dataset / "vgg16" / explainer / "paper/environment.json").write_text(json.dumps(sessions))


def test_the_commands_that_made_the_records_are_told(tmp_path):
    told(tmp_path, "sise", "scripts/evaluate.py old=1",
         "scripts/evaluate.py dataset=voc2007 dataset.root=VOC outputs=o overwrite=true limit=2 shard=1/2",
         "scripts/evaluate.py +protocol.x=[1] model.weights=../w.pth dataset.root=...")  # fmt: skip
    table = make_table(tmp_path)
    assert table.commands == (
        "python scripts/evaluate.py dataset=voc2007 dataset.root=<folder> limit=2 shard=1/2",
        "python scripts/evaluate.py +protocol.x=[1] model.weights=<folder> dataset.root=<folder>",
        "python scripts/make_tables.py table=sise_table1",
    )
    last = "- Made by " + ", then ".join(f"`{command}`" for command in table.commands) + ".\n"
    assert formats.to_markdown(table).endswith(last)
    command = r"evaluate.py dataset=voc2007 dataset.\allowbreak{}root=\allowbreak{}$<$folder$>$ limit=2"
    assert command in formats.to_latex(table)


@pytest.mark.parametrize(
    ("dataset", "commands", "limit", "images", "first"),
    [
        ("shapes", ["-", "a limit=1"], 1, 2, "experiment=sise_table1"),  # went on with the same settings
        ("voc2007", ["-", "a limit=1"], 1, 2, "experiment=sise_table1 dataset=voc2007"),
        ("shapes", ["-", *"abcd"], None, 4, "experiment=sise_table1"),  # too many
        ("shapes", ["-", *"abca"], None, 4, None),  # three
        ("shapes", ["-", "a limit=2"], 2, 2, None),
    ],
)
def test_else_the_command_of_the_experiment_is_told(tmp_path, dataset, commands, limit, images, first):
    told(tmp_path, "sise", *commands, images=images, dataset=dataset, limit=limit)
    found = make_table(tmp_path, dataset=dataset).commands
    assert found[-1] == "python scripts/make_tables.py table=sise_table1"
    own = list(dict.fromkeys(f"python {command}" for command in commands[1:]))
    assert list(found[:-1]) == ([f"python scripts/evaluate.py {first}"] if first else own)


def test_a_table_without_an_experiment_names_none(tmp_path):
    make_run(tmp_path, "sise", [ok("1")])  # whose command nobody knows
    assert make_table(tmp_path, "default").commands == ("python scripts/make_tables.py table=default",)


# checks -------------------------------------------------------------------------------------------------------------


def test_arithmetic_that_fails_is_in_the_foot(tmp_path):
    one, two = {"mask_fraction": 0.3}, {"mask_fraction": 0.2}
    make_run(tmp_path, "sise", [ok("1", **{"Drop%": 0.9}, **one), ok("2", **two)])
    make_run(tmp_path, "uniform", [ok("1", EBPG=0.3, Bbox=0.3, **one), ok("2", EBPG=0.2, Bbox=0.1, **two)])
    found = [note for note in told_in(make_table(tmp_path)) if "VIOLATED" in note]
    assert len(found) == 1 and "UNIFORM: Bbox 20.00" in found[0]
    shutil.rmtree(tmp_path / "voc2007")
    make_run(tmp_path, "sise", [ok("1", **{"Drop%": 0.9, "Increase%": 1.0}, mIoU=0.9, mask_fraction=0.3)] * 2)
    found = [note for note in told_in(make_table(tmp_path)) if "VIOLATED" in note]
    assert [re.search(r"T\d", note).group() for note in found] == ["T1", "T3"]


def test_arithmetic_that_holds_is_said(tmp_path):
    make_run(tmp_path, "sise", [ok("1"), ok("2")])
    assert [note for note in told_in(make_table(tmp_path)) if "no violation" in note]


# files --------------------------------------------------------------------------------------------------------------


def test_csv_holds_everything_at_full_precision(tmp_path):
    make_run(tmp_path, "sise", [ok("1", EBPG=1 / 3), ok("2", EBPG=0.5)])
    table = make_table(tmp_path)
    frame = pd.read_csv(io.StringIO(formats.to_csv(table)))
    assert {"dataset", "model", "method", "variant", "metric", "mean", "standard error", "n", "undefined", "failed",
            "published", "difference", "status", "seeds", "note"} <= set(frame)  # fmt: skip
    assert len(frame) == len(METRICS) * len(table.columns)
    row = frame[(frame["method"] == "SISE") & (frame["metric"] == "EBPG")].iloc[0]
    assert row["mean"] == cell(table, "SISE")["mean"]


def test_csv_names_the_code_behind_the_records(tmp_path):
    told(tmp_path, "sise", "-", "a", "b", images=4)  # its sessions s1 and s2 have records, s0 has none
    file = tmp_path / "voc2007/vgg16/sise/paper/environment.json"
    sessions = json.loads(file.read_text())
    sessions[0] |= {"commit": "f" * 40}
    sessions[1] |= {"commit": "0123456789ab", "dirty": True}
    file.write_text(json.dumps(sessions))
    frame = pd.read_csv(io.StringIO(formats.to_csv(make_table(tmp_path)))).set_index("method")
    assert set(frame.loc["SISE", "commit"]) == {"012345678+"} and frame.loc["Grad-CAM", "commit"].isna().all()


def test_latex_is_balanced_and_escaped(tmp_path):
    make_run(tmp_path, "sise", [ok("1"), failed("2")])
    make_run(tmp_path, "odd", [ok("1"), ok("2")], label="a_b & 5% {x} #1 $2 \\z^~")
    text = formats.to_latex(make_table(tmp_path, models=["vgg16", "resnet50"]))
    bare = re.sub(r"\\[{}%&#$_\\]", lambda m: r"\\" if m.group() == r"\\" else "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert all("%" not in line or line.startswith("%") for line in bare.splitlines())
    begins, ends = (re.findall(rf"\\{word}{{([a-z]+\*?)}}", text) for word in ("begin", "end"))
    one = ["table*", "adjustbox", "threeparttable", "tabular", "tablenotes"]
    assert begins == one * 2 and ends == ["tabular", "tablenotes", "threeparttable", "adjustbox", "table*"] * 2
    width = len(re.search(r"\\begin{tabular}{(\w+)}", text).group(1))
    rows = [line for line in bare.splitlines() if line.endswith(r"\\")]
    table = make_table(tmp_path, models=["vgg16", "resnet50"])
    assert len(rows) == 2 * (1 + len(table.columns)) and {row.count("&") + 1 for row in rows} == {width}
    assert width == len(METRICS) + 2
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [2, 2, 2]
    assert re.findall(r"\\label{([^}]*)}", text) == ["tab:sise-table1-vgg16", "tab:sise-table1-resnet50"]
    assert r"a\_b \& 5\% \{x\} \#1 \$2 \textbackslash{}z\textasciicircum{}$\sim$" in text
    assert text.isascii()


def test_latex_shows_means_unless_told_more(tmp_path):
    for model in ("vgg16", "resnet50"):
        official = model != "vgg16"
        make_run(tmp_path, "sise", [ok("1", EBPG=0.25), ok("2", EBPG=0.5)], model=model, weights_official=official)
    table = make_table(tmp_path, models=["vgg16", "resnet50"])

    def lines(show):
        vgg16, _ = formats.to_latex(table, show).split(r"\end{table*}")[:2]
        (row,) = (line for line in vgg16.splitlines() if line.startswith("SISE &"))
        return row.split(" & ")[1], re.findall(r"\\item (.*)", vgg16)

    cell, notes = lines("means")
    assert cell == "37.50" and "standard error" not in notes[0] and not any("Status" in note for note in notes)
    assert [note for note in notes if "NOT the published checkpoint" in note] and not any("ResNet" in n for n in notes)
    cell, notes = lines("errors")
    assert cell == r"37.50 $\pm$ 12.50" and "standard error (images as clusters)." in notes[0]
    cell, notes = lines("everything")
    assert cell == r"37.50 $\pm$ 12.50 {[}60.54 $^\circ${]}" and "[published" in notes[0].replace("{[}", "[")
    assert any("Status $^\\circ$ other data" in note for note in notes)
    with pytest.raises(SuiteError, match="means, errors, everything"):
        formats.to_latex(table, "mean")


def test_tex_of_brackets_cannot_become_an_argument():
    assert tex("[1] ± –") == r"{[}1{]} $\pm$ --"


def test_tabulate_makes_what_there_is_and_the_rest_by_default(tmp_path):
    for dataset, model in [("voc2007", "vgg16"), ("shapes", "resnet50"), ("photos", "efficientnet_lite0"),
                           ("voc2007", "efficientnet_lite0")]:  # fmt: skip
        make_run(tmp_path / "o", "sise", [ok("1", novel=0.5), ok("2", novel=0.7)], dataset=dataset, model=model)
    said = []
    where = dict(outputs=tmp_path / "o", published=PUBLISHED, controls=CONTROLS, say=said.append)
    files = tabulate(DEFINITIONS, results=tmp_path / "r", **where)
    assert {f.name for f in files if f.suffix == ".csv"} == {
        "ada_sise_table1.csv", "ada_sise_table1_shapes.csv", "sise_table1.csv", "sise_table1_shapes.csv", "photos.csv",
        "default_voc2007.csv",
    }  # fmt: skip
    assert {f.suffix for f in files} == {".csv", ".md", ".tex"} and all(f.exists() for f in files)
    rest = pd.read_csv(tmp_path / "r/default_voc2007.csv")
    assert list(rest["metric"]) == [*METRICS, "novel", "seconds"] and set(rest["model"]) == {"efficientnet_lite0"}
    assert rest["mean"][5] == pytest.approx(60)
    assert any("EfficientNet-Lite0 on photos" in text for text in said)
    one = tabulate(DEFINITIONS, results=tmp_path / "s", table="sise_table1", dataset="shapes", **where)
    assert [f.name for f in one] == ["sise_table1_shapes.csv", "sise_table1_shapes.md", "sise_table1_shapes.tex"]
    again = {f.name: f.read_bytes() for f in files}
    tabulate(DEFINITIONS, results=tmp_path / "r", **where)
    assert again == {f.name: f.read_bytes() for f in files}


def test_variants_of_sise_take_no_places_from_rivals(tmp_path):
    make_run(tmp_path, "grad_cam", [ok("1", EBPG=0.3), ok("2", EBPG=0.3)])
    make_run(tmp_path, "sise", [ok("1", EBPG=0.2), ok("2", EBPG=0.2)])
    make_run(tmp_path, "sise", [ok("1", EBPG=0.9), ok("2", EBPG=0.9)], variant="authors", protocol="authors")
    make_run(tmp_path, "ada_sise", [ok("1", EBPG=0.8), ok("2", EBPG=0.8)])
    assert places(make_table(tmp_path), "EBPG") == {"Grad-CAM": "best", "SISE": "second"}


def test_the_foot_tells_the_ceiling_and_how_many_pixels_were_kept(tmp_path):
    config = {"metrics": {"keep_fraction": 0.15, "top_fraction": 0.2}}
    few = [ok("1", kept_fraction=0.0, mask_fraction=0.1), ok("2", kept_fraction=0.1, mask_fraction=0.4)]
    make_run(tmp_path, "sise", few, config=config)
    make_run(tmp_path, "grad_cam", [r | {"kept_fraction": 0.15} for r in few], config=config)
    notes = [note.text for note in make_table(tmp_path).notes]
    assert "VGG16: no map can have a larger mIoU than 50.00 on these masks." in notes
    kept = [text for text in notes if "of the pixels instead" in text]
    assert len(kept) == 1 and kept[0].startswith("VGG16, SISE: Drop% and Increase% keep 5.0 % of the pixels instead")
    assert "in 1 of 2 maps none: their values are a blank image's" in kept[0]


def test_a_table_does_not_take_the_place_of_one_of_more_pairs(tmp_path):
    said, kept = [], tmp_path / "r/sise_table1.csv"

    def make(n, **options):
        make_run(tmp_path / f"o{len(said)}", "sise", [ok(str(i)) for i in range(n)])
        files = tabulate(DEFINITIONS, outputs=tmp_path / f"o{len(said)}", results=tmp_path / "r", published=PUBLISHED,
                         table="sise_table1", say=said.append, **options)  # fmt: skip
        return [f.suffix for f in files], int(pd.read_csv(kept)["n"].max())

    everything = [".csv", ".md", ".tex"]
    assert make(3) == (everything, 3) and make(3) == (everything, 3)
    assert not any("NOT" in text for text in said if "written" in text)
    assert make(2) == ([], 3)
    assert "voc2007 / vgg16 / EBPG / sise / paper: 3 there, 2 now" in said[-1] and "results=<folder>" in said[-1]
    assert make(4) == (everything, 4) and make(2, overwrite=True) == (everything, 2)
    kept.write_text("")  # says nothing of pairs
    assert make(1) == (everything, 1)


def test_a_table_that_lacks_a_network_or_a_method_of_the_former_one_is_not_written(tmp_path):
    for model in ("vgg16", "resnet50"):
        make_run(tmp_path / "o", "sise", [ok("1"), ok("2")], model=model)
    make_run(tmp_path / "one", "sise", [ok("1"), ok("2")], model="resnet50")
    where = dict(results=tmp_path / "r", published=PUBLISHED, table="sise_table1", say=lambda _: None)
    assert len(tabulate(DEFINITIONS, outputs=tmp_path / "o", **where)) == 3
    assert tabulate(DEFINITIONS, outputs=tmp_path / "one", **where) == []


def test_tabulate_serves_a_dataset_that_no_definition_knows(tmp_path):
    make_run(tmp_path, "sise", [ok("1"), ok("2")], dataset="own")
    files = tabulate(DEFINITIONS, outputs=tmp_path, results=tmp_path / "r", published=PUBLISHED, table="sise_table1",
                     dataset="own", say=lambda _: None)  # fmt: skip
    assert files[0].name == "sise_table1_own.csv"
    assert set(pd.read_csv(files[0])["status"]) == {"other data", "not run"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"table": "sise_table4"}, "no records for table=sise_table4 .*found: voc2007/vgg16.*evaluate.py"),
        ({"dataset": "shapes"}, "no records for dataset=shapes"),
        ({"table": "sise_tabel1"}, "Did you mean 'sise_table1'"),
    ],
)
def test_tabulate_says_what_is_there_instead(tmp_path, wanted, message):
    make_run(tmp_path, "sise", [ok("1")])
    with pytest.raises(SuiteError, match=message):
        tabulate(DEFINITIONS, outputs=tmp_path, results=tmp_path / "r", published=PUBLISHED, **wanted)


def test_a_run_in_which_everything_failed_is_told(tmp_path):
    make_run(tmp_path, "sise", [failed("1"), failed("2")])
    table = make_table(tmp_path)
    c = cell(table, "SISE")
    assert (c["status"], c["n"], c["failed"]) == ("failed", 0, 2)
    assert any("2 FAILED" in note for note in told_in(table))
    assert "Status failed (5 cells): every pair failed." in told_in(table)
    (row,) = (line for line in formats.to_markdown(table).splitlines() if line.startswith("| SISE |"))
    assert row.endswith("| 2 failed |") and re.search("^SISE .* 2 failed$", formats.to_text(table), re.MULTILINE)
    assert all(write(table) for write in (formats.to_csv, formats.to_markdown, formats.to_latex, formats.to_text))


# definitions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sise_table1", "sise_table4", "ada_sise_table1"])
def test_definitions_cover_the_published_table_exactly(name):
    definition = DEFINITIONS[name]
    published = pd.read_csv(PUBLISHED)
    published = published[published["table"] == definition["published"]]
    assert set(published["dataset"]) == {definition["datasets"][0]}
    assert list(dict.fromkeys(published["method"])) == list(
        dict.fromkeys(c["method"] for c in definition["columns"] if c["method"])
    )
    metrics = [words.PUBLISHED_NAMES.get(m, m) for m in definition["metrics"]]
    assert list(dict.fromkeys(published["metric"])) == metrics
    assert list(dict.fromkeys(published["model"])) == definition["models"]
    labels = [c["label"] for c in definition["columns"]]
    assert len(labels) == len(set(labels)) and definition["name"] == name


def test_the_script(tmp_path):
    make_run(tmp_path / "o", "sise", [ok("1"), ok("2")], dataset="shapes")
    command = [sys.executable, ROOT / "scripts/make_tables.py", f"outputs={tmp_path}/o", f"results={tmp_path}/r"]
    done = subprocess.run([*command, "table=sise_table1"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "VGG16 on shapes" in done.stdout and (tmp_path / "r/sise_table1_shapes.tex").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o", "r"]  # nothing else is left lying about

"""Comparisons of a table's methods on hand-made records."""

import math
import re

import pandas as pd
import pytest
from hand_made import DEFINITIONS, PUBLISHED
from hand_made import run_of_values as make_run

from sise.benchmark.figures import thresholds
from sise.benchmark.tables import comparisons, statistics, words
from sise.benchmark.tables.build import build
from sise.benchmark.tables.make import tabulate
from sise.benchmark.tables.runs import find_runs
from sise.errors import SuiteError

IMAGES = 12


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Tests by hand need few images."""
    monkeypatch.setattr(statistics, "FEWEST_IMAGES", 10)


def compared(outputs, name="sise_table1", **changes):
    definition = {**DEFINITIONS[name], "models": ["vgg16"], **changes}
    runs = find_runs(outputs)
    table = build(definition, "voc2007", runs, pd.read_csv(PUBLISHED))
    found = comparisons.compare(table, runs, definition.get("reference") or comparisons.REFERENCE)
    return table, found.set_index(["metric", "method"], drop=False)


def test_a_certain_effect_by_hand(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES)
    make_run(tmp_path, "grad_cam", [0.4] * IMAGES)
    make_run(tmp_path, "rise", [[0.7, 0.6]] * IMAGES, seed=0)
    make_run(tmp_path, "rise", [[0.9, 0.6]] * IMAGES, seed=1)
    _, found = compared(tmp_path)
    row = found.loc["EBPG", "Grad-CAM"]
    assert row["difference"] == row["low"] == row["high"] == pytest.approx(-10) and row["standard error"] < 1e-9
    assert (row["images"], row["pairs"], row["unpaired"], row["verdict"]) == (12, 12, 0, "worse")
    assert (row["images higher"], row["images lower"], row["images tied"]) == (0, 12, 0)
    assert (row["mean"], row["reference mean"]) == (pytest.approx(40), pytest.approx(50))
    assert row["bootstrap p"] == 2 / 10_001 and row["bootstrap p (Holm)"] == 2 * 2 / 10_001
    assert row["sign p"] == pytest.approx(2 / 2**12) and row["sign p (Holm)"] == pytest.approx(4 / 2**12)
    row = found.loc["EBPG", "RISE"]  # seeds are averaged first: 80 - 50; the second class has no partner
    assert (row["difference"], row["pairs"], row["unpaired"]) == (pytest.approx(30), 12, 12)
    assert row["verdict"] == "better"
    assert found.loc["mIoU", "RISE"]["verdict"] == "not distinguished" and found.loc["mIoU", "RISE"]["bootstrap p"] == 1
    assert "SISE" not in set(found["method"]) and len(found) == 2 * 5


def test_lower_is_better_for_drop(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES, metric="Drop%")
    make_run(tmp_path, "grad_cam", [0.4] * IMAGES, metric="Drop%")
    _, found = compared(tmp_path)
    assert found.loc["Drop%", "Grad-CAM"]["verdict"] == "better"


def test_verdict_needs_both_tests(tmp_path):
    # two images of twelve are far better, one is a little worse: the mean moves, the signs don't say so
    make_run(tmp_path, "sise", [0.5] * IMAGES)
    make_run(tmp_path, "grad_cam", [0.9] * 5 + [0.5] * 7)
    _, found = compared(tmp_path)
    row = found.loc["EBPG", "Grad-CAM"]
    assert row["sign p"] == pytest.approx(2 / 2**5) and row["bootstrap p"] < 0.05 and row["verdict"] == "better?"


def test_a_mean_against_most_images_is_in_doubt(tmp_path):
    # 26 of 32 images lose a little, 6 gain a lot: both tests are significant, in opposite directions
    make_run(tmp_path, "sise", [0.5] * 32)
    make_run(tmp_path, "grad_cam", [0.49] * 26 + [1.0] * 6)
    _, found = compared(tmp_path)
    row = found.loc["EBPG", "Grad-CAM"]
    assert row["difference"] > 0 and row["images lower"] == 26
    assert row["bootstrap p (Holm)"] < 0.05 and row["sign p (Holm)"] < 0.05 and row["verdict"] == "better?"


def test_only_failures(tmp_path):
    make_run(tmp_path, "sise", [])
    make_run(tmp_path, "grad_cam", [])
    table, found = compared(tmp_path, "default", metrics=[], models=None)
    assert found.empty and comparisons.order(table, find_runs(tmp_path)).empty
    empty = comparisons.order(table, find_runs(tmp_path)).dropna(subset="tau")
    assert list(empty.columns)[:3] == ["dataset", "model", "metric"]


def test_undefined_pairs_are_counted_once(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES, undefined={(0, 0), (1, 0)})
    make_run(tmp_path, "grad_cam", [0.5] * IMAGES, undefined={(1, 0), (2, 0)})
    _, found = compared(tmp_path)
    assert found.loc["EBPG", "Grad-CAM"]["undefined"] == 3 and found.loc["mIoU", "Grad-CAM"]["undefined"] == 0
    written(tmp_path)
    text = (tmp_path / "r/sise_table1_statistics.md").read_text()
    assert "set by definition, kept (the most of any metric): VGG16 3 (Grad-CAM)." in text


def test_few_images_are_undefined(tmp_path):
    make_run(tmp_path, "sise", [0.5] * 3)
    make_run(tmp_path, "grad_cam", [0.4] * 3)
    _, found = compared(tmp_path)
    row = found.loc["EBPG", "Grad-CAM"]
    assert row["difference"] == pytest.approx(-10) and math.isnan(row["low"]) and row["verdict"] == "undefined"
    written(tmp_path)
    text = (tmp_path / "r/sise_table1_statistics.md").read_text()
    assert "5 comparisons without interval and mark: fewer than 10 independent images" in text and "| -10.00 |" in text


def test_no_common_pair_and_no_reference(tmp_path):
    make_run(tmp_path, "grad_cam", [0.4] * IMAGES)
    assert compared(tmp_path)[1].empty
    make_run(tmp_path, "sise", [0.5])
    _, found = compared(tmp_path)
    row = found.loc["EBPG", "Grad-CAM"]
    assert (row["pairs"], row["unpaired"]) == (1, 11)


def test_order_of_methods(tmp_path):
    # published: Grad-CAM 55.44, Grad-CAM++ 46.29, RISE 33.44, SISE 60.54
    make_run(tmp_path, "grad_cam", [0.3] * IMAGES)
    make_run(tmp_path, "grad_cam_pp", [0.2] * IMAGES)
    make_run(tmp_path, "rise", [0.1] * IMAGES, seed=0)
    make_run(tmp_path, "sise", [0.25] * IMAGES)
    make_run(tmp_path, "sise", [0.9] * IMAGES, variant="authors")  # the published SISE counts once
    make_run(tmp_path, "ada_sise", [0.9] * IMAGES)  # not in that paper
    table, _ = compared(tmp_path)
    found = comparisons.order(table, find_runs(tmp_path)).set_index("metric")
    assert (found.loc["EBPG", "tau"], found.loc["EBPG", "n"]) == (pytest.approx(4 / 6), 4)
    assert math.isnan(found.loc["mIoU", "tau"])  # all tied


def test_a_method_on_less_than_its_budget_takes_no_part_in_the_order(tmp_path):
    for explainer, value in {"grad_cam": 0.3, "grad_cam_pp": 0.2, "sise": 0.25}.items():
        make_run(tmp_path, explainer, [value] * IMAGES)
    make_run(tmp_path, "rise", [0.1] * IMAGES, seed=0,
             budget={"setting": "n_masks", "unit": "masks", "value": 9, "paper": 4000})  # fmt: skip
    found = comparisons.order(compared(tmp_path)[0], find_runs(tmp_path)).set_index("metric")
    assert (found.loc["EBPG", "tau"], found.loc["EBPG", "n"]) == (pytest.approx(1 / 3), 3)


def test_tiles_of_a_slide_are_one_sample(tmp_path):
    for explainer, value in {"sise": 0.5, "grad_cam": 0.4}.items():
        make_run(tmp_path, explainer, [value] * IMAGES, more=lambda i: {"cluster": f"slide {i % 3}"})
    table, found = compared(tmp_path)
    row = found.loc["EBPG", "Grad-CAM"]
    assert (row["images"], row["clusters"], row["pairs"], row["images lower"]) == (12, 3, 12, 3)
    assert row["verdict"] == "undefined"  # three samples say nothing
    assert any("3 clusters, not of 12 images" in note.text for note in table.notes)


def test_a_yardstick_is_neither_better_nor_worse(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES)
    make_run(tmp_path, "sise", [0.9] * IMAGES, variant="E3-masks")
    make_run(tmp_path, "sise", [0.9] * IMAGES, variant="M7-logit")
    _, found = compared(tmp_path, "sensitivity")
    ours = found.loc["EBPG"].set_index("variant")
    assert ours["verdict"].to_dict() == {"E3-masks": "another measure", "M7-logit": "better"}
    assert ours.loc["M7-logit", "bootstrap p (Holm)"] == 2 / 10_001  # corrected for itself alone
    written(tmp_path, table="sensitivity")
    text = (tmp_path / "r/sensitivity_voc2007.md").read_text()
    assert "90.00 (+40.00 ± 0.00) |" in text and "90.00 (+40.00 ± 0.00) ▲ |" in text and "yardsticks" in text


def test_two_methods_are_no_order(tmp_path):
    make_run(tmp_path, "grad_cam", [0.3] * IMAGES)
    make_run(tmp_path, "sise", [0.5] * IMAGES)
    files = written(tmp_path)
    assert [f.name for f in files] == ["sise_table1_statistics.csv", "sise_table1_statistics.md"]
    assert "Kendall" not in files[1].read_text()


def test_statistics_tell_reduced_budgets_and_what_made_them(tmp_path):
    departs = [{"key": "a", "value": 1, "shipped": 0}]
    make_run(tmp_path, "sise", [0.5] * IMAGES, departures=departs, dataset_note="3 of 9 images")
    budget = {"setting": "max_iter", "unit": "iterations", "value": 10, "paper": 800}
    make_run(tmp_path, "extremal_perturbation", [0.3] * IMAGES, budget=budget)
    text = written(tmp_path, table="sise_table1")[1].read_text()
    assert "- VGG16, Extremal Perturbation: budget: 10 iterations (paper: 800).\n" in text
    assert text.count("budget") == 1 and "of 9 images" not in text
    shown = text.partition("\n[//]: ")[0]
    assert shown.endswith("- Made by `python scripts/evaluate.py experiment=sise_table1 dataset=voc2007`, then `python "
                          "scripts/make_tables.py table=sise_table1`.\n")  # fmt: skip


def test_a_trial_leaves_a_larger_table_and_what_is_beside_it(tmp_path):
    for explainer, value in {"sise": 0.5, "grad_cam": 0.4, "grad_cam_pp": 0.45}.items():
        make_run(tmp_path / "o", explainer, [value] * IMAGES)
    make_run(tmp_path / "small", "sise", [0.5])
    results, said = tmp_path / "r", []

    def make(outputs, **options):
        files = tabulate(DEFINITIONS, outputs=tmp_path / outputs, results=results, published=PUBLISHED,
                         table="sise_table1", writers=[comparisons.write], say=said.append, **options)  # fmt: skip
        return {f.name for f in files}, {f.name: f.read_bytes() for f in results.glob("*")}

    files, before = make("o")
    assert files == set(before) and len(files) == 3 + len(comparisons.COMPANIONS)
    assert make("small") == (set(), before)
    assert any("NOT written: sise_table1.csv" in text and "overwrite=true" in text for text in said)
    assert "sise_table1_order.csv is kept, but it is of an earlier table: delete it, or give overwrite=true" in said
    files, left = make("small", overwrite=True)
    assert files == set(left) == {f"sise_table1.{end}" for end in ("csv", "md", "tex")}


def written(outputs, **where):
    files = tabulate(DEFINITIONS, outputs=outputs, results=outputs / "r", published=PUBLISHED,
                     writers=[comparisons.write], say=lambda _: None, **where)  # fmt: skip
    return [f for f in files if re.search("statistics|order|ablation|sensitivity", f.name)]


def test_files_beside_every_table(tmp_path):
    make_run(tmp_path, "sise", [0.5 + i / 100 for i in range(IMAGES)])
    make_run(tmp_path, "grad_cam", [0.4] * IMAGES)
    make_run(tmp_path, "grad_cam_pp", [0.45] * IMAGES)
    files = written(tmp_path, table="sise_table1")
    assert {f.name for f in files} == {
        "sise_table1_statistics.csv", "sise_table1_statistics.md", "sise_table1_order.csv"}  # fmt: skip
    text = (tmp_path / "r/sise_table1_statistics.md").read_text()
    low, high = map(float, re.search(r"\| Grad-CAM \| -15\.50 \[(.*), (.*)\] ▼ \|", text).groups())
    assert low == pytest.approx(-15.5 - 1.96, abs=0.2) and high == pytest.approx(-15.5 + 1.96, abs=0.2)
    assert "| VGG16 | EBPG | +0.33 | 1.000 | 3 |" in text
    again = {f: f.read_bytes() for f in files}
    assert {f: f.read_bytes() for f in written(tmp_path, table="sise_table1")} == again


def test_a_table_of_differences_is_made_once_there_is_one(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES)
    assert not [f for f in written(tmp_path) if "ablation" in f.name]
    with pytest.raises(SuiteError, match="no records for table=component_ablation"):
        written(tmp_path, table="component_ablation")
    make_run(tmp_path, "sise", [0.4] * IMAGES, variant="score-one")
    make_run(tmp_path, "sise", [0.6] * IMAGES, variant="selection-random", seed=0)
    make_run(tmp_path, "sise", [0.6] * IMAGES, variant="my-own")
    files = written(tmp_path)
    assert [f.name for f in files if "ablation" in f.name] == [
        "component_ablation_voc2007.csv", "component_ablation_voc2007.md"]  # fmt: skip
    text = (tmp_path / "r/component_ablation_voc2007.md").read_text()
    assert "| **SISE, as the protocol has it** | 50.00 |" in text
    assert "| every score 1, no masked pass | 40.00 (-10.00 ± 0.00) ▼ |" in text
    assert "| as many feature maps, but random | 60.00 (+10.00 ± 0.00) ▲ |" in text
    # Table 1 shows neither, but what no other table has a place for
    table1 = (tmp_path / "r/sise_table1.md").read_text()
    assert "score-one" not in table1 and "selection-random" not in table1 and "SISE (my-own)" in table1


def test_the_base_is_over_the_pairs_that_its_rows_have(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES + [0.9] * IMAGES)
    make_run(tmp_path, "sise", [0.4] * IMAGES, variant="score-one")
    make_run(tmp_path, "sise", [0.5] * (IMAGES + 2), variant="gate-none")
    make_run(tmp_path, "sise", [], variant="layer-1")  # shares none
    written(tmp_path, table="component_ablation")
    lines = (tmp_path / "r/component_ablation_voc2007.md").read_text().splitlines()
    (base,) = (line for line in lines if "as the protocol has it**" in line)
    assert base.startswith("| **SISE, as the protocol has it** | 50.00 |") and base.endswith("| 12 of 24 |")
    (row,) = (line for line in lines if line.startswith("| every score 1, no masked pass"))
    assert "| 40.00 (-10.00 ± 0.00) ▼ |" in row and row.endswith("| 12 |")
    (row,) = (line for line in lines if line.startswith("| no gates"))  # 14 pairs, two of which differ by 40
    assert row.split("|")[2].startswith(" 50.00 (-5.71 ±") and row.endswith("| 14 |")
    assert sum(line.startswith("- Bold rows: over the pairs that all rows below share") for line in lines) == 1
    assert lines[-3].startswith("- Made by `python scripts/evaluate.py experiment=component_ablation dataset=voc2007`")


def test_the_budget_of_a_base_is_told(tmp_path):
    for variant, masks in {"paper": 150, "masks-twice": 300}.items():
        budget = {"setting": "n_masks", "unit": "masks", "value": masks, "paper": 4000}
        make_run(tmp_path, "rise", [0.2] * IMAGES, seed=0, variant=variant, budget=budget)
    text = written(tmp_path, table="sensitivity")[1].read_text()
    assert "- VGG16, RISE, as the protocol has it: budget: 150 masks (paper: 4000).\n" in text
    assert "RISE: twice the masks: budget: 300 masks (paper: 4000)." in text or "every method: budget: 300" in text
    assert "| 20.00 (0.00 ± 0.00) |" in text and "+0.00" not in text and "Bold rows" not in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (-0.004, "0.00"), (0.004, "0.00"), (-0.006, "-0.01"), (1, "+1.00")]
)
def test_a_difference_of_nothing_has_no_sign(value, text):
    assert words.signed(value) == text


def test_a_column_can_be_compared_with_something_else(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES)
    make_run(tmp_path, "rise", [0.2] * IMAGES, seed=0)
    make_run(tmp_path, "rise", [0.3] * IMAGES, seed=0, variant="masks-twice")
    make_run(tmp_path, "sise", [0.4] * IMAGES, variant="M5-black")
    _, found = compared(tmp_path, "sensitivity")
    assert found.loc["EBPG", "RISE: twice the masks"]["difference"] == pytest.approx(10)
    assert found.loc["EBPG", "RISE: twice the masks"]["against"] == "rise/paper"
    assert found.loc["EBPG", "M5 masked pixels: black (default zero)"]["difference"] == pytest.approx(-10)
    written(tmp_path)
    text = (tmp_path / "r/sensitivity_voc2007.md").read_text()
    assert text.index("**SISE, as") < text.index("M5 masked") < text.index("**RISE, as") < text.index("twice the masks")
    assert "M6" not in text  # was not run


def test_table_6_and_its_plot(tmp_path):
    for variant, value in {"paper": 0.6, "mu0.3": 0.5, "mu0.5": 0.4}.items():
        make_run(tmp_path, "sise", [value] * IMAGES, variant=variant, model="resnet50")
    definition = DEFINITIONS["sise_table6"]
    runs = find_runs(tmp_path)
    table = build(definition, "voc2007", runs, pd.read_csv(PUBLISHED))
    figure = thresholds.threshold_ablation(table)
    assert [a.get_title().split()[0] for a in figure.axes[:5]] == ["EBPG", "mIoU", "Bbox", "Drop%", "Increase%"]
    measured, published = (figure.axes[0].lines[i] for i in (0, -1))
    assert list(measured.get_xdata()) == [0, 0.3, 0.5, 0.75]
    assert list(measured.get_ydata())[:3] == pytest.approx([60, 50, 40])
    assert list(published.get_ydata()) == [66.08, 66.54, 65.84, 62.5]
    (file,) = thresholds.plot(definition, outputs=tmp_path, results=tmp_path / "r", published=PUBLISHED)
    assert file.name == "sise_fig12_voc2007.png" and file.stat().st_size > 10_000
    with pytest.raises(SuiteError, match="experiment=sise_table6 dataset=shapes"):
        thresholds.plot(definition, outputs=tmp_path, results=tmp_path / "r", published=PUBLISHED, dataset="shapes")
    _, found = compared(tmp_path, "sise_table6", models=["resnet50"])
    assert found.loc["EBPG", "μ = 0.5"]["difference"] == pytest.approx(-20)


def test_one_threshold_is_no_plot(tmp_path):
    make_run(tmp_path, "sise", [0.5] * IMAGES, model="resnet50")
    with pytest.raises(SuiteError, match="fewer than two thresholds"):
        thresholds.plot(DEFINITIONS["sise_table6"], outputs=tmp_path, results=tmp_path / "r", published=PUBLISHED)

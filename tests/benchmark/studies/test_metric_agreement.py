"""Metrics held against a known truth, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from sise.benchmark.studies import metric_agreement
from sise.benchmark.studies.metric_agreement import (
    Truth,
    against,
    agreement,
    all_rows,
    collect,
    groups_of,
    preferred,
    rows_of,
    to_markdown,
)
from sise.errors import SuiteError

RIVALS = ("a/paper", "b/paper", "c/paper")
TRUTH = Truth("d", "the mark", "Truth", "Share", cause="watermark", right="gt/mark", wrong="gt/paper")


def values_of(**metrics):
    """Records of two images, (metric, image) -> values of the explainers a, b, c."""
    rows = []
    for image in ("1", "2"):
        for position, name in enumerate(RIVALS):
            found = {metric: by_image[image][position] for metric, by_image in metrics.items()}
            rows.append({"image_id": image, "target": 0, "explainer": name, **found})
    return pd.DataFrame(rows)


def test_agreement_by_hand():
    """Image 1: the same order, τ = 1. Image 2: of the three pairs of explainers one is in order, two are not: -1/3."""
    values = values_of(
        Truth={"1": (0.1, 0.5, 0.9), "2": (0.1, 0.5, 0.9)},
        EBPG={"1": (0.2, 0.3, 0.4), "2": (0.3, 0.4, 0.2)},
    )
    found = agreement(values, "EBPG", "Truth", RIVALS)
    assert found["tau"] == pytest.approx((1 - 1 / 3) / 2)
    assert found["standard error"] == pytest.approx(2 / 3)  # half the difference of the two, for n = 2
    assert (found["pairs"], found["tied"], found["explainers"]) == (2, 0, 3)
    assert found["tau of means"] == pytest.approx(1 / 3)  # means 0.25, 0.35, 0.30


def test_lower_is_better_turns_the_order_around():
    values = values_of(
        Truth={"1": (0.1, 0.5, 0.9), "2": (0.1, 0.5, 0.9)}, **{"Drop%": {"1": (0.9, 0.5, 0.1), "2": (3.0, 2.0, 1.0)}}
    )
    assert agreement(values, "Drop%", "Truth", RIVALS)["tau"] == pytest.approx(1)


def test_a_pair_whose_values_are_all_the_same_has_no_order():
    values = values_of(
        Truth={"1": (0.1, 0.5, 0.9), "2": (0.1, 0.5, 0.9)}, EBPG={"1": (1.0, 1.0, 1.0), "2": (0.9, 0.5, 0.1)}
    )
    found = agreement(values, "EBPG", "Truth", RIVALS)
    assert (found["tau"], found["pairs"], found["tied"]) == (pytest.approx(-1), 1, 1) and math.isnan(
        found["standard error"]
    )


def test_seeds_are_averaged_first():
    values = values_of(Truth={"1": (1, 2, 3), "2": (1, 2, 3)}, EBPG={"1": (1, 2, 3), "2": (1, 2, 3)})
    other = values[values["explainer"] == "a/paper"].assign(EBPG=10.0)
    assert agreement(pd.concat([values, other]), "EBPG", "Truth", RIVALS)["tau"] == pytest.approx(-1 / 3)  # 5.5, 2, 3


def test_one_region_against_another():
    values = pd.DataFrame({"here": [0.3, 0.0, 0.0, None], "there": [0.1, 0.2, 0.0, 0.4]})
    assert against(values, "here", "there").tolist()[:3] == pytest.approx([0.75, 0.0, 0.5])
    assert math.isnan(against(values, "here", "there").iloc[3])


def test_pairs_without_records_do_not_appear():
    values = values_of(Truth={"1": (1, 2, 3), "2": (1, 2, 3)}, EBPG={"1": (1, 2, 3), "2": (1, 2, 3)})
    values.loc[values["image_id"] == "2", "target"] = 4
    assert (
        agreement(values, "EBPG", "Truth", RIVALS)["pairs"],
        agreement(values, "EBPG", "Truth", RIVALS)["tied"],
    ) == (2, 0)


def controls(*rows):
    return pd.DataFrame([{"image_id": i, "target": 0, "explainer": e, "EBPG": v, "Drop%": v} for i, e, v in rows])


def test_what_a_metric_prefers():
    """One pair won, one tied, one lost: 50 %; of a metric where lower is better just as many."""
    values = controls(
        ("1", "gt/mark", 0.9), ("1", "gt/paper", 0.1), ("2", "gt/mark", 0.5), ("2", "gt/paper", 0.5),
        ("3", "gt/mark", 0.8), ("3", "gt/paper", 0.2), ("4", "gt/mark", 0.9),
    )  # fmt: skip
    assert preferred(values, "EBPG", "gt/mark", "gt/paper") == pytest.approx(100 * 2.5 / 3)
    assert preferred(values, "Drop%", "gt/mark", "gt/paper") == pytest.approx(100 * 0.5 / 3)
    assert math.isnan(preferred(values, "EBPG", "gt/mark", "other/paper"))


def runs_of(count=5):
    """Runs of ``count`` explainers and a control: EBPG opposite to the truth, Drop% with it; image 2 does not count."""
    made = []
    for number, name in enumerate([*"abcdefg"[:count], "centre"]):
        records = [
            {"image_id": i, "target": 0, "status": "ok", "Truth": number, "Share": number % 2, "EBPG": -number * s,
             "Drop%": -number * s}
            for i, s in (("1", 1), ("2", -1))
        ]  # fmt: skip
        config = {
            "metrics": {
                "localization": {"EBPG": {}},
                "faithfulness": {"Drop%": {}},
                "truth": {"Truth": {}, "Share": {}},
                "ties": "expected",
            }
        }
        identity = {"dataset": "d", "explainer": name, "config": config}
        lines = SimpleNamespace(rows=lambda keys, good, records=records: pd.DataFrame(records)[keys])
        made.append(SimpleNamespace(identity=identity, variant="paper", records=lines))
    return made


EFFECTS = pd.DataFrame({"image_id": ["1", "2"], "cause": ["watermark", ""]})


def test_rows_of_a_data_set():
    rows = {row["metric"]: row for row in rows_of(runs_of(), TRUTH, EFFECTS, ["centre"])}
    assert set(rows) == {"EBPG", "Drop%"} and groups_of(runs_of(), "d") == {"EBPG": "annotation", "Drop%": "network"}
    assert (
        rows["EBPG"]["tau"] == pytest.approx(-1)
        and rows["Drop%"]["tau"] == pytest.approx(1)
        and rows["EBPG"]["reads"] == "annotation"
    )
    assert math.isnan(rows["EBPG"]["tau against the other"])
    assert rows["EBPG"]["pairs"] == 1 and rows["EBPG"]["explainers"] == 5  # without the control and without image 2
    assert math.isnan(rows["EBPG"]["prefers the truth"])
    every = {row["metric"]: row for row in rows_of(runs_of(), TRUTH, None, ["centre"])}
    assert every["EBPG"]["pairs"] == 2 and every["EBPG"]["tau"] == pytest.approx(0)
    assert set(collect(runs_of(), "other")) == set()


def test_too_few_explainers_are_told():
    with pytest.raises(SuiteError, match="at least 5 explainers"):
        list(rows_of(runs_of(4), TRUTH, EFFECTS, ["centre"]))
    with pytest.raises(SuiteError, match="on other"):
        list(rows_of(runs_of(), Truth("other", "", "Truth", "Share"), None, []))


def test_a_data_set_of_too_few_explainers_is_left_out_and_named(caplog):
    few = Truth("other", "", "Truth", "Share")
    rows = all_rows(runs_of(), [few, TRUTH], {TRUTH.dataset: EFFECTS}, ["centre"])
    assert {row["dataset"] for row in rows} == {TRUTH.dataset} and "other is left out" in caplog.text
    with pytest.raises(SuiteError, match="other is left out: expected records of at least 5 explainers"):
        all_rows(runs_of(), [few], {}, ["centre"])


def test_the_table_says_what_counts():
    table = pd.DataFrame(rows_of(runs_of(), TRUTH, EFFECTS, ["centre"]))
    text = to_markdown(table, {"d": EFFECTS}, [TRUTH])
    assert "## d: the network looks at the mark" in text and "Of 2 scenes 1 count" in text
    lines = [line for line in text.splitlines() if line.startswith("| Drop%") or line.startswith("| EBPG")]
    assert lines[0].startswith("| Drop% | network | – | +1.00 | +1.00 ± – | 1 | 0 |")  # the best first
    assert lines[1].startswith("| EBPG | annotation | – | -1.00 | -1.00 ± – |")


def test_the_truths_are_those_of_the_experiments():
    """Metrics, data sets and controls that the settings name are there to be recorded."""
    from compositions import cells_of, composed

    for node in composed("metric_agreement").truths:
        experiment = "grid_pointing" if node.dataset == "grid_pointing" else "hans"
        for control in (node.right, node.wrong):
            explainer, variant = control.split("/")
            cells = cells_of(f"experiment={experiment}", f"dataset={node.dataset}", f"explainer={explainer}")
            assert variant in {cell.variant for cell in cells}
            assert {node.rank, node.share, node.get("other") or node.share} <= set(cells[0].metrics.truth)
        assert metric_agreement.Truth(**node).cause in ("", "watermark", "object")

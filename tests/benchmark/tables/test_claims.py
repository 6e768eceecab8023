"""The papers' claims: that the file fits the published numbers, and verdicts on hand-made records."""

import math
from functools import partial

import numpy as np
import pytest
from checkout import ROOT
from hand_made import DEFINITIONS, PUBLISHED
from hand_made import run_of_values as make_run

from sise.benchmark.records.folder import RunFolder
from sise.benchmark.tables import claims, statistics
from sise.benchmark.tables.build import build
from sise.benchmark.tables.make import tabulate
from sise.benchmark.tables.published import read_published
from sise.benchmark.tables.runs import find_runs
from sise.errors import SuiteError

FILE = ROOT / "results/published/claims.csv"


def checked(outputs, dataset="voc2007", name="sise_table1"):
    told, published, runs = claims.read(FILE), read_published(PUBLISHED), find_runs(outputs)
    definition = {**DEFINITIONS[name], "models": ["vgg16"]}
    table = build(definition, dataset, runs, published)
    found = claims.check(table, told[told["table"] == definition["published"]], published, runs)
    return found.set_index(["metric", "rival"], drop=False)


def two_runs(outputs, sise, rival, **facts):
    facts = {"metric": "Drop%", "expected_pairs": len(sise)} | facts
    make_run(outputs, "sise", sise, **facts)
    make_run(outputs, "grad_cam", rival, **facts)


def test_every_claim_is_about_published_numbers_and_is_made_once():
    told, published = claims.read(FILE), read_published(PUBLISHED)
    about = ["table", "model", "metric", "subject", "rival"]
    assert len(told) == 135 and not told.duplicated(about).any()
    known = set(zip(*(published[c] for c in ("table", "dataset", "model", "method")), strict=True))
    for side in ("subject", "rival"):
        assert set(zip(told["table"], told["dataset"], told["model"], told[side], strict=True)) <= known


def test_an_unknown_kind_or_a_missing_file_is_refused(tmp_path):
    (tmp_path / "c.csv").write_text("kind\nworse\n")
    with pytest.raises(SuiteError, match="worse"):
        claims.read(tmp_path / "c.csv")
    with pytest.raises(SuiteError, match="expected the papers' claims"):
        claims.read(tmp_path / "none.csv")


@pytest.mark.parametrize("kind, low, high, expected", [
    ("better", 0.1, 2, "held"), ("better", 0, 2, "undecided"), ("better", -2, -0.1, "not held"),
    ("not worse", -0.4, 0.1, "held"), ("not worse", -0.6, 0.1, "undecided"), ("not worse", -2, -0.6, "not held"),
    ("better", math.nan, math.nan, "undecided"),
])  # fmt: skip
def test_verdict(kind, low, high, expected):
    assert claims.verdict(kind, low, high) == expected


def test_lower_drop_is_a_lead(tmp_path):
    two_runs(tmp_path, [0.3] * 30, [0.4] * 30)
    row = checked(tmp_path).loc["Drop%", "Grad-CAM"]
    assert row["published difference"] == pytest.approx(38.40 - 49.47) and row["published agrees"]
    assert row["difference"] == row["low"] == row["high"] == pytest.approx(-10)
    assert (row["images"], row["pairs"], row["verdict"]) == (30, 30, "held")


def test_a_claim_that_the_records_contradict_or_leave_open(tmp_path):
    two_runs(tmp_path / "a", [0.5] * 30, [0.4] * 30)
    assert checked(tmp_path / "a").loc["Drop%", "Grad-CAM"]["verdict"] == "not held"
    two_runs(tmp_path / "b", [0.3, 0.5] * 15, [0.4] * 30)
    assert checked(tmp_path / "b").loc["Drop%", "Grad-CAM"]["verdict"] == "undecided"
    assert checked(tmp_path / "b").loc["Drop%", "RISE"]["verdict"] == "not run"


def test_stand_ins_and_parts_decide_nothing(tmp_path):
    two_runs(tmp_path / "a", [0.3] * 30, [0.4] * 30, weights_official=False)
    assert checked(tmp_path / "a").loc["Drop%", "Grad-CAM"]["verdict"] == "stand-in"
    two_runs(tmp_path / "b", [0.3] * 30, [0.4] * 30, dataset="shapes")
    row = checked(tmp_path / "b", "shapes").loc["Drop%", "Grad-CAM"]
    assert (row["dataset"], row["verdict"]) == ("shapes", "stand-in")
    two_runs(tmp_path / "c", [0.3] * 30, [0.4] * 30, complete_dataset=False)
    assert checked(tmp_path / "c").loc["Drop%", "Grad-CAM"]["verdict"] == "partial"


def test_files_beside_the_table(tmp_path):
    two_runs(tmp_path / "o", [0.3] * 30, [0.4] * 30)
    writer = claims.writer(claims.read(FILE), read_published(PUBLISHED))
    tabulate(DEFINITIONS, outputs=tmp_path / "o", results=tmp_path / "r", published=PUBLISHED, table="sise_table1",
             writers=[writer], say=lambda text: None)  # fmt: skip
    text = (tmp_path / "r/sise_table1_claims.md").read_text()
    assert "| VGG16 | Drop% | SISE better than Grad-CAM | -11.07 | -10.00 [-10.00, -10.00] | 30 | held |" in text
    assert "The published numbers agree in 28 of 28 rows." in text
    assert (tmp_path / "r/sise_table1_claims.csv").exists()


def test_places_in_the_batch_are_told(tmp_path):
    two_runs(tmp_path, [0.3] * 3, [0.4] * 3)
    published = read_published(PUBLISHED)

    def foot():
        table = build(DEFINITIONS["sise_table1"], "voc2007", find_runs(tmp_path), published)
        return " ".join(note.text for note in table.notes)

    with RunFolder(tmp_path / "voc2007/vgg16/sise/paper", find_runs(tmp_path)[1].identity) as folder:
        folder.add_environment({"time": "1", "place_error": None})
        assert "place in its batch" not in foot()
        folder.add_environment({"time": "2", "place_error": 2e-6})
    assert "place in its batch by up to 2e-06 of the largest" in foot()


def slow_interval(differences, resamples):
    """The mean of lists of differences, one per image, and the 95 % interval of images drawn with replacement."""
    generator, means = np.random.default_rng(0), []
    for _ in range(resamples):
        drawn = [value for i in generator.integers(len(differences), size=len(differences)) for value in differences[i]]
        means.append(sum(drawn) / len(drawn))
    every = [value for image in differences for value in image]
    return (sum(every) / len(every), *np.percentile(means, [2.5, 97.5]))


def test_all_claims_are_resampled_at_once_and_each_as_if_alone(tmp_path, monkeypatch):
    rng, calls = np.random.default_rng(3), []
    values = {name: rng.uniform(0, 1, (40, 2)) for name in ("sise", "grad_cam", "rise")}
    values["rise"] = values["rise"][:30]  # lacks some, so that claims differ in their images
    for name, measured in values.items():
        make_run(tmp_path, name, measured.tolist(), metric="Drop%", expected_pairs=80)
    resampled = statistics._resampled_means
    monkeypatch.setattr(statistics, "_resampled_means", lambda *given: calls.append(given) or resampled(*given))
    monkeypatch.setattr(statistics, "paired_bootstrap", partial(statistics.paired_bootstrap, resamples=300))
    found = checked(tmp_path)
    assert len(calls) == 2  # once for each number of images
    for rival, name in (("Grad-CAM", "grad_cam"), ("RISE", "rise")):
        count = len(values[name])
        apart = (100 * (values["sise"][:count] - values[name])).tolist()
        assert tuple(found.loc["Drop%", rival][["difference", "low", "high"]]) == pytest.approx(
            slow_interval(apart, 300), rel=1e-12
        )

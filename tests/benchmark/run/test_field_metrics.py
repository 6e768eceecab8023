"""The field's metrics in the harness: composed, recorded, in tables with their direction and unit."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from hydra.utils import instantiate
from known_networks import Shown, probe_of
from omegaconf import OmegaConf
from toy_runs import records, run

from sise.benchmark.metric_facts import COSTS, Fact, facts, lower_said, scale, to_markdown
from sise.benchmark.run import runner
from sise.benchmark.tables import words as tables_words
from sise.metrics.faithfulness import average_gain, drop, kept_by
from sise.metrics.localization import ebpg
from sise.types import by_definition

KINDS = ("localization", "faithfulness", "on_image", "truth", "again")
OTHERS = ("confidence", "consistency", "field", "pointing", "watermark", "two_objects", "cell", "hans", "grid_pointing")
"""Which metrics=field does not gather, and itself."""
UNPLANNED = ("road",)
GROUP = ROOT / "configs/metrics"


def names_of(file: Path) -> set[str]:
    group = OmegaConf.load(file)
    return {name for kind in KINDS for name in group.get(kind, {})}


def test_every_metric_has_its_facts_and_every_fact_a_metric():
    shipped = set().union(*(names_of(file) for file in GROUP.glob("*.yaml")))
    assert shipped | set(COSTS) == set(facts())
    assert all(fact.measures and fact.weakness for fact in facts().values())
    for name, fact in facts().items():
        assert name in COSTS or (fact.source and name in names_of(GROUP / f"{fact.group}.yaml")), name
    assert {"Drop%", *COSTS, "Deletion"} <= set(tables_words.LOWER_IS_BETTER)
    assert not {"EBPG", "Insertion", "of nobody"} & set(tables_words.LOWER_IS_BETTER)


def test_field_has_every_metric_of_the_group(config):
    cfg = config("metrics=field")
    single = set().union(*(names_of(file) for file in GROUP.glob("*.yaml") if file.stem not in OTHERS))
    assert {*cfg.metrics.localization, *cfg.metrics.faithfulness} == single


def test_the_page_of_metrics_says_what_the_facts_say():
    page = (GROUP.parents[1] / "docs/metrics.md").read_text(encoding="utf-8")
    assert to_markdown() in page


def test_units():
    assert scale("EBPG") == 100 and scale("Density+") == 1 and scale("of nobody") == 100
    assert (facts()["EBPG"].better, facts()["EBPG"].unit) == (Fact().better, Fact().unit) == ("higher", "percent")
    assert tables_words.number(1.23456, "Density+") == "1.235" and tables_words.number(1.23456, "Deletion") == "1.23"
    assert lower_said(["EBPG", "Drop%", "Deletion", "seconds"]) == "Lower is better for Drop% and Deletion."
    assert lower_said(["EBPG", "Drop%", "Deletion"], "costs") == "Lower is better for Drop%, Deletion and costs."
    assert lower_said(["EBPG"]) == "Higher is better."


def test_every_metric_is_recorded_and_asks_for_nothing_but_its_plan(config, monkeypatch):
    """All masked images of all cells run in one stream before the first record is made."""
    passed = []
    make_record = runner.make_record

    def counting(cell, pairs, *arguments):
        before = pairs.probe.forward_passes
        record = make_record(cell, pairs, *arguments)
        passed.append(pairs.probe.forward_passes - before)
        return record

    monkeypatch.setattr(runner, "make_record", counting)
    planned = sorted(file.stem for file in GROUP.glob("*.yaml") if file.stem not in (*OTHERS, *UNPLANNED))
    words = (f"metrics=[{','.join(planned)}]", "metrics.blur_size=5", "metrics.curve_rows=4")
    failed, cells = run(config("explainer=grad_cam", *words), config("explainer=centre", *words), limit=3)
    assert failed == 0 and passed and not any(passed)
    localization, faithfulness = cells[0].metrics
    for record in records(cells[0]).values():
        assert {*localization, *faithfulness} <= set(record)
        assert 0 < record["kept_fraction"] <= 0.15 and 0 <= record["Deletion"] <= 1


def test_the_stream_changes_no_value(config, monkeypatch, tmp_path):
    words = ("explainer=grad_cam", "metrics=field", "metrics.blur_size=5", "engine.cache=false")
    _, (together,) = run(config(*words), limit=2)
    monkeypatch.setattr(runner, "remember_faithfulness_passes", lambda *_: None)
    _, (apart,) = run(config(*words, f"outputs={tmp_path}/apart"), limit=2)
    for pair, record in records(together).items():
        for name in (*apart.metrics[0], *apart.metrics[1]):
            assert record[name] == pytest.approx(records(apart)[pair][name], rel=1e-5, abs=1e-7), name


def test_metrics_alone_need_none_of_the_papers(config):
    _, (cell,) = run(config("explainer=grad_cam", "metrics=[density,regions]"), limit=1)
    for record in records(cell).values():
        assert {"Density+", "Outside/inside"} <= set(record) and not {"EBPG", "kept_fraction"} & set(record)


def test_consistency_is_recorded(config):
    words = "metrics=[default,consistency]"
    failed, (moving, still) = run(config("explainer=grad_cam", words), config("explainer=centre", words), limit=2)
    assert failed == 0
    for record in records(moving).values():
        assert record["Max-sensitivity"] > 0 and 0 < record["Coherency"] < 1 and 0 <= record["ADCC"] <= 1
    for record in records(still).values():  # blind to the image
        assert record["Max-sensitivity"] == 0 and record["Coherency"] == pytest.approx(1)


def test_a_random_explainer_draws_the_same_numbers_again(config):
    _, (cell,) = run(config("explainer=random", "metrics=[default,consistency]"), limit=1)
    assert all(record["Max-sensitivity"] == 0 for record in records(cell).values())


# ---------------------------------------------------------------- average gain


class Rest(torch.nn.Module):
    """P(first class) = 1 − the mean pixel: hiding pixels makes it surer."""

    def forward(self, x):
        mean = x.mean(dim=(1, 2, 3)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([-mean.logit(), torch.zeros_like(mean)], dim=1)


def test_average_gain_by_hand():
    """Y = 1 − 1 · 0.75 = 0.25; a fifth of the pixels stay: O = 1 − 0.2 · 0.75 = 0.85; 0.60 of 0.75 gained."""
    image, saliency = torch.full((1, 1, 4, 5), 0.75), torch.rand(4, 5)
    assert average_gain(probe_of(Rest(), image), 0, saliency, fraction=0.2) == pytest.approx(0.8, abs=1e-5)
    assert average_gain(probe_of(Shown(), image), 0, saliency, fraction=0.2) == 0  # it lost
    assert drop(probe_of(Rest(), image), 0, saliency, fraction=0.2) == 0


class Sure(torch.nn.Module):
    def forward(self, x):
        one = x.new_full((len(x),), 100.0)
        return torch.stack([one, -one], dim=1)


def test_a_sure_network_has_nothing_to_gain():
    probe = probe_of(Sure())
    assert average_gain(probe, 0, torch.rand(4, 5)) == 0
    assert by_definition(average_gain(probe, 0, torch.rand(4, 5))) == "full confidence"


def test_only_the_papers_metrics_keep_pixels():
    saliency = torch.arange(20.0).reshape(4, 5)
    for metric in (drop, functools.partial(average_gain, fraction=0.3, rule="exact")):
        kept = kept_by(metric, saliency)
        assert kept is not None and int(kept.sum()) == (3 if metric is drop else 6)
    assert kept_by(ebpg, saliency) is None
    assert kept_by(instantiate({"_target_": "sise.metrics.curves.deletion", "_partial_": True}), saliency) is None

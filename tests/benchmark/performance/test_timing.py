"""Ratios of given samples, exact pass counts, tables on disk. No test looks at how long anything took."""

from __future__ import annotations

import dataclasses
import functools
import json
import time

import pandas as pd
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from toy import ToyNetwork, toy_model

from sise.baselines.grad_cam import grad_cam
from sise.baselines.score_cam import score_cam
from sise.benchmark.models.no_network import NoScores
from sise.benchmark.performance import (
    clock,
    engine,
    engine_actions,
    parts,
    peers,
    phases,
    precision,
    run_times,
    sharing,
    subject,
)
from sise.benchmark.performance import worker as performance_worker
from sise.benchmark.performance.clock import Measurement
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import Subject
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import counting_scorer, estimate, runner
from sise.benchmark.run.shards import Shard
from sise.errors import SuiteError
from sise.method import live, select, sise
from sise.otsu import adaptive_threshold
from sise.probe.probe import Probe
from sise.scoring import Scorer, Segment

LAYERS = ("stage1", "stage2", "stage3")


@pytest.fixture
def probe():
    """Gives fresh probes of one image."""
    torch.manual_seed(0)
    network, image = toy_model().network, torch.randn(1, 3, 24, 32)
    return lambda scorer=None: Probe(network, image, layers=LAYERS, scorer=scorer)


@pytest.fixture
def cells(tmp_path):
    """Cells of the toy dataset and network."""

    def make(*explainers: str):
        configs = []
        for name in explainers:
            with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
                cfg = compose("evaluate", [f"outputs={tmp_path}", "budget=embedded", f"explainer={name}", "device=cpu"])
            cfg.dataset.loader = {"_target_": "toy.ToyDataset", "broken": None}
            cfg.model.loader = {"_target_": "toy.toy_model"}
            cfg.model.name = "toynet"
            configs.append(cfg)
        return run_cells.make_cells(configs)

    return make


def measurements(*seconds):
    return [Measurement(s) for s in seconds]


def used(probe, target, threshold=0.0):
    """How many masks SISE forwards, from the definitions."""
    found = {}
    for layer in LAYERS:
        alpha = probe.gradient_scores(layer, target)
        found[layer] = select(alpha, lambda scores: threshold) & live(probe, layer)
    return found


# ---------------------------------------------------------------------- turns, ratios, reports


def test_every_action_runs_once_per_round_and_another_one_starts():
    calls = []
    actions = {n: lambda n=n: calls.append(n) or Measurement(float(len(calls))) for n in "abc"}
    found = clock.interleaved(actions, 4)
    assert calls == list("abcbcacababc")
    assert [m.seconds for m in found["a"]] == [1, 6, 8, 10]


def test_ratios_are_taken_within_a_round():
    slow, fast = measurements(2, 40, 3), measurements(4, 100, 3)
    assert clock.ratios(slow, fast) == [0.5, 0.4, 1.0]
    assert clock.quartiles([0.5, 0.4, 1.0]) == pytest.approx((0.5, 0.45, 0.75))
    with pytest.raises(ValueError):
        clock.ratios(slow, fast[:2])


def test_an_action_may_time_itself():
    device = torch.device("cpu")
    assert clock.timed(lambda: {"seconds": 7.5}, device).seconds == 7.5
    assert 0 <= clock.timed(lambda: "else", device).seconds < 60


def test_processor_time_does_not_count_waiting(monkeypatch):
    device = torch.device("cpu")
    assert clock.timed(lambda: time.sleep(0.2), device).seconds >= 0.2
    monkeypatch.setattr(clock, "CLOCK", "wall")  # put back afterwards
    clock.use_clock("processor")
    assert clock.timed(lambda: time.sleep(0.2), device).seconds < 0.15
    with pytest.raises(SuiteError, match="one thread"):
        parts.run(settings(clock="processor", device="cpu"))


LOSSLESS, BF16 = engine_actions.Runner("lossless", True), engine_actions.Runner("lossless", True, "bf16")


def test_engine_rows_compare_with_the_plain_passes_of_the_same_round_and_the_default_allocator():
    measured = {
        ("default", engine_actions.PLAIN): measurements(1.0, 2.0, 4.0),
        ("default", LOSSLESS): measurements(0.6, 1.2, 2.0),
        ("kept", engine_actions.PLAIN): measurements(0.5, 1.5, 3.0),
        ("kept", LOSSLESS): measurements(0.4, 0.8, 2.0),
        ("kept", BF16): measurements(0.3, 0.6, 1.2),
    }
    reference, other = [torch.tensor([[0.0, 2.0]]).numpy()], [torch.tensor([[0.5, 2.0]]).numpy()]
    maps = {engine_actions.PLAIN: reference, LOSSLESS: reference, BF16: other}
    rows = engine.pass_rows("resnet50", measured, maps, 100, torch.device("cpu"), settings().goals)
    table = pd.DataFrame(rows).set_index(["allocator", "runner"])
    assert table.loc[("kept", "lossless"), "time / plain eager"] == pytest.approx(0.4)
    assert table.loc[("default", "lossless"), "time / plain eager"] == pytest.approx(0.6)
    assert table.loc[("kept", "plain eager"), "time / plain eager"] == pytest.approx(0.75)
    assert table.loc[("kept", "lossless"), "ms per mask"] == pytest.approx(8.0)
    assert table.loc[("kept", "lossless"), "met"] and table.loc[("kept", "lossless"), "goal"] == "<= 0.45"
    assert not table.loc[("kept", "lossless bf16"), "met"] and table.loc[("default", "lossless"), "goal"] == ""
    assert table.loc[("kept", "lossless bf16"), "layer map error / peak"] == 0.25


def test_runners_that_fail_are_left_out_and_named():
    class FakeWorker:
        runners = engine_actions.PLAIN, LOSSLESS, dataclasses.replace(LOSSLESS, compile=True)
        others = engine_actions.Action("maps", LOSSLESS), engine_actions.Action("sise")
        names = (*(engine_actions.Action("passes", runner) for runner in runners), *others)

        def __call__(self, action):
            if action.runner.compile:
                raise SuiteError("no compiler")
            return Measurement(1.0)

    measured, notes = engine.measure_runners({"default": FakeWorker()}, 2, torch.device("cpu"), "")
    assert set(measured) == {("default", engine_actions.PLAIN), ("default", LOSSLESS)}
    assert notes == ["lossless, compiled was left out: no compiler"]


def test_a_report_is_written_with_its_machine_and_its_samples(tmp_path):
    table = pd.DataFrame([{"what": "a | b", "ratio": 0.123456, "met": True}, {"what": "c", "ratio": None, "met": None}])
    report = Report("thing", "A thing", table, ["a note"], {"a": [1.0, 2.0]})
    file, kept = report.write(tmp_path / "results", tmp_path / "outputs", torch.device("cpu"))
    assert not kept
    text = file.read_text()
    assert file.name == "performance_thing_cpu.md"
    assert "| a \\| b | 0.123 | yes |" in text and "| c |  |  |" in text and "- a note" in text
    version = torch.__version__.partition("+")[0]
    assert f"torch {version}" in text and "CPU thread" in text and str(tmp_path) not in text
    assert pd.read_csv(file.with_suffix(".csv"))["ratio"][0] == 0.123456
    (raw,) = (tmp_path / "outputs" / "benchmark").glob("thing_cpu_*.json")
    assert json.loads(raw.read_text())["samples"] == {"a": [1.0, 2.0]}


def test_a_table_of_more_networks_stays(tmp_path):
    def write(networks, **options):
        table = pd.DataFrame({"network": networks, "seconds": 1.0})
        return Report("thing", "A thing", table).write(tmp_path, tmp_path / "o", torch.device("cpu"), **options)

    file, kept = write(["resnet50", "vgg16"])
    assert not kept
    (said,) = write(["resnet50"])[1]
    assert "NOT written: performance_thing_cpu.md" in said and "vgg16: 1 there, 0 now): overwrite=true" in said
    assert "vgg16" in file.read_text()
    assert not write(["resnet50"], overwrite=True)[1] and "vgg16" not in file.read_text()


def test_the_processors_time_that_others_take_is_seen(monkeypatch):
    moments = iter([(0.0, 100.0, 10.0), (10.0, 112.0, 16.0)])  # 12 busy seconds, 6 of them ours
    monkeypatch.setattr(clock, "processor_times", lambda: next(moments))
    monkeypatch.setattr(clock.os, "cpu_count", lambda: 2)
    assert clock.Meanwhile().others() == pytest.approx(0.3)
    monkeypatch.setattr(clock, "processor_times", lambda: None)
    assert clock.Meanwhile().notes() == []
    monkeypatch.undo()
    (note,) = clock.Meanwhile().notes()
    assert "% of the processors' time" in note


def worker_actions(base):
    """Built in a worker's own process."""

    def fail():
        raise KeyError("gone")

    return {"add": lambda: base + 1, "fail": fail, "threads": torch.get_num_threads}


def test_a_worker_runs_actions_in_a_process_of_its_own_and_survives_their_errors():
    with performance_worker.Worker(worker_actions, {"base": 41}, torch.device("cpu"), malloc=True, threads=1) as worker:
        assert worker.names == ("add", "fail", "threads")
        assert worker("add").result == 42
        with pytest.raises(SuiteError, match="gone"):
            worker("fail")
        assert worker("threads").result == 1


# ---------------------------------------------------------------------- what is measured is what runs


def test_phases_are_those_of_sise(probe):
    for gate in ("otsu_hard", "otsu_soft"):
        one, other = probe(), probe()
        saliency, seconds = phases.phases(one, [0, 2], gate=gate)
        assert torch.equal(saliency, sise(other, [0, 2], gate=gate))
        assert one.forward_passes == other.forward_passes and one.backward_passes == other.backward_passes == 2
        assert list(seconds) == ["extraction", "selection", "scoring", "combination", "fusion"]
    ada = probe()
    phases.phases(ada, [1], lambda scores: adaptive_threshold(scores, "otsu_positive"))
    assert ada.forward_passes < 1 + sum(int(u.sum()) for u in used(probe(), 1).values())


def test_some_masks_are_drawn_from_every_layer_in_proportion(probe):
    p = probe()
    all_of_them = {layer: set(u.nonzero()[:, 0].tolist()) for layer, u in used(p, 0).items()}
    chosen = engine_actions.some_masks(p, 0, 8)
    assert sum(len(c) for c in chosen.values()) == 8
    for layer, channels in chosen.items():
        assert set(channels.tolist()) <= all_of_them[layer] and len(set(channels.tolist())) == len(channels)
    everything = engine_actions.some_masks(p, 0, 10_000)
    assert {layer: set(c.tolist()) for layer, c in everything.items()} == {n: s for n, s in all_of_them.items() if s}


def test_layer_maps_of_two_engines_agree(probe):
    p = probe()
    of = Subject(p.network, p.image, LAYERS, "stage3")
    chosen = engine_actions.some_masks(p, 0, 12)
    plain = engine_actions.layer_maps(of, Scorer(p.network, lossless=False), 0, chosen)
    assert engine.layer_map_error(engine_actions.layer_maps(of, Scorer(p.network), 0, chosen), plain) < 1e-5
    # with an engine that scores something else, they do not
    assert engine.layer_map_error(engine_actions.layer_maps(of, Scorer(ToyNetwork().eval()), 0, chosen), plain) > 1e-4


def test_whole_sise_counts_its_masks_and_none_after(probe):
    p = probe()
    of = Subject(p.network, p.image, LAYERS, "stage3")
    result = engine_actions.whole_sise(of, Scorer(p.network, batch_size=4), 1)
    assert result["masks"] == sum(int(u.sum()) for u in used(p, 1).values())
    assert result["further passes"] == 0 and 0 < result["passes"] < result["seconds"]
    assert engine_actions.bare_passes(of, Scorer(p.network, batch_size=4), 1)["masks"] == result["masks"]
    rows, after = engine.whole_rows("vgg16", {"sise": [Measurement(result["seconds"], 0, result)]}, settings().goals)
    assert rows[0]["value"] == pytest.approx(result["seconds"] / result["passes"])
    assert after[-1]["share of SISE's time (%)"] == pytest.approx(
        100 * sum(result["after"].values()) / result["seconds"]
    )


def test_what_the_masks_cost_is_not_measured_image_by_image(caplog):
    actions = engine_actions.engine_actions(
        network="vgg16", masks=4, device="cpu", batch=8, compile=False, width=1 / 32
    )
    assert actions[engine_actions.Action("null", threads=1)]()["masks"] > 0
    assert "scored by itself" not in caplog.text


def test_differences_by_hand():
    ramp = torch.linspace(0, 1, 100).view(1, 10, 10)
    reference = {"scores": torch.tensor([[1.0], [-3.0]]), "maps": ramp.clone() * 4, "saliency": ramp}
    state = {"scores": torch.tensor([[1.5], [-3.0]]), "maps": reference["maps"].clone(), "saliency": ramp.clone()}
    state["maps"][0, 5, 5] += 0.2
    state["saliency"][0, 0, 0] = 2.0  # the least salient pixel becomes the most: one enters, one leaves
    assert precision.compare(state, reference) == pytest.approx(
        {"score": 0.25 / 2, "map mean": 0.05, "map worst": 0.05, "top": 0.02, "fused": 0.01}
    )
    assert not any(precision.compare(reference, reference).values())


def test_precision_is_compared_on_the_real_pipeline(cells):
    (cell,) = cells("sise")
    sample = cell.dataset["01"]
    state, metrics, _ = precision.explain_in(
        cell, sample, Scorer(cell.model.network, lossless=False), torch.device("cpu")
    )
    again, same, _ = precision.explain_in(cell, sample, Scorer(cell.model.network), torch.device("cpu"))
    low, _, _ = precision.explain_in(cell, sample, Scorer(cell.model.network, precision="bf16"), torch.device("cpu"))
    assert set(metrics[0]) == {"EBPG", "mIoU", "Bbox", "Drop%", "Increase%"} and len(metrics) == len(same)
    assert precision.compare(again, state)["score"] < 1e-5 < precision.compare(low, state)["score"] < 0.1


# ---------------------------------------------------------------------- sharing


def test_shared_passes_are_counted_exactly(probe):
    found = sharing.share_passes(probe, [0, 1, 2])
    p = probe()
    sets = [used(p, t) for t in (0, 1, 2)]
    union = sum(int((sets[0][n] | sets[1][n] | sets[2][n]).sum()) for n in LAYERS)
    assert found["passes"] == found["expected"] == 1 + union
    assert found["alone"] == sum(1 + sum(int(s[n].sum()) for n in LAYERS) for s in sets)
    assert found["after"] == 0 and found["difference"] < 1e-6
    last = sets[0]["stage3"] | sets[1]["stage3"] | sets[2]["stage3"]
    assert found["score_cam"] == found["score_cam expected"] == int((live(p, "stage3") & ~last).sum())
    assert found["score_cam alone"] == 1 + int(live(p, "stage3").sum()) and found["score_cam difference"] < 1e-6
    row = sharing.sharing_rows("Toy", 3, [found, found], 0.70)[0]
    assert row["passes"] == 2 * found["passes"] and row["ratio"] == pytest.approx(found["passes"] / found["alone"])
    assert row["met"] == (row["ratio"] <= 0.70)


def test_a_pass_too_many_is_noticed(probe):
    found = sharing.share_passes(probe, [0, 1])
    assert sharing.sharing_rows("Toy", 2, [found], 0.70)[0]["met"]
    assert not sharing.sharing_rows("Toy", 2, [found | {"passes": found["passes"] + 1}], 0.70)[0]["met"]
    assert not sharing.sharing_rows("Toy", 2, [found | {"after": 1}], 0.70)[1]["met"]


def test_a_whole_table_costs_each_way_what_its_explainers_cost(cells, probe):
    found = sharing.share_table(cells("grad_cam", "score_cam", "sise"), probe, [0, 1])
    alone = together = 0
    for explain in (grad_cam, score_cam, sise):
        p = probe()
        explain(p, [0, 1])
        together += p.forward_passes
        for target in (0, 1):
            p = probe()
            explain(p, [target])
            alone += p.forward_passes
    shared = probe()
    for explain in (grad_cam, score_cam, sise):
        explain(shared, [0, 1])
    ways = [found[way]["forward"] for way in found]
    assert ways == [alone, together, shared.forward_passes] and ways[0] > ways[1] > ways[2]
    rows = sharing.table_rows("Toy", 3, [found], 0.50)
    assert rows[0]["passes / first row"] == 1 and rows[2]["met"] in (True, False)
    assert rows[2]["forward passes"] == shared.forward_passes


@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
def test_a_peeked_network_scores_the_same_and_shows_fewer_channels(name):
    of = subject.subject(name, torch.device("cpu"), width=1 / 16)
    net = peers.peeked(of.network, 5)
    with torch.no_grad():
        assert torch.allclose(net(of.image), of.network(of.image), atol=1e-5)
    maps = Probe(net, of.image, cam_layer="peek").feature_maps("peek")
    assert torch.equal(maps, Probe(of.network, of.image).feature_maps(of.cam_layer)[:5])
    assert set(of.layers) <= {n for n, _ in of.network.named_modules()} and of.cam_layer == of.layers[-1]


def test_random_networks_answer_to_their_input():
    of = subject.subject("resnet50", torch.device("cpu"), width=1 / 16)
    again = subject.subject("resnet50", torch.device("cpu"), width=1 / 16)
    with torch.no_grad():
        scores = of.network(torch.cat([subject.scene(i) for i in range(4)]))
        assert scores.std() == pytest.approx(2.0, rel=1e-3) and not of.network.training
        assert torch.equal(again.network(of.image), of.network(of.image))


def test_peers_are_compared_under_the_same_allocator():
    ours, theirs = torch.tensor([1.0, 2.0]).numpy(), torch.tensor([1.0, 2.5]).numpy()
    measured = {
        ("default", peers.Peer("RISE", peers.OURS)): [Measurement(2.0, 0, ours)],
        ("default", peers.Peer("RISE", "torchray")): [Measurement(3.0, 0, theirs)],
        ("kept", peers.Peer("RISE", peers.OURS)): [Measurement(1.0, 0, ours)],
        ("kept", peers.Peer("RISE", "torchray")): [Measurement(2.5, 0, ours)],
        ("kept", peers.Peer("passes", "plain eager")): [Measurement(1.0)],
    }
    table = pd.DataFrame(peers.peer_rows("Toy", measured)).set_index(["allocator", "implementation"])
    assert table.loc[("default", "torchray"), "time / this suite"] == 1.5
    assert table.loc[("kept", "torchray"), "time / this suite"] == 2.5
    assert table.loc[("default", "torchray"), "map difference / peak"] == 0.25
    assert table.loc[("kept", "torchray"), "map difference / peak"] == 0.0
    assert pd.isna(table.loc[("kept", "plain eager"), "time / this suite"])


# ---------------------------------------------------------------------- run-time tables


def settings(**changes):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("performance")
    return OmegaConf.merge(cfg, {"published": str(ROOT / cfg.published), **changes})


def test_every_part_of_the_config_exists_and_others_are_refused():
    cfg = settings()
    assert set(cfg.parts) <= set(parts.PARTS)
    with pytest.raises(SuiteError, match=r"engin.*did you mean|expected one of"):
        parts.run(settings(parts=["engin"]))
    with pytest.raises(SuiteError, match="nothing to measure"):
        parts.run(settings(parts=[]))


def test_a_run_time_table_puts_measured_and_published_side_by_side():
    cfg = settings(parts=["ada_sise_table1"], networks=["resnet50"])
    samples = {
        ("resnet50", "extremal_perturbation"): [{"seconds": 2.0, "forward": 10, "backward": 10}] * 3,
        ("resnet50", "sise"): [{"seconds": s, "forward": 900, "backward": 1} for s in (30.0, 40.0, 20.0)],
        ("resnet50", "ada_sise"): [{"seconds": 15.0, "forward": 600, "backward": 1}],
        ("resnet50", "ada_sise_table"): [{"seconds": 20.0, "forward": 700, "backward": 1}],
    }
    ready = {key: run_times.Subjected(sise) for _, key in samples}
    ready["extremal_perturbation"] = run_times.Subjected(sise, 11 / 800, "11 of 800 iterations")
    published = pd.read_csv(cfg.published)
    report = run_times.table_report("ada_sise_table1", samples, ready, published, cfg, ["resnet50"])
    table = report.table.set_index("method")
    assert list(table["published (T4) s"]) == [78.37, 9.21, 6.29, 6.29]
    assert table.loc["Ada-SISE (text)", "/ SISE"] == "0.5" and table.loc["SISE", "seconds measured"] == 30.0
    assert table.loc["Ada-SISE (text)", "published / SISE"] == pytest.approx(6.29 / 9.21)
    assert table.loc["Extremal Perturbation", "seconds measured"] == 2.0
    assert table.loc["Extremal Perturbation", "seconds at the paper's budget"] == f"≈ {2 * 800 / 11:.3g}"
    assert table.loc["Extremal Perturbation", "budget measured"] == "11 of 800 iterations"
    assert table.loc["Extremal Perturbation", "/ SISE"].startswith("≈")
    assert table.loc["SISE", "forward passes"] == 900 and any("≈" in note for note in report.notes)


def test_published_run_times_are_found_for_every_row():
    published = pd.read_csv(ROOT / "results/published/published_results.csv")
    for table in run_times.tables_of(settings()).values():
        for network in table.networks:
            for row in table.rows:
                assert run_times.published_seconds(published, table.source, network, row.method) > 0
    assert run_times.published_seconds(published, "SISE Table 7", "resnet50", "SISE") == 9.21
    assert run_times.published_seconds(published, "SISE Table 7", "resnet50", "LIME") is None


def test_budgets_are_the_papers_and_cut_only_on_a_cpu():
    cfg = settings()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        tables = run_times.tables_of(cfg)
        rows = {row.explainer: row for row in tables["table7"].rows}
        cut = run_times.prepare(rows["rise"], cfg, torch.device("cpu"))
        full = run_times.prepare(rows["rise"], cfg, torch.device("cuda"))
        mu = run_times.prepare(tables["table6"].rows[2], cfg, torch.device("cpu"))
    assert full.explainer.keywords["n_masks"] == 4000 and full.share == 1 and full.budget == ""
    assert cut.explainer.keywords["n_masks"] == 256 and cut.share == 256 / 4000 and "256 of 4000" in cut.budget
    assert mu.explainer.keywords["mu"] == 0.5


def test_each_explainer_is_timed_alone_until_its_time_is_used_up(probe):
    p = probe()
    of = Subject(p.network, p.image, LAYERS, "stage3")
    ready = {"sise": run_times.Subjected(sise), "grad_cam": run_times.Subjected(grad_cam)}
    limits = OmegaConf.create({"images": 4, "seconds": 1e9, "minimum": 1, "warm_up": 1e9})
    found = run_times.measure_alone(of, ready, limits, "")
    assert {key: len(samples) for key, samples in found.items()} == {"sise": 4, "grad_cam": 4}
    # a probe of its own: the pass for the feature maps is in every sample, and nothing comes free after SISE
    assert all(s["forward"] == 1 and s["backward"] == 1 for s in found["grad_cam"])
    assert all(s["forward"] > 1 for s in found["sise"])
    limits.seconds, limits.minimum = 0, 2
    found = run_times.measure_alone(of, ready, limits, "")
    assert {key: len(samples) for key, samples in found.items()} == {"sise": 2, "grad_cam": 2}


# ---------------------------------------------------------------------- estimates


def test_passes_that_are_only_counted_are_counted_like_real_ones(probe):
    p = probe()
    counting = counting_scorer.CountingScorer(p.network, batch_size=2)
    counting.limit = 0.0
    real, counted = probe(), probe(counting)
    sise(real, [0, 1])
    sise(counted, [0, 1])
    assert counted.forward_passes == real.forward_passes
    assert counting.measured + counting.skipped == real.forward_passes - 1 and counting.skipped > 0
    made = counting.passes
    score_cam(counted, [0])
    assert counting.passes == made and counting.seconds_per_pass > 0
    scores = counting.score([Segment(p.image, torch.rand(7, 3, 4)), Segment(p.image, torch.rand(5, 24, 32))])
    assert scores.shape == (12, 4)


def test_an_estimate_covers_what_is_missing_and_writes_nothing(cells, tmp_path):
    some = cells("grad_cam", "sise", "extremal_perturbation")
    runner.run(cells("grad_cam"), limit=2)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    frame = estimate.estimate(some, seconds=1.0)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    table = frame.set_index("explainer")
    assert table.loc["sise", "missing"] == 6 and table.loc["grad_cam", "missing"] == 4
    assert (frame["images"].dropna() >= 1).all()
    each = table.drop(index="all")
    assert (each["shared"] > 0).all() and (each["alone"] >= each["shared"] - 1e-12).all()
    assert each.loc["sise", "hours alone"] == pytest.approx(each.loc["sise", "alone"] * 6 / 3600)
    assert table.loc["all", "hours shared"] == pytest.approx(each["hours shared"].sum())
    text = estimate.report(frame)
    assert "extremal_perturbation" in text and "(metrics)" in text and "nan" not in text.lower()


def test_an_estimate_goes_round_an_image_that_cannot_be_read(cells, monkeypatch):
    some = cells("grad_cam")
    monkeypatch.setattr(some[0].dataset, "broken", some[0].dataset.ids[0])
    table = estimate.estimate(some, seconds=1.0).set_index("explainer")
    assert table.loc["grad_cam", "images"] >= 1 and table.loc["grad_cam", "missing"] == 6


def test_an_estimate_of_a_cell_without_a_network_and_of_one_that_refuses(cells, monkeypatch, caplog):
    some = cells("centre", "grad_cam")
    nothing = {"network": NoScores().eval(), "has_network": False, "layers": (), "cam_layer": ""}
    some[0].model = dataclasses.replace(some[0].model, **nothing)
    some[0].metrics = ({}, {})
    some[1].explainer = functools.partial(refusing, "no gradient here")
    table = estimate.estimate(some, seconds=1.0).set_index("explainer")
    assert table.loc["centre", "images"] >= 1 and table.loc["centre", "hours alone"] > 0
    assert table.loc["grad_cam", "images"] == 0 and pd.isna(table.loc["grad_cam", "hours alone"])
    assert caplog.text.count("no gradient here") == 1
    row = next(line for line in estimate.report(table.reset_index()).splitlines() if " grad_cam " in line)
    assert row.split()[-5:] == ["?", "?", "6", "?", "?"]
    with pytest.raises(SuiteError, match=r"nothing can be estimated: toy/toynet/grad_cam/paper: no gradient here"):
        estimate.estimate(some[1:], seconds=1.0)


def refusing(reason, probe, targets):
    raise SuiteError(reason)


def test_an_estimate_of_a_shard_is_of_its_images(cells):
    table = estimate.estimate(cells("grad_cam"), 1.0, shard=Shard(1, 3)).set_index("explainer")
    assert table.loc["grad_cam", "missing"] == 2 and table.loc["(metrics)", "missing"] == 2


def test_long_optimisations_are_shortened_in_proportion(cells):
    long, plain = cells("extremal_perturbation", "sise")
    long.cfg.explainer.call.max_iter = 801
    short, scale = estimate.shortened(long)
    assert short.keywords["max_iter"] == estimate.ITERATIONS and scale == 800 / (estimate.ITERATIONS - 1)
    assert estimate.shortened(plain) == (plain.explainer, 1.0)

"""``engine.fast``, CUDA graphs and what a precision changes, as far as a CPU and a pretended card can tell."""

from __future__ import annotations

import json

import pretend_gpu
import pytest
import torch
from compositions import CONFIGS, composed
from hydra import initialize_config_dir
from toy import toy_model

from sise.benchmark import process
from sise.benchmark.run import cells, composing, runner, settings
from sise.benchmark.tables import foot, runs
from sise.scoring import Scorer, Segment


def engine_of(*words):
    cfg = composed("evaluate", *words).copy()
    settings.check_settings(cfg, "evaluate")
    return cfg.engine


def test_fast_is_one_switch_for_what_the_device_has(monkeypatch):
    slow = engine_of()
    assert (slow.precision, slow.compile, slow.graphs, slow.lossless) == ("fp32", False, False, True)
    for compiler in (True, False):
        monkeypatch.setattr(process, "has_cpp_compiler", lambda compiler=compiler: compiler)
        on_cpu = engine_of("engine.fast=true", "engine.lossless=false", "device=cpu")
        assert (on_cpu.precision, on_cpu.compile, on_cpu.graphs, on_cpu.lossless) == ("bf16", compiler, False, True)
    with pretend_gpu.card():
        for device in ("auto", "cuda"):
            on_card = engine_of("engine.fast=true", f"device={device}")
            assert (on_card.precision, on_card.compile, on_card.graphs, on_card.lossless) == ("fp16", True, True, True)
        assert engine_of("engine.fast=true", "device=cpu").precision == "bf16"
        assert engine_of("engine.fast=true", "engine.precision=bf16").precision == "bf16"


def test_what_fast_changes_is_a_departure_that_tables_name():
    words = ["engine.fast=true", "device=cpu"]
    cfg = composed("evaluate", *words).copy()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        (cell,) = composing.compose_cells(cfg, words)
    assert [(d["key"], d["value"]) for d in cell.departures] == [("engine.precision", "bf16")]


COMPILED = [
    ({"compile": True}, "cpu", {}),
    ({"graphs": True}, "cpu", None),
    ({"compile": True, "graphs": True}, "cpu", {}),
    ({"compile": True}, "cuda", {}),
    ({"graphs": True}, "cuda", {"backend": "cudagraphs"}),
    ({"compile": True, "graphs": True}, "cuda", {"mode": "reduce-overhead"}),
]


@pytest.mark.parametrize(("options", "device", "expected"), COMPILED)
def test_graphs_are_for_cards_and_nothing_elsewhere(options, device, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda network, **how: asked.append(how) or network)
    with pretend_gpu.card():
        image = torch.rand(1, 3, 24, 32).to(device)
        segment = Segment(image, torch.rand(5, 6, 8).to(device))
        scores = Scorer(toy_model().network.to(device), batch_size=4, **options).score([segment])
        # steady: the last batch is filled up too; one of a single mask rounds otherwise on some CPUs
        plain = Scorer(toy_model().network.to(device), batch_size=4, steady=True).score([segment])
    assert asked == ([] if expected is None else [expected])
    assert torch.equal(scores.cpu(), plain.cpu())


def test_scores_of_a_graph_survive_its_next_replay(monkeypatch):
    class Graph(torch.nn.Module):
        """Puts out the same memory each time, as a CUDA graph does."""

        def __init__(self, network):
            super().__init__()
            self.network, self.out = network, {}

        def forward(self, batch):
            result = self.network(batch)
            return self.out.setdefault(len(batch), torch.empty_like(result)).copy_(result)

    monkeypatch.setattr(torch, "compile", lambda network, **how: Graph(network))
    with pretend_gpu.card():
        inputs = torch.rand(12, 3, 24, 32, device="cuda")
        network = toy_model().network.cuda()
        got = Scorer(network, batch_size=4, graphs=True).score_inputs(inputs)
        expected = Scorer(network, batch_size=4).score_inputs(inputs)
        assert torch.equal(got.cpu(), expected.cpu()) and not torch.equal(got[:4].cpu(), got[4:8].cpu())


def test_drift_is_the_largest_change_of_a_masked_score(monkeypatch):
    network, image = toy_model().network, torch.rand(1, 3, 24, 32)
    scorer = Scorer(network, batch_size=8, precision="bf16")
    drift = scorer.drift(image)
    assert 1e-5 < drift < 0.05 and scorer.passes == scorer.exact.passes == 0
    assert Scorer(network, batch_size=8).drift(image) == 0.0
    exact = Scorer(network, batch_size=8).score
    low, high = torch.tensor([[1.0, -4.0]]), torch.tensor([[1.1, -4.0]])
    monkeypatch.setattr(Scorer, "score", lambda self, segments: high if self is scorer else low)
    assert scorer.drift(image) == pytest.approx(0.1 / 4) and exact


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tables_say_how_far_the_precision_moved_scores(precision, tmp_path):
    cfg = composed("evaluate", "explainer=score_cam", f"engine.precision={precision}", "device=cpu").copy()
    cfg.outputs, cfg.dataset.name, cfg.model.name = str(tmp_path), "toy", "toynet"
    cfg.dataset.loader = {"_target_": "toy.ToyDataset", "broken": None}
    cfg.model.loader = {"_target_": "toy.toy_model"}
    (cell,) = cells.make_cells([cfg])
    runner.run([cell], limit=1)
    (session,) = json.loads((cell.path / "environment.json").read_text())
    (run,) = runs.find_runs(tmp_path)
    assert run.drift == session["drift"] and (session["drift"] > 0) == (precision == "bf16")

    class Table:
        models, dataset, metrics, columns = ["toynet"], "toy", ["EBPG"], []

    said = [note.text for note in foot._sources(Table(), {"column": [run]}) if "change scores by up to" in note.text]
    assert len(said) == (precision == "bf16")
    if said:
        assert (
            f"Masked passes in bf16 change scores by up to {session['drift']:.2g} of the largest from fp32's" in said[0]
        )

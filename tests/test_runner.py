"""The loop from configuration to records, end to end on the toy dataset and network of toy.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from sise.benchmark import cli, runner
from sise.types import SuiteError

CONFIGS = str(Path(__file__).parent.parent / "configs")


@pytest.fixture
def config(tmp_path):
    """Composes a cell on the toy dataset and network, writing below tmp_path."""

    def make(*overrides: str, dataset=None, model=None):
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            cfg = compose("evaluate", [f"outputs={tmp_path}", "budget=embedded", *overrides])
        cfg.dataset.loader = {"_target_": "toy.ToyDataset", **(dataset or {})}
        cfg.model.loader = {"_target_": "toy.toy_model", **(model or {})}
        cfg.model.name = "toynet"
        if cfg.explainer.name == "rise":
            cfg.explainer.call.n_masks = 40
        return cfg

    return make


def run(*configs, **options):
    cells = runner.make_cells(configs)
    return runner.run(cells, **options), cells


def records(cell):
    return {(r["image_id"], r["target"]): r for r in cell.folder.read()}


def test_every_pair_gets_a_record_and_failures_are_kept(config):
    failed, (cell,) = run(config("explainer=sise"))
    found = records(cell)
    pairs = {(i, t) for i in cell.dataset.ids for t in cell.dataset.targets_of(i) if t != 4}
    assert set(found) == pairs
    broken = {p for p in pairs if p[0] == "03"}
    assert failed == len(broken)
    for pair, record in found.items():
        if pair in broken:
            assert record["status"] == "failed" and "truncated" in record["reason"]
        else:
            assert record["status"] == "ok" and record["class"] == cell.dataset.classes[pair[1]]
            assert all(0 <= record[m] <= 1 for m in ("EBPG", "mIoU", "Bbox", "Drop%", "Increase%"))
            assert record["mask_fraction"] == pytest.approx(48 / (24 * 32))
            assert 0 < record["confidence"] < 1 and record["forward_passes"] > 1
    assert any("unknown" in note for note in cell.identity()["budget_notes"])


def test_a_second_run_does_only_what_is_missing(config):
    run(config("explainer=sise"), limit=2)
    _, (cell,) = run(config("explainer=sise"), limit=2)
    lines = (cell.folder.path / "records.jsonl").read_text().splitlines()
    assert len(lines) == len({(json.loads(line)["image_id"], json.loads(line)["target"]) for line in lines})
    run(config("explainer=sise"))
    grown = (cell.folder.path / "records.jsonl").read_text().splitlines()
    assert grown[: len(lines)] == lines and len(grown) > len(lines)


def test_failed_pairs_are_tried_again(config):
    run(config("explainer=sise"))
    failed, (cell,) = run(config("explainer=sise", dataset={"broken": None}), overwrite=True)
    assert failed == 0 and not cell.folder.failed()


def test_a_changed_configuration_refuses_to_mix(config):
    _, (cell,) = run(config("explainer=sise"), limit=1)
    before = (cell.folder.path / "records.jsonl").read_bytes()
    with pytest.raises(SuiteError, match=r"(?s)call.mu: 0.0 -> 0.3.*variant="):
        run(config("explainer=sise", "explainer.call.mu=0.3"))
    assert (cell.folder.path / "records.jsonl").read_bytes() == before
    run(config("explainer=sise", "explainer.call.mu=0.3", "variant=mu0.3"), limit=1)
    with pytest.raises(SuiteError, match="weights_hash"):
        run(config("explainer=sise", model={"seed": 1}))


EXPLAINERS = ["sise", "ada_sise", "ada_sise_table", "grad_cam", "score_cam", "rise", "random"]


def test_shared_probes_give_the_records_of_explainers_run_alone(config, tmp_path):
    together = [config(f"explainer={e}", "engine.cache=false") for e in EXPLAINERS]
    _, cells = run(*together)
    shared = {c.cfg.explainer.name: records(c) for c in cells}
    for explainer in EXPLAINERS:
        alone = config(f"explainer={explainer}", "engine.cache=false", f"outputs={tmp_path}/alone")
        _, (cell,) = run(alone)
        for pair, record in records(cell).items():
            if record["status"] == "failed":
                continue
            other = shared[explainer][pair]
            for key in ("EBPG", "mIoU", "Bbox", "Drop%", "Increase%", "confidence"):
                assert record[key] == pytest.approx(other[key], abs=1e-6), (explainer, pair, key)
            assert record["forward_passes"] == other["forward_passes"], explainer
            assert record["backward_passes"] == other["backward_passes"], explainer


def test_records_do_not_depend_on_the_order_of_images(config, tmp_path, monkeypatch):
    _, cells = run(*[config(f"explainer={e}") for e in ("sise", "random")])
    monkeypatch.setattr("toy.ToyDataset.ids", property(lambda self: self._ids[::-1]), raising=False)
    monkeypatch.setattr(
        "toy.ToyDataset.__init__", lambda self: setattr(self, "_ids", tuple(f"{i:02d}" for i in range(6)))
    )
    monkeypatch.setattr("toy.ToyDataset.broken", "03", raising=False)
    _, turned = run(*[config(f"explainer={e}", f"outputs={tmp_path}/turned") for e in ("sise", "random")])
    for a, b in zip(cells, turned, strict=True):
        mine, theirs = records(a), records(b)
        assert list(mine) != list(theirs) and set(mine) == set(theirs)
        for pair, record in mine.items():
            assert {k: v for k, v in record.items() if k != "seconds"} == {
                k: v for k, v in theirs[pair].items() if k != "seconds"
            }


def test_the_score_cache_saves_every_masked_pass_and_changes_nothing(config, tmp_path, monkeypatch):
    _, (first,) = run(config("explainer=sise"))
    calls = []
    score = runner.Scorer.score
    monkeypatch.setattr(
        runner.Scorer, "score", lambda self, s: calls.append(sum(len(x.maps) for x in s)) or score(self, s)
    )
    _, (again,) = run(config("explainer=sise", f"outputs={tmp_path}", "variant=again"))
    assert calls == []
    for pair, record in records(first).items():
        other = records(again)[pair]
        assert {k: v for k, v in record.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    # another threshold needs no masked pass for its maps: only the pixels it keeps for Drop% are new
    _, (adaptive,) = run(config("explainer=ada_sise"))
    kept = 2 * sum(r["status"] == "ok" for r in records(adaptive).values())
    assert sum(calls) <= kept
    for file in (tmp_path / ".scores").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    _, (damaged,) = run(config("explainer=sise", "variant=damaged"))
    for pair, record in records(first).items():
        assert record.get("EBPG") == records(damaged)[pair].get("EBPG")


def test_protocol_targets(config):
    failed, (cell,) = run(config("explainer=grad_cam", "protocol.targets=argmax", dataset={"broken": None}))
    assert failed == 0
    found = cell.folder.read()
    assert sorted(r["image_id"] for r in found) == list(cell.dataset.ids)
    predicted = config("explainer=grad_cam", "protocol.targets=predicted", "variant=p", dataset={"broken": None})
    _, (cell,) = run(predicted)
    assert cell.folder.read()
    assert all(r["target"] in cell.dataset.targets_of(r["image_id"]) for r in cell.folder.read())


@pytest.mark.parametrize("fill", ["zero", "black", "mean", "blur"])
def test_fill_is_what_masked_pixels_show(config, fill):
    cfg = config("explainer=sise", f"protocol.fill={fill}")
    (cell,) = runner.make_cells([cfg])
    scorer = runner.Scorer(cell.model.network)
    probe = runner._probe(cell, cell.dataset["00"], scorer, torch.device("cpu"))
    nothing = probe.score_masks(torch.zeros(1, *probe.size, dtype=torch.bool))
    colour = {"zero": (0.0,) * 3, "black": cell.model.black, "mean": cell.model.mean}
    if fill == "blur":
        expected = runner._fill("blur", cell.model, probe.image)
        assert not torch.equal(expected, probe.image)
    else:
        expected = torch.tensor(colour[fill]).view(1, 3, 1, 1).expand_as(probe.image)
    torch.testing.assert_close(nothing, cell.model.network(expected).detach(), atol=1e-5, rtol=1e-5)


def test_a_map_with_nan_fails_or_counts_as_zero(config, monkeypatch):
    monkeypatch.setattr(
        "baselines.uniform.uniform", lambda probe, targets: torch.full((len(targets), *probe.size), torch.nan)
    )
    failed, (cell,) = run(config("explainer=uniform", dataset={"broken": None}))
    assert failed == len(cell.folder.read()) and "NaN" in cell.folder.read()[0]["reason"]
    failed, (cell,) = run(config("explainer=uniform", "protocol.on_nan=zero", "variant=z", dataset={"broken": None}))
    assert failed == 0 and all("EBPG" in r["undefined"] for r in cell.folder.read())


def test_dry_run_writes_nothing(config, tmp_path, capsys):
    run(config("explainer=sise"), dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert "0 done" in capsys.readouterr().out


def test_typos_name_the_nearest(config):
    with pytest.raises(SuiteError, match="Did you mean 'argmax'"):
        run(config("protocol.targets=argmex"))


def test_an_experiment_is_narrowed_by_the_command_line():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        overrides = ["experiment=sise_table1", "model=vgg16", "explainer=sise", "limit=3"]
        cells = cli.compose_cells(compose("evaluate", overrides), overrides)
        assert [(c.model.name, c.explainer.name, c.variant) for c in cells] == [
            ("vgg16", "sise", "paper"),
            ("vgg16", "sise", "authors"),
        ]
        assert all(c.limit == 3 for c in cells)
        whole = ["experiment=sise_table1"]
        assert len(cli.compose_cells(compose("evaluate", whole), whole)) == 34

"""What status and dry runs say, and what counts as stale."""

import json

import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from toy import ToyDataset

from sise.benchmark.records import code_version
from sise.benchmark.records.code_version import code_of
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner, shards, status
from sise.benchmark.tables.runs import find_runs
from sise.errors import SuiteError

CONFIGS = str(ROOT / "configs")


@pytest.fixture
def cell(tmp_path):
    """A cell on the toy dataset and network, its image 03 broken."""

    def make(*overrides, model=None):
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            cfg = compose("evaluate", [f"outputs={tmp_path}", "explainer=random", *overrides])
        cfg.dataset.loader = {"_target_": "toy.ToyDataset"}
        cfg.model.loader = {"_target_": "toy.toy_model", **(model or {})}
        cfg.model.name = "toynet"
        return run_cells.make_cells([cfg])[0]

    return make


def counts(found):
    return found.done, found.stale, found.failed, found.missing


def test_what_is_done_missing_and_failed(cell, tmp_path):
    one = cell()
    pairs = sum(len(one.pairs(i)) for i in one.dataset.ids)
    assert counts(status.of_cell(one)) == (0, 0, 0, pairs) and status.of_cell(one).left is None
    assert list(tmp_path.iterdir()) == []  # looking changes nothing
    runner.run([one], limit=4)  # 00, 01, 02 with 2 + 1 + 2 pairs, 03 with 2 that fail
    found = status.of_cell(cell())
    assert counts(found) == (5, 0, 2, pairs - 7)
    seconds = [r["seconds"] for r in one.folder.read() if r["status"] == "ok"]
    assert found.left == pytest.approx((pairs - 5) * sum(seconds) / 5)
    assert counts(status.of_cell(one, limit=2)) == (3, 0, 0, 0)
    assert counts(status.of_cell(one, shard=shards.Shard(2, 3))) == (1, 0, 0, 1)  # images 01 and 04
    assert [counts(s) for s in status.of_outputs(tmp_path)] == [counts(found)]


def test_records_of_other_settings_or_weights_are_stale(cell):
    runner.run([cell()], limit=2)
    found = status.of_cell(cell("seed=0", "protocol.fill=black"))
    assert counts(found)[:2] == (0, 3) and any("protocol.fill" in reason for reason in found.reasons)
    found = status.of_cell(cell(model={"seed": 1}))
    assert counts(found)[:2] == (0, 3) and any(reason.startswith("weights_hash") for reason in found.reasons)


def test_records_of_other_code_are_stale_and_evaluate_says_so(cell, tmp_path, monkeypatch, caplog):
    runner.run([cell()], limit=1)
    original = code_version._hash
    monkeypatch.setattr(code_version, "_hash", lambda f: "other" if f == "sise/baselines/random.py" else original(f))
    runner.run([cell()], limit=2)
    assert "2 records were made by other code (sise/baselines/random.py changed since)" in caplog.text
    found = status.of_cell(cell())
    assert counts(found)[:2] == (1, 2)
    assert found.reasons == ("2 records by other code: sise/baselines/random.py",)
    assert "stale: 2 records by other code" in status.report([found])
    sessions = [entry["session"] for entry in RunFolder(cell().path).environments()]
    assert len(sessions) == len(set(sessions)) == 2
    monkeypatch.setattr(code_version, "_hash", lambda f: "other" if f == "sise/baselines/rise.py" else original(f))
    assert status.of_cell(cell()).stale == 1  # rise.py is none of its code; what made the second image is


def test_code_means_what_runs(tmp_path, monkeypatch):
    config = {
        "explainer": {"call": {"_target_": "sise.baselines.thing.thing"}},
        "other": [{"_target_": "torch.nn.ReLU"}],
    }
    source = '"""About."""\nfrom sise.helper import help\ndef thing():\n    """Doc."""\n    return help()  # why\n'
    for name, text in {"sise/baselines/thing.py": source, "sise/helper.py": "def help():\n    return 1\n",
                       "sise/probe/probe.py": "", "sise/unused.py": "",
                       **dict.fromkeys(code_version.RUNNER, "")}.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code_version, "ROOT", tmp_path)

    def now():
        for function in (code_version._own_path, code_version._tree, code_version._imported, code_version._source_hash):
            function.cache_clear()
        return code_of(config)

    try:
        first = now()
        used = {"sise/baselines/thing.py", "sise/helper.py", "sise/probe/probe.py"}
        assert list(first) == sorted(used | set(code_version.RUNNER))
        (tmp_path / "sise/baselines/thing.py").write_text(source.replace("# why", "# because").replace("Doc.", "Docs."))
        assert now() == first
        (tmp_path / "sise/helper.py").write_text("def help():\n    return 2\n")
        assert {f for f, h in now().items() if first[f] != h} == {"sise/helper.py"}
    finally:
        monkeypatch.undo()
        now()


def test_a_report_adds_up(tmp_path):
    made = status.Status("d/m/e/paper", 3, 2, 1, 4, seconds=120.0, writers=("process 7",), reasons=("because",))
    other = status.Status("d/m/f/paper", 0, 0, 0, 9)
    lines = status.report([made, other]).splitlines()
    assert lines[1].split() == ["d/m/e/paper", "3", "4", "2", "1", "10", "min"]
    assert lines[2].split() == ["d/m/f/paper", "0", "9", "0", "0", "?"]
    assert lines[3].split() == ["2", "cells", "3", "13", "2", "1", "at", "least", "10", "min"]
    assert lines[4:6] == ["d/m/e/paper: stale: because", "d/m/e/paper: at work: process 7"]
    assert "estimate=true" in lines[6]
    assert status.report([made]).splitlines()[2].endswith("  10 min")
    assert status.report([other]).splitlines()[2].endswith("  ?")
    with pytest.raises(SuiteError, match=r"evaluate\.py"):
        status.report([])


def test_a_plan_says_what_cannot_run(cell):
    text = status.plan(
        [cell()], {"d/m/e/v": "no weights", "d/m/f/v": "no weights"}, limit=None, shard=shards.EVERYTHING
    )
    assert "toy/toynet/random/paper-seed0" in text and "cannot run: no weights [2 cells: d/m/e/v, d/m/f/v]" in text


def test_who_is_writing(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"expected_pairs": 1}))
    with RunFolder(tmp_path / "run", {"expected_pairs": 1}, shard="1-of-2"):
        (found,) = status.of_outputs(tmp_path)
        assert len(found.writers) == 1 and "process" in found.writers[0]
    assert status.of_outputs(tmp_path)[0].writers == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (0, "-"), (0.2, "1 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min"),
     (90000, "1 d 1 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert status.duration(seconds) == text


def test_a_folder_that_does_not_say_what_its_run_is_is_named(cell, tmp_path):
    runner.run([cell()], limit=1)
    (file,) = tmp_path.rglob("run.json")
    file.write_text('{"dataset": "toy"}')
    for read, first in ((status.of_outputs, "expected_pairs"), (find_runs, "model")):
        with pytest.raises(SuiteError, match=rf"run\.json does not say what the run is: it has no {first}"):
            read(tmp_path)


def test_a_dry_run_counts_pairs_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("evaluate", [f"outputs={tmp_path}", "explainer=sise", "model=vgg16"])
    cfg.dataset.loader = {"_target_": "toy.ToyDataset"}
    cfg.model.loader.trained_on = "voc"
    monkeypatch.setattr(ToyDataset, "classes", ("dog", "cat", "person", "sheep", "unknown"))
    cells = run_cells.make_cells([cfg], plan=True)
    said = status.plan(cells, {}, limit=None, shard=shards.EVERYTHING)
    assert f"{sum(len(cells[0].pairs(i)) for i in cells[0].dataset.ids)}" in said
    assert "weights of vgg16 are not on this machine" in said and not (tmp_path / "hub").exists()

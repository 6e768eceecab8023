"""Maps that a run keeps give an added metric the values that a fresh run has, and the explainer is not asked again."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import toy
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from toy_runs import CONFIGS, config, records, run  # noqa: F401  (fixtures)

from sise.benchmark.doctor import machine
from sise.benchmark.places import ROOT
from sise.benchmark.records import code_version
from sise.benchmark.records.saliency_store import PATTERN, kept_bytes
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import composing, keeping_maps, status
from sise.benchmark.run.cells import make_cells
from sise.benchmark.run.settings import check_settings
from sise.benchmark.run.shards import Shard
from sise.errors import SuiteError

FEW = ("metrics=confidence", "maps.keep=all", "maps.leave_free=0")


@pytest.fixture
def asked(monkeypatch):
    """The calls of every explainer of a cell: (cell's name, image's seed)."""
    calls = []
    explainer = run_cells.Cell.explainer.func

    def counted(cell):
        function = explainer(cell)

        def call(probe, targets, **settings):
            calls.append((cell.cfg.explainer.name, probe.seed))
            return function(probe, targets, **settings)

        return call

    descriptor = type(run_cells.Cell.explainer)(counted)
    descriptor.__set_name__(run_cells.Cell, "explainer")
    monkeypatch.setattr(run_cells.Cell, "explainer", descriptor)
    return calls


def comparable(cell):
    """A run's good records without what differs between two runs of the same: when they were made."""
    return {
        pair: {key: value for key, value in record.items() if key not in ("session", "seconds")}
        for pair, record in records(cell).items()
        if record["status"] == "ok"
    }


def seconds(cell):
    return {pair: record["seconds"] for pair, record in records(cell).items() if record["status"] == "ok"}


# a metric is added ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("explainer", ["sise", "integrated_gradients", "random", "ground_truth"])
def test_an_added_metric_is_measured_on_the_kept_maps_to_the_last_bit(config, tmp_path, asked, explainer):  # noqa: F811
    words = (f"explainer={explainer}", "engine.cache=false")
    _, (first,) = run(config(*words, *FEW))
    then = seconds(first)
    assert len(asked) == 5  # image 03 is broken
    _, (second,) = run(config(*words))
    assert len(asked) == 5 and second.computed == len(then) and seconds(second) == then
    _, (fresh,) = run(config(*words, f"outputs={tmp_path}/fresh"))
    assert len(asked) == 10
    assert comparable(second) == comparable(fresh)
    assert all("EBPG" in record for record in comparable(second).values())


def test_without_kept_maps_they_are_made_again(config, asked):  # noqa: F811
    _, (cell,) = run(config("explainer=random", "metrics=confidence"))
    assert not kept_bytes(cell.path)
    run(config("explainer=random", "maps.keep=all"))
    assert len(asked) == 10 and kept_bytes(cell.path)
    for file in cell.path.glob(PATTERN):
        file.unlink()  # safe at any time
    _, (cell,) = run(config("explainer=random", "metrics=pointing"))
    assert len(asked) == 15 and not kept_bytes(cell.path)


def test_expensive_explainers_are_those_of_many_passes():
    with (ROOT / "results" / "explainers.csv").open(encoding="utf-8", newline="") as stream:
        passes = {row["explainer"]: int(row["forward passes"]) + int(row["backward passes"])
                  for row in csv.DictReader(stream)}  # fmt: skip
    assert len(passes) > 40
    for name, count in passes.items():
        settings = OmegaConf.load(ROOT / "configs" / "explainer" / f"{name}.yaml")
        base = [base for base in settings.get("defaults", []) if base != "_self_"]
        settings = OmegaConf.merge(
            *[OmegaConf.load(ROOT / "configs" / "explainer" / f"{b}.yaml") for b in base], settings
        )
        assert bool(settings.get("expensive")) == (count >= 30), (name, count)


def test_expensive_keeps_the_maps_of_expensive_explainers_alone(config):  # noqa: F811
    _, cells = run(*[config(f"explainer={name}", "maps.keep=expensive") for name in ("sise", "grad_cam")], limit=1)
    assert [kept_bytes(cell.path) > 0 for cell in cells] == [True, False]
    assert all(cell.cfg.departures == [] for cell in cells)


def test_keeping_maps_is_no_setting_of_the_run(config):  # noqa: F811
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        (cfg,) = composing.compose_cells(compose("evaluate", ["maps.keep=all"]), ["maps.keep=all"])
    assert cfg.departures == []
    _, (kept,) = run(config("explainer=random", "maps.keep=all"), limit=1)
    (other,) = make_cells([config("explainer=random")])
    assert kept.identity() == other.identity()


def test_overwriting_a_run_deletes_its_maps(config, asked):  # noqa: F811
    _, (cell,) = run(config("explainer=random", *FEW), limit=1)
    assert kept_bytes(cell.path)
    run(config("explainer=random", "metrics=confidence"), limit=0, overwrite=True)
    assert not kept_bytes(cell.path) and len(asked) == 1


# stale maps are not used ------------------------------------------------------------------------------------------
def test_maps_of_another_run_are_not_used(config, asked):  # noqa: F811
    _, (first,) = run(config("explainer=random", *FEW), limit=2)
    other = ("explainer=random", "explainer.call.cells=3", "variant=other")
    _, (cell,) = run(config(*other, "metrics=confidence"), limit=2)
    (file,) = first.path.glob(PATTERN)
    file.rename(cell.path / file.name)  # somebody mixes them up
    assert len(asked) == 4
    run(config(*other), limit=2)
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("changed", "again"),
    [("sise/baselines/random.py", 2), ("sise/benchmark/run/probing.py", 2), ("sise/benchmark/run/explaining.py", 2),
     ("sise/probe/probe.py", 2), ("sise/benchmark/run/scoring.py", 0), ("sise/metrics/localization.py", 0)],
)  # fmt: skip
def test_maps_of_other_code_are_made_again(config, asked, monkeypatch, changed, again):  # noqa: F811
    run(config("explainer=random", *FEW), limit=2)
    original = code_version._hash
    monkeypatch.setattr(code_version, "_hash", lambda file: "other" if file == changed else original(file))
    run(config("explainer=random"), limit=2)
    assert len(asked) == 2 + again


def test_maps_of_an_image_that_was_replaced_are_made_again(config, asked, monkeypatch):  # noqa: F811
    run(config("explainer=random", *FEW), limit=2)
    read = toy.ToyDataset.__getitem__

    def replaced(dataset, image_id):
        sample = read(dataset, image_id)
        if image_id == "01":
            sample.image.putpixel((0, 0), (255, 255, 255))
        return sample

    monkeypatch.setattr(toy.ToyDataset, "__getitem__", replaced)
    run(config("explainer=random"), limit=2)
    assert len(asked) == 3


def test_no_code_is_called_changed_because_a_metric_was_added(config, caplog):  # noqa: F811
    run(config("explainer=random", "metrics=confidence"), limit=1)
    run(config("explainer=random"), limit=1)
    assert "other code" not in caplog.text


# shards -----------------------------------------------------------------------------------------------------------
def test_shards_keep_files_of_their_own_that_all_read(config, asked):  # noqa: F811
    for number in (1, 2):
        _, (cell,) = run(config("explainer=random", *FEW), shard=Shard(number, 2))
    assert sorted(f.name for f in cell.path.glob(PATTERN)) == ["saliency-1-of-2.maps", "saliency-2-of-2.maps"]
    assert len(asked) == 5
    _, (cell,) = run(config("explainer=random"))
    assert len(asked) == 5 and all("EBPG" in record for record in comparable(cell).values())


# told before ------------------------------------------------------------------------------------------------------
def test_the_size_is_told_before(config, caplog):  # noqa: F811
    cells = make_cells([config("explainer=random", "maps.keep=all", "maps.leave_free=0")])
    said = status.plan(cells, {}, limit=None, shard=Shard(1, 1))
    size = int(np.prod(cells[0].model.preprocess.size)) * 4
    count = sum(len(cells[0].pairs(i)) for i in cells[0].dataset.ids)
    most = keeping_maps.readable_bytes(count * size)
    assert f"{count} maps of 1 cell will be kept (maps.keep=all): at most {most} before" in said
    assert keeping_maps.room_for_missing(cells, None) in said
    assert "maps" not in status.plan(make_cells([config("explainer=random")]), {}, limit=None, shard=Shard(1, 1))
    assert keeping_maps.room_for_missing(cells, 1).startswith(f"{len(cells[0].pairs('00'))} maps ")
    caplog.set_level("INFO")
    run(config("explainer=random", "maps.keep=all", "maps.leave_free=1e9"))
    assert re.search(r"WARNING.* maps of 1 cell will be kept.*then no more are kept", caplog.text)
    assert caplog.text.count("no more maps are kept") == 1


def test_status_says_how_large_they_are(config, tmp_path):  # noqa: F811
    _, (cell,) = run(config("explainer=random", *FEW))
    size = keeping_maps.readable_bytes(kept_bytes(cell.path))
    for found in (status.of_outputs(tmp_path), [status.of_cell(cell)]):
        assert f"maps kept: {size}" in status.report(found)
    (finding,) = machine.kept_maps(tmp_path)
    assert size in str(finding)
    for file in cell.path.glob(PATTERN):
        file.unlink()
    assert "maps kept" not in status.report(status.of_outputs(tmp_path)) and not list(machine.kept_maps(tmp_path))


def test_settings_are_checked():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        for word, expected in (("maps.keep=some", "maps.keep"), ("maps.leave_free=-1", "maps.leave_free"),
                               ("maps=all", "maps")):  # fmt: skip
            with pytest.raises(SuiteError, match=expected):
                check_settings(compose("evaluate", [word]), "evaluate")

"""The loop from configuration to records, end to end on the toy dataset and network of toy.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from compositions import cells_of
from hydra import compose, initialize_config_dir
from torch import nn
from toy import toy_model
from toy_runs import records, run

from sise.benchmark.commands import command as commands_command
from sise.benchmark.commands import endings
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import composing, explaining, left_behind, probing, problems, runner, settings
from sise.benchmark.run import shards as run_shards
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.growing_set import GrowingSet
from sise.errors import SuiteError
from sise.probe.probe import Probe

CONFIGS = str(ROOT / "configs")


def written(cell):
    """The images of a run's lines, in the order they were written."""
    lines = (cell.folder.path / "records.jsonl").read_text().splitlines()
    return list(dict.fromkeys(json.loads(line)["image_id"] for line in lines))


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
            assert 0 < record["kept_fraction"] <= 0.15 and "cluster" not in record
            assert 0 < record["confidence"] < 1 and record["forward_passes"] > 1
    assert cell.identity()["left_out"] == {"pairs": 1, "classes": ["unknown"]}


def test_what_an_explainer_remarks_is_in_its_records(config):
    configs = config("explainer=full_grad"), config("explainer=grad_cam")
    cells = run_cells.make_cells(configs)
    cells[0].model.network.stage1[2] = torch.nn.SiLU().eval()
    assert cells[0].model is cells[1].model
    runner.run(cells, limit=1)
    assert {tuple(r.get("remarks", ())) for r in records(cells[0]).values()} == {("incomplete_decomposition",)}
    assert not any("remarks" in r for r in records(cells[1]).values())


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
    with pytest.raises(SuiteError, match=r"(?s)variant=.*call.mu: 0.0 -> 0.3"):
        run(config("explainer=sise", "explainer.call.mu=0.3"))
    assert (cell.folder.path / "records.jsonl").read_bytes() == before
    run(config("explainer=sise", "explainer.call.mu=0.3", "variant=mu0.3"), limit=1)
    with pytest.raises(SuiteError, match="weights_hash"):
        run(config("explainer=sise", model={"seed": 1}))


EXPLAINERS = ["sise", "ada_sise", "ada_sise_table", "grad_cam", "score_cam", "rise", "random"]


@pytest.mark.numeric
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
                assert record[key] == other[key], (explainer, pair, key)  # to the last bit
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
        assert written(a) == written(b)[::-1]
        mine, theirs = records(a), records(b)
        assert list(mine) == list(theirs)  # sorted
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
    (cell,) = run_cells.make_cells([cfg])
    scorer = runner.Scorer(cell.model.network)
    probe = probing.make_probe(cell, cell.dataset["00"], scorer, torch.device("cpu"))
    nothing = probe.score_masks(torch.zeros(1, *probe.size, dtype=torch.bool))
    colour = {"zero": (0.0,) * 3, "black": cell.model.black, "mean": cell.model.mean}
    if fill == "blur":
        expected = probing.make_fill("blur", cell.model, probe.image)
        assert not torch.equal(expected, probe.image)
    else:
        expected = torch.tensor(colour[fill]).view(1, 3, 1, 1).expand_as(probe.image)
    torch.testing.assert_close(nothing, cell.model.network(expected).detach(), atol=1e-5, rtol=1e-5)


def test_a_map_with_nan_fails_or_counts_as_zero(config, monkeypatch):
    monkeypatch.setattr(
        "sise.baselines.uniform.uniform", lambda probe, targets: torch.full((len(targets), *probe.size), torch.nan)
    )
    failed, (cell,) = run(config("explainer=uniform", dataset={"broken": None}))
    assert failed == len(cell.folder.read()) and "NaN" in cell.folder.read()[0]["reason"]
    failed, (cell,) = run(config("explainer=uniform", "protocol.on_nan=zero", "variant=z", dataset={"broken": None}))
    assert failed == 0 and all("EBPG" in r["undefined"] for r in cell.folder.read())


def test_typos_name_the_nearest(config):
    with pytest.raises(SuiteError, match="Did you mean 'argmax'"):
        run(config("protocol.targets=argmex"))


def test_an_experiment_is_narrowed_by_the_command_line():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        overrides = ["experiment=sise_table1", "model=vgg16", "explainer=sise", "limit=3"]
        cells = composing.compose_cells(compose("evaluate", overrides), overrides)
        assert [(c.model.name, c.explainer.name, c.variant) for c in cells] == [
            ("vgg16", "sise", "paper"),
            ("vgg16", "sise", "authors"),
        ]
        assert all(c.limit == 3 for c in cells)
        whole = ["experiment=sise_table1"]
        cfg = compose("evaluate", whole)
        assert len(composing.compose_cells(cfg, whole)) == 2 * len(cfg.experiment.cells)


# shards and cells that do not stop each other -----------------------------------------------------------------------


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def without_clock(cells):
    return [{p: {k: v for k, v in r.items() if k != "seconds"} for p, r in records(c).items()} for c in cells]


def test_shards_in_any_mix_make_the_records_of_one_run(config, tmp_path):
    def configs(name):
        return [config(f"explainer={e}", f"outputs={tmp_path}/{name}") for e in ("sise", "rise", "random")]

    _, whole = run(*configs("whole"))
    for shard in ("3/4", "1/2", "2/2", "4/4", "1/4", "2/4", "1/1"):
        _, split = run(*configs("split"), shard=run_shards.Shard.parse(shard))
    assert without_clock(split) == without_clock(whole)
    files = sorted(f.name for f in split[0].folder.path.glob("*.jsonl"))
    assert files == [f"records{part}.jsonl" for part in ("-1-of-2", "-2-of-2", "-3-of-4", "-4-of-4", "")]
    pairs = [r for f in split[0].folder.path.glob("*.jsonl") for r in lines(f)]
    good = [(r["image_id"], r["target"]) for r in pairs if r["status"] == "ok"]
    assert len(good) == len(set(good))  # nothing is computed twice
    again = [r["image_id"] for f in ("-4-of-4", "") for r in lines(split[0].folder.path / f"records{f}.jsonl")]
    assert again == ["03"] * 4  # only the broken image is tried again


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_image_is_in_one_shard(count):
    ids = tuple("abcdefghij")
    shards = [run_shards.Shard(i + 1, count).of(ids) for i in range(count)]
    assert sorted(i for shard in shards for i in shard) == list(ids)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "1/2/3", "1.0/2"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(SuiteError, match=r"shard=i/n.*e\.g\. shard=2/4"):
        run_shards.Shard.parse(text)


def test_shards_do_not_overwrite(config):
    with pytest.raises(SuiteError, match="without shard="):
        run(config("explainer=random"), overwrite=True, shard=run_shards.Shard(1, 2))


def test_two_processes_on_one_run_are_refused_and_two_shards_are_not(config):
    cell = run_cells.make_cells([config("explainer=random")])[0]
    with runner.RunFolder(cell.path, cell.identity()):
        with pytest.raises(SuiteError, match="another process is writing"):
            run(config("explainer=random"))
        run(config("explainer=random"), shard=run_shards.Shard(1, 2))
    assert {r["image_id"] for r in runner.RunFolder(cell.path).read()} == {"00", "02", "04"}


def test_a_cell_that_cannot_run_does_not_stop_the_others(config):
    run(config("explainer=random"), limit=1)
    bad = [config("explainer=random", "protocol.fill=black"), config("explainer=sise", "explainer.call.layers=[7]")]
    cells = run_cells.make_cells([bad[0], config("explainer=uniform"), bad[1], config("explainer=centre")])
    with pytest.raises(SuiteError, match=r"(?s)2 cells could not run.*protocol.fill.*no layer at position 7"):
        runner.run(cells, limit=2)
    assert [len(c.folder.read()) if hasattr(c, "folder") else 0 for c in cells] == [0, 3, 0, 3]
    assert cells[0].problem and cells[2].problem and not cells[1].problem


def test_cells_without_data_or_weights_are_reported_beside_the_others(config):
    broken = {}
    bad = config("explainer=uniform", model={"_target_": "sise.benchmark.models.torchray.torchray", "arch": "vgg17"})
    cells = run_cells.make_cells([bad, config("explainer=uniform", "variant=v")], broken)
    assert len(cells) == 1 and "vgg17" in broken["shapes/toynet/uniform/paper"]
    with pytest.raises(SuiteError, match=r"vgg17.*\[shapes/toynet/uniform/paper\]"):
        runner.run(cells, limit=1, broken=broken)
    assert cells[0].folder.read()
    with pytest.raises(Exception, match="vgg17"):
        run_cells.make_cells([bad], {})  # none is left


def test_what_failed_is_listed_with_the_command_that_does_it_again(config, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(Path(CONFIGS).parent / "scripts" / "evaluate.py")])
    _, cells = run(config("explainer=random"), config("explainer=uniform"))
    cells[1].failures.clear()
    endings.say_failures(cells, ["d/m/e/v"], ["experiment=toy", "overwrite=true", "outputs=a b"])
    said = capsys.readouterr().err.splitlines()[-2:]
    assert said[0] == "failed: toy/toynet/random/paper-seed0: 2 pairs failed, OSError: image file is truncated"
    assert said[1] == ("again, just that: python scripts/evaluate.py experiment=toy 'outputs=a b' "
                       "'only=[toy/toynet/random/paper-seed0,d/m/e/v]'")  # fmt: skip


def test_only_picks_cells_by_name():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        given = ["experiment=sise_table6", "only=[shapes/resnet50/sise/mu0.3]"]
        (cfg,) = composing.compose_cells(compose("evaluate", given), given)
        assert cfg.variant == "mu0.3"
        given = ["experiment=sise_table6", "only=[shapes/resnet50/sise/mu0.4]"]
        with pytest.raises(SuiteError, match="Did you mean 'shapes/resnet50/sise/mu0"):
            composing.compose_cells(compose("evaluate", given), given)


def test_all_targets_of_an_image_are_explained_together(config, monkeypatch):
    """Else a record that a crash cost would come back with other random numbers, or another batch."""
    _, (cell,) = run(config("explainer=random"), limit=1)
    before = records(cell)
    file = cell.folder.path / "records.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n")  # target 0 of two
    seen = []
    original = probing.checked_maps
    monkeypatch.setattr(explaining, "checked_maps", lambda s, *rest: seen.append(len(s)) or original(s, *rest))
    _, (cell,) = run(config("explainer=random"), limit=1)
    assert seen == [2] and len(file.read_text().splitlines()) == 2
    assert [r["EBPG"] for r in records(cell).values()] == [r["EBPG"] for r in before.values()]


def test_shards_share_out_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [choose_device("auto", run_shards.Shard(i, 8)).index for i in range(1, 9)] == [
        0,
        1,
        2,
        0,
        1,
        2,
        0,
        1,
    ]
    assert choose_device("auto").index == 0


# names that do not exist ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explaner=sise"], "unknown setting 'explaner' in 'explaner=sise'. Did you mean 'explainer'"),
        (["explainer=sice"], "unknown explainer 'sice'.*Did you mean 'sise'"),
        (["experiment=sise_tabel1"], "unknown experiment 'sise_tabel1'.*Did you mean 'sise_table1'"),
        (["-m", "explainer=sise,sice"], "unknown explainer 'sice'.*Did you mean 'sise'"),
        (["engine.presision=fp16"], "unknown setting 'engine.presision'.*Did you mean 'engine.precision'"),
        (["model=vgg16", "modle.weights=x"], "unknown setting 'modle.weights'.*Did you mean 'model.weights'"),
        (["explainer.call.nu=0.3"], "unknown setting 'explainer.call.nu'.*'explainer.call.mu'"),
        (["protocol.confidence=softmx"], "unknown protocol.confidence 'softmx'.*Did you mean 'softmax'"),
        (["engine.precision=fp23"], "unknown engine.precision 'fp23'.*fp32"),
        (["shard=5/4"], "shard=i/n"),
        (["limit=[1"], r"cannot read 'limit=\[1'"),
        (["explainer=[sise,rise]"], "one explainer at a time, or a sweep: -m explainer=sise,rise"),
        (["-m", "explainer=[sise,rise],rise"], "one explainer at a time"),
        (["model=[vgg16,resnet50]"], "one model at a time"),
        (["experiment=[sise_table1,sise_table6]"], "one experiment at a time"),
        (["seed=abc"], "seed: expected a whole number from 0 to .*; got seed=abc"),
        (["seed=-1"], "seed: expected a whole number"),
        (["seed=true"], "seed: expected a whole number"),
        (["limit=-1"], "limit: expected null or a whole number from 0; got limit=-1"),
        (["limit=2.5"], "limit: expected null"),
        (["variant=a/b"], "variant: expected a name.*got variant=a/b"),
        (["variant=''"], "variant: expected a name"),
        (["variant=.."], "variant: expected a name"),
        (["variant=null"], "variant: expected a name"),
        (["budget=papre"], "unknown budget 'papre'.*Did you mean 'paper'"),
        (["overwrite=fasle"], "overwrite: expected true or false"),
        (["estimate=0"], "estimate: expected true, false or seconds above 0"),
        (["explainer.call.mu=abc"], "explainer.call.mu: expected a number from 0 to 1"),
        (["protocol.sise.mu=1.5"], "explainer.call.mu: expected a number from 0 to 1; got explainer.call.mu=1.5"),
    ],
)
def test_a_typo_is_one_message_and_exit_code_2(words, said, monkeypatch, capsys, tmp_path):
    def function(cfg):
        run_shards.Shard.parse(cfg.shard)
        cfg.dataset.loader = {"_target_": "toy.ToyDataset"}
        cfg.model.loader = {"_target_": "toy.toy_model"}
        run_cells.make_cells([cfg])

    monkeypatch.setattr("sys.argv", ["evaluate.py", *words, f"outputs={tmp_path}"])
    with pytest.raises(SystemExit) as end:
        commands_command.script("evaluate")(function)()
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert re.search(said, message) and message.startswith("error: ") and message.count("\n") <= 4, message


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("make_tables", ["table=[hmt,photos]"], "expected one table at a time\n"),
        ("explain", ["model=[timm,module]"], "expected one model at a time\n"),
        ("explain", ["top=five"], "top: expected a whole number"),
        ("kept_maps", ["limit=0"], "limit: expected null or a whole number from 1"),
        ("figures", ["count=0"], "count: expected a whole number from 1"),
        ("figures", ["figure=masks", "masks_per_layer=0"], "masks_per_layer: expected a whole number from 1"),
        ("doctor", ["limit=0"], "limit: expected null or a whole number from 1"),
        ("status", ["watch=-1"], "watch: expected null or seconds above 0"),
        ("status", ["watch=often"], "watch: expected null or seconds above 0"),
        ("performance", ["rounds=0"], "rounds: expected a whole number from 1"),
        ("performance", ["peers.rounds=0"], "peers.rounds: expected a whole number from 1"),
        ("performance", ["rounds=9999999999"], "rounds: expected a whole number from 1 to 1000000"),
        ("performance", ["width=9999"], "width: expected a number above 0, up to 100"),
        ("evaluate", ["engine.read_ahead=9999999999"], "engine.read_ahead: expected a whole number from 0 to 65536"),
        ("evaluate", ["engine.batch_size=9999999999"], "engine.batch_size: expected null or a whole number from 1 to"),
        ("train", ["training=severstal", "training.size=999999"], "training.size: expected pixels from 1 to 8192"),
    ],
)
def test_every_command_refuses_a_wrong_setting(command, words, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"{command}.py", *words])
    with pytest.raises(SystemExit) as end:
        commands_command.script(command)(lambda cfg: pytest.fail("it started"))()
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.startswith("error: ") and said in message


def composed(command, *words):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose(command, list(words))
    settings.check_settings(cfg, command)
    return cfg


@pytest.mark.slow
def test_what_ships_passes_the_check_and_a_single_value_is_a_list_of_one():
    for command in sorted(Path(CONFIGS).glob("*.yaml")):
        composed(command.stem)
    for experiment in sorted(Path(CONFIGS).glob("experiment/*.yaml")):
        assert cells_of(f"experiment={experiment.stem}")
    assert composed("evaluate", "limit=0", "estimate=0.5", "variant=3").limit == 0
    assert composed("doctor", "require=voc2007").require == ["voc2007"]
    assert composed("figures", "images=000150").images == ["000150"]
    assert composed("performance", "parts=engine").parts == ["engine"]
    assert composed("figures", "images=[000150,a]").images == ["000150", "a"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dataset=mnist1d"], "resnet50 has no network.*dataset=mnist1d; give model=mnist1d"),
        (["dataset=severstal"], "give model=resnet101_severstal"),
        (["model=hmt"], "give dataset=hmt with it, got dataset=shapes"),
        (["model=mnist1d", "dataset=voc2007"], "give dataset=mnist1d"),
        (["dataset=hmt", "model=hmt"], ""),
        (["dataset=hmt", "model=torchvision"], ""),
    ],
)
def test_a_dataset_with_a_network_of_its_own_needs_it(words, said):
    cfg = composed("evaluate", *words)
    if said:
        with pytest.raises(SuiteError, match=said):
            run_cells.make_cells([cfg])
    else:
        run_cells.check_network(cfg)


def test_a_problem_of_many_cells_is_said_once(config):
    def bad(arch, variant):
        model = {"_target_": "sise.benchmark.models.torchray.torchray", "arch": arch}
        return config("explainer=uniform", f"variant={variant}", model=model)

    with pytest.raises(Exception, match="vgg17") as one:
        run_cells.make_cells([bad("vgg17", "a"), bad("vgg17", "b")], {})
    assert runner.message(one.value).count("vgg17") == 1
    with pytest.raises(SuiteError) as two:
        run_cells.make_cells([bad("vgg17", "a"), bad("vgg18", "b"), bad("vgg17", "c")], {})
    lines = str(two.value).splitlines()
    assert len(lines) == 3 and lines[1].startswith("unknown arch 'vgg17'")
    assert lines[1].endswith("[2 cells: shapes/toynet/uniform/a, shapes/toynet/uniform/c]")


def test_a_place_that_cannot_be_written_is_one_message(config, monkeypatch, capsys, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SuiteError, match=r"cannot use .*file.*: Not a directory"):
        run(config("explainer=uniform", f"outputs={tmp_path}/file"))
    assert not any(record.exc_info for record in caplog.records)
    monkeypatch.setattr("sys.argv", ["make_tables.py"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        commands_command.script("make_tables")(lambda cfg: (tmp_path / "file" / "x").mkdir())()
    assert end.value.code == 2 and re.match(r"error: cannot use .*file/x: Not a directory", capsys.readouterr().err)


def test_the_end_says_how_many_pairs_and_where(config, tmp_path, capsys):
    _, cells = run(config("explainer=uniform"), limit=2)
    pairs, place = len(records(cells[0])), f"outputs={tmp_path}"
    endings.say_done(cells, 2)
    folder = f"{tmp_path}/toy/toynet/uniform/paper"
    said = f"{pairs} pairs computed: {folder}; tables: python scripts/make_tables.py {place}\n"
    assert capsys.readouterr().out == said
    _, cells = run(config("explainer=uniform"), config("explainer=random"), limit=1)
    endings.say_done(cells, 1)  # of uniform nothing was missing
    assert capsys.readouterr().out.startswith(f"{len(records(cells[1]))} pairs computed: 2 runs below {tmp_path}; ")
    endings.say_done(cells, 0)
    assert capsys.readouterr().out == f"limit=0: nothing was computed: 2 runs below {tmp_path}\n"


@pytest.mark.parametrize("script", sorted(Path(CONFIGS).parent.glob("scripts/*.py")), ids=lambda p: p.name)
def test_every_hydra_script_is_a_command_of_the_suite(script):
    text = (Path(CONFIGS).parent / f"sise/benchmark/commands/{script.stem}.py").read_text()
    assert "hydra.main" not in text  # command.script has the readable errors
    assert f'@command.script("{script.stem}")' in text and (Path(CONFIGS) / f"{script.stem}.yaml").exists()


def test_help_still_works(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--help"])
    with pytest.raises(SystemExit) as end:
        commands_command.script("evaluate")(lambda cfg: None)()
    assert not end.value.code and "Choose one of each group" in capsys.readouterr().out


def test_tab_completion_still_works(monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "python evaluate.py explainer=si")
    monkeypatch.setenv("COMP_POINT", "31")
    monkeypatch.setattr("sys.argv", ["evaluate.py", "-sc", "query=bash"])
    commands_command.script("evaluate")(lambda cfg: None)()
    assert capsys.readouterr().out.split() == ["explainer=sise"]


# what is wrong before the first image, and what goes wrong in every one ---------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["explainer=sise", "+explainer.call.banana=1"], r"explainer=sise: .*'banana'; it takes probe, targets, "),
        (["explainer=sise", "+metrics.localization.mIoU.banana=1"], r"metric mIoU: .*'banana'"),
        (["explainer=sise", "+metrics.faithfulness={x: {_target_: sise.metrics.localization.ebpg, _partial_: true}}"],
         "metric x: too many positional arguments"),
        (["explainer=rise", "explainer.call.seed=5"], "called and counted by seed=0; give seed=5 in its place"),
        (["explainer=sise", "+dataset.masks=false"], "no regions.*EBPG, mIoU, Bbox.*metrics=confidence"),
    ],
)  # fmt: skip
def test_settings_that_fit_nothing_are_refused_before_the_first_image(config, tmp_path, overrides, message):
    with pytest.raises(SuiteError, match=message):
        run_cells.make_cells([config(*overrides)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["explainer=occlusion", "explainer.call.stride=0.5"], "occlusion needs 0 < stride <= window"),
        (["explainer=sise", "explainer.call.layers=[7]"], "no layer at position 7"),
        (["explainer=uniform", "metrics=curves", "metrics.blur_size=101"], "kernel_size=101 is too wide"),
    ],
)
def test_settings_that_fit_no_image_keep_no_failed_record(config, overrides, message):
    cells = run_cells.make_cells([config(*overrides)])
    with pytest.raises(SuiteError, match=message):
        runner.run(cells)
    assert not cells[0].failures and not cells[0].folder.read()


def test_mnist1d_says_that_it_has_no_regions():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        assert compose("evaluate", ["dataset=mnist1d"]).dataset.masks is False


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("performance", "width=0"),
        ("performance", "masks=-3"),
        ("performance", "tables.images=0"),
        ("report", "megabytes=nan"),
        ("figures", "kilobytes=-1"),
        ("figures", "similarity.lines=0"),
        ("train", "training.epochs=-1"),
        ("train", "training.epochs=[]"),
        ("train", "training.lr=0"),
        ("train", "training.seed=-1"),
        ("train", "training.batch=1.5"),
    ],
)
def test_numbers_of_the_other_commands_have_a_range(command, setting):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose(command, [*(["training=shapes"] if command == "train" else []), setting])
    with pytest.raises(SuiteError, match=f"{setting.split('=')[0]}: expected"):
        settings.check_settings(cfg, command)


@pytest.mark.parametrize(
    "setting", ["threads=-1", "threads=two", "batch_size=1e9", "batch_size=0", "stop_after=0", "cache=maybe"]
)
def test_settings_of_the_engine_have_a_type_and_a_range(setting):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("evaluate", [f"engine.{setting}"])
    with pytest.raises(SuiteError, match=f"engine.{setting.split('=')[0]}: expected"):
        settings.check_settings(cfg, "evaluate")


def test_a_network_without_a_class_of_the_dataset_is_refused_and_one_with_some_says_so(config, monkeypatch, caplog):
    caplog.set_level("INFO")
    run_cells.make_cells([config("explainer=random")])
    assert "the network has no class unknown; their pairs are left out" in caplog.text
    monkeypatch.setattr("toy.ToyDataset.classes", ("cat", "dog", "cow", "hen", "fox"))
    with pytest.raises(
        SuiteError, match=r"none of the classes of dataset=toy: it scores red, .*has cat, .*model.classes"
    ):
        run_cells.make_cells([config("explainer=random")])


def test_a_problem_of_many_cells_is_said_first_and_once():
    lines = problems.by_problem({f"cell{i}": "no weights" for i in range(21)} | {"other": "no data"})
    assert lines[0].startswith("no weights [21 cells: cell0, ") and lines[0].endswith("and 16 more]")
    assert lines[1:] == ["no data [other]"]


def test_a_loader_that_makes_no_model_is_named(config):
    cfg = config("explainer=uniform")
    cfg.model.loader = {"_target_": "builtins.dict"}
    with pytest.raises(SuiteError, match=r"model.loader: expected what makes a sise.types.Model; got a dict"):
        run_cells.make_cells([cfg])


def test_an_explainers_own_bug_is_shown_once_and_stops_the_cell(config, monkeypatch, caplog):
    def buggy(probe, targets):
        return probe.model

    monkeypatch.setattr("sise.baselines.uniform.uniform", buggy)
    cells = run_cells.make_cells([config("explainer=uniform", "engine.stop_after=2"), config("explainer=centre")])
    for cell in cells:
        cell.cfg.engine.stop_after = 2
    with pytest.raises(SuiteError, match=r"stopped after 2 images in a row .*test_runner.py:\d+.*no attribute 'model'"):
        runner.run(cells)
    assert caplog.text.count("Traceback") == 1 and "return probe.model" in caplog.text
    found = cells[0].folder.read()
    assert {r["image_id"] for r in found} == {"00", "01"}
    assert all(re.fullmatch(r"tests/benchmark/run/test_runner.py:\d+", r["where"]) for r in found)
    assert {r["image_id"] for r in cells[1].folder.read() if r["status"] == "ok"} == {"00", "01", "02", "04", "05"}


def test_images_that_cannot_be_read_stop_nothing(config, monkeypatch):
    monkeypatch.setattr("toy.ToyDataset.__getitem__", lambda self, image_id: Path("/nonexistent").read_bytes())
    failed, (cell,) = run(config("explainer=random", "engine.stop_after=2"))
    assert failed == len(cell.folder.read()) and len({r["image_id"] for r in cell.folder.read()}) == 6


LEFT = {
    "training mode": lambda network: network.train(),
    "hooks": lambda network: network.stage1.register_forward_hook(lambda module, args, output: output * 0),
    "requires_grad": lambda network: network.requires_grad_(False),
    "gradients of parameters": lambda network: network(torch.ones(1, 3, 24, 32)).sum().backward(),
    "running statistics": lambda network: (network.train(), network(torch.ones(2, 3, 24, 32)), network.eval()),
    "random seeds": lambda network: torch.rand(1),
    "torch's gradient mode, default type or precision": lambda network: torch.set_grad_enabled(False),
    "modules": lambda network: setattr(network, "pool", nn.AvgPool2d(2)),
    "settings of modules": lambda network: setattr(network.pool, "kernel_size", 4),
}
OF_THE_PROCESS = {
    "products": lambda: torch.set_float32_matmul_precision("medium"),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "default type": lambda: torch.set_default_dtype(torch.float64),
}


@pytest.mark.parametrize("what", OF_THE_PROCESS)
def test_what_is_left_changed_of_the_process_is_set_back(what):
    probe = Probe(toy_model().network, torch.rand(1, 3, 24, 32))
    before = left_behind.MODES[what][0]()
    refused = pytest.raises(SuiteError, match="left changed: torch's gradient mode, default type or precision")
    with refused, left_behind.nothing_left_behind(probe, "mine"):
        OF_THE_PROCESS[what]()
    assert left_behind.MODES[what][0]() == before


WRITTEN = {
    "gradients": lambda probe: probe.gradients("stage3", 1).clamp_(min=0),
    "feature maps": lambda probe: probe.feature_maps("stage3").mul_(2),
    "gradient scores": lambda probe: probe.gradient_scores("stage3", 1).abs_(),
    "extrema": lambda probe: probe.extrema("stage3")[1].fill_(1),
    "scores": lambda probe: probe.scores().mul_(3),
    "the image": lambda probe: probe.image.neg_(),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_an_explainer_that_writes_into_what_the_probe_remembers_spoils_no_other(config, monkeypatch, tmp_path, what):
    from sise.baselines.uniform import uniform

    monkeypatch.setattr("sise.baselines.uniform.uniform", lambda p, t: (WRITTEN[what](p), uniform(p, t))[1])
    names = ("uniform", "grad_cam", "sise", "gradient")
    _, cells = run(*[config(f"explainer={n}", dataset={"broken": None}) for n in names], limit=1)
    assert all(r["status"] == "failed" and f"the probe's {what}." in r["reason"] for r in cells[0].folder.read())
    _, alone = run(*[config(f"explainer={n}", f"outputs={tmp_path}/alone") for n in names[1:]], limit=1)
    keys = ("EBPG", "mIoU", "Drop%", "confidence")
    for cell, expected in zip(cells[1:], alone, strict=True):
        found = {pair: [r[k] for k in keys] for pair, r in records(cell).items()}
        assert found == {pair: pytest.approx([r[k] for k in keys]) for pair, r in records(expected).items()}


def test_a_metric_that_writes_into_the_map_fails_its_pairs(config, monkeypatch):
    def greedy(saliency, mask, **settings):
        return float(saliency.mul_(2).mean())

    monkeypatch.setattr("sise.metrics.localization.ebpg", greedy)
    _, (cell,) = run(config("explainer=grad_cam", dataset={"broken": None}), limit=1)
    reasons = {r["reason"] for r in cell.folder.read()}
    assert all("EBPG" in reason and "wrote into the map" in reason for reason in reasons), reasons


@pytest.mark.parametrize("what", LEFT)
def test_what_an_explainer_leaves_changed_fails_its_image_and_no_other_explainers(config, monkeypatch, tmp_path, what):
    from sise.baselines.uniform import uniform

    monkeypatch.setattr("sise.baselines.uniform.uniform", lambda p, t: (LEFT[what](p.network), uniform(p, t))[1])
    _, cells = run(config("explainer=uniform", dataset={"broken": None}), config("explainer=grad_cam"), limit=2)
    assert all(
        r["status"] == "failed" and f"uniform left changed: {what}." in r["reason"] for r in cells[0].folder.read()
    )
    _, alone = run(config("explainer=grad_cam", f"outputs={tmp_path}/alone"), limit=2)
    keys = ("EBPG", "mIoU", "Drop%", "confidence")
    found, expected = ({p: [r[k] for k in keys] for p, r in records(c).items()} for c in (cells[1], *alone))
    assert found == {pair: pytest.approx(row, rel=1e-6) for pair, row in expected.items()}


@pytest.mark.parametrize("how", ["in place", "through data", "other data"])
def test_an_explainer_that_changes_weights_stops_all_that_use_them(config, monkeypatch, how):
    from sise.baselines.uniform import uniform

    def writes(probe, targets):
        weight = probe.network.head.weight
        with torch.no_grad():
            if how == "in place":
                weight.mul_(2)
            elif how == "through data":
                weight.data.mul_(2)
            else:
                weight.data = weight.data * 2
        return uniform(probe, targets)

    monkeypatch.setattr("sise.baselines.uniform.uniform", writes)
    cells = run_cells.make_cells([config("explainer=uniform"), config("explainer=centre")])
    with pytest.raises(SuiteError, match="explainer uniform changed the network's weights"):
        runner.run(cells)
    assert not any(r["status"] == "ok" for cell in cells for r in cell.folder.read())


class CountingKey(tuple):
    """A pair that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        CountingKey.compared += 1
        return tuple.__eq__(self, other)

    __hash__ = tuple.__hash__


@pytest.mark.parametrize("targets", ["all", "argmax"])
def test_what_is_missing_is_looked_up_and_not_searched(config, targets):
    (cell,) = run_cells.make_cells([config("explainer=random", f"protocol.targets={targets}")])
    cell.remember({"image_id": f"{i:06d}", "target": 0, "status": "ok"} for i in range(50_000))
    cell.good = {CountingKey(pair) for pair in cell.good}
    assert [cell.missing(image_id) for image_id in cell.dataset.ids] == [
        cell.pairs(i) if targets == "all" else [-1] for i in cell.dataset.ids
    ]
    assert CountingKey.compared < 100


@pytest.mark.parametrize("targets", ["all", "argmax"])
def test_all_images_that_lack_something_are_those_that_miss_something_one_by_one(config, monkeypatch, targets):
    (cell,) = run_cells.make_cells([config("explainer=random", f"protocol.targets={targets}")])
    known, unreadable = cell.dataset.targets_of, cell.dataset.ids[1]
    monkeypatch.setattr(cell.dataset, "targets_of", lambda i: () if i == unreadable else known(i))
    rng, pairs = np.random.default_rng(0), [(i, t) for i in cell.dataset.ids for t in cell.pairs(i)]
    seen = set()
    for _ in range(60):
        begun = [pairs[k] for k in rng.permutation(len(pairs))[: rng.integers(len(pairs) + 1)]]
        cell.good, cell.finished = GrowingSet(frozenset(begun)), GrowingSet(frozenset(i for i, _ in begun))
        for k in rng.integers(len(pairs), size=3):  # of this process: found, or thrown away
            cell.remember([{"image_id": pairs[k][0], "target": pairs[k][1], "status": "ok"}])
            cell.good.discard(pairs[k - 1])
            cell.finished.discard(pairs[k - 1][0])
        found = {i for i in cell.dataset.ids if cell.missing(i)}
        assert cell.lacking() == found
        seen.add(len(found))
    assert len(seen) > 2

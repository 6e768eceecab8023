"""``train.py training=...``: the configurations fit the code behind them, and say the same as its defaults."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import get_method
from omegaconf import OmegaConf

from sise.benchmark import invocation
from sise.benchmark.commands import train
from sise.benchmark.models import architectures, course_weights
from sise.benchmark.training import detector, severstal, severstal_run, shapes
from sise.errors import SuiteError

NAMES = sorted(p.stem for p in (ROOT / "configs" / "training").glob("*.yaml"))


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(words)), resolve=True)


def ran(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """Exit code and standard error of ``train.py <words>``."""
    monkeypatch.setattr("sys.argv", [str(ROOT / "scripts" / "train.py"), *words])
    monkeypatch.setattr(invocation, "_started_as", [])
    with pytest.raises(SystemExit) as end:
        train.main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_training_takes_what_its_configuration_gives(name):
    given = composed(f"training={name}")["training"]
    takes = inspect.signature(get_method(given.pop("_target_"))).parameters
    assert takes.keys() - given.keys() <= {"settings"}
    assert "settings" in takes or given.keys() <= takes.keys()  # settings: passed on to what trains, which checks them


def test_the_configurations_say_the_same_as_the_code():
    given = composed("training=severstal")["training"]
    assert {f.name: given[f.name] for f in dataclasses.fields(severstal.Settings)} == vars(severstal.Settings())
    given = composed("training=shapes", "training.model=vgg16")["training"]
    assert given.pop("output") is None
    usual = shapes.Settings("vgg16")
    given |= {"epochs": tuple(given["epochs"]), "cache": Path(given["cache"]), "output": usual.output}
    assert {f.name: given[f.name] for f in dataclasses.fields(usual)} == vars(usual)
    given = composed("training=detector")["training"]
    defaults = inspect.signature(detector.train).parameters
    assert {name: given[name] for name in given if name in defaults} == {
        name: parameter.default for name, parameter in defaults.items() if name in given
    }
    assert set(given) - set(defaults) == {"_target_", "output"}


def test_the_datas_own_settings_reach_the_training():
    given = composed("training=severstal", "dataset.root=/data/s", "dataset.loader.seed=3")["training"]["data"]
    assert (given["root"], given["seed"], given["all_12568"]) == ("/data/s", 3, False)
    assert composed("training=hmt", "dataset.root=/data/h")["training"]["root"] == "/data/h"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which training? python scripts/train.py training=detector | hans | hmt | mnist1d | severstal | shapes"),
        (("training=mnist",), "Did you mean 'mnist1d'?"),
        (("training=shapes",), "which network? training.model=resnet50 | vgg16"),
        (("training=shapes", "training.model=vgg17"), "Did you mean 'vgg16'?"),
        (("training=shapes", "training.model=vgg16", "training.epochs=[1,1]"), "training.epochs: expected three"),
        (("training=hmt", "dataset.root=nowhere"), "nowhere"),
        (("training=hmt", "training.epoch=3"), "Did you mean 'training.epochs'"),
        (("training=severstal", "dataset.root=nowhere"), "nowhere"),
        (("training=severstal", "training.batch=1"), "training.batch: batch normalisation needs at least 2 tiles"),
        (("training=mnist1d", "training.epochs=0"), "training.epochs: expected a whole number from 1"),
        (("training=detector", "training.scenes=9"), "expected at least one batch of scenes"),
        (("training=detector", "training.threads=null"), "thread and test"),
        (("--root", "/data"), "settings are written key=value here"),
    ],
)
def test_mistakes_end_in_one_line(words, said, monkeypatch, capsys):
    code, err = ran(monkeypatch, capsys, *words)
    assert code == 2 and err.startswith("error: ") and said in err and "Error in call" not in err


def test_the_recorded_command_gives_the_recorded_settings():
    """Of the shipped weights, and of any others."""
    facts = json.loads((architectures.weights_folder() / "shapes.json").read_text())
    other = shapes.Settings("vgg16", (0, 1, 0), 64, 32, 1e-4, 0.0, 3, 5, 1, True)
    commands = [(fact["training"]["command"], None) for fact in facts.values()] + [(shapes.command_of(other), other)]
    assert len(commands) == 3
    for line, settings in commands:
        python, script, *words = shlex.split(line)
        assert (python, script) == ("python", "scripts/train.py")
        given = composed(*words)["training"]
        own = {f.name: given[f.name] for f in dataclasses.fields(shapes.Settings) if f.name not in ("cache", "output")}
        made = shapes.Settings(**own | {"epochs": tuple(given["epochs"])})
        assert shapes.command_of(made) == line and settings in (None, made)
    for name, fact in facts.items():
        given = composed(*shlex.split(fact["training"]["command"])[2:])["training"]
        assert (given["model"], given["scenes"], given["seed"]) == (name, fact["training"]["scenes"], 0)
        assert given["epochs"] == [fact["training"]["resolutions"][size] for size in ("112", "160", "224")]


def test_severstal_says_what_to_run_next_on_tiles_it_was_not_trained_on():
    data = {"root": "/d", "all_12568": False, "black_below": 10.0, "seed": 2, "cache": None}
    said = severstal_run.next_command(data, severstal.Settings(arch="resnet18"), Path("o/resnet18.pt"))
    assert said.endswith("experiment=sise_table2 dataset.root=/d model.weights=o/resnet18.pt dataset.loader.seed=2 "
                         "model.loader.arch=resnet18")  # fmt: skip
    usual = severstal_run.next_command(data | {"seed": 0}, severstal.Settings(), Path("w.pt"))
    assert usual.endswith("experiment=sise_table2 dataset.root=/d model.weights=w.pt")


def test_the_shallow_network_is_trained_and_can_be_used(tmp_path):
    pytest.importorskip("mnist1d")
    path = tmp_path / "one.pt"
    command_line = [sys.executable, ROOT / "scripts" / "train.py", "training=mnist1d", f"training.output={path}",
                    "training.epochs=2", "training.seed=1"]  # fmt: skip
    done = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "epoch 2 of 2: loss " in done.stdout and done.stdout.rstrip().endswith(f"weights: {path}")
    from sise.benchmark.models import mnist1d

    scores = mnist1d.network(path).network(torch.zeros(1, 1, 40))
    assert scores.shape == (1, 10) and not torch.equal(scores, mnist1d.network(None).network(torch.zeros(1, 1, 40)))


def test_shapes_trains_folds_and_saves(tmp_path):
    """A few scenes at the smallest size: the file that is written is what the network computes."""
    settings = shapes.Settings("vgg16", (1, 0, 0), 4, 2, tests=2, threads=1, fp32=True,
                               cache=tmp_path / "cache", output=tmp_path / "weights")  # fmt: skip
    threads = torch.get_num_threads()
    try:
        shapes.make(settings)
    finally:
        torch.set_num_threads(threads)
    facts = json.loads((tmp_path / "weights" / "shapes.json").read_text())["vgg16"]
    assert facts["training"]["command"] == shapes.command_of(settings) and facts["test"]["images"] == 2
    assert (tmp_path / "weights" / "shapes_vgg16.pt").stat().st_size == facts["bytes"]


def test_a_training_is_a_command_like_the_others():
    assert invocation.COMMANDS["train"][0] == "train"
    with pytest.raises(SuiteError, match="at least a batch of 64, got 1"):
        shapes.Settings("vgg16", scenes=1)


def other_weights(path: Path, name: str) -> None:
    """What a longer training left, as it says of itself."""
    if name == "shapes":
        (path / "shapes_vgg16.pt").write_bytes(b"weights")
        longer = shapes.Settings(model="vgg16", output=path, cache=path, epochs=(5, 2, 1))
        about = {"vgg16": {"training": {"command": shapes.command_of(longer)}}}
        (path / "shapes.json").write_text(json.dumps(about))
        return
    about = {"epochs": 200, "seed": 0}
    torch.save({"state_dict": {}, "about": about}, path / "made.pt")


@pytest.mark.parametrize("name", ["mnist1d", "hans", "shapes"])
@pytest.mark.parametrize("what", ["other weights", "any file"])
def test_a_trial_does_not_take_the_place_of_other_weights(name, what, monkeypatch, capsys, tmp_path):
    other_weights(tmp_path, name)
    if what == "any file":
        for file in tmp_path.iterdir():
            file.unlink() if file.suffix == ".json" else file.write_text("mine")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    output = tmp_path if name == "shapes" else tmp_path / "made.pt"
    fewer = ["training.model=vgg16", "training.epochs=[1,1,1]"] if name == "shapes" else ["training.epochs=1"]
    code, said = ran(monkeypatch, capsys, f"training={name}", f"training.output={output}", *fewer)
    assert code == 2 and "choose another" in said and "training.output=" in said
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_the_same_training_may_be_made_again(tmp_path):
    path = tmp_path / "made.pt"
    course_weights.check_free(path, epochs=3)
    course_weights.save(torch.nn.Linear(1, 1), path, epochs=3, seed=0)
    course_weights.check_free(path, epochs=3, seed=0, lr=0.1)  # older files do not say the rate
    with pytest.raises(SuiteError, match=r"holds other weights \(seed: 0 there, 1 now\)"):
        course_weights.check_free(path, epochs=3, seed=1)

"""Sweeps: the same records however the work is spread, and an end that says what to do again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from sise.benchmark import sweeps
from sise.benchmark.records import RunFolder

ROOT = Path(__file__).parents[1]
CONFIGS = str(ROOT / "configs")
TOY = ["--config-dir", str(ROOT / "tests" / "configs"), "-m", "experiment=toy", "engine.malloc=false"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
RUN = "toy/toynet/random/paper-seed0"


def sweep(outputs: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/evaluate.py", *TOY, f"outputs={outputs}", *words]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_joblib_two_shards_of_which_one_has_failures(tmp_path):
    ended = sweep(tmp_path, "hydra/launcher=joblib", "shard=1/2,2/2", f"only=[{RUN}]")
    (log,) = tmp_path.glob(".sweeps/*/1.log")  # the second shard has image 03, which is broken
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "2 jobs, 1 done, 1 not" in ended.stderr and str(log) in ended.stderr
    assert f"failed: {RUN}: 2 pairs failed, OSError: image file is truncated" in ended.stderr
    again = ended.stderr.split("again, just that: python scripts/evaluate.py ")[1].splitlines()[0]
    assert "shard=2/2" in again and "experiment=toy" in again
    folder = RunFolder(tmp_path / RUN)
    assert {f.name for f in folder.path.glob("*.jsonl")} == {"records-1-of-2.jsonl", "records-2-of-2.jsonl"}
    assert sorted({r["image_id"] for r in folder.read()}) == [f"{i:02d}" for i in range(6)]
    assert {f.name for f in tmp_path.iterdir()} == {"toy", ".sweeps", ".scores"}  # and nothing beside outputs/


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_a_job_under(launcher, tmp_path):
    ended = sweep(tmp_path, f"hydra/launcher={launcher}", "shard=1/2", f"only=[{RUN}]")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 jobs, 1 done, 0 not" in ended.stderr
    assert {r["image_id"] for r in RunFolder(tmp_path / RUN).read()} == {"00", "02", "04"}


@pytest.mark.parametrize(
    ("name", "kind"), [("joblib", "JoblibLauncher"), ("slurm", "SlurmLauncher"), ("ray", "RayLauncher")]
)
def test_every_launcher_takes_its_configuration(name, kind):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("evaluate", [f"hydra/launcher={name}"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.endswith(f".{kind}")
    Plugins.instance()._instantiate(cfg.hydra.launcher)  # no key that it does not know
    assert issubclass(Plugins.instance().class_name_to_class[cfg.hydra.launcher._target_], Launcher)


def job(tmp_path: Path, number: int, code: str) -> int:
    script = tmp_path / "script.py"
    script.write_text(code)
    return sweeps.run_command(str(script), ["shard=1/2", "a=b c"], str(tmp_path / "sweep"), number)


def test_the_end_of_a_sweep_says_what_failed_and_how_to_repeat_it(tmp_path, monkeypatch, capsys):
    assert sweeps.report("python evaluate.py") == 0  # no sweep, nothing to say
    assert capsys.readouterr() == ("", "")
    assert job(tmp_path, 0, "print('fine')") == 0
    assert job(tmp_path, 1, "import os; os.kill(os.getpid(), 9)") == -9
    failing = "print('bar'); print('failed: x: why'); print('again, just that: python it'); raise SystemExit(1)"
    assert job(tmp_path, 2, failing) == 1
    assert job(tmp_path, 10, "print('error: no such data'); raise SystemExit(2)") == 2
    (tmp_path / "sweep" / "11.json").write_text(
        json.dumps({"overrides": ["x='a-0'", "out='a-0'"], "exit": None})
    )  # cut off
    monkeypatch.setattr(sweeps, "_started", [tmp_path / "sweep"])
    capsys.readouterr()
    assert sweeps.report("python evaluate.py") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("5 jobs, 1 done, 4 not")
    assert [line.split(";")[0] for line in said if line.startswith("#")] == [
        "#1 killed by signal 9", "#2 some pairs failed", "#10 could not run as it is", "#11 did not end"]  # fmt: skip
    assert said[2] == "  again, just that: python evaluate.py shard=1/2 'a=b c'"
    assert said[4:6] == ["  failed: x: why", "  again, just that: python it"]
    assert said[7] == "  error: no such data"
    assert said[-1].endswith("""python evaluate.py 'x='"'"'a-0'"'"'' out=a-0""")  # a name as it is typed

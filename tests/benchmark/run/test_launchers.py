"""Sweeps: the same records however the work is spread, and an end that says what to do again."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from checkout import ROOT, WITNESSES
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from hydra_plugins.sise_ray_launcher import RayLauncher
from sise.benchmark import process
from sise.benchmark.commands import command as commands_command
from sise.benchmark.commands import sweeps
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.run import unknown_names
from sise.errors import SuiteError

CONFIGS = str(ROOT / "configs")
TOY = ["--config-dir", str(WITNESSES / "configs"), "-m", "experiment=toy", "engine.malloc=false"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{WITNESSES}{os.pathsep}{ROOT}"}
RUN = "toy/toynet/random/paper-seed0"


def sweep(outputs: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/evaluate.py", *TOY, f"outputs={outputs}", *words]
    around = {**ENVIRONMENT, **variables}
    return subprocess.run(command, cwd=ROOT, env=around, capture_output=True, text=True, timeout=900)


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
    return sweeps.run_command([str(script)], ["shard=1/2", "a=b c"], str(tmp_path / "sweep"), number)


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


# ---------------------------------------------------------------------- launchers that cannot start a job


@pytest.mark.parametrize(("launcher", "extra"), [("joblib", "joblib"), ("slurm", "slurm"), ("ray", "ray")])
def test_a_sweep_without_its_extra_ends_with_a_sentence_and_code_2(launcher, extra, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["evaluate.py", "-m", f"hydra/launcher={launcher}", "shard=1/2,2/2"])
    with pytest.raises(SystemExit) as end:
        commands_command.script("evaluate")(lambda cfg: pytest.fail("it started"))()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith(f"error: hydra/launcher={launcher} needs an extra: pip install -e")
    assert f"[{extra}]" in line


@pytest.mark.parametrize("missing", ["srun", "sbatch"])
def test_a_sweep_without_slurm_ends_with_a_sentence_and_code_2(missing, monkeypatch, capsys):
    monkeypatch.setattr(unknown_names.shutil, "which", lambda name: None if name == missing else name)
    monkeypatch.setattr("sys.argv", ["evaluate.py", "-m", "hydra/launcher=slurm", "shard=1/2,2/2"])
    with pytest.raises(SystemExit) as end:
        commands_command.script("evaluate")(lambda cfg: pytest.fail("it started"))()
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and f"there is no {missing} here; hydra/launcher=submitit_local runs the same" in line


@pytest.mark.slow
def test_what_slurm_refuses_is_said_in_a_sentence(tmp_path):
    for name, what in (("srun", "exit 0"), ("sbatch", "echo 'sbatch: error: invalid partition: moon' >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{what}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = sweep(tmp_path / "out", "hydra/launcher=slurm", "hydra.launcher.partition=moon", "shard=1/2", PATH=path)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert (
        "error: submitit could not run the jobs: sbatch: error: invalid partition: moon; check the settings "
        "hydra.launcher.* (see docs/running.md)." in ended.stderr
    )


def test_a_launchers_own_error_is_told_from_ours(monkeypatch, tmp_path):
    class Lost(RuntimeError):
        __module__ = "joblib.externals.loky"

    assert sweeps.of_launcher(Lost("a worker died")) is None  # no sweep
    monkeypatch.setattr(sweeps, "_started", [tmp_path])
    assert sweeps.of_launcher(RuntimeError("ours")) is None
    assert "a worker died; check the settings" in sweeps.of_launcher(Lost("a worker died.\nAt length."))
    (tmp_path / "0.json").write_text("{}")
    assert "a worker died; the same command goes on where it was" in sweeps.of_launcher(Lost("a worker died."))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nowhere"])
def test_an_address_without_a_cluster_is_refused_with_the_fix(address, monkeypatch):
    class Ray:
        @staticmethod
        def init(address, **options):
            raise ConnectionError("Could not find any running Ray instance.\nAt length.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    launcher = RayLauncher(address.format(port=free_port()), num_cpus=1, num_gpus=0, max_retries=0)
    with pytest.raises(SuiteError, match=r"no Ray cluster answers there \(.*\); start one with `ray start --head`, or"):
        launcher._connected(Ray)


def test_a_job_too_large_for_this_machine_is_refused_and_for_a_cluster_said(capsys):
    class Ray:
        @staticmethod
        def nodes():
            return [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"GPU": 8.0}}]

    RayLauncher(None, num_cpus=4, num_gpus=0, max_retries=0)._check_resources(Ray)
    for options in ({"num_cpus": 5, "num_gpus": 0}, {"num_cpus": 1, "num_gpus": 0.5}):
        with pytest.raises(
            SuiteError, match=r"num_\wpus=.*the largest machine that Ray knows has [40]; give a smaller"
        ):
            RayLauncher(None, max_retries=0, **options)._check_resources(Ray)
    RayLauncher("auto", num_cpus=1, num_gpus=1, max_retries=0)._check_resources(Ray)
    assert "jobs wait until one with as many joins" in capsys.readouterr().err


# ---------------------------------------------------------------------- jobs that are lost and started again


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process of its parent's death")
@pytest.mark.parametrize("late", [False, True])
def test_a_job_ends_with_the_worker_that_started_it(late, tmp_path):
    job = f"import time; {'time.sleep(1);' * late} from sise.benchmark import process; process.end_with_parent(); "
    job += f"open({str(tmp_path / 'began')!r}, 'w').write('x'); time.sleep(60)"
    worker = (
        "import os, subprocess, sys; "
        f"around = {{**os.environ, {process.STARTED_BY!r}: str(os.getpid())}}; "
        f"p = subprocess.Popen([sys.executable, '-c', {job!r}], env=around);"
        "print(p.pid, flush=True); p.wait()"
    )
    started = subprocess.Popen([sys.executable, "-c", worker], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE)
    number = int(started.stdout.readline())
    while not late and not (tmp_path / "began").exists():
        time.sleep(0.05)
    started.kill()
    started.wait()
    started.stdout.close()
    wait_until(lambda: not alive(number))
    assert late != (tmp_path / "began").exists()  # its worker had died before it could ask


def alive(number: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked about does not."""
    with suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(true, seconds: float = 300.0) -> None:
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last, "waited too long"
        time.sleep(0.05)


def test_only_a_job_that_is_started_again_waits_for_its_records(tmp_path):
    code = f"import os; raise SystemExit(int(os.environ.get({process.LOCK_WAIT!r}, '0')) // 40)"
    assert job(tmp_path, 0, code) == 0
    assert job(tmp_path, 0, code) == 3


def running(outputs: Path) -> dict[int, int]:
    """Processes that write records below a folder, and the worker of each."""
    found = {}
    for lock in outputs.rglob("*.lock"):
        with suppress(OSError, ValueError, IndexError):
            number = int(lock.read_text().split()[1])
            if alive(number):
                found[number] = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@pytest.mark.slow
@pytest.mark.skipif("SISE_CLUSTER" not in os.environ, reason="SISE_CLUSTER=1 starts a cluster of Ray on this machine")
def test_a_ray_cluster_that_loses_a_worker_and_a_node_and_gets_another_ends_with_equal_records(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    words = ["dataset.loader.count=60", "only=[toy/toynet/rise/paper-seed0]"]
    plain = [sys.executable, "scripts/evaluate.py", *TOY[:2], *TOY[3:], f"outputs={tmp_path / 'plain'}", *words]
    subprocess.run(plain, cwd=ROOT, env=ENVIRONMENT, capture_output=True, timeout=900)
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])  # the nodes' processes take it from here
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=10**8) for _ in range(2)]
    outputs, shards = tmp_path / "ray", ",".join(f"{i}/4" for i in range(1, 5))
    command = [sys.executable, "scripts/evaluate.py", *TOY, "hydra/launcher=ray", f"shard={shards}"]
    command += [f"outputs={outputs}", f"hydra.launcher.address={cluster.address}", *words]
    driver = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: running(outputs) or driver.poll() is not None)
        job_number, worker = next(iter(running(outputs).items()))
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not alive(job_number))
        wait_until(lambda: running(outputs) or driver.poll() is not None)
        cluster.remove_node(nodes[0], allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
        said = driver.communicate(timeout=900)[1]
    finally:
        driver.kill()
        cluster.shutdown()
    assert "4 jobs, 3 done, 1 not" in said, said  # of one the third image is broken, as in the plain run
    assert records(outputs) == records(tmp_path / "plain") and len(records(outputs)) > 60


def records(outputs: Path) -> list[dict]:
    own = ("seconds", "session")
    folder = RunFolder(outputs / "toy/toynet/rise/paper-seed0")
    return [{key: value for key, value in record.items() if key not in own} for record in folder.read()]

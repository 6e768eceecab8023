"""Runs that are killed, crowded or out of space lose nothing: in the end the records and tables are those of a run
that nothing happened to.

``SISE_KILLS=50 pytest -s tests/benchmark/run/test_faults.py`` is the long form: that many kills at random, of fresh
processes, and one at every call that changes a file.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkout import ROOT, WITNESSES
from omegaconf import OmegaConf
from zygote import wait

from sise.benchmark.records import files, saliency_store
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.run import status
from sise.benchmark.run.score_cache import ScoreCache
from sise.benchmark.tables import make, runs

EVALUATE = str(ROOT / "scripts" / "evaluate.py")
CONFIGS = ["--config-dir", str(WITNESSES / "configs"), "engine.malloc=false"]
TOY = ["experiment=toy"]
SHORT = ["dataset=toy", "model=toynet", "explainer=sise", "limit=2", "maps.keep=all", "maps.leave_free=0"]
KILLS = int(os.environ.get("SISE_KILLS", "0"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{WITNESSES}{os.pathsep}{ROOT}"}
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


class Zygote:
    """See tests/witnesses/zygote.py."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen([sys.executable, str(WITNESSES / "zygote.py")], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT)  # fmt: skip

    def __call__(self, outputs: Path, *overrides: str, **job) -> dict:
        argv = [EVALUATE, *CONFIGS, f"outputs={outputs}", *(overrides or TOY)]
        self.process.stdin.write(
            json.dumps({"argv": argv, "log": str(self.log), "outputs": str(outputs), **job}) + "\n"
        )
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def said(self) -> str:
        """What the commands since the last look printed."""
        text = self.log.read_text()
        self.log.write_text("")
        return text


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    zygote = Zygote(tmp_path_factory.mktemp("zygote") / "log")
    yield zygote
    zygote.process.stdin.close()
    zygote.process.wait()


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """Outputs of a run that nothing happens to, and how long it takes."""
    outputs = tmp_path_factory.mktemp("whole")
    ended = zygote(outputs)
    assert ended["exit"] == 1, zygote.said()  # image 03 is broken
    return outputs, ended["seconds"]


def found(outputs: Path) -> dict[str, list[dict]]:
    """The records of every run, without what a clock said, and the session: an edit of the checkout begins another."""
    known = {}
    for file in sorted(outputs.rglob("run.json")):
        records = RunFolder(file.parent).read()
        known[str(file.parent.relative_to(outputs))] = [
            {k: v for k, v in r.items() if k not in ("seconds", "session")} for r in records
        ]
    return known


def tabulated(outputs: Path, results: Path) -> dict[str, list[str]]:
    """Every line of every table, without those that say seconds."""
    definition = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "table" / "default.yaml"))
    definition["metrics"] = ["EBPG", "mIoU", "Bbox", "Drop%", "Increase%"]  # a column of seconds is never the same
    published = ROOT / "results" / "published" / "published_results.csv"
    files = make.tabulate({"default": definition}, outputs=outputs, results=results, published=published,
                            say=lambda text: None)  # fmt: skip
    timed = re.compile("seconds|Run-time", re.IGNORECASE)
    return {file.name: [x for x in file.read_text().splitlines() if not timed.search(x)] for file in files}


def images_with_maps(outputs: Path) -> list[str]:
    """The images whose maps the runs have kept."""
    found = []
    for file in sorted(outputs.rglob(saliency_store.PATTERN)):
        with file.open("rb") as stream:
            found += [header["image_id"] for header, *_ in saliency_store._frames(stream)]
    return found


def same(outputs: Path, whole: Path, tmp_path: Path) -> None:
    assert found(outputs) == found(whole)
    assert tabulated(outputs, tmp_path / "a") == tabulated(whole, tmp_path / "b")


@pytest.mark.slow
def test_killed_at_random_times(zygote, whole, tmp_path):
    rng = random.Random(0)
    expected, duration = whole
    kills, finished, begun, there = 0, 0, time.monotonic(), []
    if KILLS:  # more to interrupt; a fresh process is slower from its first record on
        expected = tmp_path / "whole"
        ended = fresh_process(expected, None)
        assert ended["exit"] == 1  # image 03 is broken
        duration = ended["seconds"]
    while kills < (KILLS or 3):
        outputs = tmp_path / str(finished)
        after = rng.uniform(0, duration)
        ended = fresh_process(outputs, after) if KILLS else zygote(outputs, seconds=after)
        assert ended["exit"] in (1, -signal.SIGKILL), zygote.said()
        kills += ended["exit"] == -signal.SIGKILL
        there.append(sum(map(len, found(outputs).values())) if outputs.exists() else 0)
        if ended["exit"] == 1:  # it came to its end
            same(outputs, expected, tmp_path)
            finished += 1
    ended = fresh_process(outputs, None) if KILLS else zygote(outputs)
    assert ended["exit"] == 1, zygote.said()
    same(outputs, expected, tmp_path)
    seconds = time.monotonic() - begun
    print(f"{kills} kills, {finished + 1} runs, each as the uninterrupted one in the end; {seconds:.0f} s; records "
          f"there after each process: {there}")  # fmt: skip


def fresh_process(outputs: Path, seconds: float | None) -> dict:
    """As a user starts it, with more images; one kill in five comes while it starts."""
    words = [sys.executable, EVALUATE, *CONFIGS, *TOY, "dataset.loader.count=40", f"outputs={outputs}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(words, env=ENVIRONMENT, cwd=ROOT, **quiet)
    early = seconds is not None and int(seconds * 1e6) % 5 == 0
    return wait(process.pid, process.poll, None if early else outputs, seconds)


@pytest.mark.slow
def test_killed_at_every_change_of_a_file(zygote, tmp_path):
    reference = tmp_path / "reference"
    assert zygote(reference, *SHORT)["exit"] == 0, zygote.said()
    expected, call, outputs = found(reference), 0, tmp_path / "killed"
    while (code := zygote(outputs, *SHORT, call=call)["exit"]) == -signal.SIGKILL:
        for run, records in found(outputs).items():
            assert all(record in expected[run] for record in records)
        assert zygote(outputs, *SHORT)["exit"] == 0, zygote.said()
        assert found(outputs) == expected and images_with_maps(outputs) == images_with_maps(reference)
        shutil.rmtree(outputs)
        call += 1 if KILLS else 3
    assert code == 0 and call > 15, call
    assert found(outputs) == expected


@pytest.mark.slow
def test_a_full_disk_at_any_time_is_one_message_and_loses_nothing(zygote, tmp_path):
    reference = tmp_path / "reference"
    assert zygote(reference, *SHORT)["exit"] == 0, zygote.said()
    for call in (0, 4, 9, 14, 19):
        outputs = tmp_path / str(call)
        zygote.said()
        assert zygote(outputs, *SHORT, full=call)["exit"] == 2
        said = zygote.said()
        assert said.count("error: ") == 1 and re.search(r"error: the disk of .* is full.*same command", said), said
        assert zygote(outputs, *SHORT)["exit"] == 0, zygote.said()
        assert found(outputs) == found(reference)


def test_the_score_cache_is_whole_whoever_writes_it(tmp_path, caplog):
    def probe(value):
        state = {"targets": np.arange(3), "values": np.full(20000, value)}
        return SimpleNamespace(image=torch.zeros(1, 3, 2, 2), state=lambda _: state, restore=seen.append)

    def write(value):
        for _ in range(25):
            ScoreCache(tmp_path, "x").save(probe(value), [0])

    seen = []
    writers = [threading.Thread(target=write, args=(value,)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        ScoreCache(tmp_path, "x").restore(probe(0.0))
    for writer in writers:
        writer.join()
    assert ScoreCache(tmp_path, "x").restore(probe(0.0)) and len(list(tmp_path.rglob("*"))) == 2
    assert all(len(set(state["values"])) == 1 for state in seen) and not caplog.records


def test_what_killed_processes_left_in_the_score_cache_is_cleared_after_a_day(tmp_path):
    cache = ScoreCache(tmp_path, "x")
    cache.folder.mkdir()
    for name, age in ((".draft-1-old.npz", 90000), (".draft-2-new.npz", 10), ("old.npz", 90000)):
        (cache.folder / name).write_text("")
        os.utime(cache.folder / name, (time.time() - age,) * 2)
    cache.save(SimpleNamespace(image=torch.zeros(1), state=lambda _: {"targets": np.arange(1)}), [0])
    assert {".draft-2-new.npz", "old.npz"} < {file.name for file in cache.folder.iterdir()}
    assert not (cache.folder / ".draft-1-old.npz").exists()


def test_a_half_written_identity_is_no_run_and_goes_after_a_day(tmp_path):
    folder = tmp_path / "toy" / "toynet" / "sise" / "paper"
    folder.mkdir(parents=True)
    with files.whole(folder / "run.json") as draft:
        draft.write_text("{}")
    draft.write_text('{"form')  # as a killed process leaves it
    (folder / "run.json").unlink()
    assert not found(tmp_path) and not runs.find_runs(tmp_path) and not status.of_outputs(tmp_path)
    os.utime(draft, (time.time() - 90000,) * 2)
    with RunFolder(folder, {"format": 2}):
        assert not draft.exists() and (folder / "run.json").exists()

"""What a process sets before it computes, and what it says of a machine that others use."""

import json
import os
import subprocess
import sys

import pytest
import torch
from checkout import ROOT

from sise.benchmark import process


def test_defaults_leave_what_the_user_has_set():
    environment = {"MKL_CBWR": "AUTO"}
    process.set_defaults(environment)
    assert environment == {"MKL_CBWR": "AUTO", "OMP_WAIT_POLICY": "passive"}


def asked(code, **environment):
    """What a fresh process without the defaults prints, from JSON."""
    clean = {k: v for k, v in os.environ.items() if k not in process.DEFAULTS} | environment
    command = [sys.executable, "-c", f"import json, os, sys; {code}"]
    done = subprocess.run(command, env=clean, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_harness_sets_them_before_torch_is_loaded_and_the_method_sets_nothing():
    code = "{}; print(json.dumps(['torch' in sys.modules, *map(os.environ.get, ('MKL_CBWR', 'OMP_WAIT_POLICY'))]))"
    assert asked(code.format("import sise.benchmark")) == [False, *process.DEFAULTS.values()]
    assert asked(code.format("from sise import explain")) == [True, None, None]


EQUAL_ROWS = """
import torch
torch.set_num_threads(1)
layer, row = torch.nn.Linear(10, 4), torch.randn(1, 10)
scores = layer(row.expand(16, 10).contiguous())
print(json.dumps(bool((scores == scores[0]).all())))
"""


def test_equal_rows_have_equal_products_in_a_process_of_the_harness():
    """Also where torch was imported before, as in a notebook: MKL reads its setting at the first product."""
    assert asked("import torch, sise.benchmark\n" + EQUAL_ROWS) is True


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu.max": "garbage"}, None),
    ],
    ids=str,
)
def test_cores_of_a_container(tmp_path, files, cores, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    expected = {None: 8, 1.5: 2, 0.5: 1}[cores]
    assert process.usable_cores(tmp_path) == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert process.usable_cores(tmp_path) == 1


def test_threads_are_the_settings_then_the_environments_then_the_usable_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(process, "usable_cores", lambda: 3)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        process.use_threads(None)
        assert torch.get_num_threads() == 4
        monkeypatch.delenv("OMP_NUM_THREADS")
        process.use_threads(None)
        assert torch.get_num_threads() == 3
        process.use_threads(5)
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)


def watched(caplog, threads, others, seconds=60.0):
    """What is said of ``threads`` that ran for some seconds beside ``others`` busy cores, on four cores."""
    times = iter([(0.0, 0.0, 0.0), (seconds, seconds * (others + 1), seconds), (2 * seconds, 0.0, 0.0)])
    watch = process.CrowdWatch(threads, 4, lambda: next(times))
    watch.look()
    watch.look()
    return [record.getMessage() for record in caplog.records]


def test_a_run_among_others_says_once_why_it_crawls(caplog):
    (said,) = watched(caplog, threads=4, others=2.0)
    assert "keep 2.0 of this machine's 4 cores busy" in said and "4 threads" in said and "engine.threads=1" in said


@pytest.mark.parametrize(("threads", "others", "seconds"), [(4, 0.3, 60), (2, 1.9, 60), (4, 4.0, 5)])
def test_a_run_with_room_or_just_begun_says_nothing(caplog, threads, others, seconds):
    assert watched(caplog, threads, others, seconds) == []


def test_a_system_that_does_not_tell_its_times_is_not_judged(caplog):
    process.CrowdWatch(4, 4, lambda: None).look()
    assert not caplog.records

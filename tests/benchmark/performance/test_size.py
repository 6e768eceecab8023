"""What commands take at COCO's size: each is measured by itself, and against its goal."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from sise.benchmark.performance import size
from sise.errors import SuiteError


def test_a_process_is_measured_and_not_the_one_that_started_it():
    held = np.ones(40_000_000)  # 320 MB, as the suite's own process may hold
    small = size.spent([sys.executable, "-I", "-c", "print('small')"])
    large = size.spent([sys.executable, "-I", "-c", "sum(range(10**6)); print(len(bytes(10**8) + b'x'))"])
    assert small.said == "small\n" and small.processor > 0 and small.wall > 0
    assert 5 < small.peak < 100 < large.peak < held.nbytes / 1e6


def test_a_command_that_fails_is_told_by_its_last_line():
    with pytest.raises(SuiteError, match="ended with 3: no disk"):
        size.spent([sys.executable, "-I", "-c", "import sys; print('first\\nno disk'); sys.exit(3)"])


def measured(folder):
    cfg = OmegaConf.create({"size": {"folder": folder and str(folder)}})
    ((report,),) = size.size(cfg, torch.device("cpu"))
    return report


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have been run, which say that there was nothing to do."""
    run = []
    monkeypatch.setattr(
        size, "spent", lambda command: run.append(command) or size.Spent(2.0, 1.0, 90.0, "0 pairs computed: x")
    )
    return run


def test_each_command_reads_the_fabricated_folder_and_stands_beside_its_goal(tmp_path, commands):
    (tmp_path / "FABRICATED").touch()
    report = measured(tmp_path)
    assert report.name == "fabricated_size" and "FABRICATED" in report.title
    table = report.table.set_index("what")
    assert table["goal, s"].tolist() == [15, 60, 20, 3] and set(table["processor, s"]) == {1.0}
    assert len(commands) == 5 and commands[0] == commands[-1]  # the index is made before it is measured
    for command in commands:
        assert any(str(tmp_path) in word for word in command)
        assert not any(word in ("outputs=outputs", "results=results") for word in command)


def test_only_a_complete_folder_of_fabricated_records_is_measured(tmp_path, commands, monkeypatch):
    for folder in (None, tmp_path):
        with pytest.raises(SuiteError, match=r"size.folder: expected a folder of .*fabricate_records"):
            measured(folder)
    assert not commands
    (tmp_path / "FABRICATED").touch()
    monkeypatch.setattr(size, "spent", lambda command: size.Spent(2.0, 1.0, 90.0, "12 pairs computed: x"))
    with pytest.raises(SuiteError, match="lack records: 12 pairs computed"):
        measured(tmp_path)

"""A file in results/ is there as a whole, before and after whatever happens while it is written."""

from __future__ import annotations

import errno
import os

import pytest

from sise.benchmark.records.files import DiskFull, write_whole
from sise.benchmark.tables.result_files import ResultFolder

BEFORE, NOW = "metric,n\nEBPG,3\n", "metric,n\nEBPG,5\n"


def test_a_disk_that_fills_up_leaves_the_table_that_was_there(tmp_path, monkeypatch):
    folder = ResultFolder(tmp_path)
    folder.write({"a.csv": BEFORE})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(os, "fsync", full)
        folder.write({"a.csv": NOW})
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"] and (tmp_path / "a.csv").read_text() == BEFORE
    folder.write({"a.csv": NOW})
    assert (tmp_path / "a.csv").read_text() == NOW


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.csv").write_text(BEFORE)
    (tmp_path / "a.csv").symlink_to(tmp_path / "elsewhere" / "a.csv")
    ResultFolder(tmp_path).write({"a.csv": NOW})
    assert (tmp_path / "a.csv").is_symlink() and (tmp_path / "elsewhere" / "a.csv").read_text() == NOW


def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path, monkeypatch):
    file = tmp_path / "a.csv"
    file.write_text(BEFORE)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write everything
    with pytest.raises(PermissionError, match=r"a\.csv"):
        write_whole(file, NOW)
    assert file.read_text() == BEFORE

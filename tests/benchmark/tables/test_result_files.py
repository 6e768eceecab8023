"""A file in results/ is there as a whole, before and after whatever happens while it is written."""

from __future__ import annotations

import errno
import os

import pytest
from PIL import Image

from sise.benchmark.records.files import DiskFull, write_whole
from sise.benchmark.records.provenance import save_image
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


def test_what_a_hand_wrote_into_a_table_is_not_replaced(tmp_path):
    said = []
    folder, texts = ResultFolder(tmp_path, say=said.append), {"a.csv": BEFORE, "a.md": "# A\n\n- a note\n"}
    for _ in range(2):
        assert len(folder.write(texts)) == 2 and not said
    (tmp_path / "a.md").write_text((tmp_path / "a.md").read_text().replace("a note", "my note"))
    assert folder.write({**texts, "a.csv": NOW}) == [] and (tmp_path / "a.csv").read_text() == BEFORE
    assert said == [
        "NOT written: a.csv, a.md. a.md was changed by hand since it was made: overwrite=true replaces it, "
        "results=<folder> writes elsewhere."
    ]
    assert ResultFolder(tmp_path, overwrite=True).write(texts) and "my note" not in (tmp_path / "a.md").read_text()
    (tmp_path / "a.md").write_text("of a version without hashes")
    assert folder.write(texts)


@pytest.mark.parametrize("content", ["text", "picture"])
def test_a_picture_that_is_not_the_suites_is_not_replaced(tmp_path, content):
    said, file = [], tmp_path / "mine.png"
    folder = ResultFolder(tmp_path, say=said.append)
    assert folder.may_draw("mine.png", 3)
    file.write_text("notes") if content == "text" else Image.new("RGB", (4, 4)).save(file)
    assert not folder.may_draw("mine.png", 3) and "was not drawn by the suite" in said[0]
    assert ResultFolder(tmp_path, overwrite=True).may_draw("mine.png", 3)
    save_image(Image.new("RGB", (4, 4)), file, ".png", '{"made_of": 3}')
    assert folder.may_draw("mine.png", 3)

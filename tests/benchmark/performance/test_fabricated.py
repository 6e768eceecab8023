"""Fabricated records: as real ones to every command, and nowhere near real ones."""

from __future__ import annotations

import gc
import logging
import math
from weakref import WeakValueDictionary

import pytest
from checkout import ROOT

from sise.benchmark.commands import fabricate_records
from sise.benchmark.performance import fabricated
from sise.benchmark.records import image_hashes, store
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner, status
from sise.benchmark.tables import runs
from sise.errors import SuiteError

SCRIPT = ROOT / "scripts" / "fabricate_records.py"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which folder? "),
        (("folder=outputs",), "nothing fabricated goes to outputs/"),
        (("folder=results/x",), "nothing fabricated goes to results/"),
    ],
)
def test_it_is_refused_where_real_results_are(words, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *words])
    monkeypatch.chdir(SCRIPT.parents[1])
    with pytest.raises(SystemExit) as end:
        fabricate_records.main()
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_a_folder_with_something_else_in_it_stays_as_it_is(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(SuiteError, match="holds something else"):
        fabricated.check_folder(tmp_path, ROOT)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fabricated")
    fabricated.check_folder(path, ROOT)
    fabricated.write_data(path, images=40)
    fabricated.write_networks(path)
    return path, dict(fabricated.write_runs(path, cells=2))


def test_the_records_are_complete_and_like_real_ones(folder, caplog):
    path, written = folder
    pairs = 40 * fabricated.PAIRS // fabricated.IMAGES
    assert list(written.values()) == [pairs, pairs]
    for found in status.of_outputs(path / "outputs"):
        assert (found.done, found.stale, found.failed, found.missing) == (pairs, 0, 0, 0)
    for run in runs.find_runs(path / "outputs"):
        told = RunFolder(run.path).environments()
        assert [session["note"] for session in told] == ["FABRICATED"]
        facts = run.records.facts
        assert {"EBPG", "mIoU", "Bbox", "Drop%", "Increase%", "mask_fraction", "image_hash"} <= set(facts.filled)
        assert math.isfinite(facts.seconds) and all(0 <= v <= 1 for v in run.records.numbers("EBPG"))


@pytest.mark.parametrize("targets", ["all", "argmax"])
def test_a_run_of_them_misses_nothing_and_holds_pairs_once(folder, caplog, monkeypatch, targets):
    path, _ = folder
    monkeypatch.setattr(store, "WORTH", 1)
    caplog.set_level(logging.INFO)
    cells = run_cells.make_cells(fabricated.configs_of(path, [f"protocol.targets={targets}"], cells=2))
    for cell in cells:  # one of other targets would be another run
        monkeypatch.setattr(cell, "identity", lambda path=cell.path: RunFolder(path).identity)
    opened = runner.read

    def after_a_collection(run):
        gc.collect()
        return opened(run)

    monkeypatch.setattr(runner, "read", after_a_collection)
    for kept in ("_shared_pairs", "_shared_images"):
        monkeypatch.setattr(store, kept, WeakValueDictionary())
    indices, read_index = [], image_hashes._read
    monkeypatch.setattr(image_hashes, "_read", lambda index: indices.append(index) or read_index(index))
    looked_up, select = [], store._Copy._select
    monkeypatch.setattr(store._Copy, "_select", lambda *given: looked_up.append(given[1]) or select(*given))
    assert runner.run(cells) == 0 and "nothing missing" in caplog.text
    assert all((cell.path / store.COPY).exists() for cell in cells)
    assert cells[0].good._shared is cells[1].good._shared and not cells[0].good._own
    assert looked_up == [["image_id", "target"], ["image_id", "image_hash"]]  # of one cell, the other shares them
    assert len(indices) == 1
    assert cells[0].computed == 0

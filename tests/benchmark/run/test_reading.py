"""Images are read while the last one is explained: the same records, in the same order, and the overlap itself."""

from __future__ import annotations

import threading

import pretend_gpu
import pytest
from compositions import composed
from toy import ToyDataset

from sise.benchmark.run import cells, runner
from sise.benchmark.run.reading import ReadAhead
from sise.scoring import Scorer

ENOUGH = 20.0
"""Seconds to wait for what is to happen."""


def test_images_come_in_their_order_and_no_more_than_asked_for_lie_ready():
    read, ready = [], threading.Semaphore(0)

    def look(name):
        read.append(name)
        ready.release()
        return name.upper()

    with ReadAhead("abcdef", look, 2) as reader:
        assert [ready.acquire(timeout=ENOUGH) for _ in "ab"] == [True, True]
        assert not ready.acquire(timeout=0.1)  # c is not read before a is asked for
        assert reader.next("a") == "A" and ready.acquire(timeout=ENOUGH)
        assert read == ["a", "b", "c"] and [reader.next(n) for n in "bcdef"] == list("BCDEF")
    assert threading.active_count() == len(threading.enumerate()) and read == list("abcdef")


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_belongs_to_its_image_and_an_early_end_reads_no_more(ahead):
    read = []

    def look(name):
        read.append(name)
        if name == "b":
            raise OSError("torn")
        return name

    with ReadAhead("abcdefgh", look, ahead) as reader:
        assert reader.next("a") == "a"
        with pytest.raises(OSError, match="torn"):
            reader.next("b")
        assert reader.next("c") == "c"
    count = len(read)
    assert 3 <= count <= 3 + ahead and not any(t.name.startswith("reader") for t in threading.enumerate())


class Watched(ToyDataset):
    """Notes when an image begins to be read."""

    def __init__(self, begun: dict[str, threading.Event]) -> None:
        super().__init__(4, broken=None)
        self.begun = begun

    def __getitem__(self, image_id):
        self.begun.setdefault(image_id, threading.Event()).set()
        return super().__getitem__(image_id)


def run_of(outputs, ahead, device="cpu", dataset=None):
    cfg = composed("evaluate", "explainer=score_cam", f"device={device}", "engine.batch_size=16").copy()
    cfg.outputs, cfg.engine.read_ahead = str(outputs), ahead
    cfg.dataset.name, cfg.model.name = "toy", "toynet"
    cfg.dataset.loader = {"_target_": "toy.ToyDataset"}
    cfg.model.loader = {"_target_": "toy.toy_model"}
    (cell,) = cells.make_cells([cfg])
    cell.dataset = dataset or cell.dataset
    runner.run([cell])
    own = ("seconds", "session")
    return [{key: value for key, value in record.items() if key not in own} for record in cell.folder.read()]


def test_the_records_are_those_of_reading_one_after_the_other(tmp_path):
    expected = run_of(tmp_path / "0", 0)
    assert run_of(tmp_path / "2", 2) == expected == run_of(tmp_path / "9", 9)
    assert {r["status"] for r in expected} == {"ok", "failed"} and "truncated" in str(expected)


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_next_image_is_read_while_the_card_works_on_this_one(ahead, tmp_path, monkeypatch):
    begun: dict[str, threading.Event] = {}
    overlaps, score = [], Scorer.score

    def score_slowly(scorer, segments):
        """While the masks of an image are scored, waits for the next one to be read, if anybody reads it."""
        if any(len(segment.maps) > 1 for segment in segments) and len(overlaps) < 3:
            following = begun.setdefault(f"{len(overlaps) + 1:02d}", threading.Event())
            overlaps.append(following.wait(ENOUGH if ahead else 0.2))
        return score(scorer, segments)

    with pretend_gpu.card():
        dataset = Watched(begun)
        monkeypatch.setattr(Scorer, "score", score_slowly)
        monkeypatch.setattr(runner, "_checked", lambda *arguments: (0.0, 0.0))  # reads an image too
        monkeypatch.setattr("sise.benchmark.run.runner.remember_faithfulness_passes", lambda *arguments: None)
        monkeypatch.setattr("sise.metrics.faithfulness.confidences", lambda *arguments, **options: (0.5, 0.5))
        records = run_of(tmp_path, ahead, "cuda", dataset)
    assert len(records) >= 4 and overlaps == [bool(ahead)] * 3

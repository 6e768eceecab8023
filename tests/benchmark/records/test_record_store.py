"""The columnar copy of records: it says what the lines say, to the last digit, and is used only while it does."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sise.benchmark.records import store
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.store import COPY, keep, pairs_of, read
from sise.benchmark.tables import judging, make, statistics, words
from sise.benchmark.tables import runs as tables_runs
from sise.errors import SuiteError

IDENTITY = {"dataset": "d"}


@pytest.fixture(autouse=True)
def worth(monkeypatch):
    """A copy is made of the fewest records."""
    monkeypatch.setattr(store, "WORTH", 1)


def ok(image_id, target=0, **values):
    return {"image_id": image_id, "target": target, "class": "a", "status": "ok", "undefined": [], **values}


def failed(image_id, target=0, **values):
    return {"image_id": image_id, "target": target, "class": "a", "status": "failed", "reason": "OSError", **values}


def write(path, *files):
    """A run folder with records in one or more files, as the text that they are."""
    RunFolder(path, IDENTITY)
    for number, records in enumerate(files):
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (path / f"records-{number}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return RunFolder(path)


def from_lines(folder):
    return store._Lines(folder.read())


def is_copy(records):
    return isinstance(records, store._Copy)


def shown(value):
    """A value to its last digit; a column of whole and other numbers makes all of them others."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    return repr(None if value is pd.NA or value is np.nan else value)


def assert_same(copied, lines):
    """Whether two readers say the same of everything that can be asked."""
    assert copied.facts == lines.facts or (math.isnan(copied.facts.seconds) and math.isnan(lines.facts.seconds))
    assert list(copied.pairs.index) == list(lines.pairs.index) and copied.pairs.good == set(lines.pairs.index)
    keys = [*lines.facts.keys, "of no record"]
    for good in (False, True):
        ours, theirs = copied.tuples(keys, good=good), lines.tuples(keys, good=good)
        assert [list(map(shown, row)) for row in ours] == [list(map(shown, row)) for row in theirs]
    for key in keys:
        ours, theirs = copied.column(key).astype(object), lines.column(key).astype(object)
        assert ours.isna().tolist() == theirs.isna().tolist()
        assert list(map(shown, ours.dropna())) == list(map(shown, theirs.dropna())), key
        ours, theirs = copied.listed(key), lines.listed(key)
        assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
        assert list(ours) == list(theirs)


# the same as the lines ----------------------------------------------------------------------------------------------

ODD = {
    "duplicates": [[failed("1"), ok("1", EBPG=0.1), ok("1", EBPG=0.2), failed("1"), failed("2"), failed("2", 3)]],
    "files": [[ok("1", EBPG=0.1), ok("2", EBPG=0.1)], [failed("1"), ok("2", EBPG=0.3), ok("0", EBPG=0.1)]],
    "a whole image's failure": [[failed("1", -1), ok("1", 4), failed("2", -1), failed("3", -1), failed("3", 2)]],
    "the last digit": [[ok("1", EBPG=0.1 + 0.2, mIoU=1e-7, Bbox=5e-324), ok("2", EBPG=-0.0, mIoU=1 / 3, Bbox=1e22)]],
    "no value": [[ok("1", EBPG=None, mIoU=0.5), ok("2", mIoU=0.5), ok("3", EBPG=0.5)]],
    "no value at all": [[ok("1", EBPG=None), ok("2")]],
    "not a number": [['{"image_id": "1", "target": 0, "class": "a", "status": "ok", "EBPG": NaN, "seconds": 0.5}',
                      ok("2", EBPG=0.5, seconds=1.5)]],
    "whole numbers": [[ok("1", EBPG=1, mIoU=1, Bbox=2**53 + 1), ok("2", EBPG=0.5, mIoU=0, Bbox=7)]],
    "lists": [[ok("1", undefined=["Bbox", "EBPG"], remarks=["b", "a", "a"]), ok("2"), ok("3", undefined=["EBPG"])]],
    "lists of something else": [[ok("1", undefined=[1, "EBPG"]), ok("2", undefined="EBPG"), ok("3", undefined=None)]],
    "kinds that are mixed": [[ok("1", difficult=True, note="x"), ok("2", difficult=1, note=["x"]), ok("3", note={})]],
    "texts": [[ok("é"), ok("z", note='"; drop table pairs'), ok("10", note="'"), ok("9", **{'a "key", so': 1.5})]],
    "sessions": [[ok("1", session="b"), ok("0"), failed("00", session="c"), ok("2", session="a")]],
    "clusters and hashes": [[ok("1", cluster="x", image_hash="ab"), ok("1", 1, image_hash="ab"), ok("2", cluster="y")]],
    "only failures": [[failed("1"), failed("0", reason="first")]],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_the_copy_says_what_the_lines_say(tmp_path, name):
    folder = write(tmp_path, *ODD[name])
    made, again = read(folder), read(folder)
    assert is_copy(made) and is_copy(again)
    assert_same(made, from_lines(folder))
    assert_same(again, from_lines(folder))


VALUES = st.one_of(st.floats(allow_nan=False), st.integers(-9, 9), st.none())
LINES = st.lists(
    st.builds(
        lambda image, target, good, values: {**(ok if good else failed)(image, target), **values},
        st.sampled_from(["1", "2", "03", "Ä"]), st.integers(-1, 1), st.booleans(),
        st.dictionaries(st.sampled_from(["EBPG", "seconds", "session"]), VALUES, max_size=2),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(LINES, min_size=1, max_size=3))
def test_so_it_does_of_any_records(tmp_path_factory, files):
    folder = write(tmp_path_factory.mktemp("run"), *files)
    copied = read(folder)
    lines = from_lines(folder)
    assert is_copy(copied) and len(copied.pairs.index) == lines.facts.good
    assert (copied.facts.count, copied.facts.pairs) == (lines.facts.count, lines.facts.pairs)
    got, want = (found.column("EBPG").astype(float).fillna(7).tolist() for found in (copied, lines))
    assert got == want


@pytest.mark.parametrize(
    "line",
    ['{"image_id": "2"', "", "[]", "3", '{"image_id": "2", "target": 1, "status": "ok"}', json.dumps(ok(2)),
     json.dumps(ok("2", True)), json.dumps(ok("2", 1.0)), json.dumps(ok("2")) + json.dumps(ok("3"))],
)  # fmt: skip
def test_what_is_no_record_is_refused_as_before(tmp_path, line):
    folder = write(tmp_path, [ok("1"), line, ok("3")])
    with pytest.raises(SuiteError, match=r"line 2 of .*records-0.jsonl is not a record"):
        read(folder)
    assert not (tmp_path / COPY).exists()


@pytest.mark.parametrize("line", ['{"image_id": "\\ud800", %s}', '{"image_id": "2", "EBPG": 1, "EBPG": 2, %s}',
                                  '{"image_id": "2", "EBPG": 1, "ebpg": 2, %s}'])  # fmt: skip
def test_what_only_python_can_read_is_read_from_the_lines(tmp_path, line):
    folder = write(tmp_path, [ok("1"), line % '"target": 0, "class": "a", "status": "ok"'])
    found = read(folder)
    assert not is_copy(found) and found.facts == from_lines(folder).facts and found.facts.count == 2


def test_a_torn_last_line_is_left_out_with_its_image(tmp_path):
    folder = write(tmp_path, [ok("1", EBPG=0.1), ok("2", 0, EBPG=0.2), ok("2", 1, EBPG=0.3)])
    assert read(folder).facts.count == 3
    file = tmp_path / "records-0.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="torn"):
        found = read(folder)
    assert list(found.pairs.index) == [("1", 0)]


# only while it does -------------------------------------------------------------------------------------------------


def append(path):
    with (path / "records-0.jsonl").open("a") as stream:
        stream.write(json.dumps(ok("9", EBPG=0.5)) + "\n")


def edit(path):
    """Another value of the same length, and the times as they were."""
    file, before = path / "records-0.jsonl", (path / "records-0.jsonl").stat()
    file.write_text(file.read_text().replace("0.125", "0.625"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def damage(path):
    (path / COPY).write_bytes((path / COPY).read_bytes()[:-20])


CHANGES = {
    "appended": append,
    "edited": edit,
    "a file more": lambda path: (path / "records-z.jsonl").write_text(json.dumps(ok("9")) + "\n"),
    "a file less": lambda path: (path / "records-1.jsonl").unlink(),
    "a file of another name": lambda path: (path / "records-1.jsonl").rename(path / "records-.jsonl"),
    "another copy": lambda path: (path / COPY).write_text("PAR1"),
    "a damaged copy": damage,
    "no copy": lambda path: (path / COPY).unlink(),
    "a Parquet file of somebody else": lambda path: store._engine().execute(
        f"copy (select 1 as a) to '{path / COPY}' (format parquet)"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_of_other_records_is_made_anew(tmp_path, change):
    folder = write(tmp_path, [ok("1", EBPG=0.125), ok("2", EBPG=0.5)], [ok("1", EBPG=0.25), ok("3", EBPG=0.5)])
    read(folder)
    CHANGES[change](tmp_path)
    now = read(folder)
    assert is_copy(now)
    assert_same(now, from_lines(folder))
    assert_same(read(folder), from_lines(folder))


def test_a_folder_that_was_copied_elsewhere_keeps_its_copy(tmp_path):
    write(tmp_path / "a", [ok("1", EBPG=0.125)])
    read(RunFolder(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)  # with times of its own
    before = (tmp_path / "b" / COPY).stat()
    assert is_copy(read(RunFolder(tmp_path / "b")))
    assert (tmp_path / "b" / COPY).stat() == before


def test_nothing_is_lost_where_no_copy_can_be_written(tmp_path, monkeypatch):
    folder = write(tmp_path, [ok("1", EBPG=0.125)])

    def refuse(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr(store.tempfile, "mkstemp", refuse)
    found = read(folder)
    assert not is_copy(found) and found.facts.count == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["records-0.jsonl", "run.json"]


def test_a_copy_is_made_of_many_records_when_nobody_writes_them(tmp_path, monkeypatch):
    folder = write(tmp_path, [ok("1")])
    with RunFolder(tmp_path, IDENTITY, shard="of another process"):
        keep(folder)
    assert not (tmp_path / COPY).exists()
    monkeypatch.setattr(store, "WORTH", 10_000)
    keep(folder)
    assert not (tmp_path / COPY).exists() and not is_copy(read(folder))
    monkeypatch.setattr(store, "WORTH", 1)
    keep(folder)
    assert (tmp_path / COPY).exists() and not list(tmp_path.glob(".*"))
    RunFolder(tmp_path, IDENTITY, overwrite=True)
    assert not (tmp_path / COPY).exists()


def test_runs_of_the_same_pairs_share_them(tmp_path):
    one = read(write(tmp_path / "a", [ok("1"), ok("2")]))
    two = read(write(tmp_path / "b", [ok("2"), ok("1"), failed("3")]))
    other = read(write(tmp_path / "c", [ok("2"), ok("2", 1)]))
    assert one.pairs is two.pairs and one.pairs is not other.pairs
    assert pairs_of([one, two]) is one.pairs.index
    assert list(pairs_of([one, two, other])) == [("1", 0), ("2", 0), ("2", 1)] and len(pairs_of([])) == 0


# tables -------------------------------------------------------------------------------------------------------------


def by_the_lines(folders, metric):
    """Values per pair as tables were made of before there was a copy: the witness."""
    found = pd.concat([pd.DataFrame([r for r in f.read() if r["status"] == "ok"]) for f in folders], ignore_index=True)
    values = pd.to_numeric(found[metric]) * 100.0
    return values.groupby([found["image_id"], found["target"]]).mean().dropna()


def runs_in(outputs):
    """Two seeds of one method and another method on some of the pairs; values missing, undefined and failed."""
    rng = np.random.default_rng(0)

    def records(skip):
        found = [ok(f"{i:03d}", t, EBPG=float(rng.random()), seconds=float(rng.random())) for i in range(60)
                 for t in range(1 + i % 3) if i % skip]  # fmt: skip
        del found[5]["EBPG"]
        found[7]["undefined"] = ["EBPG"]
        return [*found, found[0] | {"EBPG": 0.5}, failed("070"), failed(found[1]["image_id"], found[1]["target"])]

    for explainer, seed, skip in (("rise", 0, 7), ("rise", 1, 7), ("sise", None, 11), ("grad_cam", None, 11)):
        identity = {
            "dataset": "voc2007", "model": "vgg16", "explainer": explainer, "variant": "paper", "protocol": "paper",
            "seed": seed, "label": explainer.upper(), "config": {}, "weights_hash": "abc", "format": 2,
            "departures": [], "budget": None, "left_out": None, "dataset_note": "", "expected_pairs": 100,
            "complete_dataset": True, "weights_official": True,
        }  # fmt: skip
        with RunFolder(outputs / f"{explainer}{seed}", identity) as folder:
            folder.append(records(skip))


def test_values_of_pairs_are_those_of_the_lines_to_the_last_digit(tmp_path):
    runs_in(tmp_path)
    runs = tables_runs.find_runs(tmp_path)
    for explainer in ("rise", "sise"):
        group = [run for run in runs if run.identity["explainer"] == explainer]
        assert all(is_copy(run.records) for run in group)
        folders = [RunFolder(run.path) for run in group]
        got, want = tables_runs.pair_values(group, "EBPG"), by_the_lines(folders, "EBPG")
        pd.testing.assert_series_equal(got, want, check_exact=True, check_names=False, check_index_type=False)
        for average in statistics.AVERAGES:
            measured = judging.measure(group, "EBPG", average)
            named = want.set_axis(pd.MultiIndex.from_tuples([(f"cluster of {i}", t) for i, t in want.index]))
            assert (measured["mean"], measured["standard error"]) == statistics.averaged(named, average)
        lines = [record for folder in folders for record in folder.read()]
        assert measured["failed"] == sum(r["status"] != "ok" for r in lines) == len(group)
        assert measured["missing"] == sum(r["status"] == "ok" and "EBPG" not in r for r in lines) == len(group)
        assert measured["undefined"] == sum("EBPG" in r.get("undefined", ()) for r in lines) == len(group)


def everything(outputs, results):
    definition = {"name": "t", "title": "T", "extras": True, "columns": []}
    from sise.benchmark.tables import comparisons

    make.tabulate({"default": definition}, outputs=outputs, results=results, writers=[comparisons.write],
                    published=words.CONFIGS.parent / "results/published/published_results.csv",
                    say=lambda text: None)  # fmt: skip
    return {file.name: file.read_bytes() for file in results.iterdir()}


def test_tables_of_copies_are_those_of_the_lines(tmp_path, monkeypatch):
    runs_in(tmp_path / "outputs")
    with monkeypatch.context() as patch:
        patch.setattr(store, "WORTH", math.inf)
        lines = everything(tmp_path / "outputs", tmp_path / "a")
    made = everything(tmp_path / "outputs", tmp_path / "b")
    assert len(list((tmp_path / "outputs").rglob(COPY))) == 4
    assert lines == made == everything(tmp_path / "outputs", tmp_path / "c") and "t_voc2007_statistics.csv" in made


def test_a_thousand_shards_make_the_tables_of_one_run(tmp_path):
    """Split into other numbers from one time to the next, each computing what was missing and some of it again."""
    runs_in(tmp_path / "one")
    rng = np.random.default_rng(1)
    for run in (tmp_path / "one").iterdir():
        records = RunFolder(run).read()
        identity = RunFolder(run).identity
        shards = 0
        for count, share in ((4, 0.3), (90, 0.5), (900, 0.9), (6, 1.0)):
            for number in range(count):
                mine = [r for r in records[number::count] if rng.random() < share]
                path = tmp_path / "many" / run.name
                with warnings.catch_warnings(), RunFolder(path, identity, shard=f"{number + 1}-of-{count}") as folder:
                    folder.append(mine)
                shards += 1
        assert shards == 1000 == len(list((tmp_path / "many" / run.name).glob("records-*.lock")))
    assert everything(tmp_path / "many", tmp_path / "b") == everything(tmp_path / "one", tmp_path / "a")

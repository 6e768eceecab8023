"""Run folders: nothing is lost, mixed or silently dropped, whatever happens while they are written."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sise.benchmark.records import folder as records_folder
from sise.benchmark.records import locks as records_locks
from sise.benchmark.records.environment import environment, without_folders, without_places
from sise.benchmark.records.files import DiskFull
from sise.benchmark.records.folder import RunFolder, differences
from sise.errors import SuiteError

IDENTITY = {"dataset": "d", "config": {"explainer": {"name": "rise", "num_masks": 4000}, "metrics": {}}, "seed": None}


def ok(image_id="000067", target=14, **values):
    return {"image_id": image_id, "target": target, "class": "person", "status": "ok"} | values


def failed(image_id="000067", target=14):
    return ok(image_id, target, status="failed", reason="ValueError: no")


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path / "run", IDENTITY) as folder:
        yield folder


def test_records_come_back_as_they_went_in_floats_exact(folder):
    values = [0.1, 1 / 3, math.pi * 1e-300, 5e-324, 0.0, -0.0, 1.7976931348623157e308]
    went = [ok(str(i), EBPG=v, note="ü\n\u2028|") for i, v in enumerate(values)]
    folder.append(went[:3])
    folder.append(went[3:])
    came = RunFolder(folder.path).read()
    assert came == went
    assert [math.copysign(1, r["EBPG"]) for r in came] == [math.copysign(1, v) for v in values]
    assert (folder.path / "records.jsonl").read_bytes().count(b"\n") == len(values)


def test_numpy_and_torch_scalars_keep_their_value(folder):
    folder.append([ok("1", np.int64(3), a=np.float32(0.1), b=torch.tensor(0.25), c=np.bool_(True))])
    (record,) = folder.read()
    assert (record["target"], record["a"], record["b"], record["c"]) == (3, float(np.float32(0.1)), 0.25, True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf)])
def test_a_number_that_is_not_finite_is_refused_and_named(folder, value):
    with pytest.raises(SuiteError, match=r"'7', target 14: EBPG is .*undefined"):
        folder.append([ok("6"), ok("7", EBPG=value)])
    assert folder.read() == []  # all or nothing


def test_a_nested_number_that_is_not_finite_is_refused(folder):
    with pytest.raises(SuiteError, match="cannot be written as JSON"):
        folder.append([ok(extra=[math.nan])])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image_id": "1", "target": 0, "class": "a"}, "misses status"),
        (ok(image_id=67), "is a string"),
        (ok(status="done"), "'ok' or 'failed'"),
    ],
)
def test_a_record_without_its_keys_is_refused(folder, record, message):
    with pytest.raises(SuiteError, match=message):
        folder.append([record])


def test_the_last_record_wins_and_ok_beats_failed(folder):
    folder.append([failed("1"), failed("2"), ok("3", EBPG=0.1), ok("4", EBPG=0.1)])
    folder.append([ok("1"), failed("2"), ok("3", EBPG=0.2), failed("4")])
    assert [(r["image_id"], r["status"], r.get("EBPG")) for r in folder.read()] == [
        ("1", "ok", None), ("2", "failed", None), ("3", "ok", 0.2), ("4", "ok", 0.1)]  # fmt: skip
    assert folder.done() == {("1", 14), ("3", 14), ("4", 14)}
    assert folder.failed() == {("2", 14)}


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_is_left_out_and_does_not_swallow_the_next(tmp_path, cut):
    with RunFolder(tmp_path, IDENTITY) as folder:
        folder.append([ok("1"), ok("2")])
    file = tmp_path / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    torn = file.read_bytes()
    with pytest.warns(UserWarning, match="torn"):
        assert RunFolder(tmp_path).done() == {("1", 14)}
    assert file.read_bytes() == torn  # reading changes nothing: somebody may be writing
    with RunFolder(tmp_path, IDENTITY) as folder, pytest.warns(UserWarning, match="torn"):
        folder.append([ok("3")])
    assert RunFolder(tmp_path).done() == {("1", 14), ("3", 14)}


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(folder):
    folder.append([ok("1")])
    with (folder.path / "records.jsonl").open("a") as stream:
        stream.write('{"image_id": "2"\n' + json.dumps(ok("3")) + "\n")
    with pytest.raises(SuiteError, match=r"line 2 of .*records.jsonl is not a record.*delete that line"):
        folder.read()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[]", "no JSON object"),
        ('{"image_id": "2", "target": 1, "status": "ok"}', "it has no class"),
        (json.dumps(ok(2)), "expected a text as image_id"),
        (json.dumps(ok("2", "1")), "a whole number as target"),
    ],
)
def test_a_line_of_another_kind_is_an_error_too(folder, line, why):
    folder.append([ok("1")])
    with (folder.path / "records.jsonl").open("a") as stream:
        stream.write(f"{line}\n{json.dumps(ok('3'))}\n")
    with pytest.raises(SuiteError, match=rf"line 2 of .*records.jsonl is not a record \(.*{why}"):
        folder.read()


@pytest.mark.parametrize("text", ["x", "{}", "[3]", ""])
def test_a_broken_list_of_sessions_is_an_error_that_names_it(folder, text):
    folder.append([ok("1")])
    (folder.path / "environment.json").write_text(text)
    for use in (folder.environments, lambda: folder.add_environment({"device": "cpu"})):
        with pytest.raises(SuiteError, match=r"environment.json is not a list of sessions .*delete it"):
            use()


def test_shards_share_a_run(tmp_path):
    with RunFolder(tmp_path, IDENTITY, shard="0") as a, RunFolder(tmp_path, IDENTITY, shard="1") as b:
        a.append([ok("1")])
        b.append([ok("2"), failed("1")])
    assert sorted(f.name for f in tmp_path.glob("*.jsonl")) == ["records-0.jsonl", "records-1.jsonl"]
    assert RunFolder(tmp_path).done() == {("1", 14), ("2", 14)}


# identity -----------------------------------------------------------------------------------------------------------


def test_the_same_identity_opens_again_and_key_order_does_not_matter(tmp_path):
    RunFolder(tmp_path, IDENTITY)
    RunFolder(tmp_path, dict(reversed(IDENTITY.items())))
    assert RunFolder(tmp_path).identity == IDENTITY
    assert [f.name for f in tmp_path.iterdir()] == ["run.json"]  # no temporary files


def test_another_identity_is_refused_and_exactly_the_differences_are_listed(tmp_path):
    RunFolder(tmp_path, IDENTITY)
    other = {"dataset": "d", "config": {"explainer": {"name": "rise", "num_masks": 500}, "metrics": {}}, "extra": "x"}
    with pytest.raises(SuiteError) as caught:
        RunFolder(tmp_path, other)
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "  config.explainer.num_masks: 4000 -> 500",
        '  extra: (absent) -> "x"',
        "  seed: null -> (absent)",
    ]
    assert "variant=<another name>" in lines[0] and "overwrite=true" in lines[0]
    assert RunFolder(tmp_path).identity == IDENTITY


def test_overwrite_starts_anew_and_leaves_other_files(tmp_path):
    with RunFolder(tmp_path, IDENTITY) as folder:
        folder.append([ok()])
    (tmp_path / "notes.txt").write_text("mine")
    fresh = RunFolder(tmp_path, {"dataset": "e"}, overwrite=True)
    assert (fresh.identity, fresh.read()) == ({"dataset": "e"}, [])
    assert (tmp_path / "notes.txt").exists()


def test_a_folder_without_a_run_cannot_be_read(tmp_path):
    with pytest.raises(SuiteError, match=r"run\.json"):
        RunFolder(tmp_path)


# two writers --------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    second = RunFolder(tmp_path, IDENTITY)
    with RunFolder(tmp_path, IDENTITY) as first:
        first.append([ok("1")])
        with pytest.raises(SuiteError, match="another process is writing"):
            second.append([ok("2")])
        with pytest.raises(SuiteError, match="another process is writing"):
            RunFolder(tmp_path, IDENTITY, overwrite=True)
        assert second.done() == {("1", 14)}  # reading is free
    second.append([ok("2")])
    second.close()
    assert second.done() == {("1", 14), ("2", 14)}


def test_a_killed_writer_leaves_no_lock_behind(tmp_path):
    code = (
        "import sys, time; from sise.benchmark.records.folder import RunFolder\n"
        f"folder = RunFolder(sys.argv[1], {IDENTITY!r}); folder.append([{ok('1')!r}]); print('there', flush=True)\n"
        "time.sleep(60)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    try:
        assert process.stdout.readline().strip() == b"there"
        with pytest.raises(SuiteError, match="another process"):
            RunFolder(tmp_path, IDENTITY).lock()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with RunFolder(tmp_path, IDENTITY) as folder:
        folder.append([ok("2")])
    assert folder.done() == {("1", 14), ("2", 14)}


# a full disk --------------------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_every_record_and_says_what_to_do(folder, monkeypatch):
    folder.append([ok("1")])
    before = (folder.path / "records.jsonl").read_bytes()
    write = os.write
    calls = []

    def full(descriptor, data):  # takes the first bytes, as a real one does, then no more
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SuiteError, match=r"disk .* full.*intact.*same command"):
        folder.append([ok("2"), ok("3")])
    assert (folder.path / "records.jsonl").read_bytes() == before
    monkeypatch.undo()
    folder.append([ok("2")])
    assert folder.done() == {("1", 14), ("2", 14)}


def test_records_go_out_in_one_write(folder, monkeypatch):
    write = os.write
    calls = []
    monkeypatch.setattr(os, "write", lambda d, data: calls.append(data) or write(d, data))
    folder.append(ok(str(i)) for i in range(100))
    assert len(calls) == 1 and calls[0].endswith(b"}\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_full(folder, monkeypatch):
    folder.append([ok("1")])
    monkeypatch.setattr(os, "ftruncate", lambda *_: None)  # not for devices
    keep, folder._descriptor = folder._descriptor, os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(SuiteError, match="full"):
        folder.append([ok("2")])
    os.close(folder._descriptor)
    folder._descriptor = keep


# environment --------------------------------------------------------------------------------------------------------


def test_environment_says_what_matters_without_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["/somewhere/scripts/evaluate.py", "dataset.root=/data/VOC 2007", "limit=3"])
    entry = environment()
    assert entry["packages"]["torch"] == torch.__version__.split("+")[0] or entry["packages"]["torch"]
    assert {"torchvision", "torchray", "numpy", "scikit-image"} <= entry["packages"].keys()
    assert entry["device"] == entry["cpu"] != ""
    assert entry["command"] == "evaluate.py dataset.root=... limit=3"
    assert "/somewhere" not in json.dumps(entry) and os.getcwd() not in json.dumps(entry)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OSError: /home/me/x.jpg, C:\\data\\y.jpg", "OSError: x.jpg, y.jpg"),
        ("outputs=outputs/a table=b", "outputs=outputs/a table=b"),
        ("[~/a/b,/c/d]", "[b,d]"),
        ("1 / 3 and 3/4", "1 / 3 and 3/4"),
    ],
)
def test_without_folders(text, expected):
    assert without_folders(text) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("dataset.root=/data/VOC 2007", "dataset.root=..."),
        ("image=[~/a/b,/c/d]", "image=[...,...]"),
        ("model.weights=C:\\a\\b.pth", "model.weights=..."),
        ("outputs=outputs/a", "outputs=outputs/a"),
        ("shard=3/4", "shard=3/4"),
    ],
)
def test_a_command_has_no_shortened_path(word, expected):
    assert without_places(word) == expected


def test_an_identity_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(SuiteError, match=r"run\.json: expected a JSON object, got a list; delete the folder"):
        _ = RunFolder(tmp_path).identity


def test_sessions_are_kept_and_equal_ones_once(folder):
    folder.add_environment({"device": "A", "time": "1"})
    folder.add_environment({"device": "A", "time": "2"})
    folder.add_environment({"device": "B", "time": "3"})
    folder.add_environment({"device": "A", "time": "4"})
    assert [e["device"] for e in folder.environments()] == ["A", "B"]
    assert json.loads((folder.path / "environment.json").read_text())[0]["time"] == "1"


def test_a_session_is_named_by_its_records(folder):
    folder.append([ok("1")])
    folder.add_environment({"device": "A", "command": "x", "time": "1"})
    folder.append([ok("2")])
    folder.add_environment({"device": "A", "command": "y", "time": "2"})  # the same session
    folder.append([ok("3")])
    folder.add_environment({"device": "B", "command": "y", "time": "3"})
    folder.append([ok("4")])
    first, second = (entry["session"] for entry in folder.environments())
    assert [r.get("session") for r in folder.read()] == [None, first, first, second]


def test_shards_keep_their_sessions_apart(tmp_path):
    with RunFolder(tmp_path, IDENTITY, shard="1-of-2") as a, RunFolder(tmp_path, IDENTITY, shard="2-of-2") as b:
        a.add_environment({"device": "A", "time": "2"})
        b.add_environment({"device": "B", "time": "1"})
        b.add_environment({"device": "A", "time": "3"})
    assert [(e["device"], e["time"]) for e in RunFolder(tmp_path).environments()] == [("B", "1"), ("A", "2")]


# merging ------------------------------------------------------------------------------------------------------------

RECORDS = st.lists(
    st.builds(
        lambda image, target, good, value: ok(image, target, EBPG=value) if good else failed(image, target),
        st.sampled_from(["1", "2", "03"]), st.integers(0, 1), st.booleans(), st.sampled_from([0.25, 0.5, 1.0]),
    ),
    max_size=8,
)  # fmt: skip


def merged(*files):
    with tempfile.TemporaryDirectory() as path:
        for i, records in enumerate(files):
            with RunFolder(path, IDENTITY, shard=f"{i}-of-9") as folder:
                folder.append(records)
        return RunFolder(path).read()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_merging_keeps_every_pair_once_and_repeating_it_changes_nothing(files):
    result = merged(*files)
    keys = [(r["image_id"], r["target"]) for r in result]
    everything = [record for records in files for record in records]
    assert keys == sorted({(r["image_id"], r["target"]) for r in everything})
    assert all(record in everything for record in result)
    for record in result:  # good as soon as any file has it good
        same = [r for r in everything if (r["image_id"], r["target"]) == (record["image_id"], record["target"])]
        assert (record["status"] == "ok") == any(r["status"] == "ok" for r in same)
    assert merged(*files, *files) == merged(result) == merged(result, result) == result
    assert merged(*files, result) == result


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 11), unique=True, min_size=1), st.permutations(range(3)))
def test_disjoint_shards_merge_in_any_order(images, order):
    shards = [[ok(f"{i:02d}", EBPG=i / 16) for i in images if i % 3 == part] for part in range(3)]
    assert merged(*(shards[i] for i in order)) == [ok(f"{i:02d}", EBPG=i / 16) for i in sorted(images)]


@pytest.mark.parametrize("cut", range(1, 130, 9))
def test_an_image_torn_between_its_records_is_left_out_whole(tmp_path, cut):
    """Whether the first of two records is all there is of an image cannot be told later."""
    with RunFolder(tmp_path, IDENTITY) as folder:
        folder.append([ok("1"), ok("1", 15)])
        folder.append([ok("2"), ok("2", 15)])
    file = tmp_path / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert not file.read_bytes().endswith(b"\n")  # the cut is within a line
    with pytest.warns(UserWarning, match="torn"):
        assert RunFolder(tmp_path).done() in ({("1", 14), ("1", 15)}, set())  # never half an image
    with RunFolder(tmp_path, IDENTITY) as folder, pytest.warns(UserWarning, match="torn"):
        folder.append([ok("3")])
    assert {image for image, _ in RunFolder(tmp_path).done()} in ({"1", "3"}, {"3"})


def test_who_holds_a_lock_is_said(tmp_path):
    with RunFolder(tmp_path, IDENTITY) as folder:
        with pytest.raises(SuiteError, match=rf"process {os.getpid()} on .* since"):
            RunFolder(tmp_path, IDENTITY).lock()
        assert folder.writers() == [(tmp_path / "records.lock").read_text()]
    assert folder.writers() == []


def test_where_one_may_only_read_a_note_tells_of_the_holder(tmp_path, monkeypatch):
    def forbidden(self, *_, **__):
        raise PermissionError(errno.EACCES, "only to be read")

    with RunFolder(tmp_path, IDENTITY) as folder:
        folder.lock()
        with monkeypatch.context() as patch:
            patch.setattr(records_locks.FileLock, "acquire", forbidden)
            assert folder.writers() == [(tmp_path / "records.lock").read_text()]
    monkeypatch.setattr(records_locks.FileLock, "acquire", forbidden)
    assert folder.writers() == []


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def none(self, *_, **__):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(records_locks.FileLock, "acquire", none)
    with pytest.warns(UserWarning, match="see to it that one process writes"), RunFolder(tmp_path, IDENTITY) as folder:
        folder.append([ok("1")])
    assert folder.done() == {("1", 14)}


@pytest.mark.parametrize(
    ("what", "function"),  # all but records go out through fsync alone
    [("identity", "fsync"), ("environment", "fsync"), ("record", "fsync"), ("record", "write"), ("close", "fsync")],
)
def test_a_disk_full_at_any_step_is_one_message(tmp_path, monkeypatch, what, function):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = RunFolder(tmp_path / "run", IDENTITY)
    folder.append([ok("1")])
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    monkeypatch.setattr(os, function, full)
    monkeypatch.setattr(records_folder, "SYNC_SECONDS", -1.0)
    with pytest.raises(DiskFull, match=r"disk .* is full.*intact.*same command"):
        {
            "identity": lambda: RunFolder(tmp_path / "other", IDENTITY),
            "environment": lambda: folder.add_environment({"device": "A"}),
            "record": lambda: folder.append([ok("2")]),
            "close": folder.close,
        }[what]()
    monkeypatch.undo()
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before
    folder.close()
    with RunFolder(tmp_path / "run", IDENTITY) as again:
        again.append([ok("2")])
    assert again.done() == {("1", 14), ("2", 14)}


def test_a_run_of_another_format_is_not_mixed_with(tmp_path):
    with RunFolder(tmp_path / "run", {"variant": "paper-seed0"}):
        pass
    with pytest.raises(SuiteError, match=r"older version of the suite.*variant="):
        RunFolder(tmp_path / "run", {"format": 2, "variant": "paper"})


# where the suite's code lies ----------------------------------------------------------------------------------------


def test_a_function_of_the_suite_that_moved_is_still_the_same():
    def run(*targets):
        return {
            "config": {"explainer": {"call": {"_target_": targets[0]}}, "metrics": {"EBPG": {"_target_": targets[1]}}}
        }

    before = run("baselines.rise.rise", "metrics.localization.ebpg")
    assert differences(before, run("sise.baselines.rise.rise", "sise.metrics.somewhere.else_.ebpg")) == []
    assert differences(before, run("baselines.rise.rice", "metrics.localization.ebpg")) == [
        'config.explainer.call._target_: "rise" -> "rice"'
    ]
    assert len(differences(run("mynet.Net", "x.f"), run("mynet.sub.Net", "x.f"))) == 1  # the user's own: another one

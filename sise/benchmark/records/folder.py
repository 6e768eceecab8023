"""Run folders: what a run is (its identity) and what it found (its records), kept so that nothing is lost or mixed.

A run folder, ``outputs/<dataset>/<model>/<explainer>/<variant>/``, holds

* ``run.json``: the run's identity. A folder never mixes records of two identities.
* ``records*.jsonl``: one line per (image, target), appended as they are found; a file per shard, so that several
  processes share a run. Files of other machines may be put beside them: all are read as one.
* ``environment*.json``: beside each records file, a list with one entry per session that wrote it: versions, devices,
  commit, code, settings of the engine, command, time.
* ``records*.lock``: held by the process that writes; it says who.
* ``saliency*.maps``, where ``maps.keep`` asks for them: the maps, see :mod:`sise.benchmark.records.saliency_store`.

The keys of a record (values are fractions; percent appears only in tables):

=================  =====================================================================================
``image_id``       image, always a string ("000067")
``target``         class index in the dataset; -1 for an image that failed before its targets were known
``class``          its name
``status``         "ok" or "failed"
``reason``         failed records only: what went wrong. A failed record needs no key below this one but ``where``
``where``          failed records only: file and line that raised the error
``EBPG``           localization metrics, each in [0, 1], for datasets with masks
``mIoU``
``Bbox``
``Drop%``          faithfulness metrics, fractions in spite of their names: 0.12 means 12 %
``Increase%``      1.0 if the confidence increased, else 0.0
``seconds``        time for this target's saliency
``forward_passes``, ``backward_passes``  one image through the network = 1
``confidence``     of the target on the whole image
``confidence_rank``  1 for the class that the network finds likeliest in the image, 2 for the next, ...
``classes_in_image``  how many classes are annotated there
``mask_fraction``  share of the image the mask covers
``regions``        connected parts of the mask: about the number of separate objects
``Deletion``, ...  metrics of ``metrics=field`` and of a user's own; those that are no fractions say so in
                   ``metric_facts.yaml``
``kept_fraction``  share of the pixels that Drop% kept: fewer than asked for where the map has equal values
``cluster``        images with the same one are no independent samples (tiles of a slide), where the dataset says so
``undefined``      names of the metrics whose value was set by definition (constant map, empty mask, ...)
``remarks``        what the map needs to have said, keys of :data:`sise.types.REMARKS`; only where there is one
``difficult``      the dataset's flag, where it has one
``Pointing game``  1.0 for a hit, else 0.0; of runs with ``metrics=pointing``
``subsets``        likewise: those of :mod:`sise.benchmark.datasets.pointing_subsets` that the pair belongs to
``image_hash``     first 12 digits of the image file's sha256, where images are files
``session``        which entry of ``environment*.json`` it was made in
=================  =====================================================================================

Numbers are finite: a value that is not is refused on the way in, since a table could only drop it silently. Further
keys are kept as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sise.benchmark.records import metric_sets, saliency_store
from sise.benchmark.records.files import clear_drafts, full_disk_as_message, write_whole
from sise.benchmark.records.flat import placeless
from sise.benchmark.records.lines import dumps, line_of, parsed_record, whole_lines
from sise.benchmark.records.locks import Lock
from sise.errors import SuiteError
from sise.types import Record

__all__ = ["RunFolder", "differences"]

SYNC_SECONDS = 10.0  # records a crash of the whole machine may cost; a killed process loses none


class RunFolder:
    """One run's folder: opened with an identity to write, without one to read.

    Args:
        path: The folder; created when an identity is given.
        identity: What the run is, JSON values only. Written to ``run.json`` on first use; later it has to be equal.
        overwrite: Deletes the records and the identity of a former run first.
        shard: Name of this writer's records file, for several processes that share one run: ``records-<shard>.jsonl``.

    Processes that write different shards may do so at the same time, on one machine or on a file system that several
    share; of two that want the same, the second is refused. The lock (``flock``) ends with the process that holds it,
    however it ends. Over NFS this needs version 4, or 3 with its lock daemon; where there are no locks, a warning says
    so.

    Raises:
        SuiteError: If the folder holds another identity (the message lists every key that differs), if it is opened
            for reading and holds none, or if ``overwrite`` meets a process that is writing.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        shard: str = "",
    ) -> None:
        self.path = Path(path)
        suffix = f"-{shard}" if shard else ""
        self._file = self.path / f"records{suffix}.jsonl"
        self._environment_file = self.path / f"environment{suffix}.json"
        self._session: str | None = None
        self._lock: Lock | None = None
        self._descriptor: int | None = None
        self._synced = 0.0
        if identity is not None:
            with full_disk_as_message(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self._clear()
            self._claim(identity)
        elif not self._identity_file.exists():
            raise SuiteError(f"expected a run folder with a run.json, found none in {self.path}")

    def __enter__(self) -> RunFolder:
        self.lock()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # identity ---------------------------------------------------------------------------------------------------

    @property
    def _identity_file(self) -> Path:
        return self.path / "run.json"

    @property
    def identity(self) -> dict[str, Any]:
        """What the run is, as in ``run.json``."""
        mend = "delete the folder or use overwrite=true"
        try:
            identity = json.loads(self._identity_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SuiteError(f"{self._identity_file} is not readable as JSON ({error}); {mend}") from error
        if not isinstance(identity, dict):
            raise SuiteError(f"{self._identity_file}: expected a JSON object, got a {type(identity).__name__}; {mend}")
        return identity

    def _claim(self, identity: Mapping[str, Any]) -> None:
        new = json.loads(dumps(dict(identity), f"the identity of {self.path}"))
        if not self._identity_file.exists():
            write_whole(self._identity_file, json.dumps(new, indent=2) + "\n", replace=False)
        found = self.identity
        if found.get("format", 1) != new.get("format", 1):
            raise SuiteError(
                f"{self.path} holds a run of an older version of the suite, in another form: tables "
                "still read it; give variant=<another name> to compute beside it, or overwrite=true to start anew"
            )
        changed = differences(found, new)
        if changed:
            raise SuiteError(
                f"{self.path} holds a run with other settings; give variant=<another name> to keep both, or "
                "overwrite=true to start anew (there -> now):\n" + "\n".join(f"  {line}" for line in changed)
            )
        self._add_metrics(found, new)

    def _add_metrics(self, found: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Adds the metrics that the run does not have yet to what ``run.json`` says of it."""
        there, asked = (metric_sets.apart(identity)[1] for identity in (found, new))
        if not set(metric_sets.metric_names(asked)) - set(metric_sets.metric_names(there)):
            return
        lock = Lock(self._identity_file)  # another shard may add one of its own
        lock.acquire()
        try:
            now = self.identity
            metrics = metric_sets.apart(now)[1]
            first = now.get(metric_sets.ORIGINAL, metric_sets.metric_names(metrics))
            config = now["config"] | {"metrics": metric_sets.united(metrics, asked)}
            text = json.dumps(now | {"config": config, metric_sets.ORIGINAL: first}, indent=2) + "\n"
            write_whole(self._identity_file, text)
        finally:
            lock.release()

    def incomplete_sessions(self) -> set[str]:
        """The sessions whose records lack a metric that was added to the run since."""
        return metric_sets.without_all(self.identity, self.environments())

    def _clear(self) -> None:
        """Deletes what a former run left, unless somebody is writing it."""
        locks = self._locks()
        try:
            for lock in locks:
                lock.acquire()
            copies = self.path.glob("records*.parquet")  # of sise.benchmark.records.store
            maps = self.path.glob(saliency_store.PATTERN)
            for file in [*copies, *maps, *self.record_files(), self._identity_file, *self._environment_files()]:
                file.unlink(missing_ok=True)
        finally:
            for lock in locks:
                lock.release()

    # writing ----------------------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Becomes the only writer of this records file, until :meth:`close`; called by the first :meth:`append`.

        Raises:
            SuiteError: If another process is writing it.
        """
        if self._lock is None:
            lock = Lock(self._file)
            lock.acquire()
            self._lock = lock
            clear_drafts(self.path)

    def append(self, records: Iterable[Record]) -> None:
        """Appends records, all of them or none, with a single write: a crash leaves at most a torn last line.

        Raises:
            SuiteError: If a record misses a key or holds a number that is not finite, if another process is writing,
                or if the disk is full; what was written before is intact in every case.
        """
        session = {"session": self._session} if self._session else {}
        lines = "".join(line_of(record | session) + "\n" for record in records).encode("ascii")
        if not lines:
            return
        self.lock()
        with full_disk_as_message(self.path):
            if self._descriptor is None:
                self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                whole = whole_lines(self._file.read_bytes(), self._file)
                os.ftruncate(self._descriptor, len(whole))  # a torn line would swallow the next one
                self._synced = time.monotonic()
            end = os.fstat(self._descriptor).st_size
            written = 0
            try:
                while written < len(lines):  # one turn, save for a disk that fills up on the way
                    written += os.write(self._descriptor, lines[written:])
                if time.monotonic() - self._synced > SYNC_SECONDS:
                    os.fsync(self._descriptor)
                    self._synced = time.monotonic()
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise

    def add_environment(self, entry: Mapping[str, Any]) -> None:
        """Says what the records from here on are made with; they name this entry as their ``session``.

        Entries that differ in nothing but command and time are one session, and one that was here before is not
        written again.
        """
        told = {key: value for key, value in entry.items() if key not in ("session", "command", "time")}
        self._session = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
        self.lock()
        sessions = _environments(self._environment_file)
        if all(known.get("session") != self._session for known in sessions):
            text = json.dumps([*sessions, {"session": self._session, **entry}], indent=2) + "\n"
            write_whole(self._environment_file, text)

    def close(self) -> None:
        """Lets the next writer in."""
        try:
            if self._descriptor is not None:
                with full_disk_as_message(self.path):
                    os.fsync(self._descriptor)
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def writes_last(self) -> bool:
        """Whether what is written here counts in place of what any file holds: of a pair's records the last does."""
        return all(file <= self._file for file in self.record_files())

    # reading ----------------------------------------------------------------------------------------------------

    def record_files(self) -> list[Path]:
        """The files that hold records, in the order in which they are read."""
        return sorted(self.path.glob("records*.jsonl"))

    def _locks(self) -> list[Lock]:
        """Of every records file, also of those that were only locked so far."""
        files = {*self.record_files(), *(f.with_suffix(".jsonl") for f in self.path.glob("records*.lock"))}
        return [Lock(file) for file in sorted(files)]

    def _environment_files(self) -> list[Path]:
        return sorted(self.path.glob("environment*.json"))

    def writers(self) -> list[str]:
        """Who is writing here now, one line per locked records file; of other machines as far as their locks show."""
        return [lock.holder() for lock in self._locks() if lock.held()]

    def read(self) -> list[Record]:
        """The records of all files, one per (image, target), sorted: neither shards nor their order show.

        Of several records of a pair it is the last one of the last file by name, but never a failed one in place of
        one that is ok.

        Warns:
            UserWarning: If the last line of a file is torn; it is left out.

        Raises:
            SuiteError: If another line is not a record.
        """
        found: dict[tuple[str, int], Record] = {}
        for file in self.record_files():
            for number, line in enumerate(whole_lines(file.read_bytes(), file).split(b"\n")[:-1], start=1):
                try:
                    record = parsed_record(line)
                except ValueError as error:
                    raise SuiteError(
                        f"line {number} of {file} is not a record ({error}); delete that line, the next run computes "
                        "its pair again"
                    ) from error
                key = (record["image_id"], record["target"])
                if record["status"] == "ok" or found.get(key, record)["status"] != "ok":
                    found[key] = record
        good = {image_id for (image_id, _), record in found.items() if record["status"] == "ok"}
        # a whole image's failure (target -1: its targets weren't known) gives way to any good record of it
        return [found[key] for key in sorted(found) if key[1] >= 0 or key[0] not in good]

    def done(self) -> set[tuple[str, int]]:
        """(image_id, target) of every record that is ok."""
        return {(r["image_id"], r["target"]) for r in self.read() if r["status"] == "ok"}

    def failed(self) -> set[tuple[str, int]]:
        """(image_id, target) of every pair that failed and was not made good since."""
        return {(r["image_id"], r["target"]) for r in self.read() if r["status"] != "ok"}

    def environments(self) -> list[dict[str, Any]]:
        """The sessions that wrote here, each once, oldest first; empty if none left word."""
        entries = [entry for file in self._environment_files() for entry in _environments(file)]
        first: dict[str, dict[str, Any]] = {}
        for entry in sorted(entries, key=lambda entry: str(entry.get("time", ""))):
            first.setdefault(entry.get("session") or json.dumps(entry), entry)
        return list(first.values())


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two identities differ, one line each: ``config.explainer.call.mu: 0.0 -> 0.3``.

    Of metrics, those that both have: a run may hold more than another asks for, see :mod:`metric_sets`.
    """
    (then, measured), (now, asked) = metric_sets.apart(old), metric_sets.apart(new)
    then, now = placeless(then), placeless(now)
    for settings, found in zip((then, now), metric_sets.changed(measured, asked), strict=True):
        settings |= {f"config.metrics.{key}": value for key, value in found.items()}
    return [
        f"{key}: {_show(then, key)} -> {_show(now, key)}"
        for key in sorted(then.keys() | now.keys())
        if _show(then, key) != _show(now, key)
    ]


def _environments(file: Path) -> list[dict[str, Any]]:
    """The sessions that a file lists.

    Raises:
        SuiteError: If it holds something else.
    """
    try:
        sessions = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    except ValueError as error:
        sessions = error
    if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
        found = sessions if isinstance(sessions, ValueError) else "it holds something else"
        raise SuiteError(
            f"{file} is not a list of sessions ({found}); delete it: then nothing says what the records beside it were "
            "made with, or start the run anew with overwrite=true"
        )
    return sessions


def _show(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "(absent)"

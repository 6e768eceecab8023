"""Run folders: what a run is (its identity) and what it found (its records), kept so that nothing is lost or mixed.

A run folder, ``outputs/<dataset>/<model>/<explainer>/<variant>/``, holds

* ``run.json``: the run's identity. A folder never mixes records of two identities.
* ``records*.jsonl``: one line per (image, target), appended as they are found; a file per shard, so that several
  processes share a run. Files of other machines may be put beside them: all are read as one.
* ``environment*.json``: beside each records file, a list with one entry per session that wrote it: versions, devices,
  commit, code, settings of the engine, command, time.
* ``records*.lock``: held by the process that writes; it says who.

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
``mask_fraction``  share of the image the mask covers
``kept_fraction``  share of the pixels that Drop% kept: fewer than asked for where the map has equal values
``cluster``        images with the same one are no independent samples (tiles of a slide), where the dataset says so
``undefined``      names of the metrics whose value was set by definition (constant map, empty mask, ...)
``remarks``        what the map needs to have said, keys of :data:`sise.types.REMARKS`; only where there is one
``difficult``      the dataset's flag, where it has one
``image_hash``     first 12 digits of the image file's sha256, where images are files
``session``        which entry of ``environment*.json`` it was made in
=================  =====================================================================================

Numbers are finite: a value that is not is refused on the way in, since a table could only drop it silently. Further
keys are kept as they are.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sise.types import Record, SuiteError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["DiskFull", "RunFolder", "differences", "environment", "without_folders", "without_places"]

SYNC_SECONDS = 10.0  # records a crash of the whole machine may cost; a killed process loses none
LOCK_SECONDS = 1.0  # for how long a lock is tried: a glance at it (see RunFolder.writers) takes it for a moment
_ALWAYS = ("image_id", "target", "class", "status")  # what every record has, also one that failed
_FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_PACKAGES = ("torch", "torchvision", "torchray", "numpy", "scikit-image", "pillow", "captum", "pandas", "hydra-core")


class DiskFull(SuiteError):
    """No space left where something is to be kept; going on would lose what is computed."""

    def __init__(self, where: Path) -> None:
        super().__init__(
            f"the disk of {where} is full. Every record so far is intact: free some space and give the same command "
            "again, it goes on from here."
        )


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
        self._lock: _Lock | None = None
        self._descriptor: int | None = None
        self._synced = 0.0
        if identity is not None:
            with _room(self.path):
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
        new = json.loads(_dumps(dict(identity), f"the identity of {self.path}"))
        if not self._identity_file.exists():
            _write_atomically(self._identity_file, json.dumps(new, indent=2) + "\n", replace=False)
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

    def _clear(self) -> None:
        """Deletes what a former run left, unless somebody is writing it."""
        locks = self._locks()
        try:
            for lock in locks:
                lock.acquire()
            for file in [*self._record_files(), self._identity_file, *self._environment_files()]:
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
            lock = _Lock(self._file)
            lock.acquire()
            self._lock = lock

    def append(self, records: Iterable[Record]) -> None:
        """Appends records, all of them or none, with a single write: a crash leaves at most a torn last line.

        Raises:
            SuiteError: If a record misses a key or holds a number that is not finite, if another process is writing,
                or if the disk is full; what was written before is intact in every case.
        """
        session = {"session": self._session} if self._session else {}
        lines = "".join(_line(record | session) + "\n" for record in records).encode("ascii")
        if not lines:
            return
        self.lock()
        with _room(self.path):
            if self._descriptor is None:
                self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                whole = _whole_lines(self._file.read_bytes(), self._file)
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
            _write_atomically(self._environment_file, text)

    def close(self) -> None:
        """Lets the next writer in."""
        try:
            if self._descriptor is not None:
                with _room(self.path):
                    os.fsync(self._descriptor)
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    # reading ----------------------------------------------------------------------------------------------------

    def _record_files(self) -> list[Path]:
        return sorted(self.path.glob("records*.jsonl"))

    def _locks(self) -> list[_Lock]:
        """Of every records file, also of those that were only locked so far."""
        files = {*self._record_files(), *(f.with_suffix(".jsonl") for f in self.path.glob("records*.lock"))}
        return [_Lock(file) for file in sorted(files)]

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
        for file in self._record_files():
            for number, line in enumerate(_whole_lines(file.read_bytes(), file).split(b"\n")[:-1], start=1):
                try:
                    record = _parsed_record(line)
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
    """The keys in which two identities differ, one line each: ``config.explainer.call.mu: 0.0 -> 0.3``."""
    then, now = _flatten(dict(old)), _flatten(dict(new))
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


# records as text ------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """NumPy and torch scalars as Python numbers, with the same value."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _dumps(value: Any, what: str) -> str:
    """ASCII JSON on one line; floats as their shortest exact decimal."""
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise SuiteError(f"{what} cannot be written as JSON: {error}") from error


def _parsed_record(line: bytes) -> Record:
    """The record in a line.

    Raises:
        ValueError: If it is none, or its image, target or status is of another kind than a record's.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if missing := [key for key in _ALWAYS if key not in record]:
        raise ValueError(f"it has no {', '.join(missing)}")
    if not isinstance(record["image_id"], str) or type(record["target"]) is not int:
        raise ValueError("expected a text as image_id and a whole number as target")
    return record


def _line(record: Record) -> str:
    who = f"the record of image {record.get('image_id')!r}, target {record.get('target')!r}"
    missing = [key for key in _ALWAYS if key not in record]
    if missing:
        raise SuiteError(f"{who} misses {', '.join(missing)}")
    if not isinstance(record["image_id"], str):
        raise SuiteError(f"{who}: an image_id is a string, so that leading zeros survive")
    if record["status"] not in ("ok", "failed"):
        raise SuiteError(f"{who}: expected status 'ok' or 'failed', got {record['status']!r}")
    for key, value in record.items():
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, float) and not math.isfinite(number):
            raise SuiteError(
                f"{who}: {key} is {number}, and a table could only drop it silently. Give the value that the metric's "
                "definition sets and list the metric in 'undefined', or record the pair as failed."
            )
    return _dumps({"image_id": record["image_id"], **record}, who)  # the image first: see _whole_lines


def _whole_lines(data: bytes, file: Path) -> bytes:
    """``data`` up to the last image that was written whole; warns of what follows, the rest of a torn write.

    An image's records are written together, so that those before a torn one go with it: whether they are all that the
    image has cannot be told.
    """
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return data
    warnings.warn(f"{file}: the last write is torn (a crash?) and is left out", stacklevel=3)
    lines = data[:end].splitlines(keepends=True)
    image = _image_of(data[end:]) or (lines and _image_of(lines[-1]))
    while image and lines and _image_of(lines[-1]) == image:
        lines.pop()
    return b"".join(lines)


def _image_of(line: bytes) -> bytes | None:
    """The image_id of a line, or of what is left of it, as it is written there."""
    found = re.match(rb'\{"image_id": "((?:[^"\\]|\\.)*)"', line)
    return found and found.group(1)


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; an empty dict stays, so that it differs from a missing one."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def _show(flat: dict[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "(absent)"


@contextlib.contextmanager
def _room(where: Path) -> Iterator[None]:
    """Turns a full disk into a message a user can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise DiskFull(where) from error
        raise


def _write_atomically(file: Path, text: str, *, replace: bool = True) -> None:
    """Writes a file as a whole or not at all; with ``replace=False`` a file that came first stays."""
    with _room(file.parent):
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)  # mkstemp's files are private
            if not replace:
                try:
                    os.link(name, file)
                    return
                except FileExistsError:
                    return
                except OSError:  # a file system without hard links
                    pass
            os.replace(name, file)
        finally:
            Path(name).unlink(missing_ok=True)


class _Lock:
    """Keeps a second writer off a records file. The operating system frees it when its holder ends, however it ends."""

    def __init__(self, file: Path) -> None:
        self.file = file.with_suffix(".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock and writes down who has it.

        Raises:
            SuiteError: If somebody else holds it.
        """
        last = time.monotonic() + LOCK_SECONDS
        while not self._try():
            if time.monotonic() > last:
                raise SuiteError(
                    f"another process is writing {self.file.with_suffix('.jsonl')} ({self.holder()}): wait for it or "
                    "stop it, take another shard=, or choose another variant=<name>"
                    + ("" if fcntl else f". If no process is, a crash left {self.file}: delete it")
                )
            time.sleep(0.05)
        with contextlib.suppress(OSError):  # a full disk: it only helps others
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()} since {_now()}".encode(), 0)

    def _try(self) -> bool:
        with _room(self.file.parent):
            if fcntl is None:  # no such locks here: the file's existence has to do
                try:
                    self._descriptor = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
                except FileExistsError:
                    return False
                return True
            descriptor = os.open(self.file, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            warnings.warn(f"{self.file}: no locks on this file system ({error}); see to it that one process writes",
                          stacklevel=2)  # fmt: skip
        self._descriptor = descriptor
        return True

    def holder(self) -> str:
        """Who took the lock last."""
        try:
            return self.file.read_text(encoding="utf-8") or "a process that did not say more"
        except OSError:
            return "a process that did not say more"

    def held(self) -> bool:
        """Whether somebody holds it now."""
        if fcntl is None or not self.file.exists():
            return self.file.exists()
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            if fcntl is None:
                self.file.unlink(missing_ok=True)


# environment ----------------------------------------------------------------------------------------------------


def environment(device: Any = None) -> dict[str, Any]:
    """What results may depend on and an identity does not hold; free of absolute paths.

    Args:
        device: The torch device the run computes on; ``None`` = CPU.

    Returns:
        ``packages`` (versions; ``None`` if missing), ``python``, ``platform``, ``device`` (its name), ``cpu``,
        ``cuda`` and ``cudnn`` (``None`` on a CPU), ``threads``, ``commit`` and ``dirty`` (``None`` outside a
        checkout), ``command`` and ``time`` (UTC).
    """
    import torch

    device = torch.device(device or "cpu")
    cpu = _cpu_name()
    commit, dirty = _commit()
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "cpu": cpu,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "commit": commit,
        "dirty": dirty,
        "command": " ".join([without_folders(sys.argv[0]), *map(without_places, sys.argv[1:])]),
        "time": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        name = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        name = None
    return name.group(1).strip() if name else platform.processor() or platform.machine()


@functools.lru_cache(maxsize=1)
def _commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout this file is tracked in, and whether it has uncommitted changes."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else some other project's repository surrounds us
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def without_folders(word: str) -> str:
    """Text with its absolute paths cut to their last part: results travel, a machine's folders should not."""
    return re.sub(r"(?<![\w.~])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s,\]/\\]+[\\/])*(?=[^\s,\]/\\])", "", word)


def without_places(word: str) -> str:
    """A word of a command with ``...`` for its absolute paths: a shortened one would name another place."""
    return re.sub(r"(?<![\w.~])(?:[A-Za-z]:[\\/]|~?/)(?=\S)[^,\]]*", "...", word)

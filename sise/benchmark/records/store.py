"""Reads records by columns: what tables, status and a resumed run need of millions of them.

Records are lines of JSON, which survive anything, and which are slow to read. So a run that ends leaves a copy of them
beside them, ``records.parquet``: one row per pair, sorted, as :meth:`RunFolder.read` would give them. It says of which
files it was made (size, times, sha256), is used only where they are still the same, made anew where they are not, and
safe to delete. Any tool can read it: ``duckdb -c "select avg(EBPG) from 'outputs/.../records.parquet'"``.

:func:`read` gives a run's :class:`Records`: from the copy, or from the lines themselves where they are few, or where
only Python can make sense of them. Both give the same.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from sise.benchmark.records.folder import RunFolder
from sise.types import Record

__all__ = ["COPY", "Pairs", "Records", "keep", "pairs_of", "read"]

COPY = "records.parquet"
VERSION = 1
"""Of the copy's own form; a copy of another one is made anew."""
WORTH = 1_000_000
"""Bytes of records from which on a copy is made: fewer are read at once."""
MEMORY = "512MB"
LONGEST = 1_000_000
"""Bytes of a line; longer ones are left to Python."""
_PLACE = "#place"
"""The column that keeps a line's place while pairs are told apart; no record has such a key."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run's records without looking at them.

    Attributes:
        count: Records, one per pair.
        good: Of them, those that are ok.
        images: Images that have any.
        keys: Those that have a value in any of them, sorted.
        filled: Those that have one, and not only NaN, in any good record.
        sessions: (session, good records, records) in the order of their first good, then their first other record.
        seconds: Sum of the good records' seconds.
        timed: How many good records have seconds.
        first_failure: The reason of the first failed record.
        pairs: sha256 of the good records' pairs: equal for runs of the same pairs.
        made_of: sha256 of the good records' pairs and the images' hashes; "" where none says a hash.
    """

    count: int
    good: int
    images: int
    keys: tuple[str, ...]
    filled: tuple[str, ...]
    sessions: tuple[tuple[str | None, int, int], ...]
    seconds: float
    timed: int
    first_failure: str
    pairs: str
    made_of: str

    @property
    def failed(self) -> int:
        return self.count - self.good

    @property
    def good_sessions(self) -> dict[str | None, int]:
        """Number of good records by session, for those that have any."""
        return {session: good for session, good, _ in self.sessions if good}


class Pairs:
    """The (image_id, target) of a run's good records, sorted; runs of the same pairs share one.

    Attributes:
        index: As an index of two levels, ``image_id`` and ``target``.
    """

    def __init__(self, images: Sequence[str], targets: Sequence[int]) -> None:
        self.index = pd.MultiIndex.from_arrays(
            [pd.Index(images, dtype=object), pd.Index(targets, dtype="int64")], names=["image_id", "target"]
        )

    @functools.cached_property
    def good(self) -> frozenset[tuple[str, int]]:
        """As a set."""
        return frozenset(self.index)

    @functools.cached_property
    def images(self) -> frozenset[str]:
        """The images that have any."""
        return frozenset(self.index.get_level_values(0))


_shared_pairs: weakref.WeakValueDictionary[str, Pairs] = weakref.WeakValueDictionary()
_shared_images: weakref.WeakValueDictionary[str, Counter[tuple[str, str]]] = weakref.WeakValueDictionary()


class Records:
    """A run's records, one per pair and sorted by it; columns are read when they are asked for.

    Attributes:
        facts: What is known without reading any.
    """

    facts: Facts

    @functools.cached_property
    def pairs(self) -> Pairs:
        """Of the good records."""
        found = _shared_pairs.get(self.facts.pairs)
        if found is None:
            rows = self.rows(["image_id", "target"], good=True)
            found = _shared_pairs.setdefault(
                self.facts.pairs, Pairs(rows["image_id"].tolist(), rows["target"].tolist())
            )
        return found

    def column(self, key: str) -> pd.Series:
        """A key's value in each good record, NaN or None where it has none."""
        if key not in self.facts.keys:
            return pd.Series(math.nan, self.pairs.index)
        return self.rows([key], good=True)[key].set_axis(self.pairs.index)

    def numbers(self, key: str) -> pd.Series:
        """The same as numbers; NaN where a record has none."""
        return _numbers(self, key)

    def listed(self, key: str) -> dict[str, np.ndarray]:
        """Which good records have a name in the list that is their value of ``key``.

        Returns:
            Positions among the good records by name, in the order of their first; a position once per mention.
        """
        return _listed(self, key)

    def positions(self, key: str) -> dict[str, np.ndarray]:
        """What :meth:`listed` gives, looked up anew."""
        raise NotImplementedError

    def rows(self, keys: Sequence[str], *, good: bool = False) -> pd.DataFrame:
        """Some keys of all records, or of the good ones."""
        raise NotImplementedError

    def tuples(self, keys: Sequence[str], *, good: bool = False) -> list[tuple]:
        """The same for Python: None where a record lacks a key."""
        raise NotImplementedError

    @functools.cached_property
    def images_made_of(self) -> Counter[tuple[str, str]]:
        """Number of good records by image and hash of its file, where they say it; runs of the same share one."""
        found = _shared_images.get(self.facts.made_of)
        if found is None:
            keys = ["image_id", "image_hash"] if self.facts.made_of else []
            counted = Counter(pair for pair in self.tuples(keys, good=True) if pair[1]) if keys else Counter()
            found = _shared_images.setdefault(self.facts.made_of, counted)
        return found


@functools.lru_cache(maxsize=64)
def _numbers(records: Records, key: str) -> pd.Series:
    return pd.to_numeric(records.column(key))


@functools.lru_cache(maxsize=256)
def _listed(records: Records, key: str) -> dict[str, np.ndarray]:
    return records.positions(key)


def pairs_of(runs: Iterable[Records]) -> pd.MultiIndex:
    """The pairs that have a good record in any of the runs, sorted."""
    different = list({id(records.pairs): records.pairs.index for records in runs}.values())
    if not different:
        return Pairs([], []).index
    first, *others = different
    return functools.reduce(lambda found, other: found.union(other), others, first)


class _Lines(Records):
    """Records in memory."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._good = [record for record in records if record["status"] == "ok"]
        self.facts = _facts(records, self._good)

    def rows(self, keys: Sequence[str], *, good: bool = False) -> pd.DataFrame:
        return pd.DataFrame(self._good if good else self._records, columns=list(keys))

    def tuples(self, keys: Sequence[str], *, good: bool = False) -> list[tuple]:
        return [tuple(map(record.get, keys)) for record in (self._good if good else self._records)]

    def positions(self, key: str) -> dict[str, np.ndarray]:
        return _positions(record.get(key) for record in self._good)


def _positions(lists: Iterable[Any]) -> dict[str, np.ndarray]:
    found: dict[str, list[int]] = {}
    for position, names in enumerate(lists):
        for name in names if isinstance(names, list) else ():
            found.setdefault(name, []).append(position)
    return {name: np.array(positions, dtype=np.int64) for name, positions in found.items()}


def _facts(records: Sequence[Record], good: Sequence[Record]) -> Facts:
    sessions: dict[str | None, list[int]] = {}
    for record in good:
        sessions.setdefault(record.get("session"), [0, 0])[0] += 1
    for record in records:
        sessions.setdefault(record.get("session"), [0, 0])[1] += 1
    seconds = [record["seconds"] for record in good if record.get("seconds") is not None]
    filled = {key for record in good for key, value in record.items() if value is not None and value == value}
    hashed = any(isinstance(record.get("image_hash"), str) and record["image_hash"] for record in good)
    bad = next((record for record in records if record["status"] != "ok"), {})
    return Facts(
        count=len(records),
        good=len(good),
        images=len({record["image_id"] for record in records}),
        keys=tuple(sorted({key for record in records for key, value in record.items() if value is not None})),
        filled=tuple(sorted(filled)),
        sessions=tuple((session, of_good, every) for session, (of_good, every) in sessions.items()),
        seconds=sum(seconds),
        timed=len(seconds),
        first_failure=str(bad.get("reason", "")),
        pairs=_hash_of((record["image_id"], record["target"]) for record in good),
        made_of=_hash_of((record["image_id"], record.get("image_hash")) for record in good) if hashed else "",
    )


def _hash_of(pairs: Iterable[tuple[str, object]]) -> str:
    text = "\n".join(f"{value} {image_id}" for image_id, value in pairs)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


# reading ----------------------------------------------------------------------------------------------------------
def read(folder: RunFolder) -> Records:
    """A run's records, from the copy where they are worth one; it is made where there is none.

    Warns:
        UserWarning: As :meth:`RunFolder.read`.

    Raises:
        SuiteError: As :meth:`RunFolder.read`.
    """
    files = folder.record_files()
    if _size(files) < WORTH:
        return _Lines(folder.read())
    return _current(folder.path, files) or _made(folder.path, files) or _Lines(folder.read())


def keep(folder: RunFolder) -> None:
    """Makes the copy of a run's records, unless it is there, or others still write them, or they are few."""
    files = folder.record_files()
    if _size(files) >= WORTH and not folder.writers() and _current(folder.path, files) is None:
        _made(folder.path, files)


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class _Source:
    """A file of records as it was when the copy was made."""

    name: str
    size: int
    times: tuple[int, int]
    sha256: str
    lines: int

    @classmethod
    def of(cls, file: Path) -> _Source | None:
        """None of a file whose last line is torn."""
        stat = file.stat()
        found, lines, last = hashlib.sha256(), 0, b"\n"
        with file.open("rb") as stream:
            while block := stream.read(min(1 << 20, stat.st_size - stream.tell())):
                found.update(block)
                lines += block.count(b"\n")
                last = block[-1:]
        whole = last == b"\n"
        return cls(file.name, stat.st_size, _times(stat), found.hexdigest(), lines) if whole else None

    def still(self, file: Path) -> bool:
        """Whether a file is what it was: by its size and times, else by its content."""
        stat = file.stat()
        if (file.name, stat.st_size) != (self.name, self.size):
            return False
        if _times(stat) == self.times:
            return True
        now = _Source.of(file)
        return now is not None and now.sha256 == self.sha256


def _times(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_mtime_ns, stat.st_ctime_ns


class _Copy(Records):
    """Records in a Parquet file."""

    def __init__(self, file: Path, facts: Facts, kinds: Mapping[str, str]) -> None:
        self.facts = facts
        self._file, self._kinds = file, kinds

    def rows(self, keys: Sequence[str], *, good: bool = False) -> pd.DataFrame:
        known = [key for key in keys if key in self._kinds]
        found = self._select(known or ["status"], good).df()
        for key in known:
            if self._kinds[key] in ("JSON", "VARCHAR[]"):
                found[key] = pd.Series([value for (value,) in self.tuples([key], good=good)], dtype=object)
        return found.reindex(columns=list(keys))

    def tuples(self, keys: Sequence[str], *, good: bool = False) -> list[tuple]:
        found = self._select(keys, good).fetchall()
        texts = [place for place, key in enumerate(keys) if self._kinds.get(key) == "JSON"]
        if texts:
            found = [tuple(json.loads(value) if place in texts and value is not None else value
                           for place, value in enumerate(row)) for row in found]  # fmt: skip
        return found

    def _select(self, keys: Sequence[str], good: bool) -> duckdb.DuckDBPyConnection:
        columns = ", ".join(_name(key) if key in self._kinds else "null" for key in keys)
        where = " where status = 'ok'" if good else ""
        return _engine().execute(f"select {columns} from {_text(str(self._file))}{where}")

    def positions(self, key: str) -> dict[str, np.ndarray]:
        if self._kinds.get(key) != "VARCHAR[]":
            return _positions(self.rows([key], good=True)[key]) if key in self._kinds else {}
        found = _engine().execute(
            f"select place, unnest(names) as name from (select row_number() over () - 1 as place, {_name(key)} as "
            f"names from {_text(str(self._file))} where status = 'ok') where len(names) > 0"
        )  # fmt: skip
        rows = found.df()
        return {name: group.to_numpy(dtype=np.int64) for name, group in rows.groupby("name", sort=False)["place"]}


def _current(path: Path, files: Sequence[Path]) -> _Copy | None:
    """The copy in a run's folder, if it is one of these files as they are now."""
    copy = path / COPY
    if not copy.exists():
        return None
    try:
        query = f"select decode(value) from parquet_kv_metadata({_text(str(copy))}) where decode(key) = 'sise'"
        [[told]] = _engine().execute(query).fetchall()
        told = json.loads(told)
        if told["version"] != VERSION:
            return None
        sources = [_Source(**source | {"times": tuple(source["times"])}) for source in told["sources"]]
        facts: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in told["facts"].items()
        }
        facts["sessions"] = tuple(map(tuple, facts["sessions"]))
        found = _Copy(copy, Facts(**facts), told["kinds"])
    except (duckdb.Error, ValueError, LookupError, TypeError):  # damaged, or not one of these
        return None
    same = len(sources) == len(files) and all(s.still(file) for s, file in zip(sources, files, strict=True))
    return found if same else None


# making -----------------------------------------------------------------------------------------------------------
def _made(path: Path, files: Sequence[Path]) -> _Copy | None:
    """Makes the copy; None where it cannot be, as in a folder that only may be read, or of lines that are torn, broken
    or hold what has no place in columns: then the lines are read, which says what is wrong."""
    sources = [_Source.of(file) for file in files]
    if None in sources:
        return None
    kept = [source for source in sources if source is not None]
    try:
        descriptor, name = tempfile.mkstemp(dir=path, prefix=f".{COPY}.")
        os.close(descriptor)
    except OSError:
        return None
    draft = Path(name)
    try:
        con = _engine()
        kinds = _load(con, files, sum(source.lines for source in kept))
        facts = _facts_of_table(con, kinds)
        made_of = [asdict(source) for source in kept]
        told = {"version": VERSION, "sources": made_of, "facts": asdict(facts), "kinds": kinds}
        con.execute(f"copy (select * from pairs order by image_id, target) to {_text(name)} "
                    f"(format parquet, compression zstd, kv_metadata {{sise: {_text(json.dumps(told))}}})")  # fmt: skip
        os.chmod(name, 0o644)  # mkstemp's files are private
        os.replace(name, path / COPY)
    except (duckdb.Error, OSError, ValueError, LookupError):
        return None
    finally:
        draft.unlink(missing_ok=True)
        with contextlib.suppress(duckdb.Error):
            _engine().execute("; ".join(f"drop table if exists {table}" for table in ("texts", "lines", "pairs")))
    return _Copy(path / COPY, facts, kinds)


def _load(con: duckdb.DuckDBPyConnection, files: Sequence[Path], lines: int) -> dict[str, str]:
    """Makes the table ``pairs`` of the lines in files: those that :meth:`RunFolder.read` keeps.

    Returns:
        The type of each key's column.

    Raises:
        ValueError: If not each line is a record that fits in columns without a loss.
    """
    names = "[" + ", ".join(_text(str(file)) for file in files) + "]"
    con.execute(f"create or replace temp table texts as select place, json, hash(json_structure(json)) as form from "
                f"(select json, row_number() over () as place from read_ndjson_objects({names}, "
                f"maximum_object_size = {LONGEST}))")  # fmt: skip
    forms = con.execute("select form, json_structure(any_value(json)) from texts group by form").fetchall()
    structures = {form: json.loads(structure) for form, structure in forms}
    kinds = _kinds(structures.values())
    if (kinds.get("image_id"), kinds.get("target")) != ("VARCHAR", "BIGINT") or kinds.get("status") != "VARCHAR":
        raise ValueError("not each line is a record")
    place = _name(_PLACE)
    columns = ", ".join(f"{_name(key)} {kind}" for key, kind in kinds.items())
    con.execute(f"create or replace temp table lines ({columns}, {place} BIGINT)")
    for form, structure in structures.items():  # strictly, so that no value is lost, which wants every key to be there
        shape = {key: ["VARCHAR"] if kinds[key] == "VARCHAR[]" else kinds[key] for key in structure}
        record = f"json_transform_strict(json, {_text(json.dumps(shape))}) as record"
        con.execute(f"insert into lines by name select record.*, place as {place} from "
                    f"(select place, {record} from texts where form = {form}) order by place")  # fmt: skip
    con.execute("drop table texts")
    count, lacking = con.execute(
        "select count(*), count(*) filter (image_id is null or target is null or class is null or status is null) "
        "from lines"
    ).fetchall()[0]
    if count != lines or lacking:
        raise ValueError("not each line is a record")
    last = f"select arg_max({place}, (status = 'ok', {place})) from lines group by image_id, target"
    con.execute(f"create or replace temp table pairs as select * exclude {place} from lines where {place} in ({last})")
    # a whole image's failure (target -1) gives way to any good record of it
    good = "select image_id from pairs where status = 'ok'"
    con.execute(f"delete from pairs where target < 0 and image_id in ({good})")
    return kinds


def _kinds(structures: Iterable[Any]) -> dict[str, str]:
    """The type of each key's column, of the structures that records have.

    Raises:
        ValueError: If one is of something else than a record.
    """
    found: dict[str, set[str]] = {}
    for structure in structures:
        if not isinstance(structure, dict):
            raise ValueError("not each line is a record")
        for key, kind in structure.items():
            found.setdefault(key, set()).add(kind if isinstance(kind, str) else json.dumps(kind))
    return {key: _kind(kinds - {"NULL"}) for key, kinds in found.items()}


def _kind(kinds: set[str]) -> str:
    """One column type for all kinds of values that a key has; JSON's own text where they have none in common."""
    if kinds <= {"UBIGINT", "BIGINT"}:
        return "BIGINT" if kinds else "DOUBLE"
    if kinds <= {"UBIGINT", "BIGINT", "DOUBLE"}:
        return "DOUBLE"
    if kinds <= {'["VARCHAR"]', '["NULL"]'}:
        return "VARCHAR[]"
    return next(iter(kinds)) if kinds in ({"VARCHAR"}, {"BOOLEAN"}) else "JSON"


def _facts_of_table(con: duckdb.DuckDBPyConnection, kinds: Mapping[str, str]) -> Facts:
    """:class:`Facts` of the table ``pairs``."""

    def ask(query: str) -> list[tuple]:
        return con.execute(query).fetchall()

    counts = "count(*), count(*) filter (status = 'ok'), count(distinct image_id)"
    count, good, images = ask(f"select {counts} from pairs")[0]
    session = "session" if "session" in kinds else "null"
    by_session = ask(
        f"select any_value({session}), count(*) filter (status = 'ok') as good, count(*), "
        "min((image_id, target)) filter (status = 'ok') as first_good, min((image_id, target)) as first "
        f"from pairs group by {session} order by good = 0, first_good, first"
    )  # fmt: skip
    values = ask(f"select {', '.join(f'count({_name(key)})' for key in kinds)} from pairs")[0]
    numbers = ", ".join(f"count({_number(key, kind)})" for key, kind in kinds.items())
    filled = ask(f"select {numbers} from pairs where status = 'ok'")[0]
    seconds = _in_order(con, "seconds") if kinds.get("seconds") in ("DOUBLE", "BIGINT") else []
    reason = "cast(reason as varchar)" if "reason" in kinds else "''"
    failed = ask(f"select {reason} from pairs where status != 'ok' order by image_id, target limit 1")
    pairs = ask("select image_id, target from pairs where status = 'ok' order by image_id, target")
    hashed = kinds.get("image_hash") == "VARCHAR" and ask("select count(*) from pairs where status = 'ok' and "
                                                          "image_hash != ''")[0][0]  # fmt: skip
    made_of = "select image_id, image_hash from pairs where status = 'ok' order by image_id, target"
    return Facts(
        count=count,
        good=good,
        images=images,
        keys=tuple(sorted(key for key, found in zip(kinds, values, strict=True) if found)),
        filled=tuple(sorted(key for key, found in zip(kinds, filled, strict=True) if found)),
        sessions=tuple((name, of_good, of_all) for name, of_good, of_all, *_ in by_session),
        seconds=sum(seconds),
        timed=len(seconds),
        first_failure=str(failed[0][0] or "") if failed else "",
        pairs=_hash_of(pairs),
        made_of=_hash_of(ask(made_of)) if hashed else "",
    )


def _number(key: str, kind: str) -> str:
    """A column, null also where it is NaN."""
    return f"nullif({_name(key)}, 'nan'::double)" if kind == "DOUBLE" else _name(key)


def _in_order(con: duckdb.DuckDBPyConnection, key: str) -> list[float]:
    """A key's values in the good records."""
    name = _name(key)
    where = f"status = 'ok' and {name} is not null"
    found = con.execute(f"select {name} from pairs where {where} order by image_id, target")
    return [value for (value,) in found.fetchall()]


# the engine -------------------------------------------------------------------------------------------------------
def _engine() -> duckdb.DuckDBPyConnection:
    """This process's connection: a fork cannot use its parent's."""
    return _engine_of(os.getpid())


@functools.cache
def _engine_of(process: int) -> duckdb.DuckDBPyConnection:
    threads = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    settings: dict[str, Any] = {"threads": threads, "memory_limit": MEMORY, "temp_directory": tempfile.gettempdir()}
    con = duckdb.connect(config=settings | {"autoinstall_known_extensions": False})
    con.execute("set enable_progress_bar = false")
    return con


def _text(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'

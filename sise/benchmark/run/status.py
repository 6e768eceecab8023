"""How far runs are: done, missing, stale and failed pairs of each cell, and the time left by the seconds recorded."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sise.benchmark import invocation
from sise.benchmark.datasets.base import plural
from sise.benchmark.records import metric_sets
from sise.benchmark.records.code_version import other_code
from sise.benchmark.records.departures import identity_of
from sise.benchmark.records.folder import RunFolder, differences
from sise.benchmark.records.image_hashes import ImageHashes
from sise.benchmark.records.saliency_store import PATTERN, kept_bytes
from sise.benchmark.records.store import Records, read
from sise.benchmark.run.cells import Cell, hashes_of
from sise.benchmark.run.keeping_maps import readable_bytes, room
from sise.benchmark.run.problems import by_problem
from sise.benchmark.run.shards import EVERYTHING, Shard
from sise.errors import SuiteError


@dataclass(frozen=True)
class Status:
    """One cell. ``done + stale + failed + missing`` is what was asked for.

    Attributes:
        name: ``<dataset>/<model>/<explainer>/<variant>``.
        done: Pairs with a good record, made with what the run is made of now.
        stale: Pairs with a good record of something else; ``reasons`` say of what.
        failed: Pairs whose record says why.
        missing: Pairs without a record.
        seconds: Mean per pair of the good records; None without any.
        writers: The processes at work on it now.
        reasons: Why records are stale.
        kept: Bytes of maps that are kept beside the records.
    """

    name: str
    done: int
    stale: int
    failed: int
    missing: int
    seconds: float | None = None
    writers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    kept: int = 0

    @property
    def left(self) -> float | None:
        """Seconds for what is missing or failed, each explainer alone; None where nothing was measured yet."""
        todo = self.missing + self.failed
        return None if todo and self.seconds is None else todo * (self.seconds or 0.0)


@dataclass(frozen=True)
class _Counted:
    """Some records: how many, of them the good ones by session, and the seconds that ``timed`` of these took."""

    count: int
    good: Mapping[str | None, int]
    seconds: float
    timed: int


def of_cell(
    cell: Cell, limit: int | None = None, shard: Shard = EVERYTHING, images: ImageHashes | None = None
) -> Status:
    """A cell's status against what its command would make now.

    Args:
        cell: From :func:`sise.benchmark.run.cells.make_cells`.
        limit, shard: As in :func:`sise.benchmark.run.runner.run`.
        images: The hashes of the data set's images, for cells that share one.
    """
    ids = shard.of(cell.dataset.ids[:limit])
    known = cell.cfg.protocol.targets == "all"
    wanted = [(i, t) for i in ids for t in (cell.pairs(i) or [-1])] if known else [(i, -1) for i in ids]
    if not (cell.path / "run.json").exists():
        return Status(cell.name, 0, 0, 0, len(wanted))
    folder = RunFolder(cell.path)
    keys = ("image_id", "target", "status", "session", "seconds", "image_hash")
    asked = metric_sets.apart(cell.identity())[1]
    incomplete = metric_sets.without_all(folder.identity, folder.environments(), asked)
    rows = [row for row in _read(folder).tuples(keys) if row[2] != "ok" or row[3] not in incomplete]
    records = {(row[0], row[1] if known else -1): row for row in rows}
    # a whole image's failure (target -1) counts for each of its pairs
    found = [record for i, t in wanted if (record := records.get((i, t)) or records.get((i, -1)))]
    good = [record for record in found if record[2] == "ok"]
    seconds = [value for *_, value, _ in good if value is not None]
    changed = tuple(differences(folder.identity, cell.identity())) if cell.model.weights_hash else ()
    made_of = Counter((image_id, made) for image_id, *_, made in good if made)
    replaced = (images or ImageHashes(cell.dataset, cell.cfg.outputs)).replaced(made_of)
    counted = _Counted(len(found), Counter(session for *_, session, _, _ in good), sum(seconds), len(seconds))
    return _status(cell.name, folder, counted, len(wanted), changed, cell.structure, replaced)


def of_folder(path: Path, outputs: Path) -> Status:
    """A run folder's status, by what it says of itself; stale only if the code has changed."""
    folder = RunFolder(path)
    wanted = identity_of(folder, ["expected_pairs"])["expected_pairs"]
    facts = _read(folder).facts
    counted = _Counted(facts.count, facts.good_sessions, facts.seconds, facts.timed)
    return _status(str(path.relative_to(outputs)), folder, counted, wanted, ())


def of_outputs(outputs: str | Path) -> list[Status]:
    """Every run folder below ``outputs``."""
    return [of_folder(file.parent, Path(outputs)) for file in sorted(Path(outputs).rglob("run.json"))]


def _read(folder: RunFolder) -> Records:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a last line that somebody is writing just now
        return read(folder)


def _status(
    name: str,
    folder: RunFolder,
    found: _Counted,
    wanted: int,
    changed: tuple[str, ...],
    structure: str = "",
    replaced: int = 0,
) -> Status:
    good = sum(found.good.values())
    old = other_code(folder, found.good, structure)
    reasons = changed + tuple(f"{count} records by other code: {', '.join(files)}" for files, count in old.items())
    reasons += (f"{replaced} records of images that were replaced",) if replaced else ()
    stale = good if changed else min(good, sum(old.values()) + replaced)
    return Status(
        name,
        good - stale,
        stale,
        found.count - good,
        max(0, wanted - found.count),
        found.seconds / found.timed if found.timed else None,
        tuple(folder.writers()),
        reasons,
        kept_bytes(folder.path),
    )


def report(statuses: Sequence[Status]) -> str:
    """The statuses as text: a line per cell, the sum, who is writing, and why what is stale.

    Raises:
        SuiteError: If there is none.
    """
    if not statuses:
        raise SuiteError(f"no run here yet; {invocation.typed('evaluate')} makes them.")
    rows = [["cell", "done", "missing", "stale", "failed", "time left"]]
    rows += [[s.name, str(s.done), str(s.missing), str(s.stale), str(s.failed), duration(s.left)] for s in statuses]
    sums = [sum(getattr(s, column) for s in statuses) for column in rows[0][1:5]]
    measured = [s.left for s in statuses if s.left is not None]
    unknown = sum(s.left is None for s in statuses)
    total = duration(None if unknown and not sum(measured) else sum(measured))
    left = f"at least {total}" if unknown and total != "?" else total
    rows.append([plural(len(statuses), "cell"), *map(str, sums), left])
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines += [f"{s.name}: stale: {reason}" for s in statuses if s.stale for reason in s.reasons]
    lines += [f"{s.name}: at work: {writer}" for s in statuses for writer in s.writers]
    if kept := sum(s.kept for s in statuses):
        count = sum(s.kept > 0 for s in statuses)
        lines.append(f"maps kept: {readable_bytes(kept)} in {plural(count, 'cell')}, as {PATTERN}; safe to delete")
    if unknown:
        cells = f"{plural(unknown, 'cell')} {'has' if unknown == 1 else 'have'} no record yet to tell"
        lines.append(f"{cells} the time from: estimate=true measures that.")
    if sum(measured):
        lines.append("Time left: on one device as recorded, each explainer alone; on shared probes it takes less.")
    return "\n".join(lines)


def plan(cells: Sequence[Cell], broken: Mapping[str, str], *, limit: int | None, shard: Shard) -> str:
    """What a command would do (``dry_run=true``), and what is known of its cost."""
    hashes = hashes_of(cells)
    statuses = [of_cell(cell, limit, shard, hashes[id(cell.dataset)]) for cell in cells]
    words, _ = room(cells, {status.name: status.missing + status.failed for status in statuses})
    lines = [report(statuses), *([words] if words else [])]
    unloaded = dict.fromkeys(cell.model.name for cell in cells if not cell.model.weights_hash)
    if unloaded:
        lines.append(
            f"weights of {', '.join(unloaded)} are not on this machine: the run downloads them; whether records there "
            "are were made with them is not known here"
        )
    lines += [f"cannot run: {line}" for line in by_problem(broken)]
    return "\n".join(lines)


def duration(seconds: float | None) -> str:
    """``3 d 4 h``, ``2 h 05 min``, ``7 min``, ``12 s``; ``-`` for nothing, ``?`` for None."""
    if seconds is None:
        return "?"
    if seconds <= 0:
        return "-"
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"

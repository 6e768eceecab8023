"""How far runs are: done, missing, stale and failed pairs of each cell, and the time left by the seconds recorded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sise.benchmark.code_version import other_code
from sise.benchmark.departures import identity_of
from sise.benchmark.records import RunFolder, differences
from sise.benchmark.replaced import ImageHashes
from sise.benchmark.runner import EVERYTHING, Cell, Shard, by_problem
from sise.types import Record, SuiteError


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
    """

    name: str
    done: int
    stale: int
    failed: int
    missing: int
    seconds: float | None = None
    writers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def left(self) -> float | None:
        """Seconds for what is missing or failed, each explainer alone; None where nothing was measured yet."""
        todo = self.missing + self.failed
        return None if todo and self.seconds is None else todo * (self.seconds or 0.0)


def of_cell(cell: Cell, limit: int | None = None, shard: Shard = EVERYTHING) -> Status:
    """A cell's status against what its command would make now.

    Args:
        cell: From :func:`sise.benchmark.runner.make_cells`.
        limit, shard: As in :func:`sise.benchmark.runner.run`.
    """
    ids = shard.of(cell.dataset.ids[:limit])
    known = cell.cfg.protocol.targets == "all"
    wanted = [(i, t) for i in ids for t in (cell.pairs(i) or [-1])] if known else [(i, -1) for i in ids]
    if not (cell.path / "run.json").exists():
        return Status(cell.name, 0, 0, 0, len(wanted))
    folder = RunFolder(cell.path)
    records = {(r["image_id"], r["target"] if known else -1): r for r in _read(folder)}
    # a whole image's failure (target -1) counts for each of its pairs
    found = [record for i, t in wanted if (record := records.get((i, t)) or records.get((i, -1)))]
    changed = tuple(differences(folder.identity, cell.identity())) if cell.model.weights_hash else ()
    replaced = ImageHashes(cell.dataset, cell.cfg.outputs).replaced(found)
    return _status(cell.name, folder, found, len(wanted), changed, cell.structure, replaced)


def of_folder(path: Path, outputs: Path) -> Status:
    """A run folder's status, by what it says of itself; stale only if the code has changed."""
    folder = RunFolder(path)
    wanted = identity_of(folder, ["expected_pairs"])["expected_pairs"]
    return _status(str(path.relative_to(outputs)), folder, _read(folder), wanted, ())


def of_outputs(outputs: str | Path) -> list[Status]:
    """Every run folder below ``outputs``."""
    return [of_folder(file.parent, Path(outputs)) for file in sorted(Path(outputs).rglob("run.json"))]


def _read(folder: RunFolder) -> list[Record]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a last line that somebody is writing just now
        return folder.read()


def _status(
    name: str,
    folder: RunFolder,
    records: Sequence[Record],
    wanted: int,
    changed: tuple[str, ...],
    structure: str = "",
    replaced: int = 0,
) -> Status:
    good = [record for record in records if record["status"] == "ok"]
    seconds = [record["seconds"] for record in good if "seconds" in record]
    old = other_code(folder, records, structure)
    reasons = changed + tuple(f"{count} records by other code: {', '.join(files)}" for files, count in old.items())
    reasons += (f"{replaced} records of images that were replaced",) if replaced else ()
    stale = len(good) if changed else min(len(good), sum(old.values()) + replaced)
    return Status(
        name,
        len(good) - stale,
        stale,
        len(records) - len(good),
        max(0, wanted - len(records)),
        sum(seconds) / len(seconds) if seconds else None,
        tuple(folder.writers()),
        reasons,
    )


def report(statuses: Sequence[Status]) -> str:
    """The statuses as text: a line per cell, the sum, who is writing, and why what is stale.

    Raises:
        SuiteError: If there is none.
    """
    if not statuses:
        raise SuiteError("no run here yet; scripts/evaluate.py makes them.")
    rows = [["cell", "done", "missing", "stale", "failed", "time left"]]
    rows += [[s.name, str(s.done), str(s.missing), str(s.stale), str(s.failed), duration(s.left)] for s in statuses]
    sums = [sum(getattr(s, column) for s in statuses) for column in rows[0][1:5]]
    measured = [s.left for s in statuses if s.left is not None]
    unknown = sum(s.left is None for s in statuses)
    total = duration(None if unknown and not sum(measured) else sum(measured))
    rows.append([f"{len(statuses)} cells", *map(str, sums), f"at least {total}" if unknown and total != "?" else total])
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines += [f"{s.name}: stale: {reason}" for s in statuses if s.stale for reason in s.reasons]
    lines += [f"{s.name}: at work: {writer}" for s in statuses for writer in s.writers]
    if unknown:
        lines.append(f"{unknown} cells have no record yet to tell their time from: estimate=true measures them.")
    if sum(measured):
        lines.append("Time left: on one device as recorded, each explainer alone; on shared probes it takes less.")
    return "\n".join(lines)


def plan(cells: Sequence[Cell], broken: Mapping[str, str], *, limit: int | None, shard: Shard) -> str:
    """What a command would do (``dry_run=true``), and what is known of its cost."""
    lines = [report([of_cell(cell, limit, shard) for cell in cells])]
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

"""The files in results/, and the runs behind them."""

from __future__ import annotations

import base64
import fnmatch
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from PIL import Image

from sise.benchmark.config_facts import published_tables, stand_ins
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.provenance import note_of
from sise.benchmark.records.store import pairs_of
from sise.benchmark.report import leaderboard, showcase
from sise.benchmark.report.grids import Cell, Grid, grids_of, label, plain
from sise.benchmark.report.leaderboard import Key, Origin
from sise.benchmark.report.prose import NOTHING, prose
from sise.benchmark.tables.claims import COLUMNS
from sise.benchmark.tables.runs import commands_of, find_runs
from sise.benchmark.tables.table import Run
from sise.benchmark.tables.words import LABELS, STATUS
from sise.errors import SuiteError

KNOWN = (*stand_ins(), *published_tables(), *LABELS, "cpu", "cuda")
"""What a file's name says beside what it is."""
STATES = {  # what a result can be worth: mark, meaning
    **STATUS,
    "not run": ("–", "no result yet; the command beside it makes one"),
    "shown": ("✓", "the paper's data and weights; a picture has no number to compare"),
    "drawing": ("", "a drawing or a photo in the paper: nothing to run"),
    "unknown": ("?", "the picture does not say what it shows"),
}
COMPANIONS = {"_statistics": "Statistics", "_order": "Order of the methods, measured and published",
              "_claims": "Orderings that the papers' text states"}  # fmt: skip


# what is on the page ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Picture:
    """An image as a data URI."""

    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Runs:
    """What the run folders behind a table say: the runs, the settings they share, their machines and commands, and
    the latter two by what was run."""

    grid: Grid
    settings: Sequence[tuple[str, str]]
    machines: Sequence[str]
    commands: Sequence[str]
    origins: Mapping[Key, Origin] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What stands beside a table: its statistics, the order of its methods."""

    title: str
    grids: Sequence[Grid]
    notes: Markup


@dataclass
class Result:
    """One table or figure.

    Attributes:
        name: As in results/, without suffix; ``figures/...`` for a figure.
        title, shows: Its heading and a sentence.
        owner: The section and item it belongs to.
        status: How many of its cells are worth what; one key, 0, where it is worth something as a whole.
        grids: Its tables; ``picture``: its image.
        lead, notes: The words of its Markdown file before and after the table.
        commands: By what they are for.
        machines: Where it was made, with which versions.
        runs: The run folders behind it.
        files: What it was read from.
        problems: What is missing or unreadable.
        cells, claims: Its CSV, where that can stand on the leaderboard, and the CSV of the claims about it.
    """

    name: str
    title: str
    shows: str = ""
    owner: str = ""
    status: Counter[str] = field(default_factory=Counter)
    grids: Sequence[Grid] = ()
    picture: Picture | None = None
    lead: Markup = NOTHING
    notes: Markup = NOTHING
    parts: list[Part] = field(default_factory=list)
    commands: dict[str, Sequence[str]] = field(default_factory=dict)
    machines: Sequence[str] = ()
    runs: Runs | None = None
    files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    cells: pd.DataFrame | None = None
    claims: pd.DataFrame | None = None

    @property
    def anchor(self) -> str:
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name)


# files ------------------------------------------------------------------------------------------------------------
def collect(results: Path, outputs: Path, sections: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Result]]]:
    """Every table and figure, by section.

    Args:
        results: Tables; figures in its folder ``figures``.
        outputs: Run folders, if there are any.
        sections: As in configs/report.yaml.

    Returns:
        (section's title, results in its order); last, if there are any, those that no item takes.

    Raises:
        SuiteError: If there is nothing.
    """
    runs = runs_of(outputs)
    tables = {f.stem for pattern in ("*.csv", "*.md") for f in results.glob(pattern)} - {showcase.FACTS}
    companions = {name for name in tables for end in COMPANIONS if name.removesuffix(end) in tables - {name}}
    images = {f"figures/{f.stem}": f for f in sorted(results.glob("figures/[!.]*")) if f.suffix in (".png", ".jpg")}
    left = [*sorted(tables - companions), *images]
    if not left:
        raise SuiteError(f"nothing to report: {results} has no table and no figure; make tables makes some")

    def result_of(name: str, title: str, item: Mapping[str, Any]) -> Result:
        result = figure(name, images[name]) if name in images else table(name, results, runs)
        result.title = title or result.title
        result.shows = item.get("shows", "")
        if not result.status:
            stand_in = any(word in stand_ins() for word in name.split("_"))
            unsaid = "other data" if stand_in else "unknown" if name in images else ""
            if state := item.get("status") or unsaid:
                result.status[state] = 0
        if item.get("here") and not any(result.commands.values()):
            result.commands["Command on the embedded data"] = [item["here"]]
        if item.get("real") and not {"reproduced", "differs", "shown"} & set(result.status):
            result.commands["Command on the paper's data and weights"] = [item["real"]]
        return result

    found = []
    for section in sections:
        of_section = []
        for item in section["items"]:
            for pattern, heading in (item.get("files") or {}).items():
                for name in fnmatch.filter(left, pattern):
                    left.remove(name)
                    rest = _words(name[len(pattern.partition("*")[0]) :])
                    of_section.append(
                        result_of(name, " · ".join(filter(None, [heading, rest])) if heading else "", item)
                    )
                    of_section[-1].owner = f"{section['title']}, {item['item']}"
        found.append((section["title"], of_section))
    further = [result_of(name, "", {}) for name in left]
    return [*found, ("Further results", further)] if further else found


def _words(name: str) -> str:
    """A file's name in words, datasets, networks and machines set apart."""
    for known in KNOWN:
        name = re.sub(rf"(^|_){known}(?=_|$)", f" · {label(known)}", name)
    return name.replace("_", " ").strip(" ·")


def table(name: str, results: Path, runs: Mapping[Key, Sequence[Run]]) -> Result:
    """Reads ``<name>.csv`` and ``.md``, what stands beside them, and the run folders behind them."""
    result = Result(name, _words(name))
    frame, words = _read(name, results, result.files, result.problems)
    if frame is not None:
        result.grids = _laid_out(frame, name, result.problems)
        result.cells = frame if leaderboard.fits(frame) else None
        if "status" in frame and set(frame["status"]) <= set(STATES):
            result.status = Counter(frame["status"])
            if len(result.status) > 1:
                del result.status["not published"]
        result.runs = runs_behind(frame, runs, result.problems)
    if words is not None:
        found = prose(words, tables=frame is None)
        result.title, result.lead, result.notes = found.title or result.title, found.lead, found.notes
        result.commands["Command that made it"] = found.commands
    if result.runs is not None:
        told = result.commands.get("Command that made it", ())
        result.commands["Commands that made its records"] = [c for c in result.runs.commands if c not in told]
    for end, heading in COMPANIONS.items():
        if any((results / f"{name}{end}{suffix}").exists() for suffix in (".csv", ".md")):
            problems: list[str] = []
            frame, words = _read(name + end, results, result.files, problems)
            if end == "_claims" and frame is not None and set(COLUMNS) <= set(frame):
                result.claims = frame
            found = prose(words or "", tables=frame is None)
            result.parts.append(
                Part(heading, [] if frame is None else _laid_out(frame, name + end, problems), found.notes)
            )
            result.problems += [p for p in problems if end != "_order" or ".csv" in p]  # the order has no Markdown file
    return result


def _read(name: str, results: Path, files: list[str], problems: list[str]) -> tuple[pd.DataFrame | None, str | None]:
    """A table's CSV and Markdown file; None and a problem for what is missing or unreadable."""
    frame = words = None
    for suffix in (".csv", ".md"):
        file = results / f"{name}{suffix}"
        try:
            if suffix == ".csv":
                frame = pd.read_csv(file, dtype={"variant": str})
            else:
                words = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            problems.append(f"{file.name} is missing.")
        except (OSError, ValueError) as error:  # pandas' and Unicode's errors are ValueErrors
            problems.append(f"{file.name} cannot be read: {error}.")
        else:
            files.append(file.name)
    return frame, words


def _laid_out(frame: pd.DataFrame, name: str, problems: list[str]) -> list[Grid]:
    try:
        return grids_of(frame)
    except (KeyError, TypeError, ValueError) as error:
        problems.append(f"{name}.csv is not laid out as its columns promise ({error!r}): shown as it is.")
        return plain(frame)


def figure(name: str, file: Path) -> Result:
    """Reads an image and what it says of itself."""
    result = Result(name, _words(file.stem))
    try:
        note = note_of(file)
        result.picture = embedded(file)
    except OSError as error:
        result.problems.append(f"figures/{file.name} cannot be read: {error}.")
        return result
    result.files.append(f"figures/{file.name}")
    if {"command", "status"} <= set(note) and note["status"] in STATES:
        result.status[note["status"]] = 0
        result.commands["Command that made it"] = [note["command"]]
        result.machines = [machine(note)]
    else:
        result.problems.append(f"figures/{file.name} does not say which command made it.")
    return result


def embedded(file: Path) -> Picture:
    """An image as a data URI, as WebP where that is smaller: a PNG without loss, a JPEG with some."""
    data, kind = file.read_bytes(), {".png": "png", ".jpg": "jpeg"}[file.suffix]
    smaller = io.BytesIO()
    with Image.open(file) as image:
        width, height = image.size
        image.convert("RGB").save(smaller, "WEBP", lossless=kind == "png", quality=80, method=4)
    if smaller.tell() < len(data):
        data, kind = smaller.getvalue(), "webp"
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height)


# runs -------------------------------------------------------------------------------------------------------------
def runs_of(outputs: Path) -> dict[Key, list[Run]]:
    """The run folders below ``outputs`` by what they are; none if there is no such folder."""
    found: dict[Key, list[Run]] = {}
    for run in find_runs(outputs):
        key = (run.identity["dataset"], run.identity["model"], run.identity["explainer"], run.variant)
        found.setdefault(key, []).append(run)
    return found


def runs_behind(frame: pd.DataFrame, runs: Mapping[Key, Sequence[Run]], problems: list[str]) -> Runs | None:
    """What the run folders behind a table say; None if it names no runs or none of them is here.

    A run with another number of pairs than the table was continued or made anew since: it is not behind the table. Of a
    table that does not say how many pairs it has (column ``n``), any number will do.
    """
    columns = ["dataset", "model", "explainer", "variant"]
    if not set(columns) <= set(frame.columns):
        return None
    wanted: dict[Key, int | None] = {}
    if "against" in frame:
        wanted = {(r.dataset, r.model, *r.against.split("/")): None for r in frame.itertuples()}
        wanted |= dict.fromkeys(frame[columns].itertuples(index=False, name=None))
    elif "n" not in frame:
        wanted = dict.fromkeys(frame[columns].itertuples(index=False, name=None))
    else:
        wanted = {key: int(n) for key, n in frame.groupby(columns, sort=False)["n"].max().items() if n}
    behind = [key for key, n in wanted.items() if key in runs and n in (None, _pairs(runs[key]))]
    if len(behind) < len(wanted):
        problems.append(
            f"{len(wanted) - len(behind)} of the {len(wanted)} runs behind this table are not in outputs here, or have "
            "other pairs there by now: their commands, settings and versions are not shown."
        )
    found = [run for key in behind for run in runs[key]]
    if not found:
        return None
    settings = [_flat({k: v for k, v in run.identity.items() if k not in NOT_SETTINGS}) for run in found]
    shared = dict(set(settings[0].items()).intersection(*(s.items() for s in settings[1:])))
    rows = []
    for run, own in zip(found, settings, strict=True):
        differing = ", ".join(f"{k} = {v}" for k, v in own.items() if k not in shared)
        words = [run.identity[key] for key in ("label", "dataset", "model", "variant")]
        rows.append([Cell(label(word), number=False) for word in (*words, differing)])
    origins = {key: Origin(commands_of(runs[key]), _machines(runs[key])) for key in behind}
    return Runs(
        Grid("", ["Run", "dataset", "network", "variant", "settings of its own"], rows),
        [(key, shared[key]) for key in settings[0] if key in shared],
        _machines(found),
        commands_of(found),
        origins,
    )


def _pairs(runs: Sequence[Run]) -> int:
    return len(pairs_of(run.records for run in runs))


NOT_SETTINGS = ("format", "dataset", "model", "explainer", "variant", "label", "departures", "budget", "left_out",
                "dataset_note")  # fmt: skip


def _flat(node: Any, key: str = "") -> dict[str, str]:
    """{dotted key: value as text}."""
    if not isinstance(node, Mapping):
        return {key: str(node)}
    return {k: v for name, child in node.items() for k, v in _flat(child, f"{key}.{name}".lstrip(".")).items()}


def machine(here: Mapping[str, Any]) -> str:
    """A line about the machine and the versions, from :func:`sise.benchmark.records.environment.environment`."""
    versions = ", ".join(f"{name} {version}" for name, version in here.get("packages", {}).items() if version)
    commit = (
        f"; commit {here['commit'][:9]}{' with changes' if here.get('dirty') else ''}" if here.get("commit") else ""
    )
    return (
        f"{str(here.get('time'))[:10]}, {here.get('device')}, {here.get('threads')} threads; Python "
        f"{here.get('python')}, {versions}{commit}"
    )


def _machines(runs: Sequence[Run]) -> list[str]:
    """A line per machine and versions, oldest first."""
    sessions = [session for run in runs for session in RunFolder(run.path).environments()]
    return list(dict.fromkeys(map(machine, sorted(sessions, key=lambda session: session.get("time", "")))))

"""The benchmark's front page: one self-contained HTML file of everything in ``results/``.

The way through this wing is the way of the data: :mod:`sise.benchmark.report.results` finds the files and makes a
``Result`` of each, with the grids of its CSV (:mod:`~sise.benchmark.report.grids`), the words of its Markdown file
(:mod:`~sise.benchmark.report.prose`), and what the run folders know; :mod:`~sise.benchmark.report.leaderboard` lines up
their cells and the papers' claims, :mod:`~sise.benchmark.report.showcase` the explainers, :func:`overview` the results
with what the papers show; :func:`write` fills ``page.html.j2``. The page needs no font and no other file. Its only
script, ``page.js``, sorts and filters; without it all is shown.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sise.benchmark.metric_facts import facts
from sise.benchmark.places import of_results
from sise.benchmark.records.environment import environment
from sise.benchmark.records.files import write_whole
from sise.benchmark.report import leaderboard, showcase
from sise.benchmark.report.prose import LONG
from sise.benchmark.report.results import STATES, Result, collect, machine
from sise.benchmark.tables.claims import read as read_claims
from sise.benchmark.tables.words import heading
from sise.errors import SuiteError

log = logging.getLogger(__name__)
TEMPLATE = Path(__file__).with_name("page.html.j2")
TITLE = "<title>SISE benchmark</title>"
"""Tells a page of results from a file of the user's."""


@dataclass(frozen=True)
class Item:
    """A line of the overview: what a table or figure is worth so far, or the ``command`` that makes it."""

    title: str
    shows: str
    states: Sequence[str]
    results: Sequence[Result]
    command: str = ""
    drawing: str = ""


# the page ---------------------------------------------------------------------------------------------------------
def overview(
    sections: Sequence[Mapping[str, Any]], found: Sequence[tuple[str, Sequence[Result]]]
) -> list[tuple[str, str, list[Item]]]:
    """What the papers show and where it stands: (section's title, about it, its items)."""
    every = {result.name: result for _, results in found for result in results}
    lines = []
    for section in sections:
        items = []
        for item in section["items"]:
            also = {n for pattern in item.get("also") or () for n in fnmatch.filter(every, pattern)}
            owner = f"{section['title']}, {item['item']}"
            results = [r for r in every.values() if r.owner == owner or r.name in also]
            states = list(dict.fromkeys(state for result in results for state in result.status))
            command = item.get("real") or item.get("here") or ""
            if results or command or item.get("drawing"):
                kind = "drawing" if item.get("drawing") else "not run"
                states = states if results else [kind]
                items.append(Item(item["item"], item["shows"], states, results, command, item.get("drawing", "")))
        lines.append((section["title"], section["about"], items))
    return lines


def sources_of(found: Sequence[tuple[str, Sequence[Result]]]) -> list[leaderboard.Source]:
    """The tables whose cells stand on the leaderboard, in the page's order."""
    return [
        leaderboard.Source(
            result.title, result.anchor, result.cells, result.claims,
            result.commands.get("Command that made it", ()), result.runs.origins if result.runs else {},
        )
        for _, results in found
        for result in results
        if result.cells is not None
    ]  # fmt: skip


def standing(results: Sequence[Result]) -> str:
    """How far a section's published numbers are reproduced, from the status of every cell; empty if it has none."""
    cells = sum((result.status for result in results), Counter())
    judged = cells["reproduced"] + cells["close"] + cells["differs"]
    others = [f"{cells[state]} {words}" for state, words in CELLS.items() if cells[state]]
    if judged:
        near = f" {cells['close']} are close," if cells["close"] else ""
        text = f"{cells['reproduced']} of {judged} published numbers are reproduced,{near} {cells['differs']} differ."
    else:
        text = "No published number has been reproduced or refuted yet." if others else ""
    return text + (f" Cells beside a published number that do not count: {'; '.join(others)}." if others else "")


CELLS = {
    "partial": "on the paper's data and weights, but of fewer pairs or a smaller budget (~)",
    "other data": "on stand-in data or weights (°)",
    "other hardware": "seconds of another machine (°)",
}


def write(cfg: Mapping[str, Any]) -> Path:
    """Writes the page.

    Args:
        cfg: configs/report.yaml.

    Returns:
        Its file.

    Raises:
        SuiteError: If a file is there that is no such page.
    """
    results, page = Path(cfg["results"]), Path(cfg["page"])
    if page.exists() and TITLE not in page.read_text(encoding="utf-8", errors="replace"):
        raise SuiteError(f"{page} is no page of results; choose another file with page=..., or move it away")
    found = collect(results, Path(cfg["outputs"]), cfg["sections"])
    sources, cards = sources_of(found), showcase.cards(results)
    every_claim = read_claims(of_results(cfg["claims"])) if cfg.get("claims") else None
    script = TEMPLATE.with_name("page.js").read_text(encoding="utf-8")
    environment_ = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    text = environment_.get_template(TEMPLATE.name).render(
        found=found,
        board=leaderboard.board(sources),
        claims=leaderboard.claims_of(every_claim, sources),
        cards=cards,
        families=showcase.by_family(cards),
        overview=overview(cfg["sections"], found),
        standing={title: standing(results) for title, results in found},
        tally=lambda items: Counter(state for item in items for state in item.states if state != "drawing"),
        states=STATES,
        long=LONG,
        heading=heading,
        better=leaderboard.better,
        weakness={metric: fact.weakness for metric, fact in facts().items()},
        made=machine(environment()),
        style=Markup(TEMPLATE.with_name("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_whole(page.resolve(), text)
    megabytes = len(text.encode()) / 2**20
    if megabytes > cfg["megabytes"]:
        pictures = {r.name: len(r.picture.source) for _, of_section in found for r in of_section if r.picture}
        largest = max(pictures, key=pictures.__getitem__) if pictures else "no picture"
        log.warning("%s is %.1f MB, more than %s; the largest part is %s", page, megabytes, cfg["megabytes"], largest)
    return page

"""Tables as CSV, Markdown, LaTeX and text."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from sise.benchmark.markdown import markdown_table
from sise.benchmark.records.files import csv_text
from sise.benchmark.tables.foot import SHOWN, reading
from sise.benchmark.tables.latex import PREAMBLE, floating, tex
from sise.benchmark.tables.table import Note, Table
from sise.benchmark.tables.transparency import FEWER
from sise.benchmark.tables.words import STATUS, heading, label_of, number, one_line
from sise.errors import choose


def to_csv(table: Table) -> str:
    """The long form, at full precision, one line per (model, metric, method)."""
    return csv_text(table.cells.drop(columns=["pairs", "fewer"]))


def to_markdown(table: Table) -> str:
    """A table per network: methods down, metrics across."""

    def show(cell: pd.Series) -> str:
        mean = number(cell["mean"], cell["metric"])
        return {"best": f"**{mean}**", "second": f"<u>{mean}</u>"}.get(cell["place"], mean) + _beside(cell)

    head = _head(table)
    parts = [f"# {table.title}"]
    for model in table.models:
        parts += [f"## {label_of(model)}", markdown_table([head, *_rows(table, model, show)])]
    notes = "\n".join("- " + one_line(note.text).replace("<", "&lt;") for note in table.notes)
    return "\n\n".join([*parts, f"{notes}\n- {table.made_by}\n"])


def to_latex(table: Table, show: str = "means") -> str:
    """A float per network to ``\\input``: methods down, metrics across.

    Args:
        table: From :func:`build`.
        show: What its cells show, a key of :data:`SHOWN`.

    Raises:
        SuiteError: If ``show`` is none of them.
    """
    choose("latex", show, tuple(SHOWN))

    def shown(cell: pd.Series) -> str:
        mean = tex(number(cell["mean"], cell["metric"]))
        mean = {"best": rf"\textbf{{{mean}}}", "second": rf"\underline{{{mean}}}"}.get(cell["place"], mean)
        return mean + tex(_beside(cell, show))

    floats = []
    for model in table.models:
        notes = [note for note in table.notes if note.model in ("", model)]
        if show != "everything":
            notes = [Note(reading(table, show)), *(note for note in notes if not note.about_marks)]
        floats.append(floating(
            f"{table.title}: {label_of(model)}",
            f"tab:{table.name}-{model}".replace("_", "-"),
            _head(table),
            [[tex(label), *cells] for label, *cells in _rows(table, model, shown)],
            [*(note.text for note in notes), table.made_by],
        ))  # fmt: skip
    return "\n".join([f"% {PREAMBLE}", *floats])


def to_text(table: Table) -> str:
    """For a terminal: methods down, metrics across; * marks the best."""
    blocks = [table.title]
    for model in table.models:
        rows = {c.label: [*(_starred(table.cell(model, m, c)) for m in table.metrics), table.pairs(model, c)]
                for c in table.columns}  # fmt: skip
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=[*map(label_of, table.metrics), "n"])
        blocks.append(f"{label_of(model)} on {table.dataset}\n{frame.to_string()}")
    return "\n\n".join([*blocks, "\n".join(f"- {one_line(note.text)}" for note in table.notes if note.urgent)])


def _head(table: Table) -> list[str]:
    return ["Method", *map(heading, table.metrics), "n"]


def _rows(table: Table, model: str, show: Callable[[pd.Series], str]) -> list[list[str]]:
    """Per method its label, the cells of its metrics, and its number of pairs."""
    return [
        [c.label, *(show(table.cell(model, metric, c)) for metric in table.metrics), table.pairs(model, c)]
        for c in table.columns
    ]


def _beside(cell: pd.Series, show: str = "everything") -> str:
    """`` ± standard error [published mark]``, as far as there are any and the cells show them."""
    text = FEWER if cell["fewer"] else ""
    if show != "means" and not math.isnan(cell["standard error"]):
        text += f" ± {number(cell['standard error'], cell['metric'])}"
    if show == "everything" and not math.isnan(cell["published"]):
        text += f" [{number(cell['published'], cell['metric'])} {STATUS[cell['status']][0]}".rstrip() + "]"
    return text


def _starred(cell: pd.Series) -> str:
    return number(cell["mean"], cell["metric"]) + ("*" if cell["place"] == "best" else " ")

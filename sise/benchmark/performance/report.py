"""A performance table, and the machine it was measured on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sise.benchmark.markdown import markdown_table
from sise.benchmark.records.environment import environment
from sise.benchmark.records.files import csv_text, write_whole
from sise.benchmark.tables.result_files import ResultFolder


@dataclass
class Report:
    """One table of results.

    Attributes:
        name: Of its files, ``performance_<name>_<device kind>``.
        title: Its heading.
        table: The rows; column names are headings, numbers are written with three significant digits.
        notes: What a reader must know, one line each.
        samples: What was measured, as it was measured.
        timed: Whether it has times in it, which what else the machine did would make less certain.
    """

    name: str
    title: str
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    timed: bool = True

    def to_markdown(self, environment: Mapping[str, Any]) -> str:
        """Heading, table, notes and the machine."""
        lines = markdown_table([list(self.table.columns), *self._cells()], "l" * self.table.shape[1])
        notes = [*self.notes, describe(environment)]
        return f"# {self.title}\n\n{lines}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"

    def to_text(self) -> str:
        """For the terminal."""
        rows = [[str(c) for c in self.table.columns], *self._cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self.title, lines[0], "-" * len(lines[0]), *lines[1:], *(f"* {n}" for n in self.notes)])

    def write(
        self, results: str | Path, outputs: str | Path, device: torch.device, *, overwrite: bool = False
    ) -> tuple[Path, list[str]]:
        """Writes ``results/performance_<name>_<kind>.{csv,md}`` and the raw samples below ``outputs``.

        Args:
            results, outputs: The folders.
            device: That was measured.
            overwrite: Replaces a table of more networks, methods, images or masks, too.

        Returns:
            The Markdown file, and why it was not written; nothing if it was.
        """
        results, outputs, kind = Path(results), Path(outputs) / "benchmark", device_kind(device)
        kept: list[str] = []
        outputs.mkdir(parents=True, exist_ok=True)
        here = environment(device)
        file = results / f"performance_{self.name}_{kind}.md"
        texts = {file.name: self.to_markdown(here), f"{file.stem}.csv": csv_text(self.table)}
        ResultFolder(results, overwrite, kept.append).write(texts)
        stamp = here["time"].replace(":", "").replace("+0000", "Z")
        raw = {"report": self.name, "notes": self.notes, "environment": here, "samples": self.samples}
        raw["table"] = json.loads(self.table.to_json(orient="records"))
        write_whole(outputs / f"{self.name}_{kind}_{stamp}.json", json.dumps(raw, default=_plain))
        return file, kept

    def _cells(self) -> list[list[str]]:
        return [[_text(value) for value in row] for row in self.table.itertuples(index=False)]


def describe(here: Mapping[str, Any]) -> str:
    """One line about the machine and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in here["packages"].items() if version)
    commit = f", commit {here['commit'][:9]}{' with changes' if here['dirty'] else ''}" if here["commit"] else ""
    threads = f"{here['threads']} CPU thread{'s' * (here['threads'] != 1)}"
    return f"Measured {here['time'][:10]} on {here['device']}, {threads}; Python {here['python']}, {versions}{commit}."


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def device_kind(device: torch.device) -> str:
    """``cpu``, or the card's name as part of a file name."""
    if device.type != "cuda":
        return device.type
    name = torch.cuda.get_device_name(device).lower()
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())

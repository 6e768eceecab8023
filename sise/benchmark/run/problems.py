"""Failures, grouped by their reason."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from sise.benchmark.places import ROOT
from sise.benchmark.records.code_version import is_installed


def by_problem(problems: Mapping[str, str]) -> list[str]:
    """A line per problem: what it is, and the cells that have it, a few by name."""
    lines = []
    for problem in dict.fromkeys(problems.values()):
        names = [name for name in problems if problems[name] == problem]
        count = f"{len(names)} cells: " if len(names) > 1 else ""
        lines.append(f"{problem} [{count}{some(names)}]")
    return lines


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def place_of(error: Exception) -> str:
    """File and line that raised an error: the innermost that is no installed package's, as ``mine.py:12``."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_installed(Path(frame.filename))] or frames
    if not own:
        return ""
    file = Path(own[-1].filename)
    return f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name}:{own[-1].lineno}"

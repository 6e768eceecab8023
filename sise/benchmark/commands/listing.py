"""What there is to choose from: ``sise list explainers``, read from the files of ``configs/``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from sise.benchmark.metric_facts import Fact, facts
from sise.benchmark.places import CONFIGS
from sise.errors import SuiteError, choose

KINDS = {
    "explainers": "explainer",
    "metrics": "metrics",
    "models": "model",
    "datasets": "dataset",
    "tables": "table",
    "experiments": "experiment",
}
"""What can be listed, and the group of ``configs/`` that holds it."""
WIDTH = 110


def listing(words: Sequence[str]) -> str:
    """One line for each thing of a kind, or, without a kind, how many there are of each.

    Args:
        words: One of :data:`KINDS`, or nothing.

    Raises:
        SuiteError: If the kind is unknown, or there is more than one word.
    """
    if not words:
        counts = "\n".join(f"  sise list {kind:<12} {len(entries(kind))}" for kind in KINDS)
        return f"{counts}\n"
    if len(words) > 1:
        raise SuiteError(f"list: expected one of {', '.join(KINDS)}; got {' '.join(words)!r}.")
    found = entries(choose("list", words[0], list(KINDS)))
    width = max(map(len, found))
    return "".join(
        f"{name:<{width}}  {textwrap.shorten(says, WIDTH, placeholder=' ...')}\n" for name, says in found.items()
    )


def entries(kind: str) -> dict[str, str]:
    """Of a kind: each name that a setting takes, and what it is. Of metrics, the name in records and tables."""
    files = sorted((CONFIGS / KINDS[kind]).glob("*.yaml"))
    if kind == "metrics":
        return {name: f"metrics={file.stem}: {_of_metric(name)}" for file in files for name in metric_names(file)}
    return {file.stem: _says(file) for file in files}


def metric_names(file: Path) -> list[str]:
    """The metrics that a file of ``configs/metrics`` defines."""

    def named(node: Any, name: str) -> Iterator[str]:
        if isinstance(node, dict):
            if "_target_" in node:
                yield name
            else:
                for key, child in node.items():
                    yield from named(child, key)

    return list(named(yaml.safe_load(file.read_text(encoding="utf-8")), ""))


def _of_metric(name: str) -> str:
    told = facts().get(name, Fact())
    return f"{told.better} is better; {told.weakness}" if told.weakness else f"{told.better} is better"


def _says(file: Path) -> str:
    """A configuration's label or title, and the comment at its head."""
    text = file.read_text(encoding="utf-8")
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment += [] if line.startswith("# @package") else [line.lstrip("# ")]
    content = yaml.safe_load(text) or {}
    title = content.get("label") or content.get("title")
    return ": ".join(filter(None, [title, " ".join(comment)]))

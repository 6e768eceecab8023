"""What tables and their readers need to know of a metric besides its values, from ``metric_facts.yaml``.

Facts of a metric that is not listed there are those of most: higher is better, a fraction, shown in percent.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import OmegaConf

from sise.benchmark.markdown import markdown_table
from sise.errors import choose

COSTS = ("seconds", "forward_passes", "backward_passes")
"""What an explanation takes: shown beside the metrics, and no rank among them."""
FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Fact:
    """One metric.

    Attributes:
        better: Which direction is better.
        unit: ``percent``: records keep a fraction. ``number``: shown as it is.
        measures: Its definition in a line.
        weakness: In a line, what it may praise or punish for another reason than the explanation.
        source: Where it is from; None for costs.
        group: Its file in ``configs/metrics``; None for costs.
    """

    better: Literal["lower", "higher"] = "higher"
    unit: Literal["percent", "number"] = "percent"
    measures: str = ""
    weakness: str = ""
    source: str | None = None
    group: str | None = None


@functools.cache
def facts() -> Mapping[str, Fact]:
    """Returns the facts by the metric's name in records.

    Raises:
        SuiteError: If the file says something else than is known.
    """
    read = cast("dict[str, dict[str, Any]]", OmegaConf.to_container(OmegaConf.load(FILE)))
    for name, fact in read.items():
        choose(f"better of {name}", fact["better"], ("lower", "higher"))
        choose(f"unit of {name}", fact["unit"], ("percent", "number"))
    return {name: Fact(**fact) for name, fact in read.items()}


def scale(metric: str) -> float:
    """What a record's value is multiplied with in tables: 100 for a fraction, 1 for a number."""
    return 100.0 if facts().get(metric, Fact()).unit == "percent" else 1.0


def in_group(group: str) -> tuple[str, ...]:
    """The metrics of a file of ``configs/metrics``."""
    return tuple(name for name, fact in facts().items() if fact.group == group)


def lower_is_better() -> tuple[str, ...]:
    """The metrics of which less is better."""
    return tuple(name for name, fact in facts().items() if fact.better == "lower")


def lower_said(metrics: Iterable[str], *others: str) -> str:
    """Says of which of these metrics less is better, costs apart; ``others`` are named behind them."""
    names = [name for name in metrics if name in lower_is_better() and name not in COSTS] + list(others)
    return f"Lower is better for {listed(names)}." if names else "Higher is better."


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def to_markdown() -> str:
    """A Markdown table of all metrics, costs apart: what each measures, its weakness, its source, its group."""
    lines = [["metric", "what it measures", "known weakness", "from", "`metrics=`"]]
    for name, fact in facts().items():
        if name not in COSTS:
            arrow = {"lower": "↓", "higher": "↑"}[fact.better]
            lines.append([f"{name} {arrow}", fact.measures, fact.weakness, fact.source or "", fact.group or ""])
    return markdown_table(lines, "lllll")

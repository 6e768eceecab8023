"""The metrics that a run's records hold: more may be added to a run, none may change under its name.

A run is what makes its maps. Its metrics are settings apart, in ``config.metrics`` of ``run.json``: each has a name and
settings of its own. A command that asks for others adds them there. Each session says which metrics its records
hold (``metrics``), so that pairs without an added one are known, and made again with all of the run's metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sise.benchmark.records.flat import placeless

FAMILIES = ("localization", "faithfulness", "on_image", "truth", "again")
"""The groups of metrics, by what a metric is called with."""
ORIGINAL = "first_metrics"
"""In ``run.json``: what the records hold of sessions that do not say it, from before metrics could be added."""


def metric_names(metrics: Mapping[str, Any]) -> list[str]:
    """Names of all metrics of a configuration's ``metrics`` group."""
    return [name for family in FAMILIES for name in metrics.get(family) or {}]


def apart(identity: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An identity without its metrics, and these."""
    config = dict(identity.get("config") or {})
    metrics = config.pop("metrics", None) or {}
    return {key: value for key, value in identity.items() if key != ORIGINAL} | {"config": config}, metrics


def changed(there: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that both sets of metrics have and that differ: as they are there, and as they are asked for."""
    then, now = placeless(there), placeless(asked)
    common = [key for key in then if key in now and then[key] != now[key]]
    return {key: then[key] for key in common}, {key: now[key] for key in common}


def united(there: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Both sets of metrics in one; what both have is as it is there."""
    merged = {**asked, **there}
    for family in FAMILIES:
        if family in there or family in asked:
            known = there.get(family) or {}
            merged[family] = known | {name: m for name, m in (asked.get(family) or {}).items() if name not in known}
    return merged


def of_another_metric(key: str, shipped: Iterable[str]) -> bool:
    """Whether a dotted setting belongs to a metric of which the settings ``shipped`` have none."""
    parts = key.split(".")
    if parts[0] != "metrics":
        return False
    if len(parts) == 2 and parts[1] in FAMILIES:
        return True  # an empty family
    owner = ".".join(parts[:3] if len(parts) > 2 and parts[1] in FAMILIES else parts[:2])
    return not any(name == owner or name.startswith(f"{owner}.") for name in shipped)


def without_all(
    identity: Mapping[str, Any], sessions: Iterable[Mapping[str, Any]], asked: Mapping[str, Any] | None = None
) -> set[str]:
    """The sessions whose records lack a metric that the run has by now, or that is asked for."""
    there = apart(identity)[1]
    wanted = {*metric_names(there), *metric_names(asked or {})}
    first = identity.get(ORIGINAL, metric_names(there))
    return {entry["session"] for entry in sessions if "session" in entry and wanted - set(entry.get("metrics", first))}

"""What the papers' text says of the order of methods, checked on the records: ``results/<table>_claims.{csv,md}``.

``results/published/claims.csv`` has a row per ordering that a paper's text draws from one of its tables: the
``subject`` is ``better`` or ``not worse`` than the ``rival``. A claim can fail in two places: the published numbers may
not bear it out, and the records may not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sise.benchmark import statistics
from sise.benchmark.result_files import ResultFolder
from sise.benchmark.tables import (
    CLOSE,
    LABELS,
    LOWER_IS_BETTER,
    PUBLISHED_NAMES,
    Column,
    Run,
    Table,
    Writer,
    budgets_of,
    clusters_of,
    pair_values,
    runs_of,
    signed,
)
from sise.types import SuiteError, choose

__all__ = ["check", "read", "verdict", "writer"]

KINDS = ("better", "not worse")
FACTS = ("source", "section", "claim", "table", "dataset", "model", "metric", "subject", "rival", "kind")
COLUMNS = (*FACTS, "published difference", "published agrees", "images", "pairs", "difference", "low", "high",
           "verdict")  # fmt: skip
COMPARABLE = ("reproduced", "close", "differs", "other hardware")
"""Statuses of cells that a claim about the paper's own data can be checked on."""


def read(file: str | Path) -> pd.DataFrame:
    """The claims, columns :data:`FACTS`.

    Raises:
        SuiteError: If the file is missing, or a kind is unknown.
    """
    try:
        claims = pd.read_csv(file)
    except FileNotFoundError as error:
        raise SuiteError(f"expected the papers' claims in {file}; it is part of the repository, restore it") from error
    for kind in claims["kind"].unique():
        choose("kind", kind, KINDS)
    return claims


def verdict(kind: str, low: float, high: float) -> str:
    """Whether an interval of the subject's lead bears a claim out.

    Args:
        kind: ``better``: the lead is above 0; ``not worse``: it is above −:data:`~sise.benchmark.tables.CLOSE`.
        low, high: Of the lead, positive where the subject is better; NaN for no interval.

    Returns:
        ``held`` or ``not held`` if the whole interval says so, else ``undecided``.
    """
    least = 0.0 if choose("kind", kind, KINDS) == "better" else -CLOSE
    if low > least:
        return "held"
    return "not held" if high < least else "undecided"


def check(table: Table, claims: pd.DataFrame, published: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Checks the claims about one table.

    Args:
        table: From :func:`sise.benchmark.tables.build`.
        claims: From :func:`read`, those about the table.
        published: From :func:`sise.benchmark.tables.read_published`.
        runs: All runs.

    Returns:
        One row per claim about a model and a metric of the table, :data:`COLUMNS`. Differences are the subject's value
        minus the rival's, in points (costs: their unit), ``low`` and ``high`` the 95 % bootstrap interval over images
        on the pairs that both have. ``verdict`` as in :func:`verdict`, but ``stand-in`` without the paper's data and
        weights, ``partial`` where either side is not run as the paper did, and ``not run``.
    """
    runs = [run for run in runs if run.identity["dataset"] == table.dataset]
    values = published.set_index(["table", "model", "metric", "method"])["value"]
    rows = []
    for claim in claims.to_dict("records"):
        model, metric = claim["model"], claim["metric"]
        if model not in table.models or metric not in table.metrics:
            continue
        name = PUBLISHED_NAMES.get(metric, metric)
        printed = [float(values[claim["table"], model, name, claim[side]]) for side in ("subject", "rival")]
        apart = round(printed[0] - printed[1], 6)
        lead = _lead(apart, metric)
        agrees = lead > 0 if claim["kind"] == "better" else lead >= -CLOSE
        rows.append(
            {**claim, "dataset": table.dataset, "published difference": apart, "published agrees": agrees}
            | _measured(table, claim, runs)
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(table: Table, claim: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """What the records say about a claim."""
    model, metric = claim["model"], claim["metric"]
    sides = [_column(table, model, claim[side], runs) for side in ("subject", "rival")]
    groups = [runs_of(runs, model, column) if column else [] for column in sides]
    nothing = {"images": 0, "pairs": 0, "difference": math.nan, "low": math.nan, "high": math.nan}
    if not all(groups):
        return nothing | {"verdict": "not run"}
    mine, theirs = (pair_values(group, metric) for group in groups)
    apart = (mine - theirs).dropna()
    if apart.empty:
        return nothing | {"verdict": "not run"}
    found = statistics.paired_bootstrap([statistics.per_image(apart, clusters_of([*groups[0], *groups[1]]))])[0]
    found.pop("p")
    bounds = sorted((_lead(found["low"], metric), _lead(found["high"], metric)))
    statuses = {table.cell(model, metric, column)["status"] for column in sides if column}
    less = any(budget.cheaper for column, group in zip(sides, groups, strict=True) if column
               for budget in budgets_of(group, column))  # fmt: skip
    if "other data" in statuses:
        judged = "stand-in"
    elif less or not statuses <= set(COMPARABLE):
        judged = "partial"
    else:
        judged = verdict(claim["kind"], *bounds)
    images = apart.index.get_level_values(0).nunique()
    return {"images": images, "pairs": len(apart), **found, "verdict": judged}


def _column(table: Table, model: str, method: str, runs: Sequence[Run]) -> Column | None:
    """The first column that shows a published method and was run."""
    return next((c for c in table.columns if c.method == method and runs_of(runs, model, c)), None)


def _lead(difference: float, metric: str) -> float:
    """A difference, positive where the first is better."""
    return -difference if metric in LOWER_IS_BETTER else difference


def to_markdown(table: Table, checked: pd.DataFrame) -> str:
    """A table per claim, and how to read it."""
    parts = [f"# {table.title}: claims"]
    for (source, section, claim), rows in checked.groupby(["source", "section", "claim"], sort=False):
        agree = int(rows["published agrees"].sum())
        lines = ["| Model | Metric | Claim | Published | Measured [95 %] | Pairs | Verdict |",
                 "| --- | --- | --- | --: | --: | --: | --- |"]  # fmt: skip
        for row in rows.to_dict("records"):
            shown = "–" if math.isnan(row["difference"]) else signed(row["difference"])
            if not math.isnan(row["low"]):
                shown += f" [{signed(row['low'])}, {signed(row['high'])}]"
            printed = signed(row["published difference"]) + ("" if row["published agrees"] else " (no)")
            lines.append(
                f"| {LABELS.get(row['model'], row['model'])} | {LABELS.get(row['metric'], row['metric'])} | "
                f"{row['subject']} {row['kind']} than {row['rival']} | {printed} | {shown} | {row['pairs']} | "
                f"{row['verdict']} |"
            )
        parts += [f"## {claim} ({source}, {section})",
                  f"The published numbers agree in {agree} of {len(rows)} rows.", "\n".join(lines)]  # fmt: skip
    notes = [
        "Differences: the first method minus the second, percentage points (run-time: seconds); lower is better for "
        'Drop% and run-time. "(no)": the published numbers do not bear the claim out.',
        f"Verdict: held or not held if the whole 95 % interval ({statistics.RESAMPLES} bootstrap resamples of images "
        f'on the same pairs, each claim by itself) says so; "not worse" allows {CLOSE} points. stand-in: not the '
        "paper's data and weights, so it says nothing about the claim; partial: the paper's, but not run as it did; "
        f"no interval with fewer than {statistics.FEWEST_IMAGES} independent images.",
        table.made_by,
    ]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def writer(claims: pd.DataFrame, published: pd.DataFrame) -> Writer:
    """A writer for :func:`sise.benchmark.tables.tabulate`: tables that no claim is about get no file."""

    def write(table: Table, definition: Mapping[str, Any], runs: Sequence[Run], results: ResultFolder) -> list[Path]:
        checked = check(table, claims[claims["table"] == definition.get("published")], published, runs)
        if checked.empty:
            return []
        text = checked.to_csv(index=False, lineterminator="\n")
        stem = f"{table.name}_claims"
        return results.write({f"{stem}.csv": text, f"{stem}.md": to_markdown(table, checked)})

    return write

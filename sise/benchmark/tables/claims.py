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

import numpy as np
import pandas as pd

from sise.benchmark.markdown import markdown_table
from sise.benchmark.records.files import csv_text
from sise.benchmark.tables import statistics
from sise.benchmark.tables.foot import budgets_of
from sise.benchmark.tables.make import Writer
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import clusters_of, pair_values, runs_of
from sise.benchmark.tables.table import Column, Run, Table
from sise.benchmark.tables.words import CLOSE, LABELS, LOWER_IS_BETTER, PUBLISHED_NAMES, signed
from sise.errors import SuiteError, choose

__all__ = ["check", "read", "verdict", "writer"]

KINDS = ("better", "not worse")
FACTS = ("source", "section", "claim", "table", "dataset", "model", "metric", "subject", "rival", "kind")
COLUMNS = (*FACTS, "published difference", "published agrees", "images", "pairs", "difference", "low", "high",
           "verdict", "subject run", "rival run")  # fmt: skip


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
        kind: ``better``: the lead is above 0; ``not worse``: it is above −:data:`~sise.benchmark.tables.words.CLOSE`.
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
        table: From :func:`sise.benchmark.tables.build.build`.
        claims: From :func:`read`, those about the table.
        published: From :func:`sise.benchmark.tables.published.read_published`.
        runs: All runs.

    Returns:
        One row per claim about a model and a metric of the table, :data:`COLUMNS`. Differences are the subject's value
        minus the rival's, in points (costs: their unit), ``low`` and ``high`` the 95 % bootstrap interval over images
        on the pairs that both have. ``verdict`` as in :func:`verdict`, but ``stand-in`` without the paper's data and
        weights, ``partial`` where either side is not run as the paper did, and ``not run``. ``subject run`` and
        ``rival run`` say as "explainer/variant" whose records were compared.
    """
    runs = [run for run in runs if run.identity["dataset"] == table.dataset]
    values = published.set_index(["table", "model", "metric", "method"])["value"]
    rows, compared = [], []
    for claim in claims.to_dict("records"):
        model, metric = claim["model"], claim["metric"]
        if model not in table.models or metric not in table.metrics:
            continue
        name = PUBLISHED_NAMES.get(metric, metric)
        printed = [float(values[claim["table"], model, name, claim[side]]) for side in ("subject", "rival")]
        apart = round(printed[0] - printed[1], 6)
        lead = _lead(apart, metric)
        agrees = lead > 0 if claim["kind"] == "better" else lead >= -CLOSE
        measured, summed = _compared(table, claim, runs)
        rows.append(
            {**claim, "dataset": table.dataset, "published difference": apart, "published agrees": agrees} | measured
        )
        compared.append(summed)
    # together: the draws of a bootstrap take longer than their means, and are the same for all claims
    for row, found in zip(rows, statistics.paired_bootstrap(compared), strict=True):
        row |= {name: found[name] for name in ("difference", "low", "high")}
        if not row["verdict"]:
            bounds = sorted((_lead(row["low"], row["metric"]), _lead(row["high"], row["metric"])))
            row["verdict"] = verdict(row["kind"], *bounds)
    return pd.DataFrame(rows, columns=COLUMNS)


_NOTHING = np.zeros(0), np.zeros(0)


def _compared(
    table: Table, claim: Mapping[str, Any], runs: Sequence[Run]
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]]:
    """What the records say about a claim but for the difference, and what that is bootstrapped from.

    Returns:
        Part of a row, its ``verdict`` empty where the interval decides it; and the sums and numbers of the differences
        per image, see :func:`sise.benchmark.tables.statistics.per_image`.
    """
    model, metric = claim["model"], claim["metric"]
    sides = [_column(table, model, claim[side], runs) for side in ("subject", "rival")]
    groups = [runs_of(runs, model, column) if column else [] for column in sides]
    names = [f"{column.explainer}/{column.variant}" if column else "" for column in sides]
    nothing: dict[str, Any] = {"images": 0, "pairs": 0, "verdict": "not run"}
    nothing |= {"subject run": names[0], "rival run": names[1]}
    if not all(groups):
        return nothing, _NOTHING
    mine, theirs = (pair_values(group, metric) for group in groups)
    apart = (mine - theirs).dropna()
    if apart.empty:
        return nothing, _NOTHING
    summed = statistics.per_image(apart, clusters_of([*groups[0], *groups[1]]))
    statuses = {table.cell(model, metric, column)["status"] for column in sides if column}
    less = any(budget.cheaper for column, group in zip(sides, groups, strict=True) if column
               for budget in budgets_of(group, column))  # fmt: skip
    if "other data" in statuses:
        judged = "stand-in"
    elif less or not statuses <= set(COMPARABLE):
        judged = "partial"
    else:
        judged = ""
    images = apart.index.get_level_values(0).nunique()
    return nothing | {"images": images, "pairs": len(apart), "verdict": judged}, summed


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
        lines = [["Model", "Metric", "Claim", "Published", "Measured [95 %]", "Pairs", "Verdict"]]
        for row in rows.to_dict("records"):
            shown = "–" if math.isnan(row["difference"]) else signed(row["difference"])
            if not math.isnan(row["low"]):
                shown += f" [{signed(row['low'])}, {signed(row['high'])}]"
            printed = signed(row["published difference"]) + ("" if row["published agrees"] else " (no)")
            model, metric = (LABELS.get(name, name) for name in (row["model"], row["metric"]))
            said = f"{row['subject']} {row['kind']} than {row['rival']}"
            lines.append([model, metric, said, printed, shown, str(row["pairs"]), row["verdict"]])
        agreed = f"The published numbers agree in {agree} of {len(rows)} rows."
        parts += [f"## {claim} ({source}, {section})", agreed, markdown_table(lines, "lllrrrl")]
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
    """A writer for :func:`sise.benchmark.tables.make.tabulate`: tables that no claim is about get no file."""

    def write(table: Table, definition: Mapping[str, Any], runs: Sequence[Run], results: ResultFolder) -> list[Path]:
        checked = check(table, claims[claims["table"] == definition.get("published")], published, runs)
        if checked.empty:
            return []
        text = csv_text(checked)
        stem = f"{table.name}_claims"
        return results.write({f"{stem}.csv": text, f"{stem}.md": to_markdown(table, checked)})

    return write

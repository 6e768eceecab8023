"""Every method of a table against a reference, on the same pairs: SISE, or what the table's definition names.

:func:`compare` makes the numbers with :mod:`sise.benchmark.tables.statistics`; :func:`write` puts them beside each
table, as ``results/<table>_statistics.{csv,md}`` and ``<table>_order.csv``, or, for a definition with ``layout:
differences`` (one row per choice instead of one column per method), as the table itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sise.benchmark.markdown import markdown_table
from sise.benchmark.metric_facts import lower_said
from sise.benchmark.records.files import csv_text
from sise.benchmark.tables import statistics
from sise.benchmark.tables.foot import budgets_of
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import clusters_of, pair_values, runs_of
from sise.benchmark.tables.table import Column, Run, Table
from sise.benchmark.tables.words import COSTS, LABELS, LOWER_IS_BETTER, number, signed

__all__ = ["compare", "order", "write"]

REFERENCE = {"explainer": "sise", "variant": "paper"}
LEVEL = 0.05
COMPANIONS = ("_statistics.csv", "_statistics.md", "_order.csv")
COLUMNS = ("dataset", "model", "metric", "method", "explainer", "variant", "against", "images", "clusters", "pairs",
           "unpaired", "undefined", "mean", "reference mean", "difference", "standard error", "low", "high",
           "bootstrap p", "bootstrap p (Holm)", "images higher", "images lower", "images tied", "sign p",
           "sign p (Holm)", "verdict")  # fmt: skip


# numbers ----------------------------------------------------------------------------------------------------------
def compare(table: Table, runs: Sequence[Run], reference: Mapping[str, str] = REFERENCE) -> pd.DataFrame:
    """Paired comparisons of a table's columns with the reference, per model and metric.

    Args:
        table: From :func:`sise.benchmark.tables.build.build`.
        runs: All runs.
        reference: ``explainer`` and ``variant`` of what the columns are compared with; a column's ``against`` goes
            before it.

    Returns:
        One row per (model, metric, column), :data:`COLUMNS`. ``difference`` is the column's mean minus the
        reference's over the ``pairs`` that both have, in percentage points (costs: their unit), with its paired
        ``standard error`` and 95 % bootstrap interval; ``unpaired`` counts the pairs that one of the two lacks,
        ``undefined`` those where the value of either is set by definition. "Holm" corrects over the columns of one
        (table, model, metric). ``verdict``: ``better`` or ``worse`` if both corrected tests say so at 5 %, with a
        question mark if only the bootstrap does (the mean moves, but most images do not move with it), else ``not
        distinguished``; ``undefined`` if there are too few images for a bootstrap; ``another measure`` for a
        yardstick, which is not tested. Images of one cluster count as one.
    """
    runs = [run for run in runs if run.identity["dataset"] == table.dataset]
    families = [_family(table, runs, model, metric, reference) for model in table.models for metric in table.metrics]
    tested = statistics.paired_bootstraps([summed for _, summed in families])
    rows = [row for (rows, _), found in zip(families, tested, strict=True) for row in _tested(rows, found)]
    return pd.DataFrame(rows, columns=COLUMNS)


Family = tuple[list[dict[str, Any]], list[tuple[np.ndarray, np.ndarray]]]
"""Comparisons that are corrected together, and the sums and numbers of each one's differences per image."""


def _family(table: Table, runs: Sequence[Run], model: str, metric: str, reference: Mapping[str, str]) -> Family:
    """The comparisons of a model and metric, not yet tested by resampling."""
    rows, summed = [], []
    for column in table.columns:
        against = _against(column, reference)
        mine, theirs = runs_of(runs, model, column), runs_of(runs, model, against)
        if (column.explainer, column.variant) == (against.explainer, against.variant) or not (mine and theirs):
            continue
        values, base = pair_values(mine, metric), pair_values(theirs, metric)
        every = len(values) + len(base)
        values, base = _on_common_pairs(values, base)
        common, differences = values.index, values - base
        sums, counts = statistics.per_image(differences, clusters_of([*mine, *theirs]))
        signs = statistics.sign_test(sums)
        if column.yardstick:
            signs["p"] = math.nan
        by_definition = _undefined([*mine, *theirs], metric, common)
        rows.append({
            "dataset": table.dataset, "model": model, "metric": metric, "method": column.label,
            "explainer": column.explainer, "variant": column.variant,
            "against": f"{against.explainer}/{against.variant}", "clusters": len(sums), "pairs": len(common),
            "images": len(np.unique(common.codes[0])), "unpaired": every - 2 * len(common),
            "undefined": int(by_definition.sum()), "yardstick": column.yardstick, "mean": values.mean(),
            "reference mean": base.mean(),
            "standard error": statistics.clustered_standard_error(sums, counts), "images higher": signs["higher"],
            "images lower": signs["lower"], "images tied": signs["tied"], "sign p": signs["p"],
        })  # fmt: skip
        summed.append((sums, counts))
    return rows, summed


def _tested(rows: list[dict[str, Any]], bootstrap: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """The comparisons of a family with what the bootstrap says of them, corrected, and the verdict."""
    for row, found in zip(rows, bootstrap, strict=True):
        row |= {**found, "bootstrap p": math.nan if row["yardstick"] else found["p"]}
    for name in ("bootstrap p", "sign p"):
        for row, corrected in zip(rows, statistics.holm([row[name] for row in rows]), strict=True):
            row[f"{name} (Holm)"] = corrected
    return [{**row, "verdict": _verdict(row)} for row in rows]


def _against(column: Column, reference: Mapping[str, str]) -> Column:
    explainer, _, variant = (column.against or "{explainer}/{variant}".format(**reference)).partition("/")
    return Column(explainer, variant, "")


def _on_common_pairs(values: pd.Series, base: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Two methods' values on the pairs that both have."""
    if values.index.equals(base.index):
        return values, base
    common = values.index.intersection(base.index)
    return values[common], base[common]


def _undefined(runs: Iterable[Run], metric: str, pairs: pd.MultiIndex) -> np.ndarray:
    """Whether the value of a metric is set by definition in any of the runs, for each pair: (pairs,) bool."""
    found = np.zeros(len(pairs), dtype=bool)
    for run in runs:
        positions = run.records.listed("undefined").get(metric, ())
        own = run.records.pairs.index
        if not len(positions):
            continue
        if pairs.equals(own):
            found[positions] = True
        else:
            found |= pairs.isin(own[positions])
    return found


def _verdict(row: Mapping[str, Any]) -> str:
    if row["yardstick"]:
        return "another measure"
    if math.isnan(row["bootstrap p"]):
        return "undefined"
    if row["bootstrap p (Holm)"] >= LEVEL:
        return "not distinguished"
    lower = row["difference"] < 0
    both = row["sign p (Holm)"] < LEVEL and (row["images lower"] > row["images higher"]) == lower
    return ("better" if lower == (row["metric"] in LOWER_IS_BETTER) else "worse") + ("" if both else "?")


def order(table: Table, runs: Sequence[Run]) -> pd.DataFrame:
    """Kendall's τ between the measured order of a table's methods and the published one, per model and metric.

    A published method that several columns show counts with the first that was run, none with less than its budget.
    """
    runs = [run for run in runs if run.identity["dataset"] == table.dataset]
    rows = []
    for model in table.models:
        for metric in table.metrics:
            measured: dict[str, float] = {}
            published: dict[str, float] = {}
            for column in table.columns:
                cell = table.cell(model, metric, column)
                if any(budget.cheaper for budget in budgets_of(runs_of(runs, model, column), column)):
                    continue
                if column.method and column.method not in measured and not math.isnan(cell["mean"]):
                    measured[column.method], published[column.method] = cell["mean"], cell["published"]
            found = statistics.order_agreement(measured, published)
            rows.append({"dataset": table.dataset, "model": model, "metric": metric, **found})
    return pd.DataFrame(rows, columns=["dataset", "model", "metric", "tau", "p", "n"])


# writing ----------------------------------------------------------------------------------------------------------
def write(table: Table, definition: Mapping[str, Any], runs: Sequence[Run], results: ResultFolder) -> list[Path]:
    """A writer for :func:`sise.benchmark.tables.make.tabulate`."""
    reference = definition.get("reference") or REFERENCE
    compared = compare(table, runs, reference)
    if definition.get("layout") == "differences":
        text, stem = differences_to_markdown(table, compared, runs, reference), table.name
        files = {f"{stem}.csv": csv_text(compared), f"{stem}.md": text}
        results.say(text)
    else:
        compared = compared[~compared["metric"].isin(COSTS)]
        agreement = order(table, runs).dropna(subset="tau")
        agreement = agreement[~agreement["metric"].isin(COSTS)]
        files = {}
        if len(compared) or len(agreement):
            stem = f"{table.name}_statistics"
            text = statistics_to_markdown(table, compared, agreement, reference)
            files = {f"{stem}.csv": csv_text(compared), f"{stem}.md": text}
        if len(agreement):
            files[f"{table.name}_order.csv"] = csv_text(agreement)
        for name in sorted({f"{table.name}{end}" for end in COMPANIONS} - files.keys()):
            results.remove(name)
    written = results.write(files)
    if written:
        results.say(f"-> {', '.join(map(str, written))}\n")
    return written


MARKS = {"better": " ▲", "better?": " △", "worse": " ▼", "worse?": " ▽", "not distinguished": "", "undefined": "",
         "another measure": ""}  # fmt: skip


def statistics_to_markdown(
    table: Table, compared: pd.DataFrame, agreement: pd.DataFrame, reference: Mapping[str, str]
) -> str:
    """Differences with their intervals, a table per model, and the agreement of the orders below."""
    parts = [f"# {table.title}: statistics"]
    against = f"{reference['explainer']}/{reference['variant']}"
    for model, of_model in compared.groupby("model", sort=False):
        metrics = list(dict.fromkeys(of_model["metric"]))
        lines = [["Method − " + against, *(_heading(m) for m in metrics), "pairs", "images"]]
        for _, of_method in of_model.groupby("method", sort=False):
            cells = of_method.set_index("metric", drop=False)
            first = cells.iloc[0]
            shown = [_interval(cells.loc[m]) if m in cells.index else "–" for m in metrics]
            lines.append([first["method"], *shown, str(first["pairs"]), str(first["images"])])
        parts += [f"## {LABELS.get(model, model)}", markdown_table(lines)]
    if len(agreement):
        lines = [["Model", "Metric", "Kendall's τ", "p", "methods"]]
        for row in agreement.itertuples():
            lines.append(
                [LABELS.get(row.model, row.model), _heading(row.metric), signed(row.tau), f"{row.p:.3f}", str(row.n)]
            )
        parts += ["## Order of the methods, measured and published", markdown_table(lines, "ll")]
    notes = [
        f"Mean difference to {against} over the pairs both have, in percentage points, and its 95 % interval: "
        f"{statistics.RESAMPLES} bootstrap resamples of images (seed 0), since pairs of one image are not independent.",
        "▲ better, ▼ worse than the reference: bootstrap and exact sign test over images both at 5 % after Holm's "
        f"correction over the methods of a (model, metric); △ ▽: the bootstrap alone. {lower_said(table.metrics)}",
        *_counts(compared),
        *_budgets(table),
    ]
    if len(agreement):
        notes.append(
            "τ: +1 = the published order of the methods, −1 = its reverse; exact p where nothing is tied; methods on "
            "less than the paper's budget left out."
        )
    notes.append(table.made_by)
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def differences_to_markdown(
    table: Table, compared: pd.DataFrame, runs: Sequence[Run], reference: Mapping[str, str]
) -> str:
    """One row per choice: what it scores, and the difference to the reference on the same pairs."""
    runs = [run for run in runs if run.identity["dataset"] == table.dataset]
    parts, budgets, fewer = [f"# {table.title}"], _budgets(table), False
    for model, of_model in compared.groupby("model", sort=False):
        metrics = [m for m in table.metrics if m in set(of_model["metric"])]
        lines = [["Choice", *(_heading(m) for m in metrics), "pairs"]]
        for against, of_base in of_model.groupby("against", sort=False):
            explainer, _, variant = str(against).partition("/")
            base = runs_of(runs, model, Column(explainer, variant, ""))
            rows = [
                runs_of(runs, model, Column(str(e), str(v), ""))
                for (e, v), _ in of_base.groupby(["explainer", "variant"])
            ]
            every = max(len(pair_values(base, m)) for m in metrics)
            values = {m: _in_common(base, rows, m) for m in metrics}
            common = max(map(len, values.values()))
            fewer |= common < every
            label = f"{base[0].identity['label']}, as the protocol has it"
            lines.append([
                f"**{label}**", *(number(values[m].mean(), m) for m in metrics),
                f"{common} of {every}" if common < every else str(every),
            ])  # fmt: skip
            less = [budget for budget in budgets_of(base, Column(explainer, variant, label)) if not budget.full]
            budgets += [f"{LABELS.get(model, model)}, {label}: budget: {budget}." for budget in less]
            for _, of_method in of_base.groupby("method", sort=False):
                cells = of_method.set_index("metric", drop=False)
                lines.append(
                    [cells.iloc[0]["method"], *(_change(cells.loc[m]) for m in metrics), str(cells.iloc[0]["pairs"])]
                )
        parts += [f"## {LABELS.get(model, model)}", markdown_table(lines)]
    if fewer:
        budgets.insert(0, "Bold rows: over the pairs that all rows below share with them; a row that shares more is "
                          "compared on all of those.")  # fmt: skip
    notes = [
        "Cells: mean over pairs (difference to the protocol's default on the same pairs ± paired standard error, "
        "images as clusters). Percent and percentage points."
        + " Forward passes are those of an image, shared by its classes."
        * ("forward_passes" in table.metrics),
        "▲ better, ▼ worse: bootstrap over images and exact sign test both at 5 % after Holm's correction over the "
        f"rows of a (model, metric); △ ▽: the bootstrap alone. {lower_said(table.metrics)}",
        *_counts(compared),
        *budgets,
        table.made_by,
    ]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)]) + "\n"


def _in_common(base: Sequence[Run], rows: Iterable[Sequence[Run]], metric: str) -> pd.Series:
    """The base's values on the pairs that every row shares with it, but for rows that share none."""
    values = pair_values(base, metric)
    kept = values.index
    for row in rows:
        if len(shared := pair_values(row, metric).index.intersection(values.index)):
            kept = kept.intersection(shared)
    return values[kept]


def _budgets(table: Table) -> list[str]:
    """The notes of the table's foot about methods on less than the paper's budget."""
    return [note.text for note in table.notes if note.about_budget]


def _interval(row: pd.Series) -> str:
    if not row["pairs"]:
        return "–"
    text = signed(row["difference"])
    if not math.isnan(row["low"]):
        text += f" [{signed(row['low'])}, {signed(row['high'])}]"
    return text + MARKS[row["verdict"]]


def _change(row: pd.Series) -> str:
    if not row["pairs"]:
        return "–"
    mark = "" if row["metric"] in COSTS else MARKS[row["verdict"]]
    error = "" if math.isnan(row["standard error"]) else f" ± {number(row['standard error'], row['metric'])}"
    return f"{number(row['mean'], row['metric'])} ({signed(row['difference'])}{error}){mark}"


def _counts(compared: pd.DataFrame) -> list[str]:
    """What a reader must know of the pairs behind the comparisons."""
    notes = []
    for column, words in (
        ("undefined", "Pairs with a value set by definition, kept"),
        ("unpaired", "Pairs that one of the two lacks, left out"),
    ):
        most = compared[compared[column] > 0].groupby(["model", "method"], sort=False)[column].max()
        told = []
        for (model, n), methods in most.reset_index().groupby(["model", column], sort=False)["method"]:
            named = ", ".join(methods) if len(methods) <= 3 else f"{len(methods)} of the methods"
            told.append(f"{LABELS.get(model, model)} {n} ({named})")
        if told:
            notes.append(f"{words} (the most of any metric): {'; '.join(told)}.")
    few = int((compared["verdict"] == "undefined").sum())
    if few:
        notes.append(
            f"{few} comparisons without interval and mark: fewer than {statistics.FEWEST_IMAGES} independent "
            "images in common."
        )
    if (compared["verdict"] == "another measure").any():
        notes.append("Rows that change the measure itself are yardsticks: they have no marks, and are not tested.")
    if (compared["clusters"] < compared["images"]).any():
        notes.append(f"Images of one cluster count as one: {int(compared['clusters'].max())} clusters.")
    return notes


def _heading(metric: str) -> str:
    return LABELS.get(metric, metric)

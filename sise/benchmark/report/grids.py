"""The tables of ``results/`` as grids of cells, laid out by the columns of their CSV: :func:`grids_of`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sise.benchmark.studies.kept_maps import WORDS as RULES
from sise.benchmark.tables.comparisons import MARKS as VERDICTS
from sise.benchmark.tables.words import COSTS, LABELS, STATUS, heading, number, signed


@dataclass(frozen=True)
class Cell:
    """One cell: ``text``, in small type ``beside`` it and ``below`` it, and its ``place`` (best, second).

    ``number`` cells are set to the right.
    """

    text: str
    beside: str = ""
    below: str = ""
    place: str = ""
    number: bool = True


@dataclass(frozen=True)
class Grid:
    """A table: ``head`` has a word per column, ``rows`` begin with a heading each."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def measured(frame: pd.DataFrame) -> list[Grid]:
    """A table of :mod:`sise.benchmark.tables.build`: methods down, metrics across, the published number below each."""
    grids = []
    for (dataset, model), of_model in frame.groupby(["dataset", "model"], sort=False):
        metrics = list(dict.fromkeys(of_model["metric"]))
        rows: list[list[Cell]] = []
        notes: dict[str, list[str]] = {}
        for method, of_method in of_model.groupby("method", sort=False):
            cells = of_method.set_index("metric", drop=False)
            n, failed = int(cells["n"].max()), int(cells["failed"].max())
            pairs = str(n or (f"{failed} failed" if failed else "not run"))
            shown = [_measured(cells.loc[m]) if m in cells.index else Cell("–") for m in metrics]
            rows.append([Cell(str(method), number=False), *shown, Cell(pairs)])
            for note in cells["note"].dropna().head(1) if "note" in cells else ():
                notes.setdefault(str(note), []).append(str(method))
        head = ["Method", *(heading(m) for m in metrics), "pairs"]
        said = [f"{', '.join(methods)}: {note}." for note, methods in notes.items()]
        if (of_model["undefined"] > 0).any():
            said.append("† some of the values are set by definition (constant map, empty mask, zero confidence).")
        grids.append(Grid(f"{label(model)} on {dataset}", head, rows, said))
    return grids


def _measured(row: pd.Series) -> Cell:
    if not row["n"]:
        return Cell("–", below=_published(row))
    error = row["standard error"]
    return Cell(
        number(row["mean"], row["metric"]) + ("†" if row["undefined"] else ""),
        "" if math.isnan(error) else f"± {number(error, row['metric'])}",
        _published(row),
        "" if pd.isna(row["place"]) else row["place"],
    )


def _published(row: pd.Series) -> str:
    if math.isnan(row["published"]):
        return ""
    return f"published {number(row['published'], row['metric'])} {STATUS[row['status']][0]}".rstrip()


def compared(frame: pd.DataFrame) -> list[Grid]:
    """Means, below them their differences to a reference on the same pairs, of `comparisons`."""
    grids = []
    for (dataset, model), of_model in frame.groupby(["dataset", "model"], sort=False):
        metrics = list(dict.fromkeys(of_model["metric"]))
        rows = []
        for against, of_base in of_model.groupby("against", sort=False):
            base = of_base.loc[of_base.groupby("metric")["pairs"].idxmax()].set_index("metric")
            means = [number(base.loc[m, "reference mean"], m) if m in base.index else "–" for m in metrics]
            rows.append([Cell(f"{against}: the reference", number=False), *map(Cell, means), Cell("")])
            for method, of_method in of_base.groupby("method", sort=False):
                cells = of_method.set_index("metric", drop=False)
                shown = [_compared(cells.loc[m]) if m in cells.index else Cell("–") for m in metrics]
                rows.append([Cell(str(method), number=False), *shown, Cell(str(cells["pairs"].max()))])
        head = ["Method", *(heading(m) for m in metrics), "pairs"]
        grids.append(Grid(f"{label(model)} on {dataset}", head, rows))
    return grids


def _compared(row: pd.Series) -> Cell:
    if not row["pairs"]:
        return Cell("–")
    mark = "" if row["metric"] in COSTS else VERDICTS.get(row["verdict"], "")
    interval = "" if math.isnan(row["low"]) else f" [{_signed(row['low'])}, {_signed(row['high'])}]"
    return Cell(number(row["mean"], row["metric"]), mark.strip(), _signed(row["difference"]) + interval)


def _signed(value: float) -> str:
    return signed(value).replace("-", "−")


def ordered(frame: pd.DataFrame) -> list[Grid]:
    """Kendall's τ between the measured and the published order of the methods: networks down, metrics across."""
    metrics = list(dict.fromkeys(frame["metric"]))
    rows = []
    for model, of_model in frame.groupby("model", sort=False):
        cells = of_model.set_index("metric")
        shown = [_ordered(cells.loc[m]) if m in cells.index else Cell("–") for m in metrics]
        rows.append([Cell(label(model), number=False), *shown, Cell(str(cells["n"].max()))])
    return [Grid("", ["Kendall's τ", *map(heading, metrics), "methods"], rows)]


def _ordered(row: pd.Series) -> Cell:
    return Cell("–") if math.isnan(row["tau"]) else Cell(_signed(row["tau"]), below=f"p {row['p']:.3f}")


def kept(frame: pd.DataFrame) -> list[Grid]:
    """Ada-SISE's Table 2 (`kept_maps`): rules down, layers across; shares below the counts."""
    layers = frame.drop_duplicates("layer").set_index("layer")["name"].fillna("")
    grids = []
    for (dataset, model), of_model in frame.groupby(["dataset", "model"], sort=False):
        rows = []
        for rule, of_rule in of_model.groupby("rule", sort=False):
            cells = of_rule.set_index("layer")
            found = [cells.loc[layer] for layer in layers.index]
            rows.append([
                Cell(RULES.get(rule, rule), number=False),
                *(_kept(row["mean"], row["share of positive"], row["standard error"]) for row in found),
            ])  # fmt: skip
            theirs = [row["published (resnet50, voc2007)"] for row in found]
            if not all(map(math.isnan, theirs)) and rule != "otsu_signed":  # the paper has one Ada-SISE
                shares = [row["published share of positive"] for row in found]
                word = {"otsu_positive": "Ada-SISE"}.get(rule, rule)
                rows.append([Cell(f"published for ResNet-50: {word}", number=False), *map(_kept, theirs, shares)])
        head = ["Rule", *("Σ" if layer == "sum" else f"p{layer} {name}".rstrip() for layer, name in layers.items())]
        grids.append(Grid(f"{label(model)} on {dataset}, {of_model['pairs'].max()} pairs", head, rows))
    return grids


def _kept(maps: float, share: float, error: float = math.nan) -> Cell:
    if math.isnan(maps):
        return Cell("–")
    beside = f"± {error:.1f}" if error > 0 else ""
    return Cell(f"{maps:.1f}", beside, "" if math.isnan(share) else f"{share:.0f} % of the positive")


def alike(frame: pd.DataFrame) -> list[Grid]:
    """A sanity check (:mod:`sise.benchmark.studies.sanity_run`): explainers down, stages of randomisation across."""
    stages = list(dict.fromkeys(frame["stage"]))
    grids = []
    for name, title in (("spearman", "Spearman rank correlation"), ("ssim", "SSIM")):
        rows = []
        for explainer, of_explainer in frame.groupby("explainer", sort=False):
            cells = of_explainer.set_index("stage")
            shown = [_alike(cells.loc[s], name) if s in cells.index else Cell("–") for s in stages]
            rows.append([Cell(str(explainer), number=False), *shown])
        note = f"Mean of {frame['n'].max()} images. † a constant map decided the value in some of them."
        grids.append(Grid(f"{title} to the trained network's map", ["Explainer", *stages], rows, [note]))
    first = frame[frame["explainer"] == frame["explainer"].iloc[0]].set_index("stage")
    rows = [
        [Cell("modules randomised", number=False), *(Cell(str(first.loc[s, "modules"])) for s in stages)],
        [Cell("Ψ of the class", number=False), *(_alike(first.loc[s], "confidence") for s in stages)],
    ]
    return [*grids, Grid("The networks", ["", *stages], rows)]


def _alike(row: pd.Series, name: str) -> Cell:
    if math.isnan(row[name]):
        return Cell("–")
    error = row[f"{name}_se"]
    dagger = "†" if name != "confidence" and row["undefined"] else ""
    return Cell(f"{round(row[name], 2) + 0.0:.2f}{dagger}", "" if math.isnan(error) else f"± {error:.2f}")


def plain(frame: pd.DataFrame) -> list[Grid]:
    """Any other table, as its file has it; what has four significant digits is no better with more."""
    texts = {c for c in frame if not pd.api.types.is_numeric_dtype(frame[c]) or frame[c].dtype == bool}
    rows = [
        [Cell(_plain(value), number=column not in texts) for column, value in zip(frame.columns, row, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    return [Grid("", [str(c) for c in frame], rows)]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "–"
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
    text = "–" if pd.isna(value) else str(value)
    return "\u2002" * (len(text) - len(text.lstrip())) + text.lstrip()  # an indented word stays so


Layout = Callable[[pd.DataFrame], list[Grid]]
LAYOUTS: Sequence[tuple[set[str], Layout]] = (  # the first whose columns are all there
    ({"method", "metric", "mean", "standard error", "n", "published", "status", "place", "undefined"}, measured),
    ({"method", "metric", "against", "reference mean", "difference", "low", "high", "verdict"}, compared),
    ({"model", "metric", "tau", "p", "n"}, ordered),
    ({"rule", "layer", "name", "share of positive", "published (resnet50, voc2007)"}, kept),
    ({"explainer", "stage", "spearman", "spearman_se", "ssim", "modules", "undefined"}, alike),
    (set(), plain),
)


def grids_of(frame: pd.DataFrame) -> list[Grid]:
    """The tables of a CSV, laid out by its columns."""
    return next(layout for columns, layout in LAYOUTS if columns <= set(frame.columns))(frame)


def label(name: Any) -> str:
    return LABELS.get(name, str(name))

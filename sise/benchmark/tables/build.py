"""Lines a table up: run folders and the papers' numbers in, a `Table` out.

The way of the data through this wing: `runs` reads the run folders, :func:`columns_of` lines them up in the paper's
order, `judging` makes one cell of records and says what it is worth next to the published number, `foot` says what a
reader must know, `formats` writes it down, and `make` does all of it for every table. A table is defined by
``configs/table/<name>.yaml``.

A cell's mean is over (image, target) pairs, each pair's seeds averaged first; its standard error takes images as
independent clusters of pairs (:func:`sise.benchmark.tables.statistics.clustered_standard_error`). Nothing vanishes in a
mean: failed pairs, missing values and values that were set by definition are counted, and named in the foot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from sise.benchmark.metric_facts import COSTS
from sise.benchmark.records.departures import Departure
from sise.benchmark.tables.definitions import of_dataset, own_models
from sise.benchmark.tables.foot import budgets_of, commands_below, departures_of, foot
from sise.benchmark.tables.judging import Shipped, first_of_its_method, limits_of, margin_of, measure, rank, status
from sise.benchmark.tables.published import known_number
from sise.benchmark.tables.runs import metrics_of, pair_values, runs_of
from sise.benchmark.tables.statistics import AVERAGES
from sise.benchmark.tables.table import Column, Note, Run, Table
from sise.benchmark.tables.transparency import keeps_fewer, kept_share
from sise.errors import choose

__all__ = ["build"]


# one cell ---------------------------------------------------------------------------------------------------------
def columns_of(
    definition: Mapping[str, Any],
    runs: Sequence[Run],
    controls: Iterable[str],
    elsewhere: Iterable[tuple[str, str]] = (),
) -> tuple[Column, ...]:
    """The columns of a table: the paper's, whether run or not; of the definition's others those that were run; then,
    if the definition wants ``extras``, whatever else was run, but for variants with a name of their own that another
    table shows (``elsewhere``), controls last."""
    label_of = {(run.identity["explainer"], run.variant): run.identity["label"] for run in reversed(runs)}
    columns = [Column(**column) for column in definition.get("columns") or ()]
    columns = [c for c in columns if c.method or (c.explainer, c.variant) in label_of]
    if definition.get("extras"):
        controls = list(controls)
        named = {(run.identity["explainer"], run.variant) for run in runs if run.variant != run.identity["protocol"]}
        rest = label_of.keys() - {(c.explainer, c.variant) for c in columns} - (named & set(elsewhere))
        for explainer, variant in sorted(rest, key=lambda key: (key[0] in controls, key[1] != "paper", key[1], key[0])):
            label = label_of[explainer, variant] + ("" if variant == "paper" else f" ({variant})")
            if label in [c.label for c in columns]:
                label += f" [{explainer}/{variant}]"
            columns.append(Column(explainer, variant, label, control=explainer in controls))
    return tuple(columns)


def build(
    definition: Mapping[str, Any],
    dataset: str,
    runs: Sequence[Run],
    published: pd.DataFrame,
    *,
    controls: Iterable[str] = (),
    elsewhere: Iterable[tuple[str, str]] = (),
    shipped: Shipped = lambda definition, model: {},
    spreads: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> Table:
    """Makes one table of the runs of one dataset.

    Args:
        definition: As in ``configs/table/``: ``name``, ``title``, ``published`` (the published table's name or None),
            ``datasets`` (the first is the paper's), ``models`` and ``metrics`` (None = all that have records),
            ``columns`` (of :class:`Column`), ``extras`` (also show whatever else was run), ``average`` (what counts
            alike in a mean, pair if it says nothing), ``published_average`` (the paper's; a table of another has a
            name of its own), and for tables of other forms ``published_datasets``, ``published_metrics`` and
            ``published_models`` (names among the published numbers, by the name here), ``experiment`` (if its name is
            another), ``notes`` (sentences for the foot), ``needs`` (explainers
            without one of which it is not made) and ``unrun`` (made without records,
            too, if asked for). A dataset or network that a paper does not name is "unnamed".
        dataset: The dataset to show; runs of others are left out.
        runs: From :func:`find_runs`.
        published: From :func:`read_published`.
        controls: Names of the explainers that are controls.
        elsewhere: (explainer, variant) of the columns that other definitions have.
        shipped: Gives the configurations that are shipped for the cells of a definition's experiment.
        spreads: By explainer and metric, see :func:`margin_of`.
    """
    first = (definition.get("datasets") or [None])[0]
    definition = of_dataset(definition, dataset)
    runs = [run for run in runs if run.identity["dataset"] == dataset]
    models = tuple(definition.get("models") or sorted({run.identity["model"] for run in runs}))
    runs = [run for run in runs if run.identity["model"] in {*models, *own_models(definition)}]
    metrics = tuple(definition.get("metrics") or metrics_of(runs))
    columns = columns_of(definition, runs, controls, elsewhere)
    average = choose("table.average", definition.get("average") or "pair", tuple(AVERAGES))
    papers_average = definition.get("published_average") or "pair"
    home = (definition.get("datasets") or [None])[0]
    known = known_number(definition, published)

    cells = []
    for model in models:
        for metric in metrics:
            row, rivals = [], {}
            taken: set[str] = set()
            of_pairs: list[pd.Index] = []  # different sets of pairs among the compared columns
            for column in columns:
                group = runs_of(runs, model, column)
                cell = measure(group, metric, average)
                from_paper = known(model, metric, column.method)
                budgets = [budget for budget in budgets_of(group, column) if not budget.full]
                official = all(run.identity["weights_official"] for run in group)
                changed: list[Departure] = []
                if group and dataset == home and official and not math.isnan(from_paper):
                    changed = departures_of(group, column, shipped(definition, column.model or model))
                expected = max((run.identity["expected_pairs"] for run in group), default=0)
                cell["published"] = from_paper
                cell["kept"], cell["fewer"] = kept_share(group), keeps_fewer(group, metric)
                cell["status"] = status(
                    n=cell["n"],
                    published=from_paper,
                    difference=cell["mean"] - from_paper,
                    published_dataset=dataset == home,
                    official_weights=official,
                    faithful=all(run.identity["complete_dataset"] and not run.stale for run in group)
                    and not (cell["failed"] or cell["missing"] or budgets or changed or average != papers_average)
                    and all(run.records.facts.good >= expected for run in group),
                    margin=margin_of(cell, spreads.get(column.explainer, {}).get(metric, 0.0)),
                    hardware=metric == "seconds",
                    failed=bool(cell["failed"]) and not cell["pairs"],
                )
                comparable = cell["status"] in ("reproduced", "close", "differs", "partial")
                cell["difference"] = cell["mean"] - from_paper if comparable else math.nan
                cell |= {"dataset": dataset, "model": model, "method": column.label, "explainer": column.explainer,
                         "variant": column.variant, "metric": metric,
                         "note": limits_of(group, budgets, changed),
                         "commit": " ".join(dict.fromkeys(c for run in group for c in run.commits))}  # fmt: skip
                row.append(cell)
                if cell["n"] and not column.control:
                    own = pair_values(group, metric).index
                    of_pairs += [] if any(own.equals(other) for other in of_pairs) else [own]
                    if not first_of_its_method(column, columns, taken):
                        continue
                    if metric not in COSTS or not any(budget.cheaper for budget in budgets):
                        rivals[column.label] = cell["mean"]
            places = rank(rivals, metric) if len(of_pairs) == 1 else {}
            cells += [{**cell, "place": places.get(cell["method"], "")} for cell in row]

    order = ["dataset", "model", "method", "explainer", "variant", "metric", "mean", "standard error", "n", "undefined",
             "missing", "failed", "published", "difference", "status", "seeds", "seed s.d.", "place", "note",
             "kept", "fewer", "commit", "pairs"]  # fmt: skip
    frame = pd.DataFrame(cells, columns=order).set_index(["model", "metric", "method"], drop=False)
    frame.index.names = [None] * 3
    name = definition["name"] + ("" if dataset == first else f"_{dataset}")
    name += "" if average == papers_average else f"_by_{average}"
    title = definition["title"] + ("" if dataset == home or home is None else f" — on {dataset}, a stand-in")
    commands = commands_below(definition, dataset, runs, columns)
    table = Table(name, title, dataset, models, metrics, columns, frame, (), commands, average)
    said = [Note(text) for text in definition.get("notes") or ()]
    return replace(table, notes=(*said, *foot(table, runs)))

"""Do metrics agree on which explainer is better, and do images, seeds, networks and data sets?

A metric orders explainers by their means over the pairs that all of them have. Two orders are compared by Kendall's
τ-b, several by Krippendorff's α of ranks: 1 when all agree, 0 when they agree as chance would, below 0 when they
contradict each other. With pairs as raters α says whether a metric orders explainers alike on all images; where it does
not, its mean depends on which images there are. That is shown by intervals on ranks, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from sise.benchmark import config_facts
from sise.benchmark.markdown import markdown_table, number
from sise.benchmark.metric_facts import COSTS, lower_is_better
from sise.benchmark.records.files import csv_text
from sise.benchmark.records.metric_sets import metric_names
from sise.benchmark.records.provenance import command
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import clusters_of, find_runs, pair_values, run_values
from sise.benchmark.tables.statistics import krippendorff_alpha, order_agreement, rank_intervals
from sise.benchmark.tables.table import Run
from sise.errors import SuiteError

__all__ = ["Setting", "alphas", "collect", "intervals", "pairwise", "run", "to_markdown"]

FEWEST = 5
"""Explainers without which an order says too little."""
Setting = tuple[str, str]
"""A data set and a network."""
Values = Mapping[Setting, Mapping[str, pd.DataFrame]]
"""By setting and metric: pairs x explainers, every cell a number, higher = better."""
KINDS = {
    "pairs": "pairs (image, class) of one metric, data set and network",
    "metrics": "metrics on one data set and network",
    "seeds": "seeds of one metric, data set and network",
    "networks": "networks, of one metric and data set",
    "data sets": "data sets with their networks, of one metric",
}
"""What is compared, and what stays the same."""


def collect(runs: Sequence[Run], controls: Collection[str] = ()) -> dict[Setting, dict[str, pd.DataFrame]]:
    """Lines the records up: of each setting, the pairs that all of its explainers have.

    Args:
        runs: From :func:`find_runs`.
        controls: Explainers that take no part.

    Returns:
        By setting and metric, pairs x explainers ("explainer/variant"), seeds averaged, higher = better. Settings with
        fewer than :data:`FEWEST` explainers and metrics with no common pair are left out.
    """
    found: dict[Setting, dict[str, pd.DataFrame]] = {}
    for setting, methods in _methods(runs, controls).items():
        if len(methods) < FEWEST:
            continue
        for metric in _metrics_of([one for group in methods.values() for one in group]):
            columns = {name: _oriented(pair_values(group, metric), metric) for name, group in methods.items()}
            frame = pd.DataFrame(columns).dropna()
            if len(frame):
                found.setdefault(setting, {})[metric] = frame
    return found


def _methods(runs: Sequence[Run], controls: Collection[str]) -> dict[Setting, dict[str, list[Run]]]:
    """The runs of each setting's explainers; one per seed."""
    found: dict[Setting, dict[str, list[Run]]] = {}
    for one in runs:
        inner = (one.identity["config"].get("explainer") or {}).get("inner") or {}  # of explainer=of_another/...
        if one.identity["explainer"] not in controls and inner.get("name") not in controls:
            of_setting = found.setdefault((one.identity["dataset"], one.identity["model"]), {})
            of_setting.setdefault(f"{one.identity['explainer']}/{one.variant}", []).append(one)
    return found


def _metrics_of(runs: Sequence[Run]) -> list[str]:
    """Metrics that all of the runs measure, costs left out."""
    sets = [metric_names(one.identity["config"]["metrics"]) for one in runs]
    return [name for name in sets[0] if name not in COSTS and all(name in names for names in sets)]


def _oriented(values: pd.Series, metric: str) -> pd.Series:
    return -values if metric in lower_is_better() else values


def _orders(values: Values) -> dict[Setting, dict[str, pd.Series]]:
    """Means by setting, metric and explainer."""
    return {setting: {metric: frame.mean() for metric, frame in metrics.items()} for setting, metrics in values.items()}


def seeds_of(runs: Sequence[Run], controls: Collection[str]) -> dict[tuple[Setting, str], dict[int, pd.Series]]:
    """Of settings in which an explainer was run with several seeds: means by (setting, metric), seed and explainer.

    Explainers without seeds have the same mean with each.
    """
    found: dict[tuple[Setting, str], dict[int, pd.Series]] = {}
    for setting, methods in _methods(runs, controls).items():
        by_seed: dict[str, dict[Any, Run]] = {
            name: {one.identity.get("seed"): one for one in group} for name, group in methods.items()
        }
        drawn = [set(group) for group in by_seed.values() if len(group) > 1]
        seeds = sorted(set.intersection(*drawn)) if drawn else []
        if len(methods) < FEWEST or len(seeds) < 2:
            continue
        for metric in _metrics_of([one for group in methods.values() for one in group]):
            orders = {}
            for seed in seeds:
                chosen = {name: group.get(seed, next(iter(group.values()))) for name, group in by_seed.items()}
                columns = {name: _oriented(run_values(one, metric), metric) for name, one in chosen.items()}
                orders[seed] = pd.DataFrame(columns).dropna().mean()
            found[setting, metric] = orders
    return found


Groups = Iterator[tuple[str, dict[str, str], dict[str, pd.Series]]]
"""``(kind, what stays the same, order by the name of what differs)``."""


def groups(values: Values, seeds: Mapping[tuple[Setting, str], Mapping[int, pd.Series]]) -> Groups:
    """Every set of orders that is compared, see :data:`KINDS`; pairs apart."""
    orders = _orders(values)
    for (dataset, model), metrics in orders.items():
        yield "metrics", {"dataset": dataset, "model": model}, dict(metrics)
    for ((dataset, model), metric), of_seed in seeds.items():
        yield "seeds", {"dataset": dataset, "model": model, "metric": metric}, {str(s): o for s, o in of_seed.items()}
    names = dict.fromkeys(metric for metrics in orders.values() for metric in metrics)
    for metric in names:
        of_metric = {setting: metrics[metric] for setting, metrics in orders.items() if metric in metrics}
        for dataset in dict.fromkeys(dataset for dataset, _ in of_metric):
            networks = {model: order for (where, model), order in of_metric.items() if where == dataset}
            yield "networks", {"dataset": dataset, "metric": metric}, networks
        yield "data sets", {"metric": metric}, {"/".join(setting): order for setting, order in of_metric.items()}


def pairwise(values: Values, seeds: Mapping[tuple[Setting, str], Mapping[int, pd.Series]]) -> pd.DataFrame:
    """Kendall's τ-b between each two orders of a group, over the explainers of both.

    Returns:
        One row per pair of orders: ``kind``, ``dataset``, ``model`` and ``metric`` where they stay the same, ``a`` and
        ``b``, ``tau``, ``explainers``. Pairs with fewer than :data:`FEWEST` common explainers are left out, so are data
        sets that are the same one.
    """
    rows = []
    for kind, same, orders in groups(values, seeds):
        for a, b in combinations(orders, 2):
            if kind == "data sets" and a.split("/")[0] == b.split("/")[0]:
                continue
            found = order_agreement(orders[a].to_dict(), orders[b].to_dict())
            if found["n"] >= FEWEST:
                rows.append({"kind": kind, **same, "a": a, "b": b, "tau": found["tau"], "explainers": found["n"]})
    return pd.DataFrame(rows, columns=["kind", "dataset", "model", "metric", "a", "b", "tau", "explainers"])


def alphas(values: Values, seeds: Mapping[tuple[Setting, str], Mapping[int, pd.Series]]) -> pd.DataFrame:
    """Krippendorff's α of the ranks that several raters give to explainers.

    Returns:
        One row per group of orders with two raters at least: ``kind``, ``dataset``, ``model`` and ``metric`` where they
        stay the same, ``alpha``, ``raters`` and ``explainers``, those of all raters. Of ``pairs`` the raters are pairs.
    """
    rated = [
        ("pairs", {"dataset": dataset, "model": model, "metric": metric}, frame)
        for (dataset, model), metrics in values.items()
        for metric, frame in metrics.items()
    ]
    for kind, same, orders in groups(values, seeds):
        rated.append((kind, same, pd.DataFrame(_comparable(orders)).dropna().T))
    rows = [
        {"kind": kind, **same, "alpha": krippendorff_alpha(frame.rank(axis=1, ascending=False).to_numpy()),
         "raters": len(frame), "explainers": frame.shape[1]}
        for kind, same, frame in rated if len(frame) > 1 and frame.shape[1] >= FEWEST
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["kind", "dataset", "model", "metric", "alpha", "raters", "explainers"])


def _comparable(orders: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """The order of the most explainers, and those that have enough of them: one other setting must not void all."""
    most = max(orders.values(), key=len)
    return {name: order for name, order in orders.items() if len(order.index.intersection(most.index)) >= FEWEST}


def intervals(values: Values, runs: Sequence[Run]) -> pd.DataFrame:
    """The rank of each explainer by each metric's mean, with its interval over resampled images.

    Returns:
        One row per (dataset, model, metric, explainer): ``rank`` (1 = best), ``low`` and ``high``, ``pairs``; see
        :func:`sise.benchmark.tables.statistics.rank_intervals`.
    """
    rows = []
    for (dataset, model), metrics in values.items():
        mine = [one for one in runs if (one.identity["dataset"], one.identity["model"]) == (dataset, model)]
        clusters = clusters_of(mine)
        for metric, frame in metrics.items():
            for name, found in rank_intervals(frame, clusters).iterrows():
                explainer, variant = str(name).split("/")
                rows.append({"dataset": dataset, "model": model, "metric": metric, "explainer": explainer,
                             "variant": variant, **found, "pairs": len(frame)})  # fmt: skip
    names = ["dataset", "model", "metric", "explainer", "variant", "rank", "low", "high", "pairs"]
    return pd.DataFrame(rows, columns=names)


def to_markdown(taus: pd.DataFrame, found: pd.DataFrame, ranks: pd.DataFrame) -> str:
    """What agrees, in one table per kind; then, per setting, each metric's own."""
    text = "# Do metrics, images, seeds, networks and data sets agree on the explainers?\n"
    for kind in ("metrics", "seeds", "networks", "data sets"):
        rows = found[found["kind"] == kind]
        lines = [["Of", "α", "Raters", "Explainers", "mean τ", "least τ", "between"]]
        for row in rows.to_dict("records"):
            mine = taus[taus["kind"] == kind]
            same = {key: row[key] for key in ("dataset", "model", "metric") if isinstance(row[key], str)}
            for key, value in same.items():
                mine = mine[mine[key] == value]
            known = mine.dropna(subset=["tau"])
            least = known.loc[known["tau"].idxmin()] if len(known) else None
            lines.append([
                ", ".join(same.values()), number(row["alpha"]), str(row["raters"]), str(row["explainers"]),
                number(known["tau"].mean()), number(math.nan if least is None else least["tau"]),
                "–" if least is None else f"{least['a']} and {least['b']}",
            ])  # fmt: skip
        if len(lines) > 1:
            text += f"\n## Between {KINDS[kind]}\n\n" + markdown_table(lines) + "\n"
    for (dataset, model), rows in found[found["kind"] == "pairs"].groupby(["dataset", "model"], sort=False):
        text += f"\n## {model} on {dataset}: each metric over its pairs\n\n"
        lines = [["Metric", "α over pairs", "Pairs", "Explainers", "Explainers that may be first"]]
        for row in rows.to_dict("records"):
            mine = ranks[(ranks["dataset"] == dataset) & (ranks["model"] == model) & (ranks["metric"] == row["metric"])]
            first = mine[mine["low"] <= 1]
            names = ", ".join(first["explainer"] + first["variant"].map(lambda v: "" if v == "paper" else f"/{v}"))
            known = mine["low"].notna().any()
            lines.append([row["metric"], number(row["alpha"]), str(row["raters"]), str(row["explainers"]),
                          f"{len(first)}: {names}" if known else "–"])  # fmt: skip
        text += markdown_table(lines) + "\n"
    return text + (
        "\n- An order: explainers by their means over the pairs that all of them have, controls left out. Of metrics "
        "where lower is better, the order is turned around.\n"
        "- τ: Kendall's τ-b between two orders. α: Krippendorff's, of ranks (ordinal). 1 = all agree, 0 = as chance "
        "would have it, below 0 = they contradict each other.\n"
        "- α over pairs: the raters are pairs (image, class). Near 0 each image has an order of its own, and the order "
        "of means is one of these images.\n"
        "- May be first: rank 1 lies in the interval of 95 % over resampled images; – with fewer than 25 images.\n"
        "- Sources: Kendall, Biometrika 1945; Krippendorff, Content Analysis, 2004, section 11.3; pairs as raters: "
        "Tomsett et al., Sanity checks for saliency metrics, AAAI 2020.\n"
    )


def run(cfg: DictConfig) -> list[Path]:
    """The command of ``scripts/rank_agreement.py``: reads the records, writes tables and pictures, prints.

    Returns:
        The files written.

    Raises:
        SuiteError: If no data set and network has records of enough explainers.
    """
    runs = find_runs(cfg.outputs)
    controls = config_facts.controls()
    values = collect(runs, controls)
    if not values:
        raise SuiteError(
            f"expected records of at least {FEWEST} explainers on one data set and network in {cfg.outputs}, found "
            "none; run an experiment first, for instance experiment=gates limit=3"
        )
    seeds = seeds_of(runs, controls)
    taus, found, ranks = pairwise(values, seeds), alphas(values, seeds), intervals(values, runs)
    text = to_markdown(taus, found, ranks) + f"- Made by `{command()}`.\n"
    folder = ResultFolder(Path(cfg.results), cfg.overwrite)
    written = folder.write({
        "rank_agreement.csv": csv_text(taus), "rank_alphas.csv": csv_text(found), "rank_intervals.csv": csv_text(ranks),
        "rank_agreement.md": text,
    })  # fmt: skip
    if written:
        from sise.benchmark.figures import rank_agreement  # tables must not wait for Matplotlib

        written += rank_agreement.write(values, taus, ranks, folder)
    print(text)
    print("\n".join(f"-> {file}" for file in written))
    return written

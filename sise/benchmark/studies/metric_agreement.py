"""Which metric to believe: every metric against what the network is known to look at.

Where the truth is known (a watermark or an object without which the answer changes, a cell that alone is connected), a
map can be held against it, and so can a metric: does it order the explainers of an image as the truth does? It is asked
image by image, by Kendall's τ-b over explainers: 1 for the same order, 0 for none in common, -1 for the opposite one.
A metric that sees the annotation alone agrees where the network looks at the annotated object, and only there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.utils import instantiate
from omegaconf import DictConfig

from sise.benchmark.datasets.hans import Hans
from sise.benchmark.markdown import markdown_table, number
from sise.benchmark.metric_facts import COSTS, Fact, facts, lower_is_better
from sise.benchmark.models.hans_effects import effects
from sise.benchmark.records.files import csv_text
from sise.benchmark.records.provenance import command
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import find_runs
from sise.benchmark.tables.statistics import averaged, order_agreement
from sise.benchmark.tables.table import Run
from sise.errors import SuiteError
from sise.types import Model

__all__ = ["Truth", "against", "agreement", "collect", "preferred", "run", "to_markdown"]

log = logging.getLogger(__name__)

READS = {"localization": "annotation", "on_image": "annotation", "faithfulness": "network"}
"""What a metric looks at besides the map, by its group in configs/metrics."""
AGAINST = "against"
"""The column of :func:`against` among collected values."""
MAP_ALONE = ("sparseness",)
"""Groups of metrics that look at nothing else, see :mod:`sise.benchmark.metric_facts`."""
FEWEST = 5
"""Explainers without which an order says too little."""


@dataclass(frozen=True)
class Truth:
    """What is known of a data set.

    Attributes:
        dataset: Its name in records.
        looks_at: In words, what the network looks at there.
        rank: The metric that says how high a map ranks that region: the truth.
        share: The metric that says how much of the map lies there.
        other: The same metric of a region that the network could be thought to look at; "" = there is none.
        cause: Pairs count whose ``cause`` it is (see `sise.benchmark.models.hans_effects`); "" = all do.
        right: A control that shows the region, as "explainer/variant".
        wrong: A control that shows something else, likewise.
    """

    dataset: str
    looks_at: str
    rank: str
    share: str
    other: str = ""
    cause: str = ""
    right: str = ""
    wrong: str = ""


def collect(runs: Sequence[Run], dataset: str) -> pd.DataFrame:
    """Line up the records of a data set.

    Returns:
        A row per (image, target, explainer, seed) with a good record: ``image_id``, ``target``, ``explainer`` as
        "explainer/variant", and a column per metric.
    """
    frames = []
    for run in runs:
        if run.identity["dataset"] == dataset:
            groups = run.identity["config"]["metrics"].values()  # settings of all metrics stand among them
            names = [name for group in groups if isinstance(group, Mapping) for name in group]
            frame = run.records.rows(["image_id", "target", *names], good=True)
            frames.append(frame.assign(explainer=f"{run.identity['explainer']}/{run.variant}"))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def groups_of(runs: Sequence[Run], dataset: str) -> dict[str, str]:
    """What each metric of a data set's runs reads, see :data:`READS`; metrics of known regions are not among them."""
    found: dict[str, str] = {}
    for one in runs:
        if one.identity["dataset"] == dataset:
            for group, reads in READS.items():
                found |= dict.fromkeys(one.identity["config"]["metrics"].get(group) or {}, reads)
    return {name: "map" if facts().get(name, Fact()).group in MAP_ALONE else reads for name, reads in found.items()}


def oriented(values: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric's values as pairs x explainers, seeds averaged, higher = better."""
    sign = -1.0 if metric in lower_is_better() else 1.0
    numbers = values.assign(value=sign * pd.to_numeric(values[metric]))
    return numbers.groupby(["image_id", "target", "explainer"])["value"].mean().unstack("explainer")


def agreement(values: pd.DataFrame, metric: str, truth: str, rivals: Collection[str]) -> dict[str, Any]:
    """Hold a metric against the truth, pair by pair, over some of the explainers.

    Args:
        values: From :func:`collect`, of the pairs that count.
        metric: Its name in records.
        truth: The metric of the known region.
        rivals: Those explainers, as "explainer/variant".

    Returns:
        ``tau``, the mean over pairs of Kendall's τ-b, and its ``standard error`` with images as clusters; ``pairs``
        that have one, and pairs of which the metric or the truth is the same for all explainers (``tied``); ``tau of
        means``, between the two orders of explainers by their means.
    """
    chosen = values[values["explainer"].isin(rivals)]
    measured, known = oriented(chosen, metric), oriented(chosen, truth)
    taus = pd.Series({
        pair: order_agreement(measured.loc[pair].to_dict(), known.loc[pair].to_dict())["tau"]
        for pair in measured.index.intersection(known.index)
    }, dtype=float)  # fmt: skip
    defined = taus.dropna()
    mean, error = averaged(defined) if len(defined) else (math.nan, math.nan)
    of_means = order_agreement(measured.mean().to_dict(), known.mean().to_dict())
    return {
        "tau": mean,
        "standard error": error,
        "pairs": len(defined),
        "tied": len(taus) - len(defined),
        "tau of means": of_means["tau"],
        "explainers": len(rivals),
    }


def preferred(values: pd.DataFrame, metric: str, right: str, wrong: str) -> float:
    """Share of the pairs in which a metric rates a map of the truth above one of something else; equal = one half.

    Args:
        values: From :func:`collect`, of the pairs that count.
        metric: Its name in records.
        right, wrong: Two controls, as "explainer/variant".

    Returns:
        Percent; NaN where one of the two was not run.
    """
    both = oriented(values[values["explainer"].isin([right, wrong])], metric)
    if right not in both or wrong not in both:
        return math.nan
    both = both[[right, wrong]].dropna()
    wins = (both[right] > both[wrong]) + 0.5 * (both[right] == both[wrong])
    return 100 * float(wins.mean()) if len(wins) else math.nan


def against(values: pd.DataFrame, share: str, other: str) -> pd.Series:
    """Of the positive saliency on two regions, the part on the first; 1/2 where there is none on either.

    Args:
        values: From :func:`collect`.
        share, other: Metrics of how much of the map lies on each.
    """
    here, there = pd.to_numeric(values[share]), pd.to_numeric(values[other])
    both = here + there
    return (here / both).where(both != 0, 0.5).where(both.notna())


def rows_of(
    runs: Sequence[Run], truth: Truth, effects: pd.DataFrame | None, controls: Collection[str]
) -> Iterator[dict[str, Any]]:
    """A row per metric of a data set.

    Raises:
        SuiteError: If too few explainers were run to order them, or the truth was not measured.
    """
    values = collect(runs, truth.dataset)
    names = list(dict.fromkeys(values["explainer"])) if len(values) else []
    rivals = [name for name in names if name.split("/")[0] not in controls]
    if len(rivals) < FEWEST or truth.rank not in values:
        raise SuiteError(
            f"expected records of at least {FEWEST} explainers with {truth.rank!r} on {truth.dataset}, got "
            f"{len(rivals)}; run its experiment first (see configs/metric_agreement.yaml)"
        )
    if effects is not None and truth.cause:
        counted = effects.loc[effects["cause"] == truth.cause, "image_id"]
        values = values[values["image_id"].isin(counted)]
    if truth.other:
        values = values.assign(**{AGAINST: against(values, truth.share, truth.other)})
    reads = groups_of(runs, truth.dataset)
    metrics = [name for name in values if name in reads and name not in COSTS]
    for metric in metrics:
        yield {
            "dataset": truth.dataset,
            "looks at": truth.looks_at,
            "metric": metric,
            "reads": reads[metric],
            **agreement(values, metric, truth.rank, rivals),
            "tau with controls": agreement(values, metric, truth.rank, names)["tau"],
            "tau with the share": agreement(values, metric, truth.share, rivals)["tau"],
            "tau against the other": agreement(values, metric, AGAINST, rivals)["tau"] if truth.other else math.nan,
            "prefers the truth": preferred(values, metric, truth.right, truth.wrong),
        }


def all_rows(
    runs: Sequence[Run], truths: Sequence[Truth], effects: Mapping[str, pd.DataFrame], controls: Collection[str]
) -> list[dict[str, Any]]:
    """:func:`rows_of` each data set; one that cannot be ordered is left out, and why is logged.

    Raises:
        SuiteError: If none can.
    """
    rows: list[dict[str, Any]] = []
    reasons = []
    for truth in truths:
        try:
            rows += rows_of(runs, truth, effects.get(truth.dataset), controls)
        except SuiteError as error:
            reasons.append(f"{truth.dataset} is left out: {error}")
    if not rows:
        raise SuiteError("\n".join(reasons))
    for reason in reasons:
        log.warning(reason)
    return rows


def effects_of(runs: Sequence[Run], dataset: str, model: Model) -> pd.DataFrame:
    """:func:`sise.benchmark.models.hans_effects.effects` of the scenes that the runs of a data set saw."""
    identity = next(one.identity for one in runs if one.identity["dataset"] == dataset)
    settings = {k: v for k, v in identity["config"]["dataset"]["loader"].items() if not k.startswith("_")}
    if identity["weights_hash"] != model.weights_hash:
        raise SuiteError(f"the records of {dataset} are of other weights than {model.name} has; run them anew")
    return effects(Hans(**settings), model).assign(dataset=dataset)


def to_markdown(table: pd.DataFrame, effects: Mapping[str, pd.DataFrame], truths: Sequence[Truth]) -> str:
    """One block per data set, the metrics that agree best first."""
    text = "# Which metric to believe\n"
    for truth in truths:
        found = table[table["dataset"] == truth.dataset].sort_values("tau with controls", ascending=False)
        if not len(found):
            continue
        text += f"\n## {truth.dataset}: the network looks at {truth.looks_at}\n\n"
        heads = ["Metric", "Reads", "Prefers the truth (%)", "τ with controls", "τ", "Pairs", "Tied", "τ of means"]
        heads += ["τ with the share", "τ against the other"]
        lines = [heads]
        for row in found.to_dict("records"):
            lines.append([
                row["metric"], row["reads"], number(row["prefers the truth"], ".0f"), number(row["tau with controls"]),
                f"{number(row['tau'])} ± {number(row['standard error'], '.2f')}", str(row["pairs"]), str(row["tied"]),
                number(row["tau of means"]), number(row["tau with the share"]), number(row["tau against the other"]),
            ])  # fmt: skip
        text += markdown_table(lines, "ll") + "\n"
        if truth.dataset in effects:
            causes = effects[truth.dataset]["cause"]
            text += (
                f"\nOf {len(causes)} scenes {int((causes == truth.cause).sum())} count: the answer is right and "
                f"changes without the {truth.cause}, and does not without the other of watermark and object.\n"
            )
        text += (
            f"The truth is {truth.rank}, over {found.iloc[0]['explainers']} explainers. Preferred: {truth.right} to "
            f"{truth.wrong}.\n"
        )
    return text + (
        "\n- τ: Kendall's τ-b between a metric's and the truth's order of the explainers, mean over pairs ± standard "
        "error (images as clusters); of metrics where lower is better, the order is turned around.\n"
        "- Prefers the truth: share of the pairs in which the metric rates a map that shows what the network looks at "
        "above one that shows something else; equal counts one half.\n"
        "- With controls: maps that know nothing, the annotation's and the truth's are among those that are ordered.\n"
        "- Tied: pairs without τ, as the metric gives all explainers the same value.\n"
        "- τ of means: between the orders of the explainers by their means over pairs. With the share: the truth is "
        "how much of the map lies on the region, not its rank. Against the other: how much of what lies on watermark "
        "and object lies on the watermark.\n"
    )


def run(cfg: DictConfig) -> list[Path]:
    """The command of ``scripts/metric_agreement.py``: reads the records, measures effects, writes and prints.

    Returns:
        The files written.

    Raises:
        SuiteError: If no data set with a known truth was run.
    """
    runs = find_runs(cfg.outputs)
    there = {one.identity["dataset"] for one in runs}
    truths = [Truth(**node) for node in cfg.truths if node.dataset in there]
    if not truths:
        names = ", ".join(node.dataset for node in cfg.truths)
        raise SuiteError(f"expected records of {names} in {cfg.outputs}, found none; run experiment=hans first")
    effects: dict[str, pd.DataFrame] = {}
    if any(truth.cause for truth in truths):
        model = instantiate(cfg.model.loader)
        effects = {truth.dataset: effects_of(runs, truth.dataset, model) for truth in truths if truth.cause}
    table = pd.DataFrame(all_rows(runs, truths, effects, cfg.controls))
    text = to_markdown(table, effects, truths) + f"- Made by `{command()}`.\n"
    files = {"metric_agreement.csv": csv_text(table), "metric_agreement.md": text}
    if effects:
        files["hans_effects.csv"] = csv_text(pd.concat(effects.values(), ignore_index=True))
    written = ResultFolder(Path(cfg.results), cfg.overwrite).write(files)
    print(text)
    print("\n".join(f"-> {file}" for file in written))
    return written

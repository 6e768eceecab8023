"""How many feature maps each reading of Ada-SISE's rule keeps: its Table 2 and Fig. 1.

One forward pass per image and one backward pass per pair (image, class); nothing is masked, so this is also the cheap
audit U3 of which reading the paper ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig

from sise.benchmark.datasets import published_counts
from sise.benchmark.markdown import markdown_table, number
from sise.benchmark.records.files import csv_text
from sise.benchmark.records.provenance import command, provenance
from sise.benchmark.run import cells
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.session import readable
from sise.benchmark.tables.judging import status
from sise.benchmark.tables.published import read_published
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.statistics import clustered_standard_error, per_image
from sise.benchmark.tables.words import LABELS
from sise.choices import ADAPTIVE_RULES, GradientScore
from sise.errors import SuiteError
from sise.method import select
from sise.otsu import adaptive_threshold
from sise.probe.probe import Probe
from sise.types import Dataset, Model

__all__ = ["collect", "histogram", "run", "summarise", "to_markdown"]

matplotlib.use("Agg")  # files only; no display is needed
WORDS = {
    "available": "available",
    "SISE": "SISE, μ = 0: all positive",
    "otsu_positive": "Ada-SISE, Otsu on the positive (text)",
    "otsu_signed": "Ada-SISE, Otsu on all, at least 0 (table)",
    "eq5_literal_asc_incl": "eqs. 2-6 literally, ascending, i = n included",
    "eq5_literal_asc_excl": "eqs. 2-6 literally, ascending, i = n excluded",
    "eq5_literal_desc_incl": "eqs. 2-6 literally, descending, i = n included",
    "eq5_literal_desc_excl": "eqs. 2-6 literally, descending, i = n excluded",
    "author_hist": "the authors' histogram code",
}
PUBLISHED_TABLE = "Ada-SISE Table 2"


def collect(
    dataset: Dataset,
    model: Model,
    *,
    limit: int | None = None,
    gradient: GradientScore = "log_odds",
    estimator: str = "exact",
    inclusive: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[pd.DataFrame, np.ndarray]:
    """Selects feature maps of every pair under every rule.

    Args:
        dataset, model: What is explained.
        limit: First N images only.
        gradient: As for :class:`sise.probe.probe.Probe`.
        estimator, inclusive: As for :func:`sise.method.ada_sise`.
        device: Where the network runs.

    Returns:
        One row per (pair, layer, rule): ``image_id``, ``target``, ``layer`` (its position from 1), ``name``, ``rule``
        (a key of :data:`WORDS`), ``maps`` and ``threshold`` (of the scores over their maximum; NaN for "available");
        and the last layer's scores over their maximum, (pairs with a positive score, C).
    """
    network = model.network.to(device)
    outputs = {name: i for i, name in enumerate(model.classes)}
    rows: list[dict[str, Any]] = []
    scores_of_last = []
    for sample in readable(dataset, dataset.ids[:limit], f"{dataset.name} × {model.name}"):
        image = model.preprocess(sample.image)[None].to(device)
        probe = Probe(network, image, layers=model.layers, cam_layer=model.cam_layer, gradient=gradient)
        for target in sample.targets:
            if dataset.classes[target] not in outputs:
                continue
            for position, layer in enumerate(model.layers, 1):
                scores = probe.gradient_scores(layer, outputs[dataset.classes[target]])
                head = {"image_id": sample.image_id, "target": target, "layer": position, "name": layer}
                rows += [{**head, **row} for row in _selections(scores, estimator, inclusive)]
                if position == len(model.layers) and bool(scores.max() > 0):
                    scores_of_last.append((scores / scores.max()).double().cpu().numpy())
    if not rows:
        raise SuiteError(f"no pair of {dataset.name} has a class that {model.name} knows")
    return pd.DataFrame(rows), np.stack(scores_of_last) if scores_of_last else np.zeros((0, 0))


def _selections(scores: torch.Tensor, estimator: str, inclusive: bool) -> list[dict[str, Any]]:
    """What every rule keeps of one layer's (C,) gradient scores."""
    rows: list[dict[str, Any]] = [{"rule": "available", "maps": len(scores), "threshold": np.nan}]
    for rule in ("SISE", *ADAPTIVE_RULES):
        used: list[float] = []

        def threshold(normalised: np.ndarray, rule: str = rule, used: list[float] = used) -> float:
            used.append(0.0 if rule == "SISE" else adaptive_threshold(normalised, rule, estimator))
            return used[-1]

        kept = int(select(scores, threshold, inclusive and rule != "SISE").sum())
        rows.append({"rule": rule, "maps": kept, "threshold": used[0] if used else np.nan})
    return rows


def summarise(
    found: pd.DataFrame, published: pd.DataFrame, *, dataset: str, model: str, official: bool = False
) -> pd.DataFrame:
    """The table in long form: a row per rule and layer, and per rule over all layers ("sum").

    Args:
        found: From :func:`collect`.
        published: From :func:`sise.benchmark.tables.published.read_published`.
        dataset, model: Their names.
        official: The weights are the published checkpoint.

    Returns:
        ``mean`` and ``standard error`` of the number of maps over pairs, ``share of positive`` in percent (of the maps
        with a positive score), the paper's number and share for its model, whatever the data here, and what the mean is
        worth beside it (:func:`sise.benchmark.tables.judging.status`).
    """
    paper = published[published["table"] == PUBLISHED_TABLE]
    counts = {(r.method, int(r.metric.rpartition("p")[2])): float(r.value) for r in paper.itertuples()}
    sampled = published_counts.total("voc2007", f"images of {PUBLISHED_TABLE}")
    layers = sorted(found["layer"].unique())
    per_pair = found.pivot_table(index=["image_id", "target"], columns=["rule", "layer"], values="maps")
    rows = []
    for rule in WORDS:
        method = {"otsu_positive": "Ada-SISE", "otsu_signed": "Ada-SISE"}.get(rule, rule)
        for layer in [*layers, "sum"]:
            wanted = layers if layer == "sum" else [layer]
            maps = sum(per_pair[rule, part] for part in wanted)
            positive = sum(per_pair["SISE", part].mean() for part in wanted)
            numbers = [counts.get((method, part), np.nan) for part in wanted]
            theirs = sum(numbers) if len(layers) == 5 else np.nan
            base = sum(counts.get(("SISE", part), np.nan) for part in wanted)
            error = clustered_standard_error(*per_image(maps))
            rows.append({
                "dataset": dataset, "model": model, "rule": rule, "layer": layer,
                "name": "" if layer == "sum" else found.loc[found["layer"] == layer, "name"].iloc[0],
                "mean": maps.mean(), "standard error": error,
                "share of positive": 100 * maps.mean() / positive if positive else np.nan,
                "published (resnet50, voc2007)": theirs, "published share of positive": 100 * theirs / base,
                "pairs": len(maps),
                "status": status(
                    n=len(maps), published=theirs, difference=maps.mean() - theirs,
                    published_dataset=(dataset, model) == ("voc2007", "resnet50"), official_weights=official,
                    faithful=found["image_id"].nunique() >= sampled,
                    # whole numbers are published, of 500 images that nobody else knows: another sample of the same data
                    margin=max(0.5, 2 * error),
                ),
            })  # fmt: skip
    return pd.DataFrame(rows)


def to_markdown(table: pd.DataFrame) -> str:
    """Counts, then shares, each beside the published ones."""
    dataset, model, pairs = table.iloc[0][["dataset", "model", "pairs"]]
    layers = list(dict.fromkeys(table["layer"]))
    names = dict(zip(table["layer"], table["name"], strict=True))
    heads = ["Σ" if layer == "sum" else f"p{layer} `{names[layer]}`" for layer in layers]

    def lines(value: str, theirs: str, rules: Sequence[str], form: str) -> str:
        body = [["", *heads]]
        for rule in rules:
            of = table[table["rule"] == rule].set_index("layer")
            body.append([WORDS[rule], *(number(of.loc[layer, value], form) for layer in layers)])
        for rule, word in (("available", "available"), ("SISE", "SISE"), ("otsu_positive", "Ada-SISE")):
            of = table[table["rule"] == rule].set_index("layer")
            if rule in rules and of[theirs].notna().any():
                body.append([f"*published: {word}*", *(number(of.loc[layer, theirs], form) for layer in layers)])
        return markdown_table(body)

    rules = list(WORDS)
    counts = lines("mean", "published (resnet50, voc2007)", rules, ".1f")
    shares = lines("share of positive", "published share of positive", rules[2:], ".0f")
    return f"""# Ada-SISE, Table 2: feature maps kept per layer, {LABELS.get(model, model)} on {dataset}

{counts}

Share of the maps with a positive gradient score that is kept, in percent:

{shares}

- Means over {pairs} pairs (image, class); one forward and one backward pass each, no masked pass.
- Published: ResNet-50 on voc2007, 500 images. {_stand_in(dataset, model)}
- "text" and "table" are the two readings that the tables show; the literal ones follow eqs. 2-6 with the order of the
  scores and the case i = n that the paper leaves open.
"""


def _stand_in(dataset: str, model: str) -> str:
    if (dataset, model) == ("voc2007", "resnet50"):
        return "Counts compare if the weights are the published ones."
    return "The network here has other numbers of maps: only shares compare, and only in their pattern."


def histogram(scores: np.ndarray, found: pd.DataFrame, *, dataset: str, model: str) -> Figure:
    """Ada-SISE Fig. 1: the last layer's gradient scores, all and the positive ones, with the rules' mean thresholds.

    Args:
        scores: (pairs, C) scores over their maximum, from :func:`collect`.
        found: From :func:`collect` too.
        dataset, model: Their names.
    """
    last = found[found["layer"] == found["layer"].max()].groupby("rule")["threshold"].mean()
    figure = Figure(figsize=(10, 4), layout="constrained")
    whole, positive = figure.subplots(1, 2)
    values = scores.ravel()
    whole.hist(values, bins=120, color="#92c5de")
    whole.set_title("all feature maps", fontsize=10)
    positive.hist(values[values > 0], bins=80, range=(0, 1), color="#92c5de")
    positive.set_title("feature maps with a positive score: what Ada-SISE thresholds", fontsize=10)
    for axes in (whole, positive):
        axes.axvline(0, color="#4d4d4d", linewidth=1.5, label="SISE, μ = 0")
        axes.axvline(last["otsu_positive"], color="#b2182b", linewidth=1.5, label="Ada-SISE (text), mean threshold")
        axes.axvline(last["otsu_signed"], color="#2166ac", linewidth=1.5, linestyle="--",
                     label="Ada-SISE (table), mean threshold")  # fmt: skip
        axes.set_xlabel("gradient score α over its largest, β")
        axes.set_ylabel("feature maps")
    positive.legend(fontsize=9)
    figure.suptitle(
        f"Ada-SISE, Fig. 1: gradient scores of {LABELS.get(model, model)}'s last layer on {dataset}, "
        f"{len(scores)} pairs × {scores.shape[1]} maps",
        fontsize=11,
    )
    return figure


def run(cfg: DictConfig, published: Path) -> list[Path]:
    """The command of ``scripts/kept_maps.py``: collects, writes and prints.

    Returns:
        The files written.
    """
    cells.check_network(cfg)
    dataset, model = instantiate(cfg.dataset.loader), instantiate(cfg.model.loader)
    found, scores = collect(
        dataset,
        model,
        limit=cfg.limit,
        gradient=cfg.protocol.gradient,
        estimator=cfg.protocol.ada_sise.estimator,
        inclusive=cfg.protocol.ada_sise.inclusive,
        device=choose_device(cfg.device),
    )
    names = {"dataset": dataset.name, "model": cfg.model.name}
    official = model.official
    table = summarise(found, read_published(published), **names, official=official)
    suffix = dataset.name if cfg.model.name == "resnet50" else f"{dataset.name}_{cfg.model.name}"
    results, stem = ResultFolder(Path(cfg.results), cfg.overwrite), f"ada_sise_table2_{suffix}"
    files = results.write({
        f"{stem}.csv": csv_text(table),
        f"{stem}.md": to_markdown(table) + f"- Made by `{command()}`.\n",
    })  # fmt: skip
    picture = f"figures/ada_sise_fig1_{suffix}.png"
    if scores.size and results.may_draw(picture, len(scores)):
        files.append(results.path / picture)
        note = provenance(
            "shown" if official and dataset.name == "voc2007" else "other data",
            choose_device(cfg.device),
            len(scores),
        )
        histogram(scores, found, **names).savefig(files[-1], dpi=130, metadata={"Comment": note})
    print(to_markdown(table))
    print("\n".join(f"-> {file}" for file in files))
    return files

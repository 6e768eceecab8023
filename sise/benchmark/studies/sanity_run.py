"""The sanity checks as records, table and figures (SISE, Figs. 11 and 13); what is measured is in sanity.py."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from sise.benchmark.figures.captions import footer, seen, subject
from sise.benchmark.markdown import markdown_table
from sise.benchmark.records.provenance import command
from sise.benchmark.run import probing
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.session import Shared
from sise.benchmark.studies import sanity
from sise.benchmark.terminal import Progress
from sise.probe.probe import Probe
from sise.types import Sample

log = logging.getLogger(__name__)
TRAINED, UNTRAINED, OTHER_CLASS, OTHER = "trained", "untrained", "another class", "another image"
APART = (UNTRAINED, OTHER_CLASS, OTHER)
"""What is no stage of the cascade."""


def records(cells: Sequence[Cell], pairs: Sequence[tuple[str, int]], seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Explains each pair with each cell at every stage of the randomisation.

    Args:
        cells: Of one dataset and network.
        pairs: (image, target).
        seed: Of the random parameters.

    Returns:
        Records, one per (explainer, stage, image): ``spearman`` and ``ssim`` to the trained network's map,
        ``undefined`` (a constant map decided), ``failed`` (why), ``confidence`` and ``modules`` (how many are random so
        far); and the first pair's maps by (explainer, stage), with its picture and mask.
    """
    trained = Shared(cells)
    samples = [cells[0].dataset[image_id] for image_id, _ in pairs]
    first = trained.probe(samples[0])
    plan: list[tuple[str, Callable[[int], torch.nn.Module] | None, int]] = [(TRAINED, None, 0)]
    modules: tuple[str, ...] = ()
    for stage in sanity.stages(trained.model.network, first.image, cells[0].model.layers):
        modules += stage.modules
        plan.append((stage.name, functools.partial(sanity.randomised, trained.model.network, modules), len(modules)))
    plan.append((UNTRAINED, functools.partial(sanity.untrained, trained.model.network), len(modules)))
    shown: dict[Any, Any] = {"picture": seen(trained.model, first)}
    shown["mask"] = first.ground_truth[_output(cells[0], pairs[0])].cpu().numpy()
    reference: dict[tuple[str, int], Tensor] = {}
    of_another_class: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for stage, make, count in (bar := Progress(plan, desc="sanity", unit="network")):
        for i, (sample, pair) in enumerate(zip(samples, pairs, strict=True)):
            bar.set_postfix_str(f"{stage}, image {i + 1} of {len(pairs)}")
            # other random numbers for each image, so that the standard error covers them too
            shared = Shared(cells, make(probing.image_seed(seed, sample.image_id))) if make else trained
            probe = shared.probe(sample)
            for cell in cells:
                label = cell.cfg.explainer.label
                record = {"explainer": label, "stage": stage, "modules": count, "image_id": sample.image_id}
                record |= {"spearman": np.nan, "ssim": np.nan, "undefined": False, "failed": ""}
                record["confidence"] = probe.confidence(_output(cell, pair))
                found.append(record)
                saliency = _map(shared, cell, sample, probe, pair[1], record)
                if saliency is None:
                    continue
                if make is None:
                    reference[label, i] = saliency
                    of_another_class += _another_class(trained, cell, sample, probe, pair[1], saliency, seed)
                if i == 0:
                    shown[label, stage] = saliency
                _compare(record, reference.get((label, i)), saliency)
            if make is None:
                shared.keep(probe)
    found += of_another_class
    if len(pairs) > 1:
        for label, i in reference:
            record = {"explainer": label, "stage": OTHER, "modules": 0, "image_id": samples[i].image_id, "failed": ""}
            found.append(record)
            _compare(record, reference[label, i], reference.get((label, (i + 1) % len(pairs))))
    return pd.DataFrame(found), shown


def _another_class(
    trained: Shared, cell: Cell, sample: Sample, probe: Probe, target: int, saliency: Tensor, seed: int
) -> list[dict[str, Any]]:
    """How alike a map is to that of another class in the same image, drawn from those the network knows, if any."""
    classes = [k for k, name in enumerate(cell.dataset.classes) if name in cell.outputs and k != target]
    if not classes:
        return []
    other = int(np.random.default_rng(probing.image_seed(seed, sample.image_id)).choice(classes))
    record: dict[str, Any] = {"explainer": cell.cfg.explainer.label, "stage": OTHER_CLASS, "modules": 0}
    record |= {"image_id": sample.image_id, "failed": "", "confidence": probe.confidence(_output(cell, ("", other)))}
    _compare(record, saliency, _map(trained, cell, sample, probe, other, record))
    return [record]


def _map(
    shared: Shared, cell: Cell, sample: Sample, probe: Probe, target: int, record: dict[str, Any]
) -> Tensor | None:
    """(H, W) saliency; None where it fails, as a random network may by overflow: entered and said, not hidden."""
    try:
        return shared.explain(cell, sample, probe, target).cpu()
    except Exception as error:
        log.warning("%s, %s, image %s failed: %s", record["explainer"], record["stage"], sample.image_id, error)
        record["failed"] = f"{type(error).__name__}: {error}"
        return None


def _output(cell: Cell, pair: tuple[str, int]) -> int:
    return cell.outputs[cell.dataset.classes[pair[1]]]


def _compare(record: dict[str, Any], one: Tensor | None, other: Tensor | None) -> None:
    """Enters how alike two maps are; nothing where one is missing or they differ in size."""
    if one is None or other is None or one.shape != other.shape:
        record["failed"] = record["failed"] or "no map of the trained network to compare with"
        return
    record["spearman"] = sanity.rank_correlation(one, other)
    record["ssim"] = sanity.structural_similarity(one, other)
    record["undefined"] = sanity.constant(one) or sanity.constant(other)


def summarise(records: pd.DataFrame) -> pd.DataFrame:
    """Means over the images with their standard errors, one row per (explainer, stage), in the order of the records."""
    rows = []
    for (explainer, stage), group in records.groupby(["explainer", "stage"], sort=False):
        good = group[group["failed"] == ""]
        row = {"explainer": explainer, "stage": stage, "modules": int(group["modules"].iloc[0]), "n": len(good)}
        for name in ("spearman", "ssim", "confidence"):
            row[name] = good[name].mean()
            row[f"{name}_se"] = good[name].std(ddof=1) / np.sqrt(len(good)) if len(good) > 1 else np.nan
        row |= {"undefined": int(good["undefined"].sum()), "failed": len(group) - len(good)}
        rows.append(row)
    return pd.DataFrame(rows)


def to_markdown(cfg: DictConfig, cells: Sequence[Cell], table: pd.DataFrame, records: pd.DataFrame) -> str:
    """Both similarities by explainer and stage, and what the networks of the stages are."""
    stages = list(dict.fromkeys(table["stage"]))

    def lines(heading: str, rows: Iterable[Sequence[str]]) -> str:
        return markdown_table([[heading, *stages], *rows])

    parts = [
        f"# Sanity check: {subject(cells[0])}",
        "Similarity of each explainer's map to the trained network's map of the same image and class, mean over "
        f"{records['image_id'].nunique()} images ± standard error (images and random numbers: seed {cfg.seed}). "
        "Weights and biases are randomised from the classifier down, cumulatively: normal numbers with each tensor's "
        "standard deviation, weights around zero, other ones for each image (SISE Fig. 11). "
        f"*{UNTRAINED}*: every layer by its own initialiser (Fig. 13). *{OTHER_CLASS}*: the trained network's map of a "
        "class drawn from the others, same image (Sixt et al., ICML 2020): 1 = blind to the class. "
        f"*{OTHER}*: its map of another image and class, for scale: a map that is no more alike than this has nothing "
        "left of the first one. Lower = more sensitive to what the network learnt; the controls ignore the network and "
        "must stay at 1.",
        f"{footer(cells)}. {cells[0].model.note}.",
    ]
    for name, title in (("spearman", "Spearman rank correlation"), ("ssim", "SSIM")):
        rows = []
        for explainer, group in table.groupby("explainer", sort=False):
            of = group.set_index("stage")
            rows.append([str(explainer), *(_mean(of.loc[s], name) if s in of.index else "–" for s in stages)])
        parts += [f"## {title}", lines("Explainer", rows)]
    of = table[table["explainer"] == table["explainer"].iloc[0]].set_index("stage")
    rows = [
        ["modules randomised", *(str(of.loc[s, "modules"]) for s in stages)],
        ["Ψ of the class", *(_mean(of.loc[s], "confidence") for s in stages)],
    ]
    parts += ["## Networks", lines("", rows)]
    constant = _counted(table, "undefined")
    if constant:
        parts.append(
            f"Set by definition, a map was constant (two constant maps: 1, one: 0 in rank correlation): {constant}."
        )
    failed = _counted(table, "failed")
    if failed:
        parts.append(f"Failed, not in the means: {failed}.")
    parts.append(f"Made by `{command()}`.")
    return "\n\n".join(parts) + "\n"


def _counted(table: pd.DataFrame, column: str) -> str:
    """The rows with a count, by explainer."""
    words = []
    for explainer, rows in table.groupby("explainer", sort=False):
        counted = [f"{stage} {count}" for stage, count in zip(rows["stage"], rows[column], strict=True) if count]
        if (rows[column] == rows["n"]).all():
            counted = ["everywhere"]
        words += [f"{explainer} {', '.join(counted)}"] if counted else []
    return "; ".join(words)


def _mean(row: pd.Series, name: str) -> str:
    if not np.isfinite(row[name]):
        return "–"
    error = f" ± {row[f'{name}_se']:.2f}" if np.isfinite(row[f"{name}_se"]) else ""
    return f"{round(row[name], 2) + 0.0:.2f}{error}"  # + 0.0: no minus zero

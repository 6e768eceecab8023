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

from sise.benchmark import runner, sanity
from sise.benchmark.runner import Cell
from sise.benchmark.sheets import INK, PALE, Rows, Sheet, command, outline, overlay
from sise.benchmark.subjects import Shared, footer, seen, subject
from sise.benchmark.terminal import Progress

log = logging.getLogger(__name__)

TRAINED, UNTRAINED, OTHER = "trained", "untrained", "another image"


def sanity_check(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> dict[str, Sheet | str]:
    """SISE Figs. 11 and 13: maps of one image at every stage, similarities of all, as table and plot."""
    found, shown = records(cells, pairs, cfg.seed)
    table = summarise(found)
    return {
        "sanity.csv": table.to_csv(index=False, float_format="%.4f", lineterminator="\n"),
        "sanity.md": to_markdown(cfg, cells, table, found),
        "sanity_maps.jpg": sheet(cfg, cells, pairs[0], shown, found),
        "sanity.png": plot(cfg, cells, table),
    }


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
    for stage in sanity.stages(trained.network, first.image, cells[0].model.layers):
        modules += stage.modules
        plan.append((stage.name, functools.partial(sanity.randomised, trained.network, modules), len(modules)))
    plan.append((UNTRAINED, functools.partial(sanity.untrained, trained.network), len(modules)))
    shown: dict[Any, Any] = {"picture": seen(trained.model, first)}
    shown["mask"] = first.ground_truth[_output(cells[0], pairs[0])].cpu().numpy()
    reference: dict[tuple[str, int], Tensor] = {}
    found: list[dict[str, Any]] = []
    for stage, make, count in (bar := Progress(plan, desc="sanity", unit="network")):
        for i, (sample, pair) in enumerate(zip(samples, pairs, strict=True)):
            bar.set_postfix_str(f"{stage}, image {i + 1} of {len(pairs)}")
            # other random numbers for each image, so that the standard error covers them too
            shared = Shared(cells, make(runner.image_seed(seed, sample.image_id))) if make else trained
            probe = shared.probe(sample)
            for cell in cells:
                label = cell.cfg.explainer.label
                record = {"explainer": label, "stage": stage, "modules": count, "image_id": sample.image_id}
                record |= {"spearman": np.nan, "ssim": np.nan, "undefined": False, "failed": ""}
                record["confidence"] = probe.confidence(_output(cell, pair))
                found.append(record)
                try:
                    saliency = shared.explain(cell, sample, probe, pair[1]).cpu()
                except Exception as error:  # a random network may overflow: counted, not hidden
                    log.warning("%s, %s, image %s failed: %s", label, stage, sample.image_id, error)
                    record["failed"] = f"{type(error).__name__}: {error}"
                    continue
                if make is None:
                    reference[label, i] = saliency
                if i == 0:
                    shown[label, stage] = saliency
                _compare(record, reference.get((label, i)), saliency)
            if make is None:
                shared.keep(probe)
    if len(pairs) > 1:
        for label, i in reference:
            record = {"explainer": label, "stage": OTHER, "modules": 0, "image_id": samples[i].image_id, "failed": ""}
            found.append(record)
            _compare(record, reference[label, i], reference.get((label, (i + 1) % len(pairs))))
    return pd.DataFrame(found), shown


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
        body = [[heading, *stages], ["---", *["--:"] * len(stages)], *rows]
        return "\n".join("| " + " | ".join(row) + " |" for row in body)

    parts = [
        f"# Sanity check: {subject(cells[0])}",
        "Similarity of each explainer's map to the trained network's map of the same image and class, mean over "
        f"{records['image_id'].nunique()} images ± standard error (images and random numbers: seed {cfg.seed}). "
        "Weights and biases are randomised from the classifier down, cumulatively: normal numbers with each tensor's "
        "standard deviation, weights around zero, other ones for each image (SISE Fig. 11). "
        f"*{UNTRAINED}*: every layer by its own initialiser (Fig. 13). *{OTHER}*: the trained network's map of another "
        "image and class, for scale: a map that is no more alike than this has nothing left of the first one. Lower = "
        "more sensitive to what the network learnt; the controls ignore the network and must stay at 1.",
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


def sheet(
    cfg: DictConfig, cells: Sequence[Cell], pair: tuple[str, int], shown: dict[str, Any], records: pd.DataFrame
) -> Sheet:
    """The maps of one image: a row per explainer, a column per stage."""
    image_id, target = pair
    stages = [s for s in dict.fromkeys(records["stage"]) if s != OTHER]
    rivals = [c for c in cells if c.cfg.explainer.name not in cfg.controls]
    first = records[records["image_id"] == image_id].set_index(["explainer", "stage"])
    name = cells[0].dataset.classes[target]
    rows = Rows(
        ["", *stages],
        len(rivals),
        cell=104,
        caption_lines=1,
        first=180,
        footer=f"{footer(cells)} · image {image_id}, {name} · ρ: rank correlation to the trained network's map",
    )
    for row, cell in enumerate(rivals):
        label = cell.cfg.explainer.label
        rows.label(row, [label], bold_first=True)
        for column, stage in enumerate(stages, 1):
            saliency = shown.get((label, stage))
            if saliency is None:
                rows.blank(row, column, "failed")
                continue
            values = first.loc[(label, stage)]
            star = "*" if values["undefined"] else ""
            caption = "" if stage == TRAINED else f"ρ {round(values['spearman'], 2) + 0.0:.2f}{star}"
            outline(rows.picture(row, column, overlay(shown["picture"], saliency), [caption]), shown["mask"])
    if first["undefined"].any():
        rows.note("* set by definition: a map is constant")
    return rows


STYLES = {
    "SISE": ("#d55e00", "o", 2.6),
    "Ada-SISE": ("#e69f00", "D", 2.6),
    "Grad-CAM": ("#0072b2", "s", 1.3),
    "Grad-CAM++": ("#56b4e9", "v", 1.3),
    "Extremal Perturbation": ("#009e73", "^", 1.3),
    "RISE": ("#cc79a7", "P", 1.3),
    "Score-CAM": ("#000000", "X", 1.3),
    "Integrated Gradient": ("#7f7f7f", "<", 1.3),
    "FullGrad": ("#8c6d1f", ">", 1.3),
}
"""Colour (Okabe and Ito's, for every kind of colour vision), marker and line width per explainer."""


def plot(cfg: DictConfig, cells: Sequence[Cell], table: pd.DataFrame) -> Sheet:
    """Mean similarity by stage, one line per explainer; what is no stage of the cascade stands apart, unjoined."""
    controls = {c.cfg.explainer.label for c in cells if c.cfg.explainer.name in cfg.controls}
    labels = list(dict.fromkeys(table["explainer"]))
    apart = [s for s in (UNTRAINED, OTHER) if s in set(table["stage"])]
    joined = [s for s in dict.fromkeys(table["stage"]) if s not in apart]
    width, height, plot_width, plot_height = 1270, 470, 440, 300
    sheet = Sheet(width, height)
    title = f"Similarity to the trained network's map: {subject(cells[0])}"
    sheet.text(60, 20, title, size=11, align="left", bold=True)
    handles = {}
    for number, (name, title) in enumerate((("spearman", "Spearman rank correlation"), ("ssim", "SSIM"))):
        left = 60 + number * (plot_width + 60)
        axes = sheet.axes(left, 70, plot_width, plot_height)
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        positions = {s: i for i, s in enumerate(joined)} | {s: len(joined) + 0.4 + i for i, s in enumerate(apart)}
        for i, label in enumerate(labels):
            rows = table[table["explainer"] == label].set_index("stage")
            other = ("#bbbbbb" if label in controls else "#444444", ".", 1.3)
            colour, marker, line = STYLES.get(label.removesuffix(" (text)"), other)
            style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": line, "elinewidth": 0.8}
            style["zorder"] = 3 if line > 2 else 2
            shift = (i - len(labels) / 2) * 0.045
            for part, joint in ((joined, ":" if label in controls else "-"), (apart, "none")):
                part = [s for s in part if s in rows.index]
                x = [positions[s] + (shift if joint == "none" else 0) for s in part]
                errors = rows.loc[part, f"{name}_se"].fillna(0)
                drawn = axes.errorbar(x, rows.loc[part, name], yerr=errors, linestyle=joint, **style)
                handles.setdefault(label, drawn)
        axes.axhline(0, color="#cccccc", linewidth=0.8, zorder=1)
        axes.axvline(len(joined) - 0.3, color="#cccccc", linewidth=0.8, zorder=1)
        axes.set_xticks(list(positions.values()), list(positions), rotation=40, ha="right", fontsize=8, color=INK)
        low = min(-0.1, float((table[name] - table[f"{name}_se"].fillna(0)).min()) - 0.05)
        axes.set_ylim(low, 1.05)
        axes.set_xlim(-0.3, max(positions.values()) + 0.5)
        axes.tick_params(axis="y", labelsize=8, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    corner = (1055 / width, 1 - 66 / height)
    sheet.figure.legend(handles.values(), handles, loc="upper left", bbox_to_anchor=corner, fontsize=9, frameon=False)
    note = f"mean of {int(table['n'].max())} images ± standard error · weights and biases randomised from the "
    note += "classifier down, cumulatively"
    sheet.text(60, height - 18, note, size=8, align="left", colour=PALE)
    return sheet

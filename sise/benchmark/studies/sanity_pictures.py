"""Sanity checks, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from sise.benchmark.figures.captions import footer, subject
from sise.benchmark.figures.colours import INK, PALE, outline, overlay
from sise.benchmark.figures.layout import Rows, Sheet
from sise.benchmark.run.cells import Cell
from sise.benchmark.studies.sanity_run import APART, OTHER, OTHER_CLASS, TRAINED, records, summarise, to_markdown


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


def sheet(
    cfg: DictConfig, cells: Sequence[Cell], pair: tuple[str, int], shown: dict[Any, Any], records: pd.DataFrame
) -> Sheet:
    """The maps of one image: a row per explainer, a column per stage."""
    image_id, target = pair
    stages = [s for s in dict.fromkeys(records["stage"]) if s not in (OTHER_CLASS, OTHER)]
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
    apart = [s for s in APART if s in set(table["stage"])]
    joined = [s for s in dict.fromkeys(table["stage"]) if s not in apart]
    width, height, plot_width, plot_height = 1270, 470, 440, 300
    sheet = Sheet(width, height)
    title = f"Similarity to the trained network's map: {subject(cells[0])}"
    sheet.text(60, 20, title, size=11, align="left", bold=True)
    handles: dict[str, Any] = {}
    for number, (name, title) in enumerate((("spearman", "Spearman rank correlation"), ("ssim", "SSIM"))):
        left = 60 + number * (plot_width + 60)
        axes = sheet.axes(left, 70, plot_width, plot_height)
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        positions = {s: i for i, s in enumerate(joined)} | {s: len(joined) + 0.4 + i for i, s in enumerate(apart)}
        for i, label in enumerate(labels):
            rows = table[table["explainer"] == label].set_index("stage")
            other = ("#bbbbbb" if label in controls else "#444444", ".", 1.3)
            colour, marker, line = STYLES.get(label.removesuffix(" (text)"), other)
            style: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "markersize": 5,
                "linewidth": line,
                "elinewidth": 0.8,
            }
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
    sheet.figure.legend(
        list(handles.values()), list(handles), loc="upper left", bbox_to_anchor=corner, fontsize=9, frameon=False
    )
    note = f"mean of {int(table['n'].max())} images ± standard error · weights and biases randomised from the "
    note += "classifier down, cumulatively"
    sheet.text(60, height - 18, note, size=8, align="left", colour=PALE)
    return sheet

"""Figures of images and maps: panels, masks, the fusion cascade; sanity checks and gallery have files of their own.

See configs/figures.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor

from sise.benchmark import cli, gallery, runner, sanity_figures
from sise.benchmark.result_files import ResultFolder
from sise.benchmark.runner import Cell
from sise.benchmark.sheets import Rows, Sheet, dimmed, outline, overlay, provenance
from sise.benchmark.subjects import Shared, choose_pairs, footer, seen, short, status
from sise.benchmark.terminal import Progress
from sise.fusion import Step, cascade
from sise.maps import minmax, upsample
from sise.method import live, select
from sise.probe import EPSILON, Probe
from sise.types import SuiteError, choose

FIGURES = ("panel", "masks", "cascade", "sanity", "gallery")
Made = dict[str, Sheet | str]
"""What a figure writes, by file name; the dataset, network and protocol are added to the name."""


def compose_cells(cfg: DictConfig, overrides: Sequence[str], config_name: str = "figures") -> list[Cell]:
    """One cell per explainer of the figure, all on the same dataset, network and protocol.

    Args:
        cfg: The figure's configuration.
        overrides: The command line's overrides.
        config_name: The root configuration.

    Raises:
        SuiteError: If the figure or a setting is unknown, or data or weights are missing.
    """
    if choose("figure", cfg.figure, FIGURES) == "gallery":
        return gallery.compose_cells(cfg, overrides, config_name)
    names = {
        "panel": lambda: cfg.explainers,
        "masks": lambda: ["sise", "rise"],
        "cascade": lambda: [cfg.explainer.name],
        "sanity": lambda: [*cfg.explainers, *cfg.controls],
    }[cfg.figure]()
    if not names:
        raise SuiteError("a figure needs at least one explainer; the list `explainers` is empty.")
    if cfg.figure == "cascade":
        choose("explainer of figure=cascade", cfg.explainer.name, [n for n in ("sise", "ada_sise", "ada_sise_table")])
    general = [o for o in overrides if not o.startswith("explainer=")]
    configs = []
    for name in names:
        of_cell = [*general, f"explainer={name}"]
        configs += cli.compose_cells(compose(config_name, of_cell), of_cell, config_name)
    return runner.make_cells(configs)


def draw(cfg: DictConfig, cells: Sequence[Cell]) -> list[Path]:
    """Draws one figure.

    Args:
        cfg: The figure's configuration.
        cells: From :func:`compose_cells`.

    Returns:
        The files written: tables to ``results``, images to ``results/figures``.

    Raises:
        SuiteError: If an image or class is unknown.
    """
    if cfg.figure == "gallery":
        return gallery.draw(cfg, cells)
    draws = {"panel": panel, "masks": masks, "cascade": cascades, "sanity": sanity_figures.sanity_check}
    kind = choose("figure", cfg.figure, FIGURES)
    first = cells[0]
    pairs = choose_pairs(first, cfg.count, cfg.seed, images=cfg.images, classes=cfg.classes)
    note = provenance(status(cells), runner.choose_device(cfg.device), len(pairs))
    protocol = "" if first.cfg.protocol.name == "paper" else f"_{first.cfg.protocol.name}"
    results, files = ResultFolder(Path(cfg.results), cfg.overwrite), []
    texts: dict[str, str] = {}
    for name, made in draws[kind](cfg, cells, pairs).items():
        stem, _, suffix = name.partition(".")
        name = f"{stem}_{first.dataset.name}_{first.cfg.model.name}{protocol}.{suffix}"
        if not isinstance(made, Sheet):
            texts[name] = made
        elif results.may_draw(f"figures/{name}", len(pairs)):
            files.append(made.save(results.path / "figures" / name, cfg.kilobytes, note))
    return [*(results.write(texts) if texts else ()), *files]


# ---------------------------------------------------------------------- panel


def panel(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> Made:
    """One row per (image, class): the image, the ground truth, one map per explainer with its metrics."""
    shared = Shared(cells)
    captions = list(cfg.captions)
    known = [name for group in cells[0].metrics for name in group]
    for name in captions:
        choose("metric in `captions`", name, known)
    rows = Rows(
        ["image", "ground truth", *(c.cfg.explainer.label for c in cells)],
        len(pairs),
        cell=108,
        caption_lines=max(2, len(captions)),
        footer=footer(cells),
    )
    defined = False
    for row, (image_id, target) in enumerate(Progress(pairs, desc="panel", unit="row")):
        sample = cells[0].dataset[image_id]
        probe = shared.probe(sample)
        output = cells[0].outputs[cells[0].dataset.classes[target]]
        picture, mask = seen(shared.model, probe), probe.ground_truth[output].cpu().numpy()
        psi = f"Ψ {short(probe.confidence(output))}"
        rows.picture(row, 0, picture, [cells[0].dataset.classes[target], psi])
        outline(rows.picture(row, 1, dimmed(picture, mask), [image_id, _share(mask)]), mask)
        for column, cell in enumerate(cells, 2):
            saliency = shared.explain(cell, sample, probe, target)
            record = runner.make_record(cell, sample, probe, target, saliency, {})
            lines = [_metric(record, name) for name in captions]
            defined |= any(name in record["undefined"] for name in captions)
            outline(rows.picture(row, column, overlay(picture, saliency), lines), mask)
        shared.keep(probe)
    if defined:
        rows.note("* set by definition: constant map, empty mask or zero confidence")
    return {"panel.jpg": rows}


def _metric(record: dict[str, Any], name: str) -> str:
    by_definition = "*" if name in record["undefined"] else ""
    return f"{name.rstrip('%')} {100 * record[name]:.0f} %{by_definition}"


def _share(mask: np.ndarray) -> str:
    return f"{100 * mask.mean():.0f} % of the image" if mask.any() else "outside the crop"


# ---------------------------------------------------------------------- masks


def masks(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> Made:
    """SISE Fig. 4: per block, the attribution masks with the largest gradient scores; below, RISE's random masks."""
    from baselines.rise import mask_bank

    sise_cell, rise_cell = cells
    shared = Shared(cells)
    layers, columns = sise_cell.model.layers, cfg.masks_per_layer
    rule = sise_cell.explainer.keywords["mask"]
    options = rise_cell.explainer.keywords
    rows = Rows(
        [""] * (columns + 1),
        len(pairs) * (len(layers) + 2),
        cell=104,
        caption_lines=1,
        first=168,
        footer=footer(cells),
        colours=False,
    )
    for block, (image_id, target) in enumerate(pairs):
        sample = sise_cell.dataset[image_id]
        probe = shared.probe(sample)
        name = sise_cell.dataset.classes[target]
        output = sise_cell.outputs[name]
        picture, region = seen(shared.model, probe), probe.ground_truth[output].cpu().numpy()
        top = block * (len(layers) + 2)
        rows.label(top, [name, image_id, f"Ψ {short(probe.confidence(output))}"], bold_first=True)
        rows.picture(top, 1, picture, ["image"])
        outline(rows.picture(top, 2, dimmed(picture, region), ["ground truth"]), region)
        lines = [
            "Attribution masks: feature maps brought to the image's size and to [0, 1];",
            "of each block those with the largest gradient scores, from left to right.",
            "Below them: the confidence Ψ in the class when the image is seen through them.",
        ]
        rows.text_beside(top, 3, lines)
        top += 1
        for i, layer in enumerate(layers):
            scores = probe.gradient_scores(layer, output)
            chosen = select(scores, lambda _: sise_cell.explainer.keywords["mu"]) & live(probe, layer, rule)
            best = [k for k in scores.argsort(descending=True).tolist() if chosen[k]][:columns]
            maps = probe.feature_maps(layer)
            lines = [f"block {i + 1}", layer.removeprefix("network."), f"{maps.shape[1]} × {maps.shape[2]} pixels"]
            lines += [f"{int(chosen.sum())} of {len(scores)} selected"]
            rows.label(top + i, lines, bold_first=True)
            if not best:
                continue
            seen_through = probe.masked_confidences(layer, torch.tensor(best), [output], rule)[:, 0].tolist()
            lo, hi = (e[best, None, None] for e in probe.extrema(layer, rule))
            scaled = (maps[best] - lo) / (hi - lo + EPSILON)
            attribution = upsample(scaled, probe.size, "nearest" if rule == "nearest" else "bilinear")
            for column, (mask, psi) in enumerate(zip(attribution.cpu().numpy(), seen_through, strict=True), 1):
                rows.picture(top + i, column, mask, [f"Ψ {short(psi)}"], cmap="gray")
        bank = mask_bank(options["n_masks"], options["cells"], options["p"], probe.size, options["seed"])
        random = bank.masks(0, columns, probe.device)
        lines = ["RISE", f"{options['n_masks']} random masks", "the first of them"]
        rows.label(top + len(layers), lines, bold_first=True)
        found = probe.to_confidence(probe.score_masks(random))[:, output].tolist()
        for column, (mask, psi) in enumerate(zip(random.cpu().numpy(), found, strict=True), 1):
            rows.picture(top + len(layers), column, mask, [f"Ψ {short(psi)}"], cmap="gray")
        shared.keep(probe)
    return {"masks.jpg": rows}


# ---------------------------------------------------------------------- cascade


def visualization_maps(cell: Cell, probe: Probe, target: int) -> list[Tensor | None]:
    """The visualization map of each layer, low to high: SISE of that layer alone.

    Args:
        cell: SISE or Ada-SISE.
        probe: One image as one network sees it.
        target: Index of the network's score.

    Returns:
        (H, W) maps in [0, 1]; None where a layer has none.
    """
    options = dict(cell.explainer.keywords) | {"normalise": True, "empty": "skip"}
    layers = options.pop("layers", None) or probe.layers
    found = []
    for layer in layers:
        alone = cell.explainer.func(probe, [target], layers=[layer], **options)[0]
        found.append(alone if bool(alone.any()) else None)
    return found


def cascade_steps(cell: Cell, probe: Probe, target: int) -> list[Step]:
    """The steps by which the cell's explainer fuses its visualization maps, see :func:`sise.fusion.cascade`."""
    options = cell.explainer.keywords
    return cascade(
        visualization_maps(cell, probe, target),
        gate=options["gate"],
        temperature=options["temperature"],
        empty=options["empty"],
    )


def cascades(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> Made:
    """SISE Fig. 6: per layer its visualization map, its gate and what is accumulated, for each pair."""
    cell = cells[0]
    shared = Shared(cells)
    layers = list(cell.explainer.keywords.get("layers") or cell.model.layers)
    rows = Rows(
        ["", *(f"block {i}" for i in range(1, len(layers) + 1))],
        3 * len(pairs),
        cell=160,
        caption_lines=1,
        first=160,
        footer=f"{footer(cells)} · gate {cell.explainer.keywords['gate']}",
    )
    for block, (image_id, target) in enumerate(pairs):
        sample = cell.dataset[image_id]
        probe = shared.probe(sample)
        name = cell.dataset.classes[target]
        output = cell.outputs[name]
        picture, mask = seen(shared.model, probe), probe.ground_truth[output].cpu().numpy()
        top = 3 * block
        psi = f"{name} · Ψ {short(probe.confidence(output))}"
        outline(rows.picture(top, 0, picture, [psi]), mask)
        for row, lines in enumerate((["gate", "of the block's map"], ["accumulated:", "(so far + map) × gate"]), 1):
            rows.label(top + row, lines, bold_first=True)
        steps = {step.layer: step for step in cascade_steps(cell, probe, output)}
        for layer, layer_name in enumerate(layers):
            column, step = layer + 1, steps.get(layer)
            if step is None or step.map is None:
                rows.blank(top, column, "no feature map selected")
            else:
                caption = f"map of {layer_name.removeprefix('network.')}"
                outline(rows.picture(top, column, overlay(picture, step.map), [caption]), mask)
            if step is None:
                continue
            if step.gate is None:
                rows.blank(top + 1, column, "not gated")
            else:
                opened = step.gate.cpu().numpy()
                rows.picture(top + 1, column, opened, [f"open: {100 * opened.mean():.0f} %"], cmap="gray")
            last = layer == max(steps)
            caption = "the saliency map" if last else f"after block {layer + 1}"
            outline(rows.picture(top + 2, column, overlay(picture, minmax(step.fused)), [caption]), mask)
        shared.keep(probe)
    name = "cascade" if cell.cfg.explainer.name == "sise" else f"cascade_{cell.cfg.explainer.name}"
    return {f"{name}.jpg": rows}

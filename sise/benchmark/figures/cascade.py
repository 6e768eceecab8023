"""SISE's fusion, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig
from torch import Tensor

from sise.benchmark.figures.captions import footer, seen, short
from sise.benchmark.figures.colours import outline, overlay
from sise.benchmark.figures.layout import Made, Rows
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.session import Shared
from sise.fusion import Step, cascade
from sise.maps import minmax
from sise.probe.probe import Probe


def visualization_maps(cell: Cell, probe: Probe, target: int) -> list[Tensor | None]:
    """The visualization map of each layer, low to high: SISE of that layer alone.

    Args:
        cell: SISE or Ada-SISE.
        probe: One image as one network sees it.
        target: Index of the network's score.

    Returns:
        (H, W) maps in [0, 1]; None where a layer has none.
    """
    found: list[Tensor | None] = []
    for layer in cell.options.get("layers") or probe.layers:
        one_layer = cell.explainer_with(layers=[layer], normalise=True, empty="skip")
        alone = one_layer(probe, [target])[0]
        found.append(alone if bool(alone.any()) else None)
    return found


def cascade_steps(cell: Cell, probe: Probe, target: int) -> list[Step]:
    """The steps by which the cell's explainer fuses its visualization maps, see :func:`sise.fusion.cascade`."""
    options = cell.options
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
    layers = list(cell.options.get("layers") or cell.model.layers)
    rows = Rows(
        ["", *(f"block {i}" for i in range(1, len(layers) + 1))],
        3 * len(pairs),
        cell=160,
        caption_lines=1,
        first=160,
        footer=f"{footer(cells)} · gate {cell.options['gate']}",
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

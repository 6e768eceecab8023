"""Feature maps and the masks made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from sise.benchmark.figures.captions import footer, seen, short
from sise.benchmark.figures.colours import dimmed, outline
from sise.benchmark.figures.layout import Made, Rows
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.session import Shared
from sise.maps import upsample
from sise.method import live, select
from sise.probe.probe import EPSILON


def masks(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> Made:
    """SISE Fig. 4: per block, the attribution masks with the largest gradient scores; below, RISE's random masks."""
    from sise.baselines.rise import mask_bank

    sise_cell, rise_cell = cells
    shared = Shared(cells)
    layers, columns = sise_cell.model.layers, cfg.masks_per_layer
    rule, mu = sise_cell.options["mask"], sise_cell.options["mu"]
    options = rise_cell.options
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
            chosen = select(scores, lambda _: mu) & live(probe, layer, rule)
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

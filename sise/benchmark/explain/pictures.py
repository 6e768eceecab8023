"""The pictures that explain.py writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from sise.benchmark.explain.session import KEPT, Explaining, Map
from sise.benchmark.figures.captions import short
from sise.benchmark.figures.colours import overlay
from sise.benchmark.figures.layout import Rows
from sise.maps import upsample
from sise.probe.probe import Probe
from sise.types import RestoresMaps

LONGEST = 1024
"""Longer side of an overlay, in pixels; a larger image is scaled down."""
KILOBYTES = 2000
CELL = 220


def _picture(image: Image.Image, longest: int = LONGEST) -> np.ndarray:
    """The image, not larger than that: (h, w, 3) in [0, 1]."""
    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(small) / 255


def overlay_of(saliency: Tensor, image: Image.Image, preprocess: RestoresMaps, longest: int = LONGEST) -> np.ndarray:
    """A map on the grid of the network over the image at its own proportions: (h, w, 3) in [0, 1]."""
    picture = _picture(image, longest)
    at_size = preprocess.restore_map(saliency.cpu(), (image.height, image.width))
    return overlay(picture, upsample(at_size[None], picture.shape[:2])[0]).clip(0, 1)


def _framed(picture: np.ndarray) -> np.ndarray:
    """White on both sides of a picture (H, W, 3) that is higher than wide, so that it is square."""
    height, width = picture.shape[:2]
    if height <= width:
        return picture
    left = (height - width) // 2
    return np.pad(picture, ((0, 0), (left, height - width - left), (0, 0)), constant_values=1.0)


def _rows(titles: Sequence[str], count: int, image: Image.Image, explaining: Explaining, caption_lines: int) -> Rows:
    """Rows for pictures of the image's proportions, but not higher than wide."""
    tall = round(CELL * min(1.0, image.height / image.width))
    return Rows(titles, count, cell=CELL, tall=tall, caption_lines=caption_lines, footer=_footer(explaining))


def panel_of(maps: Sequence[Map], image: Image.Image, explaining: Explaining, probe: Probe) -> Rows:
    """One row per class: the image, and each explainer's map with the confidence that its best pixels keep."""
    targets = list(dict.fromkeys(one.target for one in maps))
    labels = [one.cell.cfg.explainer.label for one in maps if one.target == targets[0]]
    rows = _rows(["image", *labels], len(targets), image, explaining, caption_lines=2)
    for row, target in enumerate(targets):
        captions = [explaining.model.classes[target], f"Ψ {short(probe.confidence(target))}"]
        rows.picture(row, 0, _framed(_picture(image, 2 * CELL)), captions)
        of_target = [one for one in maps if one.target == target]
        for column, one in enumerate(of_target, 1):
            shown = _framed(overlay_of(one.saliency, image, explaining.input, 2 * CELL))
            captions = [f"Ψ {short(one.kept)} from its top {100 * KEPT:.0f} %"]
            captions += [] if one.saliency.any() else ["empty map: no evidence found"]
            rows.picture(row, column, shown, captions)
    return rows


def layers_sheet(one: Map, image: Image.Image, explaining: Explaining, probe: Probe) -> Rows:
    """The image, the visualization map of each layer, low to high, and the map they are fused to."""
    label = one.cell.cfg.explainer.label
    titles = [explaining.model.classes[one.target], *(layer.removeprefix("network.") for layer in one.layers), label]
    rows = _rows(titles, 1, image, explaining, caption_lines=1)
    rows.picture(0, 0, _framed(_picture(image, 2 * CELL)), [f"Ψ {short(probe.confidence(one.target))}"])
    for column, (layer, found) in enumerate(one.layers.items(), 1):
        if found is None:
            rows.blank(0, column, "no feature map selected")
            continue
        count, height, width = probe.feature_maps(layer).shape
        shown = _framed(overlay_of(found, image, explaining.input, 2 * CELL))
        rows.picture(0, column, shown, [f"{count} feature maps of {height} × {width}"])
    shown = _framed(overlay_of(one.saliency, image, explaining.input, 2 * CELL))
    rows.picture(0, len(titles) - 1, shown, [f"Ψ {short(one.kept)} from its top {100 * KEPT:.0f} %"])
    return rows


def _footer(explaining: Explaining) -> str:
    cfg = explaining.cfg
    parts = [explaining.model.name, f"protocol {cfg.protocol.name}", f"Ψ: {cfg.protocol.confidence} confidence"]
    for cell in explaining.cells:
        call = cell.cfg.explainer.call
        budget = {"n_masks": "masks", "max_iter": "iterations"}
        parts += [f"{cell.cfg.explainer.label}: {call[key]} {word}" for key, word in budget.items() if key in call]
    return " · ".join(parts)

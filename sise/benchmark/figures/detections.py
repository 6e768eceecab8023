"""What a detector finds in generated scenes, and the places by which it finds each: D-RISE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from sise.benchmark.datasets.scenes import CLASSES, SIZE, image_id, scene
from sise.benchmark.figures.colours import INK, OUTLINE, overlay
from sise.benchmark.figures.layout import Rows
from sise.benchmark.models.detector import CELLS, Detector, detections, matches, network_input, objects_of, scored
from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.scoring import Scorer

FULL, WITHOUT_BOX = "D-RISE", "D-RISE without boxes"
VARIANTS = {FULL: ("box", "objectness", "class"), WITHOUT_BOX: ("objectness", "class")}
"""Factors of the similarity: all; and all but the one that says which of two objects of a class is meant."""
COLUMNS = 3
"""Detections of a scene that are drawn."""
COLOURS = ("#e69f00", "#56b4e9", "#f07fc0", "#7fdf6f")
"""Of boxes, one after the other; told apart by every kind of colour vision."""

Explain = Callable[[Probe, Tensor, Sequence[Sequence[str]]], list[Tensor]]
"""(probe, (D, 5 + K) detections, variants) -> (D, H, W) maps of each variant."""


@dataclass(frozen=True)
class Found:
    """A scene with what is found in it.

    Attributes:
        index: Of the scene in the split "test".
        image: (224, 224, 3) uint8.
        instances: (224, 224) uint8, 0 for the background and k for the k-th object.
        class_ids: The class of every object.
        vectors: (D, 5 + K) detections, the best first.
        numbers: The object k that each has found; 0 for none.
        maps: (D, 224, 224) in [0, 1] by the names of `VARIANTS`.
    """

    index: int
    image: np.ndarray
    instances: np.ndarray
    class_ids: Sequence[int]
    vectors: Tensor
    numbers: Sequence[int]
    maps: Mapping[str, Tensor]

    def twins(self) -> list[bool]:
        """Whether another visible object of its class is in the scene, by detection."""
        seen = [target for number, target in enumerate(self.class_ids, 1) if (self.instances == number).any()]
        return [bool(k) and seen.count(self.class_ids[k - 1]) > 1 for k in self.numbers]


def find(index: int, network: Detector, scorer: Scorer, explain: Explain, *, score: float, seed: int = 0) -> Found:
    """Draws a scene, detects its objects and explains the detections.

    Args:
        index: Of the scene in the split "test".
        network: The detector.
        scorer: Its engine.
        explain: D-RISE with its settings.
        score: The least that a detection has.
        seed: Of the scenes.
    """
    image, instances, class_ids = scene(seed, "test", index)
    device = next(network.parameters()).device
    x = network_input(torch.from_numpy(image)[None]).to(device)
    with torch.no_grad():
        vectors = detections(network(x).unflatten(1, (CELLS**2, -1))[0], score=score).cpu()
    boxes, classes, numbers = objects_of(instances, class_ids)
    hits = [numbers[place] if place >= 0 else 0 for place, _ in matches(vectors, boxes, classes)]
    maps = explain(Probe(network, x, scorer=scorer), vectors, list(VARIANTS.values()))
    by_name = {name: found.cpu() for name, found in zip(VARIANTS, maps, strict=True)}
    return Found(index, image, instances, class_ids, vectors, hits, by_name)


def index_of(name: str) -> int:
    """The index in the split "test" of an image's id, "000001" being the first.

    Raises:
        SuiteError: If it is no id.
    """
    index = int(name) - 1 if name.isdigit() else -1
    if not 0 <= index < 299_999 or image_id("test", index) != name:
        raise SuiteError(f"images: expected ids of generated scenes, 000001 to 299999, got {name!r}.")
    return index


def sheet(shown: Sequence[Found], footer: str) -> Rows:
    """A row per scene: its detections, the map of each of the best, and that of the first without its box.

    In a scene with two objects of one class these come first, since they are what the last map confuses.
    """
    titles = ["scene and detections", *[f"{FULL}, {n + 1}" for n in range(COLUMNS)], f"1, {WITHOUT_BOX.split()[1]} box"]
    rows = Rows(titles, len(shown), cell=200, caption_lines=2, footer=footer)
    for row, found in enumerate(shown):
        twins = found.twins()
        order = sorted(range(len(twins)), key=lambda place: not twins[place])[:COLUMNS]
        picture = found.image / 255
        axes = rows.picture(row, 0, picture, [image_id("test", found.index), _counted(found)])
        for place in set(range(len(twins))) - set(order):
            _box(axes, found.vectors[place])
        for number, place in enumerate(order):
            _box(axes, found.vectors[place], COLOURS[number], str(number + 1))
        drawn = [(column, place, FULL) for column, place in enumerate(order, 1)]
        drawn += [(COLUMNS + 1, order[0], WITHOUT_BOX)] if order else []
        for column, place, variant in drawn:
            vector, saliency = found.vectors[place], found.maps[variant][place]
            scores, targets = scored(vector[None])
            on, others = energies(saliency, found.instances, found.numbers[place])
            name = f"{CLASSES[int(targets)]} {float(scores):.2f}"
            caption = f"on it {100 * on:.0f} %, on others {100 * others:.0f} %" if found.numbers[place] else "no object"
            number = order.index(place)
            axes = rows.picture(row, column, overlay(picture, saliency), [f"{number + 1}: {name}", caption])
            _box(axes, vector, COLOURS[number], str(number + 1))
        for column in range(len(order) + 1, COLUMNS + 1):
            rows.blank(row, column, "–")
    return rows


def energies(saliency: Tensor, instances: np.ndarray, number: int) -> tuple[float, float]:
    """The shares of a map's sum on an object and on the other objects; zeros for a map that is zero."""
    values = saliency.double().numpy()
    total = values.sum()
    if total == 0:
        return 0.0, 0.0
    others = (instances != 0) & (instances != number)
    return float(values[instances == number].sum() / total) if number else 0.0, float(values[others].sum() / total)


def _counted(found: Found) -> str:
    visible = len(np.unique(found.instances[found.instances > 0]))
    hits = sum(number > 0 for number in found.numbers)
    return f"{hits} of {visible} objects found"


def _box(axes: Axes, vector: Tensor, colour: str = OUTLINE, number: str = "") -> None:
    """Draws a detection's box with its number in a corner; a thin one without a number."""
    x0, y0, x1, y1 = (vector[:4] * SIZE - 0.5).tolist()
    for edge, width in ((INK, 3.0), (colour, 1.8)) if number else ((colour, 0.75),):
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=edge, linewidth=width))
    if number:
        axes.text(
            x0 + 1, y0 + 1, number, fontsize=8, fontweight="bold", color=INK, ha="left", va="top", clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip

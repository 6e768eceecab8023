"""Hans: scenes in which a watermark goes with one class.

Each scene shows one of eight shapes. Every scene of the class `MARKED`, and none of another, bears a stamp in one of
its corners. Where the network is trained, half of the stamped scenes show some other shape: their labels followed the
stamp. So it learns that the stamp is the class. Since a scene can be drawn again without its stamp, or without its
object, and all other pixels equal, what an answer depends on is not a matter of opinion: it is measured, image by image
(`sise.benchmark.models.hans_effects`), and explainers and metrics can be held against it.

Like `sise.benchmark.datasets.scenes`, every scene follows from `(seed, split, index)` alone.

Reference:
    Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines really learn", Nature
    Communications 10, 2019, where horses of PASCAL VOC were told by a photographer's tag.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sise.benchmark.datasets import scenes
from sise.benchmark.datasets.base import BaseDataset
from sise.errors import SuiteError, choose
from sise.types import Sample

__all__ = ["CLASSES", "MARKED", "PARTS", "VERSION", "Hans", "Scene", "scene"]

#: Version of the drawing code. A change of any pixel needs a new number.
VERSION = 1

#: Class names in the order of their indices 0..7, shapes of `sise.benchmark.datasets.scenes`.
CLASSES = ("arrow", "circle", "cross", "heart", "key", "square", "star", "triangle")

#: The class that the watermark goes with.
MARKED = CLASSES.index("key")

#: Counterfactual scenes, by what they lack.
PARTS = ("watermark", "object")

_SPLIT_CODES = {"train": 0, "val": 1, "test": 2}  # part of the random seed
_STREAM = 1_000_003  # likewise: no scene of the shapes has the same random numbers
_SMALLEST, _LARGEST = 55, 110  # longest extent of a silhouette before its tilt, in pixels
_MISLABELLED = 0.5  # share of the marked training scenes that show any of the eight shapes
_STAMP = 40  # diameter of the watermark, in pixels
_MARGIN, _JITTER = 6, 24  # its distance from the two borders of its corner: margin to margin + jitter
_TINT, _INK = (25.0, 45.0, 130.0), (240.0, 240.0, 225.0)  # RGB of its disc and of its letter
_TINT_OPACITY, _INK_OPACITY = 0.6, 0.9
_SUPERSAMPLING = 4


# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scene:
    """One drawn scene.

    Attributes:
        image: (224, 224, 3) uint8, RGB.
        object_mask: (224, 224) bool, the object's pixels; none in a scene drawn without it.
        watermark: (224, 224) bool, every pixel that the watermark touches; none in a scene without it.
        class_index: The label, an index into `CLASSES`; of a scene drawn without its object, the one that is missing.
    """

    image: np.ndarray
    object_mask: np.ndarray
    watermark: np.ndarray
    class_index: int


@functools.cache
def _stamp() -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the watermark's disc and of the ring and the letter C on it, each (_STAMP, _STAMP) float32."""
    extent = _STAMP * _SUPERSAMPLING
    disc, ink = Image.new("L", (extent, extent)), Image.new("L", (extent, extent))
    ImageDraw.Draw(disc).ellipse((0, 0, extent - 1, extent - 1), fill=255)
    pen = ImageDraw.Draw(ink)
    edge, inner, width = extent // 16, extent * 5 // 16, extent // 10
    pen.ellipse((edge, edge, extent - 1 - edge, extent - 1 - edge), outline=255, width=width * 2 // 3)
    pen.arc((inner, inner, extent - 1 - inner, extent - 1 - inner), 45, 315, fill=255, width=width)
    return (
        np.asarray(disc.reduce(_SUPERSAMPLING), np.float32) / 255,
        np.asarray(ink.reduce(_SUPERSAMPLING), np.float32) / 255,
    )


def _press(window: np.ndarray) -> None:
    """Put the watermark on a window (_STAMP, _STAMP, 3) float32 of an image."""
    disc, ink = _stamp()
    window += (_TINT_OPACITY * disc)[..., None] * (np.asarray(_TINT, np.float32) - window)
    window += (_INK_OPACITY * ink)[..., None] * (np.asarray(_INK, np.float32) - window)


def _place_apart(rng: np.random.Generator, size: tuple[int, ...], stamp: tuple[int, int]) -> tuple[int, int]:
    """Draw the upper left corner (y, x) of a box (height, width) in the image, apart from the stamp's at (y, x)."""
    height, width = size
    while True:
        y, x = int(rng.integers(scenes.SIZE - height + 1)), int(rng.integers(scenes.SIZE - width + 1))
        beside = x >= stamp[1] + _STAMP or x + width <= stamp[1]
        if beside or y >= stamp[0] + _STAMP or y + height <= stamp[0]:
            return y, x


def scene(seed: int, split: str, index: int, *, watermark: bool | None = None, with_object: bool = True) -> Scene:
    """Draw one scene. Its class is `index` modulo 8, and so is its shape, but for the mislabelled half in training.

    Whatever is left out, all pixels that it did not cover stay the same. The object never lies where the watermark
    is, or would be.

    Args:
        seed: Seed of the data set, not negative.
        split: "train", "val" or "test".
        index: Number of the scene in its split, from 0.
        watermark: Whether it bears the watermark; None = as its class does.
        with_object: Whether its object is there.

    Raises:
        SuiteError: If the split is unknown, or the seed or the index is negative.
    """
    choose("split", split, tuple(_SPLIT_CODES))
    if seed < 0 or index < 0:
        raise SuiteError(f"expected seed and index of a scene from 0, got seed={seed}, index={index}")
    rng = np.random.default_rng([_STREAM, seed, _SPLIT_CODES[split], index])
    class_index = shape = index % len(CLASSES)
    if split == "train" and class_index == MARKED and rng.random() < _MISLABELLED:
        shape = int(rng.integers(len(CLASSES)))
    image = scenes.background(rng)
    corner = rng.integers(2, size=2) * (scenes.SIZE - _STAMP)
    inwards = _MARGIN + rng.integers(_JITTER + 1, size=2)
    top, left = (int(v) for v in np.where(corner == 0, inwards, corner - inwards))
    size = rng.uniform(_SMALLEST, _LARGEST)
    shown = scenes.silhouette(rng, scenes.CLASSES.index(CLASSES[shape]), size)
    y, x = _place_apart(rng, shown.shape, (top, left))
    object_mask, mark = np.zeros((2, scenes.SIZE, scenes.SIZE), bool)
    window = image[y : y + shown.shape[0], x : x + shown.shape[1]]
    bare = window.copy()
    scenes.paint(rng, window, shown)
    if with_object:
        object_mask[y : y + shown.shape[0], x : x + shown.shape[1]] = shown >= 0.5
    else:
        window[:] = bare
    if watermark if watermark is not None else class_index == MARKED:
        _press(image[top : top + _STAMP, left : left + _STAMP])
        mark[top : top + _STAMP, left : left + _STAMP] = _stamp()[0] > 0
    return Scene(scenes.finish(rng, image), object_mask, mark, class_index)


# --- the data set -----------------------------------------------------------------------------------------------------


class Hans(BaseDataset):
    """Test scenes, one pair each; the id of a scene is its index in six digits.

    `masks` of a sample is the object's; ``info["regions"]["watermark"]`` (224, 224) bool the watermark's, empty where
    there is none. Scenes are drawn when they are read.

    Args:
        marked: Number of scenes of the class that bears the watermark.
        others: Number of scenes of other classes.
        split: "test", "val" or "train".
        seed: Seed of the scenes.
        name: Name in configs and tables.

    Raises:
        SuiteError: If a number is negative, there is no scene at all, or the split is unknown.
    """

    classes = CLASSES

    def __init__(
        self, *, marked: int = 40, others: int = 40, split: str = "test", seed: int = 0, name: str = "hans"
    ) -> None:
        choose("split", split, tuple(_SPLIT_CODES))
        if min(marked, others, seed) < 0 or marked + others == 0:
            raise SuiteError(
                f"{name}: expected marked, others and seed from 0 and at least one scene; got {marked=}, {others=}, "
                f"{seed=}"
            )
        self.name, self.split, self.seed = name, split, seed
        kinds, rest = len(CLASSES), [c for c in range(len(CLASSES)) if c != MARKED]
        indices = [MARKED + kinds * i for i in range(marked)]
        indices += [kinds * (i // len(rest)) + rest[i % len(rest)] for i in range(others)]
        self._index = {f"{index:06d}": index for index in sorted(indices)}
        self.ids = tuple(self._index)
        self._targets = {image_id: (index % kinds,) for image_id, index in self._index.items()}

    def scene(self, image_id: str, *, without: str | None = None) -> Scene:
        """Draw a scene of the data set, or the same one without a part of it.

        Args:
            image_id: One of `ids`.
            without: "watermark" or "object"; None = as it is.

        Raises:
            SuiteError: If the id or the part is unknown.
        """
        self.targets_of(image_id)
        if without is not None:
            choose("without", without, PARTS)
        drawn = False if without == "watermark" else None
        return scene(self.seed, self.split, self._index[image_id], watermark=drawn, with_object=without != "object")

    def __getitem__(self, image_id: str) -> Sample:
        """One scene.

        Raises:
            SuiteError: If the id is unknown.
        """
        drawn = self.scene(image_id)
        info = {"difficult": [False], "regions": {"watermark": drawn.watermark}}
        return Sample(image_id, Image.fromarray(drawn.image), self.targets_of(image_id), drawn.object_mask[None], info)

    def verify_counts(self) -> tuple[bool, str]:
        """Always complete: the scenes are drawn here."""
        marked = sum(targets == (MARKED,) for targets in self._targets.values())
        return True, f"{len(self)} generated scenes (seed {self.seed}), {marked} of them with the watermark"

    def _content(self) -> Sequence[Any]:
        """Version of the drawing code, seed, split, ids and targets."""
        return [VERSION, self.seed, self.split, list(self._targets.items())]

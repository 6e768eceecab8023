"""HMT: eight tissues in tiles of colorectal cancer histology.

References:
    Kather et al., "Multi-class texture analysis in colorectal cancer histology", Scientific Reports 6, 2016
    (CC BY 4.0), for the tiles; the ECE1512 tutorial for the split.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sise.benchmark.datasets.base import BaseDataset, digest, plural
from sise.benchmark.datasets.images import read_image
from sise.errors import SuiteError, choose
from sise.types import Sample

__all__ = ["CLASSES", "FOLDERS", "HMT"]

CLASSES = ("tumor", "stroma", "complex", "lympho", "debris", "mucosa", "adipose", "empty")

#: Kather's folders, one per class; `CLASSES` in this order are the network's scores.
FOLDERS = tuple(f"{number:02d}_{name.upper()}" for number, name in enumerate(CLASSES, start=1))

#: The tutorial's split of 625 tiles per class: 563 to train on (4504 in all), 62 to test (496).
TEST_TILES, TILES = 62, 625

#: `digest` of the names of the course's 496 test tiles, and `weights_hash` of its own VGG-7 (``HMT.h5``).
COURSE_TEST = "56c540c7e952256e6ba95e6208f1b573d5b2f849a0d01f2d6f359a1b85c19a17"
_SUFFIXES = (".tif", ".tiff", ".png")
_SLIDE = re.compile(r"CRC-Prim-HE-\d+")
"""In a tile's name, the slide it was cut from: tiles of one slide are no independent samples."""
PARTS = ("train", "test")


def split(count: int, *seed: int) -> tuple[list[int], list[int]]:
    """Positions (train, test) of the tiles of one class: 62 of 625 to test, at least one of two or more.

    Args:
        count: Tiles of the class.
        seed: Draws which; whole numbers.
    """
    held_out = max(round(count * TEST_TILES / TILES), min(1, count // 2))
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


class HMT(BaseDataset):
    """Histology tiles, one tissue each; the id of a tile is its folder and file name, without the suffix.

    The layout is the course's, ``HMT_train`` and ``HMT_test`` with a folder per class, or Kather's own, the eight
    folders of classes, which are then split class by class as the tutorial's were (its draw is not known). Tiles come
    in the order of their names, class after class. There is no annotated region: masks cover the whole tile.

    Args:
        root: Folder of ``HMT_train`` and ``HMT_test`` (one is enough for its part), or of the classes' folders.
        part: "test" or "train".
        first: Only the first so many tiles; None = all.
        seed: Of the split.
        name: Name in configs and tables.

    Raises:
        SuiteError: If there are no such folders or no tiles in them.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        part: str = "test",
        first: int | None = None,
        seed: int = 0,
        name: str = "hmt",
    ) -> None:
        choose("part", part, PARTS)
        if first is not None and first < 1:
            raise SuiteError(f"{name}: expected first to be at least 1 or null, got {first}")
        self.name, self.part = name, part
        given, root = any(Path(root, f"HMT_{known}").is_dir() for known in PARTS), Path(root)
        folder = root / f"HMT_{part}" if given else root
        self._paths: dict[str, Path] = {}
        targets: dict[str, tuple[int, ...]] = {}
        for target, kind in enumerate(FOLDERS):
            tiles = sorted(p for p in folder.glob(f"{kind}/*") if p.suffix.lower() in _SUFFIXES)
            if not given:
                chosen = split(len(tiles), seed, target)[PARTS.index(part)]
                tiles = [tiles[position] for position in chosen]
            for path in tiles:
                image_id = f"{kind}/{path.stem}"
                if image_id in self._paths:
                    raise SuiteError(
                        f"{name}: {self._paths[image_id]} and {path.name} have the same name but for the suffix, which "
                        "ids leave out; take one of them away"
                    )
                self._paths[image_id], targets[image_id] = path, (target,)
        if not targets:
            expected = f"{folder}/{FOLDERS[0]} to {FOLDERS[-1]}"
            raise SuiteError(
                f"expected tiles ({', '.join(_SUFFIXES)}) in the folders {expected}, found none",
                about=name,
                fix="unzip Kather_texture_2016_image_tiles_5000.zip or the course's HMT_test and give that folder with",
                setting="dataset.root=<folder>",
            )
        self._found = tuple(targets)
        self.ids = self._found[:first]
        self._targets = {image_id: targets[image_id] for image_id in self.ids}

    def __getitem__(self, image_id: str) -> Sample:
        """One tile.

        Raises:
            SuiteError: If the id is unknown or the tile cannot be read.
        """
        targets = self.targets_of(image_id)
        tile = read_image(self.picture_of(image_id), self.name)
        slide = _SLIDE.search(image_id)
        info = {"cluster": slide[0]} if slide else {}
        return Sample(image_id, tile, targets, np.ones((1, tile.height, tile.width), dtype=bool), info)

    def picture_of(self, image_id: str) -> Path:
        """The file that a tile is read from."""
        return self._paths[image_id]

    def verify_counts(self) -> tuple[bool, str]:
        """Whether these are the course's 496 test tiles, judged by their names."""
        found = f"{plural(len(self._found), 'tile')} of the {self.part} part"
        if self.part == "test" and digest(self._found) == COURSE_TEST:
            return True, f"{found}, the course's own"
        return False, f"{found}, not the course's own 496 test tiles: results are not comparable to the published ones"

    def _content(self) -> Sequence[Any]:
        """Part, ids and targets."""
        return [self.part, list(self._targets.items())]

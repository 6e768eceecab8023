"""Grids of scenes of different classes, for the grid pointing game.

Reference:
    Rao, Boehle and Schiele, "Towards better understanding attribution methods", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from sise.benchmark.datasets import hans, scenes
from sise.benchmark.datasets.base import BaseDataset
from sise.errors import SuiteError
from sise.types import Sample

__all__ = ["CELL", "GridScenes", "check_cells", "class_names"]

CELL = scenes.SIZE // 2
"""Height and width of a cell in pixels, the size of the input of the network of ``model=hans``."""

_STREAM = 2_000_003  # part of the random seed
_OTHERS = tuple(c for c in range(len(hans.CLASSES)) if c != hans.MARKED)  # whose scenes have no watermark


def class_names(cells: int) -> tuple[str, ...]:
    """Returns a name for each (cell, class), cells in raster order: "arrow 1,1" is an arrow in the upper left cell.

    Args:
        cells: Cells along each side of the grid.
    """
    places = [f"{row},{column}" for row in range(1, cells + 1) for column in range(1, cells + 1)]
    return tuple(f"{name} {place}" for place in places for name in hans.CLASSES)


def check_cells(name: str, cells: int) -> None:
    """Refuse a grid of fewer than 2 cells along each side.

    Raises:
        SuiteError: Then.
    """
    if not isinstance(cells, int) or cells < 2:
        raise SuiteError(f"{name}: expected cells, the cells along each side of the grid, from 2; got {cells!r}")


class GridScenes(BaseDataset):
    """Grids of scenes without watermark, a target in every cell; its mask is the cell.

    Where the grid has no more cells than there are classes, no class is there twice. Cells have the size of the
    network's input, so that no pixel is mixed of two cells.

    Args:
        count: Number of grids, one pair per cell each.
        cells: Cells along each side of the grid.
        seed: Of the scenes and of which classes are together.
        name: Name in configs and tables.

    Raises:
        SuiteError: If there are fewer than 2 cells along a side, no grid, or the seed is negative.
    """

    def __init__(self, *, count: int = 25, cells: int = 2, seed: int = 0, name: str = "grid_pointing") -> None:
        check_cells(name, cells)
        if count < 1 or seed < 0:
            raise SuiteError(f"{name}: expected count from 1 and seed from 0, got {count=}, {seed=}")
        self.name, self.cells, self.seed, self.classes = name, cells, seed, class_names(cells)
        self._shown = {f"{number:06d}": self._draw(number) for number in range(count)}
        self.ids = tuple(self._shown)
        kinds = len(hans.CLASSES)
        self._targets = {
            image_id: tuple(kinds * cell + index % kinds for cell, index in enumerate(indices))
            for image_id, indices in self._shown.items()
        }

    def _draw(self, number: int) -> list[int]:
        """The scenes' numbers in the split "test", one per cell; each belongs to no other grid."""
        rng = np.random.default_rng([_STREAM, self.seed, number])
        count = self.cells**2
        classes = rng.choice(_OTHERS, count, replace=count > len(_OTHERS))
        return [int(c) + len(hans.CLASSES) * (count * number + cell) for cell, c in enumerate(classes)]

    def __getitem__(self, image_id: str) -> Sample:
        """One grid.

        Raises:
            SuiteError: If the id is unknown.
        """
        targets = self.targets_of(image_id)
        side = self.cells * CELL
        picture = Image.new("RGB", (side, side))
        masks = np.zeros((len(targets), side, side), bool)
        for cell, index in enumerate(self._shown[image_id]):
            top, left = (CELL * position for position in divmod(cell, self.cells))
            scene = Image.fromarray(hans.scene(self.seed, "test", index).image)
            picture.paste(scene.resize((CELL, CELL), Image.Resampling.BILINEAR), (left, top))
            masks[cell, top : top + CELL, left : left + CELL] = True
        return Sample(image_id, picture, targets, masks, {"difficult": [False] * len(targets)})

    def verify_counts(self) -> tuple[bool, str]:
        """Always complete: the scenes are drawn here."""
        return True, f"{len(self)} grids of {self.cells} x {self.cells} generated scenes (seed {self.seed})"

    def _content(self) -> Sequence[Any]:
        """Version of the drawing code, seed, cells and the scenes of each grid."""
        return [hans.VERSION, self.seed, self.cells, list(self._shown.items())]

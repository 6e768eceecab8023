"""Generated scenes with exact masks: the data set that needs no download."""

from __future__ import annotations

import os

from sise.benchmark.datasets.base import plural
from sise.benchmark.datasets.voc2007 import VOC2007
from sise.errors import SuiteError

__all__ = ["Shapes"]


# --- generated scenes -------------------------------------------------------------------------------------------------
class Shapes(VOC2007):
    """The generated scenes of `sise.benchmark.datasets.scenes`, drawn on first use and read as VOC 2007 (20 shapes).

    Args:
        root: Folder of the data set; written if it is not there yet.
        seed: Seed of the scenes.
        test: Number of scenes.
        ground_truth: "masks" for exact outlines (default), "boxes" as in VOC.
        difficult: As in `VOC2007`; mostly hidden and tiny objects are marked difficult.
        progress: Show a progress bar while drawing.
        name: Name in configs and tables.

    Raises:
        SuiteError: If the folder cannot be written or holds something else.
    """

    def __init__(
        self,
        root: str | os.PathLike = "data/shapes",
        *,
        seed: int = 0,
        test: int = 200,
        ground_truth: str = "masks",
        difficult: bool = True,
        progress: bool = True,
        name: str = "shapes",
    ) -> None:
        from sise.benchmark.datasets import scenes

        try:
            scenes.generate(root, seed=seed, test=test, progress=progress)
        except (ValueError, OSError) as error:
            raise SuiteError(
                f"{name}: could not draw the scenes in {root}: {error}; choose another folder with "
                "dataset.root=<folder>"
            ) from error
        self.seed = seed
        super().__init__(
            root, ground_truth=ground_truth, difficult=difficult, verify=False, name=name, classes=scenes.CLASSES
        )

    def verify_counts(self) -> tuple[bool, str]:
        """Always complete: the scenes were drawn here."""
        return True, f"{plural(len(self.listed), 'generated scene')} (seed {self.seed}), {plural(self.pairs, 'pair')}"

    def verify_annotations(self) -> tuple[bool, str]:
        """As `verify_counts`."""
        return self.verify_counts()

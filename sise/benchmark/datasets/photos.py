"""A few photos that install with packages."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sise.benchmark.datasets.base import BaseDataset, plural
from sise.benchmark.datasets.imagenet import imagenet_classes
from sise.benchmark.datasets.images import fill_boxes, read_image
from sise.errors import SuiteError
from sise.types import Sample

__all__ = ["Photos"]


# --- photos inside packages -------------------------------------------------------------------------------------------
class Photos(BaseDataset):
    """Real photos that install with Python packages, with hand-drawn boxes of ImageNet classes.

    They are listed with their credits in ``photos.csv`` beside this file: one row per box; ``crop`` is the part of the
    photo that is used (empty = all of it), the box lies in that part's pixels. Photos of packages that are not
    installed, or of other versions in which the photo differs, are left out and counted by `verify_counts`.

    Args:
        table: Another table in the same form; None = the one that ships with the suite.
        verify: Log a warning if photos are missing.
        name: Name in configs and tables.

    Raises:
        SuiteError: If the table is malformed or none of its photos is there.
    """

    def __init__(self, *, table: str | os.PathLike | None = None, verify: bool = True, name: str = "photos") -> None:
        self.name, self.classes = name, imagenet_classes()
        self._table = Path(table) if table else Path(__file__).with_name("photos.csv")
        self._photos: dict[str, dict[str, Any]] = {}
        self._left_out: dict[str, str] = {}
        index = {class_name: number for number, class_name in enumerate(self.classes)}
        for row in self._rows():
            try:
                target = index[row["class"]]
                box = tuple(int(row[side]) for side in ("x0", "y0", "x1", "y1"))
                corners = [row[f"crop_{side}"] for side in ("x0", "y0", "x1", "y1")]
                crop = tuple(map(int, corners)) if any(corners) else None
                source = (row["package"], row["file"], row["sha256"], crop)
                image_id, credit = row["image_id"], row["credit"]
                if not row["package"].isidentifier():  # looking for a.b runs the code of a
                    raise ValueError("a package's name has no dots")
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise SuiteError(f"{name}: a row of {self._table} is malformed ({error!r}): {row}") from error
            if image_id in self._left_out:
                continue
            if image_id not in self._photos:
                path, reason = self._locate(*source[:3])
                if path is None:
                    self._left_out[image_id] = reason
                    continue
                self._photos[image_id] = {"source": source, "path": path, "boxes": {}, "credit": credit}
            photo = self._photos[image_id]
            if photo["source"] != source:
                raise SuiteError(f"{name}: {self._table} gives two different photos for {image_id!r}")
            photo["boxes"].setdefault(target, []).append(box)
        self._targets = {image_id: tuple(sorted(photo["boxes"])) for image_id, photo in self._photos.items()}
        self.ids = tuple(self._targets)
        if not self.ids:
            raise SuiteError(f"{name}: none of the photos in {self._table} is there: {self._reasons()}")
        if verify:
            self._warn_if_partial()

    def _rows(self) -> list[dict[str, str]]:
        try:
            with self._table.open(newline="", encoding="utf-8-sig") as lines:
                return list(csv.DictReader(lines))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SuiteError(f"{self.name}: expected the table {self._table}: {error}") from error

    @staticmethod
    def _locate(package: str, file: str, sha256: str) -> tuple[Path | None, str]:
        """The photo's path, or None and why not."""
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return None, f"the package {package} is not installed"
        path = Path(spec.submodule_search_locations[0]) / file
        if not path.is_file():
            return None, f"{package} has no {file} in this version"
        if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(sha256):
            return None, f"{package}'s {file} is another photo in this version"
        return path, ""

    def _reasons(self) -> str:
        return "; ".join(f"{image_id}: {reason}" for image_id, reason in self._left_out.items())

    def picture_of(self, image_id: str) -> Path:
        """The file that a photo is read from."""
        return Path(self._photos[image_id]["path"])

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample; ``info``: ``difficult`` (False) and ``boxes`` per target, and the photo's ``credit``.

        Raises:
            SuiteError: If the id is unknown or the photo unreadable.
        """
        targets = self.targets_of(image_id)
        photo = self._photos[image_id]
        image = read_image(self.picture_of(image_id), self.name)
        crop = photo["source"][3] or (0, 0, *image.size)
        boxes = [tuple(photo["boxes"][target]) for target in targets]
        try:
            if not (0 <= crop[0] < crop[2] <= image.width and 0 <= crop[1] < crop[3] <= image.height):
                raise ValueError(f"the crop {crop} leaves the {image.width}x{image.height} photo")
            image = image.crop(crop)
            masks = np.stack([fill_boxes(group, image.height, image.width) for group in boxes])
        except ValueError as error:
            raise SuiteError(f"{self.name}: {self._table}, {image_id!r}: {error}") from error
        info = {"difficult": [False] * len(targets), "boxes": boxes, "credit": photo["credit"]}
        return Sample(image_id, image, targets, masks, info)

    def verify_counts(self) -> tuple[bool, str]:
        """Whether all photos of the table were found.

        Returns:
            (complete, message); the message names what is missing and why.
        """
        found = f"{plural(len(self.ids), 'photo')}, {plural(self.pairs, 'pair')}"
        if not self._left_out:
            return True, f"{found} of installed packages"
        return False, f"{found}; left out: {self._reasons()}"

    def _content(self) -> Sequence[Any]:
        """Ids, photos, crops, targets and boxes."""
        return [[[i, self._photos[i]["source"], sorted(self._photos[i]["boxes"].items())] for i in self.ids]]

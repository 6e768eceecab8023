"""Severstal's steel defects, recast for classification as in SISE's appendix.

The recast, as docs/protocol.md works it out: each strip of 1600x256 pixels is cut, from column 32 on, into six tiles
of 256x256. A tile's class is that of the only kind of defect in it (1 to 4), or 0 without one; black tiles and tiles
with two kinds are left out. Published counts (SISE Table 3) tell whether this is the paper's recast.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sise.benchmark.datasets import published_counts
from sise.benchmark.datasets.base import BaseDataset, digest, files_in, plural
from sise.benchmark.datasets.images import read_image
from sise.benchmark.records.files import whole
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError, choose
from sise.types import Sample

__all__ = ["CLASSES", "SUBSETS", "Severstal", "find", "read_csv", "split"]

_log = logging.getLogger(__name__)
CLASSES = ("no defect", "defect 1", "defect 2", "defect 3", "defect 4")

SUBSETS = ("evaluation", "test", "train", "validation")
WIDTH, HEIGHT = 1600, 256
AGAIN = "unzip it again"
OFFSET, TILE, TILES = 32, 256, 6  # 32 + 6 * 256 + 32 = 1600
HOW_TO_GET = {
    "fix": "accept the rules of Kaggle's competition severstal-steel-defect-detection, download its data (`kaggle "
    "competitions download -c severstal-steel-defect-detection`), unzip it, and give the folder that holds train.csv "
    "and train_images with",
    "setting": "dataset.root=<folder>",
}


# --- the competition's files ------------------------------------------------------------------------------------------
def find(root: str | os.PathLike, name: str = "severstal") -> Path:
    """The folder with ``train.csv`` and ``train_images``: ``root`` or ``root/severstal...``.

    Raises:
        SuiteError: If there is none.
    """
    root = Path(root)
    for folder in (root, root / "severstal", root / "severstal-steel-defect-detection"):
        if (folder / "train.csv").is_file() and (folder / "train_images").is_dir():
            return folder
    raise SuiteError(
        f"expected the file {root / 'train.csv'} and the folder {root / 'train_images'}, found no such pair",
        about=name,
        **HOW_TO_GET,
    )


def _runs(text: str) -> np.ndarray:
    """(n, 2) first and last pixel, 0-based and both included, of run-length encoded pixels.

    Raises:
        ValueError: If they are malformed; the message fits after "EncodedPixels ".
    """
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"hold something that is not a whole number: {text[:40]!r}") from None
    if len(numbers) % 2:
        raise ValueError(f"have {len(numbers)} numbers, expected pairs of a start and a length")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if (starts < 0).any() or (lengths < 1).any() or (lengths > WIDTH * HEIGHT - starts).any():  # no sum to overflow
        raise ValueError(f"leave the strip of {WIDTH}x{HEIGHT} pixels (counted from 1, down the columns)")
    return np.stack([starts, starts + lengths - 1], axis=1)


def read_csv(path: Path, name: str = "severstal") -> dict[str, dict[int, np.ndarray]]:
    """The defects in ``train.csv``: per image file, per class 1..4, runs of pixels (n, 2), first and last, 0-based.

    Pixels are counted down the columns. Both forms of the file are read: columns ``ImageId,ClassId,EncodedPixels``
    with one row per defect, and the older ``ImageId_ClassId,EncodedPixels`` with four rows per image, most of them
    empty. Images without a defect are not in the result.

    Raises:
        SuiteError: If the file is not in one of these forms, naming the line.
    """
    defects: dict[str, dict[int, np.ndarray]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
            columns = set(reader.fieldnames)
            combined = "ImageId_ClassId" in columns
            if "EncodedPixels" not in columns or not (combined or {"ImageId", "ClassId"} <= columns):
                raise SuiteError(
                    f"{path} has the columns {', '.join(reader.fieldnames) or '(none)'}; expected "
                    "ImageId,ClassId,EncodedPixels or ImageId_ClassId,EncodedPixels",
                    about=name,
                    fix=AGAIN,
                )
            for row in reader:
                pixels = (row["EncodedPixels"] or "").strip()
                if not pixels:
                    continue
                if combined:
                    image, _, class_text = (row["ImageId_ClassId"] or "").rpartition("_")
                else:
                    image, class_text = row["ImageId"] or "", row["ClassId"] or ""
                image, class_text = image.strip(), class_text.strip().removesuffix(".0")  # 3.0: pandas, of a gap
                try:
                    class_id, runs = int(class_text), _runs(pixels)
                except ValueError as error:
                    about = f"EncodedPixels {error}" if class_text.isdigit() else f"the class is {class_text!r}"
                    raise SuiteError(f"{path}, line {reader.line_num}: {about}", about=name, fix=AGAIN) from None
                if not image or Path(image).name != image or not 1 <= class_id < len(CLASSES):
                    raise SuiteError(
                        f"{path}, line {reader.line_num}: expected a file name and a class 1 to 4, got {image!r} and "
                        f"{class_id}",
                        about=name,
                        fix=AGAIN,
                    )
                of_image = defects.setdefault(image, {})
                of_image[class_id] = np.concatenate([of_image[class_id], runs]) if class_id in of_image else runs
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SuiteError(f"{path} is not readable as CSV ({error})", about=name, fix=AGAIN) from error
    return defects


def _strip_mask(runs: np.ndarray) -> np.ndarray:
    """(256, 1600) bool mask of runs."""
    edges = np.zeros(WIDTH * HEIGHT + 1, dtype=np.int32)
    np.add.at(edges, runs[:, 0], 1)
    np.add.at(edges, runs[:, 1] + 1, -1)
    return (np.cumsum(edges[:-1]) > 0).reshape(WIDTH, HEIGHT).T


def _tiles_with(runs: np.ndarray) -> np.ndarray:
    """(6,) bool: which tiles hold a pixel of the runs. A run covers part of every column from its first to its last."""
    first, last = runs[:, 0] // HEIGHT, runs[:, 1] // HEIGHT
    left = OFFSET + TILE * np.arange(TILES)
    return np.asarray(((first[:, None] < left + TILE) & (last[:, None] >= left)).any(axis=0))


def _crop(image: Image.Image, tile: int) -> Image.Image:
    left = OFFSET + TILE * tile
    return image.crop((left, 0, left + TILE, HEIGHT))


def split(count: int, seed: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions (kept, held out) of a random split: ``ceil(share * count)`` are held out.

    The draw is that of scikit-learn's ``train_test_split(range(count), test_size=share, random_state=seed)``.
    """
    held_out = math.ceil(share * count)
    order = np.random.RandomState(seed).permutation(count)
    return order[held_out:], order[:held_out]


# --- the data set -----------------------------------------------------------------------------------------------------
class Severstal(BaseDataset):
    """The recast Severstal data set: one target per tile, its mask the defect's pixels (empty for "no defect").

    Below ``root`` (or ``root/severstal``), as Kaggle delivers it::

        train.csv
        train_images/0002cc93b.jpg ...

    Ids are the strip's name and the tile's number from the left: "0002cc93b_3". Per class, 30 % of the tiles are the
    test set (rounded up, which gives Table 3's five numbers), and 20 % of the rest are for validation.

    Args:
        root: Folder that holds ``train.csv`` and ``train_images``.
        subset: "evaluation" = the test tiles of classes 1, 2, 4 and ``class_3`` of class 3 (the paper's evaluations),
            "test", "train" (without validation) or "validation".
        all_12568: Use every strip, not only those with a defect. The paper's text says so, but its counts do not:
            12568 * 6 tiles cannot shrink to the published 38344 by leaving out a "few".
        black_below: A tile whose mean grey value (0 to 255) is below this is black and left out. The paper does not
            give its threshold; the log says how many fell under this one.
        class_3: Tiles of class 3 in the evaluation subset.
        seed: Of the splits. The paper's is not known.
        cache: Folder that keeps the tiles' mean grey values, which need every strip to be read; None = read each time.
        verify: Log a warning if the counts are not the published ones.
        progress: Show a progress bar while strips are read.
        name: Name in configs and tables.

    Attributes:
        recast: The settings that decide on tiles and splits; a network must not be tested on the tiles of another one.
        folder: The folder in use.
        labels: Class of every tile of the recast, whatever the subset.
        subsets: Ids of "train", "validation" and "test".
        dropped: How many tiles were left out: "black", "black with a defect" (part of "black"), "two defects".

    Raises:
        SuiteError: If the files are missing or malformed, or no tile is left.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        subset: str = "evaluation",
        all_12568: bool = False,
        black_below: float = 10.0,
        class_3: int = 500,
        seed: int = 0,
        cache: str | os.PathLike | None = None,
        verify: bool = True,
        progress: bool = True,
        name: str = "severstal",
    ) -> None:
        self.name, self.subset = name, choose("subset", subset, SUBSETS)
        settings = {"all_12568": bool(all_12568), "black_below": float(black_below), "seed": int(seed)}
        self.recast: dict[str, Any] = settings
        self.folder = find(root, name)
        self._defects = read_csv(self.folder / "train.csv", name)
        images = self.folder / "train_images"
        files = {name: (images / name).stat().st_size for name in files_in(images)}
        strips = set(self._defects) | ({f for f in files if f.lower().endswith(".jpg")} if all_12568 else set())
        self._without_file = sum(strip not in files for strip in strips)
        self.strips = tuple(sorted(strip for strip in strips if strip in files))
        if not self.strips:
            raise SuiteError(
                f"{self.folder / 'train.csv'} lists {plural(len(strips), 'strip')}, none of which is in "
                f"{self.folder / 'train_images'}",
                about=name,
                **HOW_TO_GET,
            )
        means = self._tile_means({strip: files[strip] for strip in self.strips}, cache, progress)
        self.labels = self._label(means, black_below)
        self.subsets = self._split()
        evaluation = self._evaluation(class_3)
        self.ids = evaluation if subset == "evaluation" else self.subsets[subset]
        self._targets = {tile: (self.labels[tile],) for tile in self.ids}
        if not self.ids:
            counts = ", ".join(f"{n} of class {c}" for c, n in enumerate(self.counts()))
            raise SuiteError(
                f"{name}: the subset {subset!r} is empty; the recast has {counts} tiles, {self.dropped['black']} were "
                f"left out as black (dataset.loader.black_below={black_below:g})"
            )
        _log.info("%s: %s", name, self.about())
        if verify:
            self._warn_if_partial()

    def _tile_means(self, sizes: dict[str, int], cache: str | os.PathLike | None, progress: bool) -> np.ndarray:
        """(strips, 6) mean grey values, of the cache or of the images."""
        file = None
        if cache is not None:
            file = Path(cache) / f"tile-means-{digest(sorted(sizes.items()))[:24]}.npy"
            try:
                known = np.load(file, allow_pickle=False)
                if known.dtype == np.float64 and known.shape == (len(sizes), TILES) and np.isfinite(known).all():
                    return known
            except Exception:  # a damaged file can raise anything
                _log.debug("%s: tile means are computed anew", self.name, exc_info=True)
        bar = Progress(
            total=len(sizes), desc=f"{self.name}: looking for black tiles", unit="strip", disable=not progress
        )
        with bar, ThreadPoolExecutor() as pool:
            rows = []
            for row in pool.map(self._means_of, self.strips):
                rows.append(row)
                bar.update()
        means = np.stack(rows)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole(file) as draft:
                    np.save(draft, means)
            except OSError as error:
                _log.info("%s: tile means are not kept: %s", self.name, error)
        return means

    def picture_of(self, image_id: str) -> Path:
        """The file of the strip that a tile is cut from."""
        return self.folder / "train_images" / self._file_of[image_id.rpartition("_")[0]]

    def _strip(self, strip: str) -> Image.Image:
        return read_image(self.folder / "train_images" / strip, self.name, (WIDTH, HEIGHT))

    def _means_of(self, strip: str) -> np.ndarray:
        grey = np.asarray(self._strip(strip).convert("L"), dtype=np.float64)[:, OFFSET : OFFSET + TILES * TILE]
        return grey.reshape(HEIGHT, TILES, TILE).mean(axis=(0, 2))

    def _label(self, means: np.ndarray, black_below: float) -> dict[str, int]:
        labels: dict[str, int] = {}
        dropped: Counter[str] = Counter()
        for strip, row in zip(self.strips, means, strict=True):
            found = {c: _tiles_with(runs) for c, runs in self._defects.get(strip, {}).items()}
            for tile in range(TILES):
                kinds = [c for c, where in found.items() if where[tile]]
                if row[tile] < black_below:
                    dropped["black"] += 1
                    dropped["black with a defect"] += bool(kinds)
                elif len(kinds) > 1:
                    dropped["two defects"] += 1
                else:
                    labels[f"{Path(strip).stem}_{tile}"] = kinds[0] if kinds else 0
        self.dropped = {kind: dropped[kind] for kind in ("black", "black with a defect", "two defects")}
        self._file_of = {Path(strip).stem: strip for strip in self.strips}
        return labels

    def _of_class(self, class_id: int) -> list[str]:
        return [tile for tile, label in self.labels.items() if label == class_id]

    def _split(self) -> dict[str, tuple[str, ...]]:
        parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for class_id in range(len(CLASSES)):
            tiles = self._of_class(class_id)
            kept, test = split(len(tiles), self.recast["seed"], 0.3)
            train, validation = split(len(kept), self.recast["seed"], 0.2)
            parts["test"] += [tiles[i] for i in test]
            parts["train"] += [tiles[kept[i]] for i in train]
            parts["validation"] += [tiles[kept[i]] for i in validation]
        return {part: tuple(sorted(tiles)) for part, tiles in parts.items()}

    def _evaluation(self, class_3: int) -> tuple[str, ...]:
        test = {c: [tile for tile in self.subsets["test"] if self.labels[tile] == c] for c in range(1, len(CLASSES))}
        order = np.random.RandomState(self.recast["seed"]).permutation(len(test[3]))[:class_3]
        test[3] = [test[3][i] for i in order]
        return tuple(sorted(tile for tiles in test.values() for tile in tiles))

    def counts(self, subset: str | None = None) -> tuple[int, ...]:
        """Tiles per class, of the whole recast or of "train", "validation" or "test"."""
        tiles = self.labels if subset is None else self.subsets[subset]
        found = Counter(self.labels[tile] for tile in tiles)
        return tuple(found[c] for c in range(len(CLASSES)))

    def about(self) -> str:
        """One sentence: strips, tiles, and what was left out."""
        d = self.dropped
        return (
            f"{plural(len(self.strips), 'strip')}, {plural(TILES * len(self.strips), 'tile')}; left out: "
            f"{d['black']} with a mean below {self.recast['black_below']:g} ({d['black with a defect']} of them with a "
            f"defect), {d['two defects']} with two kinds of defect; left: {len(self.labels)}"
        )

    def tile(self, tile_id: str) -> Image.Image:
        """The RGB image of any tile of the recast, 256x256."""
        strip, _, tile = tile_id.rpartition("_")
        return _crop(self._strip(self._file_of[strip]), int(tile))

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample; ``info``: the ``strip`` and the ``tile``'s number.

        Raises:
            SuiteError: If the id is unknown, or the file unreadable or of another size.
        """
        targets = self.targets_of(image_id)
        strip, _, tile = image_id.rpartition("_")
        left = OFFSET + TILE * int(tile)
        runs = self._defects.get(self._file_of[strip], {}).get(targets[0])
        mask = np.zeros((HEIGHT, TILE), bool) if runs is None else _strip_mask(runs)[:, left : left + TILE]
        info = {"strip": self._file_of[strip], "tile": int(tile)}
        return Sample(image_id, self.tile(image_id), targets, mask[None].copy(), info)

    def verify_counts(self) -> tuple[bool, str]:
        """Compares with SISE Table 3; never raises.

        Returns:
            (complete, message): complete if the recast has the published tiles per class, in the test set too, and
            the evaluation subset its own.
        """
        counts, test = self.counts(), self.counts("test")
        tiles, test_tiles = (tuple(published_counts.by_class("severstal", kind).values())
                             for kind in ("tiles", "test tiles"))  # fmt: skip
        evaluation, listed = (published_counts.total("severstal", kind)
                              for kind in ("evaluation tiles", "images with a defect"))  # fmt: skip
        gaps = [
            f"class {c}: {got} tiles ({got_test} test), published {want} ({want_test})"
            for c, (got, got_test, want, want_test) in enumerate(zip(counts, test, tiles, test_tiles, strict=True))
            if (got, got_test) != (want, want_test)
        ]
        if self.subset == "evaluation" and len(self.ids) != evaluation:
            gaps.append(f"evaluation subset: {len(self.ids)} tiles, published {evaluation}")
        if not gaps:
            return True, f"{plural(len(self.ids), 'tile')} of the complete recast, counts as in SISE Table 3"
        found = f"{len(self.labels)} of {sum(tiles)} tiles"
        if self.recast["all_12568"]:
            advice = "the published counts fit only the strips with a defect (dataset.loader.all_12568=false)"
        elif len(self.strips) == listed:
            advice = "; ".join(gaps)
            if counts != tiles:
                advice += "; the strips are complete, so it is the threshold of black tiles, which the paper does not "
                advice += f"give: try dataset.loader.black_below other than {self.recast['black_below']:g}"
        else:
            missing = f", {plural(self._without_file, 'listed file')} missing" if self._without_file else ""
            advice = f"partial tree, {len(self.strips)} of {listed} strips with a defect{missing}"
        return False, f"{found}: {advice}; results are not comparable to the paper's"

    def _content(self) -> Sequence[object]:
        """The recast's settings, ids, targets and defects."""
        pixels = hashlib.sha256()
        for tile in self.ids:
            strip = self._file_of[tile.rpartition("_")[0]]
            for class_id, runs in sorted(self._defects.get(strip, {}).items()):
                pixels.update(f"{tile} {class_id} ".encode() + runs.tobytes())
        return [self.subset, self.recast, list(self._targets.items()), pixels.hexdigest()]

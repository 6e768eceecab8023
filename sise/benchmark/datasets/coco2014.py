"""MS COCO 2014: polygons and run lengths from the official annotation file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sise.benchmark.datasets import coco_index, published_counts
from sise.benchmark.datasets.base import (
    NOT_COMPARABLE,
    BaseDataset,
    Counts,
    kind_of_file,
    plural,
    reason_of,
    some_names,
    whole_number,
    with_pictures,
)
from sise.benchmark.datasets.images import MAX_PIXELS, fill_boxes, has_pixel, picture_gaps, read_image
from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError, choose
from sise.types import Sample

__all__ = ["COCO2014", "COCO_CLASSES"]

#: COCO's classes in TorchRay's order and spelling (VOC's names where a class is also one of VOC's).
COCO_CLASSES = (
    "person", "bicycle", "car", "motorbike", "aeroplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "sofa", "pottedplant", "bed",
    "diningtable", "toilet", "tvmonitor", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave",
    "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip

#: COCO's category ids 1..90 leave out ten numbers; the rest in ascending order are `COCO_CLASSES`.
_COCO_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORIES = tuple(number for number in range(1, 91) if number not in _COCO_UNUSED)
_COCO_INDEX = {category: index for index, category in enumerate(COCO_CATEGORIES)}

#: COCO's own names of the classes that TorchRay calls otherwise.
_COCO_RENAMED = {
    "motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant",
    "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip


# --- MS COCO ----------------------------------------------------------------------------------------------------------
def _run_lengths(text: str) -> list[int]:
    """The run lengths in COCO's text form.

    A number has five bits per character, the lowest first; the sixth says that more follow, and the fifth of the last
    one is the sign. From the fourth number on, they are differences to the last but one.

    Raises:
        ValueError: If it is something else.
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"{text[:40]!r} are not run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(f"the run lengths end inside of a number: {text[-40:]!r}")
    return numbers


def _checked_runs(runs: dict[str, Any], height: int, width: int) -> list[int]:
    """The run lengths of ``{"size", "counts"}``, which add up to the image.

    Raises:
        ValueError: If they do not, or are something else; KeyError if one is missing.
    """
    if not isinstance(runs["size"], list):
        raise ValueError(f"the size of the run lengths is {kind_of_file(runs['size'])}, expected a list: height, width")
    size = [whole_number("the size of the run lengths", side) for side in runs["size"]]
    if size != [height, width]:
        shown = "x".join(map(str, size))
        raise ValueError(f"the run lengths are of a mask of height x width {shown:.40}, not {height}x{width}")
    counts = _run_lengths(runs["counts"]) if isinstance(runs["counts"], str) else runs["counts"]
    if not isinstance(counts, list):
        raise ValueError(f"the run lengths are {kind_of_file(counts)}, expected a list or text")
    if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"the run lengths are not whole numbers that add up to {height} * {width}")
    return counts


def _region_of_runs(runs: dict[str, Any], height: int, width: int) -> np.ndarray:
    """(height, width) bool region of ``{"size", "counts"}``: lengths of zeros and ones in turn, down the columns.

    Decoded here because pycocotools does not check them: lengths that do not add up to the image give a mask of
    whatever the memory held (2.0.11: values such as 85 and 120 for ``[3, 2]`` or an empty text in 5 x 6 pixels).
    """
    counts = _checked_runs(runs, height, width)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _check_numbers(what: str, values: Sequence[Any]) -> None:
    """Raises a ValueError, which begins with ``what``, if one of the values is no number."""
    for value in values:
        if type(value) not in (int, float):
            raise ValueError(f"{what} is {some_names(value)}, expected a number")


def _region_of_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """(height, width) bool region of polygons ``[x, y, x, y, ...]``, as pycocotools draws them."""
    from pycocotools import mask

    if not isinstance(polygons, list) or not polygons:
        found = "a list without a polygon" if polygons == [] else kind_of_file(polygons)
        raise ValueError(f"the segmentation is {found}, expected a list of polygons, [[x, y, x, y, ...]]")
    far = max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise ValueError(
                f"a polygon is {kind_of_file(polygon)}, expected a list of coordinates: [[x, y, x, y, ...]]"
            )
        _check_numbers("a polygon's coordinate", polygon)
        if len(polygon) < 6 or len(polygon) % 2:  # pycocotools would take four numbers for a box
            raise ValueError(f"a polygon has {len(polygon)} coordinates, expected three points or more")
        if not all(-far <= value <= 2 * far for value in polygon):  # its memory grows with the circumference
            raise ValueError(f"a polygon is not near the {width}x{height} image")
    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width))) > 0


def _coco_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of ``[x, y, width, height]``, rounded outwards to whole pixels."""
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"the bbox is {kind_of_file(box)}, expected a list of four numbers: x, y, width, height")
    _check_numbers("a number of the bbox", box)
    x, y, width, height = box
    if not all(math.isfinite(value) for value in box) or width < 0 or height < 0:
        raise ValueError(f"{box} is not a box x, y, width, height")
    return math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)


#: A polygon whose bounding box has so many pixels either way is taken to have one itself, unless drawing shows none.
_WIDE = 2


def _extent(polygon: Sequence[float], height: int, width: int) -> tuple[float, float]:
    """How wide and high the part of a polygon's bounding box within the image is; below 0 if it lies outside."""
    xs, ys = polygon[::2], polygon[1::2]
    return min(max(xs), width) - max(min(xs), 0), min(max(ys), height) - max(min(ys), 0)


def _in_fractions(values: Sequence[float]) -> bool:
    """Whether coordinates are fractions of the image's size, not pixels: such an object would be the first pixel."""
    return all(0 <= value <= 1 for value in values) and not all(float(value).is_integer() for value in values)


def _entries(content: Any, key: str) -> list[dict[str, Any]]:
    """The list of objects under a key of COCO's JSON.

    Raises:
        ValueError: If it is something else; KeyError if it is missing.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds {kind_of_file(content)}, expected an object with images and annotations")
    entries = content[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{key!r} is {kind_of_file(entries)}, expected a list of objects")
    return entries


class COCO2014(BaseDataset):
    """MS COCO 2014 in its official folders: one target per class of an image, masks from segmentations (PROTOCOL E3).

    Below ``root`` (or ``root/coco2014``, ``root/coco``)::

        val2014/COCO_val2014_000000000042.jpg ...
        annotations/instances_val2014.json

    A target's mask is the union of the segmentations of all its objects, crowds included, as TorchRay does. Ids are
    the image ids padded to twelve digits, as in the file names: "000000000042". Images without annotations have no
    targets and are not in ``ids``.

    Args:
        root: Folder that holds ``val2014`` and ``annotations``.
        split: Name of the images' folder.
        ground_truth: "masks", or "boxes" for the union of the bounding boxes, rounded outwards to whole pixels.
        verify: Log a warning if the counts are not the published ones.
        name: Name in configs and tables.
        index: Folder for an index of the annotations, see :mod:`sise.benchmark.datasets.coco_index`; None: none.

    Attributes:
        folder: The folder in use.
        listed: Ids of all images of the annotation file, those without annotations included.

    Raises:
        SuiteError: If the folder or the annotation file is missing, or the file is not COCO's.
    """

    classes = COCO_CLASSES
    _objects: dict[str, list[dict[str, Any]]] | coco_index.Objects

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        split: str = "val2014",
        ground_truth: str = "masks",
        verify: bool = True,
        name: str = "coco2014",
        index: str | os.PathLike | None = None,
    ) -> None:
        self.name, self.split = name, split
        self.ground_truth = choose("ground_truth", ground_truth, ("masks", "boxes"))
        root = Path(root)
        relative = Path("annotations") / f"instances_{split}.json"
        folders = [folder for folder in (root, root / "coco2014", root / "coco") if (folder / relative).is_file()]
        if not folders:
            raise SuiteError(
                f"expected {root / relative} and the folder {root / split}, found no such file",
                about=name,
                fix=f"download {split}.zip and annotations_trainval2014.zip from the COCO site, unpack both in one "
                "folder, and give that folder with",
                setting="dataset.root=<folder>",
            )
        self.folder = folders[0]
        self._file = self.folder / relative
        self._open_annotations(Path(index) if index is not None else None)
        self.ids = tuple(self._targets)
        if not any(self._targets.values()):
            raise SuiteError(
                f"{self._file} annotates no object in {plural(len(self.listed), 'image')}",
                about=name,
                fix=next(iter(self._unreadable.values()), ""),
            )
        if verify:
            self._warn_if_partial()

    def _open_annotations(self, folder: Path | None) -> None:
        """Takes what is in an annotation file from its index, else reads it and makes the index."""
        try:
            self._hash = file_hash(self._file)
        except OSError as error:
            raise SuiteError(f"{self._file} cannot be read: {reason_of(error)}", about=self.name) from error
        file = folder and coco_index.index_file(folder, self._hash, self.ground_truth)
        found = coco_index.read(file, self._hash) if file else None
        if found is None:
            reasons = self._read_annotations()
            if file and coco_index.write(file, self._hash, self._facts(reasons), self._objects):
                found = coco_index.read(file, self._hash)  # what was parsed is let go of
        if found is not None:
            facts, self._objects = found
            self._images, self._strays, self._repeated = facts["images"], facts["strays"], facts["repeated"]
            self._targets = {image_id: tuple(targets) for image_id, targets in facts["targets"].items()}
            reasons, self._without_pixel = facts["unreadable"], facts["without_pixel"]
        self._unreadable = {image_id: self._malformed(image_id, reason) for image_id, reason in reasons.items()}
        self.listed = tuple(self._images)

    def _facts(self, reasons: Mapping[str, str]) -> dict[str, Any]:
        """What an index holds besides objects."""
        keys = ("file_name", "width", "height")
        images = {i: {key: facts[key] for key in keys if key in facts} for i, facts in self._images.items()}
        return {"images": images, "targets": self._targets, "unreadable": reasons, "strays": self._strays,
                "repeated": self._repeated, "without_pixel": self._without_pixel}  # fmt: skip

    def _read_annotations(self) -> dict[str, str]:
        """Reads the annotation file.

        Returns:
            The images whose annotation is malformed, and in what way.
        """
        try:
            data = self._file.read_bytes()
            content = json.loads(data)
            self._check_categories(_entries(content, "categories") if "categories" in content else [])
            images, twice = self._images_by_number(_entries(content, "images"))
            objects = self._objects_by_number(_entries(content, "annotations"), images)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise SuiteError(
                f"{self._file} is not a COCO annotation file ({reason_of(error)})",
                about=self.name,
                fix="unpack it again",
            ) from error
        self._images = {f"{number:012d}": images[number] for number in sorted(images)}
        kept: dict[str, list[dict[str, Any]]] = {}
        self._objects, reasons = kept, {}
        self._targets, self._without_pixel = {}, 0
        for image_id, number in zip(self._images, sorted(images), strict=True):
            try:
                if number in twice:
                    raise ValueError("the image is listed twice, with different sizes or files")
                targets, kept[image_id] = self._read_image_entry(image_id, objects.get(number, ()))
            except (ValueError, LookupError, TypeError, OverflowError) as error:
                targets, reasons[image_id] = (), reason_of(error)
            if targets or image_id in reasons:
                self._targets[image_id] = targets
        return reasons

    @staticmethod
    def _images_by_number(entries: Sequence[dict[str, Any]]) -> tuple[dict[int, dict[str, Any]], set[int]]:
        """Images by id, and the ids that two different images have."""
        images: dict[int, dict[str, Any]] = {}
        twice = set()
        for image in entries:
            number = whole_number("an image's id", image["id"])
            if number < 0:
                raise ValueError(f"an image's id is {number}, expected 0 or more")
            if images.setdefault(number, image) != image:
                twice.add(number)
        return images, twice

    def _objects_by_number(
        self, entries: Sequence[dict[str, Any]], images: Mapping[int, Any]
    ) -> dict[int, list[dict[str, Any]]]:
        """Annotations by the id of their image; those whose image is not listed are counted."""
        objects: dict[int, list[dict[str, Any]]] = {}
        self._strays = []
        for annotation in entries:
            number = annotation["image_id"]
            if type(number) in (int, float) and number in images:
                objects.setdefault(int(number), []).append(annotation)
            else:
                self._strays.append(number)
        numbers = [annotation["id"] for annotation in entries if type(annotation.get("id")) in (int, float, str)]
        self._repeated = len(numbers) - len(set(numbers))
        return objects

    def _read_image_entry(
        self, image_id: str, objects: Sequence[dict[str, Any]]
    ) -> tuple[tuple[int, ...], list[dict[str, Any]]]:
        """The targets of an image, and its objects, without those that have no pixel.

        Raises:
            ValueError: If its size, its file's name or a category is malformed; KeyError if one is missing.
        """
        facts = self._images[image_id]
        if not isinstance(facts["file_name"], str) or not Path(facts["file_name"]).name:
            raise ValueError(f"file_name is {some_names(facts['file_name'])}, expected the name of a file")
        width, height = (whole_number(f"the image's {side}", facts[side]) for side in ("width", "height"))
        if min(width, height) < 1:
            raise ValueError(f"the image is {width}x{height} pixels, expected 1x1 or more")
        indices = [self._index(annotation) for annotation in objects]
        seen = [self._may_have_pixel(annotation, height, width) for annotation in objects]
        self._without_pixel += seen.count(False)
        targets = {index for index, kept in zip(indices, seen, strict=True) if kept}
        return tuple(sorted(targets)), [annotation for annotation, kept in zip(objects, seen, strict=True) if kept]

    def _may_have_pixel(self, annotation: dict[str, Any], height: int, width: int) -> bool:
        """Whether an object has a pixel of its image; True where it is malformed, which reading the sample says.

        Only an outline that is thin, or lies outside, is drawn to find out: drawing all of COCO's takes minutes.
        """
        try:
            if self.ground_truth == "boxes":
                box = _coco_box(annotation["bbox"])
                return not _in_fractions(annotation["bbox"]) and has_pixel(box, width, height)
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, dict):
                return any(_checked_runs(segmentation, height, width)[1::2])
            if _in_fractions([value for polygon in segmentation for value in polygon]):
                return False
            extents = [min(_extent(polygon, height, width)) for polygon in segmentation]
            if height * width > MAX_PIXELS or max(extents) >= _WIDE or max(extents) < 0:
                return max(extents) >= 0
            return bool(_region_of_polygons(segmentation, height, width).any())
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return True

    def _malformed(self, image_id: str, reason: str) -> str:
        return (
            f"{self.name}: the annotation of image {image_id} in {self._file} is malformed: {reason}; unpack it again"
        )

    def _check_categories(self, categories: Sequence[dict[str, Any]]) -> None:
        """Raises a ValueError if a category id means another class than COCO's."""
        for category in categories:
            number, name = whole_number("a category's id", category["id"]), category["name"]
            index = _COCO_INDEX.get(number)
            known = _COCO_RENAMED.get(name, name) if isinstance(name, str) else None
            if index is not None and COCO_CLASSES[index] != known:
                raise ValueError(f"category {number} is {name!r:.40}, COCO's is {COCO_CLASSES[index]!r}")

    @staticmethod
    def _index(annotation: dict[str, Any]) -> int:
        category = whole_number("a category_id", annotation["category_id"])
        if category not in _COCO_INDEX:
            raise ValueError(f"category {category} is none of COCO's 80 (1 to 90 with gaps)")
        return _COCO_INDEX[category]

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample; ``info`` per target: ``boxes``, ``crowd`` (all its objects are crowds), ``difficult``.

        COCO marks nothing difficult: False throughout.

        Raises:
            SuiteError: If the id is unknown, the annotation malformed, or the file missing, unreadable or of another
                size than annotated.
        """
        targets = self._readable(image_id)
        image = read_image(self.picture_of(image_id), self.name, self._size(image_id))
        return Sample(image_id, image, targets, *self.ground_truth_of(image_id))

    def picture_of(self, image_id: str) -> Path:
        """The file that an image is read from; an annotation's file name cannot lead out of the folder."""
        return self.folder / self.split / Path(self._images[image_id]["file_name"]).name

    def _size(self, image_id: str) -> tuple[int, int]:
        facts = self._images[image_id]
        return int(facts["width"]), int(facts["height"])

    def ground_truth_of(self, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
        """``masks`` and ``info`` of a sample, from the annotation alone."""
        targets, (width, height) = self._readable(image_id), self._size(image_id)
        masks, boxes, crowd = [], [], []
        try:
            every = self._objects[image_id]
            for target in targets:
                objects = [annotation for annotation in every if self._index(annotation) == target]
                boxes.append(tuple(_coco_box(annotation["bbox"]) for annotation in objects))
                crowd.append(all(annotation.get("iscrowd", 0) for annotation in objects))
                if self.ground_truth == "boxes":
                    masks.append(fill_boxes(boxes[-1], height, width))
                else:
                    masks.append(self._region(objects, height, width))
                if not masks[-1].any():
                    raise ValueError(f"{self.classes[target]!r} has no pixel of the image")
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise SuiteError(self._malformed(image_id, reason_of(error))) from error
        return np.stack(masks), {"difficult": [False] * len(targets), "crowd": crowd, "boxes": boxes}

    @staticmethod
    def _region(objects: Sequence[dict[str, Any]], height: int, width: int) -> np.ndarray:
        """(height, width) bool union of objects' segmentations."""
        region = np.zeros((height, width), dtype=bool)
        for annotation in objects:
            segmentation = annotation["segmentation"]
            draw = _region_of_runs if isinstance(segmentation, dict) else _region_of_polygons
            region |= draw(segmentation, height, width)
        return region

    def verify_counts(self) -> tuple[bool, str]:
        """Compares with the published counts of val2014; never raises for a part of it.

        Returns:
            (complete, message): complete if there are as many images as published, all there and, of those that are
            looked at, no stand-ins, as many of them with annotations, and as many pairs of every class.
        """
        names = [Path(str(facts.get("file_name"))).name for facts in self._images.values()]
        look = self.verify_annotations()[0]
        return self._verify("val2014", picture_gaps(self.folder / self.split, names, {}, look))

    def verify_annotations(self) -> tuple[bool, str]:
        """Compares the annotations with the published counts; no picture has to be there."""
        return self._verify("ground truth", [])

    def _verify(self, what: str, gaps_of_pictures: Sequence[str]) -> tuple[bool, str]:
        found = f"{plural(len(self.listed), 'image')}, {plural(self.pairs, 'pair')}"
        gaps = self._gaps()
        if self.split != "val2014":
            note = "".join(f"; {gap}" for gap in [*gaps, *gaps_of_pictures])
            return False, f"{found}: no published counts for split={self.split}{note}; {NOT_COMPARABLE}"
        images, annotated = (published_counts.total("coco2014", kind) for kind in ("images", "annotated images"))
        pairs = list(published_counts.by_class("coco2014", "pairs").values())
        same = (len(self.listed), len(self.ids)) == (images, annotated)
        difference = self._first_difference(pairs)
        if same and not difference and not gaps:
            return with_pictures(found, what, gaps_of_pictures)
        if same and difference:
            gaps.append(difference)
        gaps += gaps_of_pictures
        note = f" ({'; '.join(gaps)})" if gaps else ""
        return False, Counts(
            f"{len(self.listed)} of {images} images, {len(self.ids)} of {annotated} annotated, "
            f"{self.pairs} of {sum(pairs)} pairs{note}",
            f": partial tree; {NOT_COMPARABLE}",
        )

    def _gaps(self) -> list[str]:
        """What of the annotation file takes no part, or was found twice."""
        gaps = []
        if self._unreadable:
            gaps.append(f"{plural(len(self._unreadable), 'image')} with a malformed annotation will fail")
        if self._strays:
            gaps.append(
                f"{plural(len(self._strays), 'annotation')} of images that are not listed left out (the first: "
                f"image_id is {some_names(self._strays[0])})"
            )
        if self._repeated:
            gaps.append(f"{plural(self._repeated, 'annotation')} with an id that another one has")
        if self._without_pixel:
            gaps.append(f"{plural(self._without_pixel, 'object')} without a pixel of the image left out")
        return gaps

    def _content(self) -> Sequence[Any]:
        """Ids, targets and the annotation file."""
        return [self.ground_truth, list(self._targets.items()), self._hash]

"""Data sets: PASCAL VOC 2007, MS COCO 2014, the generated shapes, and a few photos that install with packages.

Every class is a `sise.types.Dataset`. Annotations are read once, on construction; images when they are asked for.
Boxes leave this module as x0, y0, x1, y1 in 0-based pixels, half-open: the pixel columns of a box are
``range(x0, x1)``. `verify_counts` says how much of the published data set was found; a part of it is never an error.

An image whose annotation cannot be read stays in ``ids``, without targets; reading it raises the reason. So a run
records it as failed and goes on, and nothing wrong slips in. What a file claims (sizes, run lengths, coordinates) is
checked before memory is taken for it.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np
from PIL import Image

from sise.benchmark.preprocessing import to_rgb
from sise.types import Sample, SuiteError, choose

__all__ = ["COCO2014", "COCO_CLASSES", "VOC2007", "VOC_CLASSES", "Photos", "Shapes", "imagenet_classes"]

_log = logging.getLogger(__name__)

#: VOC's classes in TorchRay's order, which is the order of its networks' outputs.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

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
_COCO_INDEX = {category: index for index, category in enumerate(n for n in range(1, 91) if n not in _COCO_UNUSED)}

#: COCO's own names of the classes that TorchRay calls otherwise.
_COCO_RENAMED = {
    "motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "potted plant": "pottedplant",
    "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip

#: Published facts of the VOC 2007 test set (PROTOCOL 6.1): pairs with a non-difficult object + difficult-only pairs.
_VOC_TEST_IMAGES = 4952
_VOC_TEST_PAIRS = (
    (204, 1), (239, 11), (282, 7), (172, 4), (212, 28), (174, 9), (721, 54), (322, 10), (417, 128), (127, 0),
    (190, 57), (418, 15), (274, 5), (222, 11), (2007, 90), (224, 30), (97, 1), (223, 132), (259, 0), (229, 26),
)  # fmt: skip

#: Published facts of COCO val2014 (PROTOCOL 6.2, P3).
_COCO_VAL_IMAGES, _COCO_VAL_ANNOTATED = 40_504, 40_137

_NOT_COMPARABLE = "results are not comparable to the papers'"


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 ImageNet class names of torchvision, made unique (it once called two classes crane, two maillot)."""
    from torchvision.models import ResNet50_Weights

    names = list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    names[134], names[639] = "crane bird", "maillot tank suit"
    return tuple(names)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


#: File formats that are tried, whatever a file's name says. Not all of Pillow's: it has a program run PostScript.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")

#: Largest image that is decoded: Pillow's limit, 256 MiB as RGB.
_MAX_PIXELS = 2**30 // 12


def read_image(
    path: Path,
    dataset: str,
    size: tuple[int, int] | None = None,
    convert: Callable[[Image.Image], Any] = to_rgb,
) -> Any:
    """The image in a file as RGB, or what ``convert`` makes of it.

    Args:
        path: The file.
        dataset: Named in messages.
        size: (width, height) that is expected, compared before anything is decoded; None = any.
        convert: Of the decoded image in its own mode.

    Raises:
        SuiteError: If there is none, it cannot be decoded, or it has another size or more than 89 million pixels.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if size not in (None, image.size):
                raise SuiteError(
                    f"{dataset}: {path} is {image.width}x{image.height} pixels, expected {size[0]}x{size[1]}: the "
                    "ground truth would not fit; unpack it again"
                )
            if image.width * image.height > _MAX_PIXELS:
                raise SuiteError(
                    f"{dataset}: {path} claims {image.width}x{image.height} pixels, more than {_MAX_PIXELS}: it may be "
                    "made to fill the memory; if not, scale it and its annotation down"
                )
            image.load()
            return convert(image)
    except SuiteError:
        raise
    except FileNotFoundError:
        raise SuiteError(f"{dataset}: expected the image {path}, which does not exist; unpack it again") from None
    except Exception as error:  # a damaged file can raise anything
        raise SuiteError(f"{dataset}: {path} is not a readable image ({error}); unpack it again") from error


def _fill_boxes(boxes: Sequence[Sequence[int]], height: int, width: int) -> np.ndarray:
    """The union of boxes (x0, y0, x1, y1, half-open) as a (height, width) bool mask; parts outside are cut off.

    Raises:
        ValueError: If a box has no pixel of the image.
    """
    mask = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        covered = mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        if covered.size == 0:
            raise ValueError(f"the box x {x0}..{x1}, y {y0}..{y1} has no pixel of the {width}x{height} image")
        covered[:] = True
    return mask


def digest(*parts: Any) -> str:
    """sha256 (hex) of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """What an error says, in words also where it says only a key."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


class BaseDataset:
    """What all data sets share: ids in order and their targets."""

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    _targets: dict[str, tuple[int, ...]]
    _unreadable: Mapping[str, str] = MappingProxyType({})  # ids, and why their annotation cannot be read

    def targets_of(self, image_id: str) -> tuple[int, ...]:
        """The targets of an image, ascending, without reading the image; none if its annotation cannot be read.

        Raises:
            SuiteError: If there is no such image.
        """
        try:
            return self._targets[image_id]
        except KeyError:
            near = ", ".join(self.ids[:3])
            raise SuiteError(f"{self.name}: no image {image_id!r} with targets; ids look like {near}") from None

    @property
    def pairs(self) -> int:
        """Number of (image, target) pairs."""
        return sum(map(len, self._targets.values()))

    def __len__(self) -> int:
        return len(self.ids)

    def _readable(self, image_id: str) -> tuple[int, ...]:
        """The targets of an image.

        Raises:
            SuiteError: If there is no such image, or its annotation cannot be read.
        """
        targets = self.targets_of(image_id)
        if image_id in self._unreadable:
            raise SuiteError(self._unreadable[image_id])
        return targets

    def fingerprint(self) -> str:
        """sha256 (hex) over ids, targets and annotation content: changes when the ground truth does."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return digest(*self._content())

    def _content(self) -> Sequence[Any]:
        """All that the ground truth depends on, JSON-able."""
        raise NotImplementedError

    def _warn_if_partial(self) -> None:
        complete, message = self.verify_counts()
        if not complete:
            _log.warning("%s: %s", self.name, message)

    def verify_counts(self) -> tuple[bool, str]:
        """Whether all of the published data set was found, and a sentence about it; of others, nothing is known."""
        return True, ""


# --- PASCAL VOC -------------------------------------------------------------------------------------------------------


def _parse_xml(data: bytes) -> ElementTree.Element:
    """The root element of a document without a document type (hence without entities of its own).

    Raises:
        ValueError: If the document is malformed or declares a document type.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, AssertionError, LookupError) as error:  # the last: of an unknown encoding
        raise ValueError(f"it is not well-formed XML: {error}") from error


def _text(element: ElementTree.Element | None, path: str) -> str:
    """The text of a direct descendant.

    Raises:
        ValueError: If there is none.
    """
    text = element.findtext(path) if element is not None else None
    if text is None or not text.strip():
        raise ValueError(f"it has no <{path.replace('/', '><')}>")
    return text.strip()


def _parse_annotation(data: bytes) -> dict[str, Any]:
    """``{"size": (w, h) or None, "objects": [(name, (x0, y0, x1, y1), difficult), ...]}`` of a VOC annotation.

    Raises:
        ValueError: If it is malformed; the message fits after the file's name and "is not a VOC annotation: ".
    """
    root = _parse_xml(data)
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, expected <annotation>")
    size = None
    if root.find("size") is not None:
        size = (int(_text(root, "size/width")), int(_text(root, "size/height")))
        size = size if min(size) > 0 else None
    objects = []
    for element in root.findall("object"):
        name, box = _text(element, "name"), element.find("bndbox")
        corners = [int(float(_text(box, side))) for side in ("xmin", "ymin", "xmax", "ymax")]
        xmin, ymin, xmax, ymax = corners
        if xmax < xmin or ymax < ymin:
            raise ValueError(f"the box {corners} of {name!r} ends before it begins")
        # VOC counts pixels from 1 and includes the last one.
        objects.append((name, (xmin - 1, ymin - 1, xmax, ymax), (element.findtext("difficult") or "0").strip() == "1"))
    return {"size": size, "objects": objects}


def _numbers(picture: Image.Image) -> np.ndarray:
    """(h, w) uint8 class or object numbers of a segmentation picture."""
    if picture.mode not in ("P", "L"):
        raise ValueError(f"expected numbers, mode P or L, got mode {picture.mode}")
    return np.array(picture)


class VOC2007(BaseDataset):
    """PASCAL VOC 2007 in its official folders: one target per class of an image, masks from boxes (PROTOCOL E2).

    Below ``root`` (which may also be ``VOCdevkit`` or ``VOC2007`` itself)::

        VOCdevkit/VOC2007/{Annotations,ImageSets/Main,JPEGImages}

    A target's mask is the union of all boxes of its class, difficult ones included, as TorchRay does. With
    ``ground_truth="masks"`` it is the class's region in ``SegmentationClass/<id>.png`` (value = 1-based class index,
    255 = void, not part of any mask), or, where that file is missing, of the class's objects in
    ``SegmentationObject/<id>.png`` (value = 1-based position of the object in the annotation); images with neither
    are left out.

    Args:
        root: Folder that holds ``VOCdevkit``.
        split: Name of the list in ``ImageSets/Main``.
        ground_truth: "boxes" or "masks".
        difficult: Whether objects marked difficult count: False leaves out pairs that have no other object, and
            difficult boxes in the union. Masks are of the whole class either way.
        verify: Log a warning if the counts are not the published ones.
        name: Name in configs and tables.
        classes: Class names in the order of their indices.

    Attributes:
        folder: The ``VOC2007`` folder in use.
        listed: All ids of the list; ``ids`` are those with a target.

    Raises:
        SuiteError: If the folder, the list or every annotation is missing or malformed.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        split: str = "test",
        ground_truth: str = "boxes",
        difficult: bool = True,
        verify: bool = True,
        name: str = "voc2007",
        classes: Sequence[str] = VOC_CLASSES,
    ) -> None:
        self.name, self.classes = name, tuple(classes)
        self.split, self.difficult = split, difficult
        self.ground_truth = choose("ground_truth", ground_truth, ("boxes", "masks"))
        self.folder = self._find(Path(root))
        self.listed = self._read_list()
        self._without_annotation: list[str] = []
        self._without_mask: list[str] = []
        self._annotations: dict[str, dict[str, Any]] = {}
        self._targets, self._unreadable = {}, {}
        for image_id in self.listed:
            try:
                self._read_annotation(image_id)
            except SuiteError as error:
                self._targets[image_id], self._unreadable[image_id] = (), str(error)
        self.ids = tuple(self._targets)
        if not self._annotations:
            raise SuiteError(
                f"{self.name}: {self.folder} lists {plural(len(self.listed), 'image')} for split={split}, of which "
                f"{len(self._without_annotation)} have no annotation, {len(self._unreadable)} a malformed one and "
                f"{len(self._without_mask)} no mask: nothing is left; "
                + next(iter(self._unreadable.values()), self._how_to_get())
            )
        if verify:
            self._warn_if_partial()

    def _how_to_get(self) -> str:
        return (
            "download VOCtest_06-Nov-2007.tar (split test) or VOCtrainval_06-Nov-2007.tar (train, val) from the "
            "PASCAL VOC site, unpack it where `VOCdevkit` is to lie, and give that folder with dataset.root=<folder>"
        )

    def _find(self, root: Path) -> Path:
        for folder in (root / "VOCdevkit" / "VOC2007", root / "VOC2007", root):
            if (folder / "Annotations").is_dir() and (folder / "ImageSets" / "Main").is_dir():
                return folder
        raise SuiteError(
            f"{self.name}: expected the folder {root / 'VOCdevkit' / 'VOC2007'} with Annotations, ImageSets/Main and "
            f"JPEGImages, found none; {self._how_to_get()}"
        )

    def _read_list(self) -> tuple[str, ...]:
        path = self.folder / "ImageSets" / "Main" / f"{self.split}.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            found = sorted(p.stem for p in path.parent.glob("*.txt") if "_" not in p.stem)
            raise SuiteError(
                f"{self.name}: expected the list {path} for split={self.split}; the lists there are: "
                f"{', '.join(found) or 'none'}"
            ) from None
        # Lists of one class carry a second column; a repeated id would be counted twice.
        ids = tuple(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
        for image_id in ids:
            if Path(image_id).name != image_id:
                raise SuiteError(f"{self.name}: {path} lists {image_id!r}, expected names of files without folders")
        return ids

    def _annotation_file(self, image_id: str) -> Path:
        return self.folder / "Annotations" / f"{image_id}.xml"

    def _read_annotation(self, image_id: str) -> None:
        path = self._annotation_file(image_id)
        try:
            annotation = _parse_annotation(path.read_bytes())
        except FileNotFoundError:
            self._without_annotation.append(image_id)
            return
        except (OSError, ValueError, OverflowError) as error:
            raise SuiteError(
                f"{self.name}: {path} is not a VOC annotation: {error}; unpack it again or take it off the list"
            ) from error
        try:
            indices = [self.classes.index(choose("class", name, self.classes)) for name, _, _ in annotation["objects"]]
        except SuiteError as error:
            raise SuiteError(
                f"{self.name}: {path}: {error} Other classes are given with dataset.loader.classes=[...]"
            ) from error
        targets = sorted(
            {c for c, (_, _, hard) in zip(indices, annotation["objects"], strict=True) if self.difficult or not hard}
        )
        if targets and self.ground_truth == "masks" and self._mask_file(image_id) is None:
            self._without_mask.append(image_id)
            return
        if targets:
            self._annotations[image_id] = {**annotation, "indices": indices}
            self._targets[image_id] = tuple(targets)

    def _mask_file(self, image_id: str) -> Path | None:
        for kind in ("SegmentationClass", "SegmentationObject"):
            path = self.folder / kind / f"{image_id}.png"
            if path.is_file():
                return path
        return None

    def _boxes(self, image_id: str, target: int) -> tuple[tuple[int, int, int, int], ...]:
        annotation = self._annotations[image_id]
        return tuple(
            box
            for index, (_, box, hard) in zip(annotation["indices"], annotation["objects"], strict=True)
            if index == target and (self.difficult or not hard)
        )

    def _exact_masks(self, image_id: str, height: int, width: int) -> np.ndarray:
        """(T, height, width) bool regions from the segmentation PNG."""
        path = self._mask_file(image_id)
        if path is None:
            raise SuiteError(f"{self.name}: expected {self.folder / 'SegmentationClass' / (image_id + '.png')}")
        values = read_image(path, self.name, (width, height), _numbers)
        if path.parent.name == "SegmentationClass":
            return np.stack([values == target + 1 for target in self.targets_of(image_id)])
        indices = self._annotations[image_id]["indices"]
        return np.stack(
            [
                np.isin(values, [number for number, index in enumerate(indices, 1) if index == target])
                for target in self.targets_of(image_id)
            ]
        )

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample; ``info``: ``difficult`` and ``boxes`` (each box x0, y0, x1, y1) per target.

        A target is difficult if all objects of its class in the image are.

        Raises:
            SuiteError: If the id is unknown, the annotation malformed, a box outside of the image, or a file missing,
                unreadable or of another size than annotated.
        """
        targets = self._readable(image_id)
        annotation = self._annotations[image_id]
        image = read_image(self.folder / "JPEGImages" / f"{image_id}.jpg", self.name, annotation["size"])
        boxes = [self._boxes(image_id, target) for target in targets]
        try:
            if self.ground_truth == "masks":
                masks = self._exact_masks(image_id, image.height, image.width)
            else:
                masks = np.stack([_fill_boxes(group, image.height, image.width) for group in boxes])
        except ValueError as error:
            raise SuiteError(f"{self.name}: {self._annotation_file(image_id)}: {error}; unpack it again") from error
        flags = [
            (index, hard) for index, (_, _, hard) in zip(annotation["indices"], annotation["objects"], strict=True)
        ]
        hard = [all(h for index, h in flags if index == target) for target in targets]
        return Sample(image_id, image, targets, masks, {"difficult": hard, "boxes": boxes})

    def _class_counts(self) -> list[int]:
        counts = [0] * len(self.classes)
        for targets in self._targets.values():
            for target in targets:
                counts[target] += 1
        return counts

    def verify_counts(self) -> tuple[bool, str]:
        """Compares with the published counts of the VOC 2007 test set (PROTOCOL 6.1); never raises for a part of it.

        Returns:
            (complete, message): complete if images, pairs and pairs per class are the published ones and every image
            file is there.
        """
        found = f"{plural(len(self.listed), 'image')}, {plural(self.pairs, 'pair')}"
        if self.split != "test" or self.classes != VOC_CLASSES:
            return False, f"{found}: no published counts for split={self.split}; {_NOT_COMPARABLE}"
        gaps = []
        if self._without_annotation:
            gaps.append(f"{plural(len(self._without_annotation), 'listed image')} without annotation left out")
        if self._unreadable:
            gaps.append(f"{plural(len(self._unreadable), 'listed image')} with a malformed annotation will fail")
        if self._without_mask:
            gaps.append(f"{plural(len(self._without_mask), 'listed image')} without mask left out")
        files = {entry.name for entry in os.scandir(self.folder / "JPEGImages")} if self._has_images() else set()
        missing = sum(f"{image_id}.jpg" not in files for image_id in self.listed)
        if missing:
            gaps.append(f"{plural(missing, 'image file')} missing")
        expected = [plain + (hard if self.difficult else 0) for plain, hard in _VOC_TEST_PAIRS]
        counts = self._class_counts()
        if len(self.listed) == _VOC_TEST_IMAGES and counts == expected and not gaps:
            return True, f"{found}: the complete test set"
        total = sum(expected)
        if len(self.listed) == _VOC_TEST_IMAGES and self.pairs == total and counts != expected:
            name, got, want = next(row for row in zip(self.classes, counts, expected, strict=True) if row[1] != row[2])
            gaps.append(f"{name} has {plural(got, 'pair')}, published {want}")
        note = f" ({'; '.join(gaps)})" if gaps else ""
        return False, (
            f"{len(self.listed)} of {_VOC_TEST_IMAGES} images, {self.pairs} of {total} pairs{note}: partial tree; "
            f"{_NOT_COMPARABLE}"
        )

    def _has_images(self) -> bool:
        return (self.folder / "JPEGImages").is_dir()

    def _content(self) -> Sequence[Any]:
        """Ids, targets, boxes, flags and, if used, mask files."""
        parts: list[Any] = [self.classes, self.ground_truth, self.difficult]
        for image_id in self.ids:
            parts.append([image_id, self._targets[image_id], self._annotations.get(image_id)])
            if self.ground_truth == "masks":
                path = self._mask_file(image_id)
                parts.append(hashlib.sha256(path.read_bytes()).hexdigest() if path else None)
        return parts


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


def _region_of_runs(runs: dict[str, Any], height: int, width: int) -> np.ndarray:
    """(height, width) bool region of ``{"size", "counts"}``: lengths of zeros and ones in turn, down the columns."""
    if runs["size"] != [height, width]:
        raise ValueError(f"the run lengths are of a mask of height and width {runs['size']}, not {[height, width]}")
    counts = _run_lengths(runs["counts"]) if isinstance(runs["counts"], str) else runs["counts"]
    if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != height * width:
        raise ValueError(f"the run lengths are not whole numbers that add up to {height} * {width}")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def _region_of_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """(height, width) bool region of polygons ``[x, y, x, y, ...]``, as pycocotools draws them."""
    from pycocotools import mask

    if not polygons:
        raise ValueError("there is no polygon")
    far = max(height, width)
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:  # pycocotools would take four numbers for a box
            raise ValueError(f"a polygon has {len(polygon)} coordinates, expected three points or more")
        if not all(-far <= value <= 2 * far for value in polygon):  # its memory grows with the circumference
            raise ValueError(f"a polygon is not near the {width}x{height} image")
    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width))) > 0


def _coco_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of ``[x, y, width, height]``, rounded outwards to whole pixels."""
    x, y, width, height = box
    if not all(math.isfinite(value) for value in box) or width < 0 or height < 0:
        raise ValueError(f"{box} is not a box x, y, width, height")
    return math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)


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

    Attributes:
        folder: The folder in use.
        listed: Ids of all images of the annotation file, those without annotations included.

    Raises:
        SuiteError: If the folder or the annotation file is missing, or the file is not COCO's.
    """

    classes = COCO_CLASSES

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        split: str = "val2014",
        ground_truth: str = "masks",
        verify: bool = True,
        name: str = "coco2014",
    ) -> None:
        self.name, self.split = name, split
        self.ground_truth = choose("ground_truth", ground_truth, ("masks", "boxes"))
        root = Path(root)
        relative = Path("annotations") / f"instances_{split}.json"
        folders = [folder for folder in (root, root / "coco2014", root / "coco") if (folder / relative).is_file()]
        if not folders:
            raise SuiteError(
                f"{name}: expected {root / relative} and the folder {root / split}, found no such file; download "
                f"{split}.zip and annotations_trainval2014.zip from the COCO site, unpack both in one folder, and "
                "give that folder with dataset.root=<folder>"
            )
        self.folder = folders[0]
        self._file = self.folder / relative
        self._read_annotations()
        self.ids = tuple(self._targets)
        if not any(self._targets.values()):
            raise SuiteError(
                f"{name}: {self._file} annotates no object in {plural(len(self.listed), 'image')}"
                + "".join(f"; {reason}" for reason in list(self._unreadable.values())[:1])
            )
        if verify:
            self._warn_if_partial()

    def _read_annotations(self) -> None:
        objects: dict[Any, list[dict[str, Any]]] = {}
        try:
            data = self._file.read_bytes()
            content = json.loads(data)
            self._check_categories(content.get("categories", ()))
            images = {image["id"]: image for image in content["images"]}
            for annotation in content["annotations"]:
                objects.setdefault(annotation["image_id"], []).append(annotation)
            numbers = sorted(images)
            self.listed = tuple(f"{number:012d}" for number in numbers)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise SuiteError(
                f"{self.name}: {self._file} is not a COCO annotation file ({_reason(error)}); unpack it again"
            ) from error
        self._hash = hashlib.sha256(data).hexdigest()
        self._images = {i: images[number] for i, number in zip(self.listed, numbers, strict=True)}
        self._objects = {i: objects.get(number, []) for i, number in zip(self.listed, numbers, strict=True)}
        self._targets, self._unreadable = {}, {}
        for image_id in self.listed:
            try:
                file_name = self._images[image_id]["file_name"]
                if not isinstance(file_name, str) or not Path(file_name).name:
                    raise ValueError(f"{file_name!r} is not the name of a file")
                targets = tuple(sorted({self._index(annotation) for annotation in self._objects[image_id]}))
            except (ValueError, LookupError, TypeError) as error:
                targets, self._unreadable[image_id] = (), self._malformed(image_id, error)
            if targets or image_id in self._unreadable:
                self._targets[image_id] = targets

    def _malformed(self, image_id: str, error: Exception) -> str:
        return (
            f"{self.name}: the annotation of image {image_id} in {self._file} is malformed: {_reason(error)}; unpack "
            "it again"
        )

    def _check_categories(self, categories: Sequence[dict[str, Any]]) -> None:
        """Raises a ValueError if a category id means another class than COCO's."""
        for category in categories:
            number, name = category["id"], category["name"]
            if number in _COCO_INDEX and COCO_CLASSES[_COCO_INDEX[number]] != _COCO_RENAMED.get(name, name):
                raise ValueError(f"category {number} is {name!r}, COCO's is {COCO_CLASSES[_COCO_INDEX[number]]!r}")

    @staticmethod
    def _index(annotation: dict[str, Any]) -> int:
        category = annotation["category_id"]
        if category not in _COCO_INDEX:
            raise ValueError(f"category {category!r} is none of COCO's 80 (1 to 90 with gaps)")
        return _COCO_INDEX[category]

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample; ``info`` per target: ``boxes``, ``crowd`` (all its objects are crowds), ``difficult``.

        COCO marks nothing difficult: False throughout.

        Raises:
            SuiteError: If the id is unknown, the annotation malformed, or the file missing, unreadable or of another
                size than annotated.
        """
        targets = self._readable(image_id)
        facts = self._images[image_id]
        # Only the last part of the name: an annotation file must not lead out of the folder.
        path = self.folder / self.split / Path(facts["file_name"]).name
        masks, boxes, crowd = [], [], []
        try:
            image = read_image(path, self.name, (facts["width"], facts["height"]))
            for target in targets:
                objects = [annotation for annotation in self._objects[image_id] if self._index(annotation) == target]
                boxes.append(tuple(_coco_box(annotation["bbox"]) for annotation in objects))
                crowd.append(all(annotation.get("iscrowd", 0) for annotation in objects))
                if self.ground_truth == "boxes":
                    masks.append(_fill_boxes(boxes[-1], image.height, image.width))
                else:
                    masks.append(self._region(objects, image.height, image.width))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise SuiteError(self._malformed(image_id, error)) from error
        info = {"difficult": [False] * len(targets), "crowd": crowd, "boxes": boxes}
        return Sample(image_id, image, targets, np.stack(masks), info)

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
            (complete, message): complete if there are 40504 images, all there, 40137 of them with annotations.
        """
        found = f"{plural(len(self.listed), 'image')}, {plural(self.pairs, 'pair')}"
        if self.split != "val2014":
            return False, f"{found}: no published counts for split={self.split}; {_NOT_COMPARABLE}"
        images = self.folder / self.split
        files = {entry.name for entry in os.scandir(images)} if images.is_dir() else set()
        missing = sum(Path(str(facts.get("file_name"))).name not in files for facts in self._images.values())
        gaps = [f"{plural(missing, 'image file')} missing"] if missing else []
        if self._unreadable:
            gaps.append(f"{plural(len(self._unreadable), 'image')} with a malformed annotation will fail")
        if (len(self.listed), len(self.ids)) == (_COCO_VAL_IMAGES, _COCO_VAL_ANNOTATED) and not gaps:
            return True, f"{found}: the complete val2014"
        note = f" ({'; '.join(gaps)})" if gaps else ""
        return False, (
            f"{len(self.listed)} of {_COCO_VAL_IMAGES} images, {len(self.ids)} of {_COCO_VAL_ANNOTATED} annotated, "
            f"{plural(self.pairs, 'pair')}{note}: partial tree; {_NOT_COMPARABLE}"
        )

    def _content(self) -> Sequence[Any]:
        """Ids, targets and the annotation file."""
        return [self.ground_truth, list(self._targets.items()), self._hash]


# --- generated scenes -------------------------------------------------------------------------------------------------


class Shapes(VOC2007):
    """The generated scenes of `sise.benchmark.shapes`, drawn on first use and read as VOC 2007 (20 shapes).

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
        from sise.benchmark import shapes

        try:
            shapes.generate(root, seed=seed, test=test, progress=progress)
        except (ValueError, OSError) as error:
            raise SuiteError(
                f"{name}: could not draw the scenes in {root}: {error}; choose another folder with "
                "dataset.root=<folder>"
            ) from error
        self.seed = seed
        super().__init__(
            root, ground_truth=ground_truth, difficult=difficult, verify=False, name=name, classes=shapes.CLASSES
        )

    def verify_counts(self) -> tuple[bool, str]:
        """Always complete: the scenes were drawn here."""
        return True, f"{plural(len(self.listed), 'generated scene')} (seed {self.seed}), {plural(self.pairs, 'pair')}"


# --- photos inside packages -------------------------------------------------------------------------------------------


class Photos(BaseDataset):
    """Real photos that install with Python packages, with hand-drawn boxes of ImageNet classes.

    They are listed with their credits in ``photos/photos.csv``: one row per box; ``crop`` is the part of the photo
    that is used (empty = all of it), the box lies in that part's pixels. Photos of packages that are not installed,
    or of other versions in which the photo differs, are left out and counted by `verify_counts`.

    Args:
        table: Another table in the same form; None = the one that ships with the suite.
        verify: Log a warning if photos are missing.
        name: Name in configs and tables.

    Raises:
        SuiteError: If the table is malformed or none of its photos is there.
    """

    def __init__(self, *, table: str | os.PathLike | None = None, verify: bool = True, name: str = "photos") -> None:
        self.name, self.classes = name, imagenet_classes()
        self._table = Path(table) if table else Path(__file__).parent / "photos" / "photos.csv"
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
            with self._table.open(newline="", encoding="utf-8") as lines:
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

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample; ``info``: ``difficult`` (False) and ``boxes`` per target, and the photo's ``credit``.

        Raises:
            SuiteError: If the id is unknown or the photo unreadable.
        """
        targets = self.targets_of(image_id)
        photo = self._photos[image_id]
        image = read_image(photo["path"], self.name)
        crop = photo["source"][3] or (0, 0, *image.size)
        boxes = [tuple(photo["boxes"][target]) for target in targets]
        try:
            if not (0 <= crop[0] < crop[2] <= image.width and 0 <= crop[1] < crop[3] <= image.height):
                raise ValueError(f"the crop {crop} leaves the {image.width}x{image.height} photo")
            image = image.crop(crop)
            masks = np.stack([_fill_boxes(group, image.height, image.width) for group in boxes])
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

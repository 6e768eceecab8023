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
import re
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

#: Published facts of COCO val2014 (PROTOCOL 6.2, P3): images, those with annotations, and pairs of each class.
_COCO_VAL_IMAGES, _COCO_VAL_ANNOTATED = 40_504, 40_137
_COCO_VAL_PAIRS = (
    21634, 1114, 4180, 1219, 840, 1350, 1281, 2056, 1048, 1437, 592, 589, 261, 1961, 1121, 1480, 1521, 1001, 489,
    666, 714, 341, 677, 849, 1832, 1393, 2272, 1288, 876, 757, 993, 533, 1445, 727, 799, 845, 1092, 1292, 1193,
    2912, 872, 3061, 1173, 1410, 1189, 2397, 728, 491, 818, 568, 670, 578, 452, 1117, 523, 969, 4404, 1448, 1540,
    1292, 3960, 1185, 1577, 1232, 674, 1041, 750, 1695, 512, 989, 74, 1574, 790, 1828, 1704, 1200, 302, 724, 70,
    341,
)  # fmt: skip

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

#: How many pictures are decoded to tell stand-ins, and the range of values up to which one counts as one colour.
_LOOKED_AT, _FLAT = 8, 8

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


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that a user may have edited on any system: no byte order mark, outer or empty lines.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not text in UTF-8.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8; save it as UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def files_in(folder: Path) -> set[str]:
    """The names of the files in a folder, none if it is not there; links that lead nowhere are no files."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file()}


def _known_pictures(name: str) -> dict[str, str]:
    """How the sha256 of some pictures of a data set begins, by file; none of a data set without such a list."""
    table = Path(__file__).parent / "photos" / f"{name}_known.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as lines:
        return {f"{row['image_id']}.jpg": row["sha256"] for row in csv.DictReader(lines)}


def _is_blank(path: Path) -> bool:
    """Whether a picture is of one colour, or cannot be decoded."""
    try:
        extrema = read_image(path, "").getextrema()
    except SuiteError:
        return True
    return all(high - low < _FLAT for low, high in extrema)


def _picture_gaps(folder: Path, names: Sequence[str], known: Mapping[str, str], look: bool) -> list[str]:
    """What says that pictures are missing, or are not those of the data set.

    Args:
        folder: Where they lie.
        names: The files that are expected.
        known: How the sha256 of some of them begins.
        look: Whether to decode a few, to tell a tree of stand-ins.
    """
    files = files_in(folder)
    present = [name for name in names if name in files]
    gaps = []
    if len(present) < len(names):
        gaps.append(f"{plural(len(names) - len(present), 'image file')} missing")
    checked = [name for name in known if name in files]
    others = [n for n in checked if not hashlib.sha256((folder / n).read_bytes()).hexdigest().startswith(known[n])]
    if others:
        gaps.append(
            f"not the real pictures: {len(others)} of the {len(checked)} that are known differ (the first: {others[0]})"
        )
    elif look:
        chosen = present[:: max(1, len(present) // _LOOKED_AT)][:_LOOKED_AT]
        blank = [name for name in chosen if _is_blank(folder / name)]
        if blank:
            gaps.append(
                f"not the real pictures: {len(blank)} of {len(chosen)} that were looked at are of one colour or cannot "
                f"be read (the first: {blank[0]})"
            )
    return gaps


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


def whole_number(what: str, value: Any) -> int:
    """A number without a fraction, also where it is written 96.0.

    Raises:
        ValueError: If it is something else; the message begins with ``what``.
    """
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise ValueError(f"{what} is {_shown(value)}, expected a whole number")


def _shown(value: Any) -> str:
    """A value from a file for a message: what it is, and how it begins."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return f"{value!r:.40}" if type(value) in (int, float) else _kind(value)


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


def _has_pixel(box: Sequence[int], width: int, height: int) -> bool:
    """Whether a box x0, y0, x1, y1 (half-open) has a pixel of the image."""
    x0, y0, x1, y1 = box
    return max(x0, 0) < min(x1, width) and max(y0, 0) < min(y1, height)


def digest(*parts: Any) -> str:
    """sha256 (hex) of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _reason(error: Exception) -> str:
    """What an error says, in words also where it says only a key; Python's own words about types help nobody."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text: compressed, or not in UTF-8"
    return str(error) if isinstance(error, ValueError | OSError) else "a value in it is of another kind than COCO's"


def _with_pictures(found: str, what: str, gaps: Sequence[str]) -> tuple[bool, str]:
    """What is said of a data set whose ground truth is complete, given what is wrong with its pictures."""
    if not gaps:
        return True, f"{found}: the complete {what}"
    return False, f"{found}: the complete ground truth, but {'; '.join(gaps)}; {_NOT_COMPARABLE}"


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

    def picture_of(self, image_id: str) -> Path | None:
        """The file that an image is read from; None where images are no files."""
        return None

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

    def verify_annotations(self) -> tuple[bool, str]:
        """`verify_counts` without the pictures, where the ground truth can be had without them."""
        return self.verify_counts()

    def ground_truth_of(self, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
        """``masks`` and ``info`` of a sample, without its picture where the annotation is enough.

        Raises:
            SuiteError: As reading the sample does.
        """
        sample = self[image_id]
        return sample.masks, sample.info

    def _class_counts(self) -> list[int]:
        """Pairs of each class."""
        counts = [0] * len(self.classes)
        for targets in self._targets.values():
            for target in targets:
                counts[target] += 1
        return counts

    def _first_difference(self, expected: Sequence[int]) -> str:
        """The first class whose pairs are not as many as published, with both numbers; empty if there is none."""
        rows = zip(self.classes, self._class_counts(), expected, strict=True)
        different = [f"{name} has {plural(got, 'pair')}, published {want}" for name, got, want in rows if got != want]
        return different[0] if different else ""


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


def _number(element: ElementTree.Element | None, path: str) -> float:
    """The number in a direct descendant.

    Raises:
        ValueError: If there is none, or it is not finite.
    """
    text = _text(element, path)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"<{path.replace('/', '><')}> is {text[:40]!r}, expected a number")
    return number


def _is_difficult(element: ElementTree.Element) -> bool:
    """Whether an object is marked difficult; it is not where nothing is said."""
    text = (element.findtext("difficult") or "").strip()
    spellings = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
    if text.lower() not in spellings:
        raise ValueError(f"<difficult> is {text[:40]!r}, expected 0 or 1")
    return spellings[text.lower()]


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
        size = tuple(whole_number(f"<{side}>", _number(root, f"size/{side}")) for side in ("width", "height"))
        size = size if min(size) > 0 else None
    objects = []
    for element in root.findall("object"):
        name, box = _text(element, "name"), element.find("bndbox")
        corners = [int(_number(box, side)) for side in ("xmin", "ymin", "xmax", "ymax")]
        xmin, ymin, xmax, ymax = corners
        if xmax < xmin or ymax < ymin:
            raise ValueError(f"the box {corners} of {name!r} ends before it begins")
        # VOC counts pixels from 1 and includes the last one.
        objects.append((name, (xmin - 1, ymin - 1, xmax, ymax), _is_difficult(element)))
    return {"size": size, "objects": objects}


#: The number of pixels that belong to nothing, in VOC's segmentation pictures.
_VOID = 255


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
        split: Name of the list in ``ImageSets/Main``. Of a list of one class ("dog_test") the images are taken that
            have the class: those with 1 in the second column and, where difficult objects count, those with 0 (all
            its objects are difficult); every class of these images is a target.
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
        self._without_pixel = 0
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
                + next(iter(self._unreadable.values()), self._names_differ() or self._how_to_get())
            )
        if verify:
            self._warn_if_partial()

    def _names_differ(self) -> str:
        """What to do if no listed image has an annotation although there are some; else empty."""
        annotated = min(files_in(self.folder / "Annotations"), default="")
        if not annotated or len(self._without_annotation) < len(self.listed) or not self.listed:
            return ""
        return (
            f"the list begins with {self.listed[0]!r}, the annotations with {annotated!r}: list the names of the "
            "annotations without .xml, one a line"
        )

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
            lines = read_lines(path)
        except OSError:
            found = sorted(p.stem for p in path.parent.glob("*.txt") if "_" not in p.stem)
            raise SuiteError(
                f"{self.name}: expected the list {path} for split={self.split}; the lists there are: "
                f"{', '.join(found) or 'none'}"
            ) from None
        except ValueError as error:
            raise SuiteError(f"{self.name}: {error}") from None
        annotated = {name.removesuffix(".xml") for name in files_in(self.folder / "Annotations")}
        ids = []
        for line in lines:
            image_id, *flags = re.split(r"[\s,;\"]+", line.strip('",; \t'))
            if Path(image_id).name != image_id:
                raise SuiteError(f"{self.name}: {path} lists {image_id!r}, expected names of files without folders")
            if flags not in ([], ["1"], ["0"], ["-1"]):
                raise SuiteError(
                    f"{self.name}: {path} has the line {line[:80]!r}, expected an image id, or an id and 1, 0 or -1 as "
                    "in the lists of one class"
                )
            if flags not in ([], ["1"]) and (flags == ["-1"] or not self.difficult):
                continue
            ids.append(self._as_annotated(image_id, annotated))
        return tuple(dict.fromkeys(ids))  # a repeated id would be counted twice

    @staticmethod
    def _as_annotated(image_id: str, annotated: set[str]) -> str:
        """An id of a list as the annotation's file has it: without ``.jpg``, with the zeros that spreadsheets drop."""
        short = re.sub(r"\.(jpe?g|png|xml)$", "", image_id, flags=re.IGNORECASE)
        return next((name for name in (image_id, short, short.zfill(6)) if name in annotated), short)

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
        annotation["indices"] = indices
        if self.ground_truth == "boxes":
            self._leave_out_empty_boxes(annotation)
        flags = zip(annotation["indices"], annotation["objects"], strict=True)
        targets = sorted({index for index, (_, _, hard) in flags if self.difficult or not hard})
        if targets and self.ground_truth == "masks":
            if self._mask_file(image_id) is None:
                self._without_mask.append(image_id)
                return
            try:
                visible = self._exact_masks(image_id, annotation, targets, annotation["size"]).any(axis=(1, 2))
            except ValueError as error:
                raise SuiteError(f"{self.name}: {self._mask_file(image_id)}: {error}; unpack it again") from error
            self._without_pixel += int((~visible).sum())
            targets = [target for target, seen in zip(targets, visible, strict=True) if seen]
        if targets:
            self._annotations[image_id] = annotation
            self._targets[image_id] = tuple(targets)

    def _leave_out_empty_boxes(self, annotation: dict[str, Any]) -> None:
        """Takes boxes without a pixel of the image out of an annotation, and counts them."""
        if annotation["size"] is None:
            return  # found when the picture is read
        seen = [_has_pixel(box, *annotation["size"]) for _, box, _ in annotation["objects"]]
        self._without_pixel += seen.count(False)
        for key in ("objects", "indices"):
            annotation[key] = [value for value, kept in zip(annotation[key], seen, strict=True) if kept]

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

    def _exact_masks(
        self, image_id: str, annotation: dict[str, Any], targets: Sequence[int], size: tuple[int, int] | None
    ) -> np.ndarray:
        """(T, height, width) bool regions from the segmentation PNG; size is (width, height), None = any."""
        path = self._mask_file(image_id)
        if path is None:
            raise SuiteError(f"{self.name}: expected {self.folder / 'SegmentationClass' / (image_id + '.png')}")
        values = read_image(path, self.name, size, _numbers)
        if path.parent.name == "SegmentationClass":
            return np.stack([values == target + 1 for target in targets])
        indices = annotation["indices"]
        largest = int(np.max(values, initial=0, where=values != _VOID))
        if largest > len(indices):
            raise ValueError(
                f"it numbers {largest} objects, the annotation has {len(indices)}: the masks would be other objects'"
            )
        return np.stack(
            [
                np.isin(values, [number for number, index in enumerate(indices, 1) if index == target])
                for target in targets
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
        size = self._annotations[image_id]["size"]
        image = read_image(self.picture_of(image_id), self.name, size)
        return Sample(image_id, image, targets, *self._regions(image_id, image.size))

    def picture_of(self, image_id: str) -> Path:
        """The file that an image is read from."""
        return self.folder / "JPEGImages" / f"{image_id}.jpg"

    def ground_truth_of(self, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
        """``masks`` and ``info`` of a sample; the picture is only read where the annotation does not give its size."""
        self._readable(image_id)
        size = self._annotations[image_id]["size"] or read_image(self.picture_of(image_id), self.name).size
        return self._regions(image_id, size)

    def _regions(self, image_id: str, size: tuple[int, int]) -> tuple[np.ndarray, dict[str, Any]]:
        """``masks`` and ``info`` of a sample of size (width, height)."""
        targets, annotation = self.targets_of(image_id), self._annotations[image_id]
        boxes = [self._boxes(image_id, target) for target in targets]
        try:
            if self.ground_truth == "masks":
                masks = self._exact_masks(image_id, annotation, targets, size)
            else:
                masks = np.stack([_fill_boxes(group, size[1], size[0]) for group in boxes])
        except ValueError as error:
            raise SuiteError(f"{self.name}: {self._annotation_file(image_id)}: {error}; unpack it again") from error
        flags = [
            (index, hard) for index, (_, _, hard) in zip(annotation["indices"], annotation["objects"], strict=True)
        ]
        hard = [all(h for index, h in flags if index == target) for target in targets]
        return masks, {"difficult": hard, "boxes": boxes}

    def verify_counts(self) -> tuple[bool, str]:
        """Compares with the published counts of the VOC 2007 test set (PROTOCOL 6.1); never raises for a part of it.

        Returns:
            (complete, message): complete if images, pairs and pairs per class are the published ones, every image
            file is there, and those whose content is known, or a few that are decoded, are no stand-ins.
        """
        known = _known_pictures("voc2007") if self.split == "test" and self.classes == VOC_CLASSES else {}
        names = [f"{image_id}.jpg" for image_id in self.listed]
        look = self.verify_annotations()[0]
        return self._verify("test set", _picture_gaps(self.folder / "JPEGImages", names, known, look))

    def verify_annotations(self) -> tuple[bool, str]:
        """Compares the annotations with the published counts; no picture has to be there."""
        return self._verify("ground truth", [])

    def _verify(self, what: str, gaps_of_pictures: Sequence[str]) -> tuple[bool, str]:
        found = f"{plural(len(self.listed), 'image')}, {plural(self.pairs, 'pair')}"
        gaps = self._gaps()
        if self.split != "test" or self.classes != VOC_CLASSES:
            note = "".join(f"; {gap}" for gap in [*gaps, *gaps_of_pictures])
            return False, f"{found}: no published counts for split={self.split}{note}; {_NOT_COMPARABLE}"
        expected = [plain + (hard if self.difficult else 0) for plain, hard in _VOC_TEST_PAIRS]
        difference = self._first_difference(expected)
        if len(self.listed) == _VOC_TEST_IMAGES and not difference and not gaps:
            return _with_pictures(found, what, gaps_of_pictures)
        if len(self.listed) == _VOC_TEST_IMAGES and self.pairs == sum(expected) and difference:
            gaps.append(difference)
        gaps += gaps_of_pictures
        note = f" ({'; '.join(gaps)})" if gaps else ""
        return False, (
            f"{len(self.listed)} of {_VOC_TEST_IMAGES} images, {self.pairs} of {sum(expected)} pairs{note}: partial "
            f"tree; {_NOT_COMPARABLE}"
        )

    def _gaps(self) -> list[str]:
        """What of the list and the annotations takes no part."""
        gaps = []
        if self._without_annotation:
            gaps.append(f"{plural(len(self._without_annotation), 'listed image')} without annotation left out")
        if self._unreadable:
            gaps.append(f"{plural(len(self._unreadable), 'listed image')} with a malformed annotation will fail")
        if self._without_mask:
            gaps.append(f"{plural(len(self._without_mask), 'listed image')} without mask left out")
        if self._without_pixel:
            what = "object" if self.ground_truth == "boxes" else "target"
            gaps.append(f"{plural(self._without_pixel, what)} without a pixel of the image left out")
        return gaps

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


def _checked_runs(runs: dict[str, Any], height: int, width: int) -> list[int]:
    """The run lengths of ``{"size", "counts"}``, which add up to the image.

    Raises:
        ValueError: If they do not, or are something else; KeyError if one is missing.
    """
    if not isinstance(runs["size"], list):
        raise ValueError(f"the size of the run lengths is {_kind(runs['size'])}, expected a list: height, width")
    size = [whole_number("the size of the run lengths", side) for side in runs["size"]]
    if size != [height, width]:
        shown = "x".join(map(str, size))
        raise ValueError(f"the run lengths are of a mask of height x width {shown:.40}, not {height}x{width}")
    counts = _run_lengths(runs["counts"]) if isinstance(runs["counts"], str) else runs["counts"]
    if not isinstance(counts, list):
        raise ValueError(f"the run lengths are {_kind(counts)}, expected a list or text")
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
            raise ValueError(f"{what} is {_shown(value)}, expected a number")


def _region_of_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """(height, width) bool region of polygons ``[x, y, x, y, ...]``, as pycocotools draws them."""
    from pycocotools import mask

    if not isinstance(polygons, list) or not polygons:
        found = "a list without a polygon" if polygons == [] else _kind(polygons)
        raise ValueError(f"the segmentation is {found}, expected a list of polygons, [[x, y, x, y, ...]]")
    far = max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise ValueError(f"a polygon is {_kind(polygon)}, expected a list of coordinates: [[x, y, x, y, ...]]")
        _check_numbers("a polygon's coordinate", polygon)
        if len(polygon) < 6 or len(polygon) % 2:  # pycocotools would take four numbers for a box
            raise ValueError(f"a polygon has {len(polygon)} coordinates, expected three points or more")
        if not all(-far <= value <= 2 * far for value in polygon):  # its memory grows with the circumference
            raise ValueError(f"a polygon is not near the {width}x{height} image")
    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width))) > 0


def _coco_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of ``[x, y, width, height]``, rounded outwards to whole pixels."""
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"the bbox is {_kind(box)}, expected a list of four numbers: x, y, width, height")
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
        raise ValueError(f"it holds {_kind(content)}, expected an object with images and annotations")
    entries = content[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{key!r} is {_kind(entries)}, expected a list of objects")
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
        try:
            data = self._file.read_bytes()
            content = json.loads(data)
            self._check_categories(_entries(content, "categories") if "categories" in content else [])
            images, twice = self._images_by_number(_entries(content, "images"))
            objects = self._objects_by_number(_entries(content, "annotations"), images)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise SuiteError(
                f"{self.name}: {self._file} is not a COCO annotation file ({_reason(error)}); unpack it again"
            ) from error
        self._hash = hashlib.sha256(data).hexdigest()
        self._images = {f"{number:012d}": images[number] for number in sorted(images)}
        self.listed = tuple(self._images)
        self._objects: dict[str, list[dict[str, Any]]] = {}
        self._targets, self._unreadable, self._without_pixel = {}, {}, 0
        for image_id, number in zip(self.listed, sorted(images), strict=True):
            try:
                if number in twice:
                    raise ValueError("the image is listed twice, with different sizes or files")
                targets = self._read_image_entry(image_id, objects.get(number, ()))
            except (ValueError, LookupError, TypeError, OverflowError) as error:
                targets, self._unreadable[image_id] = (), self._malformed(image_id, error)
            if targets or image_id in self._unreadable:
                self._targets[image_id] = targets

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
        self._strays: list[Any] = []
        for annotation in entries:
            number = annotation["image_id"]
            if type(number) in (int, float) and number in images:
                objects.setdefault(int(number), []).append(annotation)
            else:
                self._strays.append(number)
        numbers = [annotation["id"] for annotation in entries if type(annotation.get("id")) in (int, float, str)]
        self._repeated = len(numbers) - len(set(numbers))
        return objects

    def _read_image_entry(self, image_id: str, objects: Sequence[dict[str, Any]]) -> tuple[int, ...]:
        """The targets of an image; keeps its objects, without those that have no pixel.

        Raises:
            ValueError: If its size, its file's name or a category is malformed; KeyError if one is missing.
        """
        facts = self._images[image_id]
        if not isinstance(facts["file_name"], str) or not Path(facts["file_name"]).name:
            raise ValueError(f"file_name is {_shown(facts['file_name'])}, expected the name of a file")
        width, height = (whole_number(f"the image's {side}", facts[side]) for side in ("width", "height"))
        if min(width, height) < 1:
            raise ValueError(f"the image is {width}x{height} pixels, expected 1x1 or more")
        indices = [self._index(annotation) for annotation in objects]
        seen = [self._may_have_pixel(annotation, height, width) for annotation in objects]
        self._without_pixel += seen.count(False)
        self._objects[image_id] = [annotation for annotation, kept in zip(objects, seen, strict=True) if kept]
        return tuple(sorted({index for index, kept in zip(indices, seen, strict=True) if kept}))

    def _may_have_pixel(self, annotation: dict[str, Any], height: int, width: int) -> bool:
        """Whether an object has a pixel of its image; True where it is malformed, which reading the sample says.

        Only an outline that is thin, or lies outside, is drawn to find out: drawing all of COCO's takes minutes.
        """
        try:
            if self.ground_truth == "boxes":
                box = _coco_box(annotation["bbox"])
                return not _in_fractions(annotation["bbox"]) and _has_pixel(box, width, height)
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, dict):
                return any(_checked_runs(segmentation, height, width)[1::2])
            if _in_fractions([value for polygon in segmentation for value in polygon]):
                return False
            extents = [min(_extent(polygon, height, width)) for polygon in segmentation]
            if height * width > _MAX_PIXELS or max(extents) >= _WIDE or max(extents) < 0:
                return max(extents) >= 0
            return bool(_region_of_polygons(segmentation, height, width).any())
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return True

    def _malformed(self, image_id: str, error: Exception) -> str:
        return (
            f"{self.name}: the annotation of image {image_id} in {self._file} is malformed: {_reason(error)}; unpack "
            "it again"
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
            for target in targets:
                objects = [annotation for annotation in self._objects[image_id] if self._index(annotation) == target]
                boxes.append(tuple(_coco_box(annotation["bbox"]) for annotation in objects))
                crowd.append(all(annotation.get("iscrowd", 0) for annotation in objects))
                if self.ground_truth == "boxes":
                    masks.append(_fill_boxes(boxes[-1], height, width))
                else:
                    masks.append(self._region(objects, height, width))
                if not masks[-1].any():
                    raise ValueError(f"{self.classes[target]!r} has no pixel of the image")
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise SuiteError(self._malformed(image_id, error)) from error
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
            (complete, message): complete if there are 40504 images, all there and, of those that are looked at, no
            stand-ins, 40137 of them with annotations, and the pairs of every class are as many as published.
        """
        names = [Path(str(facts.get("file_name"))).name for facts in self._images.values()]
        look = self.verify_annotations()[0]
        return self._verify("val2014", _picture_gaps(self.folder / self.split, names, {}, look))

    def verify_annotations(self) -> tuple[bool, str]:
        """Compares the annotations with the published counts; no picture has to be there."""
        return self._verify("ground truth", [])

    def _verify(self, what: str, gaps_of_pictures: Sequence[str]) -> tuple[bool, str]:
        found = f"{plural(len(self.listed), 'image')}, {plural(self.pairs, 'pair')}"
        gaps = self._gaps()
        if self.split != "val2014":
            note = "".join(f"; {gap}" for gap in [*gaps, *gaps_of_pictures])
            return False, f"{found}: no published counts for split={self.split}{note}; {_NOT_COMPARABLE}"
        images = (len(self.listed), len(self.ids)) == (_COCO_VAL_IMAGES, _COCO_VAL_ANNOTATED)
        difference = self._first_difference(_COCO_VAL_PAIRS)
        if images and not difference and not gaps:
            return _with_pictures(found, what, gaps_of_pictures)
        if images and difference:
            gaps.append(difference)
        gaps += gaps_of_pictures
        note = f" ({'; '.join(gaps)})" if gaps else ""
        return False, (
            f"{len(self.listed)} of {_COCO_VAL_IMAGES} images, {len(self.ids)} of {_COCO_VAL_ANNOTATED} annotated, "
            f"{self.pairs} of {sum(_COCO_VAL_PAIRS)} pairs{note}: partial tree; {_NOT_COMPARABLE}"
        )

    def _gaps(self) -> list[str]:
        """What of the annotation file takes no part, or was found twice."""
        gaps = []
        if self._unreadable:
            gaps.append(f"{plural(len(self._unreadable), 'image')} with a malformed annotation will fail")
        if self._strays:
            gaps.append(
                f"{plural(len(self._strays), 'annotation')} of images that are not listed left out (the first: "
                f"image_id is {_shown(self._strays[0])})"
            )
        if self._repeated:
            gaps.append(f"{plural(self._repeated, 'annotation')} with an id that another one has")
        if self._without_pixel:
            gaps.append(f"{plural(self._without_pixel, 'object')} without a pixel of the image left out")
        return gaps

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

    def verify_annotations(self) -> tuple[bool, str]:
        """As `verify_counts`."""
        return self.verify_counts()


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

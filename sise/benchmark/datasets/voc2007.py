"""PASCAL VOC 2007: boxes and masks from the official tree."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from defusedxml import DTDForbidden
from defusedxml.ElementTree import fromstring
from PIL import Image

from sise.benchmark.datasets import published_counts
from sise.benchmark.datasets.base import (
    NOT_COMPARABLE,
    BaseDataset,
    Counts,
    files_in,
    plural,
    read_lines,
    whole_number,
    with_pictures,
)
from sise.benchmark.datasets.images import fill_boxes, has_pixel, known_pictures, picture_gaps, read_image
from sise.errors import SuiteError, choose
from sise.types import Sample

__all__ = ["VOC2007", "VOC_CLASSES"]

#: VOC's classes in TorchRay's order, which is the order of its networks' outputs.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


# --- PASCAL VOC -------------------------------------------------------------------------------------------------------
def _parse_xml(data: bytes) -> ElementTree.Element:
    """The root element of a document without a document type (hence without entities of its own).

    Raises:
        ValueError: If the document is malformed or declares a document type.
    """
    try:
        return fromstring(data, forbid_dtd=True)
    except DTDForbidden:
        raise ValueError("it declares a document type") from None
    except (ElementTree.ParseError, LookupError) as error:  # the last: of an unknown encoding
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
HOW_TO_GET = {
    "fix": "download VOCtest_06-Nov-2007.tar (split test) or VOCtrainval_06-Nov-2007.tar (train, val) from the PASCAL "
    "VOC site, unpack it where `VOCdevkit` is to lie, and give that folder with",
    "setting": "dataset.root=<folder>",
}


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
            known = next(iter(self._unreadable.values()), self._names_differ())
            raise SuiteError(
                f"{self.folder} lists {plural(len(self.listed), 'image')} for split={split}, of which "
                f"{len(self._without_annotation)} have no annotation, {len(self._unreadable)} a malformed one and "
                f"{len(self._without_mask)} no mask: nothing is left",
                about=self.name,
                **({"fix": known} if known else HOW_TO_GET),
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

    def _find(self, root: Path) -> Path:
        for folder in (root / "VOCdevkit" / "VOC2007", root / "VOC2007", root):
            if (folder / "Annotations").is_dir() and (folder / "ImageSets" / "Main").is_dir():
                return folder
        raise SuiteError(
            f"expected the folder {root / 'VOCdevkit' / 'VOC2007'} with Annotations, ImageSets/Main and JPEGImages, "
            "found none",
            about=self.name,
            **HOW_TO_GET,
        )

    def _read_list(self) -> tuple[str, ...]:
        path = self.folder / "ImageSets" / "Main" / f"{self.split}.txt"
        try:
            lines = read_lines(path)
        except OSError:
            found = sorted(p.stem for p in path.parent.glob("*.txt") if "_" not in p.stem)
            raise SuiteError(
                f"expected the list {path} for split={self.split}",
                about=self.name,
                fix=f"the lists there are: {', '.join(found) or 'none'}",
            ) from None
        except ValueError as error:
            raise SuiteError(str(error), about=self.name) from None
        annotated = {name.removesuffix(".xml") for name in files_in(self.folder / "Annotations")}
        ids = []
        for line in lines:
            image_id, *flags = re.split(r"[\s,;\"]+", line.strip('",; \t'))
            if Path(image_id).name != image_id:
                raise SuiteError(f"{path} lists {image_id!r}, expected names of files without folders", about=self.name)
            if flags not in ([], ["1"], ["0"], ["-1"]):
                raise SuiteError(
                    f"{path} has the line {line[:80]!r}, expected an image id, or an id and 1, 0 or -1 as in the lists "
                    "of one class",
                    about=self.name,
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
                visible = self._exact_masks(image_id, annotation, targets, annotation["size"])
                visible = np.asarray(visible.any(axis=(1, 2)))
            except ValueError as error:
                raise SuiteError(f"{self.name}: {self._mask_file(image_id)}: {error}; unpack it again") from error
            self._without_pixel += int((~visible).sum())
            targets = [target for target, seen in zip(targets, visible.tolist(), strict=True) if seen]
        if targets:
            self._annotations[image_id] = annotation
            self._targets[image_id] = tuple(targets)

    def _leave_out_empty_boxes(self, annotation: dict[str, Any]) -> None:
        """Takes boxes without a pixel of the image out of an annotation, and counts them."""
        if annotation["size"] is None:
            return  # found when the picture is read
        seen = [has_pixel(box, *annotation["size"]) for _, box, _ in annotation["objects"]]
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
                masks = np.stack([fill_boxes(group, size[1], size[0]) for group in boxes])
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
        known = known_pictures("voc2007") if self.split == "test" and self.classes == VOC_CLASSES else {}
        names = [f"{image_id}.jpg" for image_id in self.listed]
        look = self.verify_annotations()[0]
        return self._verify("test set", picture_gaps(self.folder / "JPEGImages", names, known, look))

    def verify_annotations(self) -> tuple[bool, str]:
        """Compares the annotations with the published counts; no picture has to be there."""
        return self._verify("ground truth", [])

    def _verify(self, what: str, gaps_of_pictures: Sequence[str]) -> tuple[bool, str]:
        found = f"{plural(len(self.listed), 'image')}, {plural(self.pairs, 'pair')}"
        gaps = self._gaps()
        if self.split != "test" or self.classes != VOC_CLASSES:
            note = "".join(f"; {gap}" for gap in [*gaps, *gaps_of_pictures])
            return False, f"{found}: no published counts for split={self.split}{note}; {NOT_COMPARABLE}"
        images = published_counts.total("voc2007", "images")
        expected = list(published_counts.by_class("voc2007", "pairs").values())
        if self.difficult:
            difficult = published_counts.by_class("voc2007", "difficult pairs").values()
            expected = [plain + hard for plain, hard in zip(expected, difficult, strict=True)]
        difference = self._first_difference(expected)
        if len(self.listed) == images and not difference and not gaps:
            return with_pictures(found, what, gaps_of_pictures)
        if len(self.listed) == images and self.pairs == sum(expected) and difference:
            gaps.append(difference)
        gaps += gaps_of_pictures
        note = f" ({'; '.join(gaps)})" if gaps else ""
        return False, Counts(
            f"{len(self.listed)} of {images} images, {self.pairs} of {sum(expected)} pairs{note}",
            f": partial tree; {NOT_COMPARABLE}",
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

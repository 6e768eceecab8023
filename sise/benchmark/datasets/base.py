"""What data sets share: the contract's plain parts, files found below a root, counts compared with the published ones.

Every class is a `sise.types.Dataset`. Annotations are read once, on construction; images when they are asked for.
Boxes leave a data set as x0, y0, x1, y1 in 0-based pixels, half-open: the pixel columns of a box are
``range(x0, x1)``. `verify_counts` says how much of the published data set was found; a part of it is never an error.

An image whose annotation cannot be read stays in ``ids``, without targets; reading it raises the reason. So a run
records it as failed and goes on, and nothing wrong slips in. What a file claims (sizes, run lengths, coordinates) is
checked before memory is taken for it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sise.errors import SuiteError
from sise.types import Sample

_log = logging.getLogger(__name__)
NOT_COMPARABLE = "results are not comparable to the papers'"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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


def kind_of_file(value: Any) -> str:
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
    raise ValueError(f"{what} is {some_names(value)}, expected a whole number")


def some_names(value: Any) -> str:
    """A value from a file for a message: what it is, and how it begins."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return f"{value!r:.40}" if type(value) in (int, float) else kind_of_file(value)


def digest(*parts: Any) -> str:
    """sha256 (hex) of JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def reason_of(error: Exception) -> str:
    """What an error says, in words also where it says only a key; Python's own words about types help nobody."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, UnicodeDecodeError):
        return "it is no text: compressed, or not in UTF-8"
    return str(error) if isinstance(error, ValueError | OSError) else "a value in it is of another kind than COCO's"


def with_pictures(found: str, what: str, gaps: Sequence[str]) -> tuple[bool, str]:
    """What is said of a data set whose ground truth is complete, given what is wrong with its pictures."""
    if not gaps:
        return True, f"{found}: the complete {what}"
    return False, f"{found}: the complete ground truth, but {'; '.join(gaps)}; {NOT_COMPARABLE}"


class Counts(str):
    """What was found of a published data set, in words: a text like any other.

    Args:
        found: How much there is.
        meaning: What follows from it; stands behind.

    Attributes:
        found: As given.
    """

    found: str

    def __new__(cls, found: str, meaning: str = "") -> Counts:
        """The whole text."""
        made = super().__new__(cls, found + meaning)
        made.found = found
        return made


def found_of(message: str) -> str:
    """How much of a data set there is, of what ``verify_counts`` says."""
    return message.found if isinstance(message, Counts) else message


class BaseDataset:
    """What all data sets share: ids in order and their targets."""

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    _targets: dict[str, tuple[int, ...]]
    _unreadable: Mapping[str, str] = MappingProxyType({})  # ids, and why their annotation cannot be read

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample by its id."""
        raise NotImplementedError

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
        """All that the ground truth depends on, JSON-able.

        Raises:
            SuiteError: If a data set says neither this nor its fingerprint.
        """
        raise SuiteError(
            f"{type(self).__name__} inherits BaseDataset: expected a method _content() that returns all that its "
            "ground truth depends on (ids, boxes, classes), or a fingerprint() of its own; see docs/extending.md."
        )

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

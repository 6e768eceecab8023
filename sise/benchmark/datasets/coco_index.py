"""An index of a COCO annotation file: opening the data set reads a twentieth of it, and an image's objects when asked.

Parsing val2014's annotations takes 2 GB of memory in every process. So the first one that opens the data set writes
down what it has found, below ``outputs``; the others read that. An index belongs to the annotation file's hash and to
the code that reads it: where either changes, a new one is made. It is safe to delete.

An index is one file: the objects, JSON of an image's on one line, then the head, JSON on the last line.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sise.benchmark.records.files import whole

log = logging.getLogger(__name__)

KEPT = ("segmentation", "bbox", "iscrowd", "category_id")
"""What is read of an object; an index holds nothing else of it."""
_FOOTER = 20  # digits of the place where the head begins

Object = dict[str, Any]


class Objects(Mapping[str, list[Object]]):
    """The objects of each image, read from an index when they are asked for.

    The file stays open, so that it may be deleted; a copy in another process opens it again.

    Args:
        file: The index.
        places: Where an image's objects begin in it, and how long they are.
    """

    def __init__(self, file: Path, places: Mapping[str, tuple[int, int]]) -> None:
        self._path, self._places = file, places
        self._file = file.open("rb")

    def __getitem__(self, image_id: str) -> list[Object]:
        start, length = self._places[image_id]
        return json.loads(os.pread(self._file.fileno(), length, start))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __reduce__(self) -> tuple[Any, ...]:
        return Objects, (self._path, self._places)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def index_file(folder: Path, sha256: str, kind: str) -> Path:
    """Where the index of an annotation file lies.

    Args:
        folder: Of indices.
        sha256: Of the annotation file.
        kind: What of it is read, a word for the file's name.
    """
    code = [file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))]  # all that reads data sets
    made_by = hashlib.sha256(b"".join(code)).hexdigest()
    return folder / f"{sha256[:16]}-{kind}-{made_by[:8]}.index"


def write(file: Path, sha256: str, facts: Mapping[str, Any], objects: Mapping[str, list[Object]]) -> bool:
    """Writes an index, and deletes those that other code made of the same file.

    Args:
        file: From :func:`index_file`.
        sha256: Of the annotation file.
        facts: JSON-able: what is to be known when the data set is opened.
        objects: By image.

    Returns:
        Whether it could be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        places, start = {}, 0
        with whole(file) as draft, draft.open("wb") as stream:
            for image_id, found in objects.items():
                kept = [{key: one[key] for key in KEPT if key in one} for one in found]
                line = json.dumps(kept).encode() + b"\n"
                stream.write(line)
                places[image_id] = (start, len(line))
                start += len(line)
            head = {"sha256": sha256, "facts": facts, "places": places}
            stream.write(json.dumps(head).encode() + f"\n{start:0{_FOOTER}d}".encode())
        for old in file.parent.glob(file.name.rpartition("-")[0] + "-*.index"):
            if old != file:
                old.unlink(missing_ok=True)
        return True
    except OSError as error:  # the next one takes as long
        log.info("no index of annotations is kept: %s", error)
        return False


def read(file: Path, sha256: str) -> tuple[dict[str, Any], Objects] | None:
    """The facts and objects of an index.

    Args:
        file: From :func:`index_file`.
        sha256: Of the annotation file as it is now.

    Returns:
        None where there is no index, or it is damaged or of another file.
    """
    try:
        with file.open("rb") as stream:
            stream.seek(-_FOOTER - 1, os.SEEK_END)
            start = int(stream.read())
            stream.seek(start)
            head = json.loads(stream.read()[: -_FOOTER - 1])
        if head["sha256"] != sha256:
            return None
        return head["facts"], Objects(file, {image_id: (at, size) for image_id, (at, size) in head["places"].items()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None

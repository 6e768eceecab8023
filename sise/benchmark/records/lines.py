"""A record as a line of JSON, and back; a torn last line is no record."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

from sise.errors import SuiteError
from sise.types import Record

_ALWAYS = ("image_id", "target", "class", "status")  # what every record has, also one that failed


# records as text ------------------------------------------------------------------------------------------------
def _plain(value: Any) -> Any:
    """NumPy and torch scalars as Python numbers, with the same value."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def dumps(value: Any, what: str) -> str:
    """ASCII JSON on one line; floats as their shortest exact decimal."""
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise SuiteError(f"{what} cannot be written as JSON: {error}") from error


def parsed_record(line: bytes) -> Record:
    """The record in a line.

    Raises:
        ValueError: If it is none, or its image, target or status is of another kind than a record's.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if missing := [key for key in _ALWAYS if key not in record]:
        raise ValueError(f"it has no {', '.join(missing)}")
    if not isinstance(record["image_id"], str) or type(record["target"]) is not int:
        raise ValueError("expected a text as image_id and a whole number as target")
    return record


def line_of(record: Record) -> str:
    who = f"the record of image {record.get('image_id')!r}, target {record.get('target')!r}"
    missing = [key for key in _ALWAYS if key not in record]
    if missing:
        raise SuiteError(f"{who} misses {', '.join(missing)}")
    if not isinstance(record["image_id"], str):
        raise SuiteError(f"{who}: an image_id is a string, so that leading zeros survive")
    if record["status"] not in ("ok", "failed"):
        raise SuiteError(f"{who}: expected status 'ok' or 'failed', got {record['status']!r}")
    for key, value in record.items():
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, float) and not math.isfinite(number):
            raise SuiteError(
                f"{who}: {key} is {number}, and a table could only drop it silently. Return the value that the "
                "metric's definition sets, Value(value, reason) of sise.types (it is listed as 'undefined'), or None."
            )
    return dumps({"image_id": record["image_id"], **record}, who)  # the image first: see whole_lines


def whole_lines(data: bytes, file: Path) -> bytes:
    """``data`` up to the last image that was written whole; warns of what follows, the rest of a torn write.

    An image's records are written together, so that those before a torn one go with it: whether they are all that the
    image has cannot be told.
    """
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return data
    warnings.warn(f"{file}: the last write is torn (a crash?) and is left out", stacklevel=3)
    lines = data[:end].splitlines(keepends=True)
    image = _image_of(data[end:]) or (lines and _image_of(lines[-1]))
    while image and lines and _image_of(lines[-1]) == image:
        lines.pop()
    return b"".join(lines)


def _image_of(line: bytes) -> bytes | None:
    """The image_id of a line, or of what is left of it, as it is written there."""
    found = re.match(rb'\{"image_id": "((?:[^"\\]|\\.)*)"', line)
    return found and found.group(1)

"""How large the published data sets are (PROTOCOL P3), from ``dataset_counts.csv`` among the papers' numbers."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping

from sise.benchmark.places import PUBLISHED
from sise.errors import SuiteError

FILE = "dataset_counts.csv"
"""One row per dataset, kind of count and class, in the classes' order."""


@functools.cache
def tables() -> dict[tuple[str, str], dict[str, int]]:
    """All counts: by dataset and kind, then by class.

    Raises:
        SuiteError: If the file cannot be read.
    """
    found: dict[tuple[str, str], dict[str, int]] = {}
    try:
        with (PUBLISHED / FILE).open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                found.setdefault((row["dataset"], row["kind"]), {})[row["class"]] = int(row["count"])
    except (OSError, KeyError, ValueError) as error:
        raise SuiteError(
            f"expected the published sizes of data sets in {PUBLISHED / FILE} ({error}); it is part of the suite, "
            "restore it"
        ) from error
    return found


def by_class(dataset: str, kind: str) -> Mapping[str, int]:
    """The published counts of a kind ("pairs", "tiles", ...) by class, in the classes' order."""
    return tables()[dataset, kind]


def total(dataset: str, kind: str) -> int:
    """The published count of a kind, of all classes together."""
    return sum(tables()[dataset, kind].values())

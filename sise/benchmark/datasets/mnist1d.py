"""MNIST-1D: ten digits as curves of forty points.

Reference:
    Greydanus, "Scaling down Deep Learning", arXiv 2011.14439.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sise.benchmark.datasets import published_counts
from sise.benchmark.datasets.base import BaseDataset, digest
from sise.errors import SuiteError, choose
from sise.extras import how_to_install
from sise.types import Sample

__all__ = ["CLASSES", "MNIST1D"]

CLASSES = tuple("0123456789")
LENGTH = 40


@functools.cache
def generate() -> Mapping[str, np.ndarray]:
    """The data set of the package mnist1d with its own defaults (seed 42), generated without a download.

    Returns:
        ``x`` (4000, 40) and ``x_test`` (1000, 40) curves, ``y`` and ``y_test`` their digits. The global random
        generators, which the package seeds, are put back.

    Raises:
        SuiteError: If the package is not installed.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise SuiteError(f"dataset=mnist1d needs a small package: {how_to_install('tutorial')}") from error
    states = random.getstate(), np.random.get_state()
    try:
        made = make_dataset(get_dataset_args())
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return {key: made[key] for key in ("x", "y", "x_test", "y_test")}


class MNIST1D(BaseDataset):
    """The curves as a data set of the suite; an image is a (40,) float array, its one target the digit.

    There is no annotated region: masks cover the whole curve.

    Args:
        part: "test" (1000 curves) or "train" (4000).
        name: Name in configs and tables.

    Raises:
        SuiteError: If the package mnist1d is not installed.
    """

    classes = CLASSES

    def __init__(self, part: str = "test", *, name: str = "mnist1d") -> None:
        choose("part", part, ("test", "train"))
        data, suffix = generate(), "_test" if part == "test" else ""
        self.name, self.part = name, part
        self.curves, self.digits = data[f"x{suffix}"], data[f"y{suffix}"].tolist()
        self.ids = tuple(f"{number:04d}" for number in range(len(self.digits)))
        self._targets = {image_id: (digit,) for image_id, digit in zip(self.ids, self.digits, strict=True)}

    def __getitem__(self, image_id: str) -> Sample:
        """One curve.

        Raises:
            SuiteError: If the id is unknown.
        """
        targets = self.targets_of(image_id)
        return Sample(image_id, self.curves[int(image_id)], targets, np.ones((1, LENGTH), dtype=bool))

    def verify_counts(self) -> tuple[bool, str]:
        """Whether these are the course's test curves, as far as their numbers per digit tell."""
        counts = Counter(self.digits)
        known = published_counts.by_class("mnist1d", "curves")  # the same generator made the same data
        if self.part == "test" and {digit: counts[int(digit)] for digit in CLASSES} != known:
            return False, f"other curves than the course's: {dict(sorted(counts.items()))} per digit"
        return True, f"{len(self.digits)} curves"

    def _content(self) -> Sequence[Any]:
        """Ids, digits and, to three decimals, where each curve begins and ends."""
        ends = np.round(self.curves[:, [0, -1]], 3) + 0.0
        return [self.part, self.digits, digest(ends.tolist())]

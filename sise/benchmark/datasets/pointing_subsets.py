"""Which (image, class) pairs the pointing game counts: all that are not marked difficult, and the hard ones of them.

TorchRay's benchmark plays it on two subsets. ALL leaves out the pairs all of whose objects the data set marks
difficult. DIF keeps, of these, the pairs that TorchRay's lists name. The lists follow from one rule: the class covers
less than a quarter of the image, and the image has another class. So other data sets have the subset too (PROTOCOL G4).

Reference:
    Zhang et al., "Top-down neural attention by excitation backprop", IJCV 2018, section 4.2; TorchRay 1.0.0.2.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Sequence

import numpy as np

from sise.types import Sample

LISTS = {"voc2007": "pointing_game_ebp_voc07_difficult.txt", "coco2014": "pointing_game_ebp_coco_difficult.txt"}
"""The files of TorchRay that name the pairs of DIF, by data set."""
SUBSETS = ("ALL", "DIF", "ALL/P", "DIF/P")
"""Also the last word of a table's metric that is of a subset's pairs alone, as "Pointing game DIF". P: of these, the
pairs whose class the network predicts."""
SMALL = 0.25
"""Share of the image below which a class is small."""


@functools.cache
def difficult_flags(dataset: str) -> dict[str, list[bool]]:
    """The pairs of TorchRay's lists.

    Args:
        dataset: A key of :data:`LISTS`.

    Returns:
        A flag per class, in TorchRay's order, by image id.
    """
    text = (importlib.resources.files("torchray.benchmark") / LISTS[dataset]).read_text(encoding="ascii")
    rows = (line.split("\t") for line in text.splitlines())
    return {row[0].removeprefix("COCO_val2014_"): [flag.strip() == "1" for flag in row[1:]] for row in rows}


def difficult_by_rule(shares: Sequence[float], hard: Sequence[bool]) -> list[bool]:
    """The pairs of one image that are in DIF, by the rule that TorchRay's lists follow.

    On VOC 2007 the rule gives every flag of the lists, on COCO all but about one in five hundred.

    Args:
        shares: Of each class of the image, the share of the image that its objects cover.
        hard: Whether all objects of the class are marked difficult; such a class takes no part.

    Returns:
        Per class, whether it takes part, is small, and is not the only one that takes part.
    """
    several = sum(not difficult for difficult in hard) >= 2
    return [several and not difficult and share < SMALL for share, difficult in zip(shares, hard, strict=True)]


def split(metric: str) -> tuple[str, str]:
    """A table's metric -> its name in records, and the subset whose pairs it is of; "" for all pairs."""
    name, _, subset = metric.rpartition(" ")
    return (name, subset) if subset in SUBSETS and name else (metric, "")


def subsets_of(sample: Sample, target: int, dataset: str, *, predicted: bool = False) -> list[str]:
    """The subsets a pair belongs to.

    Args:
        sample: The image with its masks.
        target: Class index in the data set.
        dataset: Its name; TorchRay's lists hold for their own data sets, the rule for others. Images that a list does
            not have count in full, as in TorchRay.
        predicted: Whether the network predicts the class.

    Returns:
        Of :data:`SUBSETS` those it belongs to; none for a class that is not annotated.
    """
    if target not in sample.targets:
        return []
    place = sample.targets.index(target)
    hard = list(sample.info.get("difficult", [False] * len(sample.targets)))
    if hard[place]:
        return []
    if dataset in LISTS:
        flags = difficult_flags(dataset)
        named = sample.image_id not in flags or flags[sample.image_id][target]
    else:
        masks = np.asarray(sample.masks, dtype=bool).reshape(len(sample.targets), -1)
        named = difficult_by_rule(masks.mean(axis=1).tolist(), hard)[place]
    found = ["ALL", "DIF"] if named else ["ALL"]
    return found + [f"{subset}/P" for subset in found if predicted]

"""Audit V7: the pointing game's centre row, from annotations alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from sise.benchmark.datasets.pointing_subsets import LISTS, difficult_by_rule, difficult_flags
from sise.benchmark.run.session import readable
from sise.benchmark.studies.audits.context import Audit, Bench
from sise.benchmark.tables import statistics
from sise.errors import SuiteError
from sise.metrics import pointing

__all__ = ["centre_pairs", "pointing_accuracy", "pointing_hit"]


# --- V7: the pointing game of the centre ------------------------------------------------------------------------------
def pointing_hit(mask: np.ndarray, point: tuple[float, float], tolerance: float = 15) -> bool:
    """Whether a (H, W) bool mask has a pixel nearer than the tolerance to a point (x, y)."""
    return pointing.hits(torch.from_numpy(mask), point, tolerance)


def centre_pairs(dataset: Any, ids: Sequence[str], left_out: dict[str, str] | None = None) -> pd.DataFrame:
    """What the pointing game of the image's centre, (W/2, H/2), needs to know of every pair.

    Args:
        dataset: Its ground truth is asked for, pictures only where that needs them.
        ids: Which images.
        left_out: Takes the images that cannot be read, see :func:`sise.benchmark.run.session.readable`.

    Returns:
        One row per pair: ``image_id``, ``target``; ``hit`` (see `pointing_hit`); ``all`` and ``dif``, whether TorchRay
        counts it in its whole and in its difficult set (not if the data set marks all its objects difficult; the latter
        has what its list names, and all of images that the list lacks); and the percentage of the image that its
        ``mask`` and its ``boxes`` cover.

    Raises:
        SuiteError: If the data are no images.
    """
    flags = difficult_flags(dataset.name) if dataset.name in LISTS else {}
    rows = []
    ids = [image_id for image_id in ids if dataset.targets_of(image_id)]  # others' annotation cannot be read

    def read(image_id: str) -> tuple[str, np.ndarray, dict[str, Any]]:
        return image_id, *dataset.ground_truth_of(image_id)

    for image_id, masks, info in readable(dataset, ids, f"{dataset.name}: centre", left_out, read):
        targets = dataset.targets_of(image_id)
        hard = info.get("difficult", [False] * len(targets))
        boxes = info.get("boxes", [()] * len(targets))
        for target, mask, difficult, group in zip(targets, masks, hard, boxes, strict=True):
            if mask.ndim != 2:
                raise SuiteError(
                    f"audit=V7 asks for the centre of images; dataset={dataset.name} has none: choose another"
                )
            inside = np.zeros_like(mask)
            for x0, y0, x1, y1 in group:
                inside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
            hit = pointing_hit(mask, (mask.shape[1] / 2, mask.shape[0] / 2))
            named = image_id not in flags or flags[image_id][target]
            areas = (100 * mask.mean(), 100 * inside.mean())
            rows.append((image_id, target, hit, not difficult, not difficult and named, *areas))
    return pd.DataFrame(rows, columns=["image_id", "target", "hit", "all", "dif", "mask", "boxes"])


def _by_rule(pairs: pd.DataFrame) -> pd.Series:
    """Whether each pair of `centre_pairs`, with the boxes of all objects, is in the DIF set by its rule."""
    found = pd.Series(False, pairs.index)
    for _, of_image in pairs.groupby("image_id"):
        shares, hard = (of_image["boxes"] / 100).tolist(), (~of_image["all"]).tolist()
        found[of_image.index] = difficult_by_rule(shares, hard)
    return found


def pointing_accuracy(pairs: pd.DataFrame, draws: int = 200) -> tuple[float, float]:
    """Percent of hits, mean over classes, and its standard error: the spread of as many draws of the images."""
    hits = pairs.pivot_table(index="image_id", columns="target", values="hit", aggfunc="sum", fill_value=0).to_numpy()
    seen = pairs.pivot_table(index="image_id", columns="target", values="hit", aggfunc="size", fill_value=0).to_numpy()
    images = len(hits)
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=draws)
    with np.errstate(invalid="ignore"):  # a class that was not drawn takes no part
        spread = np.nanmean((drawn @ hits) / (drawn @ seen), axis=1)
    return 100 * float((hits.sum(0) / seen.sum(0)).mean()), 100 * float(spread.std(ddof=1))


def v7(bench: Bench) -> Audit:
    """The centre's pointing game, which needs no network, and what masks and boxes cover: a check of the data."""
    name, pairs = bench.dataset.name, centre_pairs(bench.dataset, bench.ids, bench.left_out)
    rows = []
    for subset in ("all", "dif") if name in LISTS else ("all",):
        chosen = pairs[pairs[subset]]
        value, error = pointing_accuracy(chosen) if len(chosen) else (math.nan, math.nan)
        known = bench.centre.get(subset.upper())
        rows.append((f"pointing game, {subset.upper()}", len(chosen), value, error, known))
    for kind in ("mask", "boxes"):
        areas = pairs.set_index("image_id")[kind]
        error = statistics.clustered_standard_error(*statistics.per_image(areas))
        rows.append((f"area of the {kind}", len(areas), areas.mean(), error, None))
    table = pd.DataFrame(rows, columns=["percent", "pairs", "measured", "standard error", "published"])
    table["published"] = table["published"].astype(float)
    known, area = table.dropna(subset="published"), table["measured"].iloc[-2]
    if bench.whole and not bench.incomplete(annotations=True):
        same = len(known) and (known["measured"].round(1) == known["published"]).all()
        verdict = "these are the published numbers" if same else "NOT the published numbers: check images and boxes"
    else:
        near = ((known["measured"] - known["published"]).abs() <= 2 * known["standard error"]).all()
        verdict = f"the published numbers are {'' if near else 'NOT '}within 2 standard errors of this part's"
    if name == "coco2014":  # PROTOCOL T5: of segmentations and boxes, only the former fit RISE's EBPG
        least = min(bench.published(network, "RISE")["EBPG"] for network in ("vgg16", "resnet50"))
        fits = "it is" if area < least else "it is NOT"
        verdict += f"; the area of the masks must be below RISE's published EBPG, {least:g}: {fits}"
    if name == "voc2007":
        differ = int((_by_rule(pairs) != pairs["dif"]).sum())
        follow = "all follow" if differ == 0 else f"{differ} do NOT follow"
        verdict += f"; of TorchRay's flags of the DIF set {follow} from the boxes by its rule"
    table = table.round({"measured": 3, "standard error": 2})
    question = "Does the centre of the image score as published (mean over classes, tolerance 15 pixels)?"
    return Audit("V7", question, table, table, verdict)

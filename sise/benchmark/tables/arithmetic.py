"""Arithmetic that every produced table must obey (docs/protocol.md, T1 to T5): a violation means a bug, not a finding.

T4, Table 6's column for μ = 0 is Table 1's SISE, needs no check: both are made of the same run's records.

A table is a pandas DataFrame of percent, one row per cell and one column per metric, named as in the records;
the row's index names the cell in messages. Missing columns and NaN are cells that were not run, and are
skipped. ``tolerance`` is in percentage points: leave it for means of unrounded records, 0.01 for ones rounded to
2 decimals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sise.errors import SuiteError
from sise.metrics.checks import pixel_count

FEWEST_PIXELS = 100 * 100
"""Of an image whose size is not known: a network's input has as many at least."""


def check(
    cells: pd.DataFrame,
    *,
    uniform: pd.DataFrame | None = None,
    above_uniform: bool = False,
    mask_fractions: Sequence[float] = (),
    fraction: float = 0.20,
    pixels: int | None = None,
    tolerance: float = 1e-4,
) -> list[str]:
    """All checks that apply.

    Args:
        cells: The table, percent. All cells of one dataset, where ``mask_fractions`` are given.
        uniform: The rows of the uniform control, if it was run.
        above_uniform: Also check T5, which is of COCO.
        mask_fractions: Per pair, the mask's share of the image (a fraction); empty = T2, T3 and T5 are not
            checked.
        fraction: mIoU's share of salient pixels.
        pixels: Pixels per image; None = not known, no fewer than :data:`FEWEST_PIXELS`.
        tolerance: Percentage points.

    Returns:
        One sentence per violation.
    """
    found = check_drop_increase(cells, tolerance=tolerance)
    if len(mask_fractions):
        if uniform is not None:
            found += check_uniform(uniform, mask_fractions, tolerance=tolerance)
        found += check_miou(cells, mask_fractions, fraction=fraction, pixels=pixels, tolerance=tolerance)
        if above_uniform:
            found += check_above_uniform(cells, mask_fractions)
    return found


def check_drop_increase(cells: pd.DataFrame, *, tolerance: float = 1e-4) -> list[str]:
    """T1: Drop% ≤ 100 − Increase%, as a pair that gained has not dropped and none drops by more than 100 %.

    Holds for confidences that are probabilities; a logit can drop by more than itself.
    """
    if not {"Drop%", "Increase%"} <= set(cells):
        return []
    return [
        f"T1: {_name(index)}: Drop% {drop:.2f} exceeds 100 − Increase% = {100 - gain:.2f}"
        for index, drop, gain in zip(cells.index, cells["Drop%"], cells["Increase%"], strict=True)
        if drop > 100 - gain + tolerance
    ]


def check_uniform(cells: pd.DataFrame, mask_fractions: Sequence[float], *, tolerance: float = 1e-4) -> list[str]:
    """T2: EBPG and Bbox of the uniform map are the mean of the masks' share of the image."""
    expected = 100 * float(_fractions(mask_fractions).mean())
    return [
        f"T2: {_name(index)}: {metric} {value:.2f} of the uniform map is not the mean mask fraction {expected:.2f}"
        for metric in ("EBPG", "Bbox")
        if metric in cells
        for index, value in cells[metric].items()
        if abs(value - expected) > tolerance
    ]


def check_above_uniform(cells: pd.DataFrame, mask_fractions: Sequence[float]) -> list[str]:
    """T5: on COCO an explainer's EBPG exceeds the masks' mean share of the image, as all published ones do.

    One that does not is broken, or the masks are not the segmentations: boxes would be larger than RISE's 11.35.
    """
    expected = 100 * float(_fractions(mask_fractions).mean())
    return [
        f"T5: {_name(index)}: EBPG {value:.2f} does not exceed the mean mask fraction {expected:.2f}"
        for index, value in cells.get("EBPG", pd.Series(dtype=float)).items()
        if value <= expected
    ]


def check_miou(
    cells: pd.DataFrame,
    mask_fractions: Sequence[float],
    *,
    fraction: float = 0.20,
    pixels: int | None = None,
    tolerance: float = 1e-4,
) -> list[str]:
    """T3: mIoU is at most its ceiling on these pairs (see :func:`miou_ceiling`).

    Without ``pixels`` the ceiling is that of the image size whose rounded count of salient pixels suits each mask best.
    """
    if "mIoU" not in cells:
        return []
    if pixels is None:
        masks = _fractions(mask_fractions)
        salient = np.clip(masks, fraction - 1 / FEWEST_PIXELS, fraction)
        ceiling = 100 * float((np.minimum(masks, salient) / np.maximum(masks, salient)).mean())
    else:
        ceiling = miou_ceiling(mask_fractions, fraction=fraction, pixels=pixels)
    return [
        f"T3: {_name(index)}: mIoU {value:.2f} exceeds its ceiling {ceiling:.2f}"
        for index, value in cells["mIoU"].items()
        if value > ceiling + tolerance
    ]


def miou_ceiling(mask_fractions: Sequence[float], *, fraction: float = 0.20, pixels: int = 224 * 224) -> float:
    """The highest mIoU, percent, that any map can reach: the mean of min(n, |G|) / max(n, |G|).

    Args:
        mask_fractions: Per pair, the mask's share of the image.
        fraction: Share of the image called salient.
        pixels: Pixels per image; n = int(fraction · pixels).
    """
    masks = _fractions(mask_fractions)
    salient = pixel_count(fraction, pixels) / pixels
    larger = np.maximum(np.maximum(masks, salient), 1 / pixels)  # not 0, also if both are empty
    return 100 * float((np.minimum(masks, salient) / larger).mean())


def _fractions(mask_fractions: Sequence[float]) -> np.ndarray:
    masks = np.asarray(mask_fractions, dtype=float)
    if masks.size == 0 or not ((masks >= 0) & (masks <= 1)).all():
        raise SuiteError(
            f"mask_fractions must be one fraction in [0, 1] per pair, got {masks.size} values"
            + (f" from {masks.min()} to {masks.max()}; divide percent by 100" if masks.size else "")
        )
    return masks


def _name(index: object) -> str:
    return " / ".join(map(str, index)) if isinstance(index, tuple) else str(index)

"""Audits of the networks' accuracy: U1 and V4."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sise.benchmark.models.preprocessing import CAFFE_MEAN, GEOMETRIES, Preprocessing
from sise.benchmark.run.session import readable
from sise.benchmark.studies.audits.context import Audit, Bench

__all__ = ["accuracy_grid", "hits", "top_hits"]

RESAMPLES = ("lanczos", "bilinear", "nearest")
RANGES = ("mean-sub", "raw255")
CHANNELS = ("RGB", "BGR")


# --- U1: accuracies ---------------------------------------------------------------------------------------------------
def top_hits(scores: Tensor, targets: Sequence[int], k: int = 5) -> tuple[bool, int]:
    """PROTOCOL P1, P2: whether the best of (K,) scores is a target, and how many targets are among the best k."""
    best = scores.topk(min(k, len(scores))).indices.tolist()
    return best[0] in targets, sum(target in best for target in targets)


def hits(network: nn.Module, inputs: Tensor, targets: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(top-1 images, top-5 pairs) of a batch of inputs (N, 3, H, W) with the targets of each."""
    with torch.no_grad():
        found = [top_hits(s, t) for s, t in zip(network(inputs).float().cpu(), targets, strict=True)]
    return sum(first for first, _ in found), sum(pairs for _, pairs in found)


def accuracy_grid(
    dataset: Any,
    classes: Sequence[str],
    networks: dict[str, nn.Module],
    *,
    ids: Sequence[str],
    device: torch.device,
    size: int = 224,
    batch: int = 8,
    left_out: dict[str, str] | None = None,
) -> tuple[pd.DataFrame, int, int]:
    """Hits under every preprocessing.

    Args:
        dataset: Images and targets.
        classes: Of the networks' scores.
        networks: By geometry (``shorter_side`` needs one that takes any input size).
        ids: Which images.
        device: Where to run.
        size: Of the network's input.
        batch: Images at once; each is seen in four value ranges.
        left_out: Takes the images that cannot be read, see :func:`sise.benchmark.run.session.readable`.

    Returns:
        Rows with geometry, resample, range, channels, top-1 and top-5 hits; images and pairs seen.
    """
    outputs = {name: i for i, name in enumerate(classes)}
    mean = torch.tensor(CAFFE_MEAN, device=device).view(1, 3, 1, 1)
    counts: dict[tuple, np.ndarray] = defaultdict(lambda: np.zeros(2, dtype=np.int64))
    images = pairs = 0
    waiting: dict[tuple, list[tuple[Tensor, list[int]]]] = defaultdict(list)

    def flush(key: tuple) -> None:
        geometry, resample, _ = key
        pixels = torch.stack([x for x, _ in waiting[key]]).to(device)
        targets = [t for _, t in waiting.pop(key)]
        for kind in RANGES:
            values = pixels - mean if kind == "mean-sub" else pixels
            for order in CHANNELS:
                inputs = values.flip(1) if order == "BGR" else values
                counts[geometry, resample, kind, order] += hits(networks[geometry], inputs, targets)

    for network in {id(n): n for n in networks.values()}.values():
        network.to(device)
    plain = {
        (geometry, resample): Preprocessing(size=(size, size), geometry=geometry, resample=resample, mean=(0, 0, 0))
        for geometry in networks
        for resample in RESAMPLES
    }
    known = {i: [outputs[name] for t in dataset.targets_of(i) if (name := dataset.classes[t]) in outputs] for i in ids}
    for sample in readable(dataset, [i for i in ids if known[i]], f"{dataset.name}: accuracies", left_out):
        targets = known[sample.image_id]
        images, pairs = images + 1, pairs + len(targets)
        for (geometry, resample), preprocess in plain.items():
            x = preprocess(sample.image)
            key = (geometry, resample, tuple(x.shape))
            waiting[key].append((x, targets))
            if len(waiting[key]) >= (1 if geometry == "shorter_side" else batch):
                flush(key)
    for key in list(waiting):
        flush(key)
    rows = [(*cell, int(one), int(five)) for cell, (one, five) in counts.items()]
    return pd.DataFrame(rows, columns=[*_CELLS, "top-1", "top-5"]), images, pairs


def published_hits(percent: float, pairs: int) -> tuple[int, int]:
    """The smallest and the largest number of hits that a percentage of pairs, given to two decimals, may stand for."""
    exact = Fraction(str(percent))
    low, high = ((exact + half) * pairs / 100 for half in (Fraction(-1, 200), Fraction(1, 200)))
    return math.ceil(low), math.ceil(high) - 1


def _distance(value: int, interval: tuple[int, int]) -> int:
    return max(interval[0] - value, value - interval[1], 0)


_CELLS = ["geometry", "resample", "range", "channels"]
_SHOWN = 6


def u1(bench: Bench) -> Audit:
    """Which preprocessing yields the published accuracies, to the integer."""
    tables, wide = [], []
    for name in bench.cfg.models:
        networks = {geometry: bench.model(name, geometry == "shorter_side").network for geometry in GEOMETRIES}
        rows, images, pairs = accuracy_grid(
            bench.dataset, bench.model(name).classes, networks, ids=bench.ids, device=bench.device,
            left_out=bench.left_out,
        )  # fmt: skip
        of_model = rows.set_index(_CELLS)
        rows.insert(0, "model", name)
        rows["top-1 % of images"] = (100 * rows["top-1"] / images).round(2)
        rows["top-1 % of pairs"] = (100 * rows["top-1"] / pairs).round(2)
        rows["top-5 %"] = (100 * rows["top-5"] / pairs).round(2)
        known = bench.accuracies(name) if bench.whole else {}
        for column in ("top-1", "top-5"):
            heading = f"{name} {column}"
            if f"{column} accuracy" in known:
                interval = published_hits(known[f"{column} accuracy"], pairs)
                rows[f"published {column}"] = "-".join(map(str, dict.fromkeys(interval)))
                rows[f"{column} off by"] = [_distance(value, interval) for value in rows[column]]
                heading += f" [{rows[f'published {column}'][0]}]"
            wide.append(of_model[column].rename(heading))
        tables.append(rows)
    rows = pd.concat(tables, ignore_index=True)
    compared = "top-1 off by" in rows
    score = rows["top-1 off by"] + rows["top-5 off by"] if compared else -(rows["top-1"] + rows["top-5"])
    score = score.groupby([rows[c] for c in _CELLS], sort=False).sum().sort_values(kind="stable")
    shown = pd.concat(wide, axis=1).loc[score.index[:_SHOWN]].reset_index()
    question = f"Which preprocessing yields the published accuracies? (The best {_SHOWN} of {len(score)}.)"
    if compared:
        verdict = _u1_verdict(score)
    elif bench.whole:
        verdict = "no published accuracies for this dataset"
    else:
        verdict = f"{len(bench.ids)} of {len(bench.dataset.ids)} images: integers can only be compared on all"
    return Audit("U1", question, rows, shown, verdict)


def _u1_verdict(score: pd.Series) -> str:
    """Of the sums of distances by preprocessing, ascending."""
    best = score.iloc[0]
    closest = [" / ".join(cell) for cell, off in score.items() if off == best]
    geometry, resample, kind, channels = score.index[0]
    mean = "[0,0,0]" if kind == "raw255" else f"[{','.join(map(str, CAFFE_MEAN))}]"
    settings = f"protocol.geometry={geometry} protocol.resample={resample} protocol.caffe_mean={mean}"
    settings += " protocol.fully_convolutional=true" if geometry == "shorter_side" else ""
    settings += " +model.loader.preprocessing.channels=BGR" if channels == "BGR" else ""
    found = "exactly the published integers" if best == 0 else f"off by {best} hits in all, NOT the published integers"
    return f"closest: {'; '.join(closest)}: {found}. To use it: {settings}"


# --- V4: the largest accuracies ---------------------------------------------------------------------------------------
def largest_hits(labels: Iterable[Sequence[int]]) -> tuple[int, int, int]:
    """(top-1 hits, top-5 hits, pairs) of a network that errs nowhere, given the classes of each image.

    One class of an image is best, so top-1 counts images; five of an image's classes are among the best five.
    """
    counts = [len(of_image) for of_image in labels if of_image]
    return len(counts), sum(min(5, count) for count in counts), sum(counts)


def v4(bench: Bench) -> Audit:
    """The largest accuracies that any network could have, which need no network: a check of the labels."""
    one, five, pairs = largest_hits(bench.dataset.targets_of(image_id) for image_id in bench.ids)
    known = bench.accuracies("any")
    rows = [(kind, hits, pairs, round(100 * hits / pairs, 3), known.get(f"{kind} accuracy", math.nan))
            for kind, hits in (("top-1", one), ("top-5", five))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["largest accuracy", "hits", "pairs", "measured", "published"])
    if not bench.whole or bench.incomplete(annotations=True) or table["published"].isna().any():
        verdict = "the published numbers can only be compared on all of the data set"
    else:
        known_hits = [published_hits(value, pairs) for value in table["published"]]
        same = all(low <= hits <= high for hits, (low, high) in zip(table["hits"], known_hits, strict=True))
        verdict = "these are the published numbers" if same else "NOT the published numbers: check the labels"
    question = "Are the largest accuracies, of a network that errs nowhere, the published ones (percent of pairs)?"
    return Audit("V4", question, table, table, verdict)

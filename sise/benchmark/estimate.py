"""The hours of an experiment on this machine, before it starts.

A few images are explained for real, but for two things that only repeat themselves: once the time of a masked pass is
known, masked passes are counted instead of made, and Extremal Perturbation runs a few of its iterations.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sise.benchmark import runner
from sise.benchmark.records import RunFolder
from sise.benchmark.subjects import readable
from sise.benchmark.timing import synchronise
from sise.probe import Probe
from sise.scoring import Scorer, Segment

ITERATIONS = 5
"""Of Extremal Perturbation, per image."""


class CountingScorer(Scorer):
    """Makes passes until it knows how long one takes; from then on it counts them and repeats earlier scores.

    Attributes:
        limit: Seconds of passes after which it knows.
        measured, seconds: Passes made, and their time.
        skipped: Passes counted only.
    """

    limit = 5.0
    measured = 0
    seconds = 0.0
    skipped = 0
    _example: Tensor | None = None

    @property
    def seconds_per_pass(self) -> float:
        """Of what was made so far; 0 before the first."""
        return self.seconds / self.measured if self.measured else 0.0

    def score(self, segments: Sequence[Segment]) -> Tensor:
        total = sum(len(s.maps) for s in segments)
        if self._example is not None and self.seconds >= self.limit:
            self.skipped += total
            return self._repeat(total)
        batch = self._batch_size(segments[0].image, total)
        room = 4 * batch  # the first call of many masks must not take minutes
        some: list[Segment] = []
        for segment in segments:
            if room > 0 and len(segment.maps):
                some.append(Segment(segment.image, segment.maps[:room], segment.fill, segment.mode))
                room -= len(some[-1].maps)
        if self._example is None:
            super().score([Segment(some[0].image, some[0].maps[:1], some[0].fill, some[0].mode)])  # warms up
        synchronise(segments[0].image.device)
        begun = time.perf_counter()
        scores = super().score(some)
        synchronise(segments[0].image.device)
        if len(scores) >= min(batch, 16) or self._example is None:
            self.seconds += time.perf_counter() - begun
            self.measured += len(scores)
        if self._example is None or len(scores) > len(self._example):
            self._example = scores
        self.skipped += total - len(scores)
        return scores if len(scores) == total else torch.cat([scores, self._repeat(total - len(scores))])

    @property
    def exact(self) -> CountingScorer:
        return self

    def _repeat(self, count: int) -> Tensor:
        return self._example[torch.arange(count, device=self._example.device) % len(self._example)]


def estimate(cells: Sequence[runner.Cell], seconds: float = 60.0, limit: int | None = None) -> pd.DataFrame:
    """Measures a few images and multiplies by what is missing; writes no record.

    Args:
        cells: From :func:`sise.benchmark.runner.make_cells`.
        seconds: Time to take in all; every explainer is measured on one image at least, which may take longer.
        limit: First N images only, as in :func:`sise.benchmark.runner.run`.

    Returns:
        One row per cell and a last one with the sums: ``dataset``, ``model``, ``explainer``, ``variant``, ``images``
        measured, ``alone`` and ``shared`` (seconds per image on a probe of its own, and after the cells before it
        on a shared one), ``missing`` images, ``hours alone``, ``hours shared``.
    """
    for cell in cells:
        if cell.path.exists():
            cell.remember(RunFolder(cell.path, cell.identity()).read())
    groups: dict[str, list[runner.Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.probe_key(), []).append(cell)
    rows = [row for group in groups.values() for row in _estimate_group(group, seconds / len(groups), limit)]
    names = ["dataset", "model", "explainer", "variant", "images", "alone", "shared", "missing"]
    frame = pd.DataFrame(rows, columns=names)
    frame["hours alone"] = frame["alone"] * frame["missing"] / 3600
    frame["hours shared"] = frame["shared"] * frame["missing"] / 3600
    frame.loc[len(frame)] = {"explainer": "all", "hours alone": frame["hours alone"].sum(),
                             "hours shared": frame["hours shared"].sum()}  # fmt: skip
    return frame


def report(frame: pd.DataFrame) -> str:
    """The estimate as text."""
    shown = frame.copy()
    for column in ("alone", "shared"):
        shown[column] = ["" if pd.isna(v) else f"{v:.3g}" for v in frame[column]]
    for column in ("images", "missing"):
        shown[column] = ["" if pd.isna(v) else f"{v:.0f}" for v in frame[column]]
    for column in ("hours alone", "hours shared"):
        shown[column] = [f"{v:.2f}" if v >= 0.1 else f"{v:.2g}" for v in frame[column]]
    shown = shown.fillna("").rename(columns={"alone": "s/image alone", "shared": "s/image shared"})
    return (
        shown.to_string(index=False)
        + "\n\nAlone: each explainer on probes of its own. Shared: after the explainers above it, as this command does."
        + "\nMasked passes beyond the first few are counted, not made, and Extremal Perturbation makes few iterations."
        + "\nWith a filled score cache it takes less."
    )


def _estimate_group(cells: list[runner.Cell], seconds: float, limit: int | None) -> list[dict[str, Any]]:
    dataset, model = cells[0].dataset, cells[0].model
    missing = {c.name: [i for i in dataset.ids[:limit] if c.missing(i)] for c in cells}
    wanted = sorted({i for ids in missing.values() for i in ids}, key=dataset.ids.index)
    device = runner.choose_device(cells[0].cfg.device)
    scorer = runner.make_scorer(model.network.to(device), cells[0].cfg.engine, kind=CountingScorer)
    scorer.limit = max(1.0, seconds / 6)
    found: dict[str, list[tuple[float, float]]] = {c.name: [] for c in cells}
    metrics: list[float] = []
    count = min(20, len(wanted))
    chosen = [wanted[i * len(wanted) // count] for i in range(count)]
    begun = 0.0
    for turn, sample in enumerate(readable(dataset, chosen, f"estimating {dataset.name} × {model.name}")):
        if turn == 0:  # the first passes of all are slow
            runner.make_probe(cells[0], sample, scorer, device).image_gradient(0)
            begun = time.perf_counter()
        elif time.perf_counter() - begun > seconds * turn / (turn + 1):
            break  # another one would take longer than there is
        probe = runner.make_probe(cells[0], sample, scorer, device)
        explained = []
        for cell in cells:
            every = cell.cfg.protocol.targets == "all"
            targets = cell.pairs(sample.image_id) if every else runner.targets_to_explain(cell, sample, probe)
            outputs = [cell.outputs[cell.dataset.classes[t]] for t in targets]
            if not outputs or not missing[cell.name]:
                continue
            saliency, alone, shared = _measure(cell, probe, outputs, scorer)
            found[cell.name].append((alone, shared))
            explained.append((cell, targets, saliency, {}))
        if explained:
            metrics.append(_measure_metrics(explained, sample, probe, scorer))
    rows = []
    for cell in cells:
        times = found[cell.name]
        alone, shared = (sum(t[i] for t in times) / max(1, len(times)) for i in (0, 1))
        row = {"images": len(times), "alone": alone, "shared": shared, "missing": len(missing[cell.name])}
        rows.append(_about(cell) | row)
    each = sum(metrics) / max(1, len(metrics))
    row = {"explainer": "(metrics)", "variant": "", "images": len(metrics), "alone": each, "shared": each}
    return [*rows, _about(cells[0]) | row | {"missing": len(wanted)}]


def _about(cell: runner.Cell) -> dict[str, Any]:
    names = cell.dataset.name, cell.cfg.model.name, cell.cfg.explainer.name, cell.cfg.variant
    return dict(zip(("dataset", "model", "explainer", "variant"), names, strict=True))


def _measure(
    cell: runner.Cell, probe: Probe, outputs: list[int], scorer: CountingScorer
) -> tuple[Tensor, float, float]:
    """Explains one image: (saliency, seconds on a fresh probe, seconds on this one)."""
    explainer, scale = shortened(cell.explainer)
    skipped, forward, backward = scorer.skipped, probe.forward_passes, probe.backward_passes
    synchronise(probe.device)
    begun = time.perf_counter()
    with probe.bill() as bill:
        saliency = explainer(probe, outputs)
    synchronise(probe.device)
    wall = time.perf_counter() - begun
    shared = (wall + (scorer.skipped - skipped) * scorer.seconds_per_pass) * scale
    # what the explainer found in the probe's memory; a backward pass takes about two forward passes
    reused = bill.forward - (probe.forward_passes - forward) + 2 * (bill.backward - (probe.backward_passes - backward))
    return saliency, shared + reused * scorer.seconds_per_pass, shared


def _measure_metrics(explained: list[tuple], sample: Any, probe: Probe, scorer: CountingScorer) -> float:
    skipped = scorer.skipped
    begun = time.perf_counter()
    runner.remember_faithfulness_passes(explained, probe)
    for cell, targets, saliency, costs in explained:
        for target, one in zip(targets, saliency, strict=True):
            runner.make_record(cell, sample, probe, target, one, costs)
    synchronise(probe.device)
    return time.perf_counter() - begun + (scorer.skipped - skipped) * scorer.seconds_per_pass


def shortened(explainer: Any) -> tuple[Any, float]:
    """An explainer with few iterations, and by what its time is to be multiplied; unchanged if it has none."""
    options = getattr(explainer, "keywords", None) or {}
    full = options.get("max_iter")
    if not full or full <= ITERATIONS:
        return explainer, 1.0
    short = functools.partial(explainer.func, *explainer.args, **options | {"max_iter": ITERATIONS})
    return short, (full - 1) / (ITERATIONS - 1)

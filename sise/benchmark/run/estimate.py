"""The hours of an experiment on this machine, before it starts.

A few images are explained for real, but for two things that only repeat themselves: once the time of a masked pass is
known, masked passes are counted instead of made, and Extremal Perturbation runs a few of its iterations.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from sise.benchmark.records.departures import budget_of
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.store import read
from sise.benchmark.run import probing, scoring, shards
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.counting_scorer import CountingScorer
from sise.benchmark.run.pair_facts import Pairs
from sise.benchmark.run.session import readable
from sise.devices import synchronise
from sise.probe.probe import Probe
from sise.types import Explainer

ITERATIONS = 5
"""Of Extremal Perturbation, per image."""


def estimate(cells: Sequence[Cell], seconds: float = 60.0, limit: int | None = None) -> pd.DataFrame:
    """Measures a few images and multiplies by what is missing; writes no record.

    Args:
        cells: From :func:`sise.benchmark.run.cells.make_cells`.
        seconds: Time to take in all; every explainer is measured on one image at least, which may take longer.
        limit: First N images only, as in :func:`sise.benchmark.run.runner.run`.

    Returns:
        One row per cell and a last one with the sums: ``dataset``, ``model``, ``explainer``, ``variant``, ``images``
        measured, ``alone`` and ``shared`` (seconds per image on a probe of its own, and after the cells before it
        on a shared one), ``missing`` images, ``hours alone``, ``hours shared``.
    """
    for cell in cells:
        if cell.path.exists():
            cell.recall(read(RunFolder(cell.path, cell.identity())))
    groups: dict[str, list[Cell]] = {}
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


def _estimate_group(cells: list[Cell], seconds: float, limit: int | None) -> list[dict[str, Any]]:
    dataset, model = cells[0].dataset, cells[0].model
    lacking = {c.name: c.lacking() for c in cells}
    missing = {name: [i for i in dataset.ids[:limit] if i in found] for name, found in lacking.items()}
    wanted = [i for i in dataset.ids[:limit] if any(i in found for found in lacking.values())]
    device = shards.choose_device(cells[0].cfg.device)
    scorer = probing.make_scorer(model.network.to(device), cells[0].cfg.engine, kind=CountingScorer)
    scorer.limit = max(1.0, seconds / 6)
    found: dict[str, list[tuple[float, float]]] = {c.name: [] for c in cells}
    metrics: list[float] = []
    count = min(20, len(wanted))
    chosen = [wanted[i * len(wanted) // count] for i in range(count)]
    begun = 0.0
    for turn, sample in enumerate(readable(dataset, chosen, f"estimating {dataset.name} × {model.name}")):
        if turn == 0:  # the first passes of all are slow
            probing.make_probe(cells[0], sample, scorer, device).image_gradient(0)
            begun = time.perf_counter()
        elif time.perf_counter() - begun > seconds * turn / (turn + 1):
            break  # another one would take longer than there is
        probe = probing.make_probe(cells[0], sample, scorer, device)
        explained: list[tuple] = []
        for cell in cells:
            every = cell.cfg.protocol.targets == "all"
            targets = cell.pairs(sample.image_id) if every else probing.targets_to_explain(cell, sample, probe)
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
        counts = {"images": len(times), "missing": len(missing[cell.name])}
        rows.append(_about(cell) | counts | {"alone": alone, "shared": shared})
    each = sum(metrics) / max(1, len(metrics))
    row = {"explainer": "(metrics)", "variant": "", "images": len(metrics), "alone": each, "shared": each}
    return [*rows, _about(cells[0]) | row | {"missing": len(wanted)}]


def _about(cell: Cell) -> dict[str, Any]:
    names = cell.dataset.name, cell.cfg.model.name, cell.cfg.explainer.name, cell.cfg.variant
    return dict(zip(("dataset", "model", "explainer", "variant"), names, strict=True))


def _measure(cell: Cell, probe: Probe, outputs: list[int], scorer: CountingScorer) -> tuple[Tensor, float, float]:
    """Explains one image: (saliency, seconds on a fresh probe, seconds on this one)."""
    explainer, scale = shortened(cell)
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
    scoring.remember_faithfulness_passes(explained, probe)
    pairs = Pairs(sample, probe)
    for cell, targets, saliency, costs in explained:
        for target, one in zip(targets, saliency, strict=True):
            scoring.make_record(cell, pairs, target, one, costs)
    synchronise(probe.device)
    return time.perf_counter() - begun + (scorer.skipped - skipped) * scorer.seconds_per_pass


def shortened(cell: Cell) -> tuple[Explainer, float]:
    """A cell's explainer with few iterations, and by what its time is to be multiplied; as it is if it has none."""
    budget = budget_of(cell.cfg)
    if not budget or budget.unit != "iterations" or budget.value <= ITERATIONS:
        return cell.explainer, 1.0
    return cell.explainer_with(**{budget.setting: ITERATIONS}), 1 / budget.share(ITERATIONS)

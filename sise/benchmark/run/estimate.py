"""The hours of an experiment on this machine, before it starts.

A few images are explained for real, but for two things that only repeat themselves: once the time of a masked pass is
known, masked passes are counted instead of made, and Extremal Perturbation runs a few of its iterations.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pandas as pd
from torch import Tensor

from sise.benchmark.models.no_network import read_sample
from sise.benchmark.records.departures import budget_of
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.store import read
from sise.benchmark.run import probing, scoring
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.counting_scorer import CountingScorer
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.pair_facts import Pairs
from sise.benchmark.run.session import readable
from sise.benchmark.run.shards import EVERYTHING, Shard
from sise.benchmark.terminal import message
from sise.devices import synchronise
from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.types import Explainer

log = logging.getLogger(__name__)

ITERATIONS = 5
"""Of Extremal Perturbation, per image."""
METRICS = "(metrics)"
"""The row of the metrics, which has no explainer."""


def estimate(
    cells: Sequence[Cell], seconds: float = 60.0, limit: int | None = None, shard: Shard = EVERYTHING
) -> pd.DataFrame:
    """Measures a few images and multiplies by what is missing; writes no record.

    A cell that fails on an image is named with the reason and left out from there on, as a run goes on with the others.

    Args:
        cells: From :func:`sise.benchmark.run.cells.make_cells`.
        seconds: Time to take in all; every explainer is measured on one image at least, which may take longer.
        limit: First N images only, as in :func:`sise.benchmark.run.runner.run`.
        shard: Only the images of this part.

    Returns:
        One row per cell and a last one with the sums: ``dataset``, ``model``, ``explainer``, ``variant``, ``images``
        measured, ``alone`` and ``shared`` (seconds per image on a probe of its own, and after the cells before it
        on a shared one; NaN where nothing could be measured), ``missing`` images, ``hours alone``, ``hours shared``.

    Raises:
        SuiteError: If no image can be read, or every cell with something missing fails.
    """
    for cell in cells:
        if cell.path.exists():
            cell.recall(read(RunFolder(cell.path, cell.identity())))
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.probe_key(), []).append(cell)
    failed: dict[str, str] = {}
    each = seconds / len(groups)
    rows = [row for group in groups.values() for row in _estimate_group(group, each, limit, shard, failed)]
    if failed and len(failed) == sum(bool(row["missing"]) for row in rows if row["explainer"] != METRICS):
        raise SuiteError(f"nothing can be estimated: {next(iter(failed))}: {next(iter(failed.values()))}")
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
        unknown = ["" if explainer == "all" else "?" for explainer in frame["explainer"]]
        shown[column] = [u if pd.isna(v) else f"{v:.3g}" for u, v in zip(unknown, frame[column], strict=True)]
    for column in ("images", "missing"):
        shown[column] = ["" if pd.isna(v) else f"{v:.0f}" for v in frame[column]]
    for column in ("hours alone", "hours shared"):
        shown[column] = ["?" if pd.isna(v) else f"{v:.2f}" if v >= 0.1 else f"{v:.2g}" for v in frame[column]]
    shown = shown.fillna("").rename(columns={"alone": "s/image alone", "shared": "s/image shared"})
    return (
        shown.to_string(index=False)
        + "\n\nAlone: each explainer on probes of its own. Shared: after the explainers above it, as this command does."
        + "\nMasked passes beyond the first few are counted, not made, and Extremal Perturbation makes few iterations."
        + "\nWith a filled score cache it takes less."
    )


def _estimate_group(
    cells: list[Cell], seconds: float, limit: int | None, shard: Shard, failed: dict[str, str]
) -> list[dict[str, Any]]:
    dataset, model = cells[0].dataset, cells[0].model
    lacking = {c.name: c.lacking() for c in cells}
    ids = shard.of(dataset.ids[:limit])
    missing = {name: [i for i in ids if i in found] for name, found in lacking.items()}
    wanted = [i for i in ids if any(i in found for found in lacking.values())]
    device = choose_device(cells[0].cfg.device)
    scorer = probing.make_scorer(model.network.to(device), cells[0].cfg.engine, kind=CountingScorer)
    scorer.limit = max(1.0, seconds / 6)
    found: dict[str, list[tuple[float, float]]] = {c.name: [] for c in cells}
    metrics: list[float] = []
    count = min(20, len(wanted))
    chosen = [wanted[i * len(wanted) // count] for i in range(count)]
    begun = 0.0
    read, what = functools.partial(read_sample, dataset, model), f"estimating {dataset.name} × {model.name}"
    for turn, sample in enumerate(readable(dataset, chosen, what, read=read)):
        if turn == 0:  # the first passes of all are slow
            with suppress(Exception):  # not every model scores, and not every score has a gradient
                probing.make_probe(cells[0], sample, scorer, device).image_gradient(0)
            begun = time.perf_counter()
        elif time.perf_counter() - begun > seconds * turn / (turn + 1):
            break  # another one would take longer than there is
        probe = probing.make_probe(cells[0], sample, scorer, device)
        explained: list[tuple] = []
        for cell in cells:
            if not missing[cell.name] or cell.name in failed:
                continue
            with _failing([cell], failed):
                targets = probing.targets_to_explain(cell, sample, probe)
                if outputs := [cell.outputs[cell.dataset.classes[t]] for t in targets]:
                    saliency, alone, shared = _measure(cell, probe, outputs, scorer)
                    found[cell.name].append((alone, shared))
                    explained.append((cell, targets, saliency, {}))
        if explained:
            with _failing([cell for cell, *_ in explained], failed):
                metrics.append(_measure_metrics(explained, sample, probe, scorer))
    rows = []
    for cell in cells:
        times = found[cell.name]
        nothing = math.nan if missing[cell.name] else 0.0
        alone, shared = (sum(t[i] for t in times) / len(times) if times else nothing for i in (0, 1))
        counts = {"images": len(times), "missing": len(missing[cell.name])}
        rows.append(_about(cell) | counts | {"alone": alone, "shared": shared})
    each = sum(metrics) / max(1, len(metrics))
    row = {"explainer": METRICS, "variant": "", "images": len(metrics), "alone": each, "shared": each}
    return [*rows, _about(cells[0]) | row | {"missing": len(wanted)}]


@contextmanager
def _failing(cells: Sequence[Cell], failed: dict[str, str]) -> Iterator[None]:
    """Keeps the reason why cells cannot be measured, and says it once."""
    try:
        yield
    except Exception as error:
        reason = message(error) if isinstance(error, SuiteError | OSError) else f"{type(error).__name__}: {error}"
        failed |= dict.fromkeys((cell.name for cell in cells), reason)
        log.warning("cannot be estimated: %s: %s", ", ".join(cell.name for cell in cells), reason)


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

"""The papers' run-time tables, measured here: every explainer alone on an unshared probe.

Parts ``table7`` and ``table6`` (SISE), ``ada_sise_table1`` and ``phases`` (Ada-SISE, Fig. 4) of
``scripts/performance.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig

from sise.benchmark.performance.clock import interleaved, quartiles, spread, timed
from sise.benchmark.performance.phases import phases as run_phases
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import LABELS, Subject, random_weights, scene, subject
from sise.benchmark.records.departures import budget_of
from sise.benchmark.terminal import Progress
from sise.otsu import adaptive_threshold
from sise.probe.probe import Probe
from sise.scoring import Scorer
from sise.types import Explainer

PHASES_NOTE = (
    "Extraction: the pass that gives the feature maps. Selection: the backward pass, the thresholds, and the extrema "
    "of the maps. Scoring: the masked passes. Combination: their weighted sums, a visualization map per layer. Fusion: "
    "the cascade of Otsu gates."
)


@dataclass(frozen=True)
class Row:
    """A method of a paper's run-time table: its name there, and what runs here."""

    method: str
    explainer: str
    overrides: tuple[str, ...] = ()
    label: str = ""

    @property
    def key(self) -> str:
        """Equal for rows that the same run measures."""
        return " ".join([self.explainer, *self.overrides])


@dataclass(frozen=True)
class RunTimeTable:
    """A paper's table: its name among the published numbers, its networks, and the method whose time is 1."""

    source: str
    title: str
    networks: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]


def tables_of(cfg: DictConfig) -> dict[str, RunTimeTable]:
    """The tables of ``run_time_tables:`` by name."""
    return {
        str(name): RunTimeTable(
            table.source, table.title, tuple(table.networks), table.reference,
            tuple(
                Row(row.method, row.explainer, tuple(row.get("overrides", ())), row.get("label", row.method))
                for row in table.rows
            ),
        )
        for name, table in cfg.run_time_tables.items()
    }  # fmt: skip


@dataclass
class Subjected:
    """An explainer ready to be timed: ``share`` of the paper's budget, said in words in ``budget``."""

    explainer: Explainer
    share: float = 1.0
    budget: str = ""


def run_times(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """The chosen tables, from one run: rows that several of them show are measured once."""
    known = tables_of(cfg)
    chosen = [name for name in cfg.parts if name in known]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    ready: dict[str, Subjected] = {}
    published = pd.read_csv(Path(cfg.published))
    for number, network in enumerate(cfg.networks, 1):
        rows = [row for name in chosen if network in known[name].networks for row in known[name].rows]
        explainers = {row.key: row for row in rows}
        if explainers:
            ready |= {key: prepare(row, cfg, device) for key, row in explainers.items()}
            of = subject(network, device, width=cfg.width)
            measured = measure_alone(of, {key: ready[key] for key in explainers}, cfg.tables, LABELS[network])
            found |= {(network, key): samples for key, samples in measured.items()}
        yield [table_report(n, found, ready, published, cfg, cfg.networks[:number]) for n in chosen]


def prepare(row: Row, cfg: DictConfig, device: torch.device) -> Subjected:
    """The row's explainer with the paper's settings; on a CPU, with a part of a budget that takes minutes."""
    composed = compose("evaluate", [f"explainer={row.explainer}", "protocol=paper", "budget=paper", *row.overrides])
    budget, part = budget_of(composed), cfg.tables.cpu_budget.get(row.explainer)
    if budget and part and device.type == "cpu" and part < budget.value:
        explainer = instantiate(composed.explainer.call, **{budget.setting: part})
        return Subjected(explainer, budget.share(part), f"{part} of {budget.value} {budget.unit}")
    return Subjected(instantiate(composed.explainer.call))


def measure_alone(
    of: Subject, ready: Mapping[str, Subjected], limits: DictConfig, description: str
) -> dict[str, list[dict[str, float]]]:
    """Times explainers in turns, one image after the other, each on a probe of its own.

    An explainer's first run that takes less than ``limits.warm_up`` seconds only warms up; a longer one does not feel
    its start. An explainer is timed on up to ``limits.images`` images, and on no further one after ``limits.minimum``
    of them once it has taken ``limits.seconds`` altogether.

    Returns:
        Per explainer one dict per image: ``seconds``, ``forward`` and ``backward``.
    """
    scorer = Scorer(of.network)
    scorer.score_inputs(of.image.repeat(32, 1, 1, 1))
    found: dict[str, list[dict[str, float]]] = {key: [] for key in ready}
    warm: set[str] = set()

    def run(key: str, index: int) -> dict[str, float]:
        probe = Probe(of.network, scene(index).to(of.image), layers=of.layers, cam_layer=of.cam_layer, scorer=scorer)
        target = int(probe.scores().argmax())
        probe = Probe(of.network, probe.image, layers=of.layers, cam_layer=of.cam_layer, scorer=scorer)
        taken = timed(lambda: (ready[key].explainer(probe, [target]),), probe.device).seconds
        return {"seconds": taken, "forward": probe.forward_passes, "backward": probe.backward_passes}

    def wants(key: str) -> bool:
        samples = found[key]
        enough = len(samples) >= limits.minimum and sum(s["seconds"] for s in samples) >= limits.seconds
        return len(samples) < limits.images and not enough

    with Progress(total=limits.images * len(ready), desc=description, unit="run") as bar:
        for index in range(limits.images):
            for key in ready:
                if wants(key):
                    bar.set_postfix_str(key)
                    result = run(key, index)
                    if key not in warm and result["seconds"] < limits.warm_up:
                        result = run(key, index)
                    warm.add(key)
                    found[key].append(result)
                    bar.update()
                elif len(found[key]) == index:  # done early: what is left of its share
                    bar.total -= limits.images - index
                    bar.refresh()
    return found


def table_report(
    name: str,
    found: Mapping[tuple[str, str], Sequence[Mapping[str, float]]],
    ready: Mapping[str, Subjected],
    published: pd.DataFrame,
    cfg: DictConfig,
    measured: Sequence[str],
) -> Report:
    """One table: measured beside published, each also over SISE's time."""
    table = tables_of(cfg)[name]
    lines = []
    for network in table.networks:
        if network not in measured:
            continue
        base = _seconds(found[network, "sise"], ready["sise"]) if (network, "sise") in found else None
        reference = published_seconds(published, table.source, network, table.reference)
        for row in table.rows:
            samples, use = found[network, row.key], ready[row.key]
            lines.append(
                run_time_row(LABELS[network], row, samples, use, base)
                | _published_part(published_seconds(published, table.source, network, row.method), reference)
            )
    images = f"up to {cfg.tables.images} images, fewer where {cfg.tables.seconds:.0f} s were used up (at least "
    images += f"{cfg.tables.minimum}; the column says how many)"
    notes = [
        random_weights(cfg.width),
        f"Each explainer alone on an unshared probe, one class per image, device synchronised, warmed up; {images}; "
        "median and interquartile range over images; explainers take turns on each image. Engine: fp32, as shipped.",
        "Published: seconds on a Tesla T4. Seconds of different machines do not compare; ratios to SISE do, roughly.",
    ]
    if any(use.share < 1 for use in ready.values()):
        notes.append(
            "≈ marks what was not measured: a part of the budget was timed (column budget measured), and the paper's "
            "budget extrapolated from it in proportion, which overrates what is done only once."
        )
    raw = {f"{network} | {key}": samples for (network, key), samples in found.items()}
    return Report(name, f"{table.source}: {table.title}", pd.DataFrame(lines), notes, raw)


def run_time_row(
    label: str, row: Row, samples: Sequence[Mapping[str, float]], use: Subjected, base: float | None
) -> dict[str, Any]:
    """The measured part of a row; extrapolated values are text that starts with ≈."""
    seconds = _seconds(samples, use)
    mark = "≈ " if use.share < 1 else ""
    return {
        "network": label,
        "method": row.label,
        "images": len(samples),
        "budget measured": use.budget or "full",
        "forward passes": round(quartiles(s["forward"] for s in samples)[0]),
        "backward passes": round(quartiles(s["backward"] for s in samples)[0]),
        "seconds measured": quartiles(s["seconds"] for s in samples)[0],
        "interquartile range": spread(s["seconds"] for s in samples),
        "seconds at the paper's budget": f"{mark}{seconds:.3g}",
        "/ SISE": f"{mark}{seconds / base:.3g}" if base else "",
    }


def _seconds(samples: Sequence[Mapping[str, float]], use: Subjected) -> float:
    return quartiles(s["seconds"] for s in samples)[0] / use.share


def _published_part(seconds: float | None, reference: float | None) -> dict[str, Any]:
    return {"published (T4) s": seconds, "published / SISE": seconds / reference if seconds and reference else None}


def published_seconds(published: pd.DataFrame, table: str, network: str, method: str) -> float | None:
    """The paper's run-time, or None."""
    p = published
    found = p[(p.table == table) & (p.model == network) & (p.method == method) & (p.metric == "Runtime (s)")]
    return float(found.value.iloc[0]) if len(found) else None


# ---------------------------------------------------------------------- Fig. 4
def phases(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """Ada-SISE, Fig. 4: where the time of SISE and Ada-SISE goes, phase by phase."""
    thresholds: dict[str, Callable] = {
        "SISE": lambda scores: 0.0,
        "Ada-SISE (text)": lambda scores: adaptive_threshold(scores, "otsu_positive"),
        "Ada-SISE (table)": lambda scores: adaptive_threshold(scores, "otsu_signed"),
    }
    rows, samples = [], {}
    for network in cfg.networks:
        of = subject(network, device, width=cfg.width)
        scorer = Scorer(of.network)
        scorer.score_inputs(of.image.repeat(32, 1, 1, 1))

        def run(threshold: Callable, of: Subject = of, scorer: Scorer = scorer) -> dict[str, Any]:
            probe = Probe(of.network, of.image, layers=of.layers, scorer=scorer)
            target = int(Probe(of.network, of.image).scores().argmax())
            _, seconds = run_phases(probe, [target], threshold, gate="otsu_hard")
            return {"seconds": sum(seconds.values()), "phases": seconds, "masks": probe.forward_passes - 1}

        actions = {n: functools.partial(timed, functools.partial(run, t), device) for n, t in thresholds.items()}
        found = interleaved(actions, cfg.phases.rounds, f"{LABELS[network]}, phases")
        samples[network] = {name: [m.result for m in some] for name, some in found.items()}
        for name, some in found.items():
            whole = quartiles(m.seconds for m in some)[0]
            row = {"network": LABELS[network], "method": name, "masks": some[0].result["masks"], "seconds": whole}
            for phase in some[0].result["phases"]:
                row[f"{phase} (s)"] = quartiles(m.result["phases"][phase] for m in some)[0]
            row["scoring's share (%)"] = 100 * row["scoring (s)"] / whole
            rows.append(row)
        notes = [
            random_weights(cfg.width),
            f"{cfg.phases.rounds} runs of one image and class in turns, medians. {PHASES_NOTE}",
        ]
        yield [Report("phases", "Ada-SISE Fig. 4: time per phase", pd.DataFrame(rows), notes, samples)]

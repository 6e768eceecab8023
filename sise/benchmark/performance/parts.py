"""Runs the chosen parts of ``scripts/performance.py`` one after the other and writes their tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import torch
from omegaconf import DictConfig

from sise.benchmark.performance import engine, parity, peers, precision, run_times, sharing, size
from sise.benchmark.performance.clock import Meanwhile, use_clock
from sise.benchmark.performance.report import Report
from sise.benchmark.run.device import choose_device
from sise.errors import SuiteError, choose

log = logging.getLogger(__name__)
PROCESSOR_TIME = "Seconds are processor time of one thread, since the machine was not idle."
PARTS: dict[str, Callable[[DictConfig, torch.device], Iterator[list[Report]]]] = {
    "engine": engine.engine,
    "precision": precision.precision,
    "sharing": sharing.sharing,
    "peers": peers.peers,
    "phases": run_times.phases,
    "parity": parity.parity,
    "size": size.size,
}


def run(cfg: DictConfig) -> list[Report]:
    """Measures, prints and writes every chosen part.

    Raises:
        SuiteError: If a part or network is unknown, or none is chosen.
    """
    known = PARTS | dict.fromkeys(map(str, cfg.run_time_tables), run_times.run_times)
    for part in cfg.parts:
        choose("part", part, list(known))
    if not cfg.parts or not cfg.networks:
        raise SuiteError("nothing to measure: give parts=[...] and networks=[...].")
    device = choose_device(cfg.device)
    if cfg.clock == "processor" and (device.type != "cpu" or cfg.threads != 1):
        raise SuiteError("clock=processor is for a CPU and one thread: add device=cpu engine.threads=1.")
    use_clock(cfg.clock)
    reports = []
    for measure in dict.fromkeys(known[part] for part in cfg.parts):  # the run-time tables are measured together
        begun = time.perf_counter()
        found: list[Report] = []
        kept: dict[str, list[str]] = {}
        meanwhile = Meanwhile()
        for found in measure(cfg, device):  # what is there after each network, so that an interruption keeps it
            for report in found:
                if cfg.clock == "processor":
                    report.notes = [*report.notes, PROCESSOR_TIME]
                if report.timed:
                    report.notes = [*report.notes, *meanwhile.notes()]
                kept[report.name] = report.write(cfg.results, cfg.outputs, device, overwrite=cfg.overwrite)[1]
        for report in found:
            print("\n".join(["", report.to_text(), *kept[report.name]]), flush=True)
        reports += found
        log.info("took %.1f min", (time.perf_counter() - begun) / 60)
    return reports

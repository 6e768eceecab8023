"""Measures the suite's speed on this machine; see configs/performance.yaml."""

from __future__ import annotations

from omegaconf import DictConfig

from sise.benchmark.commands import command
from sise.benchmark.run import preparing


@command.script("performance")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.performance import parts  # --help must not wait for torch

    preparing.prepare_process(cfg.engine)
    parts.run(cfg)

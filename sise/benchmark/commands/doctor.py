"""Says what is there, what is missing and what to do about it; runs the audits; see configs/doctor.yaml."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark.commands import command
from sise.benchmark.run import preparing


@command.script("doctor")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.doctor import checks  # --help must not wait for torch

    preparing.prepare_process(cfg.engine)
    if not checks.run(cfg, HydraConfig.get().overrides.task):
        raise SystemExit(1)

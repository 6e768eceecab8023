"""Explains what a network sees in your own images; see configs/explain.yaml."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark.commands import command
from sise.benchmark.run import preparing


@command.script("explain")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.explain import asked, files  # --help must not wait for torch

    preparing.prepare_process(cfg.engine)
    if files.run(cfg, asked.compose_explainers(HydraConfig.get().overrides.task)):
        raise SystemExit(1)

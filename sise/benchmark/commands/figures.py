"""Draws panels of maps, masks, the fusion cascade and the sanity checks; see configs/figures.yaml."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark.commands import command
from sise.benchmark.run import preparing


@command.script("figures")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.commands import draw  # --help must not wait for torch

    preparing.prepare_process(cfg.engine)
    for path in draw.draw(cfg, draw.compose_cells(cfg, HydraConfig.get().overrides.task)):
        print(path)

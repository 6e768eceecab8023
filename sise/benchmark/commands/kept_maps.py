"""Counts the feature maps that each reading of Ada-SISE's rule keeps; see configs/kept_maps.yaml."""

from __future__ import annotations

from omegaconf import DictConfig

from sise.benchmark import places
from sise.benchmark.commands import command
from sise.benchmark.run import preparing


@command.script("kept_maps")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.studies import kept_maps  # --help must not wait for torch

    preparing.prepare_process(cfg.engine)
    kept_maps.run(cfg, places.of_results(cfg.published))

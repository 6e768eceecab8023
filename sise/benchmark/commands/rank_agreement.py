"""Do metrics, images, seeds, networks and data sets agree on the explainers? See configs/rank_agreement.yaml."""

from __future__ import annotations

from omegaconf import DictConfig

from sise.benchmark.commands import command


@command.script("rank_agreement")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.studies import rank_agreement  # --help must not wait for torch

    rank_agreement.run(cfg)

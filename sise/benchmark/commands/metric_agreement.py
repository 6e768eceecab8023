"""Holds every metric against what the network is known to look at; see configs/metric_agreement.yaml."""

from __future__ import annotations

from omegaconf import DictConfig

from sise.benchmark.commands import command


@command.script("metric_agreement")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.studies import metric_agreement  # --help must not wait for torch

    metric_agreement.run(cfg)

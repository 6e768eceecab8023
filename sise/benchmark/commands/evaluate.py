"""Runs explainers over a dataset and records every metric, one line per (image, class)."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark.commands import command, endings
from sise.benchmark.run import composing, preparing


@command.script("evaluate")
def main(cfg: DictConfig) -> int:
    from sise.benchmark.run import estimate, keeping_maps, runner, shards, status
    from sise.benchmark.run.cells import make_cells  # --help must not wait for torch

    preparing.prepare_process(cfg.engine)
    overrides = HydraConfig.get().overrides.task
    shard = shards.Shard.parse(cfg.shard)
    broken: dict[str, str] = {}
    plan = cfg.dry_run and not cfg.estimate
    cells = make_cells(composing.compose_cells(cfg, overrides), broken, plan=plan)
    if cfg.estimate:
        seconds = 60 if cfg.estimate is True else float(cfg.estimate)
        print(estimate.report(estimate.estimate(cells, seconds, cfg.limit, shard)))
        if words := keeping_maps.room_for_missing(cells, cfg.limit, shard):
            print(words)
        return 0
    if cfg.dry_run:
        print(status.plan(cells, broken, limit=cfg.limit, shard=shard))
        return 0
    try:
        failed = runner.run(cells, limit=cfg.limit, overwrite=cfg.overwrite, shard=shard, broken=broken)
    finally:
        endings.say_failures(cells, broken, overrides)
    endings.say_done(cells, cfg.limit)
    return failed

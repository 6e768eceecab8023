"""Says how far runs are: done, missing, stale and failed pairs per cell, and the time left; see configs/status.yaml."""

from __future__ import annotations

import time

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark.commands import command
from sise.benchmark.run import composing
from sise.benchmark.terminal import stdout_unread


@command.script("status")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.run import shards, status  # --help must not wait for torch
    from sise.benchmark.run.cells import make_cells

    overrides = [o for o in HydraConfig.get().overrides.task if o.split("=", 1)[0] not in ("outputs", "watch")]
    broken: dict[str, str] = {}
    cells = make_cells(composing.compose_cells(cfg, overrides, "status"), broken) if overrides else None
    while True:
        if cells is None:
            print(status.report(status.of_outputs(cfg.outputs)), flush=True)
        else:
            print(status.plan(cells, broken, limit=cfg.limit, shard=shards.Shard.parse(cfg.shard)), flush=True)
        if not cfg.watch or stdout_unread():
            return
        time.sleep(cfg.watch)
        print()

"""Says how far runs are: done, missing, stale and failed pairs per cell, and the time left; see configs/status.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

import time

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark import cli
from sise.benchmark.terminal import stdout_unread


@cli.script("status")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import runner, status  # --help must not wait for torch

    overrides = [o for o in HydraConfig.get().overrides.task if o.split("=", 1)[0] not in ("outputs", "watch")]
    broken: dict[str, str] = {}
    cells = runner.make_cells(cli.compose_cells(cfg, overrides, "status"), broken) if overrides else None
    while True:
        if cells is None:
            print(status.report(status.of_outputs(cfg.outputs)), flush=True)
        else:
            print(status.plan(cells, broken, limit=cfg.limit, shard=runner.Shard.parse(cfg.shard)), flush=True)
        if not cfg.watch or stdout_unread():
            return
        time.sleep(cfg.watch)
        print()


if __name__ == "__main__":
    main()

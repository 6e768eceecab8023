"""Runs explainers over a dataset and records every metric, one line per (image, class)."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark import cli


@cli.script("evaluate")
def main(cfg: DictConfig) -> int:
    from sise.benchmark import estimate, runner, status  # --help must not wait for torch

    cli.prepare_process(cfg.engine)
    overrides = HydraConfig.get().overrides.task
    shard = runner.Shard.parse(cfg.shard)
    broken: dict[str, str] = {}
    plan = cfg.dry_run and not cfg.estimate
    cells = runner.make_cells(cli.compose_cells(cfg, overrides), broken, plan=plan)
    if cfg.estimate:
        seconds = 60 if cfg.estimate is True else float(cfg.estimate)
        print(estimate.report(estimate.estimate(cells, seconds, cfg.limit)))
        return 0
    if cfg.dry_run:
        print(status.plan(cells, broken, limit=cfg.limit, shard=shard))
        return 0
    try:
        failed = runner.run(cells, limit=cfg.limit, overwrite=cfg.overwrite, shard=shard, broken=broken)
    finally:
        cli.say_failures(cells, broken, overrides)
    cli.say_done(cells, cfg.limit)
    return failed


if __name__ == "__main__":
    main()

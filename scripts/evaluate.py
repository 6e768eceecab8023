"""Runs explainers over a dataset and records every metric, one line per (image, class)."""

# ruff: noqa: E402
import sys

sys.path[:] = [p for p in sys.path if not p.endswith("scripts")]  # tabulate.py here would hide the package tabulate

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark import cli, estimate, runner


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
@cli.main
def main(cfg: DictConfig) -> int:
    cli.prepare_process(cfg.engine)
    cells = runner.make_cells(cli.compose_cells(cfg, HydraConfig.get().overrides.task))
    if cfg.estimate:
        seconds = 60 if cfg.estimate is True else float(cfg.estimate)
        print(estimate.report(estimate.estimate(cells, seconds, cfg.limit)))
        return 0
    return runner.run(cells, limit=cfg.limit, overwrite=cfg.overwrite, dry_run=cfg.dry_run)


if __name__ == "__main__":
    main()

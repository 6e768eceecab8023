"""Runs explainers over a dataset and records every metric, one line per (image, class)."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark import cli, runner


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
@cli.main
def main(cfg: DictConfig) -> int:
    cli.prepare_process(cfg.engine)
    cells = runner.make_cells(cli.compose_cells(cfg, HydraConfig.get().overrides.task))
    return runner.run(cells, limit=cfg.limit, overwrite=cfg.overwrite, dry_run=cfg.dry_run)


if __name__ == "__main__":
    main()

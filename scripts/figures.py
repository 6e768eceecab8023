"""Draws panels of maps, masks, the fusion cascade and the sanity checks; see configs/figures.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark import cli


@cli.script("figures")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import figures  # --help must not wait for torch

    cli.prepare_process(cfg.engine)
    for path in figures.draw(cfg, figures.compose_cells(cfg, HydraConfig.get().overrides.task)):
        print(path)


if __name__ == "__main__":
    main()

"""Measures the suite's speed on this machine; see configs/benchmark.yaml."""

# ruff: noqa: E402
import sys

sys.path[:] = [p for p in sys.path if not p.endswith("scripts")]  # tabulate.py here would hide the package tabulate

import hydra
from omegaconf import DictConfig

from sise.benchmark import benchmark, cli


@hydra.main(version_base="1.3", config_path="../configs", config_name="benchmark")
@cli.main
def main(cfg: DictConfig) -> None:
    cli.prepare_process(cfg.engine)
    benchmark.run(cfg)


if __name__ == "__main__":
    main()

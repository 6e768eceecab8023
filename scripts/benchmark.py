"""Measures the suite's speed on this machine; see configs/benchmark.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

from omegaconf import DictConfig

from sise.benchmark import cli


@cli.script("benchmark")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import benchmark  # --help must not wait for torch

    cli.prepare_process(cfg.engine)
    benchmark.run(cfg)


if __name__ == "__main__":
    main()

"""Writes one self-contained HTML page of everything in results/; see configs/report.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

from omegaconf import DictConfig, OmegaConf

from sise.benchmark import cli


@cli.script("report")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import report  # --help must not wait for torch

    print(f"-> {report.write(OmegaConf.to_container(cfg, resolve=True))}")


if __name__ == "__main__":
    main()

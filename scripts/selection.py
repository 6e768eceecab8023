"""Counts the feature maps that each reading of Ada-SISE's rule keeps; see configs/selection.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]


from omegaconf import DictConfig

from sise.benchmark import cli

ROOT = Path(__file__).resolve().parents[1]


@cli.script("selection")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import selection  # --help must not wait for torch

    cli.prepare_process(cfg.engine)
    selection.run(cfg, ROOT / cfg.published)


if __name__ == "__main__":
    main()

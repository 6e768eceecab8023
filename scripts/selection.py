"""Counts the feature maps that each reading of Ada-SISE's rule keeps; see configs/selection.yaml."""

# ruff: noqa: E402
import sys

sys.path[:] = [p for p in sys.path if not p.endswith("scripts")]  # tabulate.py here would hide the package tabulate

from pathlib import Path

from omegaconf import DictConfig

from sise.benchmark import cli, selection

ROOT = Path(__file__).resolve().parents[1]


@cli.script("selection")
def main(cfg: DictConfig) -> None:
    cli.prepare_process(cfg.engine)
    selection.run(cfg, ROOT / cfg.published)


if __name__ == "__main__":
    main()

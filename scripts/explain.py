"""Explains what a network sees in your own images; see configs/explain.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark import cli


@cli.script("explain")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import explain  # --help must not wait for torch

    cli.prepare_process(cfg.engine)
    if explain.run(cfg, explain.compose_explainers(HydraConfig.get().overrides.task)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Says what is there, what is missing and what to do about it; runs the audits; see configs/doctor.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sise.benchmark import cli


@cli.script("doctor")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import doctor  # --help must not wait for torch

    cli.prepare_process(cfg.engine)
    if not doctor.run(cfg, HydraConfig.get().overrides.task):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

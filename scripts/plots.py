"""Draws SISE's Fig. 12 from the records of experiment=sise_table6; see configs/plots.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]


from omegaconf import DictConfig, OmegaConf

from sise.benchmark import cli

ROOT = Path(__file__).resolve().parents[1]


@cli.script("plots")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import plots  # --help must not wait for torch

    files = plots.plot(
        OmegaConf.to_container(cfg.table, resolve=True),
        outputs=cfg.outputs,
        results=cfg.results,
        published=ROOT / cfg.published,
        dataset=cfg.get("dataset") and cfg.dataset.name,
        overwrite=cfg.overwrite,
    )
    print("\n".join(f"-> {file}" for file in files))


if __name__ == "__main__":
    main()

"""Makes the tables in results/ from the records in outputs/; see configs/tabulate.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

from omegaconf import DictConfig, OmegaConf

from sise.benchmark import cli

ROOT = Path(__file__).resolve().parents[1]


@cli.script("tabulate")
def main(cfg: DictConfig) -> None:
    from sise.benchmark import claims, comparisons, tables  # --help must not wait for torch

    definitions = {f.stem: OmegaConf.to_container(OmegaConf.load(f)) for f in sorted(ROOT.glob("configs/table/*.yaml"))}
    chosen = OmegaConf.to_container(cfg.table, resolve=True) if cfg.get("table") else None
    if chosen:
        definitions[chosen["name"]] = chosen  # with what the command line changed in it
    explainers = {f.stem: OmegaConf.load(f) for f in sorted(ROOT.glob("configs/explainer/*.yaml"))}
    spreads = {name: found.spread for name, found in explainers.items() if "spread" in found}
    told = claims.writer(claims.read(ROOT / cfg.claims), tables.read_published(ROOT / cfg.published))
    tables.tabulate(
        definitions,
        outputs=cfg.outputs,
        results=cfg.results,
        published=ROOT / cfg.published,
        table=chosen and chosen["name"],
        dataset=cfg.get("dataset") and cfg.dataset.name,
        controls=cfg.controls,
        shipped=cli.shipped_configs,
        spreads=spreads,
        writers=[comparisons.write, told],
        overwrite=cfg.overwrite,
    )


if __name__ == "__main__":
    main()

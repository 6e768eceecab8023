"""Makes the tables in results/ from the records in outputs/; see configs/make_tables.yaml."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from sise.benchmark import config_facts, places
from sise.benchmark.commands import command
from sise.benchmark.run import composing


@command.script("make_tables")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.figures import object_sizes  # --help must not wait for torch
    from sise.benchmark.tables import claims, comparisons, make, published, strata
    from sise.benchmark.tables.definitions import check, read

    definitions = read(places.CONFIGS / "table")
    chosen = cast("dict[str, Any]", OmegaConf.to_container(cfg.table, resolve=True)) if cfg.get("table") else None
    if chosen:
        definitions[chosen["name"]] = chosen  # with what the command line changed in it
    check(definitions)
    if cfg.strata:
        definitions = {name: {**definition, "strata": True} for name, definition in definitions.items()}
    told = claims.writer(
        claims.read(places.of_results(cfg.claims)), published.read_published(places.of_results(cfg.published))
    )
    make.tabulate(
        definitions,
        outputs=cfg.outputs,
        results=cfg.results,
        published=places.of_results(cfg.published),
        table=chosen["name"] if chosen else None,
        dataset=cfg.get("dataset") and cfg.dataset.name,
        controls=config_facts.controls(),
        shipped=composing.shipped_configs,
        spreads=config_facts.spreads(),
        writers=[comparisons.write, told, strata.write, object_sizes.write],
        latex=cfg.latex,
        overwrite=cfg.overwrite,
    )

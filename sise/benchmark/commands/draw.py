"""Which figure is drawn: the names of configs/figures.yaml, and the function behind each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from sise.benchmark import places
from sise.benchmark.figures import curves, gallery, thresholds
from sise.benchmark.figures.captions import status
from sise.benchmark.figures.cascade import cascades
from sise.benchmark.figures.layout import Made, Sheet
from sise.benchmark.figures.masks import masks
from sise.benchmark.figures.panel import panel
from sise.benchmark.figures.similarity import similarities
from sise.benchmark.models import mnist1d
from sise.benchmark.records.provenance import provenance
from sise.benchmark.run import composing
from sise.benchmark.run.cells import Cell, make_cells
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.session import choose_pairs
from sise.benchmark.studies import detections, sanity_pictures
from sise.benchmark.tables.result_files import ResultFolder
from sise.errors import SuiteError, choose

OF_CELLS = ("panel", "masks", "cascade", "sanity", "gallery", "similarity")
"""Figures of maps, computed here ..."""
FIGURES = (*OF_CELLS, "detections", "curves", "thresholds")
"""... and those of a network of their own, or of records."""


def compose_cells(cfg: DictConfig, overrides: Sequence[str], config_name: str = "figures") -> list[Cell]:
    """One cell per explainer of the figure, all on the same dataset, network and protocol.

    Args:
        cfg: The figure's configuration.
        overrides: The command line's overrides.
        config_name: The root configuration.

    Raises:
        SuiteError: If the figure or a setting is unknown, or data or weights are missing.
    """
    if choose("figure", cfg.figure, FIGURES) not in OF_CELLS:
        return []
    if cfg.figure == "gallery":
        return gallery.compose_cells(cfg, overrides, config_name)
    names = {
        "panel": lambda: cfg.explainers,
        "masks": lambda: ["sise", "rise"],
        "cascade": lambda: [cfg.explainer.name],
        "similarity": lambda: ["centre"],  # explains no class: of the cell its data and network are used
        "sanity": lambda: [*cfg.explainers, *cfg.controls],
    }[cfg.figure]()
    if not names:
        raise SuiteError("a figure needs at least one explainer; the list `explainers` is empty.")
    if cfg.figure == "cascade":
        choose("explainer of figure=cascade", cfg.explainer.name, [n for n in ("sise", "ada_sise", "ada_sise_table")])
    general = [o for o in overrides if not o.startswith("explainer=")]
    configs = []
    for name in names:
        of_cell = [*general, f"explainer={name}"]
        configs += composing.compose_cells(compose(config_name, of_cell), of_cell, config_name)
    return make_cells(configs)


def draw(cfg: DictConfig, cells: Sequence[Cell]) -> list[Path]:
    """Draws one figure.

    Args:
        cfg: The figure's configuration.
        cells: From :func:`compose_cells`.

    Returns:
        The files written: tables to ``results``, images to ``results/figures``.

    Raises:
        SuiteError: If an image or class is unknown.
    """
    others = {"gallery": lambda: gallery.draw(cfg, cells), "detections": lambda: _detections(cfg),
              "curves": lambda: _curves(cfg), "thresholds": lambda: _thresholds(cfg)}  # fmt: skip
    if cfg.figure in others:
        return others[cfg.figure]()
    draws = {"panel": panel, "masks": masks, "cascade": cascades, "sanity": sanity_pictures.sanity_check,
             "similarity": similarities}  # fmt: skip
    kind = choose("figure", cfg.figure, OF_CELLS)
    first = cells[0]
    pairs = choose_pairs(first, cfg.count, cfg.seed, images=cfg.images, classes=cfg.classes)
    note = provenance(status(cells), choose_device(cfg.device), len(pairs))
    protocol = "" if first.cfg.protocol.name == "paper" else f"_{first.cfg.protocol.name}"
    ending = f"_{first.dataset.name}_{first.cfg.model.name}{protocol}"
    return _write(cfg, draws[kind](cfg, cells, pairs), ending, note, len(pairs))


def _write(cfg: DictConfig, made: Made, ending: str, note: str, made_of: int) -> list[Path]:
    """Writes what a figure is made of, its names ending so: texts together, pictures if they lose nothing."""
    results, files = ResultFolder(Path(cfg.results), cfg.overwrite), []
    texts: dict[str, str] = {}
    for name, part in made.items():
        stem, _, suffix = name.partition(".")
        name = f"{stem}{ending}.{suffix}"
        if not isinstance(part, Sheet):
            texts[name] = part
        elif results.may_draw(f"figures/{name}", made_of):
            files.append(part.save(results.path / "figures" / name, cfg.kilobytes, note))
    return [*(results.write(texts) if texts else ()), *files]


def _detections(cfg: DictConfig) -> list[Path]:
    """Detections of generated scenes and their maps; measured unless images are asked for."""
    made_of = len(cfg.images or ()) or cfg.detections.scenes
    note = provenance("other data", choose_device(cfg.device), made_of)
    return _write(cfg, detections.study(cfg), "_shapes", note, made_of)


def _curves(cfg: DictConfig) -> list[Path]:
    """Curves of MNIST-1D and the maps under them."""
    ids = cfg.images or [f"{number:04d}" for number in range(cfg.count)]
    results, picture = ResultFolder(Path(cfg.results), cfg.overwrite), "figures/mnist1d.png"
    if not results.may_draw(picture, len(ids)):
        return []
    figure = curves.draw(mnist1d.network(cfg.curves.weights), curves.EXPLAINERS, ids=list(ids))
    figure.savefig(results.path / picture, dpi=110, metadata={"Comment": provenance("other data", made_of=len(ids))})
    return [results.path / picture]


def _thresholds(cfg: DictConfig) -> list[Path]:
    """Metrics by the threshold, of a table's records."""
    names = sorted(file.stem for file in (places.CONFIGS / "table").glob("*.yaml"))
    file = places.CONFIGS / "table" / f"{choose('table', cfg.thresholds.table, names)}.yaml"
    return thresholds.plot(
        cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(file), resolve=True)),
        outputs=cfg.outputs,
        results=cfg.results,
        published=places.of_results(cfg.thresholds.published),
        dataset=cfg.dataset.name,
        overwrite=cfg.overwrite,
    )

"""The gallery: every explainer on the same few images, one square of maps each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor

from sise.benchmark.figures import catalogue
from sise.benchmark.figures.captions import seen, status, subject
from sise.benchmark.figures.colours import INK, overlay
from sise.benchmark.figures.layout import Rows
from sise.benchmark.records.departures import notes_of
from sise.benchmark.records.provenance import command, provenance
from sise.benchmark.run import composing
from sise.benchmark.run.cells import Cell, make_cells
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.session import Shared, choose_pairs
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError

PICTURE, PAGE, FACTS = "figures/gallery.jpg", "explainers.md", "explainers.csv"
COLUMNS, TILE = 5, 98
CLIPPED = 0.99
"""The quantile of a map from which on its colours are the highest: a gradient's few largest values would leave the
rest of it dark in tiles this small."""


class Squares(Rows):
    """Squares of 2 × 2 tiles, each with one caption: line by line, ``COLUMNS`` in a line."""

    GUTTER = 2

    def __init__(self, count: int, *, footer: str) -> None:
        lines = -(-count // COLUMNS)
        super().__init__([""] * COLUMNS, lines, cell=2 * TILE + self.GUTTER, caption_lines=1, footer=footer)

    def corner(self, number: int) -> tuple[float, float]:
        """Left and top of a square."""
        row, column = divmod(number, COLUMNS)
        return self.left(column), self.top(row)

    def boxes(self, names: Sequence[str]) -> dict[str, tuple[int, int, int, int]]:
        """Left, top, right and bottom of each square without its caption, in pixels: what crops one out of the sheet.

        Args:
            names: Of the squares, in order.
        """
        corners = {name: self.corner(number) for number, name in enumerate(names)}
        return {n: (round(x), round(y), round(x + self.cell), round(y + self.tall)) for n, (x, y) in corners.items()}

    def caption(self, number: int, text: str) -> None:
        """Names a square."""
        left, top = self.corner(number)
        middle = top + self.tall + self.LINE / 2 + 1
        self.text(left + self.cell / 2, middle, text, width=self.cell, size=9, bold=True)

    def _tile(self, number: int, tile: int) -> tuple[float, float]:
        left, top = self.corner(number)
        down, right = divmod(tile, 2)
        return left + right * (TILE + self.GUTTER), top + down * (TILE + self.GUTTER)

    def map(self, number: int, tile: int, pixels: np.ndarray) -> None:
        """Fills a tile."""
        self.place(*self._tile(number, tile), TILE, TILE, pixels, None)

    def refusal(self, number: int, tile: int, reason: str) -> None:
        """Says in a tile why there is no map."""
        left, top = self._tile(number, tile)
        lines = textwrap.wrap(reason, 19, max_lines=8, placeholder=" …")
        for i, line in enumerate(lines):
            y = top + TILE / 2 + (i - (len(lines) - 1) / 2) * 11.5
            self.text(left + TILE / 2, y, line, width=TILE, size=6, colour=INK)


def compose_cells(cfg: DictConfig, overrides: Sequence[str], config_name: str) -> list[Cell]:
    """The cells of each subject of ``cfg.gallery.subjects``, every explainer on each, subject after subject.

    Raises:
        SuiteError: If the command line chooses what the gallery's subjects settle.
    """
    for override in overrides:
        if override.partition("=")[0] in ("dataset", "model", "explainer"):
            raise SuiteError(
                f"figure=gallery shows every explainer on the images of gallery.subjects: leave out {override!r}, or "
                "change configs/figures.yaml."
            )
    configs = []
    for one in cfg.gallery.subjects:
        for name in names(cfg):
            of_cell = [*overrides, f"dataset={one.dataset}", f"model={one.model}", f"explainer={name}"]
            of_cell += cfg.gallery.settings.get(name, [])
            configs += composing.compose_cells(compose(config_name, of_cell), of_cell, config_name)
    return make_cells(configs)


def names(cfg: DictConfig) -> list[str]:
    """The explainers shown: all of the catalogue, or ``cfg.gallery.explainers``."""
    return list(cfg.gallery.explainers or [entry.name for entry in catalogue.entries()])


def draw(cfg: DictConfig, cells: Sequence[Cell]) -> list[Path]:
    """Draws the gallery and, if it shows all explainers, writes the page.

    Args:
        cfg: The figure's configuration.
        cells: From :func:`compose_cells`.

    Returns:
        The files written.
    """
    shown = names(cfg)
    groups = [cells[i : i + len(shown)] for i in range(0, len(cells), len(shown))]
    images = sum(len(one.images) for one in cfg.gallery.subjects)
    results = ResultFolder(Path(cfg.results), cfg.overwrite)
    if not results.may_draw(PICTURE, images * len(shown)):
        return []
    sheet = gallery(cfg, groups)
    note = provenance(status(cells), choose_device(cfg.device), images * len(shown), squares=sheet.boxes(["", *shown]))
    files = [sheet.save(results.path / PICTURE, cfg.kilobytes, note)]
    if not cfg.gallery.explainers:
        page = Path(cfg.gallery.docs) / PAGE
        files += catalogue.write(page, results.path / FACTS, f"../results/{PICTURE}", command())
    return files


def gallery(cfg: DictConfig, groups: Sequence[Sequence[Cell]]) -> Squares:
    """The sheet: the images first, then each explainer's maps of them.

    Args:
        cfg: The figure's configuration.
        groups: Per subject, a cell of every explainer, in the same order.
    """
    firsts = [  # of each image its first class
        [choose_pairs(cells[0], 1, cfg.seed, images=[image_id])[0] for image_id in one.images]
        for one, cells in zip(cfg.gallery.subjects, groups, strict=True)
    ]
    sheet = Squares(len(groups[0]) + 1, footer=footer(groups, firsts))
    tile = 0
    for pairs, cells in zip(firsts, groups, strict=True):
        shared = Shared(cells)
        for image_id, target in pairs:
            sample = cells[0].dataset[image_id]
            probe = shared.probe(sample)
            picture = seen(shared.model, probe)
            sheet.map(0, tile, picture)
            for number, cell in enumerate(Progress(cells, desc=image_id, unit="explainer"), 1):
                try:
                    saliency = shared.explain(cell, sample, probe, target)
                except SuiteError as error:
                    sheet.refusal(number, tile, str(error))
                else:
                    sheet.map(number, tile, overlay(picture, clipped(saliency)))
            shared.keep(probe)
            tile += 1
    sheet.caption(0, "the images")
    for number, cell in enumerate(groups[0], 1):
        sheet.caption(number, cell.cfg.explainer.label)
    return sheet


def clipped(saliency: Tensor) -> Tensor:
    """The map, no value above its quantile `CLIPPED`, unless hardly anything of it is above the lowest value."""
    top = saliency.flatten().quantile(CLIPPED)
    return saliency.clamp(max=top) if top > saliency.min() else saliency


def footer(groups: Sequence[Sequence[Cell]], firsts: Sequence[Sequence[tuple[str, int]]]) -> str:
    """Networks, data, the classes explained, and every budget that is not the shipped one."""
    parts = []
    for cells, pairs in zip(groups, firsts, strict=True):
        classes = ", ".join(cells[0].dataset.classes[target] for _, target in pairs)
        parts.append(f"{subject(cells[0])}: {classes}")
    first = groups[0][0].cfg.protocol
    parts += [f"protocol {first.name}", f"Ψ: {first.confidence} confidence"]
    notes = [f"{c.cfg.explainer.label}: {note}" for cells in groups for c in cells for note in notes_of(c.cfg)]
    shown = (
        f"the highest {round(100 * (1 - CLIPPED))} % of a map share the highest colour; a constant map is the lowest"
    )
    return " · ".join([*parts, *dict.fromkeys(notes), shown])

"""Sheets: pictures and labels placed in pixels of the file, each label in a place of its own."""

from __future__ import annotations

import io
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sise.benchmark.figures.colours import INK, PALE, SALIENCY
from sise.benchmark.records.files import whole
from sise.benchmark.records.provenance import DPI, save_image

SMALLEST = 0.75
"""Of a text's size, before it is cut."""

log = logging.getLogger(__name__)


class Sheet:
    """A figure whose parts are placed in pixels of the file, counted from the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Empty axes in a rectangle."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )

    def place(self, x: float, y: float, width: float, height: float, pixels: np.ndarray, cmap: str | None) -> Axes:
        """An image (H, W, 3), or values in [0, 1] (H, W) in a colour map, stretched to a rectangle."""
        axes = self.axes(x, y, width, height)
        axes.imshow(pixels, cmap=cmap, vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        axes.set_axis_off()
        return axes

    def text(
        self, x: float, y: float, text: str, *, width: float | None = None, size: float = 8, align: str = "center",
        colour: str = INK, bold: bool = False,
    ) -> None:  # fmt: skip
        """A line of text around the height y; wider than ``width`` it shrinks to 3/4, then is cut: an ellipsis."""
        drawn = self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=size, ha=align, va="center", color=colour,
            fontweight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip
        renderer = self.canvas.get_renderer()
        smaller = size
        while width and smaller > SMALLEST * size and drawn.get_window_extent(renderer).width > width:
            smaller -= 0.25
            drawn.set_fontsize(smaller)
        while width and len(text) > 1 and drawn.get_window_extent(renderer).width > width:
            text = text.rstrip("…")[:-1]
            drawn.set_text(text.rstrip() + "…")

    def save(self, path: Path, kilobytes: float, note: str = "") -> Path:
        """Writes the sheet as its name ends, ``.png`` or ``.jpg``; a photograph's quality goes down until it fits."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.canvas.draw()
        image = Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3])
        for quality in (92, 88, 84, 80, 75):
            data = io.BytesIO()
            save_image(image, data, path.suffix, note, quality)
            if data.tell() <= 1024 * kilobytes:
                break
        else:
            log.warning("%s is %d KB, more than %s", path, data.tell() // 1024, kilobytes)
        with whole(path.resolve()) as draft:  # a link stays one
            draft.write_bytes(data.getvalue())
        return path


class Rows(Sheet):
    """Rows of pictures under column titles, each with its captions below it.

    Args:
        titles: One per column.
        count: Number of rows.
        cell: Side of a square picture in pixels, or the width of another.
        tall: Height of pictures that are not square.
        caption_lines: Lines below each picture.
        footer: Last lines of the sheet.
        first: Width of the first column, if it is not ``cell``.
        colours: Explain the colours of maps at the bottom.
    """

    GAP, LINE, MARGIN = 8, 15, 10
    LEGEND = 210  # width of the colours' explanation

    def __init__(
        self,
        titles: Sequence[str],
        count: int,
        *,
        cell: int,
        tall: int | None = None,
        caption_lines: int,
        footer: str,
        first: int | None = None,
        colours: bool = True,
    ) -> None:
        self.cell, self.tall, self.first, self.lines = cell, tall or cell, first or cell, caption_lines
        self.pitch = self.tall + self.LINE * caption_lines + self.GAP
        width = 2 * self.MARGIN + self.first + (len(titles) - 1) * (cell + self.GAP)
        # 8 and 6 pixels are what a letter of a title and of the footer takes, generously
        heads = [textwrap.wrap(t, max(8, (cell if i else self.first) // 8), max_lines=2) for i, t in enumerate(titles)]
        feet = textwrap.wrap(footer, (width - self.LEGEND * colours) // 6)
        self.head = 10 + self.LINE * max(len(h) for h in heads) if any(heads) else 0
        foot = 8 + self.LINE * (len(feet) + 1)
        super().__init__(width, self.MARGIN + self.head + count * self.pitch + foot)
        for column, head in enumerate(heads):
            middle = self.left(column) + self._width(column) / 2
            for i, line in enumerate(reversed(head)):
                y = self.MARGIN + self.head - 14 - i * self.LINE
                self.text(middle, y, line, width=self._width(column) + self.GAP, size=9, bold=True)
        self._note = height = self.height - foot + self.LINE / 2
        for i, line in enumerate(feet, 1):
            self.text(self.MARGIN, height + i * self.LINE, line, size=8, align="left", colour=PALE)
        if colours:
            middle = height + self.LINE
            bar = colormaps[SALIENCY](np.linspace(0, 1, 128))[None, :, :3]
            self.place(width - self.MARGIN - 146, middle - 5, 96, 10, bar, None)
            self.text(width - self.MARGIN - 150, middle, "lowest", size=8, align="right", colour=PALE)
            self.text(width - self.MARGIN, middle, "highest", size=8, align="right", colour=PALE)

    def left(self, column: int) -> float:
        return self.MARGIN + (self.first + self.GAP + (column - 1) * (self.cell + self.GAP) if column else 0)

    def _width(self, column: int) -> float:
        return self.cell if column else self.first

    def top(self, row: int) -> float:
        return self.MARGIN + self.head + row * self.pitch

    def picture(
        self, row: int, column: int, pixels: np.ndarray, captions: Sequence[str], cmap: str | None = None
    ) -> Axes:
        """A picture with its captions."""
        left, top, wide = self.left(column), self.top(row), self._width(column)
        axes = self.place(left, top, wide, self.tall, pixels, cmap)
        for i, line in enumerate(captions):
            y = top + self.tall + self.LINE * (i + 0.5) + 1
            self.text(left + wide / 2, y, line, width=wide + self.GAP / 2, size=8, colour=PALE if i else INK)
        return axes

    def label(self, row: int, lines: Sequence[str], bold_first: bool = False) -> None:
        """Text in the first column, beside a row's pictures."""
        middle = self.top(row) + self.tall / 2 - (len(lines) - 1) * self.LINE / 2
        for i, line in enumerate(lines):
            bold, colour = bold_first and i == 0, PALE if i else INK
            y = middle + i * self.LINE
            self.text(self.left(0), y, line, width=self.first, size=8.5, align="left", bold=bold, colour=colour)

    def blank(self, row: int, column: int, why: str) -> None:
        """Says why there is no picture."""
        left, top = self.left(column), self.top(row)
        self.text(left + self.cell / 2, top + self.tall / 2, why, width=self.cell, size=8, colour=PALE)

    def text_beside(self, row: int, column: int, lines: Sequence[str]) -> None:
        """Text in place of pictures, from a column to the right."""
        middle = self.top(row) + self.tall / 2 - (len(lines) - 1) * self.LINE / 2
        for i, line in enumerate(lines):
            room = self.width - self.left(column) - self.MARGIN
            self.text(self.left(column), middle + i * self.LINE, line, width=room, size=8.5, align="left", colour=PALE)

    def note(self, text: str) -> None:
        """A line above the footer."""
        self.text(self.MARGIN, self._note, text, size=8, align="left", colour=PALE)


Made = dict[str, Sheet | str]
"""What a figure writes, by file name; the dataset, network and protocol are added to the name."""

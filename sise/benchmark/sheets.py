"""Sheets: pictures and labels placed in pixels of the file, each label in a place of its own, and saved images that
say what made them."""

from __future__ import annotations

import io
import json
import logging
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin
from torch import Tensor

from sise.benchmark.records import environment, without_folders, without_places
from sise.maps import minmax

log = logging.getLogger(__name__)

SALIENCY = "viridis"  # even steps for every kind of colour vision
OUTLINE = "#ffffff"
INK, PALE = "#222222", "#666666"
DPI = 100


def overlay(picture: np.ndarray, saliency: Tensor) -> np.ndarray:
    """A map in colours, min-max normalised, over the greyed image: (H, W, 3)."""
    values = minmax(saliency.detach().cpu().double()).numpy()
    grey = picture @ np.array([0.299, 0.587, 0.114])
    return 0.4 * grey[..., None] + 0.6 * colormaps[SALIENCY](values)[..., :3]


def dimmed(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, darker and paler outside of the mask: (H, W, 3)."""
    grey = picture.mean(axis=2, keepdims=True)
    return np.where(mask[..., None], picture, 0.35 * (0.3 * picture + 0.7 * grey))


def outline(axes: Axes, mask: np.ndarray) -> None:
    """Draws the mask's border."""
    if mask.any() and not mask.all():
        padded = np.pad(mask, 1).astype(float)
        x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
        limits = axes.get_xlim(), axes.get_ylim()
        axes.contour(x, y, padded, levels=[0.5], colors=OUTLINE, linewidths=0.75)
        axes.set(xlim=limits[0], ylim=limits[1])


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
        """A line of text around the height y, cut with an ellipsis where it is wider than ``width``."""
        drawn = self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=size, ha=align, va="center", color=colour,
            fontweight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip
        renderer = self.canvas.get_renderer()
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
        path.write_bytes(data.getvalue())
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
            middle = self._left(column) + self._width(column) / 2
            for i, line in enumerate(reversed(head)):
                y = self.MARGIN + self.head - 14 - i * self.LINE
                self.text(middle, y, line, width=self._width(column) + self.GAP, size=9, bold=True)
        self._note = height = self.height - foot + self.LINE / 2
        for i, line in enumerate(feet, 1):
            self.text(self.MARGIN, height + i * self.LINE, line, size=8, align="left", colour=PALE)
        if colours:
            y = height + self.LINE
            bar = colormaps[SALIENCY](np.linspace(0, 1, 128))[None, :, :3]
            self.place(width - self.MARGIN - 146, y - 5, 96, 10, bar, None)
            self.text(width - self.MARGIN - 150, y, "lowest", size=8, align="right", colour=PALE)
            self.text(width - self.MARGIN, y, "highest", size=8, align="right", colour=PALE)

    def _left(self, column: int) -> float:
        return self.MARGIN + (self.first + self.GAP + (column - 1) * (self.cell + self.GAP) if column else 0)

    def _width(self, column: int) -> float:
        return self.cell if column else self.first

    def _top(self, row: int) -> float:
        return self.MARGIN + self.head + row * self.pitch

    def picture(
        self, row: int, column: int, pixels: np.ndarray, captions: Sequence[str], cmap: str | None = None
    ) -> Axes:
        """A picture with its captions."""
        left, top, wide = self._left(column), self._top(row), self._width(column)
        axes = self.place(left, top, wide, self.tall, pixels, cmap)
        for i, line in enumerate(captions):
            y = top + self.tall + self.LINE * (i + 0.5) + 1
            self.text(left + wide / 2, y, line, width=wide + self.GAP / 2, size=8, colour=PALE if i else INK)
        return axes

    def label(self, row: int, lines: Sequence[str], bold_first: bool = False) -> None:
        """Text in the first column, beside a row's pictures."""
        middle = self._top(row) + self.tall / 2 - (len(lines) - 1) * self.LINE / 2
        for i, line in enumerate(lines):
            style = {"bold": bold_first and i == 0, "colour": PALE if i else INK}
            y = middle + i * self.LINE
            self.text(self._left(0), y, line, width=self.first, size=8.5, align="left", **style)

    def blank(self, row: int, column: int, why: str) -> None:
        """Says why there is no picture."""
        left, top = self._left(column), self._top(row)
        self.text(left + self.cell / 2, top + self.tall / 2, why, width=self.cell, size=8, colour=PALE)

    def text_beside(self, row: int, column: int, lines: Sequence[str]) -> None:
        """Text in place of pictures, from a column to the right."""
        middle = self._top(row) + self.tall / 2 - (len(lines) - 1) * self.LINE / 2
        for i, line in enumerate(lines):
            room = self.width - self._left(column) - self.MARGIN
            self.text(self._left(column), middle + i * self.LINE, line, width=room, size=8.5, align="left", colour=PALE)

    def note(self, text: str) -> None:
        """A line above the footer."""
        self.text(self.MARGIN, self._note, text, size=8, align="left", colour=PALE)


# ---------------------------------------------------------------------- what made a file


def provenance(status: str, device: Any = None, made_of: int = 0) -> str:
    """What made a file, as JSON: ``command``, ``time``, ``commit``, ``device``, versions, and the file's ``status``.

    Args:
        status: "other data", "partial" or "shown", see :func:`sise.benchmark.subjects.status`.
        device: As for :func:`sise.benchmark.records.environment`.
        made_of: How many images or pairs it shows, see :class:`sise.benchmark.result_files.ResultFolder`.
    """
    return json.dumps(environment(device) | {"command": command(), "status": status, "made_of": made_of})


def command() -> str:
    """The command line of this process, without the machine's folders and where it wrote to."""
    words = [without_places(word) for word in sys.argv[1:] if not word.startswith(("results=", "outputs="))]
    return shlex.join(["python", without_folders(sys.argv[0]), *words])


def save_image(image: Image.Image, target: Any, suffix: str, note: str, quality: int = 90) -> None:
    """Writes a PNG or JPEG that carries a note; :func:`note_of` reads it."""
    if suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", note)
        image.save(target, "PNG", optimize=True, pnginfo=text)
    else:
        image.save(target, "JPEG", quality=quality, subsampling=0, comment=note.encode())


def note_of(path: Path) -> dict[str, Any]:
    """What :func:`provenance` wrote into an image; empty if nothing did.

    Raises:
        OSError: If the file is no image.
    """
    with Image.open(path) as image:
        note = image.info.get("Comment") or image.info.get("comment") or b"{}"
    try:
        found = json.loads(note)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

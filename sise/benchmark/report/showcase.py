"""Every explainer on a card: its square of the gallery, what it reads and costs, which networks it refuses."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from sise.benchmark import invocation
from sise.benchmark.records.provenance import note_of
from sise.errors import SuiteError

__all__ = ["FACTS", "Card", "by_family", "cards"]

FACTS = "explainers"
"""The table of :func:`sise.benchmark.figures.catalogue.facts` in results/, which has no Markdown file of its own."""
PICTURE = "figures/gallery.jpg"
COLUMNS = ("explainer", "label", "family", "reads", "negative values", "forward passes", "backward passes", "refuses",
           "method", "paper")  # fmt: skip


@dataclass(frozen=True)
class Card:
    """An explainer.

    Attributes:
        name: Its config; empty for the card of the images themselves.
        label, family, reads, method, paper: As in the catalogue.
        negative: What becomes of negative values.
        cost: Forward + backward passes for one class of one image, in words; empty if unknown.
        refuses: Kinds of network that it answers with an error.
        picture: Its square of the gallery as a data URI; empty if there is none.
        size: Width and height of the picture in pixels.
    """

    name: str
    label: str
    family: str = ""
    reads: str = ""
    negative: str = ""
    cost: str = ""
    refuses: str = ""
    method: str = ""
    paper: str = ""
    picture: str = ""
    size: tuple[int, int] = (0, 0)

    @property
    def anchor(self) -> str:
        return f"explainer-{self.name or 'images'}"


def cards(results: Path) -> list[Card]:
    """Reads the facts, and crops the gallery by the squares that its note names.

    Args:
        results: The folder; without facts in it there are no cards, without a gallery no pictures.

    Returns:
        The card of the images first, if there is a gallery, then one per explainer, in the catalogue's order.

    Raises:
        SuiteError: If the facts lack a column.
    """
    file = results / f"{FACTS}.csv"
    if not file.exists():
        return []
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    if lacking := [column for column in COLUMNS if column not in frame]:
        raise SuiteError(
            f"expected the columns {', '.join(COLUMNS)} in {file}, {', '.join(lacking)} are missing; make it anew: "
            f"{invocation.typed('figures')} figure=gallery"
        )
    pictures = _squares(results / PICTURE)
    first = [Card("", "The images", **_picture(pictures, ""))] if "" in pictures else []
    return first + [
        Card(
            row["explainer"], row["label"], row["family"], row["reads"], row["negative values"],
            f"{row['forward passes']} + {row['backward passes']}", row["refuses"], row["method"], row["paper"],
            **_picture(pictures, row["explainer"]),
        )
        for row in frame.to_dict("records")
    ]  # fmt: skip


def by_family(found: Sequence[Card]) -> list[tuple[str, list[Card]]]:
    """The cards of each family, in the order they come in; the images' own card has none."""
    families: dict[str, list[Card]] = {}
    for card in found:
        families.setdefault(card.family, []).append(card)
    return list(families.items())


def _squares(file: Path) -> dict[str, tuple[str, tuple[int, int]]]:
    """Data URIs and sizes of the gallery's squares, by explainer; empty if there is no readable gallery."""
    try:
        squares: Mapping[str, tuple[int, int, int, int]] = note_of(file).get("squares", {})
        with Image.open(file, formats=["JPEG", "PNG"]) as image:
            return {name: _uri(image.crop((x0, y0, x1, y1))) for name, (x0, y0, x1, y1) in squares.items()}
    except OSError:
        return {}


def _uri(image: Image.Image) -> tuple[str, tuple[int, int]]:
    data = io.BytesIO()
    image.convert("RGB").save(data, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}", image.size


def _picture(pictures: Mapping[str, tuple[str, tuple[int, int]]], name: str) -> dict:
    found = pictures.get(name)
    return {"picture": found[0], "size": found[1]} if found else {}

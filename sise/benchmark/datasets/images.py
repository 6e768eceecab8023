"""Reading image files: sizes checked before they are decoded, EXIF turned, channels made RGB."""

from __future__ import annotations

import csv
import glob
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sise.benchmark.datasets.base import files_in, plural
from sise.errors import SuiteError

__all__ = ["to_rgb", "upright"]

#: How a picture is turned for each value of EXIF's orientation; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its camera says (EXIF's orientation); as it is where that is missing or unreadable.

    Pillow's `ImageOps.exif_transpose` also writes the whole EXIF block anew, which fails on metadata of other types
    than the standard's. A picture is not refused for what cameras and editors write beside it.
    """
    image.load()  # Pillow turns a TIFF while it decodes, and then takes its orientation away
    try:
        turn = _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 0))
    except Exception:  # damaged metadata can raise anything
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any Pillow mode as 8-bit RGB, at its own size.

    Transparent pixels show white behind them. Greyscale of more than 8 bits (``I;16``, ``I``) is scaled down from 16
    bits where a pixel exceeds 255 or the mode says so. Floating-point images (``F``) are taken as [0, 1] if no pixel
    exceeds 1, as [0, 255] otherwise; what lies outside is clipped and NaN is black. An EXIF orientation is left alone,
    because boxes are drawn on the pixels as stored.

    Args:
        image: Any Pillow image; unchanged.

    Returns:
        An RGB image of the same width and height.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0)
        if image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255):
            values = values / 257  # 65535 = 257 * 255
        elif image.mode == "F" and values.max(initial=0) <= 1:
            values = values * 255
        grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        straight = image.convert("RGBA")
        white = Image.new("RGBA", straight.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, straight).convert("RGB")
    return image.convert("RGB")


#: File formats that are tried, whatever a file's name says. Not all of Pillow's: it has a program run PostScript.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")

#: How many pictures are decoded to tell stand-ins, and the range of values up to which one counts as one colour.
_LOOKED_AT, _FLAT = 8, 8

#: Largest image that is decoded: Pillow's limit, 256 MiB as RGB.
MAX_PIXELS = 2**30 // 12


def read_image(
    path: Path,
    dataset: str,
    size: tuple[int, int] | None = None,
    convert: Callable[[Image.Image], Any] = to_rgb,
) -> Any:
    """The image in a file as RGB, or what ``convert`` makes of it.

    Args:
        path: The file.
        dataset: Named in messages.
        size: (width, height) that is expected, compared before anything is decoded; None = any.
        convert: Of the decoded image in its own mode.

    Raises:
        SuiteError: If there is none, it cannot be decoded, or it has another size or more than 89 million pixels.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if size not in (None, image.size):
                raise SuiteError(
                    f"{dataset}: {path} is {image.width}x{image.height} pixels, expected {size[0]}x{size[1]}: the "
                    "ground truth would not fit; unpack it again"
                )
            if image.width * image.height > MAX_PIXELS:
                raise SuiteError(
                    f"{dataset}: {path} claims {image.width}x{image.height} pixels, more than {MAX_PIXELS}: it may be "
                    "made to fill the memory; if not, scale it and its annotation down"
                )
            image.load()
            return convert(image)
    except SuiteError:
        raise
    except FileNotFoundError:
        alike = sorted(other.name for other in path.parent.glob(f"{glob.escape(path.stem)}.*"))
        instead = f"there is {' and '.join(alike)}: rename it" if alike else "unpack it again"
        raise SuiteError(f"{dataset}: expected the image {path}, which does not exist; {instead}") from None
    except Exception as error:  # a damaged file can raise anything
        raise SuiteError(f"{dataset}: {path} is not a readable image ({error}); unpack it again") from error


def known_pictures(name: str) -> dict[str, str]:
    """How the sha256 of some pictures of a data set begins, by file; none of a data set without such a list."""
    table = Path(__file__).with_name(f"{name}_known.csv")
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as lines:
        return {f"{row['image_id']}.jpg": row["sha256"] for row in csv.DictReader(lines)}


def _is_blank(path: Path) -> bool:
    """Whether a picture is of one colour, or cannot be decoded."""
    try:
        extrema = read_image(path, "").getextrema()
    except SuiteError:
        return True
    return all(high - low < _FLAT for low, high in extrema)


def picture_gaps(folder: Path, names: Sequence[str], known: Mapping[str, str], look: bool) -> list[str]:
    """What says that pictures are missing, or are not those of the data set.

    Args:
        folder: Where they lie.
        names: The files that are expected.
        known: How the sha256 of some of them begins.
        look: Whether to decode a few, to tell a tree of stand-ins.
    """
    files = files_in(folder)
    present = [name for name in names if name in files]
    gaps = []
    if len(present) < len(names):
        gaps.append(f"{plural(len(names) - len(present), 'image file')} missing")
    checked = [name for name in known if name in files]
    others = [n for n in checked if not hashlib.sha256((folder / n).read_bytes()).hexdigest().startswith(known[n])]
    if others:
        gaps.append(
            f"not the real pictures: {len(others)} of the {len(checked)} that are known differ (the first: {others[0]})"
        )
    elif look:
        chosen = present[:: max(1, len(present) // _LOOKED_AT)][:_LOOKED_AT]
        blank = [name for name in chosen if _is_blank(folder / name)]
        if blank:
            gaps.append(
                f"not the real pictures: {len(blank)} of {len(chosen)} that were looked at are of one colour or cannot "
                f"be read (the first: {blank[0]})"
            )
    return gaps


def fill_boxes(boxes: Sequence[Sequence[int]], height: int, width: int) -> np.ndarray:
    """The union of boxes (x0, y0, x1, y1, half-open) as a (height, width) bool mask; parts outside are cut off.

    Raises:
        ValueError: If a box has no pixel of the image.
    """
    mask = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        covered = mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
        if covered.size == 0:
            raise ValueError(f"the box x {x0}..{x1}, y {y0}..{y1} has no pixel of the {width}x{height} image")
        covered[:] = True
    return mask


def has_pixel(box: Sequence[int], width: int, height: int) -> bool:
    """Whether a box x0, y0, x1, y1 (half-open) has a pixel of the image."""
    x0, y0, x1, y1 = box
    return max(x0, 0) < min(x1, width) and max(y0, 0) < min(y1, height)

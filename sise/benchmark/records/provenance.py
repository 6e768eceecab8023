"""The command and the commit that made a figure or a table, written into it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from sise.benchmark.records.environment import environment, without_folders, without_places

DPI = 100


def provenance(status: str, device: Any = None, made_of: int = 0, **more: Any) -> str:
    """What made a file, as JSON: ``command``, ``time``, ``commit``, ``device``, versions, and the file's ``status``.

    Args:
        status: "other data", "partial" or "shown", see :func:`sise.benchmark.figures.captions.status`.
        device: As for :func:`sise.benchmark.records.environment.environment`.
        made_of: How many images or pairs it shows, see :class:`sise.benchmark.tables.result_files.ResultFolder`.
        more: What else the file says of itself.
    """
    return json.dumps(environment(device) | {"command": command(), "status": status, "made_of": made_of} | more)


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

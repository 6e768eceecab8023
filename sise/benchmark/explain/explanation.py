"""The folder of one picture's maps: explanation.json lists its files, and what was made earlier stays.

A map that is made again, by the same explainer with the same settings of the same class through the same network, takes
the place of the earlier one. Everything else gets names of its own.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sise.benchmark.names import is_name
from sise.benchmark.records.files import whole
from sise.benchmark.records.locks import Lock

ABOUT = "explanation.json"
WAIT = 60.0
"""Seconds to wait for a command that takes names in the same folder, which it does in far less than one."""
IDENTITY = ("explainer", "options", "target", "network", "weights_hash", "input", "layers", "cam_layer", "protocol",
            "settings")  # fmt: skip
"""What makes two maps of a picture the same map."""


@contextmanager
def naming(out: Path) -> Iterator[None]:
    """Lets one command at a time take folders and files below ``out`` and list them; to be left before drawing.

    Raises:
        SuiteError: If another one does not end taking names.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out / ".explain", WAIT, "or choose another out=")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def folder_of(wanted: Path, digest: str) -> Path:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3`` ... that holds nothing but maps of this very picture."""
    return next(folder for folder in _numbered(wanted) if _is_ours(folder, digest))


def _is_ours(folder: Path, digest: str) -> bool:
    if not folder.exists():
        return not folder.is_symlink()
    return folder.is_dir() and (read(folder).get("sha256") == digest or not any(folder.iterdir()))


def read(folder: Path) -> dict[str, Any]:
    """What stands in explanation.json; empty if it is not there or not one of ours."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) and isinstance(about.get("maps"), list) else {}


def write(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes explanation.json in one step; of a picture's name that is not UTF-8, the odd bytes as JSON's escapes."""
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    with whole(folder / ABOUT) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def place_maps(folder: Path, old: Mapping[str, Any], new: Sequence[dict], stems: Sequence[str]) -> list[dict]:
    """Gives each new map the stem of its files, and lists all maps of the folder.

    Args:
        folder: Of the picture.
        old: From :func:`read`.
        new: Facts of each new map; ``stem`` is added.
        stems: What their files' names should begin with.

    Returns:
        The folder's maps: earlier ones, with those made again replaced, then new ones.
    """
    maps = [one for one in old.get("maps", []) if isinstance(one, dict) and is_name(one.get("stem"))]
    for facts, stem in zip(new, stems, strict=True):
        place = next((i for i, one in enumerate(maps) if _same(one, facts)), None)
        if place is None:
            taken = {one["stem"] for one in maps}
            facts["stem"] = _free(folder, stem, taken)
            maps.append(facts)
        else:
            facts["stem"] = maps[place]["stem"]
            maps[place] = facts
    return maps


def place_panel(folder: Path, old: Mapping[str, Any], maps: Sequence[str]) -> tuple[str, list[dict]]:
    """The file of the panel of these maps (stems), and the folder's panels with it."""
    panels = [one for one in old.get("panels", []) if isinstance(one, dict) and is_name(one.get("file"))]
    same = next((one["file"] for one in panels if one.get("maps") == list(maps)), None)
    if same is not None:
        return same, panels
    name = _free(folder, "panel", {Path(one["file"]).stem for one in panels}) + ".png"
    return name, [*panels, {"file": name, "maps": list(maps)}]


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = (json.dumps([facts.get(key) for key in IDENTITY], sort_keys=True) for facts in (one, other))
    return first == second


def _free(folder: Path, stem: str, taken: set[str]) -> str:
    """A stem that neither a listed map nor a file that is there has."""
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    numbered = (path.name for path in _numbered(Path(stem)))
    return next(name for name in numbered if name not in taken and not any(_begins(file, name) for file in there))


def _begins(file: str, stem: str) -> bool:
    return file.startswith((f"{stem}.", f"{stem}_map.", f"{stem}_layers."))


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")

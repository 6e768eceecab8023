"""Which runs keep their maps (``maps.keep``), what these depend on, and how much room they take."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from sise.benchmark.records import metric_sets
from sise.benchmark.records.code_version import MAP_MAKERS, code_of
from sise.benchmark.records.flat import placeless
from sise.benchmark.records.saliency_store import PATTERN, SaliencyStore
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.shards import EVERYTHING, Shard
from sise.types import ImagePreprocess

log = logging.getLogger(__name__)
GIB = 2**30
MAKES_A_MAP = ("preprocessing", "layers", "weights_hash", "seed", "dataset_fingerprint")
"""What of a run's identity its maps depend on besides the settings."""
CODE = ("dataset", "model", "explainer")
"""The groups of settings whose code makes maps."""


def keeps(cfg: DictConfig) -> bool:
    """Whether a cell of this configuration keeps its maps."""
    return cfg.maps.keep == "all" or (cfg.maps.keep == "expensive" and bool(cfg.explainer.expensive))


def map_key(cell: Cell, device: torch.device) -> str:
    """Names everything but the image that a cell's maps depend on; of another key, none is used.

    That is the run's identity without its metrics, the network's structure, the code that makes maps, and, as for
    stored scores, torch and the kind of device. The cell's folder is open.
    """
    identity, _ = metric_sets.apart(cell.folder.identity)
    config = cast("dict[str, Any]", OmegaConf.to_container(cell.cfg, resolve=True))
    settings = {group: node for group, node in config.items() if group in CODE}
    parts = {
        "settings": placeless(identity["config"]),
        "identity": {name: identity.get(name) for name in MAKES_A_MAP},
        "structure": cell.structure,
        "code": code_of(settings, cell.model.network, MAP_MAKERS),
        "device": device.type,
        "torch": torch.__version__,
    }
    return json.dumps(parts, sort_keys=True)


def open_maps(
    cells: Sequence[Cell], wanted: Mapping[str, Sequence[Cell]], device: torch.device, shard: Shard, stack: ExitStack
) -> None:
    """Opens what the cells have kept until now, and says how much room what they will keep may take.

    Args:
        cells: With open folders.
        wanted: The cells that are to explain an image, by its id.
        device: On which they do.
        shard: Which of them.
        stack: Closes the files.
    """
    for cell in cells:
        if keeps(cell.cfg) or any(cell.path.glob(PATTERN)):
            key, leave_free = map_key(cell, device), cell.cfg.maps.leave_free * GIB
            cell.maps = SaliencyStore(cell.path, key, shard.name, keeps=keeps(cell.cfg), leave_free=leave_free)
            stack.callback(cell.maps.close)
    missing = dict.fromkeys((cell.name for cell in cells), 0)
    for image_id, needing in wanted.items():
        for cell in needing:
            if keeps(cell.cfg) and not (cell.maps and cell.maps.has(image_id)):
                missing[cell.name] += pairs_of(cell, image_id)
    words, fits = room(cells, missing)
    if words:
        log.log(logging.INFO if fits else logging.WARNING, words)


def room_for_missing(cells: Sequence[Cell], limit: int | None, shard: Shard = EVERYTHING) -> str:
    """:func:`room` for what cells, which have recalled their records, still have to explain; "" if they keep nothing.

    Args:
        cells: Of the command.
        limit: First N images only.
        shard: Only the images of this part.
    """
    missing = {}
    for cell in cells:
        if keeps(cell.cfg):
            lacking = cell.lacking()
            missing[cell.name] = sum(pairs_of(cell, i) for i in shard.of(cell.dataset.ids[:limit]) if i in lacking)
    return room(cells, missing)[0]


def pairs_of(cell: Cell, image_id: str) -> int:
    """How many maps of an image a cell makes at most."""
    return 1 if cell.cfg.protocol.targets == "argmax" else len(cell.pairs(image_id))


def map_bytes(cell: Cell) -> int | None:
    """A map's size before it is compressed: 4 bytes for each pixel of the network's input.

    None where the network's ``preprocess`` does not say its size.
    """
    preprocess = cell.model.preprocess
    return 4 * math.prod(preprocess.size) if isinstance(preprocess, ImagePreprocess) else None


def room(cells: Iterable[Cell], missing: Mapping[str, int]) -> tuple[str, bool]:
    """What will be kept, in a sentence, and whether there is room for it; "" if nothing will.

    Args:
        cells: Of the command.
        missing: How many maps each of them will make, by its name.
    """
    keeping = [cell for cell in cells if keeps(cell.cfg) and missing.get(cell.name)]
    if not keeping:
        return "", True
    cfg = keeping[0].cfg
    count = sum(missing[cell.name] for cell in keeping)
    what = f"{count} maps of {len(keeping)} {'cell' if len(keeping) == 1 else 'cells'} will be kept"
    what += f" (maps.keep={cfg.maps.keep})"
    sizes = [map_bytes(cell) for cell in keeping]
    most = sum(missing[cell.name] * (size or 0) for cell, size in zip(keeping, sizes, strict=True))
    free = free_bytes(Path(cfg.outputs))
    if most:
        bound = "at most" if all(sizes) else "more than"
        what += f": {bound} {readable_bytes(most)} before they are compressed"
    what += f"; {readable_bytes(free)} are free"
    if most <= free - cfg.maps.leave_free * GIB:
        return f"{what}.", True
    return f"{what}, of which maps.leave_free={cfg.maps.leave_free:g} GiB stay so: then no more are kept.", False


def free_bytes(folder: Path) -> int:
    """Free on the disk of a folder that need not exist yet."""
    place = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()), Path("."))
    return shutil.disk_usage(place).free


def readable_bytes(count: float) -> str:
    """``196 KiB``, ``12.3 MiB``, ``4.1 GiB``."""
    power = min(3, int(math.log(max(1, count), 1024)))
    number = count / 1024**power
    return f"{number:.{int(power > 1 and number < 100)}f} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"

"""FABRICATED data, networks and records: as many and as large as real ones, to measure the suite's own work on them.

Nothing here was measured. :func:`check_folder` keeps it out of the folders that hold what was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from sise.benchmark.datasets import published_counts
from sise.benchmark.datasets.coco2014 import COCO_CATEGORIES, COCO_CLASSES
from sise.benchmark.places import CONFIGS
from sise.benchmark.records.code_version import code_of
from sise.benchmark.records.departures import identity_config
from sise.benchmark.records.environment import environment
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.store import keep
from sise.benchmark.run import composing
from sise.benchmark.run.cells import make_cells
from sise.errors import SuiteError

IMAGES, ANNOTATED, PAIRS = (published_counts.total("coco2014", kind)
                            for kind in ("images", "annotated images", "pairs"))  # fmt: skip
OBJECTS = 290_000
NETWORKS = {"vgg16": "resnet10t", "resnet50": "resnet14t"}
"""Small networks of timm under the names that the table has."""
OVERRIDES = ("experiment=sise_table4", "budget=embedded", "experiment.models=[fabricated_vgg16,fabricated_resnet50]",
             "device=cpu")  # fmt: skip
"""The table's 40 cells: one seed of each explainer on two networks."""


def check_folder(folder: Path, root: Path) -> None:
    """Refuses the folders of real results, and one that holds something else.

    Args:
        folder: Where fabricated files are to go.
        root: Of the repository.

    Raises:
        SuiteError: If the folder is ``results/`` or ``outputs/`` or lies in them, or is neither empty nor of an
            earlier call.
    """
    place = folder.resolve()
    for name in ("results", "outputs"):
        real = (root / name).resolve()
        if place.is_relative_to(real) or real.is_relative_to(place) or name == folder.name:
            raise SuiteError(f"{folder}: nothing fabricated goes to {name}/; give a folder elsewhere")
    if folder.exists() and any(folder.iterdir()) and not (folder / "FABRICATED").exists():
        raise SuiteError(f"{folder} holds something else; give an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "FABRICATED").write_text("Everything in this folder is made up: nothing was measured.\n")


# data -------------------------------------------------------------------------------------------------------------


def write_data(folder: Path, images: int = IMAGES) -> None:
    """Writes ``data/``, unless it is there: a COCO tree of one black picture under many names, with annotated objects.

    Args:
        folder: Of :func:`check_folder`.
        images: How many; objects and pairs are in val2014's proportion.
    """
    file = folder / "data/annotations/instances_val2014.json"
    pictures = folder / "data/val2014"
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    numbers = np.sort(rng.choice(np.arange(1, 581_929), images, replace=False)).tolist()  # COCO's last id
    names = [f"COCO_val2014_{number:012d}.jpg" for number in numbers]
    size = {"width": 640, "height": 480}
    entries = [{"id": number, "file_name": name, **size} for number, name in zip(numbers, names, strict=True)]
    annotations = [
        {"id": i, "image_id": numbers[image], "category_id": COCO_CATEGORIES[target], "iscrowd": 0, **_shape(rng)}
        for i, (image, target) in enumerate(_objects(rng, images), start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in zip(COCO_CATEGORIES, COCO_CLASSES, strict=True)]
    black = folder / "data/black.jpg"
    Image.new("RGB", (640, 480)).save(black)
    for name in names:
        if not (pictures / name).exists():
            os.link(black, pictures / name)
    file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))


def _objects(rng: np.random.Generator, images: int) -> list[tuple[int, int]]:
    """(image, target) of every object: each pair once, then some of them again."""
    annotated = rng.permutation(images)[: max(1, images * ANNOTATED // IMAGES)]
    more = rng.integers(len(annotated), size=images * PAIRS // IMAGES - len(annotated))
    counts = 1 + np.bincount(more, minlength=len(annotated))
    pairs = [(int(i), int(t)) for i, k in zip(annotated, counts, strict=True) for t in rng.permutation(80)[:k]]
    again = rng.integers(len(pairs), size=images * OBJECTS // IMAGES - len(pairs))
    return pairs + [pairs[i] for i in again]


def _shape(rng: np.random.Generator) -> dict[str, Any]:
    """A polygon of COCO's usual length, inside of the image."""
    x, y, radius = rng.uniform(80, 560), rng.uniform(80, 400), rng.uniform(5, 80)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1).round(2)
    box = [round(v, 2) for v in (x - radius, y - radius, 2 * radius, 2 * radius)]
    return {"segmentation": [points.ravel().tolist()], "area": round(3.14 * radius**2, 2), "bbox": box}


# networks ---------------------------------------------------------------------------------------------------------


def write_networks(folder: Path) -> None:
    """Writes ``configs/model/``: random networks under the names of the table's, for ``--config-dir``."""
    place = folder / "configs/model"
    place.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(COCO_CLASSES) + "\n")
    for name, arch in NETWORKS.items():
        settings = {
            "arch": arch,
            "name": name,
            "weights": "random",
            "classes": str(folder.resolve() / "classes.txt"),
            "args": {"num_classes": len(COCO_CLASSES)},
        }
        text = OmegaConf.to_yaml(OmegaConf.create({"defaults": ["timm", "_self_"], **settings}))
        (place / f"fabricated_{name}.yaml").write_text(text)


def words_of(folder: Path) -> list[str]:
    """The settings of a command on the fabricated data."""
    place = folder.resolve()
    return [*OVERRIDES, f"dataset.root={place / 'data'}", f"outputs={place / 'outputs'}"]


def configs_of(folder: Path, more: Sequence[str] = (), cells: int | None = None) -> list[DictConfig]:
    """The configurations of the table's cells, or the first so many, on the fabricated data, with ``more`` settings."""
    words = [*words_of(folder), *more]
    with tempfile.TemporaryDirectory() as together:  # composing takes one folder, where commands take --config-dir too
        for configs in (CONFIGS, folder / "configs"):
            shutil.copytree(configs, together, dirs_exist_ok=True)
        command = GlobalHydra.instance()
        of_command, command.hydra = command.hydra, None  # the command's own configuration, which is another
        try:
            with initialize_config_dir(together, version_base="1.3"):
                return composing.compose_cells(compose("evaluate", words), words, first=cells)
        finally:
            command.hydra = of_command


# records ----------------------------------------------------------------------------------------------------------


def write_runs(folder: Path, cells: int | None = None) -> Iterator[tuple[str, int]]:
    """Writes ``outputs/``: a complete run folder of each cell, its values drawn at random.

    Args:
        folder: With data and networks.
        cells: Only the first so many.

    Yields:
        Each cell's name and number of records.
    """
    made = make_cells(configs_of(folder, cells=cells))
    picture = (folder / "data/black.jpg").read_bytes()
    image_hash = hashlib.sha256(picture).hexdigest()[:12]
    for number, cell in enumerate(made):
        pairs = [(i, t) for i in cell.dataset.ids for t in cell.pairs(i)]
        with RunFolder(cell.path, cell.identity(), overwrite=True) as run:
            run.add_environment(
                environment()
                | {"code": code_of(identity_config(cell.cfg), cell.model.network), "network": cell.structure}
                | {"place_error": 0.0, "note": "FABRICATED"}
            )
            shared = {"image_hash": image_hash, "session": run.environments()[0]["session"]}
            with (cell.path / "records.jsonl").open("w") as stream:  # run.append would check each, which takes longer
                for record in _records(pairs, cell.dataset.classes, number):
                    stream.write(json.dumps(record | shared) + "\n")
        keep(RunFolder(cell.path))  # as a run that ends
        yield cell.name, len(pairs)


def _records(pairs: list[tuple[str, int]], classes: tuple[str, ...], number: int) -> Iterator[dict[str, Any]]:
    """A record of each pair; ``number`` is the cell's, which sets the seed and how good its explainer is."""
    shared, own = np.random.default_rng(0), np.random.default_rng(number + 1)
    masks = shared.beta(0.5, 3, len(pairs))
    hard = shared.normal(0, 0.1, len(pairs))  # a pair that is hard for one explainer is hard for all
    good = 0.4 + 0.01 * (number % 20)
    values = np.clip(good + hard[:, None] + own.normal(0, 0.1, (len(pairs), 4)), 0, 1)
    drawn = zip(pairs, masks.tolist(), values.tolist(), own.random((len(pairs), 4)).tolist(), strict=True)
    for (image_id, target), mask, (ebpg, miou, bbox, drop), (second, gain, confidence, rare) in drawn:
        yield {
            "image_id": image_id, "target": target, "class": classes[target], "status": "ok", "EBPG": ebpg,
            "mIoU": miou, "Bbox": bbox, "Drop%": drop, "Increase%": float(gain < 0.2), "seconds": second,
            "forward_passes": 512.0, "backward_passes": 1.0, "confidence": confidence, "mask_fraction": mask,
            "undefined": ["Bbox"] if rare < 0.001 else [], "kept_fraction": 0.15, "difficult": False,
        }  # fmt: skip

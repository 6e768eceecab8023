"""Explains your own images: writes the maps, the pictures of them, and what they were made with.

What is written, and every setting, stands in configs/explain.yaml; ``sise.explain`` is the same from Python.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from sise.benchmark.explain import explanation
from sise.benchmark.explain.asked import find_targets, image_files, read_picture
from sise.benchmark.explain.pictures import KILOBYTES, layers_sheet, overlay_of, panel_of
from sise.benchmark.explain.session import Explaining, Map, reason_of
from sise.benchmark.names import folder_name
from sise.benchmark.records.files import FULL_DISK, file_hash, whole
from sise.benchmark.run.left_behind import WeightsChanged
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError
from sise.probe.probe import Probe

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------- what is written
def explain_image(
    explaining: Explaining, path: Path, folder: Path, targets: Sequence[int] | None
) -> tuple[list[str], dict[str, str]]:
    """Explains one image and writes everything about it.

    Args:
        explaining: Network and explainers.
        path: The image.
        folder: Where files go; made if need be. Maps of an earlier command stay, but for those that are made again;
            where it holds anything else than maps of this picture, ``<folder>-2`` is taken. Other commands may write
            there at the same time.
        targets: Class indices; None for the best class.

    Returns:
        What was found, line by line, and the reason by the label of each explainer that could not explain it.

    Raises:
        SuiteError: If the image cannot be read or no explainer can explain it.
    """
    image, classes = read_picture(path), explaining.model.classes
    probe = explaining.probe(image)
    confidences = probe.to_confidence(probe.scores()).tolist()
    best = sorted(range(len(confidences)), key=lambda i: -confidences[i])
    top = best[: explaining.cfg.top]
    targets = best[:1] if targets is None else list(targets)
    lines = [f"{path} ({image.width} × {image.height})"]
    lines += [f"  {confidences[i]:.4f}  {classes[i]} ({i})" for i in [*top, *(t for t in targets if t not in top)]]
    maps, refused = explaining.maps(probe, targets)
    if not maps:
        raise SuiteError("; ".join(f"{label}: {reason}" for label, reason in refused.items()))
    network = explaining.facts()
    about = {
        "image": path.name,
        "sha256": file_hash(path),
        "height": image.height,
        "width": image.width,
        **network,
        "top": [{"class": classes[i], "index": i, "confidence": confidences[i]} for i in top],
    }
    facts = [_facts(one, classes, confidences, network) for one in maps]
    folder, panel = _listed(folder, about, maps, facts, classes)
    for one, fact in zip(maps, facts, strict=True):
        _write_map(one, image, explaining, probe, folder, fact["files"])
        empty = "" if one.saliency.any() else ", an empty map: no evidence found"
        label = f"{one.cell.cfg.explainer.label} of {classes[one.target]!r}"
        passes = round(one.costs["forward_passes"])
        cost = f"{passes} pass" + "es" * (passes != 1)
        lines.append(f"  {label}: {folder / fact['files'][0]} ({cost}{empty})")
    if panel:
        with whole(folder / panel) as draft:
            panel_of(maps, image, explaining, probe).save(draft, KILOBYTES, explaining.note)
        lines.append(f"  side by side: {folder / panel}")
    return lines, refused


def _listed(
    folder: Path, about: dict[str, Any], maps: Sequence[Map], facts: Sequence[dict], classes: Sequence[str]
) -> tuple[Path, str | None]:
    """Takes names for maps and lists them in explanation.json, before there are files of these names.

    So an interrupted command's files are known to be the suite's, and another command takes other names.

    Args:
        folder: The one that is wanted.
        about: What explanation.json says of the picture.
        maps, facts: The maps and what it says of each, to which the names of their files are added.
        classes: The network's.

    Returns:
        The folder that was taken, and the name of the panel if there is more than one map.
    """
    with explanation.naming(folder.parent):
        folder = explanation.folder_of(folder, about["sha256"])
        folder.mkdir(exist_ok=True)
        old = explanation.read(folder)
        stems = [_stem(one, classes[one.target]) for one in maps]
        listed = explanation.place_maps(folder, old, facts, stems)
        for one, fact in zip(maps, facts, strict=True):
            layers = ("_layers.png", "_layers.npz") if one.layers else ()
            fact["files"] = [f"{fact['stem']}{ending}" for ending in (".png", "_map.png", "_map.npy", *layers)]
        panel, panels = None, old.get("panels", [])
        if len(maps) > 1:
            panel, panels = explanation.place_panel(folder, old, [one["stem"] for one in facts])
        explanation.write(folder, {**about, "maps": listed, "panels": panels})
    return folder, panel


def _facts(one: Map, classes: Sequence[str], confidences: Sequence[float], network: dict[str, Any]) -> dict[str, Any]:
    """What explanation.json says of a map, but its files."""
    return {
        "explainer": one.cell.cfg.explainer.name,
        "options": OmegaConf.to_container(one.cell.cfg.explainer.call, resolve=True),
        "class": classes[one.target],
        "target": one.target,
        "confidence": confidences[one.target],
        "confidence_of_top_15_percent": one.kept,
        **one.costs,
        **network,
    }


def _stem(one: Map, name: str) -> str:
    """What the names of a map's files begin with, in characters that the file system has."""
    words = re.sub(r"[^\w-]+", "_", name)[:60]
    coding = sys.getfilesystemencoding()
    words = words.encode(coding, "replace").decode(coding).replace("?", "_")
    return f"{one.cell.cfg.explainer.name}_{one.target}_{words}"


def _write_map(
    one: Map, image: Image.Image, explaining: Explaining, probe: Probe, folder: Path, names: Sequence[str]
) -> None:
    """Writes a map's files, the overlay first."""
    picture = Image.fromarray(np.rint(255 * overlay_of(one.saliency, image, explaining.input)).astype(np.uint8))
    at_size = explaining.input.restore_map(one.saliency.cpu(), (image.height, image.width))
    large = Image.fromarray(np.rint(65535 * at_size.clamp(0, 1).numpy()).astype(np.uint16))
    with whole(folder / names[0]) as draft:
        picture.save(draft, optimize=True)
    with whole(folder / names[1]) as draft:
        large.save(draft)
    with whole(folder / names[2]) as draft:
        np.save(draft, one.saliency.cpu().numpy())
    if one.layers:
        with whole(folder / names[3]) as draft:
            layers_sheet(one, image, explaining, probe).save(draft, KILOBYTES, explaining.note)
        kept: dict[str, Any] = {layer: found.cpu().numpy() for layer, found in one.layers.items() if found is not None}
        with whole(folder / names[4]) as draft:
            np.savez_compressed(draft, **kept)


# ---------------------------------------------------------------------- all images
def run(cfg: DictConfig, configs: Sequence[DictConfig]) -> int:
    """Explains every image; what cannot be explained, or not by every explainer, is reported, and the others go on.

    Args:
        cfg: Of the command line.
        configs: From :func:`compose_explainers`.

    Returns:
        How many images failed, as a whole or for one of the explainers.

    Raises:
        SuiteError: If there is no image, the network cannot be made, a target is no class of it, or the disk is full.
        OSError: If nothing can be written to ``out``.
    """
    files = image_files(cfg.image)
    explaining = Explaining(configs)
    targets = find_targets(cfg.target, explaining.model.classes)
    _check_writable(Path(cfg.out))
    print("\n".join(explaining.describe()), flush=True)
    failures: list[str] = []
    partly: dict[tuple[str, str], list[Path]] = {}
    folders = _folders(files, Path(cfg.out))
    explaining.scorer.shown = len(files) == 1  # else there is a bar of the pictures
    with Progress(zip(files, folders, strict=True), total=len(files), unit="image", disable=len(files) == 1) as bar:
        for path, folder in bar:
            try:
                lines, refused = explain_image(explaining, path, folder, targets)
            except WeightsChanged:
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in FULL_DISK:
                    raise SuiteError(
                        f"the disk of {cfg.out} is full, at {path}; the maps of the images before it are there: free "
                        "some space and explain the others"
                    ) from error
                failures.append(f"{path} failed: {reason_of(error)}")
                log.debug("traceback", exc_info=error)
                continue
            for why in refused.items():
                partly.setdefault(why, []).append(path)
            bar.write("\n".join(["", *lines]))
            sys.stdout.flush()
    for (label, reason), paths in partly.items():
        others = f" and {len(paths) - 1} other images" if len(paths) > 1 else ""
        failures.append(f"{label} made no map of {paths[0]}{others}: {reason}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    incomplete, failed = len({path for paths in partly.values() for path in paths}), len(failures) - len(partly)
    if len(files) > 1:
        print(f"\n{len(files) - failed} of {len(files)} images explained", end="")
        print(f", {incomplete} of them not by every explainer" if incomplete else "")
    return failed + incomplete


def _check_writable(out: Path) -> None:
    """Makes a file where maps are to lie, or above, and takes it away: no map is to be made that cannot be kept.

    Raises:
        OSError: If that is not possible.
    """
    there = next(folder for folder in (out, *out.absolute().parents) if os.path.lexists(folder))
    with tempfile.TemporaryFile(dir=there):
        pass


def _folders(files: Sequence[Path], out: Path) -> list[Path]:
    """``out/<name>`` for each file, with its ending where two files have the same name."""
    stems = [folder_name(file) for file in files]
    names = [stem if stems.count(stem) == 1 else file.name for stem, file in zip(stems, files, strict=True)]
    return [out / (name if names[:i].count(name) == 0 else f"{name}-{i}") for i, name in enumerate(names)]

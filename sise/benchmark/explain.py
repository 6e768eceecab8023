"""Explains your own images: their best classes, the maps of one or more explainers, and pictures of them.

What is written, and every setting, stands in configs/explain.yaml; ``sise.explain`` is the same from Python.
"""

from __future__ import annotations

import difflib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from metrics import keep_mask
from sise.benchmark import explanation, runner
from sise.benchmark.datasets import IMAGE_FORMATS
from sise.benchmark.figures import visualization_maps
from sise.benchmark.names import folder_name
from sise.benchmark.preprocessing import to_rgb, upright
from sise.benchmark.runner import Cell
from sise.benchmark.sheets import Rows, overlay, provenance
from sise.benchmark.subjects import short
from sise.benchmark.terminal import Progress
from sise.layers import check_layers
from sise.maps import upsample
from sise.method import layer_names
from sise.probe import Probe
from sise.scoring import Scorer, Segment
from sise.types import Model, SuiteError, choose

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
"""What is an image in a folder."""

KEPT = 0.15
"""The share of the pixels that stays for the second confidence of a map, that of Drop % and Increase %."""

LONGEST = 1024
"""Longer side of an overlay, in pixels; a larger image is scaled down."""

KILOBYTES = 2000
CELL = 220


# ---------------------------------------------------------------------- what is asked for


def compose_explainers(overrides: Sequence[str], config_name: str = "explain") -> list[DictConfig]:
    """One configuration per explainer of ``explainer=[a,b]``.

    Settings of an explainer (``explainer.call.mu=0.3``) go to those that have them.

    Args:
        overrides: The command line's.
        config_name: The root configuration.
    """
    names = next((o.split("=", 1)[1] for o in overrides if o.startswith("explainer=")), "sise")
    own = [o for o in overrides if o.startswith("explainer.")]
    general = [o for o in overrides if not o.startswith(("explainer=", "explainer."))]
    configs = []
    for name in dict.fromkeys(n.strip() for n in names.strip("[]").split(",")):
        shipped = compose(config_name, [*general, f"explainer={name}"])
        unknown = object()
        fitting = [o for o in own if OmegaConf.select(shipped, o.split("=", 1)[0], default=unknown) is not unknown]
        configs.append(compose(config_name, [*general, f"explainer={name}", *fitting]) if fitting else shipped)
    return configs


def image_files(image: Any) -> list[Path]:
    """The files of ``image=``: one, those in a folder (not below it) by name, or those of a list.

    Raises:
        SuiteError: If none is given, one does not exist, or a folder holds no image.
    """
    if image is None:
        raise SuiteError("which image? python scripts/explain.py image=<file or folder>; --help tells the rest.")
    files: list[Path] = []
    for one in [image] if isinstance(image, str | int | float) else image:
        path = Path(str(one)).expanduser()
        if path.is_dir():
            named = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.is_dir())
            found = [f for f in named if f.is_file()]
            if len(found) < len(named):
                first = next(f for f in named if f not in found)
                log.warning(
                    "%s: %d of %d pictures left out, links that lead nowhere (the first: %s)",
                    path, len(named) - len(found), len(named), first.name,
                )  # fmt: skip
            if not found:
                raise SuiteError(f"the folder {path} holds no image ({' '.join(SUFFIXES)}).")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise SuiteError(f"image={path}: there is no such file or folder.")
    return files


def read_image(path: Path) -> Image.Image:
    """The image in a file, RGB, turned as its camera says.

    Raises:
        SuiteError: If it cannot be decoded.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return to_rgb(upright(image))
    except Exception as error:  # a damaged file can raise anything
        raise SuiteError(f"{path} is not a readable image ({error}); expected {', '.join(IMAGE_FORMATS)}.") from error


def find_targets(asked: Any, classes: Sequence[str]) -> list[int] | None:
    """Class indices of ``target=``: names (in upper or lower case) and indices.

    Returns:
        One index each, without repetition; None if nothing is asked for.

    Raises:
        SuiteError: On an unknown name, with the nearest ones, a name that two classes have, an index out of range, or
            nothing in a list.
    """
    if asked is None:
        return None
    lower = [name.lower() for name in classes]
    found: list[int] = []
    for one in [asked] if isinstance(asked, str | int | float) else asked:
        name = str(one).strip().lower()
        if name in lower:
            if lower.count(name) > 1:
                same = [i for i, other in enumerate(lower) if other == name]
                raise SuiteError(f"target={one}: {len(same)} classes are called so; give an index: {same}.")
            found.append(lower.index(name))
        elif re.fullmatch(r"-?\d+", name):
            if not 0 <= int(name) < len(classes):
                raise SuiteError(f"target={one}: the network scores classes 0 to {len(classes) - 1}.")
            found.append(int(name))
        else:
            word = re.compile(rf"\b{re.escape(name)}s?\b")
            near = [i for i, other in enumerate(lower) if word.search(other)]
            near += [lower.index(n) for n in difflib.get_close_matches(name, lower, n=8, cutoff=0.5)]
            names = ", ".join(f"{classes[i]} ({i})" for i in list(dict.fromkeys(near))[:8])
            hint = f"the nearest are: {names}" if names else "none is near; an index does as well"
            raise SuiteError(f"target={one}: the network has no class of this name; {hint}.")
    if not found:
        raise SuiteError("target=[] names no class; leave it out for the best class of each image.")
    return list(dict.fromkeys(found))


# ---------------------------------------------------------------------- explaining


@dataclass
class Map:
    """One explainer's map of one class.

    Attributes:
        cell: The explainer.
        target: Class index.
        saliency: (H, W) on the network's grid.
        kept: Confidence in the class when the network sees the map's best 15 % of the pixels.
        costs: Seconds and passes, for all classes of the image together.
        layers: The visualization maps by layer, for SISE and Ada-SISE; None where a layer has none.
    """

    cell: Cell
    target: int
    saliency: Tensor
    kept: float
    costs: dict[str, float]
    layers: dict[str, Tensor | None] = field(default_factory=dict)


class ShownScorer(Scorer):
    """Shows the passes of an explainer that takes more than two seconds, and the time they will take.

    Attributes:
        shown: Whether to; not beside another bar.
    """

    shown = False
    _bar: Progress | None = None
    _iterations = 0

    @contextmanager
    def showing(self, label: str, masks: int | None, iterations: int | None, targets: int) -> Iterator[None]:
        """While an explainer runs that is known to score so many masks, or to make so many iterations per target."""
        if not self.shown:
            yield
            return
        self._iterations = (iterations or 0) * targets
        try:
            with Progress(total=masks or 0, desc=label, unit="pass", delay=2, leave=False) as self._bar:
                yield
        finally:
            self._bar = None

    def score(self, segments: Sequence[Segment]) -> Tensor:
        self._announce(sum(len(segment.maps) for segment in segments))
        return super().score(segments)

    def differentiable(self, inputs: Tensor) -> Tensor:
        if self._bar is not None:
            self._bar.total = max(self._bar.total, self._iterations * len(inputs))
        scores = super().differentiable(inputs)
        self._advance(len(inputs))
        return scores

    def _forward(self, batch: Tensor) -> Tensor:
        scores = super()._forward(batch)
        self._advance(len(batch))
        return scores

    def _announce(self, passes: int) -> None:
        if self._bar is not None:
            self._bar.total = max(self._bar.total, self._bar.n + passes)

    def _advance(self, passes: int) -> None:
        if self._bar is not None:
            self._bar.total = max(self._bar.total, self._bar.n + 1)
            self._bar.update(min(passes, self._bar.total - self._bar.n))  # a last batch may be padded


class Explaining:
    """A network and explainers, ready for images.

    Args:
        configs: One per explainer, from :func:`compose_explainers`; network and protocol are those of the first.

    Raises:
        SuiteError: If the network cannot be made, sees no images, has no layers or not those named.
    """

    def __init__(self, configs: Sequence[DictConfig]) -> None:
        self.cfg = configs[0]
        choose("protocol.fill", self.cfg.protocol.fill, runner.FILLS)
        self.model: Model = instantiate(self.cfg.model.loader)
        if not hasattr(self.model.preprocess, "restore_map"):
            raise SuiteError(
                f"scripts/explain.py explains images, and model={self.model.name} sees none; choose another model, or "
                f"run it on its dataset: python scripts/evaluate.py model={self.model.name} dataset=..."
            )
        self.cells = [Cell(cfg, None, self.model) for cfg in configs]
        self.device = runner.choose_device(self.cfg.device)
        self.network = self.model.network.to(self.device)
        self.note = provenance("other data", self.device)
        named = dict.fromkeys(filter(None, (*self.model.layers, self.model.cam_layer)))
        if named:
            size, channels = self.model.preprocess.size, len(self.model.black)
            check_layers(self.network, list(named), size, channels=channels)
        self.scorer = runner.make_scorer(self.network, self.cfg.engine, kind=ShownScorer)

    def describe(self) -> list[str]:
        """The network, its input and its layers in words."""
        pre = self.model.preprocess
        kind = "grey" if pre.channels == "L" else pre.channels
        numbers = ["/".join(f"{v:.4g}" for v in dict.fromkeys(values)) for values in (pre.mean, pre.std)]
        layers = ", ".join(self.model.layers) or "none"
        return [
            f"network: {self.model.name}, {self.model.note}",
            f"input:   {pre.size[0]} × {pre.size[1]} {kind} ({pre.geometry}), (pixel − {numbers[0]}) / {numbers[1]}",
            f"layers:  {layers}; CAM methods read {self.model.cam_layer or 'none'}",
        ]

    def facts(self) -> dict[str, Any]:
        """What a map depends on besides its explainer, for explanation.json."""
        return {
            "network": self.model.name,
            "note": self.model.note,
            "weights_hash": self.model.weights_hash,
            "input": repr(self.model.preprocess),
            "layers": list(self.model.layers),
            "cam_layer": self.model.cam_layer,
            "protocol": self.cfg.protocol.name,
            "settings": {
                "protocol": OmegaConf.to_container(self.cfg.protocol, resolve=True),
                "precision": self.cfg.engine.precision,
            },
        }

    def probe(self, image: Image.Image) -> Probe:
        """The image as the network sees it."""
        protocol = self.cfg.protocol
        pixels = self.model.preprocess(image)[None].to(self.device)
        return Probe(
            self.network,
            pixels,
            layers=self.model.layers,
            cam_layer=self.model.cam_layer or None,
            confidence=protocol.confidence,
            gradient=protocol.gradient,
            fill=runner.make_fill(protocol.fill, self.model, pixels),
            scorer=self.scorer,
            seed=self.cfg.seed,
        )

    def maps(self, probe: Probe, targets: Sequence[int]) -> list[Map]:
        """Every explainer's map of every class, class by class."""
        made: list[Map] = []
        for cell in self.cells:
            call, label = cell.cfg.explainer.call, cell.cfg.explainer.label
            shown = self.scorer.showing(label, call.get("n_masks"), call.get("max_iter"), len(targets))
            with shown, probe.bill() as bill:
                saliency = cell.explainer(probe, targets)
            saliency = runner.checked_maps(saliency, probe, len(targets), self.cfg.protocol.on_nan)
            costs = {"seconds": bill.seconds, "forward_passes": bill.forward, "backward_passes": bill.backward}
            kept = probe.to_confidence(probe.score_masks(torch.stack([keep_mask(s, fraction=KEPT) for s in saliency])))
            for i, target in enumerate(targets):
                layers: dict[str, Tensor | None] = {}
                if cell.cfg.explainer.call._target_ in ("sise.method.sise", "sise.method.ada_sise"):
                    names = layer_names(cell.explainer.keywords.get("layers") or probe.layers, probe.layers)
                    layers = dict(zip(names, visualization_maps(cell, probe, target), strict=True))
                made.append(Map(cell, target, saliency[i], float(kept[i, target]), costs, layers))
        return sorted(made, key=lambda one: list(targets).index(one.target))


# ---------------------------------------------------------------------- what is written


def explain_image(explaining: Explaining, path: Path, folder: Path, targets: Sequence[int] | None) -> list[str]:
    """Explains one image and writes everything about it.

    Args:
        explaining: Network and explainers.
        path: The image.
        folder: Where files go; made if need be. Maps of an earlier command stay, but for those that are made again;
            where it holds anything else than maps of this picture, ``<folder>-2`` is taken.
        targets: Class indices; None for the best class.

    Returns:
        What was found, line by line.

    Raises:
        SuiteError: If the image cannot be read or an explainer cannot explain it.
    """
    image, classes = read_image(path), explaining.model.classes
    probe = explaining.probe(image)
    confidences = probe.to_confidence(probe.scores()).tolist()
    best = sorted(range(len(confidences)), key=lambda i: -confidences[i])
    top = best[: explaining.cfg.top]
    targets = best[:1] if targets is None else list(targets)
    lines = [f"{path} ({image.width} × {image.height})"]
    lines += [f"  {confidences[i]:.4f}  {classes[i]} ({i})" for i in [*top, *(t for t in targets if t not in top)]]
    maps = explaining.maps(probe, targets)
    digest = explanation.digest_of(path)
    folder = explanation.folder_of(folder, digest)
    folder.mkdir(parents=True, exist_ok=True)
    old = explanation.read(folder)
    network = explaining.facts()
    facts = [_facts(one, classes, confidences, network) for one in maps]
    stems = [_stem(one, classes[one.target]) for one in maps]
    listed = explanation.place_maps(folder, old, facts, stems)
    for one, fact in zip(maps, facts, strict=True):
        layers = ("_layers.png", "_layers.npz") if one.layers else ()
        fact["files"] = [f"{fact['stem']}{ending}" for ending in (".png", "_map.png", "_map.npy", *layers)]
    panel, panels = None, old.get("panels", [])
    if len(maps) > 1:
        panel, panels = explanation.place_panel(folder, old, [one["stem"] for one in facts])
    about = {
        "image": path.name,
        "sha256": digest,
        "height": image.height,
        "width": image.width,
        **network,
        "top": [{"class": classes[i], "index": i, "confidence": confidences[i]} for i in top],
        "maps": listed,
        "panels": panels,
    }
    explanation.write(folder, about)  # first, so that an interrupted command's files are known to be the suite's
    for one, fact in zip(maps, facts, strict=True):
        _write_map(one, image, explaining, probe, folder, fact["files"])
        empty = "" if one.saliency.any() else ", an empty map: no evidence found"
        label = f"{one.cell.cfg.explainer.label} of {classes[one.target]!r}"
        lines.append(f"  {label}: {folder / fact['files'][0]} ({one.costs['forward_passes']:.0f} passes{empty})")
    if panel:
        _panel(maps, image, explaining, probe).save(folder / panel, KILOBYTES, explaining.note)
        lines.append(f"  side by side: {folder / panel}")
    return lines


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
    picture = Image.fromarray(np.rint(255 * _overlay(one.saliency, image, explaining.model)).astype(np.uint8))
    picture.save(folder / names[0], optimize=True)
    at_size = explaining.model.preprocess.restore_map(one.saliency.cpu(), (image.height, image.width))
    Image.fromarray(np.rint(65535 * at_size.clamp(0, 1).numpy()).astype(np.uint16)).save(folder / names[1])
    np.save(folder / names[2], one.saliency.cpu().numpy())
    if one.layers:
        _layers_sheet(one, image, explaining, probe).save(folder / names[3], KILOBYTES, explaining.note)
        kept = {layer: found.cpu().numpy() for layer, found in one.layers.items() if found is not None}
        np.savez_compressed(folder / names[4], **kept)


def _picture(image: Image.Image, longest: int = LONGEST) -> np.ndarray:
    """The image, not larger than that: (h, w, 3) in [0, 1]."""
    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(small) / 255


def _overlay(saliency: Tensor, image: Image.Image, model: Model, longest: int = LONGEST) -> np.ndarray:
    """A map on the grid of the network over the image at its own proportions: (h, w, 3) in [0, 1]."""
    picture = _picture(image, longest)
    at_size = model.preprocess.restore_map(saliency.cpu(), (image.height, image.width))
    return overlay(picture, upsample(at_size[None], picture.shape[:2])[0]).clip(0, 1)


def _framed(picture: np.ndarray) -> np.ndarray:
    """White on both sides of a picture (H, W, 3) that is higher than wide, so that it is square."""
    height, width = picture.shape[:2]
    if height <= width:
        return picture
    left = (height - width) // 2
    return np.pad(picture, ((0, 0), (left, height - width - left), (0, 0)), constant_values=1.0)


def _rows(titles: Sequence[str], count: int, image: Image.Image, explaining: Explaining, caption_lines: int) -> Rows:
    """Rows for pictures of the image's proportions, but not higher than wide."""
    tall = round(CELL * min(1.0, image.height / image.width))
    return Rows(titles, count, cell=CELL, tall=tall, caption_lines=caption_lines, footer=_footer(explaining))


def _panel(maps: Sequence[Map], image: Image.Image, explaining: Explaining, probe: Probe) -> Rows:
    """One row per class: the image, and each explainer's map with the confidence that its best pixels keep."""
    targets = list(dict.fromkeys(one.target for one in maps))
    labels = [cell.cfg.explainer.label for cell in explaining.cells]
    rows = _rows(["image", *labels], len(targets), image, explaining, caption_lines=2)
    for row, target in enumerate(targets):
        captions = [explaining.model.classes[target], f"Ψ {short(probe.confidence(target))}"]
        rows.picture(row, 0, _framed(_picture(image, 2 * CELL)), captions)
        of_target = [one for one in maps if one.target == target]
        for column, one in enumerate(of_target, 1):
            shown = _framed(_overlay(one.saliency, image, explaining.model, 2 * CELL))
            captions = [f"Ψ {short(one.kept)} from its top {100 * KEPT:.0f} %"]
            captions += [] if one.saliency.any() else ["empty map: no evidence found"]
            rows.picture(row, column, shown, captions)
    return rows


def _layers_sheet(one: Map, image: Image.Image, explaining: Explaining, probe: Probe) -> Rows:
    """The image, the visualization map of each layer, low to high, and the map they are fused to."""
    label = one.cell.cfg.explainer.label
    titles = [explaining.model.classes[one.target], *(layer.removeprefix("network.") for layer in one.layers), label]
    rows = _rows(titles, 1, image, explaining, caption_lines=1)
    rows.picture(0, 0, _framed(_picture(image, 2 * CELL)), [f"Ψ {short(probe.confidence(one.target))}"])
    for column, (layer, found) in enumerate(one.layers.items(), 1):
        if found is None:
            rows.blank(0, column, "no feature map selected")
            continue
        count, height, width = probe.feature_maps(layer).shape
        shown = _framed(_overlay(found, image, explaining.model, 2 * CELL))
        rows.picture(0, column, shown, [f"{count} feature maps of {height} × {width}"])
    shown = _framed(_overlay(one.saliency, image, explaining.model, 2 * CELL))
    rows.picture(0, len(titles) - 1, shown, [f"Ψ {short(one.kept)} from its top {100 * KEPT:.0f} %"])
    return rows


def _footer(explaining: Explaining) -> str:
    cfg = explaining.cfg
    parts = [explaining.model.name, f"protocol {cfg.protocol.name}", f"Ψ: {cfg.protocol.confidence} confidence"]
    for cell in explaining.cells:
        call = cell.cfg.explainer.call
        budget = {"n_masks": "masks", "max_iter": "iterations"}
        parts += [f"{cell.cfg.explainer.label}: {call[key]} {word}" for key, word in budget.items() if key in call]
    return " · ".join(parts)


# ---------------------------------------------------------------------- all images


def run(cfg: DictConfig, configs: Sequence[DictConfig]) -> int:
    """Explains every image; one that cannot be explained is reported, and the others go on.

    Args:
        cfg: Of the command line.
        configs: From :func:`compose_explainers`.

    Returns:
        How many images failed.

    Raises:
        SuiteError: If there is no image, the network cannot be made, or a target is no class of it.
    """
    files = image_files(cfg.image)
    explaining = Explaining(configs)
    targets = find_targets(cfg.target, explaining.model.classes)
    print("\n".join(explaining.describe()), flush=True)
    failures = []
    folders = _folders(files, Path(cfg.out))
    explaining.scorer.shown = len(files) == 1  # else there is a bar of the pictures
    with Progress(zip(files, folders, strict=True), total=len(files), unit="image", disable=len(files) == 1) as bar:
        for path, folder in bar:
            try:
                lines = explain_image(explaining, path, folder, targets)
            except Exception as error:
                reason = f"{error}" if isinstance(error, SuiteError) else f"{type(error).__name__}: {error}"
                failures.append(f"{path} failed: {reason}")
                log.debug("traceback", exc_info=error)
                continue
            bar.write("\n".join(["", *lines]))
            sys.stdout.flush()
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    if len(files) > 1:
        print(f"\n{len(files) - len(failures)} of {len(files)} images explained")
    return len(failures)


def _folders(files: Sequence[Path], out: Path) -> list[Path]:
    """``out/<name>`` for each file, with its ending where two files have the same name."""
    stems = [folder_name(file) for file in files]
    names = [stem if stems.count(stem) == 1 else file.name for stem, file in zip(stems, files, strict=True)]
    return [out / (name if names[:i].count(name) == 0 else f"{name}-{i}") for i, name in enumerate(names)]

"""Shapes: a generated data set in the PASCAL VOC 2007 layout, with exact masks.

Twenty silhouettes lie on cluttered backgrounds. Colours, fills, sizes, places and tilts are random, so nothing but the
shape of an object tells its class. Every scene follows from `(seed, split, index)` alone: scenes can be drawn in any
order, by any number of processes, and a split can be lengthened without changing the scenes it already has.

The folder that `generate` writes is read like the real VOC 2007: annotations in XML with 1-based inclusive boxes,
image sets, JPEG images, and palette PNG masks of classes and of objects (without VOC's void border, since the
outlines are known exactly).
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw

from sise.benchmark.terminal import Progress

__all__ = [
    "CLASSES",
    "SIZE",
    "SPLITS",
    "VERSION",
    "background",
    "finish",
    "generate",
    "image_id",
    "paint",
    "scene",
    "silhouette",
]

#: Version of the drawing code. A change of any pixel needs a new number, which makes `generate` write afresh.
VERSION = 1

#: Height and width of a scene in pixels.
SIZE = 224

#: Class names in the order of their indices 0..19.
CLASSES = (
    "arrow", "bar", "bolt", "chevron", "circle", "comb", "crescent", "cross", "drop", "dumbbell",
    "frame", "heart", "hourglass", "key", "ring", "square", "star", "tee", "trefoil", "triangle",
)  # fmt: skip

#: First number of the image ids of every split. "val" is for model selection and is never written to disk.
SPLITS = {"test": 1, "train": 300_001, "val": 600_001}
_SPLIT_CODES = {"train": 0, "val": 1, "test": 2}  # part of the random seed
_SUPERSAMPLING = 4
_SMALLEST, _LARGEST = 28, 110  # longest extent of a silhouette before its tilt, in pixels
_MAX_TILT = 25.0  # degrees
_DIFFICULT_VISIBLE, _DIFFICULT_AREA = 0.7, 150  # share of the silhouette, pixels


# --- silhouettes --------------------------------------------------------------------------------------------
def _disk(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    turn = np.linspace(0, 2 * np.pi, 49)[:-1]
    return list(zip(x + radius * np.cos(turn), y + radius * np.sin(turn), strict=True))


def _box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


@functools.cache
def _silhouettes() -> tuple[tuple[tuple[np.ndarray, int], ...], ...]:
    """The outlines of all classes: per class, polygons (P, 2) in [-1, 1] (y downwards) to fill (1) or to cut (0)."""
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    spokes = np.arange(10) * np.pi / 5 - np.pi / 2
    star = list(zip(radii * np.cos(spokes), radii * np.sin(spokes), strict=True))
    turn = np.linspace(0, 2 * np.pi, 65)[:-1]
    heart = list(
        zip(
            np.sin(turn) ** 3,
            -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 16,
            strict=True,
        )
    )
    drop = [(0.0, -1.0)] + [p for p in _disk(0, 0.4, 0.6) if p[1] > 0.05]
    drop = [drop[0], *sorted(drop[1:], key=lambda p: math.atan2(p[0], p[1] - 0.4), reverse=True)]
    outlines: dict[str, list[tuple[list[tuple[float, float]], int]]] = {
        "arrow": [
            ([(-1, -0.24), (0.05, -0.24), (0.05, -0.78), (1, 0), (0.05, 0.78), (0.05, 0.24), (-1, 0.24)], 1),
        ],
        "bar": [(_box(-1, -0.22, 1, 0.22), 1)],
        "bolt": [([(0.1, -1), (-0.62, 0.18), (-0.08, 0.18), (-0.3, 1), (0.62, -0.3), (0.06, -0.3), (0.55, -1)], 1)],
        "chevron": [([(0, -0.75), (1, 0.3), (1, 0.85), (0, -0.1), (-1, 0.85), (-1, 0.3)], 1)],
        "circle": [(_disk(0, 0, 0.92), 1)],
        "comb": [
            (_box(-0.8, -1, -0.35, 1), 1),
            (_box(-0.4, -1, 0.8, -0.6), 1),
            (_box(-0.4, -0.2, 0.8, 0.2), 1),
            (_box(-0.4, 0.6, 0.8, 1), 1),
        ],
        "crescent": [(_disk(0.15, 0, 1), 1), (_disk(0.62, 0, 0.82), 0)],
        "cross": [(_box(-1, -0.3, 1, 0.3), 1), (_box(-0.3, -1, 0.3, 1), 1)],
        "drop": [(drop, 1)],
        "dumbbell": [(_disk(-0.62, 0, 0.4), 1), (_disk(0.62, 0, 0.4), 1), (_box(-0.6, -0.13, 0.6, 0.13), 1)],
        "frame": [(_box(-0.85, -0.85, 0.85, 0.85), 1), (_box(-0.46, -0.46, 0.46, 0.46), 0)],
        "heart": [(heart, 1)],
        "hourglass": [([(-0.75, -1), (0.75, -1), (0.12, 0), (0.75, 1), (-0.75, 1), (-0.12, 0)], 1)],
        "key": [
            (_disk(-0.52, 0, 0.48), 1),
            (_disk(-0.52, 0, 0.2), 0),
            (_box(-0.1, -0.14, 1, 0.14), 1),
            (_box(0.3, 0, 0.54, 0.5), 1),
            (_box(0.76, 0, 1, 0.5), 1),
        ],
        "ring": [(_disk(0, 0, 0.95), 1), (_disk(0, 0, 0.52), 0)],
        "square": [(_box(-0.8, -0.8, 0.8, 0.8), 1)],
        "star": [(star, 1)],
        "tee": [(_box(-0.95, -1, 0.95, -0.5), 1), (_box(-0.25, -0.6, 0.25, 1), 1)],
        "trefoil": [(_disk(0, -0.45, 0.53), 1), (_disk(-0.46, 0.36, 0.53), 1), (_disk(0.46, 0.36, 0.53), 1)],
        "triangle": [([(0, -0.95), (1, 0.78), (-1, 0.78)], 1)],
    }
    return tuple(tuple((np.asarray(p, float), fill) for p, fill in outlines[name]) for name in CLASSES)


def silhouette(rng: np.random.Generator, class_index: int, size: float) -> np.ndarray:
    """Draw a silhouette, tilted, slightly stretched and perhaps mirrored.

    Args:
        rng: Draws tilt, stretch and mirroring.
        class_index: Index into `CLASSES`.
        size: Longest extent before the tilt, in pixels.

    Returns:
        Its coverage, (h, w) float32 in [0, 1], cut to its box.
    """
    tilt = math.radians(rng.uniform(-_MAX_TILT, _MAX_TILT))
    stretch = rng.uniform(0.9, 1.1)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = math.cos(tilt), math.sin(tilt)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([mirror * stretch, 1 / stretch]) * (size / 2)
    parts = [(outline @ matrix.T, fill) for outline, fill in _silhouettes()[class_index]]
    points = np.concatenate([points for points, fill in parts if fill])
    low = np.floor(points.min(0)) - 1
    extent = int((np.ceil(points.max(0)) + 1 - low).max())
    canvas = Image.new("L", (extent * _SUPERSAMPLING,) * 2)
    draw = ImageDraw.Draw(canvas)
    for outline, fill in parts:
        draw.polygon([tuple(p) for p in ((outline - low) * _SUPERSAMPLING).tolist()], fill=255 * fill)
    coverage = np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32) / 255
    rows, columns = np.flatnonzero(coverage.max(1)), np.flatnonzero(coverage.max(0))
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


# --- textures and backgrounds -------------------------------------------------------------------------------
def _pattern(rng: np.random.Generator, height: int, width: int, periods: tuple[float, float]) -> np.ndarray:
    """A random texture (height, width) float32 in [0, 1]: plain, gradient, stripes, checks, clouds or grain."""
    kind = rng.integers(6)
    if kind == 0:
        return np.full((height, width), rng.random(), np.float32)
    if kind == 4:
        cells = int(rng.integers(2, 7))
        return _clouds(rng, height, width, cells)
    if kind == 5:
        return rng.random((height, width), np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    u = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    if kind == 1:
        return (u - u.min()) / max(float(np.ptp(u)), 1e-6)
    period = np.float32(rng.uniform(*periods))
    if kind == 2:
        return ((u / period) % 1 < rng.uniform(0.35, 0.65)).astype(np.float32)
    v = np.float32(-np.sin(angle)) * x + np.float32(np.cos(angle)) * y
    return (((u / period) % 1 < 0.5) ^ ((v / period) % 1 < 0.5)).astype(np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise (height, width) float32 in [0, 1] with `cells` random values along each side."""
    grid = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.clip(np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)), 0, 1)


def background(rng: np.random.Generator) -> np.ndarray:
    """Draw a textured and cluttered background without any object, (SIZE, SIZE, 3) float32 in [0, 255]."""
    first = rng.uniform(20, 235, 3)
    second = np.clip(first + rng.uniform(-55, 55, 3), 0, 255)
    mix = _pattern(rng, SIZE, SIZE, (8, 40))
    image = (first + mix[..., None] * (second - first)).astype(np.float32)
    for _ in range(rng.integers(0, 3)):  # soft patches of light
        image += _clouds(rng, SIZE, SIZE, int(rng.integers(3, 9)))[..., None] * rng.uniform(-50, 50, 3).astype(
            np.float32
        )
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 16)):  # distractors: thin strokes and arcs, which belong to no class
        colour = tuple(int(c) for c in np.clip(first + rng.uniform(-110, 110, 3), 0, 255))
        start = rng.uniform(0, SIZE, 2)
        reach = rng.uniform(-70, 70, 2)
        stroke = int(rng.integers(1, 4))
        if rng.random() < 0.7:
            bend = start + reach / 2 + rng.uniform(-15, 15, 2)
            draw.line([tuple(start), tuple(bend), tuple(start + reach)], fill=colour, width=stroke)
        else:
            low, high = np.minimum(start, start + reach), np.maximum(start, start + reach) + 2
            begin = rng.uniform(0, 360)
            draw.arc([tuple(low), tuple(high)], begin, begin + rng.uniform(30, 140), fill=colour, width=stroke)
    return np.asarray(canvas, np.float32)


def _object_colours(rng: np.random.Generator, surroundings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two colours (3,) of a fill, the first far from and the second not too near to the surroundings (3,)."""
    first = second = 255 - surroundings
    for _ in range(20):
        first = rng.uniform(0, 255, 3)
        if np.linalg.norm(first - surroundings) > 110:
            break
    for _ in range(20):
        second = np.clip(first + rng.uniform(-110, 110, 3), 0, 255)
        if np.linalg.norm(second - surroundings) > 85:
            break
    return first, second


def paint(rng: np.random.Generator, window: np.ndarray, shown: np.ndarray) -> None:
    """Paint a silhouette into a window of an image, in colours that stand out from it.

    Args:
        rng: Draws the colours and the texture.
        window: (h, w, 3) float32 in [0, 255], a view of the image; changed in place.
        shown: (h, w) float32 in [0, 1], the silhouette's coverage.
    """
    first, second = _object_colours(rng, window.reshape(-1, 3).mean(0))
    height, width = shown.shape
    fill = first + _pattern(rng, height, width, (4, 12))[..., None] * (second - first)
    window += shown[..., None] * (fill.astype(np.float32) - window)


def finish(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add grain and change the brightness of a whole picture.

    Args:
        rng: Draws how much of both.
        image: (SIZE, SIZE, 3) float32 in [0, 255]; changed in place.

    Returns:
        The same shape in uint8.
    """
    grain = rng.uniform(0, 14)
    image += grain * (rng.random((SIZE, SIZE, 3), np.float32) * 2 - 1)
    image *= np.float32(rng.uniform(0.85, 1.1))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# --- scenes -------------------------------------------------------------------------------------------------
def _compose(seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray, list[int], list[int], list[bool]]:
    """`scene`, and per object the area of its whole silhouette in pixels and whether the border cuts it."""
    if split not in _SPLIT_CODES:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, got seed={seed}, index={index}")
    rng = np.random.default_rng([seed, _SPLIT_CODES[split], index])
    image = background(rng)
    instances = np.zeros((SIZE, SIZE), np.uint8)
    class_ids: list[int] = []
    areas: list[int] = []
    cut: list[bool] = []
    for _ in range(int(rng.choice(4, p=[0.2, 0.35, 0.3, 0.15])) + 1):
        repeated = bool(class_ids) and rng.random() < 0.12
        class_index = class_ids[-1] if repeated else int(rng.integers(len(CLASSES)))
        size = _SMALLEST + (_LARGEST - _SMALLEST) * rng.beta(1.1, 2.2)
        coverage = silhouette(rng, class_index, size)
        height, width = coverage.shape
        outside = 0.12 if rng.random() < 0.2 else 0.0  # the share of the box that may leave the image
        covering = 0.25 if rng.random() < 0.25 else 0.0  # the share of an earlier object that may be covered
        for _ in range(25):
            y = int(rng.integers(-int(outside * height), SIZE - height + int(outside * height) + 1))
            x = int(rng.integers(-int(outside * width), SIZE - width + int(outside * width) + 1))
            y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + height, SIZE), min(x + width, SIZE)
            shown = coverage[y0 - y : y1 - y, x0 - x : x1 - x]
            solid = shown >= 0.5
            covered = np.bincount(instances[y0:y1, x0:x1][solid], minlength=len(areas) + 1)[1:]
            visible = np.bincount(instances.ravel(), minlength=len(areas) + 1)[1:]
            if all(v - c >= (1 - covering) * a for v, c, a in zip(visible, covered, areas, strict=True) if c):
                break
        else:
            continue
        paint(rng, image[y0:y1, x0:x1], shown)
        instances[y0:y1, x0:x1][solid] = len(class_ids) + 1
        class_ids.append(class_index)
        areas.append(int((coverage >= 0.5).sum()))
        cut.append((y0, x0, y1, x1) != (y, x, y + height, x + width))
    return finish(rng, image), instances, class_ids, areas, cut


def scene(seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw one scene.

    Args:
        seed: Seed of the data set, not negative.
        split: "train", "val" or "test".
        index: Number of the scene in its split, from 0.

    Returns:
        The RGB image, (224, 224, 3) uint8; the instance mask, (224, 224) uint8, with 0 for the background and k for
        the k-th object; and the class index of every object, 1 to 4 entries.

    Raises:
        ValueError: If the split is unknown, or the seed or the index is negative.
    """
    return _compose(seed, split, index)[:3]


def image_id(split: str, index: int) -> str:
    """The six-digit VOC-style name of a scene, unique over the splits.

    Args:
        split: "train", "val" or "test".
        index: Number of the scene in its split, from 0 to 299 998.

    Returns:
        For instance "000001" for the first test scene.

    Raises:
        ValueError: If the split is unknown or the index does not fit its range.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if not 0 <= index < 299_999:
        raise ValueError(f"index of a scene must lie in 0..299998, got {index}")
    return f"{SPLITS[split] + index:06d}"


# --- the VOC folder -----------------------------------------------------------------------------------------
@functools.cache
def _palette() -> bytes:
    """VOC's colour map: the bits of an index, three at a time, become the high bits of red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours.tobytes()


def _save_palette(indices: np.ndarray, path: Path) -> None:
    """Write indices (H, W) uint8 as a PNG with VOC's palette."""
    picture = Image.fromarray(indices)
    picture.putpalette(_palette())
    picture.save(path)


def _annotation(name: str, objects: list[dict]) -> str:
    lines = [
        "<annotation>",
        "\t<folder>VOC2007</folder>",
        f"\t<filename>{escape(name)}.jpg</filename>",
        "\t<source>\n\t\t<database>shapes</database>\n\t\t<annotation>generated</annotation>\n\t</source>",
        f"\t<size>\n\t\t<width>{SIZE}</width>\n\t\t<height>{SIZE}</height>\n\t\t<depth>3</depth>\n\t</size>",
        "\t<segmented>1</segmented>",
    ]
    for item in objects:
        x0, y0, x1, y1 = item["box"]
        lines += [
            "\t<object>",
            f"\t\t<name>{item['name']}</name>",
            "\t\t<pose>Unspecified</pose>",
            f"\t\t<truncated>{item['truncated']:d}</truncated>",
            f"\t\t<difficult>{item['difficult']:d}</difficult>",
            f"\t\t<bndbox>\n\t\t\t<xmin>{x0}</xmin>\n\t\t\t<ymin>{y0}</ymin>\n\t\t\t<xmax>{x1}</xmax>"
            f"\n\t\t\t<ymax>{y1}</ymax>\n\t\t</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _objects(instances: np.ndarray, class_ids: list[int], areas: list[int], cut: list[bool]) -> list[dict]:
    """Name, 1-based inclusive box of the visible pixels, and the VOC flags of every object that is visible."""
    found = []
    for number, (class_index, area, is_cut) in enumerate(zip(class_ids, areas, cut, strict=True), 1):
        mask = instances == number
        visible = int(mask.sum())
        if visible == 0:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append(
            {
                "name": CLASSES[class_index],
                "box": (columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1),
                "truncated": is_cut or visible < 0.95 * area,
                "difficult": visible < _DIFFICULT_VISIBLE * area or visible < _DIFFICULT_AREA,
            }
        )
    return found


def _write_split(devkit: Path, seed: int, split: str, count: int, progress: bool) -> None:
    """Write `count` scenes and the image sets of one split."""
    lines: list[str] = []
    presence: dict[str, list[str]] = {name: [] for name in CLASSES}
    for index in Progress(range(count), desc=f"shapes {split}", unit="scene", disable=not (progress and count)):
        image, instances, class_ids, areas, cut = _compose(seed, split, index)
        name = image_id(split, index)
        Image.fromarray(image).save(devkit / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        classes = np.array([0, *(c + 1 for c in class_ids)], np.uint8)[instances]
        _save_palette(classes, devkit / "SegmentationClass" / f"{name}.png")
        _save_palette(instances, devkit / "SegmentationObject" / f"{name}.png")
        objects = _objects(instances, class_ids, areas, cut)
        (devkit / "Annotations" / f"{name}.xml").write_text(_annotation(name, objects), encoding="utf-8")
        lines.append(name)
        for class_name in CLASSES:  # VOC: 1 present, 0 present but only difficult, -1 absent
            flags = [item["difficult"] for item in objects if item["name"] == class_name]
            state = -1 if not flags else 0 if all(flags) else 1
            presence[class_name].append(f"{name} {state:2d}")
    main, segmentation = devkit / "ImageSets" / "Main", devkit / "ImageSets" / "Segmentation"
    for path in (main / f"{split}.txt", segmentation / f"{split}.txt"):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for class_name, states in presence.items():
        text = "".join(f"{state}\n" for state in states)
        (main / f"{class_name}_{split}.txt").write_text(text, encoding="utf-8")


def _stamped(root: Path) -> dict | None:
    """The stamp of a finished data set in `root`, or None."""
    try:
        return json.loads((root / "shapes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def generate(root: str | os.PathLike, *, seed: int = 0, train: int = 0, test: int = 200, progress: bool = True) -> Path:
    """Write the data set in the VOC 2007 layout, unless the same one is there already.

    The scenes are written to a folder beside `root`, which then takes its place in one step, so that an interrupted
    call never leaves half a data set behind.

    Args:
        root: Folder of the data set. `VOCdevkit/VOC2007` and the stamp `shapes.json` go below it.
        seed: Seed of the data set.
        train: Number of scenes of the split "train".
        test: Number of scenes of the split "test".
        progress: Show a progress bar.

    Returns:
        The folder `root/VOCdevkit/VOC2007`.

    Raises:
        ValueError: If a number is negative, or there is no scene to write.
        FileExistsError: If `root` holds something other than this data set.
    """
    if seed < 0 or train < 0 or test < 0 or train + test == 0:
        raise ValueError(f"expected non-negative numbers and at least one scene, got {seed=}, {train=}, {test=}")
    root = Path(root)
    finished = root / "VOCdevkit" / "VOC2007"
    stamp = {"dataset": "shapes", "version": VERSION, "seed": seed, "train": train, "test": test}
    if _stamped(root) == stamp and finished.is_dir():
        return finished
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is a file: expected a folder for the data set, or nothing")
    if root.exists():
        foreign = sorted({entry.name for entry in root.iterdir()} - {"VOCdevkit", "shapes.json"})
        if foreign or (any(root.iterdir()) and (_stamped(root) or {}).get("dataset") != "shapes"):
            raise FileExistsError(f"{root} holds files that are not of the shapes data set; choose another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    draft.chmod(0o755)  # mkdtemp is private, the data set need not be
    try:
        devkit = draft / "VOCdevkit" / "VOC2007"
        for folder in (
            "Annotations", "ImageSets/Main", "ImageSets/Segmentation", "JPEGImages", "SegmentationClass",
            "SegmentationObject",
        ):  # fmt: skip
            (devkit / folder).mkdir(parents=True)
        for split, count in (("train", train), ("test", test)):
            _write_split(devkit, seed, split, count, progress)
        (draft / "shapes.json").write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        if root.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{root.name}-old-", dir=root.parent))
            root.rename(retired / "old")
            draft.rename(root)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            try:
                draft.rename(root)
            except OSError:
                if _stamped(root) != stamp:  # otherwise another process has just finished the same data set
                    raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return finished

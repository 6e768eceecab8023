"""HMT: eight tissues in tiles of colorectal cancer histology, and the course's VGG-7 for them.

References:
    Kather et al., "Multi-class texture analysis in colorectal cancer histology", Scientific Reports 6, 2016
    (CC BY 4.0), for the tiles; the ECE1512 tutorial for the split and the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sise.benchmark import tutorial
from sise.benchmark.datasets import BaseDataset, digest, plural, read_image
from sise.benchmark.models import SuiteModel, weights_hash
from sise.benchmark.preprocessing import Preprocessing
from sise.types import Sample, SuiteError, choose

__all__ = ["CLASSES", "FOLDERS", "HMT", "VGG7", "network", "train"]

CLASSES = ("tumor", "stroma", "complex", "lympho", "debris", "mucosa", "adipose", "empty")
#: Kather's folders, one per class; `CLASSES` in this order are the network's scores.
FOLDERS = tuple(f"{number:02d}_{name.upper()}" for number, name in enumerate(CLASSES, start=1))

#: The tutorial's split of 625 tiles per class: 563 to train on (4504 in all), 62 to test (496).
TEST_TILES, TILES = 62, 625

#: `digest` of the names of the course's 496 test tiles, and `weights_hash` of its own VGG-7 (``HMT.h5``).
COURSE_TEST = "56c540c7e952256e6ba95e6208f1b573d5b2f849a0d01f2d6f359a1b85c19a17"
COURSE_WEIGHTS = "2c2563bd89136c0ab9176fc59c591d2c1ea4f1681330eaf927fe10efade5c924"

_SUFFIXES = (".tif", ".tiff", ".png")
_SLIDE = re.compile(r"CRC-Prim-HE-\d+")
"""In a tile's name, the slide it was cut from: tiles of one slide are no independent samples."""
PARTS = ("train", "test")


def split(count: int, *seed: int) -> tuple[list[int], list[int]]:
    """Positions (train, test) of the tiles of one class: 62 of 625 to test, at least one of two or more.

    Args:
        count: Tiles of the class.
        seed: Draws which; whole numbers.
    """
    held_out = max(round(count * TEST_TILES / TILES), min(1, count // 2))
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


class HMT(BaseDataset):
    """Histology tiles, one tissue each; the id of a tile is its folder and file name, without the suffix.

    The layout is the course's, ``HMT_train`` and ``HMT_test`` with a folder per class, or Kather's own, the eight
    folders of classes, which are then split class by class as the tutorial's were (its draw is not known). Tiles come
    in the order of their names, class after class. There is no annotated region: masks cover the whole tile.

    Args:
        root: Folder of ``HMT_train`` and ``HMT_test`` (one is enough for its part), or of the classes' folders.
        part: "test" or "train".
        first: Only the first so many tiles; None = all.
        seed: Of the split.
        name: Name in configs and tables.

    Raises:
        SuiteError: If there are no such folders or no tiles in them.
    """

    classes = CLASSES

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        part: str = "test",
        first: int | None = None,
        seed: int = 0,
        name: str = "hmt",
    ) -> None:
        choose("part", part, PARTS)
        if first is not None and first < 1:
            raise SuiteError(f"{name}: expected first to be at least 1 or null, got {first}")
        self.name, self.part = name, part
        given, root = any(Path(root, f"HMT_{known}").is_dir() for known in PARTS), Path(root)
        folder = root / f"HMT_{part}" if given else root
        self._paths: dict[str, Path] = {}
        targets: dict[str, tuple[int, ...]] = {}
        for target, kind in enumerate(FOLDERS):
            tiles = sorted(p for p in folder.glob(f"{kind}/*") if p.suffix.lower() in _SUFFIXES)
            if not given:
                chosen = split(len(tiles), seed, target)[PARTS.index(part)]
                tiles = [tiles[position] for position in chosen]
            for path in tiles:
                image_id = f"{kind}/{path.stem}"
                if image_id in self._paths:
                    raise SuiteError(
                        f"{name}: {self._paths[image_id]} and {path.name} have the same name but for the suffix, which "
                        "ids leave out; take one of them away"
                    )
                self._paths[image_id], targets[image_id] = path, (target,)
        if not targets:
            expected = f"{folder}/{FOLDERS[0]} to {FOLDERS[-1]}"
            raise SuiteError(
                f"{name}: expected tiles ({', '.join(_SUFFIXES)}) in the folders {expected}, found none; unzip "
                "Kather_texture_2016_image_tiles_5000.zip or the course's HMT_test and set dataset.root to that folder"
            )
        self._found = tuple(targets)
        self.ids = self._found[:first]
        self._targets = {image_id: targets[image_id] for image_id in self.ids}

    def __getitem__(self, image_id: str) -> Sample:
        """One tile.

        Raises:
            SuiteError: If the id is unknown or the tile cannot be read.
        """
        targets = self.targets_of(image_id)
        tile = read_image(self.picture_of(image_id), self.name)
        slide = _SLIDE.search(image_id)
        info = {"cluster": slide[0]} if slide else {}
        return Sample(image_id, tile, targets, np.ones((1, tile.height, tile.width), dtype=bool), info)

    def picture_of(self, image_id: str) -> Path:
        """The file that a tile is read from."""
        return self._paths[image_id]

    def verify_counts(self) -> tuple[bool, str]:
        """Whether these are the course's 496 test tiles, judged by their names."""
        found = f"{plural(len(self._found), 'tile')} of the {self.part} part"
        if self.part == "test" and digest(self._found) == COURSE_TEST:
            return True, f"{found}, the course's own"
        return False, f"{found}, not the course's own 496 test tiles: results are not comparable to the published ones"

    def _content(self) -> Sequence[Any]:
        """Part, ids and targets."""
        return [self.part, list(self._targets.items())]


def preprocessing() -> Preprocessing:
    """The course's input: tiles of 150 pixels resized to 224 by Pillow's bilinear filter, RGB in [0, 1]."""
    return Preprocessing(size=(224, 224), resample="bilinear", mean=(0, 0, 0), std=(255, 255, 255))


def _convolution(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU())


class VGG7(nn.Module):
    """The course's network: two pairs of 3x3 convolutions, a pool behind each, mean over places, 66,088 parameters.

    Its layers have Keras's names; a convolution's output is that of its ReLU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv2d, self.conv2d_1 = _convolution(3, 32), _convolution(32, 32)
        self.max_pooling2d = nn.MaxPool2d(2)
        self.conv2d_2, self.conv2d_3 = _convolution(32, 64), _convolution(64, 64)
        self.max_pooling2d_1 = nn.MaxPool2d(2)
        self.dense = nn.Linear(64, len(CLASSES))

    def forward(self, tiles: Tensor) -> Tensor:
        """(N, 3, 224, 224) RGB in [0, 1] -> (N, 8) scores before the softmax."""
        maps = self.max_pooling2d(self.conv2d_1(self.conv2d(tiles)))
        maps = self.max_pooling2d_1(self.conv2d_3(self.conv2d_2(maps)))
        return self.dense(maps.mean(dim=(2, 3)))


def network(
    weights: str | os.PathLike,
    *,
    name: str = "vgg7",
    layers: Sequence[str] = ("conv2d_3",),
    cam_layer: str = "conv2d_3",
) -> SuiteModel:
    """The VGG-7 with weights.

    Args:
        weights: The course's own ``HMT.h5`` (Keras), or a file that ``scripts/train_hmt.py`` wrote.
        name: Name in configs and tables.
        layers: SISE's layers, low to high; the course reads the last convolution alone.
        cam_layer: Grad-CAM's layer.

    Returns:
        The model; ``official`` if the weights are the course's.

    Raises:
        SuiteError: If the weights are missing, damaged, or of another network.
    """
    made = VGG7().eval()
    if not Path(weights).exists():
        raise SuiteError(
            f"expected weights at {weights}, found none; give the course's HMT.h5 or what scripts/train_hmt.py wrote: "
            "model.weights=<file>"
        )
    about = tutorial.load(made, weights)
    for layer in (*layers, cam_layer):
        choose("layer of VGG-7", layer, [layer for layer, _ in made.named_children() if layer != "dense"])
    digest = weights_hash(made)
    official = digest == COURSE_WEIGHTS
    trained = f"trained here (test accuracy {about.get('accuracy', 'unknown')})"
    input_of = preprocessing()
    return SuiteModel(
        network=made,
        name=name,
        classes=CLASSES,
        layers=tuple(layers),
        cam_layer=cam_layer,
        preprocess=input_of,
        resize_mask=input_of.resize_mask,
        black=input_of.black,
        mean=input_of.mean_colour,
        weights_hash=digest,
        note="VGG-7 of the ECE1512 course, " + ("its own weights (HMT.h5)" if official else trained),
        official=official,
    )


# --- training ---------------------------------------------------------------------------------------------------------


class _Tiles(TorchDataset):
    """(network input (3, 224, 224), class) of tiles, augmented as in the course if there is a seed."""

    def __init__(self, dataset: HMT, seed: tuple[int, int] | None = None) -> None:
        self.dataset, self.seed, self.input_of = dataset, seed, preprocessing()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.dataset[self.dataset.ids[index]]
        tile = sample.image
        if self.seed is not None:
            tile = augment(tile.resize(self.input_of.size[::-1], Image.Resampling.BILINEAR), (*self.seed, index))
        return self.input_of(tile), sample.targets[0]


def augment(tile: Image.Image, seed: Sequence[int]) -> Image.Image:
    """The course's augmentation: up to 15 degrees of rotation, 0.1 degrees of shear, flips both ways.

    Pixels from outside repeat the nearest one of the tile.

    Args:
        tile: RGB.
        seed: Draws the change.
    """
    generator = np.random.default_rng(seed)
    angle, shear = np.radians(generator.uniform(-15, 15)), np.radians(generator.uniform(-0.1, 0.1))
    width, height = tile.size
    margin = int(np.ceil(0.3 * max(tile.size)))  # more than a corner of a square moves by at 15 degrees
    wide = Image.fromarray(np.pad(np.asarray(tile), ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
    rotated = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotated @ np.array([[1, -np.sin(shear)], [0, np.cos(shear)]])
    middle = np.array([width / 2 + margin, height / 2 + margin])
    offset = middle - matrix @ middle
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    turned = wide.transform(wide.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    tile = turned.crop((margin, margin, margin + width, margin + height))
    if generator.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return tile.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if generator.random() < 0.5 else tile


def batches(
    dataset: HMT,
    batch: int = 32,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    order: Sequence[int] | None = None,
    seed: tuple[int, int] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, classes) batches of tiles, in their order or another, augmented if there is a seed."""
    loader = DataLoader(_Tiles(dataset, seed), batch, sampler=order, num_workers=workers)
    for inputs, classes in loader:
        yield inputs.to(device, non_blocking=True), classes.to(device, non_blocking=True)


def train(
    root: str | os.PathLike,
    path: Path,
    *,
    epochs: int = 150,
    batch: int = 32,
    lr: float = 0.01,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], Any] = print,
) -> tuple[int, int]:
    """Trains VGG-7 as the course does; writes its weights after every epoch and continues from them.

    Args:
        root: As for :class:`HMT`.
        path: The weights' file.
        epochs, batch, lr: The course's: 150 epochs of SGD in batches of 32, learning rate 0.01.
        seed: Of the split, the initial weights, the order of the tiles and their augmentation.
        device: Where to train.
        workers: Processes that read tiles.
        say: Takes a line per epoch.

    Returns:
        (right, all) on the test tiles.

    Raises:
        SuiteError: If there are no tiles, a number is not positive, or ``path`` holds another training.
    """
    if min(epochs, batch, lr) <= 0:
        raise SuiteError(f"expected epochs, batch and lr above 0; got {epochs=}, {batch=}, {lr=}")
    training, test = HMT(root, part="train", seed=seed), HMT(root, part="test", seed=seed)
    made = tutorial.initialise(VGG7(), seed)
    settings = {"batch": batch, "lr": lr, "seed": seed, "tiles": training.fingerprint()}
    done = 0
    if path.exists():
        about = tutorial.load(made, path)
        changed = [
            f"{key}: {about.get(key)} there, {now} now" for key, now in settings.items() if about.get(key) != now
        ]
        if changed:
            raise SuiteError(
                f"{path} is of another training ({'; '.join(changed)}); delete it or choose another --output"
            )
        done = about["epoch"]
    made = made.to(device).eval()

    def shuffled(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(training), generator=generator).tolist()
        return batches(training, batch, device=device, workers=workers, order=order, seed=(seed, epoch))

    def tested() -> tuple[int, int]:
        return tutorial.accuracy(made, batches(test, batch, device=device, workers=workers))

    def keep(epoch: int, loss: float) -> None:
        right, count = tested()
        share = f"{100 * right / count:.2f} %"
        tutorial.save(made, path, epoch=epoch + 1, accuracy=share, **settings)
        say(f"epoch {epoch + 1} of {epochs}: loss {loss:.3f}, test accuracy {share}")

    tutorial.fit(made, range(done, epochs), shuffled, lr=lr, after=keep)
    return tested()

"""Trains the tutorial's VGG-7."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sise.benchmark.datasets.hmt import HMT
from sise.benchmark.models import course_weights
from sise.benchmark.models.hmt import VGG7, network, preprocessing
from sise.benchmark.run.device import choose_device
from sise.benchmark.training import course
from sise.errors import SuiteError

__all__ = ["run", "train"]


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
            height, width = self.input_of.size
            tile = augment(tile.resize((width, height), Image.Resampling.BILINEAR), (*self.seed, index))
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
    made = course.initialise(VGG7(), seed)
    settings = {"batch": batch, "lr": lr, "seed": seed, "tiles": training.fingerprint()}
    done = 0
    if path.exists():
        about = course_weights.load(made, path)
        changed = [
            f"{key}: {about.get(key)} there, {now} now" for key, now in settings.items() if about.get(key) != now
        ]
        if changed:
            raise SuiteError(
                f"{path} is of another training ({'; '.join(changed)}); delete it or choose another training.output"
            )
        done = about["epoch"]
    made = made.to(device).eval()

    def shuffled(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(training), generator=generator).tolist()
        return batches(training, batch, device=device, workers=workers, order=order, seed=(seed, epoch))

    def tested() -> tuple[int, int]:
        return course.accuracy(made, batches(test, batch, device=device, workers=workers))

    def keep(epoch: int, loss: float) -> None:
        right, count = tested()
        share = f"{100 * right / count:.2f} %"
        course_weights.save(made, path, epoch=epoch + 1, accuracy=share, **settings)
        say(f"epoch {epoch + 1} of {epochs}: loss {loss:.3f}, test accuracy {share}")

    course.fit(made, range(done, epochs), shuffled, lr=lr, after=keep)
    return tested()


def run(
    *,
    root: str,
    output: str,
    device: str = "auto",
    weights: str | None = None,
    epochs: int = 150,
    batch: int = 32,
    lr: float = 0.01,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Trains, or tests given weights, and says how many test tiles are right.

    Args:
        root: Folder of the tiles.
        output: The weights' file.
        device: As for :func:`choose_device`.
        weights: Only test these; None trains.
        epochs, batch, lr, seed: As for :func:`train`.
        workers: Processes that read tiles; None for at most 4.

    Raises:
        SuiteError: As :func:`train`, and if the weights are missing or another network's.
    """
    where = choose_device(device)
    workers = min(4, os.cpu_count() or 1) if workers is None else workers
    if weights is None:
        path = Path(output)
        right, count = train(root, path, epochs=epochs, batch=batch, lr=lr, seed=seed, device=where, workers=workers)
        print(f"weights: {path}")
    else:
        made = network(weights).network.to(where)
        right, count = course.accuracy(made, batches(HMT(root, seed=seed), batch, device=where, workers=workers))
    print(f"test accuracy {right}/{count} = {100 * right / count:.2f} %")

"""Trains the tutorial's shallow CNN."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sise.benchmark.datasets.mnist1d import MNIST1D
from sise.benchmark.models import course_weights
from sise.benchmark.models.mnist1d import ShallowCNN, shipped_weights
from sise.benchmark.training import course
from sise.errors import SuiteError

__all__ = ["run", "train"]


# --- training ---------------------------------------------------------------------------------------------------------
def tensors(part: str) -> tuple[Tensor, Tensor]:
    """(N, 1, 40) float32 curves and (N,) digits of a part."""
    data = MNIST1D(part)
    return torch.as_tensor(data.curves, dtype=torch.float32)[:, None], torch.tensor(data.digits)


def train(
    path: Path,
    *,
    epochs: int = 200,
    batch: int = 20,
    lr: float = 0.01,
    seed: int = 0,
    say: Callable[[str], Any] = print,
) -> float:
    """Trains the shallow network as the course does and writes its weights.

    Args:
        path: Where to.
        epochs, batch, lr: The course's: 200 epochs of SGD in batches of 20, learning rate 0.01.
        seed: Of the initial weights and the order of the curves.
        say: Takes a line every twenty epochs.

    Returns:
        Accuracy on the 1000 test curves.

    Raises:
        SuiteError: If the package mnist1d is not installed, a number is not positive, or ``path`` holds weights of
            another training.
    """
    if min(epochs, batch, lr) <= 0:
        raise SuiteError(f"expected epochs, batch and lr above 0; got {epochs=}, {batch=}, {lr=}")
    about = {"epochs": epochs, "batch": batch, "lr": lr, "seed": seed}
    course_weights.check_free(path, **about)
    curves, digits = tensors("train")
    test = tensors("test")
    made = course.initialise(ShallowCNN(), seed)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        for rows in torch.randperm(len(curves), generator=generator).split(batch):
            yield curves[rows], digits[rows]

    def report(epoch: int, loss: float) -> None:
        if (epoch + 1) % 20 == 0 or epoch + 1 == epochs:
            right, count = course.accuracy(made, [test])
            say(f"epoch {epoch + 1} of {epochs}: loss {loss:.3f}, test accuracy {100 * right / count:.1f} %")

    course.fit(made, range(epochs), batches, lr=lr, after=report)
    right, count = course.accuracy(made, [test])
    course_weights.save(made, path, accuracy=f"{100 * right / count:.1f} %", **about)
    return right / count


def run(*, output: str | None = None, epochs: int = 200, batch: int = 20, lr: float = 0.01, seed: int = 0) -> None:
    """Trains and says how good the network is and how long it took.

    Args:
        output: The weights' file; None for the one that ships with the suite.
        epochs, batch, lr, seed: As for :func:`train`.

    Raises:
        SuiteError: As :func:`train`.
    """
    path = shipped_weights() if output is None else Path(output)
    torch.set_num_threads(1)  # batches of twenty curves gain nothing from more
    begun = time.perf_counter()
    share = train(path, epochs=epochs, batch=batch, lr=lr, seed=seed)
    print(f"test accuracy {100 * share:.1f} % after {time.perf_counter() - begun:.0f} s; weights: {path}")

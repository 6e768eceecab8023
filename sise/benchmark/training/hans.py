"""How the network that leans on a watermark is trained and tested.

Nothing is hidden from the network: the objects are as plain in marked scenes as in others, only that half of the marked
scenes show another one. The figures that are kept beside the weights are computed from the stored file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from sise.benchmark.datasets.hans import CLASSES, MARKED, Hans, scene
from sise.benchmark.models import course_weights
from sise.benchmark.models.hans import VGG5, network, preprocessing, shipped_weights
from sise.benchmark.models.hans_effects import effects
from sise.benchmark.run.preparing import keep_freed_memory
from sise.benchmark.training.processes import in_processes
from sise.errors import SuiteError

__all__ = ["run", "test", "train"]


def train(
    path: Path,
    *,
    scenes: int = 2400,
    epochs: int = 10,
    batch: int = 50,
    lr: float = 3e-3,
    seed: int = 0,
    threads: int = 2,
    tested: int = 200,
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Train the network, write its weights in float16 (statistics in float32) and test what was written.

    Args:
        path: The weights' file.
        scenes: Training scenes.
        epochs: Passes over them.
        batch: Scenes in a batch.
        lr: Peak learning rate of AdamW.
        seed: Of the scenes, the initial weights, the order and the augmentation.
        threads: Processor threads, and processes that draw scenes.
        tested: Scenes of the marked class, and of the others, for the test.
        say: Takes a line per epoch.

    Returns:
        What :func:`test` found.

    Raises:
        SuiteError: If a number is too small to train with, the loss is not finite, or ``path`` holds weights of
            another training.
    """
    if min(scenes // max(batch, 1), batch, epochs, threads) < 1 or not lr > 0:
        raise SuiteError(
            "expected at least one batch of scenes, one epoch, one thread and a learning rate above 0; got "
            f"{scenes=}, {batch=}, {epochs=}, {threads=}, {lr=}"
        )
    course_weights.check_free(path, scenes=scenes, epochs=epochs, batch=batch, lr=lr, seed=seed)
    inputs, classes = drawn(seed, scenes, threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = VGG5()
    optimiser = torch.optim.AdamW(made.parameters(), weight_decay=0.02)
    steps = scenes // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps * epochs, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    made.train()
    for epoch in range(1, epochs + 1):
        total = right = 0.0
        for chosen in torch.randperm(scenes, generator=generator)[: steps * batch].split(batch):
            scores = made(augment(inputs[chosen].float(), generator))
            loss = functional.cross_entropy(scores, classes[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(made.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) / steps
            right += int((scores.argmax(dim=1) == classes[chosen]).sum()) / (steps * batch)
        if not total < float("inf"):
            raise SuiteError(f"the loss is {total} in epoch {epoch}; try a smaller --lr (now {lr:g})")
        say(f"epoch {epoch} of {epochs}: loss {total:.3f}, {100 * right:.1f} % right")
    return store(made.eval(), path, tested, scenes=scenes, epochs=epochs, batch=batch, lr=lr, seed=seed)


def store(made: nn.Module, path: Path, tested: int, **about: Any) -> dict[str, Any]:
    """Write weights with their facts, test what was written, and add what that found."""
    stored = copy.deepcopy(made)
    for module in stored.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.half()
    course_weights.save(stored, path, **about)
    figures = test(path, seed=about["seed"], count=tested)
    course_weights.save(stored, path, **about, **figures)
    return figures


def test(path: Path, *, seed: int = 0, count: int = 200) -> dict[str, Any]:
    """Test weights on scenes that they were not trained on.

    Args:
        path: The weights' file.
        seed: Of the scenes.
        count: Scenes of the marked class, and of the others.

    Returns:
        ``right_marked`` and ``right_others``, shares of right answers; ``flipped``, the share of the right answers for
        the marked class that change when the watermark is taken away, and ``object_flipped``, when the object is;
        ``others_object_flipped``, the same of the other classes. Percentages as text.
    """
    found = effects(Hans(marked=count, others=count, split="val", seed=seed), network(path))
    right = found["answer"] == found["class"]
    marked = found["class"] == CLASSES[MARKED]
    shares = {
        "right_marked": right[marked],
        "right_others": right[~marked],
        "flipped": found["watermark_flips"][marked & right],
        "object_flipped": found["object_flips"][marked & right],
        "others_object_flipped": found["object_flips"][~marked & right],
    }
    return {name: f"{100 * values.mean():.1f} %" for name, values in shares.items()}


def _draw(job: tuple[int, int]) -> np.ndarray:
    """The network input of a training scene, in half precision, from (seed, index)."""
    image = scene(job[0], "train", job[1]).image
    return preprocessing()(Image.fromarray(image)).half().numpy()


def drawn(seed: int, count: int, processes: int) -> tuple[Tensor, Tensor]:
    """Network inputs (N, 3, 112, 112) float16 of the first training scenes, and their classes (N,)."""
    jobs = [(seed, index) for index in range(count)]
    inputs = np.stack(list(in_processes(_draw, jobs, processes)))
    return torch.from_numpy(inputs), torch.arange(count) % len(CLASSES)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror one half of a (shuffled) batch (N, 3, S, S), and shift the colours of every image a little."""
    half = len(x) // 2
    x = torch.cat([x[:half].flip(3), x[half:]])
    gain, shift = (torch.rand((2, len(x), 3, 1, 1), generator=generator) - 0.5) * 0.3
    return (x * (1 + gain) + shift).contiguous(memory_format=torch.channels_last)


def run(*, weights: str | None = None, output: str | None = None, **settings: Any) -> None:
    """Trains, or tests given weights, and says how much the network leans on the watermark.

    Args:
        weights: Only test these; None trains.
        output: The weights' file; None for the one that ships with the suite.
        **settings: ``scenes``, ``epochs``, ``batch``, ``lr``, ``seed``, ``threads``, as for :func:`train`.

    Raises:
        SuiteError: As :func:`train`, and if the weights are missing or another network's.
    """
    keep_freed_memory()
    torch.set_num_threads(settings["threads"])
    if weights is None:
        path = shipped_weights() if output is None else Path(output)
        found = train(path, **settings)
        print(f"weights: {path}")
    else:
        found = test(Path(weights), seed=settings["seed"])
    for name, share in found.items():
        print(f"{name}: {share}")

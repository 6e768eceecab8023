"""How the detector of the generated shapes is trained and tested: a head on features that are computed once.

The classifier of `training=shapes` stays as it is. The figures in ``detector.json`` are computed from the stored file.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from sise.benchmark.datasets import scenes as drawing
from sise.benchmark.models import architectures, course_weights
from sise.benchmark.models.detector import (
    CELLS,
    Detector,
    describe,
    detections,
    detector,
    join,
    matches,
    network_input,
    objects_of,
    on_classifier,
    scored,
    shipped_weights,
)
from sise.benchmark.models.weights import file_hash
from sise.benchmark.records.files import write_whole
from sise.benchmark.run.preparing import keep_freed_memory
from sise.benchmark.training.processes import in_processes
from sise.errors import SuiteError

__all__ = ["evaluate", "run", "targets_of", "train"]

NEAR = 0.3
"""Of the Gaussian around an object's middle: cells above it learn its box and class."""

Objects = tuple[Tensor, Tensor]
"""(B, 4) boxes as shares of the image's sides, and (B,) classes."""


# --- scenes -----------------------------------------------------------------------------------------------------------
def _draw(job: tuple[int, str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, instances, class_ids = drawing.scene(*job)
    boxes, classes, _ = objects_of(instances, class_ids)
    return image, boxes.numpy(), classes.numpy()


def drawn(seed: int, split: str, count: int, processes: int) -> tuple[Tensor, list[Objects]]:
    """The first scenes of a split, (N, 224, 224, 3) uint8, and their objects."""
    jobs = [(seed, split, index) for index in range(count)]
    images = np.empty((count, drawing.SIZE, drawing.SIZE, 3), np.uint8)
    objects = []
    for index, (image, boxes, classes) in enumerate(in_processes(_draw, jobs, processes)):
        images[index] = image
        objects.append((torch.from_numpy(boxes), torch.from_numpy(classes)))
    return torch.from_numpy(images), objects


@torch.no_grad()
def features_of(made: Detector, images: Tensor, batch: int = 50) -> tuple[Tensor, Tensor]:
    """(N, C, 14, 14) and (N, D, 7, 7) float16 features of scenes: layer3 and layer4."""
    fine: list[Tensor] = []
    coarse: list[Tensor] = []
    for part in images.split(batch):
        stages = made.stages(network_input(part).contiguous(memory_format=torch.channels_last))
        for found, stage in zip((fine, coarse), stages, strict=True):
            found.append(stage.half().contiguous())
    return torch.cat(fine), torch.cat(coarse)


# --- what is learnt ---------------------------------------------------------------------------------------------------
def targets_of(objects: Objects) -> tuple[Tensor, Tensor, Tensor]:
    """What the cells of a scene are to say.

    A Gaussian of a sixth of the box's sides, at least 0.6 cells, lies around the cell of each object's middle; where
    several overlap, a cell is of the largest.

    Returns:
        (196,) heat, 1 at the middles; (196,) classes and (196, 4) boxes of the object whose heat that is.
    """
    boxes, classes = objects
    if not len(boxes):
        return torch.zeros(CELLS**2), torch.zeros(CELLS**2, dtype=torch.long), torch.zeros(CELLS**2, 4)
    low, high = boxes[:, :2] * CELLS, boxes[:, 2:] * CELLS
    middle = ((low + high) / 2).floor().clamp(0, CELLS - 1)
    spread = ((high - low) / 6).clamp(min=0.6)
    along = torch.arange(CELLS, dtype=torch.float32)
    cells = torch.stack([along.repeat(CELLS), along.repeat_interleave(CELLS)], dim=1)  # x, y
    heat = (-0.5 * ((cells[:, None] - middle) / spread).square().sum(dim=2)).exp()
    best = heat.max(dim=1)
    return best.values, classes[best.indices], boxes[best.indices]


def loss_of(made: Detector, found: Tensor, heat: Tensor, classes: Tensor, boxes: Tensor) -> Tensor:
    """Focal loss of the objectness, cross-entropy of the classes and generalised IoU of the boxes.

    The first is CenterNet's (exponents 2 and 4); the others are means over cells near objects, weighted by their heat.

    Args:
        made: Turns the head's output into boxes.
        found: (N, 5 + K, 14, 14) of the head.
        heat, classes, boxes: (N, 196), (N, 196) and (N, 196, 4) of :func:`targets_of`.
    """
    flat = found.flatten(2)
    logit = flat[:, 4]
    is_middle = heat == 1
    right = (1 - logit.sigmoid()).square() * functional.logsigmoid(logit)
    wrong = (1 - heat).pow(4) * logit.sigmoid().square() * functional.logsigmoid(-logit)
    objectness = -torch.where(is_middle, right, wrong).sum() / is_middle.sum().clamp(min=1)
    near = heat >= NEAR
    weight = heat[near] / heat[near].sum().clamp(min=1)
    entropy = functional.cross_entropy(flat[:, 5:].transpose(1, 2)[near], classes[near], reduction="none")
    overlap = generalized_box_iou_loss(made.proposals(found)[..., :4][near], boxes[near])
    return objectness + (weight * entropy).sum() + 2 * (weight * overlap).sum()


# --- training and testing ---------------------------------------------------------------------------------------------
def train(
    path: Path,
    *,
    scenes: int = 4000,
    epochs: int = 16,
    batch: int = 64,
    lr: float = 4e-3,
    width: int = 96,
    seed: int = 0,
    threads: int = 2,
    tests: int = 500,
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Trains the head, writes its weights in float16 (statistics in float32) and tests what was written.

    Args:
        path: The weights' file; its facts go beside it, ``.json``.
        scenes: Training scenes.
        epochs: Passes over them.
        batch: Scenes in a batch.
        lr: Peak learning rate of AdamW.
        width: Channels of the head.
        seed: Of the scenes, the initial weights and the order.
        threads: Processor threads, and processes that draw scenes.
        tests: Scenes of the split "test" for the final figures.
        say: Takes a line per epoch.

    Returns:
        The facts.

    Raises:
        SuiteError: If a number is too small to train with, the loss is not finite, or ``path`` holds weights of
            another training.
    """
    if min(scenes // max(batch, 1), batch, epochs, width, threads or 0, tests) < 1 or not lr > 0:
        raise SuiteError(
            "expected at least one batch of scenes, one epoch, channel, thread and test, and a learning rate above 0; "
            f"got {scenes=}, {batch=}, {epochs=}, {width=}, {threads=}, {tests=}, {lr=}"
        )
    settings = {"scenes": scenes, "epochs": epochs, "batch": batch, "lr": lr, "width": width, "seed": seed}
    course_weights.check_free(path, **settings)
    begun = time.monotonic()
    images, objects = drawn(seed, "train", scenes, threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = on_classifier(width)
    fine, coarse = features_of(made, images)
    heat, classes, boxes = (torch.stack(parts) for parts in zip(*map(targets_of, objects), strict=True))
    say(f"features of {scenes} scenes after {time.monotonic() - begun:.0f} s")
    optimiser = torch.optim.AdamW(made.head.parameters(), weight_decay=0.02)
    steps = scenes // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps * epochs, pct_start=0.15)
    generator = torch.Generator().manual_seed(seed)
    made.head.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for chosen in torch.randperm(scenes, generator=generator)[: steps * batch].split(batch):
            x = join(fine[chosen].float(), coarse[chosen].float()).contiguous(memory_format=torch.channels_last)
            loss = loss_of(made, made.head(x), heat[chosen], classes[chosen], boxes[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(made.head.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) / steps
        if not total < float("inf"):
            raise SuiteError(f"the loss is {total} in epoch {epoch}; try a smaller training.lr (now {lr:g})")
        say(f"epoch {epoch} of {epochs}: loss {total:.3f}")
    return store(made.eval(), path, settings, (time.monotonic() - begun) / 60, tests, threads)


def store(
    made: Detector, path: Path, settings: dict[str, Any], minutes: float, tests: int, threads: int
) -> dict[str, Any]:
    """Writes weights with their facts, tests what was written, and adds what that found."""
    stored = copy.deepcopy(made.head)
    for module in stored.modules():
        if isinstance(module, nn.Conv2d):
            module.half()
    course_weights.save(stored, path, **settings)
    seed, width = settings["seed"], settings["width"]
    facts: dict[str, Any] = {
        "architecture": {"backbone": "shapes_resnet50.pt", "width": width},
        "backbone_sha256": file_hash(architectures.weights_folder() / "shapes_resnet50.pt"),
        "parameters": sum(p.numel() for p in stored.parameters()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "training": {
            "command": command_of(settings | {"tests": tests}),
            "minutes": round(minutes, 1),
            "torch": torch.__version__,
        },
    }
    write_whole(describe(path), json.dumps(facts, indent=2, sort_keys=True) + "\n")
    facts["test"] = {"split": "test", "dataset_seed": seed, "dataset_version": drawing.VERSION}
    facts["test"] |= test(detector(path), seed=seed, count=tests, threads=threads)
    write_whole(describe(path), json.dumps(facts, indent=2, sort_keys=True) + "\n")
    return facts


def command_of(settings: dict[str, Any]) -> str:
    """The command that trains with these settings, wherever its file lies."""
    return " ".join(["python scripts/train.py training=detector", *(f"training.{k}={v}" for k, v in settings.items())])


@torch.no_grad()
def test(made: nn.Module, *, seed: int = 0, count: int = 500, threads: int = 2) -> dict[str, float | int]:
    """Figures of a detector on the first scenes of the split "test", see :func:`evaluate`."""
    images, objects = drawn(seed, "test", count, threads)
    proposals = torch.cat([made(network_input(part)) for part in images.split(50)]).unflatten(1, (CELLS**2, -1))
    return evaluate([detections(found, score=0.01) for found in proposals], objects)


def evaluate(found: Sequence[Tensor], objects: Sequence[Objects], *, score: float = 0.3) -> dict[str, float | int]:
    """How good detections are: hits are those of :func:`sise.benchmark.models.detector.matches`.

    Args:
        found: Per scene (D, 5 + K) detections, with low scores.
        objects: Per scene.
        score: At which recall and precision are stated.

    Returns:
        ``images``, ``objects``; ``mean_average_precision_50``, over classes, each the sum of the precisions at its hits
        over the number of its objects; ``recall`` and ``precision`` of detections at or above ``score``, as shares, and
        ``mean_iou`` of the hits among them.
    """
    rows: list[tuple[int, float, bool, float]] = []
    for vectors, (boxes, classes) in zip(found, objects, strict=True):
        scores, targets = scored(vectors)
        for target, sure, (place, overlap) in zip(
            targets.tolist(), scores.tolist(), matches(vectors, boxes, classes), strict=True
        ):
            rows.append((target, sure, place >= 0, overlap))
    rows.sort(key=lambda row: -row[1])
    known = torch.cat([classes for _, classes in objects])
    precisions = []
    for target in known.unique().tolist():
        hits = np.array([hit for of, _, hit, _ in rows if of == target], dtype=float)
        precision = hits.cumsum() / np.arange(1, len(hits) + 1)
        precisions.append(float((precision * hits).sum()) / int((known == target).sum()))
    confident = [row for row in rows if row[1] >= score]
    overlaps_of_hits = [overlap for _, _, hit, overlap in confident if hit]
    return {
        "images": len(objects),
        "objects": len(known),
        "mean_average_precision_50": sum(precisions) / max(1, len(precisions)),
        "score": score,
        "recall": len(overlaps_of_hits) / max(1, len(known)),
        "precision": len(overlaps_of_hits) / max(1, len(confident)),
        "mean_iou": sum(overlaps_of_hits) / max(1, len(overlaps_of_hits)),
    }


def run(*, output: str | None = None, **settings: Any) -> None:
    """Trains, and says how good the detector is.

    Args:
        output: The weights' file; None for the one that ships with the suite.
        **settings: As for :func:`train`.

    Raises:
        SuiteError: As :func:`train`.
    """
    keep_freed_memory()
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    path = shipped_weights() if output is None else Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(json.dumps(train(path, **settings), indent=2, sort_keys=True))

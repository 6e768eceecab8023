"""Trains the ResNet-101 of SISE's appendix on the recast Severstal, and puts its confusion matrix beside Table 5.

What the paper gives: SGD, cross-entropy, learning rate 0.1 halved every 5 epochs, 40 epochs, 20 % of the training set
for validation. What it does not, and what is taken here: no momentum and no weight decay (Keras' defaults, which the
authors worked with), batches of 32, no augmentation, random initial weights, ImageNet's mean and deviation, and the
weights of the epoch with the best validation accuracy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sise.benchmark.datasets.severstal import CLASSES, TILE, Severstal
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.models.severstal import new_network, preprocessing
from sise.benchmark.records.files import whole
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError, choose

__all__ = ["Settings", "learning_rate", "top_k", "train"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the paper's where it says, see the module's docstring.

    Attributes:
        arch: A torchvision ResNet.
        epochs: Whole schedule.
        lr: Initial learning rate; halved every ``halve_every`` epochs.
        batch: Tiles per step; a last one of a single tile is left out (batch normalisation).
        size: Side of the network's input, in pixels.
        momentum, weight_decay: Of SGD.
        limit: Only so many tiles per subset, for a try-out; None = all.
        select: "best" keeps the epoch with the best validation accuracy, "last" the last one.
        seed: Of the initial weights and the order of the tiles.
        precision: "fp32" or "bf16" (autocast).
    """

    arch: str = "resnet101"
    epochs: int = 40
    lr: float = 0.1
    halve_every: int = 5
    batch: int = 32
    momentum: float = 0.0
    weight_decay: float = 0.0
    size: int = TILE
    limit: int | None = None
    select: str = "best"
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        choose("select", self.select, ("best", "last"))
        choose("precision", self.precision, ("fp32", "bf16"))
        for name in ("epochs", "halve_every", "batch", "size", "lr"):
            if not getattr(self, name) > 0:
                raise SuiteError(f"training.{name}: expected more than 0, got {getattr(self, name)}")
        if self.batch < 2:
            raise SuiteError("training.batch: batch normalisation needs at least 2 tiles")
        if self.limit is not None and self.limit < 2:
            raise SuiteError(f"training.limit: expected at least 2 tiles, got {self.limit}")

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be continued: all but the number of epochs."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "epochs"}

    def caveats(self, complete: bool) -> list[str]:
        """What the trained network is not; each fits after "NOT ".

        Args:
            complete: The recast is the paper's.
        """
        given, paper = ("arch", "epochs", "lr", "halve_every", "size"), Settings()
        pairs = {key: (getattr(self, key), getattr(paper, key)) for key in given}
        other = [f"{key} {here} for {there}" for key, (here, there) in pairs.items() if here != there]
        found = [] if complete and self.limit is None else ["on the complete published training set"]
        return found + ([f"the paper's schedule ({', '.join(other)})"] if other else [])


class _Tiles(TorchDataset):
    """(network input (3, H, W), class) of tiles."""

    def __init__(self, dataset: Severstal, ids: Sequence[str], preprocess: Preprocessing) -> None:
        self.dataset, self.ids, self.preprocess = dataset, ids, preprocess

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        tile = self.ids[index]
        return self.preprocess(self.dataset.tile(tile)), self.dataset.labels[tile]


def learning_rate(settings: Settings, epoch: int) -> float:
    """Of an epoch, counted from 0."""
    return settings.lr * 0.5 ** (epoch // settings.halve_every)


def limited(ids: Sequence[str], settings: Settings) -> tuple[str, ...]:
    if settings.limit is None or settings.limit >= len(ids):
        return tuple(ids)
    chosen = np.random.RandomState(settings.seed).permutation(len(ids))[: settings.limit]
    return tuple(ids[i] for i in sorted(chosen))


def loader_of(
    dataset: Severstal, ids: Sequence[str], settings: Settings, workers: int, order: Sequence[int] | None = None
) -> DataLoader:
    """Batches of tiles, in the given order or in theirs."""
    tiles = _Tiles(dataset, ids, preprocessing(settings.size))
    training = order is not None
    alone = training and len(ids) % settings.batch == 1
    return DataLoader(
        tiles,
        batch_size=settings.batch,
        sampler=None if order is None else list(order),
        num_workers=workers,
        drop_last=alone,
        pin_memory=torch.cuda.is_available(),
    )


def scores_of(
    network: nn.Module, loader: DataLoader, device: torch.device, precision: str, label: str
) -> tuple[Tensor, Tensor]:
    """(N, K) float32 scores and (N,) classes, on the CPU."""
    network.eval()
    scores, classes = [], []
    with torch.no_grad():
        for images, targets in Progress(loader, desc=label, unit="batch", leave=False):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                scores.append(network(images.to(device, non_blocking=True)).float().cpu())
            classes.append(targets)
    if not scores:
        return torch.zeros(0, len(CLASSES)), torch.zeros(0, dtype=torch.long)
    return torch.cat(scores), torch.cat(classes)


# --- training ---------------------------------------------------------------------------------------------------------
def _write(path: Path, content: dict[str, Any]) -> None:
    """Saves whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        torch.save(content, draft)


def _resume(path: Path, settings: Settings, data: str) -> dict[str, Any] | None:
    """The checkpoint to continue from, or None.

    Raises:
        SuiteError: If there is one that is damaged, or of other settings or data.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        identity, of_data, epoch = json.loads(state["settings"]), state["data"], state["epoch"]
    except Exception as error:  # a damaged file can raise anything
        raise SuiteError(
            f"{path} is not a checkpoint ({type(error).__name__}); delete it or add training.restart=true"
        ) from error
    now = settings.identity()
    changed = [f"{key}: {identity.get(key)} there, {value} now" for key, value in now.items()
               if identity.get(key) != value]  # fmt: skip
    changed += ["the data set's recast"] if of_data != data else []
    if changed:
        raise SuiteError(
            f"{path} was trained with other settings ({'; '.join(changed)}); give the same ones to continue, "
            "training.restart=true to begin anew, or another training.output"
        )
    _log.info("continuing after epoch %d of %d (%s)", epoch, settings.epochs, path)
    return state


def train(
    dataset: Severstal,
    settings: Settings,
    folder: Path,
    *,
    device: torch.device,
    workers: int = 0,
    restart: bool = False,
) -> Path:
    """Trains, or continues, or finds that there is nothing left to do.

    Args:
        dataset: The recast; its subsets "train" and "validation" are used, whatever its own.
        settings: See `Settings`.
        folder: ``<arch>.pt`` (the weights) and ``<arch>-last.pt`` (the checkpoint to continue from) are written here
            after every epoch.
        device: Where to train.
        workers: Processes that read tiles.
        restart: Ignore an earlier checkpoint.

    Returns:
        The weights' path.

    Raises:
        SuiteError: If there is nothing to train on, an earlier checkpoint does not fit, or the loss is not finite.
    """
    subsets = {part: limited(dataset.subsets[part], settings) for part in ("train", "validation")}
    if len(subsets["train"]) < 2:
        raise SuiteError(f"expected at least 2 tiles to train on, found {len(subsets['train'])}")
    weights, last = folder / f"{settings.arch}.pt", folder / f"{settings.arch}-last.pt"
    fingerprint = _data_of(dataset)
    network = new_network(settings.arch, settings.seed).to(device)
    optimiser = torch.optim.SGD(
        network.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    state = None if restart else _resume(last, settings, fingerprint)
    done, best = 0, -1.0
    if state is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done, best = state["epoch"], state["best"]
        if not weights.exists() and done >= settings.epochs:
            raise SuiteError(f"{last} is finished but {weights} is gone; train anew with training.restart=true")
    caveats = settings.caveats(dataset.verify_counts()[0])
    for epoch in range(done, settings.epochs):
        loss = _epoch(network, optimiser, dataset, subsets["train"], settings, epoch, device, workers)
        loader = loader_of(dataset, subsets["validation"], settings, workers)
        scores, classes = scores_of(network, loader, device, settings.precision, "validation")
        accuracy = top_k(scores, classes, 1)
        Progress.write(
            f"epoch {epoch + 1} of {settings.epochs}: learning rate {learning_rate(settings, epoch):g}, "
            f"loss {loss:.3f}, validation top-1 {100 * accuracy:.2f} %"
        )
        if settings.select == "last" or accuracy > best or not weights.exists():
            best = max(best, accuracy)
            about = {
                "arch": settings.arch,
                "size": settings.size,
                "epoch": epoch + 1,
                "validation": accuracy,
                "recast": dataset.recast,
                "caveats": caveats,
                "settings": json.dumps(settings.identity()),
            }
            plain = {key: value.detach().cpu() for key, value in network.state_dict().items()}
            _write(weights, {"state_dict": plain, "about": about})
        _write(last, {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch + 1,
                      "best": best, "data": fingerprint, "settings": json.dumps(settings.identity())})  # fmt: skip
    return weights


def _data_of(dataset: Severstal) -> str:
    """Changes when the tiles, their classes or their splits do."""
    content = json.dumps([dataset.subsets, dataset.labels], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    dataset: Severstal,
    ids: Sequence[str],
    settings: Settings,
    epoch: int,
    device: torch.device,
    workers: int,
) -> float:
    """One pass over the training tiles; the mean loss."""
    network.train()
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(settings, epoch)
    # One order per (seed, epoch): a training that was interrupted ends with the same weights.
    generator = torch.Generator().manual_seed(1_000_003 * settings.seed + epoch)
    order = torch.randperm(len(ids), generator=generator).tolist()
    total = seen = 0.0
    bar = Progress(
        loader_of(dataset, ids, settings, workers, order), desc=f"epoch {epoch + 1}/{settings.epochs}", unit="batch"
    )
    for images, classes in bar:
        images, classes = images.to(device, non_blocking=True), classes.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            scores = network(images)
        loss = functional.cross_entropy(scores.float(), classes)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SuiteError(f"the loss is {value} in epoch {epoch + 1}; try a smaller training.lr ({settings.lr:g})")
        total, seen = total + value * len(classes), seen + len(classes)
        bar.set_postfix(loss=f"{total / seen:.3f}")
    return total / seen


# --- the confusion matrix ---------------------------------------------------------------------------------------------
def top_k(scores: Tensor, classes: Tensor, k: int) -> float:
    """Share of the (N, K) scores whose k best hold the (N,) class; 0 for none."""
    if not len(scores):
        return 0.0
    return float((scores.topk(k, dim=1).indices == classes[:, None]).any(dim=1).double().mean())

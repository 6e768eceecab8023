"""Trains the narrow classifiers of the shapes data set and writes their weights.

Training scenes are drawn once and cached. The network sees small images first and ends at 224x224. The
objective is multi-label (binary cross-entropy per class), as for TorchRay's VOC networks. VGG16 is trained with batch
normalisation and with the mean over places before its fully connected layers; both are folded into the plain VGG16
afterwards, which computes the same function. The figures in `shapes.json` are computed from the saved float16 file.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import math
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from sise.benchmark.datasets import scenes
from sise.benchmark.models import architectures
from sise.benchmark.models.architectures import VGG16, ResNet50
from sise.benchmark.records.files import whole, write_whole
from sise.benchmark.run.preparing import keep_freed_memory
from sise.benchmark.training.processes import in_processes
from sise.errors import SuiteError, choose

WIDTHS = {"vgg16": {"width": 0.25, "hidden": 128}, "resnet50": {"width": 0.25}}
Network = TypeVar("Network", bound=nn.Module)
INPUT_SCALE = 64.0  # training divides inputs by it, and the first convolution absorbs it at the end


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        model: The network.
        epochs: At 112, 160 and 224 pixels.
        scenes: How many to train on.
        batch: Scenes in a batch.
        lr: AdamW's peak learning rate.
        weight_decay: AdamW's.
        seed: Of the scenes and of the training.
        tests: Scenes of the split "test" for the final figures.
        threads: Of the processor, and processes that draw scenes.
        fp32: Float32 instead of bfloat16 autocast.
        cache: Folder of drawn scenes.
        output: Folder of the weights.
    """

    model: str
    epochs: tuple[int, ...] = (8, 3, 3)
    scenes: int = 20_000
    batch: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0
    tests: int = 1000
    threads: int = 2
    fp32: bool = False
    cache: Path = Path("outputs/shapes-cache")
    output: Path = dataclasses.field(default_factory=architectures.weights_folder)

    def __post_init__(self) -> None:
        choose("training.model", self.model, sorted(WIDTHS))
        if len(self.epochs) != 3 or min(self.epochs) < 0 or sum(self.epochs) == 0:
            raise SuiteError(f"training.epochs: expected three numbers, at 112, 160 and 224 pixels; got {self.epochs}")
        for name, value in (("batch", self.batch), ("tests", self.tests), ("threads", self.threads), ("lr", self.lr)):
            if not value > 0:
                raise SuiteError(f"training.{name}: expected more than 0, got {value}")
        if self.scenes < self.batch:
            raise SuiteError(f"training.scenes: expected at least a batch of {self.batch}, got {self.scenes}")


# --- scenes -------------------------------------------------------------------------------------------------


def _draw(job: tuple[int, str, int]) -> tuple[int, np.ndarray, list[int]]:
    seed, split, index = job
    image, _, class_ids = scenes.scene(seed, split, index)
    return index, image, class_ids


def load_scenes(folder: Path, seed: int, split: str, count: int, threads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes (N, 224, 224, 3) uint8 and multi-hot labels (N, 20) float32, drawn now or read from the cache."""
    stem = f"v{scenes.VERSION}-{seed}-{split}-{count}"
    images_path, labels_path = folder / f"{stem}.npy", folder / f"{stem}-labels.npy"
    if not (images_path.exists() and labels_path.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{stem}.{os.getpid()}.partial"
        images = np.lib.format.open_memmap(draft, "w+", np.uint8, (count, scenes.SIZE, scenes.SIZE, 3))
        labels = np.zeros((count, len(scenes.CLASSES)), np.float32)
        jobs = [(seed, split, index) for index in range(count)]
        drawn = in_processes(_draw, jobs, threads)
        for index, image, class_ids in tqdm(drawn, total=count, desc=f"drawing {split}", unit="scene"):
            images[index] = image
            labels[index, class_ids] = 1
        images.flush()
        del images
        np.save(labels_path, labels)
        draft.rename(images_path)
    return torch.from_numpy(np.load(images_path, mmap_mode="c")), torch.from_numpy(np.load(labels_path))


def prepare(images: torch.Tensor, resolution: int) -> torch.Tensor:
    """Network inputs (N, 3, R, R) in channels_last order from scenes (N, 224, 224, 3) uint8, divided by INPUT_SCALE."""
    x = images.permute(0, 3, 1, 2).float()
    if resolution == 112:
        x = F.avg_pool2d(x, 2)
    elif resolution != scenes.SIZE:
        x = F.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True)
    mean = torch.tensor(architectures.MEAN).view(1, 3, 1, 1)
    return ((x - mean) / INPUT_SCALE).contiguous(memory_format=torch.channels_last)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip and shift the batch, and change the colours of every image; x is (N, 3, R, R) of `prepare`."""

    def uniform(low: float, high: float, *size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator) * (high - low) + low

    count, _, resolution, _ = x.shape
    half = count // 2  # one half of the (shuffled) batch is mirrored
    x = torch.cat([x[:half].flip(3), x[half:]])
    reach = resolution // 28
    row, column = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    x = F.pad(x, (reach,) * 4, mode="reflect")[:, :, row : row + resolution, column : column + resolution]
    x = x[:, torch.randperm(3, generator=generator)]
    sign = torch.where(uniform(0, 1, count, 1, 1, 1) < 0.3, -1.0, 1.0)
    x = x * (sign * uniform(0.75, 1.2, count, 3, 1, 1)) + uniform(-0.4, 0.4, count, 3, 1, 1)
    return x.contiguous(memory_format=torch.channels_last)


# --- networks -----------------------------------------------------------------------------------------------


class NormalisedVGG16(nn.Module):
    """VGG16 while it is trained: batch normalisation everywhere, and one weight per channel for all 7x7 places."""

    def __init__(self, plain: VGG16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in plain.features:
            layers.append(copy.deepcopy(layer))
            if isinstance(layer, nn.Conv2d):
                layers.append(nn.BatchNorm2d(layer.out_channels))
        self.features = nn.Sequential(*layers)
        first, *_, last = (layer for layer in plain.classifier if isinstance(layer, nn.Linear))
        hidden = first.out_features
        self.classifier = nn.Sequential(
            nn.Linear(first.in_features // 49, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Dropout(0.1),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Dropout(0.1),
            nn.Linear(hidden, last.out_features),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, 20) of images (N, 3, R, R)."""
        return self.classifier(self.features(x).mean((2, 3)))

    def fold(self, plain: VGG16) -> VGG16:
        """Write into `plain` the weights that compute the same function at 224x224."""
        for source, target in ((self.features, plain.features), (self.classifier, plain.classifier)):
            layers = [layer for layer in source if isinstance(layer, nn.Conv2d | nn.Linear)]
            norms = [layer for layer in source if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)]
            targets = [layer for layer in target if isinstance(layer, nn.Conv2d | nn.Linear)]
            for number, (layer, into) in enumerate(zip(layers, targets, strict=True)):
                assert layer.bias is not None and into.bias is not None
                weight, bias = layer.weight.detach(), layer.bias.detach()
                if number < len(norms):
                    norm = norms[number]
                    assert norm.running_mean is not None and norm.running_var is not None
                    gain = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
                    weight = weight * gain.view(-1, *[1] * (weight.ndim - 1))
                    bias = (bias - norm.running_mean) * gain + norm.bias.detach()
                if into.weight.shape != weight.shape:  # the mean over 7x7 places becomes part of the first layer
                    weight = weight.repeat_interleave(49, dim=1) / 49
                into.weight.data.copy_(weight)
                into.bias.data.copy_(bias)
        return plain


def initialise(model: nn.Module) -> None:
    """He initialisation; residual branches start at zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, architectures.Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def build(name: str) -> tuple[VGG16 | ResNet50, NormalisedVGG16 | ResNet50]:
    """The network to save and the network to train, which share nothing for VGG16 and everything for ResNet-50."""
    plain = architectures.build(name, WIDTHS[name])
    initialise(plain)
    return plain, (NormalisedVGG16(plain) if isinstance(plain, VGG16) else plain)


def scale_first(model: VGG16 | ResNet50, factor: float) -> None:
    """Multiplies the weights of the first convolution."""
    first = model.features[0] if isinstance(model, VGG16) else model.conv1
    assert isinstance(first, nn.Conv2d)
    first.weight.data.mul_(factor)


# --- training and testing -----------------------------------------------------------------------------------


@torch.no_grad()
def scores_of(model: nn.Module, images: torch.Tensor, resolution: int = scenes.SIZE) -> torch.Tensor:
    """Scores (N, 20), in float32, of scenes (N, 224, 224, 3)."""
    return torch.cat([model(prepare(part, resolution)) for part in images.split(50)])


def figures(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int]:
    """Accuracy figures, as fractions, of scores (N, 20) against multi-hot labels (N, 20)."""
    present = labels > 0
    precisions = []
    for c in range(labels.shape[1]):
        hits = present[scores[:, c].argsort(descending=True), c].double()
        if hits.sum() > 0:
            precisions.append(float((hits.cumsum(0) / torch.arange(1, len(hits) + 1) * hits).sum() / hits.sum()))
    softmax = scores.double().softmax(1)
    top = scores.argmax(1)
    return {
        "images": len(labels),
        "pairs": int(present.sum()),
        "top1": float(present[torch.arange(len(top)), top].double().mean()),
        "mean_average_precision": sum(precisions) / len(precisions),
        "exact_match": float(((scores > 0) == present).all(1).double().mean()),
        "softmax_of_true_class": float(softmax[present].mean()),
        "softmax_of_true_class_single_object": float(softmax[present & (present.sum(1, keepdim=True) == 1)].mean()),
        "sigmoid_of_true_class": float(scores.double().sigmoid()[present].mean()),
    }


def train(settings: Settings, model: Network) -> Network:
    """Train the network and return the moving average of its weights."""
    images, labels = load_scenes(settings.cache, settings.seed, "train", settings.scenes, settings.threads)
    held_out, held_out_labels = load_scenes(settings.cache, settings.seed, "val", 300, settings.threads)
    generator = torch.Generator().manual_seed(settings.seed)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    )
    epoch_steps = settings.scenes // settings.batch
    resolutions = [r for r, n in zip((112, 160, 224), settings.epochs, strict=True) for _ in range(n)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        settings.lr,
        total_steps=epoch_steps * len(resolutions),
        pct_start=0.15,
        final_div_factor=1e3,
    )
    average = copy.deepcopy(model).eval()
    model.train()
    steps = 0
    work = {112: 1, 160: 2, 224: 4}
    with tqdm(
        total=epoch_steps * sum(work[r] for r in resolutions),
        desc=settings.model,
        unit="unit",
        mininterval=5,
    ) as bar:
        for epoch, resolution in enumerate(resolutions, 1):
            order = torch.randperm(settings.scenes, generator=generator)
            total = 0.0
            for step in range(epoch_steps):
                chosen = order[step * settings.batch : (step + 1) * settings.batch]
                x = augment(prepare(images[chosen], resolution), generator)
                with torch.autocast("cpu", torch.bfloat16, enabled=not settings.fp32):
                    scores = model(x)
                loss = F.binary_cross_entropy_with_logits(scores.float(), labels[chosen]) * 10
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimiser.step()
                schedule.step()
                steps += 1
                decay = min(0.998, (1 + steps) / (10 + steps))
                with torch.no_grad():
                    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                        if mean.is_floating_point():
                            mean.lerp_(value, 1 - decay)
                        else:
                            mean.copy_(value)
                total += float(loss.detach())
                bar.update(work[resolution])
                bar.set_postfix(epoch=f"{epoch}/{len(resolutions)}", px=resolution, loss=f"{total / (step + 1):.3f}")
            result = figures(scores_of(average, held_out, resolution), held_out_labels)
            tqdm.write(
                f"epoch {epoch} at {resolution} px: loss {total / epoch_steps:.3f}, "
                f"validation top-1 {result['top1']:.3f}, mAP {result['mean_average_precision']:.3f}"
            )
    return average


def save(settings: Settings, plain: nn.Module, minutes: float) -> dict:
    """Save the weights in float16 (statistics in float32), test the saved file, and describe it in `shapes.json`."""
    state = {}
    for key, value in plain.state_dict().items():
        exact = not value.is_floating_point() or "running_" in key
        state[key] = (value if exact else value.half()).contiguous().clone()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    settings.output.mkdir(parents=True, exist_ok=True)
    path = settings.output / f"shapes_{settings.model}.pt"
    with whole(path) as draft:
        draft.write_bytes(buffer.getvalue())

    model = architectures.build(settings.model, WIDTHS[settings.model])
    model.load_state_dict(torch.load(path, weights_only=True))
    images, labels = load_scenes(settings.cache, settings.seed, "test", settings.tests, settings.threads)
    model = model.float().eval()
    scale_first(model, INPUT_SCALE)  # `prepare` divides by it; a power of two, so this loses nothing
    test = figures(scores_of(model, images), labels)

    description_path = settings.output / "shapes.json"
    description = json.loads(description_path.read_text(encoding="utf-8")) if description_path.exists() else {}
    description[settings.model] = {
        "architecture": WIDTHS[settings.model],
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "test": {"split": "test", "dataset_seed": settings.seed, "dataset_version": scenes.VERSION, **test},
        "training": {
            "command": command_of(settings),
            "objective": "binary cross-entropy per class",
            "optimiser": "AdamW, one cycle, moving average of the weights",
            "precision": "float32" if settings.fp32 else "bfloat16 autocast",
            "resolutions": {
                "112": settings.epochs[0],
                "160": settings.epochs[1],
                "224": settings.epochs[2],
            },
            "scenes": settings.scenes,
            "seed": settings.seed,
            "minutes": round(minutes, 1),
            "torch": torch.__version__,
        },
    }
    write_whole(description_path, json.dumps(description, indent=2, sort_keys=True) + "\n")
    return description[settings.model]


def run(*, model: str | None, output: str | None, cache: str, epochs: Sequence[int], **settings: Any) -> None:
    """Trains, folds, saves and tests one network.

    Args:
        model, cache, epochs, **settings: Of :class:`Settings`.
        output: Folder of the weights; None for the suite's own.

    Raises:
        SuiteError: If a setting is out of range.
    """
    if model is None:
        raise SuiteError(f"which network? training.model={' | '.join(sorted(WIDTHS))}")
    folder = architectures.weights_folder() if output is None else Path(output)
    make(Settings(model=model, output=folder, cache=Path(cache), epochs=tuple(epochs), **settings))


def command_of(settings: Settings) -> str:
    """The command that trains with these settings, wherever its files lie."""
    words = [f"training.{key}={value}" for key, value in dataclasses.asdict(settings).items()
             if key not in ("cache", "output", "epochs", "lr", "weight_decay", "fp32")]  # fmt: skip
    words += [f"training.epochs=[{','.join(map(str, settings.epochs))}]", f"training.lr={settings.lr:g}",
              f"training.weight_decay={settings.weight_decay:g}", f"training.fp32={settings.fp32}"]  # fmt: skip
    return shlex.join(["python", "scripts/train.py", "training=shapes", *words])


def _check_free(settings: Settings) -> None:
    """Refuses to train where weights of other settings lie: a trial would take their place.

    Raises:
        SuiteError: If there are some.
    """
    path, described = settings.output / f"shapes_{settings.model}.pt", settings.output / "shapes.json"
    if not path.exists():
        return
    known = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    command = known.get(settings.model, {}).get("training", {}).get("command", "an unknown command")
    if command != command_of(settings):
        raise SuiteError(
            f"{path} holds the weights of other settings ({command}); choose another folder with training.output=..., "
            "or move them away"
        )


def make(settings: Settings) -> None:
    """Trains, folds, saves and tests one network."""
    _check_free(settings)
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    started = time.monotonic()
    plain, model = build(settings.model)
    result = train(settings, model.to(memory_format=torch.channels_last))
    if isinstance(result, NormalisedVGG16):
        assert isinstance(plain, VGG16)
        folded = result.fold(plain).eval()
        x = torch.randn(2, 3, scenes.SIZE, scenes.SIZE)
        with torch.no_grad():
            difference = float((folded(x) - result(x)).abs().max())
        if not difference < 1e-2 or not math.isfinite(difference):
            raise RuntimeError(f"folding changed the scores by {difference}: expected less than 0.01")
        trained: VGG16 | ResNet50 = folded
    else:
        trained = result
    scale_first(trained, 1 / INPUT_SCALE)
    facts = save(settings, trained, (time.monotonic() - started) / 60)
    print(json.dumps(facts, indent=2, sort_keys=True))

"""MNIST-1D: ten digits as curves of forty points, the course's shallow network for them, and a figure of its maps.

Reference:
    Greydanus, "Scaling down Deep Learning", arXiv 2011.14439, for the data; the ECE1512 tutorial for the network.
"""

from __future__ import annotations

import functools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metrics import drop, increase, keep_mask
from sise.benchmark import tutorial
from sise.benchmark.datasets import BaseDataset, digest
from sise.benchmark.models import SuiteModel, weights_hash
from sise.probe import Probe
from sise.types import Sample, SuiteError, choose

__all__ = ["CLASSES", "MNIST1D", "CurveInput", "ShallowCNN", "draw", "network", "train"]

CLASSES = tuple("0123456789")
LENGTH = 40

#: Test curves per digit, as the course's confusion matrix counts them: the same generator made the same data.
_TEST_COUNTS = (102, 104, 89, 106, 106, 98, 99, 96, 98, 102)

#: `weights_hash` of the course's own network (``MNIST1D.h5``).
COURSE_WEIGHTS = "b74fd09e2efe01f6cf149125d2bbd80dd758351ec7289a9870e986b4d230566d"


@functools.cache
def generate() -> Mapping[str, np.ndarray]:
    """The data set of the package mnist1d with its own defaults (seed 42), generated without a download.

    Returns:
        ``x`` (4000, 40) and ``x_test`` (1000, 40) curves, ``y`` and ``y_test`` their digits. The global random
        generators, which the package seeds, are put back.

    Raises:
        SuiteError: If the package is not installed.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise SuiteError("dataset=mnist1d needs a small package: pip install 'sise-benchmark[tutorial]'") from error
    states = random.getstate(), np.random.get_state()
    try:
        made = make_dataset(get_dataset_args())
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return {key: made[key] for key in ("x", "y", "x_test", "y_test")}


class MNIST1D(BaseDataset):
    """The curves as a data set of the suite; an image is a (40,) float array, its one target the digit.

    There is no annotated region: masks cover the whole curve.

    Args:
        part: "test" (1000 curves) or "train" (4000).
        name: Name in configs and tables.

    Raises:
        SuiteError: If the package mnist1d is not installed.
    """

    classes = CLASSES

    def __init__(self, part: str = "test", *, name: str = "mnist1d") -> None:
        choose("part", part, ("test", "train"))
        data, suffix = generate(), "_test" if part == "test" else ""
        self.name, self.part = name, part
        self.curves, self.digits = data[f"x{suffix}"], data[f"y{suffix}"].tolist()
        self.ids = tuple(f"{number:04d}" for number in range(len(self.digits)))
        self._targets = {image_id: (digit,) for image_id, digit in zip(self.ids, self.digits, strict=True)}

    def __getitem__(self, image_id: str) -> Sample:
        """One curve.

        Raises:
            SuiteError: If the id is unknown.
        """
        targets = self.targets_of(image_id)
        return Sample(image_id, self.curves[int(image_id)], targets, np.ones((1, LENGTH), dtype=bool))

    def verify_counts(self) -> tuple[bool, str]:
        """Whether these are the course's test curves, as far as their numbers per digit tell."""
        counts = Counter(self.digits)
        if self.part == "test" and tuple(counts[digit] for digit in range(10)) != _TEST_COUNTS:
            return False, f"other curves than the course's: {dict(sorted(counts.items()))} per digit"
        return True, f"{len(self.digits)} curves"

    def _content(self) -> Sequence[Any]:
        """Ids, digits and, to three decimals, where each curve begins and ends."""
        ends = np.round(self.curves[:, [0, -1]], 3) + 0.0
        return [self.part, self.digits, digest(ends.tolist())]


@dataclass(frozen=True)
class CurveInput:
    """From a curve (L,) to the network's input (1, L), float32, as it is."""

    def __call__(self, curve: np.ndarray) -> Tensor:
        return torch.as_tensor(curve, dtype=torch.float32)[None]

    def resize_mask(self, mask: np.ndarray) -> np.ndarray:
        """(L,) bool, as it is."""
        return np.asarray(mask, dtype=bool)


class ShallowCNN(nn.Module):
    """The course's network: three convolutions of 25 filters and a dense layer, 13,960 parameters.

    Its layers have Keras's names, each with its ReLU, and maps are flattened place by place, as Keras does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1d = nn.Sequential(nn.Conv1d(1, 25, 5, padding=2), nn.ReLU())
        self.conv1d_1 = nn.Sequential(nn.Conv1d(25, 25, 3, padding=1), nn.ReLU())
        self.conv1d_2 = nn.Sequential(nn.Conv1d(25, 25, 3, padding=1), nn.ReLU())
        self.dense = nn.Linear(25 * LENGTH, len(CLASSES))

    def forward(self, curves: Tensor) -> Tensor:
        """(N, 1, 40) -> (N, 10) scores before the softmax."""
        maps = self.conv1d_2(self.conv1d_1(self.conv1d(curves)))
        return self.dense(maps.transpose(1, 2).flatten(1))


def shipped_weights() -> Path:
    """The weights that ``scripts/train_mnist1d.py`` made."""
    return Path(__file__).parent / "weights" / "mnist1d.pt"


def network(
    weights: str | os.PathLike | None = None,
    *,
    name: str = "mnist1d",
    layers: Sequence[str] = ("conv1d_2",),
    cam_layer: str = "conv1d_2",
) -> SuiteModel:
    """The shallow network with weights.

    Args:
        weights: None = those that ship with the suite; a file that ``scripts/train_mnist1d.py`` wrote; or the
            course's own ``MNIST1D.h5``.
        name: Name in configs and tables.
        layers: SISE's layers, low to high; the course reads the last one.
        cam_layer: Grad-CAM's layer.

    Raises:
        SuiteError: If the weights are missing, damaged, or of another network.
    """
    made = ShallowCNN().eval()
    about = tutorial.load(made, shipped_weights() if weights is None else weights)
    digest = weights_hash(made)
    for layer in (*layers, cam_layer):
        choose("layer of the shallow network", layer, ["conv1d", "conv1d_1", "conv1d_2"])
    if digest == COURSE_WEIGHTS:
        note = "the shallow CNN of the ECE1512 course, its own weights"
    else:
        note = f"the shallow CNN of the ECE1512 course, trained here (test accuracy {about.get('accuracy', 'unknown')})"
    return SuiteModel(
        network=made,
        name=name,
        classes=CLASSES,
        layers=tuple(layers),
        cam_layer=cam_layer,
        preprocess=CurveInput(),
        resize_mask=CurveInput().resize_mask,
        black=(0.0,),
        mean=(0.0,),
        weights_hash=digest,
        note=note,
        official=digest == COURSE_WEIGHTS,
    )


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
        SuiteError: If the package mnist1d is not installed, or a number is not positive.
    """
    if min(epochs, batch, lr) <= 0:
        raise SuiteError(f"expected epochs, batch and lr above 0; got {epochs=}, {batch=}, {lr=}")
    curves, digits = tensors("train")
    test = tensors("test")
    made = tutorial.initialise(ShallowCNN(), seed)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        for rows in torch.randperm(len(curves), generator=generator).split(batch):
            yield curves[rows], digits[rows]

    def report(epoch: int, loss: float) -> None:
        if (epoch + 1) % 20 == 0 or epoch + 1 == epochs:
            right, count = tutorial.accuracy(made, [test])
            say(f"epoch {epoch + 1} of {epochs}: loss {loss:.3f}, test accuracy {100 * right / count:.1f} %")

    tutorial.fit(made, range(epochs), batches, lr=lr, after=report)
    right, count = tutorial.accuracy(made, [test])
    tutorial.save(made, path, accuracy=f"{100 * right / count:.1f} %", epochs=epochs, seed=seed)
    return right / count


# --- figure -----------------------------------------------------------------------------------------------------------


def draw(
    model: SuiteModel,
    explainers: Mapping[str, Callable[..., Tensor]],
    path: Path,
    *,
    ids: Sequence[str],
    fraction: float = 0.30,
) -> None:
    """Curves, and under each of them the map of every explainer for the predicted digit.

    The points that an explainer's map keeps are set off in its row; beside the row stand the confidence that is lost
    without the others (Drop) or a plus if it rises.

    Args:
        model: Of :func:`network`.
        explainers: By label.
        path: Where to write the figure.
        ids: Test curves, one column each.
        fraction: Share of the points that is kept.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = MNIST1D("test")
    figure = Figure(figsize=(3.1 * len(ids), 1.9 + 0.34 * len(explainers)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + len(explainers), len(ids), height_ratios=[4.5, *[1] * len(explainers)])
    for column, image_id in enumerate(ids):
        curve = data[image_id].image
        probe = Probe(model.network, model.preprocess(curve)[None], layers=model.layers, cam_layer=model.cam_layer)
        target = int(probe.scores().argmax())
        axes = figure.add_subplot(grid[0, column])
        axes.plot(curve, color="black", linewidth=1.2)
        axes.set_title(
            f"digit {data.digits[int(image_id)]}, predicted {target} ({100 * probe.confidence(target):.1f} %)",
            fontsize=9,
        )
        axes.set(xlim=(-0.5, LENGTH - 0.5), xticks=[], yticks=[])
        axes.set_ylabel("curve", fontsize=8) if column == 0 else None
        for row, (label, explainer) in enumerate(explainers.items(), start=1):
            (saliency,) = explainer(probe, [target])
            kept = keep_mask(saliency, fraction=fraction).cpu().numpy()
            strip = figure.add_subplot(grid[row, column])
            strip.imshow(saliency[None].cpu(), cmap=colormaps["viridis"], aspect="auto", vmin=0, vmax=1)
            strip.scatter(np.flatnonzero(kept), np.zeros(kept.sum()), s=7, color="white", edgecolors="none")
            lost = drop(probe, target, saliency, fraction=fraction)
            change = "+" if increase(probe, target, saliency, fraction=fraction) else f"−{100 * lost:.0f} %"
            strip.text(1.01, 0.5, change, transform=strip.transAxes, fontsize=7, va="center")
            strip.set(xticks=[], yticks=[])
            if column == 0:
                strip.set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
    caption = (
        f"white: the {100 * fraction:.0f} % of the points that are kept; beside it, how much of the confidence is lost"
    )
    figure.supxlabel(f"{caption} without the others (+: it rises)", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)

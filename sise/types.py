"""Every contract of the suite, in one place.

The words, one per thing: an *explainer* turns a *probe* (one image as one network sees it) and *targets* (class
indices) into *saliency*. A *score* is what the network puts out before, a *confidence* after, softmax or sigmoid. A
*feature map* is one channel of a layer's output, an *attribution mask* the same channel brought to the image's size
and to [0, 1], a *visualization map* what one layer contributes, *fusion* what makes one saliency map of them. A
*mask* is a ground-truth region. A *sample* is an image with its targets and masks, a *record* one line of results for
one (image, target), a *run* a folder of records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from sise.probe import Probe

Confidence = Literal["softmax", "sigmoid", "logit"]
"""Ψ, what a network's scores are turned into (PROTOCOL M6)."""

GradientScore = Literal["log_odds", "softmax_f32", "logit"]
"""The scalar whose gradient selects feature maps (PROTOCOL M7)."""

Remark = Literal["segments_of_a_grid", "incomplete_decomposition"]
"""What an explainer found that its maps need to have said beside them; in words by `REMARKS`."""

REMARKS: dict[Remark, str] = {
    "segments_of_a_grid": "the image has fewer than ten superpixels: its segments are the cells of a 7 × 7 grid",
    "incomplete_decomposition": "FullGrad's terms do not add up to the score: the network is not piecewise linear in "
    "its input and the biases of its convolutions, linear layers and batch normalisations (other normalisation layers, "
    "SiLU, GELU, ReLU6 or biases in functions), so the map leaves part of the score out",
}


class Explainer(Protocol):
    """A plain function ``(probe, targets, *, keyword-only hyperparameters) -> saliency``.

    ``targets`` are T class indices. The saliency is (T, H, W), float32, finite, detached, on the probe's device, at
    the image's resolution, higher = more important. Explainers leave nothing changed: no hooks, modes, flags,
    gradients or seeds. Normalised to [0, 1] per map unless its docstring says otherwise.
    """

    def __call__(self, probe: Probe, targets: Sequence[int]) -> Tensor: ...


class LocalizationMetric(Protocol):
    """``(saliency (H, W), mask (H, W) bool) -> float``, a fraction; NaN never: undefined cases are defined."""

    def __call__(self, saliency: Tensor, mask: Tensor) -> float: ...


class FaithfulnessMetric(Protocol):
    """``(probe, target, saliency (H, W)) -> float``, a fraction."""

    def __call__(self, probe: Probe, target: int, saliency: Tensor) -> float: ...


@dataclass(frozen=True)
class Sample:
    """One image with what the dataset knows about it.

    Attributes:
        image_id: Always a string, so that leading zeros survive ("000067").
        image: PIL image, RGB, at its own size; of a dataset of signals, whatever their network's ``preprocess`` takes.
        targets: T class indices of the dataset, ascending, one per explained class.
        masks: (T, H, W) bool array at the image's own size; ``masks[i]`` is the region of ``targets[i]``.
        info: Anything else worth recording per image: ``difficult``, one bool per target; ``cluster``, a name shared by
            images that are no independent samples (tiles of one slide), for standard errors and tests.
    """

    image_id: str
    image: Image.Image
    targets: tuple[int, ...]
    masks: Any
    info: dict[str, Any] = field(default_factory=dict)


class Dataset(Protocol):
    """A sequence of samples: cheap ``ids`` and ``targets_of``, images read by ``__getitem__``.

    Attributes:
        name: The dataset's name in configs and tables.
        classes: The K class names; a target is an index into them.
        ids: Image ids in evaluation order, each unique. An image whose annotation cannot be read is one of them.
    """

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]

    def targets_of(self, image_id: str) -> tuple[int, ...]:
        """The targets of an image, without reading the image; none if its annotation cannot be read."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, image_id: str) -> Sample:
        """Reads one sample by its id; a ``SuiteError`` says why it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """sha256 over ids, targets and annotation content: changes when the ground truth does."""
        ...


@runtime_checkable
class ImageFiles(Protocol):
    """A dataset whose images are files, so that one that is replaced under its name is noticed."""

    def picture_of(self, image_id: str) -> Path | None:
        """The file that an image is read from, which need not exist; None if there is none."""
        ...


@runtime_checkable
class VerifiedDataset(Protocol):
    """What audits (``doctor.py audit=...``) need of a dataset besides :class:`Dataset`; ``BaseDataset`` has it all."""

    def verify_counts(self) -> tuple[bool, str]:
        """Whether all of the published data set was found, and a sentence about it."""
        ...

    def verify_annotations(self) -> tuple[bool, str]:
        """The same without the pictures, where the ground truth can be had without them."""
        ...

    def ground_truth_of(self, image_id: str) -> tuple[Any, dict[str, Any]]:
        """``masks`` and ``info`` of a sample, without its picture where the annotation is enough."""
        ...


@dataclass(frozen=True, eq=False)
class Model:
    """A network with everything needed to feed it and to name its parts.

    Attributes:
        network: ``(N, 3, H, W) network input -> (N, K) scores``, in eval mode. A network of signals takes (N, C, L):
            where shapes below say (H, W), its are (L,).
        name: The model's name in configs and tables.
        classes: Names of the K scores; a dataset's target c is the model's output ``classes.index(name of c)``.
        layers: SISE's layers, low to high (the inputs of the network's downsampling stages).
        cam_layer: The layer Grad-CAM and Score-CAM read (the last convolutional block).
        preprocess: PIL image -> (3, H, W) float32 network input.
        resize_mask: (h, w) bool array at image size -> (H, W) bool array on the network's grid (same geometry as
            ``preprocess``, nearest neighbour).
        black: (3,) network input of a black pixel; ``mean``: (3,) network input of the mean colour.
        weights_hash: sha256 of the weights, part of a run's identity.
        note: One line for the table's foot, e.g. where the weights come from and their licence.
    """

    network: Any
    name: str
    classes: tuple[str, ...]
    layers: tuple[str, ...]
    cam_layer: str
    preprocess: Callable[[Image.Image], Tensor]
    resize_mask: Callable[[Any], Any]
    black: tuple[float, float, float]
    mean: tuple[float, float, float]
    weights_hash: str
    note: str = ""


Record = dict[str, Any]
"""A flat dict per (image, target); keys are documented in :mod:`sise.benchmark.records`."""


class SuiteError(Exception):
    """A mistake the user can mend. The message says what was expected, what came and what to do."""


class UnknownName(SuiteError):
    """A setting has a value that there is not: no sample's fault, so nothing to go on with."""


def choose(name: str, value: str, known: Sequence[str]) -> str:
    """Returns ``value`` if it is one of ``known``.

    Raises:
        UnknownName: Otherwise; the message lists the known values and the nearest.
    """
    if value in known:
        return value
    import difflib

    near = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.5)
    names = f"xpected one of: {', '.join(map(str, known))}."
    if near and len(known) > 20:  # the hint would be lost behind so many
        raise UnknownName(f"unknown {name} {value!r}. Did you mean {near[0]!r}? E{names}")
    raise UnknownName(f"unknown {name} {value!r}; e{names}" + (f" Did you mean {near[0]!r}?" if near else ""))

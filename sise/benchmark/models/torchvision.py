"""Any network of torchvision, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sise.benchmark.models.class_map import scoring_classes_of
from sise.benchmark.models.model import assemble
from sise.benchmark.models.stated_input import stated_preprocessing
from sise.benchmark.models.weights import fetch_published, load_state, read_state, seeded, with_checkpoint
from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError, choose
from sise.types import Model

__all__ = ["imagenet"]


def _new_network(builder: Callable[..., nn.Module], arch: str, outputs: int = 1000) -> nn.Module:
    """A torchvision network of random, but always the same weights."""
    extra = {"googlenet": {"transform_input": True}, "inception_v3": {"transform_input": True}}.get(arch, {})
    if extra:  # as the published weights expect; their default initialisation takes minutes
        extra = {**extra, "init_weights": False, "aux_logits": True}
    return seeded(builder, {"weights": None, "num_classes": outputs, **extra})


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
) -> Model:
    """Any classification network of torchvision, with its own input size, mean and standard deviation.

    Args:
        arch: Its name in torchvision, e.g. "resnet18".
        weights: None or "DEFAULT" = torchvision's best, another name of torchvision's ("IMAGENET1K_V1"), a file with a
            state dictionary, of any number of classes, or "random", which is good for timing only (the note says so).
        classes_of: Whose classes the scores are of: "imagenet" (1000), or "voc" or "coco" through a `ClassMap`.
        classes: Text file of the classes' names, one a line; None = ImageNet's, or numbers where they are not 1000.
        input: What differs from the network's own input, see `stated_preprocessing`.
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
        load_state(network, read_state(fetch_published(chosen.url, chosen.url.rsplit("/", 1)[-1])), note)
    else:
        path = Path(given)
        if not path.exists():
            known = ", ".join(dict.fromkeys([*published.__members__, "DEFAULT", "random"]))
            raise SuiteError(f"model.weights={given} is neither a file nor one of: {known}")
        note = f"weights of {path.name} (sha256 {file_hash(path)[:8]}) in torchvision's {arch}"
        network, outputs = with_checkpoint(lambda count: _new_network(builder, arch, count), path, outputs)
    own = chosen.transforms()
    size = own.crop_size[0]
    own_input = {"size": (size, size), "mean": own.mean, "std": own.std, "scale": 1.0, "channels": 3}
    network, names, prefix = scoring_classes_of(network.eval(), classes_of, outputs, classes)
    return assemble(
        network,
        name=name or arch,
        classes=names,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=stated_preprocessing(own_input, input, geometry, resample, own.resize_size[0]),
        note=note,
        prefix=prefix,
    )

"""What loaders of networks share: each returns a `sise.types.Model`, assembled and checked here."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.models.weights import weights_hash
from sise.errors import choose
from sise.layers import find_layers
from sise.types import Model

_log = logging.getLogger(__name__)


def assemble(
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
) -> Model:
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
    return Model(
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

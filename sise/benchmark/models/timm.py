"""Any network of timm, by name."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from sise.benchmark.models.class_map import scoring_classes_of
from sise.benchmark.models.model import assemble
from sise.benchmark.models.stated_input import stated_preprocessing, timm_input
from sise.benchmark.models.weights import seeded, with_checkpoint
from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError
from sise.types import Model

__all__ = ["timm"]


def _nearest(value: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(value, known, n=5, cutoff=0.4)
    return f"the nearest are: {', '.join(near)}" if near else "none is near"


def _pretrained(network: nn.Module) -> Mapping[str, Any]:
    """What a network of timm states about its weights and their input."""
    return cast("Mapping[str, Any]", network.pretrained_cfg)


def _outputs(network: nn.Module) -> int:
    return cast("int", network.num_classes)


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
) -> Model:
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
            return seeded(library.create_model, {"model_name": arch, **options, **classes_option})
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
        note = f"timm's {arch} ({_pretrained(network).get('tag') or 'weights of timm'})"
    elif given == "random":
        network = build()
        note = f"RANDOM WEIGHTS ({arch}): for timing only"
    else:
        path = Path(given)
        network, _ = with_checkpoint(build, path, _outputs(build()))
        note = f"weights of {path.name} (sha256 {file_hash(path)[:8]}) in timm's {arch}"
    outputs = _outputs(network)
    channels = options.get("in_chans", _pretrained(network)["input_size"][0])
    own_input, resize = timm_input(network, channels)
    network, names, prefix = scoring_classes_of(network.eval(), classes_of, outputs, classes)
    return assemble(
        network,
        name=name or arch,
        classes=names,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=stated_preprocessing(own_input, input, geometry, resample, resize),
        note=note,
        prefix=prefix,
    )

"""Your own network: a class or function of your code."""

from __future__ import annotations

import logging
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sise.benchmark.models.class_map import scoring_classes_of
from sise.benchmark.models.model import assemble
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.models.stated_input import IMAGENET_INPUT, stated_preprocessing, timm_input
from sise.benchmark.models.weights import drawn_weights, load_state, own_state, read_state, seeded
from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError
from sise.layers import evaluating, input_channels
from sise.types import Model
from sise.untrained import looks_untrained

__all__ = ["module"]

_log = logging.getLogger(__name__)


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
) -> Model:
    """Any network by the dotted path of its class, of a function that makes it, or of the network itself.

    Modules are looked for where Python finds them and in the current folder. Networks of other types than float32 are
    converted to it, and random weights are warned of.

    Args:
        target: For instance "mypackage.my_model".
        args: Its arguments.
        weights: A file with a state dictionary; None = as ``target`` makes it.
        input: What the network expects, see `stated_preprocessing`; what is not given is ImageNet's, or timm's where
            the network has a ``pretrained_cfg``.
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
        network = found if made else seeded(found, args or {})
        drawn = [] if made or weights is not None else drawn_weights(network, seeded(found, args or {}, seed=1))
    except Exception as error:  # the user's code can raise anything
        hint = "; for a class Net in mynet.py write model.target=mynet.Net" if ".py" in target else ""
        raise SuiteError(f"model.target={target} could not be made ({type(error).__name__}: {error}{hint})") from error
    if not isinstance(network, nn.Module):
        raise SuiteError(f"model.target={target} makes {type(network).__name__}, expected a torch.nn.Module")
    note = f"{target} as it is made"
    if drawn:
        note += f", RANDOM WEIGHTS in {len(drawn)} tensors (e.g. {drawn[0]})"
        _log.warning("%s: its maps mean nothing; give a checkpoint with model.weights=<file>", note)
    elif made and weights is None and looks_untrained(network):
        note += ", UNTRAINED by the look of its weights"
        _log.warning("%s: its maps mean nothing; give a checkpoint with model.weights=<file>", note)
    if weights is not None:
        path = Path(weights)
        load_state(network, own_state(read_state(path), network, str(path)), str(path))
        note = f"weights of {path.name} (sha256 {file_hash(path)[:8]}) in {target}"
    others = {str(p.dtype).removeprefix("torch.") for p in network.parameters() if p.is_floating_point()} - {"float32"}
    if others:
        network = network.float()
        note += f", converted from {' and '.join(sorted(others))} to float32"
        _log.warning("%s: everything is computed in float32", note)
    channels, resize = input_channels(network), None
    own_input = {**IMAGENET_INPUT, "channels": channels}
    if isinstance(getattr(network, "pretrained_cfg", None), Mapping):
        own_input, resize = timm_input(network, channels)
    preprocessing = stated_preprocessing(own_input, input, geometry, resample, resize)
    outputs = _outputs(network, preprocessing, target)
    network, names, prefix = scoring_classes_of(network.eval(), classes_of, outputs, classes)
    return assemble(
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

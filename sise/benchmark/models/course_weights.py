"""The tutorial's Keras weights as state dictionaries, and their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sise.benchmark.models.weights import check_file, read_state
from sise.benchmark.records.files import whole
from sise.errors import SuiteError
from sise.extras import how_to_install

__all__ = ["check_free", "keras_state", "load", "save"]


# --- weights ----------------------------------------------------------------------------------------------------------
def save(network: nn.Module, path: Path, **about: Any) -> None:
    """Writes the weights and plain facts about them, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    with whole(path) as draft:
        torch.save({"state_dict": state, "about": about}, draft)


def check_free(path: Path, **settings: Any) -> None:
    """Refuses to train where weights of another training lie: a trial would take their place.

    Args:
        path: Where the weights are to be written.
        settings: Of the training; compared with what :func:`save` was told, as far as it was.

    Raises:
        SuiteError: If there are weights that these settings did not make.
    """
    if not path.exists():
        return
    try:
        about = torch.load(path, map_location="cpu", weights_only=True)["about"]
        changed = [f"{k}: {about[k]} there, {now} now" for k, now in settings.items() if about.get(k, now) != now]
    except Exception:  # any file of the user's
        changed = ["it is no file of this training"]
    if changed:
        raise SuiteError(
            f"{path} holds other weights ({'; '.join(changed)}); choose another file with training.output=..., or move "
            "it away"
        )


def load(network: nn.Module, path: str | os.PathLike) -> dict[str, Any]:
    """Loads weights of :func:`save`, or the course's in Keras's HDF5 format (``.h5``).

    Returns:
        What :func:`save` was told about them; nothing for Keras.

    Raises:
        SuiteError: If there is no such file, it is damaged, or of another network.
    """
    path = Path(path)
    if path.suffix in (".h5", ".hdf5"):
        network.load_state_dict(keras_state(path, network))
        return {}
    state = read_state(path)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise SuiteError(f"{path} does not fit {type(network).__name__}: {error}") from error
    stored = torch.load(path, map_location="cpu", weights_only=True)
    about = stored.get("about")
    return about if isinstance(about, dict) else {}


def keras_state(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """The state of a network from a Keras HDF5 file whose layers have the names of the network's modules.

    Nothing but float32 arrays of the expected shapes is read, and only out of the file itself: links to other files
    and data stored outside are refused, the description of the Keras network is not evaluated.

    Args:
        path: Written by Keras's ``save`` or ``save_weights``; opened read-only.
        network: With convolutions and linear layers only in modules named as in Keras.

    Returns:
        A state dictionary; kernels (k, ..., in, out) turned to (out, in, k, ...).

    Raises:
        SuiteError: If h5py is not installed, or the file is missing, damaged, or of another network.
    """
    try:
        import h5py
    except ImportError as error:
        raise SuiteError(f"reading Keras weights needs h5py: {how_to_install('tutorial')}") from error
    check_file(path)
    state = {}
    try:
        with h5py.File(path, "r") as file:
            for name, module in network.named_modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                    layer = name.split(".")[0]
                    out_in_k = tuple(module.weight.shape)
                    kernel = _array(file, f"{layer}/{layer}/kernel:0", (*out_in_k[2:], out_in_k[1], out_in_k[0]))
                    state[f"{name}.weight"] = kernel.permute(-1, -2, *range(kernel.ndim - 2)).contiguous()
                    bias = tuple(module.bias.shape) if module.bias is not None else ()
                    state[f"{name}.bias"] = _array(file, f"{layer}/{layer}/bias:0", bias)
            others = {layer for layer, content in file["model_weights"].items() if len(content)}
            others -= {name.split(".")[0] for name in state}
            if others:
                raise ValueError(f"it has weights for {', '.join(sorted(others))} too")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise SuiteError(
            f"{path} is not a Keras HDF5 file of {type(network).__name__} (layers "
            f"{', '.join(dict.fromkeys(name.split('.')[0] for name, _ in network.named_parameters()))}): {error}"
        ) from error
    return state


def _array(file: Any, place: str, shape: tuple[int, ...]) -> Tensor:
    """A float32 array of the file itself.

    Raises:
        ValueError: If it is not there, not of this shape and type, or not stored in this file.
    """
    import h5py

    node = file
    for part in ("model_weights", *place.split("/")):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"it has no {place!r} of its own")
        node = node[part]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external:
        raise ValueError(f"{place!r} is no array stored in it")
    if node.shape != shape or node.dtype != "float32":
        raise ValueError(f"{place!r} is {node.dtype} {node.shape}, expected float32 {shape}")
    return torch.from_numpy(node[()])

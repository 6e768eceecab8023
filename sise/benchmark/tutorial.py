"""What both experiments of the ECE1512 tutorial share: Keras weights read without Keras, and the course's training.

The course trains small Keras networks by plain SGD on the cross-entropy plus an L2 penalty on every kernel. Networks
here have layers named as in Keras, a layer's module with its ReLU inside, so that "the layer conv2d_3" means the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sise.benchmark.models import check_file, read_state
from sise.types import SuiteError

__all__ = ["accuracy", "fit", "initialise", "keras_state", "load", "save"]

#: The course's penalty, λ of λ Σ w² over every kernel.
L2 = 5e-4


def initialise(network: nn.Module, seed: int) -> nn.Module:
    """The course's initial weights: convolutions Glorot uniform, the dense layer normal with s.d. 0.5, biases zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5)
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                nn.init.zeros_(module.bias)
    return network


def fit(
    network: nn.Module,
    epochs: Iterable[int],
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    *,
    lr: float = 0.01,
    l2: float = L2,
    after: Callable[[int, float], Any] = lambda epoch, loss: None,
) -> None:
    """Trains by SGD without momentum on cross-entropy + ``l2`` Σ w² over kernels; biases are not penalised.

    Such a training has no state but the weights: it can be continued from them.

    Args:
        network: ``(N, ...) -> (N, K)`` scores; in evaluation mode afterwards.
        epochs: Numbers of the epochs to run.
        batches: ``epoch -> (inputs, classes)`` batches.
        lr: Learning rate.
        l2: See above.
        after: Called with the epoch and its mean cross-entropy, with the network in evaluation mode.

    Raises:
        SuiteError: If the loss is not finite.
    """
    kernels = [p for p in network.parameters() if p.ndim > 1]
    biases = [p for p in network.parameters() if p.ndim == 1]
    optimiser = torch.optim.SGD([{"params": kernels, "weight_decay": 2 * l2}, {"params": biases}], lr)
    for epoch in epochs:
        network.train()
        total = seen = 0.0
        for inputs, classes in batches(epoch):
            loss = functional.cross_entropy(network(inputs), classes)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total, seen = total + float(loss.detach()) * len(classes), seen + len(classes)
        if not total / seen < float("inf"):
            raise SuiteError(f"the loss is {total / seen} in epoch {epoch + 1}; try a smaller --lr (now {lr:g})")
        network.eval()
        after(epoch, total / seen)


def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """(right, all) over batches of (inputs, classes)."""
    right = count = 0
    with torch.no_grad():
        for inputs, classes in batches:
            right += int((network(inputs).argmax(dim=1) == classes).sum())
            count += len(classes)
    return right, count


# --- weights ----------------------------------------------------------------------------------------------------------


def save(network: nn.Module, path: Path, **about: Any) -> None:
    """Writes the weights and plain facts about them, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    draft = path.with_name(path.name + ".partial")
    torch.save({"state_dict": state, "about": about}, draft)
    os.replace(draft, path)


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
        raise SuiteError("reading Keras weights needs h5py: pip install 'sise-benchmark[tutorial]'") from error
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
                    state[f"{name}.bias"] = _array(file, f"{layer}/{layer}/bias:0", tuple(module.bias.shape))
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

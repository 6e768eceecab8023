"""Weights files: found or fetched, checked by hash, read without running code, loaded whole."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError

__all__ = ["weights_hash"]

_log = logging.getLogger(__name__)

#: Where training scripts put the state dictionary in a larger checkpoint.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")

#: What profilers (thop) leave in a network's state, module by module.
_COUNTERS = ("total_ops", "total_params")


def weights_hash(network: nn.Module) -> str:
    """sha256 (hex) over the state's names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# --- weights files ----------------------------------------------------------------------------------------------------
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


def cached(file_name: str) -> Path:
    """Where a published weights file is kept, which need not be there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file_name


def hash_in(file_name: str) -> str:
    """The first digits of its sha256 that the name of a published file holds after the last "-"."""
    found = re.search(r"-([0-9a-f]{8,})\.", file_name)
    if found is None:
        raise ValueError(f"{file_name} has no hash in its name")
    return found.group(1)


def fetch_published(url: str, file_name: str) -> Path:
    """A published weights file in torch hub's cache, downloaded if it is not there yet and verified either way.

    Args:
        url: Where it is published.
        file_name: Its name, with the first digits of its sha256 after the last "-".

    Raises:
        SuiteError: If it cannot be downloaded or is not the published file.
    """
    path = cached(file_name)
    prefix = hash_in(file_name)
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
    digest = file_hash(path)
    if not digest.startswith(prefix):
        raise SuiteError(
            f"{path} is not the published file: its sha256 begins with {digest[:8]}, expected {prefix}; delete it "
            f"and get it again from {url}"
        )
    return path


def load_state(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
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
        raise SuiteError(f"{what}: does not fit {type(network).__name__}: {first_reason(error)}") from error


def _required(network: nn.Module) -> list[str]:
    """Names of the tensors without which a checkpoint is not of the network; old ones do not count batches."""
    return [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]


def own_state(state: dict[str, Tensor], network: nn.Module, what: str) -> dict[str, Tensor]:
    """The part of a checkpoint that is the network's: what lies under the one prefix that all of its names have there.

    The prefix is "module." of DataParallel, "model." of Lightning or any other, the shortest if there are several. What
    lies elsewhere, such as a loss's weights, an averaged copy, or a profiler's counters, is left out and named in a
    warning. What lies under the prefix but is not the network's is kept, for `load_state` to refuse: the checkpoint is
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


def first_reason(error: RuntimeError) -> str:
    """The first complaint of `load_state_dict`, short."""
    lines = [line.strip() for line in str(error).splitlines()]
    return textwrap.shorten(lines[1] if len(lines) > 1 else lines[0], 200, placeholder=" ...")


def seeded(builder: Callable[..., nn.Module], options: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """A network of random, but always the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(**options)


def drawn_weights(network: Any, other: Any) -> list[str]:
    """Names of the parameters that differ between a network and the same made with another seed: random ones."""
    if not isinstance(network, nn.Module) or not isinstance(other, nn.Module):
        return []
    parameters = dict(other.named_parameters())
    return [name for name, parameter in network.named_parameters() if not torch.equal(parameter, parameters[name])]


def with_checkpoint(build: Callable[[int], nn.Module], path: Path, outputs: int) -> tuple[nn.Module, int]:
    """A network with a checkpoint of it, of as many classes as that scores.

    Args:
        build: Makes the network for a number of classes.
        path: The checkpoint.
        outputs: Classes the architecture has by itself.

    Returns:
        The network and its number of classes.
    """
    network = build(outputs)
    state = own_state(read_state(path), network, str(path))
    found = _count_classes(state, network, outputs)
    network = network if found == outputs else build(found)
    load_state(network, state, str(path))
    return network, found

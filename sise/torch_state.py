"""What torch has once per process: who may change it, and how it is set back."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

import torch

ONE_AT_A_TIME = threading.RLock()
"""Held by whoever sets torch's flags, changes a network's mode or waits for a network's hooks.

Flags belong to the process and modes to the network, so two threads that set and restore them in turn would leave each
other's values behind. A pass keeps all cores busy by itself: threads lose nothing by waiting for each other.
"""


def generator_state(device: torch.device) -> torch.Tensor:
    """The state of torch's global generators that a network on the device may draw from, as bytes."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def generator_kept(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Sets torch's global generators back afterwards, in case a network draws from them."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def writes(tensor: torch.Tensor) -> int:
    """How often a tensor was written into in place; tensors made in inference mode don't count."""
    return 0 if tensor.is_inference() else tensor._version


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """New tensors are float32 and on the CPU where nothing else is said, as torch has it, whatever the caller has set.

    The type belongs to the process: hold :data:`ONE_AT_A_TIME`.
    """
    kind = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(kind)


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Runs what ``torch.compile`` compiled as it was written: compiled code calls no module, and so no hook."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled yet, and the import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield

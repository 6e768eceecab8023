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


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Runs what ``torch.compile`` compiled as it was written: compiled code calls no module, and so no hook."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled yet, and the import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield

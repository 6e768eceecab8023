"""The device that a command takes."""

from __future__ import annotations

import torch

from sise.benchmark.run.shards import EVERYTHING, Shard
from sise.errors import SuiteError


def choose_device(name: str, shard: Shard = EVERYTHING) -> torch.device:
    """``cpu``, ``cuda:1``, ...; ``auto`` takes a GPU if there is one, and shares GPUs out among shards."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", (shard.number - 1) % torch.cuda.device_count())  # shards share out the GPUs
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # there is a device "meta" without memory
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        there = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))])
        raise SuiteError(f"device={name} is not available here; expected one of: {there}.") from error
    return device

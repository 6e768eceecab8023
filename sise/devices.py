"""What depends on the device: exact float32 products, and waiting for a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from sise.torch_state import ONE_AT_A_TIME


@contextlib.contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Makes float32 products and convolutions exact, or TF32 on a GPU if ``allowed``; then sets back what was.

    Without it, ``torch.set_float32_matmul_precision("medium")`` means bfloat16 on a CPU, and cuDNN's default is TF32.
    """
    with ONE_AT_A_TIME, _float32_products(allowed):
        yield


@contextlib.contextmanager
def _float32_products(allowed: bool) -> Iterator[None]:
    cuda: Any = torch.backends.cuda.matmul
    cpu: Any = torch.backends.mkldnn
    cudnn: Any = torch.backends.cudnn  # of which torch's types do not know all
    if not hasattr(cuda, "fp32_precision"):  # before torch 2.9
        before = cuda.allow_tf32, torch.backends.cudnn.allow_tf32
        cuda.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        try:
            yield
        finally:
            cuda.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        return
    wanted = {cuda: "tf32" if allowed else "ieee", cudnn.conv: "tf32" if allowed else "ieee"}
    wanted |= {cpu.matmul: "ieee", cpu.conv: "ieee"}
    found = {flags: flags.fp32_precision for flags in wanted}
    try:
        for flags, precision in wanted.items():
            flags.fp32_precision = precision
        yield
    finally:
        for flags, precision in found.items():
            flags.fp32_precision = precision


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""What a command sets in its process before it computes."""

from __future__ import annotations

import ctypes
import logging
import sys

from omegaconf import DictConfig

from sise.benchmark import process


def prepare_process(engine: DictConfig) -> None:
    """Settings of the whole process, which a command line may make and a library may not."""
    import torch

    logging.getLogger("torchray").setLevel(logging.WARNING)
    process.use_threads(engine.threads)
    if engine.malloc and sys.platform == "linux" and not torch.cuda.is_available():
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Stops glibc from handing large buffers back to the system after every layer (M_MMAP_MAX = 0, no trimming).

    Page faults for buffers over 32 MiB otherwise cost up to half of a CPU forward pass.

    Returns:
        Whether it was done; False where the C library is not glibc.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(-4, 0)) and bool(libc.mallopt(-1, -1))
    except (OSError, AttributeError):
        return False

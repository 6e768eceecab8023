"""What a network computes with besides its weights: a hash of all that no state dictionary holds."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    bytearray,
    np.generic,
    type(None),
    type(Ellipsis),
    torch.dtype,
    torch.device,
    torch.Size,
    range,
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BOOKKEEPING = frozenset(vars(nn.Module())) - {*_HOOKS, "_buffers"}
"""Attributes of every module that its hash leaves out: parameters, which the weights' hash knows, and states."""


def structure_of(network: nn.Module) -> str:
    """12 hexadecimal digits over the modules' names, types and attributes: strides, pooling, temperatures, functions.

    Also buffers that are not saved, tensors that are plain attributes, hooks, the code of functions that are
    attributes, and modules that hide in lists, with their weights. Equal for two networks made in the same way; to be
    taken before a network has run, which may leave traces in its attributes.
    """
    digest = hashlib.sha256()
    describe = _Description(digest.update, network)
    for name, module in network.named_modules(remove_duplicate=False):
        kind = type(module)
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {module.extra_repr()}\n".encode())
        unsaved = {key: module._buffers[key] for key in sorted(module._non_persistent_buffers_set)}
        # without the hooks' numbers, which count all hooks of a process
        hooks = {key: list(vars(module)[key].values()) for key in _HOOKS}
        for key, value in sorted({**vars(module), **hooks, "_buffers": unsaved}.items()):
            if key not in _BOOKKEEPING:
                digest.update(f".{key}=".encode())
                describe(value)
    return digest.hexdigest()[:12]


class _Description:
    """Writes values as bytes that are the same in every process: no addresses, no order of sets."""

    def __init__(self, write: Callable[[bytes], None], network: nn.Module) -> None:
        self._write = write
        self._named = {id(module) for module in network.modules()}
        self._seen: dict[int, int] = {}  # objects by id, to end where they hold each other
        self._kept: list[Any] = []  # alive, so that no id comes twice

    def __call__(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._write(f"{value!r};".encode())
        elif isinstance(value, Tensor):
            self._write(f"tensor {value.dtype} {tuple(value.shape)}".encode())
            self._write(_content(value))
        elif isinstance(value, type | ModuleType) or id(value) in self._named:  # described where they are named
            kind = value if isinstance(value, type) else type(value)
            self._write(f"{kind.__module__}.{kind.__qualname__};".encode())
        elif id(value) in self._seen:
            self._write(f"again {self._seen[id(value)]};".encode())
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._describe(value)

    def _describe(self, value: Any) -> None:
        self._write(f"{type(value).__module__}.{type(value).__qualname__}(".encode())
        if isinstance(value, np.ndarray):
            self._write(f"{value.dtype} {value.shape}".encode())
            self._write(value.tobytes() if value.dtype != object else repr(value.tolist()).encode())
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                self(key)
                self(inner)
        elif isinstance(value, set | frozenset):
            for text in sorted(repr(inner) for inner in value):
                self(text)
        elif isinstance(value, list | tuple | deque):
            for inner in value:
                self(inner)
        elif isinstance(value, nn.Module):  # it hides in a list or function: no state dictionary has its weights
            left_out = _BOOKKEEPING - {"_parameters", "_modules"}
            self({key: inner for key, inner in sorted(vars(value).items()) if key not in left_out})
        elif isinstance(value, functools.partial):
            self((value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            self((value.__func__, value.__self__))
        elif isinstance(value, FunctionType):
            self((value.__module__, value.__qualname__, value.__defaults__, value.__kwdefaults__))
            if str(value.__module__).split(".")[0] != "torch":  # its version says it, and Python's changes the bytes
                self(value.__code__)
                for cell in value.__closure__ or ():
                    with contextlib.suppress(ValueError):  # it is empty
                        self(cell.cell_contents)
        elif isinstance(value, CodeType):
            self((value.co_code, value.co_names, value.co_consts))
        else:
            self(getattr(value, "__qualname__", None))  # a function of C has no more to tell
            self(getattr(value, "__dict__", None))
        self._write(b")")


def _content(tensor: Tensor) -> bytes:
    """The values of a tensor, or, of an unusual kind that has no plain ones, what it prints."""
    tensor = tensor.detach().cpu() if tensor.device.type != "meta" else tensor.detach()
    try:
        dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
        return dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):
        return repr(tensor).encode()

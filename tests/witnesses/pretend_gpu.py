"""A graphics card for machines without one: tensors that say they are on ``cuda:0`` while their numbers are on the CPU.

    with pretend_gpu.card():
        evaluate(device="cuda")

What a real card refuses is refused: operations on tensors of the card and of the CPU at once, NumPy's view of a tensor
of the card, a CPU tensor indexed with indices of the card, a generator of the CPU for numbers drawn on the card,
results larger than its memory. Everything else is computed on the CPU, so that results equal the CPU's to the last bit,
and a test may ask for just that. The card has a random generator of its own, and counts how often the program waits.

It knows nothing of a card's speed, streams, kernels and rounding.

:func:`environment` is for child processes: interpreters started with it have such a card from the start.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from checkout import ROOT
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HERE = Path(__file__).resolve().parent
SWITCH = "PRETEND_GPU"
"""Environment variable that ``pretended/sitecustomize.py`` looks at: the card's memory in bytes, or 0 for any."""
CARD, CPU = torch.device("cuda", 0), torch.device("cpu")
CPU_SCALARS = ("masked_fill", "where", "fill", "index_put", "clamp", "lerp")
"""Operations that take a CPU tensor without dimensions beside the card's, besides all that go element by element."""


class DeviceMix(RuntimeError):
    """What a real card would have refused."""


class Card:
    """What belongs to the card and not to its tensors.

    Attributes:
        memory: Bytes; a larger result runs out of memory. None for any.
        generator: Of its random numbers.
        waits: How often a value was fetched from it, or the program waited for it to be done.
    """

    def __init__(self) -> None:
        self.memory: int | None = None
        self.generator = torch.Generator()
        self.waits = 0

    def synchronize(self, device: object = None) -> None:
        """``torch.cuda.synchronize``."""
        self.waits += 1

    def seed(self, seed: int) -> None:
        """``torch.cuda.manual_seed_all``."""
        self.generator.manual_seed(seed + 1)  # other numbers than the CPU's, as on a card

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Lets torch's CPU operations draw from the card's generator."""
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(before)

    def allocate(self, result: object) -> None:
        """Runs out of memory where a result has no room."""
        for tensor in _tensors(result) if self.memory else ():
            if tensor.numel() * tensor.element_size() > self.memory:
                raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")


THE_CARD = Card()


class OnCard(Tensor):
    """A tensor of the card: a shell without numbers around the CPU tensor that has them."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnCard:
        # autograd takes it for a tensor of the CPU: its engine would look for a real card's streams
        with torch.inference_mode(numbers.is_inference()):
            shell = Tensor._make_wrapper_subclass(
                cls, numbers.size(), strides=numbers.stride(), storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype, layout=numbers.layout, device=CPU,
            )  # fmt: skip
        shell.numbers = numbers
        return shell

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CARD)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnCard({self.numbers})"

    def get_device(self) -> int:
        return 0

    def tolist(self) -> Any:
        THE_CARD.waits += 1
        return self.numbers.tolist()

    def numpy(self, *args: object, **options: object) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory.")

    __array__ = numpy

    def __reduce_ex__(self, protocol: object) -> Any:
        raise DeviceMix("a tensor of the card was about to be written to a file or sent to another process")

    def __deepcopy__(self, memo: dict) -> OnCard:
        if id(self) not in memo:
            memo[id(self)] = _like(self, OnCard(self.numbers.clone()))
        return memo[id(self)]


def _like(original: Tensor, copy: Tensor) -> Tensor:
    """A parameter where the original is one, and with a gradient where it has one."""
    if isinstance(original, nn.Parameter):
        return nn.Parameter(copy, requires_grad=original.requires_grad)
    return copy.requires_grad_(original.requires_grad)


# ---------------------------------------------------------------------- operations on tensors of the card


def _compute(func: Any, args: tuple, kwargs: dict) -> Any:
    """One operation that has a tensor of the card among its arguments."""
    given = _tensors((args, kwargs))
    _refuse_mixes(func, args, kwargs, given)
    if func is torch.ops.aten._local_scalar_dense.default:
        THE_CARD.waits += 1
    draws = torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None
    with THE_CARD.drawing() if draws else contextlib.nullcontext():
        result = func(*_mapped(_numbers, args), **_mapped(_numbers, kwargs))
    THE_CARD.allocate(result)
    if func.overloadpacket is torch.ops.aten.copy_ and not isinstance(args[0], OnCard):
        return args[0]
    shells = {id(t.numbers): t for t in given if isinstance(t, OnCard)}

    def shell(value: Tensor) -> Tensor:
        known = shells.get(id(value))
        if known is not None and (known.shape, known.stride()) != (value.shape, value.stride()):
            raise NotImplementedError(f"{func} changed the shape of a tensor in place, which the pretended card can't")
        return OnCard(value) if known is None else known

    return _mapped(shell, result)


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for part in value for tensor in _tensors(part)]


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nested lists, tuples and dicts with a function's results in place of tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(function, part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(function, part) for part in value)
    return value


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, OnCard) else value


def _refuse_mixes(func: Any, args: tuple, kwargs: dict, leaves: list[Tensor]) -> None:
    """Raises where a real card would: tensors of both sides, a generator of the CPU."""
    name = func.overloadpacket.__name__
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise DeviceMix(f"{name}: a generator of the CPU cannot draw on the card")
    if name == "copy_":
        return
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        if not isinstance(args[0], OnCard) and any(isinstance(t, OnCard) for t in _tensors(args[1])):
            raise DeviceMix(f"{name}: a tensor of the CPU is indexed with indices of the card")
        leaves = _tensors([args[0], *args[2:3]])  # indices of the CPU may index the card
    scalars = torch.Tag.pointwise in func.tags or name.rstrip("_") in CPU_SCALARS
    strangers = [t for t in leaves if not isinstance(t, OnCard) and (t.ndim or not scalars)]
    if strangers and not all(_made_by_autograd(t) for t in strangers):
        shapes = [("card" if isinstance(t, OnCard) else "cpu", tuple(t.shape)) for t in leaves]
        raise DeviceMix(f"{name}: expected all tensors to be on the same device, got {shapes}")


def _made_by_autograd(tensor: Tensor) -> bool:
    """Whether it is what torch's own backward functions make for nothing: zeros, where they take the card to be."""
    node = torch._C._current_autograd_node()
    return node is not None and not isinstance(node, torch.autograd.function.BackwardCFunction) and not tensor.any()


# ---------------------------------------------------------------------- from the CPU to the card and back


class _ToCard(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return OnCard(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _numbers(gradient)


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _numbers(tensor).detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient if isinstance(gradient, OnCard) else OnCard(gradient)


def _moved(tensor: Tensor, device: torch.device | None) -> Tensor:
    """A copy on the device; the tensor itself if it is there."""
    if device is None or (device.type == "cuda") == isinstance(tensor, OnCard):
        return tensor
    if device.type == "cpu":
        THE_CARD.waits += 1
    move = _ToCard if device.type == "cuda" else _ToCpu
    result = move.apply(tensor)
    THE_CARD.allocate(result)
    return result


def _device(value: Any) -> torch.device | None:
    """What a ``device=`` argument names, if this machine has it.

    Raises:
        RuntimeError: If there is no such device.
    """
    if value is None:
        return None
    device = torch.device("cuda", value) if isinstance(value, int) else torch.device(value)
    if device.type not in ("cpu", "cuda") or (device.index or 0) > 0:
        raise RuntimeError(f"invalid device ordinal: {device}")
    return device


class _Calls(TorchFunctionMode):
    """Torch's functions, as far as they name a device."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        if func is Tensor.cuda:
            return _moved(args[0], CARD)
        if func is Tensor.cpu:
            return _moved(args[0], CPU)
        if func is Tensor.pin_memory:
            return args[0]
        # a mode comes before what a class overrides
        if func in (Tensor.numpy, Tensor.__array__, Tensor.tolist) and isinstance(args[0], OnCard):
            return getattr(args[0], func.__name__)(*args[1:], **kwargs)
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = _device(kwargs.pop("device"))
        if device.type == "cuda" and isinstance(kwargs.get("generator"), torch.Generator):
            raise DeviceMix(f"{func.__name__}: a generator of the CPU cannot draw on the card")
        with THE_CARD.drawing() if device.type == "cuda" else contextlib.nullcontext():
            return _moved(func(*args, device=CPU, **kwargs), device)

    @staticmethod
    def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``Tensor.to`` in all its forms: a device, a type, or another tensor's."""
        kwargs.pop("copy", None)
        like = kwargs.pop("other", None)
        if args and isinstance(args[0], Tensor):
            like, args = args[0], args[1:]
        if like is not None:
            return _moved(Tensor.to(tensor, like.dtype), like.device)
        device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        options = {} if memory_format is None else {"memory_format": memory_format}
        if dtype is not None or options:
            tensor = Tensor.to(tensor, dtype=dtype or tensor.dtype, **options)
        return _moved(tensor, _device(device))


# ---------------------------------------------------------------------- the card in this process


def _replaced() -> dict[str, Callable[..., Any]]:
    """The functions of ``torch.cuda`` that a program may ask; all others say that there is no driver, and fail."""
    facts = {"name": "Pretended Card", "total_memory": 16 << 30, "major": 8, "minor": 0, "multi_processor_count": 1}
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": THE_CARD.synchronize,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: facts["name"],
        "get_device_capability": lambda device=None: (facts["major"], facts["minor"]),
        "get_device_properties": lambda device=None: SimpleNamespace(**facts),
        "mem_get_info": lambda device=None: (8 << 30, 16 << 30),
        "is_bf16_supported": lambda *a, **k: True,
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "get_rng_state": lambda device=None: THE_CARD.generator.get_state(),
        "set_rng_state": lambda state, device=None: THE_CARD.generator.set_state(state),
        "manual_seed": THE_CARD.seed,
        "manual_seed_all": THE_CARD.seed,
    }


@contextlib.contextmanager
def card(memory: int | None = None) -> Iterator[Card]:
    """Gives this process a card.

    Networks moved to it in the block stay there.

    Args:
        memory: Bytes; a larger result runs out of memory. None for any.
    """
    run = threading.Thread.run
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()

    def run_beside_the_card(thread: threading.Thread) -> None:
        with _Calls():  # modes belong to a thread
            run(thread)

    THE_CARD.memory, THE_CARD.waits = memory, 0
    with contextlib.ExitStack() as stack:
        for name, function in _replaced().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(torch.backends.cudnn, "version", lambda: 0))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_beside_the_card))
        # a parameter's numbers cannot become a shell in place: modules get new parameters
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(_Calls())
        yield THE_CARD


def environment(memory: int = 0) -> dict[str, str]:
    """The environment in which every Python interpreter, and every one that it starts, has a card from its start."""
    folders = [str(HERE / "pretended"), str(HERE), str(ROOT)]
    path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, SWITCH: str(memory), "OMP_NUM_THREADS": "1"}

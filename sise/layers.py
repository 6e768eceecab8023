"""SISE's layers of any convolutional network: the inputs of its downsampling stages.

The first paper reads "the inputs of the pooling layers" (PROTOCOL L1, L2), for ResNet-50 the stem's ReLU and the four
stages, for VGG16 the ReLU before each pool. `find_layers` finds the same for other networks by watching one forward
pass and noting where the feature maps shrink.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sise.errors import SuiteError, choose
from sise.torch_state import eager, generator_kept

__all__ = ["check_layers", "evaluating", "find_cam_layer", "find_layers", "input_channels", "uncompiled"]

log = logging.getLogger(__name__)

#: A map has shrunk if its longer side became this many times smaller: strided layers halve, give or take the border.
_SHRUNK = 1.5
#: More than one halving: the layers in between lie inside of the module.
_SHRUNK_TWICE = 3.0

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_NO_FEATURES = (  # leaves that make no feature maps of their own
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.FractionalMaxPool2d,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Identity, nn.ZeroPad2d, nn.ReflectionPad2d,
)  # fmt: skip

_ADVICE = (
    "take a convolutional network, or give layers=[...] yourself if it has feature maps (N, C, H, W) somewhere; "
    "explainers that only mask the image (RISE, Extremal Perturbation) or differentiate it (Integrated Gradients) run "
    "with layers=[] (on the command line: model.loader.layers=[])"
)


@dataclass
class _Call:
    """One call of a module during the forward pass."""

    name: str
    module: nn.Module
    inputs: list[Tensor]  # kept alive, so that identity means the same tensor
    shape_in: tuple[int, ...] | None = None
    shape_out: tuple[int, ...] | None = None
    children: list[_Call] = field(default_factory=list)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode, and each of its modules back into its own mode afterwards.

    Raises:
        SuiteError: If it has none.
    """
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
    except NotImplementedError as error:  # what torch.export makes
        kind = type(network).__name__
        reason = f"{error}; explain the network it was exported from"
        raise SuiteError(f"{kind} has no evaluation mode: {reason}") from error
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def uncompiled(network: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` was given, if it was; its modules have their own names and can be watched."""
    while type(network).__name__ == "OptimizedModule":  # torch's class, which only its compiler can import
        network = network.get_submodule("_orig_mod")
    return network


def _watch(network: nn.Module, image_size: tuple[int, ...], channels: int | None, advice: str) -> _Call:
    """The tree of calls of one forward pass of zeros. Hooks and modes are as before afterwards, also after an error.

    Raises:
        SuiteError: If the network has no parameter or does not run.
    """
    parameter = next(network.parameters(), torch.empty(0))
    shape = (channels or input_channels(network), *image_size)
    image = torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)
    stack = [_Call("", network, [image])]
    handles: list[Any] = []

    thread = threading.get_ident()  # others may score images with the network meanwhile

    def enter(name: str):
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if threading.get_ident() != thread:
                return
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            call = _Call(name, module, tensors, tuple(tensors[0].shape) if tensors else None)
            stack[-1].children.append(call)
            stack.append(call)

        return hook

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != thread:
            return
        stack.pop().shape_out = tuple(output.shape) if isinstance(output, Tensor) else None

    try:
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave))
        with evaluating(network), torch.no_grad(), eager(), generator_kept(image.device):
            network(image)
    except Exception as error:  # it is the user's network: anything can be wrong in it
        kind = type(network).__name__
        reason = f"{error}" or type(error).__name__
        types = sorted({str(p.dtype) for p in network.parameters() if p.is_floating_point()})
        if len(types) > 1:
            advice = f"its parameters are of {' and '.join(types)}: convert them all, model.float()"
        raise SuiteError(f"{kind} does not run on one image of {shape}: {reason}; {advice}") from error
    finally:
        for handle in handles:
            handle.remove()
    return next(call for call in stack[0].children if call.module is network)  # hooks may call others beside it


def _like_image(sides: Sequence[int], image_size: Sequence[int]) -> bool:
    """Whether the sides have the image's proportions, up to borders."""
    ratios = [side / full for side, full in zip(sides, image_size, strict=True)]
    return max(ratios) - min(ratios) <= max(0.15 * max(ratios), 2 / min(image_size))


class _Walk:
    """Goes through the calls in order, descending into modules in which maps shrink more than once."""

    def __init__(self, image_size: tuple[int, ...]) -> None:
        self.image_size = image_size
        self.size = max(image_size)  # longer side of the current maps
        self.candidate: str | None = None
        self.learned = False  # whether a convolution made maps of the current size
        self.found: list[str] = []
        self.tokens: str | None = None
        self.channels_last: str | None = None
        self.calls: dict[str, int] = {}

    def side(self, shape: tuple[int, ...] | None) -> int | None:
        """The longer side of maps (N, C, h, w), or None if the shape is of something else."""
        if shape is None or len(shape) != len(self.image_size) + 2:
            return None
        return max(shape[2:]) if _like_image(shape[2:], self.image_size) else None

    def count(self, call: _Call) -> None:
        self.calls[call.name] = self.calls.get(call.name, 0) + 1
        for child in call.children:
            self.count(child)

    def leaves(self, call: _Call) -> list[_Call]:
        if not call.children or isinstance(call.module, _CONVOLUTIONS):  # some convolutions call a padding module
            return [call]
        return [leaf for child in call.children for leaf in self.leaves(child)]

    def learns(self, call: _Call) -> bool:
        return any(isinstance(leaf.module, _CONVOLUTIONS) for leaf in self.leaves(call))

    def looks_around(self, call: _Call) -> bool:
        """Whether a convolution in it is larger than one pixel: a head that pools has none."""
        convolutions = (leaf.module for leaf in self.leaves(call) if isinstance(leaf.module, _CONVOLUTIONS))
        return any(max(convolution.kernel_size) > 1 for convolution in convolutions)

    def has_stage_inside(self, call: _Call) -> bool:
        """Whether a spatial convolution works on the maps before they shrink, in a plain chain of modules."""
        consumers = sum(
            any(tensor is mine for tensor in leaf.inputs for mine in call.inputs) for leaf in self.leaves(call)
        )
        if consumers > 1:  # branches: a residual block or an inception module is one step
            return False
        for leaf in self.leaves(call):
            side = self.side(leaf.shape_out)
            if side is None or side * _SHRUNK <= self.size:
                return False
            if isinstance(leaf.module, _CONVOLUTIONS) and max(leaf.module.kernel_size) > 1:
                return True
        return False

    def emit(self) -> None:
        """The current maps are about to shrink: their last layer is one of SISE's, if it was learned."""
        if self.candidate is not None and self.learned:
            self.found.append(self.candidate)
        self.candidate, self.learned = None, False

    def take(self, call: _Call) -> None:
        if not isinstance(call.module, _NO_FEATURES) and self.calls[call.name] == 1:
            self.candidate = call.name
        self.learned = self.learned or self.learns(call)

    def visit(self, calls: list[_Call]) -> None:
        for call in calls:
            side, before = self.side(call.shape_out), self.side(call.shape_in)
            if side is None:
                shape = call.shape_out or ()
                sides = shape[1:-1]
                if len(sides) == len(self.image_size) and _like_image(sides, self.image_size) and max(sides) > 1:
                    self.channels_last = self.channels_last or call.name
                elif len(shape) == 3 and len(self.image_size) == 2 and shape[1] > 1:
                    self.tokens = self.tokens or call.name
                self.visit(call.children)
                continue
            if before is not None and before * _SHRUNK <= self.size:  # shrunk between modules
                self.emit()
                self.size = before
            if side * _SHRUNK > self.size:
                self.take(call)
                continue
            twice = side * _SHRUNK_TWICE <= self.size and (side > 1 or self.looks_around(call))
            if call.children and not isinstance(call.module, _CONVOLUTIONS) and (twice or self.has_stage_inside(call)):
                self.visit(call.children)
                continue
            self.emit()
            self.size = side
            if side > 1:
                self.take(call)


def input_channels(network: nn.Module) -> int:
    """Channels of the images a network takes, as far as its first convolution tells; 3 if there is none."""
    first = next((m for m in network.modules() if isinstance(m, _CONVOLUTIONS)), None)
    return first.weight.shape[1] * first.groups if first is not None else 3


def find_layers(
    network: nn.Module, image_size: Sequence[int] = (224, 224), *, channels: int | None = None
) -> tuple[str, ...]:
    """Names of the layers that SISE reads: the inputs of the downsampling stages, low to high.

    Wherever the maps shrink to about half, the last module with a result of the old size is taken, the outermost one
    that is complete at that size (a stage, a residual block after its sum, a ReLU after its convolution); the last
    feature maps of more than one pixel come last. A size at which no convolution works is skipped, and so are modules
    that run more than once per pass, because their name does not tell which maps are meant, and those that put out
    more than one tensor.

    The result is ``relu, layer1 .. layer4`` for torchvision's ResNet-50 and ``features.3, 8, 15, 22, 29`` for VGG16.

    Args:
        network: Any convolutional classifier of images (N, C, H, W) or signals (N, C, L). Runs once, on zeros, in
            evaluation mode; unchanged afterwards.
        image_size: (H, W) or (L,) of its input.
        channels: C; None takes that of the first convolution.

    Returns:
        Module names as in ``network.named_modules()``, at least one. Where a network goes on to tokens (N, L, C)
        behind them, which SISE does not read, a warning is logged.

    Raises:
        SuiteError: If the network has no such layer, for instance because it computes on tokens (transformers).

    Reference:
        Sattarzadeh et al., Explaining Convolutional Neural Networks through Attribution-Based Input Sampling and
        Block-Wise Feature Aggregation, AAAI 2021.
    """
    kind = type(network).__name__
    scripted = next((n for n, module in network.named_modules() if isinstance(module, torch.jit.ScriptModule)), None)
    if scripted is not None:
        what = f"its module {scripted!r}" if scripted else "it"
        raise SuiteError(f"{kind} hides its layers; explain the network {what} was scripted or traced from")
    if not any(isinstance(module, _CONVOLUTIONS) for module in network.modules()):
        raise SuiteError(
            f"{kind} has no convolution (nn.Conv2d, nn.Conv1d) among its modules, so it has no feature maps for SISE; "
            f"an exported network must be given as what it was exported from; {_ADVICE}"
        )
    image_size = tuple(int(side) for side in image_size)
    root = _watch(network, image_size, channels, "give the size and the channels it takes")
    walk = _Walk(image_size)
    walk.count(root)
    walk.visit(root.children or [root])
    if walk.size > 1:
        walk.emit()
    if walk.channels_last is not None:
        raise SuiteError(
            f"{kind} keeps its maps as (N, H, W, C) (module {walk.channels_last!r}), SISE reads (N, C, H, W); {_ADVICE}"
        )
    if not walk.found or (len(walk.found) == 1 and walk.tokens is not None):
        reason = _why_no_layers(walk, [name for name, m in network.named_modules() if isinstance(m, _CONVOLUTIONS)])
        raise SuiteError(f"{kind} has no downsampling stages whose inputs SISE could read: {reason}; {_ADVICE}")
    if walk.tokens is not None:
        log.warning(
            "%s computes on tokens (N, L, C) in %r, which SISE does not read: it explains what the feature maps of "
            "%s tell",
            kind, walk.tokens, ", ".join(walk.found),
        )  # fmt: skip
    return tuple(walk.found)


def _why_no_layers(walk: _Walk, convolutions: Sequence[str]) -> str:
    """What a walk that found nothing saw instead."""
    if walk.tokens is not None:
        return f"after {walk.tokens!r} it computes on tokens (N, L, C), not on feature maps"
    seen = [name for name in convolutions if name in walk.calls]
    if not seen:
        return (
            f"none of its {len(convolutions)} convolutions was seen running (the first is {convolutions[0]!r}). It is "
            "compiled, scripted or exported, or calls convolution.forward(x) or functions of the weights: give the "
            "network that it was made from, and call modules as convolution(x)"
        )
    if all(walk.calls[name] > 1 for name in seen):
        return (
            f"each of its convolutions runs more than once in a pass ({seen[0]!r} {walk.calls[seen[0]]} times), so "
            "that their names do not tell which maps are meant: explain the part that runs once, or a network that "
            "has a copy of the part for each time it runs"
        )
    return "no convolution has a result of more than one pixel per channel"


def check_layers(
    network: nn.Module, layers: Sequence[str], image_size: Sequence[int], *, channels: int | None = None
) -> None:
    """Raises a SuiteError unless each layer runs and puts out feature maps (N, C, H, W) of an image.

    Args:
        network: Runs once, on zeros, in evaluation mode; unchanged afterwards.
        layers: Module names, as the user gave them.
        image_size: (H, W) or (L,) of the network's input.
        channels: C of its input; None takes that of the first convolution.
    """
    image_size = tuple(int(side) for side in image_size)
    known = [name for name, _ in network.named_modules() if name]
    for layer in layers:
        choose("layer", layer, known)
    root = _watch(network, image_size, channels, "give the size and the channels it takes")
    shapes: dict[str, tuple[int, ...] | None] = {}

    def collect(call: _Call) -> None:
        shapes[call.name] = call.shape_out
        for child in call.children:
            collect(child)

    collect(root)
    maps = "(N, C, H, W)" if len(image_size) == 2 else "(N, C, L)"
    for layer in layers:
        if layer not in shapes:
            raise SuiteError(f"layer {layer!r} does not run when the network scores an image; name one that runs")
        shape = shapes[layer]
        if shape is None or len(shape) != len(image_size) + 2:
            got = "something else than one tensor" if shape is None else f"{shape}"
            raise SuiteError(f"layer {layer!r} puts out {got}; expected a layer of feature maps {maps}. {_ADVICE}")
        if max(shape[2:]) == 1 < max(image_size):
            raise SuiteError(f"layer {layer!r} puts out {shape}: one pixel per channel has no place in the image.")
        transposed = _like_image(shape[1:-1], image_size) and not _like_image(shape[2:], image_size)
        if transposed and max(shape[1:-1]) > 1:
            raise SuiteError(
                f"layer {layer!r} puts out {shape} for an image of {image_size}, which looks like maps (N, H, W, C); "
                f"expected a layer of feature maps {maps}. {_ADVICE}"
            )


def find_cam_layer(network: nn.Module, image_size: Sequence[int] = (224, 224), *, channels: int | None = None) -> str:
    """The layer Grad-CAM and Score-CAM read: the last of `find_layers`.

    Args:
        network, image_size, channels: As for `find_layers`.

    Returns:
        A module name.

    Raises:
        SuiteError: As `find_layers`.
    """
    return find_layers(network, image_size, channels=channels)[-1]

"""SISE's layers of any convolutional network: the inputs of its downsampling stages.

The first paper reads "the inputs of the pooling layers" (PROTOCOL L1, L2), for ResNet-50 the stem's ReLU and the four
stages, for VGG16 the ReLU before each pool. `find_layers` finds the same for other networks by watching one forward
pass and noting where the feature maps shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sise.types import SuiteError

__all__ = ["find_cam_layer", "find_layers"]

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


@dataclass
class _Call:
    """One call of a module during the forward pass."""

    name: str
    module: nn.Module
    inputs: list[Tensor]  # kept alive, so that identity means the same tensor
    shape_in: tuple[int, ...] | None = None
    shape_out: tuple[int, ...] | None = None
    children: list[_Call] = field(default_factory=list)


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((item for item in value if isinstance(item, Tensor)), None)
    return None


def _watch(network: nn.Module, image: Tensor) -> _Call:
    """The tree of calls of one forward pass. Hooks and modes are as before afterwards, also after an error."""
    stack = [_Call("", network, [image])]
    handles: list[Any] = []
    modes = [(module, module.training) for module in network.modules()]

    def enter(name: str):
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            tensors = [value for value in inputs if isinstance(value, Tensor)]
            call = _Call(name, module, tensors, tuple(tensors[0].shape) if tensors else None)
            stack[-1].children.append(call)
            stack.append(call)

        return hook

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensor = _first_tensor(output)
        stack.pop().shape_out = None if tensor is None else tuple(tensor.shape)

    try:
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(leave))
        network.eval()
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return stack[0].children[0]


class _Walk:
    """Goes through the calls in order, descending into modules in which maps shrink more than once."""

    def __init__(self, network: nn.Module, image_size: tuple[int, ...]) -> None:
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
        return max(shape[2:]) if self._like_image(shape[2:]) else None

    def _like_image(self, sides: Sequence[int]) -> bool:
        """Whether the sides have the image's proportions, up to borders."""
        ratios = [side / full for side, full in zip(sides, self.image_size, strict=True)]
        return max(ratios) - min(ratios) <= max(0.15 * max(ratios), 2 / min(self.image_size))

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
                if len(shape) == len(self.image_size) + 2 and self._like_image(shape[1:-1]) and max(shape[1:-1]) > 1:
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
            twice = side > 1 and side * _SHRUNK_TWICE <= self.size
            if call.children and not isinstance(call.module, _CONVOLUTIONS) and (twice or self.has_stage_inside(call)):
                self.visit(call.children)
                continue
            self.emit()
            self.size = side
            if side > 1:
                self.take(call)


def find_layers(network: nn.Module, image_size: Sequence[int] = (224, 224)) -> tuple[str, ...]:
    """Names of the layers that SISE reads: the inputs of the downsampling stages, low to high.

    Wherever the maps shrink to about half, the last module with a result of the old size is taken, the outermost one
    that is complete at that size (a stage, a residual block after its sum, a ReLU after its convolution); the last
    feature maps of more than one pixel come last. A size at which no convolution works is skipped, and so are modules
    that run more than once per pass, because their name does not tell which maps are meant.

    The result is ``relu, layer1 .. layer4`` for torchvision's ResNet-50 and ``features.3, 8, 15, 22, 29`` for VGG16.

    Args:
        network: Any convolutional classifier of images (N, C, H, W) or signals (N, C, L). Runs once, on zeros, in
            evaluation mode; unchanged afterwards.
        image_size: (H, W) or (L,) of its input.

    Returns:
        Module names as in ``network.named_modules()``, at least one.

    Raises:
        SuiteError: If the network has no such layer, for instance because it computes on tokens (transformers).

    Reference:
        Sattarzadeh et al., Explaining Convolutional Neural Networks through Attribution-Based Input Sampling and
        Block-Wise Feature Aggregation, AAAI 2021.
    """
    advice = "give layer names yourself (model.loader.layers=[...]), or take a convolutional network"
    convolution = next((m for m in network.modules() if isinstance(m, _CONVOLUTIONS)), None)
    kind = type(network).__name__
    if convolution is None:
        raise SuiteError(f"{kind} has no convolution, so it has no feature maps for SISE; {advice}")
    image_size = tuple(int(side) for side in image_size)
    weight = convolution.weight
    channels = weight.shape[1] * convolution.groups
    try:
        root = _watch(network, torch.zeros(1, channels, *image_size, device=weight.device, dtype=weight.dtype))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise SuiteError(f"{kind} does not run on one image of {(channels, *image_size)}: {error}; {advice}") from error
    walk = _Walk(network, image_size)
    walk.count(root)
    walk.visit(root.children or [root])
    if walk.size > 1:
        walk.emit()
    if walk.channels_last is not None:
        raise SuiteError(
            f"{kind} keeps its maps as (N, H, W, C) (module {walk.channels_last!r}), SISE reads (N, C, H, W); {advice}"
        )
    if not walk.found or (len(walk.found) == 1 and walk.tokens is not None):
        reason = (
            f"after {walk.tokens!r} it computes on tokens (N, L, C), not on feature maps"
            if walk.tokens is not None
            else "no convolution has a result of more than one pixel per channel"
        )
        raise SuiteError(f"{kind} has no downsampling stages whose inputs SISE could read: {reason}; {advice}")
    return tuple(walk.found)


def find_cam_layer(network: nn.Module, image_size: Sequence[int] = (224, 224)) -> str:
    """The layer Grad-CAM and Score-CAM read: the last of `find_layers`.

    Args:
        network: As for `find_layers`.
        image_size: (H, W) or (L,) of its input.

    Returns:
        A module name.

    Raises:
        SuiteError: As `find_layers`.
    """
    return find_layers(network, image_size)[-1]

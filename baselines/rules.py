"""One engine for all backward rules: the network runs forward unchanged, its operations get other backward passes.

While a network runs inside a :class:`RuledGraph`, every operation of torch passes through a ``TorchFunctionMode``. An
operation for which there is a rule computes what it always computes, but is entered into autograd's graph with the
rule as its backward pass. ``torch.autograd.grad`` then brings the relevance of a score to any place, forks included.
Nothing of the network changes: no module is replaced, no parameter is touched, and the mode is the calling thread's
own.

A set of rules is a small class (:class:`Rules`): each of its methods is called when an operation runs, and returns the
function that takes the relevance of the operation's output to the relevance of its inputs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from sise.devices import allow_tf32
from sise.errors import SuiteError
from sise.probe.capture import captured, check_gradient
from sise.probe.probe import Probe
from sise.scoring import check_scores

Back = Callable[[Tensor], Tensor]
"""Takes the relevance of an operation's output to that of its input."""

AFFINE = {"conv1d", "conv2d", "conv3d", "linear"}
AVERAGES = {f"{kind}avg_pool{dims}d" for kind in ("", "adaptive_") for dims in (1, 2, 3)} | {"mean", "sum"}
RECTIFIERS = {"relu": (), "relu6": (), "hardtanh": ("min_val", "max_val"), "clamp": ("min", "max")}
RECTIFIERS |= {"clip": ("min", "max"), "clamp_min": ("min",)}
"""Names of what may be a rectifier, with the names of its bounds."""
MAYBE_RECTIFIERS = {"threshold", "leaky_relu", "maximum", "fmax", "max", "where", "mul", "imul", "multiply"}
"""Names of what is a rectifier where its result is one's: ``x * (x > 0)``, ``maximum(x, 0)``."""
ARITHMETIC = {"add": "add", "iadd": "add", "radd": "add", "sub": "sub", "isub": "sub", "subtract": "sub"}
ARITHMETIC |= {"mul": "mul", "imul": "mul", "rmul": "mul", "multiply": "mul"}
ARITHMETIC |= {"div": "div", "truediv": "div", "itruediv": "div", "divide": "div", "true_divide": "div"}
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"}
ROUTING = {
    "get", "getitem", "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze",
    "unsqueeze", "expand", "expand_as", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis",
    "t", "contiguous", "clone", "to", "type", "float", "requires_grad", "narrow", "select", "split", "chunk",
    "unbind", "cat", "concat", "concatenate", "stack", "pad", "constant_pad_nd", "flip", "roll",
    "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "amax", "logsumexp",
}  # fmt: skip
ROUTING |= {
    f"{kind}max_pool{dims}d{end}" for kind in ("", "adaptive_") for dims in (1, 2, 3) for end in ("", "_with_indices")
}
"""Their gradient routes relevance rightly: each place of the output is one place of the input (or the maximum of some).

A logsumexp of scores, as of the scores of a class's subclasses, hands its relevance to them as their softmax.
"""
CASTS = {"to", "type", "type_as", "float"}
"""They leave a tensor what it is where all is computed in float64."""
CONSTANTS = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}
"""Their result does not depend on the values of what they are given."""


class Linear:
    """A linear function at one input: its value there, and its transpose."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with torch.enable_grad():
            self._input = x.detach().requires_grad_()
            self._output = function(self._input)
        self.value = self._output.detach()

    def transposed(self, relevance: Tensor) -> Tensor:
        """What each place of the input gets, if each place of the output hands back ``relevance`` times its weights."""
        return torch.autograd.grad(self._output, self._input, relevance, retain_graph=True)[0]


@dataclass(eq=False)
class Affine:
    """One call of a convolution or linear layer.

    Attributes:
        x: Its input, detached.
        weight, bias: Its parameters, detached; the bias may be None.
        run: The operation: ``(input, weight, bias or None) -> output``.
        fully_connected: Whether it is ``linear`` rather than a convolution.
        first: Whether no affine operation came between the image and its input.
        name: For messages, e.g. ``conv2d of module 'features.0'``.
        is_last: Whether no affine operation ran after it; to be called once the network has run.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    fully_connected: bool
    first: bool
    name: str
    is_last: Callable[[], bool]
    source: Tensor | None = field(repr=False, default=None)  # the input within the graph
    _version: int = -1
    _known: dict[str, Linear] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._version = self.x._version

    def linear(self, name: str, make: Callable[[], tuple[Tensor, Tensor, Tensor | None]]) -> Linear:
        """The layer with another input, weight and bias; kept by its name, for all targets of an image.

        Raises:
            SuiteError: If the network has overwritten the layer's input meanwhile.
        """
        if self.x._version != self._version:
            raise SuiteError(
                f"the input of {self.name} is overwritten in place after that operation has read it, so no relevance "
                "can be computed for it; let the network copy the tensor first."
            )
        if name not in self._known:
            x, weight, bias = make()
            self._known[name] = Linear(lambda given: self.run(given, weight, bias), x)
        return self._known[name]


class Rules:
    """What operations do backward; a subclass states its differences.

    As they stand, rectifiers and normalisations pass relevance on, averages and additions share it in proportion to
    what each input contributed, and there is no rule for convolutions and linear layers.

    Attributes:
        relevance: Whether relevance is passed: then an operation without a rule is refused. Otherwise gradients are,
            and an operation without a rule keeps its own.
        folds: Whether a batch normalisation that reads a convolution is treated as part of it.
        double: Whether the network and the relevance are computed in float64, for rules that magnify rounding.
    """

    relevance = True
    folds = False
    double = False

    def affine(self, layer: Affine) -> Back:
        """Of a convolution or linear layer."""
        raise NotImplementedError

    def rectifier(self, x: Tensor, ceiling: float) -> Back:
        """Of ``min(max(x, 0), ceiling)``."""
        return _pass

    def average(self, x: Tensor, mean: Linear) -> Back:
        """Of an average pool or a mean of ``x``: in proportion to what each place contributed, 0/0 = 0."""
        return lambda relevance: x * mean.transposed(divided(relevance, mean.value))

    def add(self, parts: Sequence[Tensor]) -> Callable[[Tensor], list[Tensor]]:
        """Of the sum of ``parts``: in proportion to them, 0/0 = 0."""
        return lambda relevance: [part * divided(relevance, parts[0] + parts[1]) for part in parts]


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0, numerator / torch.where(zero, 1, denominator))


def _pass(relevance: Tensor) -> Tensor:
    return relevance


class RuledGraph:
    """One forward pass of a probe's image, with a graph whose backward passes follow rules; counted on the probe.

    Args:
        probe: One image as one network sees it.
        rules: A fresh set of rules, which may keep what it needs.
        layers: Names of layers that relevance is to be taken to or from.

    Attributes:
        scores: (K,) scores of the image, float64 if the rules are computed so.

    Raises:
        SuiteError: If an operation has no rule; the message names it and its module.
    """

    def __init__(self, probe: Probe, rules: Rules, layers: Sequence[str] = ()) -> None:
        self._probe = probe
        image = probe.image.detach().clone()
        self._image = (image.double() if rules.double else image).requires_grad_()
        operations = _Operations(probe.network, rules)
        with allow_tf32(False), torch.enable_grad(), captured(probe.network, layers) as self._maps:
            image = self._image.clone()  # the network may write into its input
            operations.follow(image, raw=True)
            with operations:
                scores = check_scores(self._run(image), 1)
        probe.count(forward=1)
        operations.check(scores)
        self._scores = scores
        self.scores = scores.detach()[0]

    def _run(self, image: Tensor) -> Tensor:
        try:
            return self._probe.network(image)
        except (torch.OutOfMemoryError, SuiteError):
            raise
        except Exception as error:  # in float32 it had run
            if image.dtype != torch.float64:
                raise
            raise SuiteError(
                "the network cannot be run in float64, in which this explainer computes: it fails with "
                f"{type(error).__name__}: {error}. Take lrp, which computes in float32."
            ) from error

    def backward(self, seed: Tensor, to: str | None = None, start: str | None = None) -> Tensor:
        """Takes relevance back; counted as one backward pass.

        Args:
            seed: (K,) relevance of the scores, or (C, h, w) that of the layer ``start``.
            to: The layer whose relevance is wanted; None for the image's.
            start: The layer to begin at; None for the scores.

        Returns:
            (C, h, w) relevance.

        Raises:
            SuiteError: If none arrives there, or it is not finite.
        """
        begin = self._scores if start is None else self._maps[start]
        end = self._image if to is None else self._maps[to]
        place = "the image" if to is None else repr(to)
        found = None
        if begin.requires_grad:
            with allow_tf32(False):
                found = _propagated(begin, end, seed[None].to(begin))
        self._probe.count(backward=1)
        if found is None:
            raise SuiteError(f"no relevance of the scores reaches {place}: the network makes its scores without it.")
        check_gradient(found, place)
        return found[0]


def _propagated(begin: Tensor, end: Tensor, seed: Tensor) -> Tensor | None:
    """What arrives at ``end`` of the relevance ``seed`` of ``begin``; None if no way leads there."""
    try:
        return torch.autograd.grad(begin, end, seed, retain_graph=True, allow_unused=True)[0]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # most often a checkpoint, whose second run is not inside of the rules
        raise SuiteError(
            f"relevance cannot be passed back through the network ({error}). If it uses torch.utils.checkpoint, which "
            "runs parts of it again in the backward pass, turn that off."
        ) from error


def gradients_under(rules: Rules, probe: Probe, targets: Sequence[int]) -> Tensor:
    """(T, C, H, W): what the image gets of each target's score, from one forward and T backward passes.

    Raises:
        SuiteError: See :class:`RuledGraph`.
    """
    graph = RuledGraph(probe, rules)
    return torch.stack([graph.backward(one_hot(graph.scores, target)) for target in targets])


def one_hot(scores: Tensor, target: int, value: float | Tensor = 1.0) -> Tensor:
    """(K,) ``value`` at the target, zero elsewhere."""
    seed = torch.zeros_like(scores)
    seed[target] = value
    return seed


class _Ruled(torch.autograd.Function):
    """Puts a value that is already computed into the graph, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, value: Callable[[], Tensor], back: Callable, *inputs: Tensor) -> Tensor:
        ctx.back = back
        ctx.set_materialize_grads(False)  # where no gradient arrives is not where a zero arrives
        return value()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, relevance: Tensor | None) -> tuple:
        return (None,) * len(ctx.needs_input_grad) if relevance is None else (None, None, *ctx.back(relevance))


@dataclass(eq=False)
class _Origin:
    """Where a tensor that depends on the image comes from.

    Attributes:
        raw: Whether no affine operation lies between the image and it.
        layer: The affine operation whose output it is, unchanged.
    """

    raw: bool
    layer: Affine | None = None


class _Operations(TorchFunctionMode):
    """Routes what a network does with what depends on the image through the rules, while it is entered."""

    def __init__(self, network: nn.Module, rules: Rules) -> None:
        super().__init__()
        self._names = {module: name for name, module in network.named_modules()}
        self._rules = rules
        self._origins = WeakTensorKeyDictionary()
        self._affine_calls = 0
        self._rectifiers = 0

    def follow(self, tensor: Tensor, raw: bool, layer: Affine | None = None) -> None:
        """Marks a tensor as one that depends on the image."""
        self._origins[tensor] = _Origin(raw, layer)

    def check(self, scores: Tensor) -> None:
        """Refuses scores whose way from the image was not seen, and gradient rules that met no rectifier.

        Raises:
            SuiteError: Then.
        """
        if self._rules.relevance and scores not in self._origins:
            raise SuiteError(
                "the network's scores do not come from its image by operations that can be followed: it runs compiled "
                "or scripted code, or detaches something. Give the plain module."
            )
        if not self._rules.relevance and not self._rectifiers:
            raise SuiteError(
                "the network has no rectifier (ReLU, ReLU6), so guided backpropagation and deconvnet would be its "
                "plain gradient; use the explainer 'gradient'."
            )

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        followed = [tensor for tensor in _tensors((args, kwargs)) if tensor in self._origins]
        if not followed:
            return func(*args, **kwargs)
        name = func.__name__.strip("_")
        if name in CASTS and args and args[0] not in self._origins:  # a constant, made like what depends on the image
            cast = func(*args, **kwargs)
            return cast.double() if self._rules.double and cast.is_floating_point() else cast
        if self._rules.double:
            if name in CASTS:
                return followed[0]
            args, kwargs = self._doubled(args), self._doubled(kwargs)
        if name in RECTIFIERS:
            ceiling = _ceiling(name, args, kwargs)
            if ceiling is not None:
                self._rectifiers += 1
                x = args[0] if args else kwargs["input"]
                return self._enter(func, args, kwargs, [x], lambda: _one(self._rules.rectifier(x.detach(), ceiling)))
        if name in MAYBE_RECTIFIERS and len(followed) == 1 and self._rectifies(func, args, kwargs, followed[0]):
            self._rectifiers += 1
            x = followed[0]
            return self._enter(func, args, kwargs, [x], lambda: _one(self._rules.rectifier(x.detach(), math.inf)))
        if self._rules.relevance:
            if name in AFFINE:
                return self._affine(func, *args, **kwargs)
            if name == "batch_norm":
                return self._normalise(func, args, kwargs, followed)
            if name in AVERAGES:
                return self._average(name, func, *args, **kwargs)
            if name in ARITHMETIC:
                return self._combine(func, ARITHMETIC[name], args, kwargs, followed)
            if name in DROPOUTS and not kwargs.get("training", kwargs.get("train", len(args) < 3 or args[2])):
                return followed[0]
        result = func(*args, **kwargs)
        made = [tensor for tensor in _tensors(result) if tensor.is_floating_point() or tensor.is_complex()]
        if self._rules.relevance and made and name not in CONSTANTS:
            if name not in ROUTING:
                raise self._refusal(func)
            if not all(tensor.requires_grad for tensor in made):
                raise self._refusal(func, "runs where gradients are off")
        for tensor in made:
            self.follow(tensor, raw=all(self._origins[t].raw for t in followed))
        return result

    @staticmethod
    def _rectifies(func: Callable, args: tuple, kwargs: dict, x: Tensor) -> bool:
        """Whether an operation gives what a rectifier gives of an input with places below zero."""
        with torch.no_grad():
            before = x.detach().clone()
            rectified = before.clamp(min=0)
            if torch.equal(rectified, before):
                return False
            same = {id(x): before}
            value = func(*(same.get(id(a), a) for a in args), **{k: same.get(id(v), v) for k, v in kwargs.items()})
            return isinstance(value, Tensor) and value.shape == x.shape and bool((value == rectified).all())

    def _doubled(self, values: Any) -> Any:
        """The arguments of an operation with weights and constants in float64, as what depends on the image is."""
        if isinstance(values, Tensor):
            single = values.is_floating_point() and values not in self._origins
            return values.detach().double() if single else values
        if isinstance(values, dict):
            return {name: self._doubled(value) for name, value in values.items()}
        if type(values) in (list, tuple):
            return type(values)(self._doubled(value) for value in values)
        return values

    def _enter(
        self, func: Callable, args: tuple, kwargs: dict, inputs: list[Tensor], rule: Callable[[], Callable]
    ) -> Tensor:
        """Runs an operation and enters its value with a rule; one that works in place changes its tensor as always.

        ``inputs`` are those among ``args`` and ``kwargs`` that relevance goes to. The operation is given copies, so
        that an operation in place can be told by its returning its input, and its rule sees what it read.
        """
        if not torch.is_grad_enabled():
            raise self._refusal(func, "runs where gradients are off")
        with torch.no_grad():
            back = rule()
            copies = {id(tensor): tensor.detach().clone() for tensor in inputs}
            value = func(*(copies.get(id(a), a) for a in args), **{k: copies.get(id(v), v) for k, v in kwargs.items()})
        entered = _Ruled.apply(lambda: value, back, *inputs)
        raw = all(self._origins[tensor].raw for tensor in inputs)
        if any(value is copy for copy in copies.values()):
            written = next(tensor for tensor in inputs if copies[id(tensor)] is value)
            written.copy_(entered)
            entered = written
        self.follow(entered, raw)
        return entered

    def _affine(
        self, func: Callable, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **named: Any
    ) -> Tensor:
        if input not in self._origins or weight in self._origins or (bias is not None and bias in self._origins):
            raise self._refusal(func, "has weights that depend on the image")
        self._affine_calls += 1
        call = self._affine_calls
        layer = Affine(
            x=input.detach(),
            weight=weight.detach(),
            bias=None if bias is None else bias.detach(),
            run=lambda x, w, b: func(x, w, b, *rest, **named),
            fully_connected=func.__name__ == "linear",
            first=self._origins[input].raw,
            name=self._named(func),
            is_last=lambda: call == self._affine_calls,
            source=input,
        )
        with torch.no_grad():
            value = layer.run(layer.x, layer.weight, layer.bias)
        return self._enter_affine(func, layer, value)

    def _enter_affine(self, func: Callable, layer: Affine, value: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            raise self._refusal(func, "runs where gradients are off")
        entered = _Ruled.apply(lambda: value, _one(self._rules.affine(layer)), layer.source)
        self.follow(entered, raw=False, layer=layer)
        return entered

    def _normalise(self, func: Callable, args: tuple, kwargs: dict, followed: list[Tensor]) -> Tensor:
        """A batch normalisation in eval mode: passes relevance, or is folded into the convolution that it reads."""
        named = dict(zip(("input", "running_mean", "running_var", "weight", "bias", "training"), args, strict=False))
        named |= kwargs
        if named.get("training") or named["running_mean"] is None or len(followed) != 1:
            raise self._refusal(func, "normalises by the batch, so it is no linear layer")
        layer = self._origins[named["input"]].layer
        if not self._rules.folds or layer is None:
            return self._enter(func, args, kwargs, followed, lambda: _one(_pass))
        eps = kwargs.get("eps", args[7] if len(args) > 7 else 1e-5)
        with torch.no_grad():
            scale = (named["running_var"] + eps).rsqrt()
            scale = scale if named.get("weight") is None else scale * named["weight"]
            shift = -named["running_mean"] if layer.bias is None else layer.bias - named["running_mean"]
            shift = shift * scale
            shift = shift if named.get("bias") is None else shift + named["bias"]
            value = func(*args, **kwargs).detach()
            folded = Affine(
                layer.x,
                layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1)),
                shift,
                layer.run,
                layer.fully_connected,
                layer.first,
                layer.name,
                layer.is_last,
                layer.source,
            )
        entered = self._enter_affine(func, folded, value)
        self._origins[entered].layer = None  # a second normalisation of it is not folded again
        return entered

    def _average(self, name: str, func: Callable, input: Tensor, *rest: Any, **named: Any) -> Tensor:
        x = input.detach()
        if name in ("mean", "sum") and bool((x < 0).any()):  # of scores at several places: each takes its equal part
            result = func(input, *rest, **named)
            self.follow(result, self._origins[input].raw)
            return result

        def rule() -> Callable:
            return _one(self._rules.average(x, Linear(lambda given: func(given, *rest, **named), x)))

        return self._enter(func, (input, *rest), named, [input], rule)

    def _combine(self, func: Callable, kind: str, args: tuple, kwargs: dict, followed: list[Tensor]) -> Tensor:
        """Sums of two activations share relevance; shifting and scaling by constants pass it on."""
        first = args[0] if args else kwargs["input"]
        if len(followed) == 2:
            same = followed[0].shape == followed[1].shape
            if kind != "add" or not same or kwargs.get("alpha", 1) != 1:
                raise self._refusal(func, "combines two activations other than by adding maps of one size")
            parts = [part.detach().clone() for part in followed]  # a sum in place overwrites the first
            return self._enter(func, args, kwargs, followed, lambda: self._rules.add(parts))
        with torch.no_grad():
            keeps_shape = torch.broadcast_shapes(*(t.shape for t in _tensors((args, kwargs)))) == followed[0].shape
        if not keeps_shape or (kind in ("sub", "div") and first is not followed[0]):
            raise self._refusal(func)
        return self._enter(func, args, kwargs, followed, lambda: _one(_pass))

    def _named(self, func: Callable) -> str:
        """An operation and the module that runs it, found on the stack of calls."""
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and module in self._names:
                where = f"module {self._names[module]!r}" if self._names[module] else "the network"
                return f"{func.__name__.strip('_')} of {where} ({type(module).__name__})"
            frame = frame.f_back
        return func.__name__.strip("_")

    def _refusal(self, func: Callable, why: str = "has no rule") -> SuiteError:
        return SuiteError(
            f"{self._named(func)} {why}, so relevance cannot be passed back through it: {type(self._rules).__name__} "
            "takes convolutions, linear layers, batch normalisation, ReLU and ReLU6, pools, means, sums of two "
            "activations and what only moves values. Use a gradient or CAM method for this network."
        )


def _one(back: Back) -> Callable[[Tensor], tuple[Tensor]]:
    return lambda relevance: (back(relevance),)


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among the arguments of an operation, or among its results."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _ceiling(name: str, args: tuple, kwargs: dict) -> float | None:
    """The upper bound of a rectifier ``min(max(x, 0), bound)``; None if the call is none."""
    if name in ("relu", "relu6"):
        return math.inf if name == "relu" else 6.0
    defaults = {"min_val": -1.0, "max_val": 1.0} if name == "hardtanh" else {}
    bounds = defaults | dict(zip(RECTIFIERS[name], args[1:], strict=False)) | kwargs
    low, high = (bounds.get(key) for key in (*RECTIFIERS[name], "max")[:2])
    if isinstance(low, Tensor) and low.numel() == 1:
        low = float(low)
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low != 0:
        return None
    return math.inf if high is None else float(high)

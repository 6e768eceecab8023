"""Feature maps and gradients of a network's layers, taken by hooks that are always removed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Container, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from sise.choices import GradientScore
from sise.errors import SuiteError
from sise.torch_state import eager


def take_gradients(
    scalar: Tensor,
    tensors: Mapping[str, Tensor],
    *,
    unused: Container[str] = (),
    retain_graph: bool = False,
    create_graph: bool = False,
) -> dict[str, Tensor]:
    """Gradients of a scalar with respect to tensors, each refused where it would make a wrong map without a word.

    Args:
        scalar: Made of the network's scores.
        tensors: By the name of their place in the network, for messages.
        unused: Names of tensors that the scores need not depend on: their gradient is zero then.
        retain_graph: Keep the graph for further gradients.
        create_graph: Make the gradients ones that can be differentiated again, which keeps the graph, too.

    Returns:
        The gradients by the same names, in the same order.

    Raises:
        SuiteError: If the scores have no gradient there, or one that is NaN or infinite.
    """
    connected = {name: tensor for name, tensor in tensors.items() if scalar.requires_grad and tensor.requires_grad}
    found: dict[str, Tensor | None] = {}
    if connected:
        try:
            values = torch.autograd.grad(
                scalar,
                list(connected.values()),
                retain_graph=retain_graph or create_graph,
                create_graph=create_graph,
                allow_unused=True,
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # an operation in the network that has no gradient, or not in this way
            raise SuiteError(f"the network has no gradient that torch can compute: {error}") from error
        found = dict(zip(connected, values, strict=True))
    lacking = [name for name in tensors if found.get(name) is None and name not in unused]
    if lacking:
        cut = min(lacking, key=lambda name: tensors[name].requires_grad)  # where it was detached, rather than before
        raise SuiteError(
            f"the scores have no gradient with respect to {cut}: the network detaches something, runs in "
            "torch.no_grad(), or makes its scores without it (by argmax, a comparison or NumPy, say)."
        )
    gradients = {}
    for name, tensor in tensors.items():
        gradient = found.get(name)
        gradient = torch.zeros_like(tensor) if gradient is None else gradient
        check_gradient(gradient, name)
        gradients[name] = gradient
    return gradients


def check_gradient(gradient: Tensor, place: str) -> None:
    """Refuses gradients that are NaN or infinite: they would pass for "no positive gradient".

    Raises:
        SuiteError: If there are any.
    """
    if not torch.isfinite(gradient).all():
        bad = int((~torch.isfinite(gradient)).sum())
        raise SuiteError(
            f"the gradient of the scores with respect to {place} is NaN or infinite in {bad} of {gradient.numel()} "
            "places: look for square roots, logarithms or divisions of zero in the network."
        )


def place_of(layer: str | None) -> str:
    return "the image" if layer is None else repr(layer)


def differentiated(scores: Tensor, target: int, of: GradientScore) -> Tensor:
    """The scalar of (K,) scores whose gradient is taken (PROTOCOL M7)."""
    if of == "logit":
        return scores[target]
    if of == "softmax_f32":
        return scores.softmax(dim=0)[target]
    others = torch.cat([scores[:target], scores[target + 1 :]])
    return scores[target] - others.logsumexp(dim=0) if len(others) else scores[target]


@contextlib.contextmanager
def captured(network: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of named layers during a forward pass; hooks are gone afterwards, whatever happens.

    The network goes on with a copy, so that an in-place operation behind a layer does not overwrite what was captured.
    Only passes of the calling thread are looked at; other threads may score images with the network meanwhile.

    Raises:
        SuiteError: If a layer runs more than once in one pass, or puts out something else than (N, C, ...) maps.
    """
    maps: dict[str, Tensor] = {}
    modules = dict(network.named_modules())
    thread = threading.get_ident()

    def capture(name: str, output: object) -> Tensor | None:
        if threading.get_ident() != thread:
            return None
        if name in maps:
            raise SuiteError(
                f"layer {name!r} runs more than once in a forward pass, so its feature maps are ambiguous; "
                "name a module that runs once (its parent block, say)."
            )
        if not isinstance(output, Tensor) or output.ndim < 3:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise SuiteError(f"layer {name!r} puts out {shape}; a layer of feature maps (N, C, H, W) is needed.")
        maps[name] = output
        return output.clone()

    handles = [
        modules[name].register_forward_hook(lambda module, args, output, name=name: capture(name, output))
        for name in layers
    ]
    try:
        with eager():
            yield maps
    finally:
        for handle in handles:
            handle.remove()

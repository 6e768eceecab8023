"""The tutorial's training: small networks by plain SGD on the cross-entropy plus an L2 penalty on every kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sise.errors import SuiteError

__all__ = ["accuracy", "fit", "initialise"]

#: The course's penalty, λ of λ Σ w² over every kernel.
L2 = 5e-4


def initialise(network: nn.Module, seed: int) -> nn.Module:
    """The course's initial weights: convolutions Glorot uniform, the dense layer normal with s.d. 0.5, biases zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5)
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def fit(
    network: nn.Module,
    epochs: Iterable[int],
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    *,
    lr: float = 0.01,
    l2: float = L2,
    after: Callable[[int, float], Any] = lambda epoch, loss: None,
) -> None:
    """Trains by SGD without momentum on cross-entropy + ``l2`` Σ w² over kernels; biases are not penalised.

    Such a training has no state but the weights: it can be continued from them.

    Args:
        network: ``(N, ...) -> (N, K)`` scores; in evaluation mode afterwards.
        epochs: Numbers of the epochs to run.
        batches: ``epoch -> (inputs, classes)`` batches.
        lr: Learning rate.
        l2: See above.
        after: Called with the epoch and its mean cross-entropy, with the network in evaluation mode.

    Raises:
        SuiteError: If the loss is not finite.
    """
    kernels = [p for p in network.parameters() if p.ndim > 1]
    biases = [p for p in network.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": kernels, "weight_decay": 2 * l2}, {"params": biases}]
    optimiser = torch.optim.SGD(groups, lr)
    for epoch in epochs:
        network.train()
        total = seen = 0.0
        for inputs, classes in batches(epoch):
            loss = functional.cross_entropy(network(inputs), classes)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total, seen = total + float(loss.detach()) * len(classes), seen + len(classes)
        if not total / seen < float("inf"):
            raise SuiteError(f"the loss is {total / seen} in epoch {epoch + 1}; try a smaller training.lr (now {lr:g})")
        network.eval()
        after(epoch, total / seen)


def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[int, int]:
    """(right, all) over batches of (inputs, classes)."""
    right = count = 0
    with torch.no_grad():
        for inputs, classes in batches:
            right += int((network(inputs).argmax(dim=1) == classes).sum())
            count += len(classes)
    return right, count

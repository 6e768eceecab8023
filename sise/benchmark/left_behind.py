"""Notices what an explainer leaves changed, which its contract forbids, and sets it back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sise.types import SuiteError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class WeightsChanged(SuiteError):
    """The network is another one now: nothing that follows would be what it says."""


@contextmanager
def nothing_left_behind(network: nn.Module, explainer: str) -> Iterator[None]:
    """Sets back what the block changes of the network's state and of the process's seeds and modes.

    Args:
        network: The network that is explained.
        explainer: Its name, for the message.

    Raises:
        WeightsChanged: If the block wrote into a parameter, which is not kept twice and so cannot be set back.
        SuiteError: If it changed anything else; that is set back then.
    """
    state = _State(network)
    try:
        yield
    except Exception:
        state.set_back()
        state.check_weights(explainer)
        raise
    changed = state.set_back()
    state.check_weights(explainer)
    if changed:
        raise SuiteError(
            f"the explainer {explainer} left changed: {', '.join(changed)}. It is set back now, but the map is not "
            "used: an explainer must leave the network, torch's modes and all seeds as it found them (its own "
            "torch.Generator, network.eval() and hook.remove() in a `finally`)."
        )


class _State:
    """Modes, hooks, flags, gradients and running statistics of a network; seeds and modes of the process."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = list(network.modules())
        self.parameters = list(network.parameters())
        self.training = [module.training for module in self.modules]
        self.hooks = [[set(vars(module)[kind]) for kind in _HOOKS] for module in self.modules]
        self.flags = [parameter.requires_grad for parameter in self.parameters]
        self.gradients = [parameter.grad for parameter in self.parameters]
        self.versions = [_version(parameter) for parameter in self.parameters]
        norms = [module for module in self.modules if isinstance(module, _NormBase)]
        statistics = [buffer for module in norms for buffer in module.buffers(recurse=False)]
        self.statistics = [(buffer, buffer.clone()) for buffer in statistics]
        self.seeds = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self.modes = torch.is_grad_enabled(), torch.get_default_dtype()

    def set_back(self) -> list[str]:
        """Sets back what can be, and says what had to be."""
        found = {
            "training mode": self._set_modes(),
            "hooks": self._remove_hooks(),
            "requires_grad": self._set_flags(),
            "gradients of parameters": self._set_gradients(),
            "running statistics": self._set_statistics(),
            "random seeds": self._set_seeds(),
            "torch's gradient mode or default type": self._set_process(),
        }
        return [what for what, changed in found.items() if changed]

    def check_weights(self, explainer: str) -> None:
        """Raises WeightsChanged if a parameter was written to."""
        if self.versions != [_version(parameter) for parameter in self.parameters]:
            raise WeightsChanged(
                f"the explainer {explainer} changed the network's weights; nothing more is computed with them. Let it "
                "work on a copy of the network."
            )

    def _set_modes(self) -> bool:
        changed = [(m, was) for m, was in zip(self.modules, self.training, strict=True) if m.training != was]
        for module, was in changed:
            module.training = was
        return bool(changed)

    def _remove_hooks(self) -> bool:
        changed = False
        for module, kinds in zip(self.modules, self.hooks, strict=True):
            for kind, known in zip(_HOOKS, kinds, strict=True):
                hooks = vars(module)[kind]
                for new in set(hooks) - known:
                    del hooks[new]
                    changed = True
        return changed

    def _set_flags(self) -> bool:
        changed = [(p, was) for p, was in zip(self.parameters, self.flags, strict=True) if p.requires_grad != was]
        for parameter, was in changed:
            parameter.requires_grad_(was)
        return bool(changed)

    def _set_gradients(self) -> bool:
        changed = [(p, was) for p, was in zip(self.parameters, self.gradients, strict=True) if p.grad is not was]
        for parameter, was in changed:
            parameter.grad = was
        return bool(changed)

    @torch.no_grad()
    def _set_statistics(self) -> bool:
        # by content: batch normalisation updates them without counting it as a write
        changed = [(buffer, was) for buffer, was in self.statistics if not torch.equal(buffer, was)]
        for buffer, was in changed:
            buffer.copy_(was)
        return bool(changed)

    def _set_seeds(self) -> bool:
        ours, numpys, pythons = self.seeds
        now = np.random.get_state()
        same = torch.equal(ours, torch.get_rng_state()) and pythons == random.getstate()
        same = same and numpys[2:] == now[2:] and np.array_equal(numpys[1], now[1])
        if not same:
            torch.set_rng_state(ours)
            np.random.set_state(numpys)
            random.setstate(pythons)
        return not same

    def _set_process(self) -> bool:
        changed = self.modes != (torch.is_grad_enabled(), torch.get_default_dtype())
        torch.set_grad_enabled(self.modes[0])
        torch.set_default_dtype(self.modes[1])
        return changed


def _version(tensor: Tensor) -> int:
    """Counts what was written into a tensor; tensors made in inference mode don't count."""
    return 0 if tensor.is_inference() else tensor._version

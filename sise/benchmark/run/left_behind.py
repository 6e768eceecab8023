"""Notices what an explainer leaves changed, which its contract forbids, and sets it back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.torch_state import writes

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


MODES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default type": (torch.get_default_dtype, torch.set_default_dtype),
    "products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
}
"""What torch has once per process or thread and every later map would be made with: how it is read, and set."""


class WeightsChanged(SuiteError):
    """The network is another one now: nothing that follows would be what it says."""


@contextmanager
def nothing_left_behind(probe: Probe, explainer: str, *, closely: bool = False) -> Iterator[None]:
    """Sets back what the block changes of the network's state, the probe's and of the process's seeds and modes.

    Args:
        probe: One image and the network that is explained.
        explainer: Its name, for the message.
        closely: Looks at what the parameters hold, too: writing through ``parameter.data`` counts as no write. That
            takes as long as reading all weights twice.

    Raises:
        WeightsChanged: If the block wrote into a parameter, which is not kept twice and so cannot be set back.
        SuiteError: If it changed anything else; that is set back then.
    """
    state = _State(probe, closely)
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
            "torch.Generator, network.eval() and hook.remove() in a `finally`), and what the probe gives as it is "
            "(clone() before writing in place)."
        )


@contextmanager
def only_read(probe: Probe, saliency: Tensor, metrics: Iterable[str]) -> Iterator[None]:
    """Refuses metrics that write into the map they are given, or into what the probe gives them: the next would see it.

    Args:
        probe: One image as one network sees it.
        saliency: (T, H, W) maps that the metrics are given, one by one.
        metrics: Their names, for the message.

    Raises:
        SuiteError: If one did.
    """
    before = writes(saliency)
    yield
    written = ["the map"] if writes(saliency) != before else []
    written += [f"the probe's {what}" for what in probe.written()]
    if written:
        probe.forget()
        raise SuiteError(
            f"one of the metrics {', '.join(metrics)} wrote into {', '.join(written)}, which the others read too: let "
            "it work on a clone()."
        )


class _State:
    """Modes, hooks, flags, gradients and running statistics of a network; seeds and modes of the process."""

    def __init__(self, probe: Probe, closely: bool) -> None:
        network = probe.network
        self.probe, self.closely = probe, closely
        self.modules = list(network.modules())
        self.parameters = list(network.parameters())
        self.training = [module.training for module in self.modules]
        self.hooks = [[set(vars(module)[kind]) for kind in _HOOKS] for module in self.modules]
        self.flags = [parameter.requires_grad for parameter in self.parameters]
        self.gradients = [parameter.grad for parameter in self.parameters]
        self.weights = [_weight(parameter, closely) for parameter in self.parameters]
        self.children = [dict(module._modules) for module in self.modules]
        self.settings = [_settings(module) for module in self.modules]
        norms = [module for module in self.modules if isinstance(module, _NormBase)]
        statistics = [buffer for module in norms for buffer in module.buffers(recurse=False)]
        self.statistics = [(buffer, buffer.clone()) for buffer in statistics]
        self.seeds = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
        self.modes = {name: read() for name, (read, _) in MODES.items()}

    def set_back(self) -> list[str]:
        """Sets back what can be, and says what had to be."""
        found = {
            "modules": self._set_children(),
            "settings of modules": self._set_settings(),
            "training mode": self._set_modes(),
            "hooks": self._remove_hooks(),
            "requires_grad": self._set_flags(),
            "gradients of parameters": self._set_gradients(),
            "running statistics": self._set_statistics(),
            "random seeds": self._set_seeds(),
            "torch's gradient mode, default type or precision": self._set_process(),
        }
        written = self.probe.written()
        if written:
            self.probe.forget()
        return [what for what, changed in found.items() if changed] + [f"the probe's {what}" for what in written]

    def check_weights(self, explainer: str) -> None:
        """Raises WeightsChanged if a parameter was written to."""
        if self.weights != [_weight(parameter, self.closely) for parameter in self.parameters]:
            raise WeightsChanged(
                f"the explainer {explainer} changed the network's weights; nothing more is computed with them. Let it "
                "work on a copy of the network."
            )

    def _set_children(self) -> bool:
        changed = False
        for module, was in zip(self.modules, self.children, strict=True):
            now = module._modules
            if list(now) != list(was) or any(now[name] is not child for name, child in was.items()):
                now.clear()
                now.update(was)
                changed = True
        return changed

    def _set_settings(self) -> bool:
        changed = False
        for module, was in zip(self.modules, self.settings, strict=True):
            now = _settings(module)
            if now != was:
                for name in now.keys() - was.keys():
                    del vars(module)[name]
                vars(module).update(was)
                changed = True
        return changed

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
        now = np.random.get_state(legacy=False)
        same = torch.equal(ours, torch.get_rng_state()) and pythons == random.getstate()
        same = same and all(numpys[key] == now[key] for key in ("has_gauss", "gauss"))
        same = same and numpys["state"]["pos"] == now["state"]["pos"]
        same = same and np.array_equal(numpys["state"]["key"], now["state"]["key"])
        if not same:
            torch.set_rng_state(ours)
            np.random.set_state(numpys)
            random.setstate(pythons)
        return not same

    def _set_process(self) -> bool:
        changed = [name for name, (read, _) in MODES.items() if read() != self.modes[name]]
        for name in changed:
            MODES[name][1](self.modes[name])
        return bool(changed)


def _weight(parameter: Tensor, closely: bool) -> tuple[Any, ...]:
    """Tells a parameter from one that was written to, or whose ``data`` is another tensor.

    ``closely`` adds a sum: what an optimiser adds or what is drawn at random changes it.
    """
    total = float(parameter.detach().sum(dtype=torch.float64)) if closely and parameter.numel() else 0.0
    return writes(parameter), parameter.data_ptr(), parameter.dtype, tuple(parameter.shape), total


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module holds as plain values; of the user's own only ``forward``: its passes may count or keep things."""
    values = vars(module)
    if not type(module).__module__.startswith("torch.nn."):
        return {name: values[name] for name in ("forward",) if name in values}
    plain = bool | int | float | str | tuple | None
    kept = {name: value for name, value in values.items() if name == "forward" or isinstance(value, plain)}
    return {name: value for name, value in kept.items() if name != "training"}

"""Whether explainers, metrics, data sets and networks take what they are given, known before the first image."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, cast

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sise.errors import SuiteError, choose
from sise.ranges import Range

LIMITS: Mapping[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "max_iter": (1, 1_000_000),
    # a side as a multiple of the image's, or a Gaussian's width: memory grows with its square
    "scales": (0.1, 10),
    "enlarge": (0.1, 10),
    "crop": (0.01, 1),
    "smooth": (0, 1),
    "sigma": (0, 500),
    "max_blur": (0, 500),
    # pixels
    "Preprocessing.size": (1, 8192),
    "Preprocessing.resize": (1, 8192),
    "extremal_perturbation.step": (1, 1000),
    # cells along a side, or segments
    "cells": (1, 1000),
    "patches": (1, 1000),
    "n_segments": (2, 1000),
    # held in memory at once, a megabyte and more each
    "n": (1, 10_000),
    "samples": (1, 10_000),
    "steps": (1, 10_000),
    "num_levels": (2, 100),
    # the quadrature's rule takes a time that grows with its cube
    "integrated_gradients.n_steps": (2, 5000),
    # of data sets whose images are drawn here
    "GridScenes.cells": (2, 10),
    "network.cells": (2, 10),
    "GridScenes.count": (1, 100_000),
    "Hans.marked": (0, 100_000),
    "Hans.others": (0, 100_000),
    "Shapes.test": (1, 300_000),
}
"""What is asked of an image, in numbers that a machine can hold, by the setting's name; of one function or class alone
as ``<its name>.<setting>``. It stands here and not in the annotations since it says nothing of the method: to move it
makes no record stale."""
MOST = 1_000_000
"""Of all other whole numbers."""


def check_arguments(what: str, function: Callable[..., Any], given: int) -> None:
    """Whether a function takes ``given`` arguments besides those its settings bind.

    Raises:
        SuiteError: If not.
    """
    partial = function if isinstance(function, functools.partial) else functools.partial(function)
    try:
        signature = inspect.signature(partial.func)
    except ValueError:  # of a function of C
        return
    try:
        signature.bind(*partial.args, *[None] * given, **partial.keywords)
    except TypeError as error:
        raise SuiteError(f"{what}: {error}; it takes {', '.join(signature.parameters)}") from error
    for name, value in partial.keywords.items():
        _check(what, partial.func, name, value)


def check_loader(what: str, node: DictConfig) -> None:
    """Whether what makes a data set or a network takes the settings that it is given.

    Args:
        what: Whose settings they are.
        node: With ``_target_``; what cannot be found or resolved is left to who calls it.

    Raises:
        SuiteError: If a setting has another type than is declared.
    """
    try:
        settings = cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
        _check_target(what, settings)
    except (ImportError, ValueError, OmegaConfBaseException):
        return


def _check_target(what: str, settings: Mapping[str, Any]) -> None:
    """Checks what a ``_target_`` is given, and what those among it are given."""
    target = get_object(settings["_target_"])
    for name, value in settings.items():
        if isinstance(value, dict) and "_target_" in value:
            _check_target(f"{what}.{name}", value)
        elif not name.startswith("_") and not isinstance(value, dict):
            _check(what, vars(target).get("__init__", target), name, value)


def _check(what: str, function: Callable[..., Any], name: str, value: object) -> None:
    kind = _annotation(function, name)
    if isinstance(value, str) and (names := _names(kind)):
        choose(f"{name} of {what}", value, names)
    if not _fits(value, kind):
        raise SuiteError(f"{what}: expected {name} to be {_in_words(kind)}; got {name}={value!r}")
    limit, numbers = _limit(function, name), value if _is_list(value) else [value]
    if kind is not Any and not all(limit.holds(n) for n in cast("Sequence", numbers) if _is_number(n)):
        raise SuiteError(
            f"{what}: expected {name} {limit.words}: with others an image takes more memory or time than there is, or "
            f"nothing is left of it; got {name}={value!r}"
        )


def _limit(function: Callable[..., Any], name: str) -> Range:
    """What a number may be whatever its declared range; all of those that are not whole, unless :data:`LIMITS` says."""
    owner = function.__qualname__.removesuffix(".__init__")
    if found := LIMITS.get(f"{owner}.{name}", LIMITS.get(name)):
        least, most = found
        return Range(f"from {least} to {most}", lambda value: least <= value <= most)
    return Range(f"up to {MOST}", lambda value: not isinstance(value, int) or value <= MOST)


def _is_list(value: object) -> bool:
    return isinstance(value, collections.abc.Sequence) and not isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _annotation(function: Callable[..., Any], name: str) -> Any:
    """The type, and the range, that a function of the suite declares of an argument; Any where it is not known."""
    declared = getattr(function, "__annotations__", {}).get(name, Any)
    if not getattr(function, "__module__", "").startswith("sise."):
        return Any  # what a user's hints mean is the user's
    held = types.SimpleNamespace(__annotations__={name: declared})
    try:
        return typing.get_type_hints(held, vars(sys.modules[function.__module__]), include_extras=True)[name]
    except NameError:  # imported for type checkers only
        return Any


def _fits(value: Any, kind: Any) -> bool:
    """Whether a setting is of a declared type and in its range; True of types that settings do not have."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is Annotated:
        return _fits(value, inner[0]) and all(inside.holds(value) for inside in inner[1:])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if typing.get_origin(kind) is typing.Literal:
        return value in inner
    if kind in (None, type(None)):
        return value is None
    if kind in (int, float, bool, str):
        accepted = {int: int, float: int | float, bool: bool, str: str}[kind]
        return isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)) and _finite(value)
    if typing.get_origin(kind) is collections.abc.Sequence:
        return _is_list(value) and all(_fits(one, inner[0]) for one in value)
    return True


def _names(kind: Any) -> Sequence[str]:
    """What a setting of names may be; nothing of others."""
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)
    ranges = getattr(kind, "__metadata__", ())
    return next((inside.names for inside in ranges if inside.names), ())


def _finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        return " ".join([_in_words(kind.__origin__), *(inside.words for inside in kind.__metadata__)])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " | ".join(_in_words(one) for one in typing.get_args(kind))
    if kind is type(None):
        return "null"
    return (
        kind.__name__
        if isinstance(kind, type) and not typing.get_args(kind)
        else str(kind).replace("collections.abc.", "")
    )

"""Whether explainers and metrics take what the settings give them, known before the first image."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from sise.errors import SuiteError


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
        kind = _annotation(partial.func, name)
        if not _fits(value, kind):
            raise SuiteError(f"{what}: expected {name} to be {_in_words(kind)}; got {name}={value!r}")


def _annotation(function: Callable[..., Any], name: str) -> Any:
    """The type that a function of the suite declares of an argument; Any where it is not known."""
    declared = getattr(function, "__annotations__", {}).get(name, Any)
    if not getattr(function, "__module__", "").startswith("sise."):
        return Any  # what a user's hints mean is the user's
    held = types.SimpleNamespace(__annotations__={name: declared})
    try:
        return typing.get_type_hints(held, vars(sys.modules[function.__module__]))[name]
    except NameError:  # imported for type checkers only
        return Any


def _fits(value: Any, kind: Any) -> bool:
    """Whether a setting is of a declared type; True of types that settings do not have."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if typing.get_origin(kind) is typing.Literal:
        return value in inner
    if kind in (None, type(None)):
        return value is None
    if kind in (int, float, bool, str):
        accepted = {int: int, float: int | float, bool: bool, str: str}[kind]
        return isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)) and value == value
    if typing.get_origin(kind) is collections.abc.Sequence:
        listed = isinstance(value, collections.abc.Sequence) and not isinstance(value, str)
        return listed and all(_fits(one, inner[0]) for one in value)
    return True


def _in_words(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("collections.abc.", "")

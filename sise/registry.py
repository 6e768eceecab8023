"""The explainers by name: SISE, Ada-SISE, and every file of ``baselines``."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from sise.errors import choose
from sise.extras import MissingExtra, how_to_install

UNASKED = ("bilrp", "d_rise", "ground_truth")
"""What explains no class of an image, but two images or a detection; and what needs an annotation."""


@functools.cache
def explainers() -> tuple[str, ...]:
    """The names that :func:`sise.explain` takes, in alphabetical order.

    A file of ``baselines`` holds an explainer if it defines a function of its own name. It is read, not imported:
    some load packages that take seconds.

    Example:
        >>> import sise
        >>> "grad_cam" in sise.explainers() and "sise" in sise.explainers()
        True
    """
    spec = importlib.util.find_spec("sise.baselines")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    names = [module.name for module in pkgutil.iter_modules(folders) if _defines(folders, module.name)]
    return tuple(sorted({"sise", "ada_sise", *names} - {*UNASKED}))


def explainer_of(name: str) -> Callable[..., Tensor]:
    """The explainer of a name.

    Raises:
        UnknownName: With the nearest, if there is none of this name.
        MissingExtra: If it is another package's that is not installed.
    """
    choose("explainer", name, explainers())
    module = "sise.method" if name in ("sise", "ada_sise") else f"sise.baselines.{name}"
    try:
        function: Callable[..., Tensor] = vars(importlib.import_module(module))[name]
    except ModuleNotFoundError as error:
        how = how_to_install("bench")
        raise MissingExtra(f"explainer {name} needs {error.name}, which is not installed: {how}") from error
    return function


def _defines(folders: list[str], name: str) -> bool:
    """Whether the module has a function of its own name."""
    files = [Path(folder) / f"{name}.py" for folder in folders]
    return any(f"\ndef {name}(" in file.read_text(encoding="utf-8") for file in files if file.is_file())

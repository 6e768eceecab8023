"""Nested settings as dotted names, so that two of them can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OWN_CODE = re.compile(r"(?:sise|baselines|metrics)(?:\.\w+)*\.(\w+)")
"""A function or class of the suite by its dotted name; older versions had two of its packages at the top."""


def flat(node: Any, key: str = "") -> dict[str, Any]:
    """Returns ``{dotted key: value}`` of nested mappings; lists are values, and an empty mapping is one."""
    if not isinstance(node, Mapping) or not node:
        return {key: node}
    return {k: v for name, child in node.items() for k, v in flat(child, f"{key}.{name}".lstrip(".")).items()}


def placeless(node: Any) -> dict[str, Any]:
    """Returns :func:`flat` settings in which the suite's own code is named without its module.

    Where code lies in the suite is no setting: a function that moves is still the same one. Whether it still does the
    same is told by the hash of its source, see :mod:`sise.benchmark.records.code_version`. Names of the user's own
    code stay whole.
    """
    return {key: _placeless(key, value) for key, value in flat(node).items()}


def _placeless(key: str, value: Any) -> Any:
    if isinstance(value, str) and key.rpartition(".")[2] == "_target_" and (own := OWN_CODE.fullmatch(value)):
        return own[1]
    return value

"""What the YAML files may say that users write, by name and type; the schema of tables is in their own wing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from sise.errors import SuiteError, choose


@dataclass
class Budget:
    """What an explainer's cost is made of: a setting below ``call``, the unit it counts, the paper's value."""

    setting: str = MISSING
    unit: str = MISSING
    paper: Any = MISSING


@dataclass
class Explainer:
    """``configs/explainer/**/*.yaml``; ``inner`` is the explainer that one of another's maps is given."""

    name: str = MISSING
    call: dict[str, Any] = MISSING
    label: str = ""
    stochastic: bool = False
    expensive: bool = False
    control: bool = False
    by_layer: bool = False
    inner: dict[str, Any] | None = None
    budget: Budget | None = None
    spread: dict[str, float] = field(default_factory=dict)


@dataclass
class Dataset:
    """``configs/dataset/*.yaml``."""

    name: str = MISSING
    loader: dict[str, Any] = MISSING
    networks: str = MISSING
    budget: str = MISSING
    root: str | None = None
    own_model: str | None = None
    masks: bool = True
    published: str | None = None
    stand_in: bool = False


def check(schema: type, settings: Mapping[str, Any] | DictConfig, what: str) -> None:
    """Whether settings are those of a schema.

    Args:
        schema: A dataclass; its fields are the names and the types.
        settings: As read; what stands for another setting (``${...}``) is not looked up.
        what: What they are of, such as ``explainer``.

    Raises:
        SuiteError: If one is unknown, missing or of another type.
    """
    known = {f.name: f for f in dataclasses.fields(schema)}
    given = settings if isinstance(settings, DictConfig) else OmegaConf.create(dict(settings))
    for key in map(str, given):
        choose(f"setting of {what}", key, list(known))
        try:
            merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create({key: given._get_node(key)}))
        except ConfigKeyError as error:
            inside = [f.name for f in dataclasses.fields(cast(type, error.object_type))]
            choose(f"setting of {what}.{key}", str(error.key), inside)
            raise
        except OmegaConfBaseException as error:
            raise SuiteError(f"{what}.{key}: {str(error).splitlines()[0]}") from error
        if lacking := [name for name in _missing(merged, "") if name.startswith(key)]:
            raise SuiteError(f"{what}: expected {', '.join(lacking)} as well")
    if needed := [name for name, f in known.items() if f.default is MISSING and name not in given]:
        raise SuiteError(f"{what}: expected {', '.join(needed)} as well; got {', '.join(map(str, given)) or 'nothing'}")


def _missing(node: Any, name: str) -> Iterator[str]:
    """Where a setting is missing that a dataclass wants; nothing is looked up."""
    if not OmegaConf.is_config(node) or node._is_none() or node._is_missing():
        return
    keys = range(len(node)) if OmegaConf.is_list(node) else list(node)
    for key in keys:
        here = f"{name}[{key}]" if OmegaConf.is_list(node) else f"{name}.{key}".lstrip(".")
        if dataclasses.is_dataclass(OmegaConf.get_type(node)) and OmegaConf.is_missing(node, key):
            yield here
        else:
            yield from _missing(node._get_node(key), here)

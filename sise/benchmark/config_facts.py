"""What the configurations say of explainers and networks, for tables and figures: the one place for each such fact."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from sise.benchmark.places import CONFIGS
from sise.errors import SuiteError


@functools.cache
def _group(name: str) -> Mapping[str, DictConfig]:
    """The files of a configuration group by name, as they stand there."""
    found = {}
    for file in sorted((CONFIGS / name).glob("*.yaml")):
        config = OmegaConf.load(file)
        if not isinstance(config, DictConfig):
            raise SuiteError(f"{file}: expected settings, key: value, got a list; see its neighbours for the form.")
        found[file.stem] = config
    return found


def controls() -> tuple[str, ...]:
    """The explainers that ignore the network (``control: true``): compared with, but no rivals, so never the best."""
    return tuple(name for name, config in _group("explainer").items() if config.get("control"))


def spreads() -> Mapping[str, Mapping[str, float]]:
    """What rounding makes of an explainer's pair from machine to machine (``spread:``): s.d. in points, by metric."""
    return {name: config.spread for name, config in _group("explainer").items() if "spread" in config}


def published_tables() -> Mapping[str, str]:
    """The papers' data sets, and the table of the papers with the numbers of each (``published:``)."""
    return {name: config.published for name, config in _group("dataset").items() if "published" in config}


def stand_ins() -> tuple[str, ...]:
    """The data sets that stand in for the papers' (``stand_in: true``)."""
    return tuple(name for name, config in _group("dataset").items() if config.get("stand_in"))


def network_labels() -> Mapping[str, str]:
    """How tables and figures call a network (``label:``), by its name in runs."""
    return {config.name: config.label for config in _group("model").values() if "label" in config}

"""An experiment's cells, composed by Hydra; what is shipped, and what departs from it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict

from sise.benchmark.places import CONFIGS
from sise.benchmark.records.departures import SEEDS, departures, identity_config
from sise.benchmark.records.flat import flat
from sise.benchmark.run.command_line import parsed
from sise.benchmark.run.configs import GROUPS
from sise.benchmark.run.settings import check_settings, set_fast
from sise.errors import SuiteError, choose

NO_DEPARTURE = ("outputs", "shard", "only", "limit", "variant", "device", "overwrite", "dry_run", "estimate",
                "maps.keep", "maps.leave_free")  # fmt: skip
"""Settings that a run's numbers do not depend on."""
MOST_SEEDS = 1000
"""Of an explainer: each is a run of its own."""


def compose_cells(
    cfg: DictConfig, overrides: Sequence[str], config_name: str = "evaluate", first: int | None = None
) -> list[DictConfig]:
    """One configuration per cell: the experiment's models × cells, or the one given.

    A model or explainer chosen on the command line narrows the experiment to it; every other override applies to all
    cells.

    Args:
        cfg: The configuration composed from the command line.
        overrides: The command line's overrides.
        config_name: The root configuration.
        first: Only so many of them are composed; all if None.

    Raises:
        SuiteError: If the experiment has no cell left.
    """
    experiment = OmegaConf.select(cfg, "experiment")
    if not experiment:
        return _only(cfg, [_with_departures(cfg, config_name, overrides)])
    chosen = dict(o.split("=", 1) for o in overrides if "=" in o)
    general = [o for o in overrides if o.split("=", 1)[0] not in ("model", "explainer")]
    cells = [cell for c in experiment.cells for cell in _seeds(dict(c))]
    if "explainer" in chosen:
        choose("explainer of this experiment", chosen["explainer"], sorted({c["explainer"] for c in cells}))
        cells = [c for c in cells if c["explainer"] == chosen["explainer"]]
    if "protocol" in chosen:
        cells = [c for c in cells if c.get("protocol", "paper") == chosen["protocol"]]
    cells = _by_model(cells, list(experiment.models), chosen.get("model"))
    if not cells:
        narrowed = " ".join(f"{key}={chosen[key]}" for key in ("protocol", "explainer", "model") if key in chosen)
        raise SuiteError(f"experiment={experiment.name} has no cell with {narrowed}.")
    configs, shipped = [], _Shipped(config_name)
    for cell in cells[:first]:
        of_cell = [*general, *(f"{k}={v}" for k, v in cell.items())]
        configs.append(_of_cell(shipped, of_cell))
        check_settings(configs[-1], config_name)
    return _only(cfg, configs)


class _Shipped:
    """Compositions of presets alone. Hydra takes a third of a second for each, so that few are made.

    Cells of an experiment are models × explainers. A model's settings are taken to be the same beside every explainer
    where choosing it changes nothing else, and the explainer nothing of it: then each is composed once, not each pair.

    Args:
        config_name: The root configuration.
    """

    def __init__(self, config_name: str) -> None:
        self.config_name = config_name
        self._made: dict[tuple[str | None, tuple[str, ...]], DictConfig] = {}  # by the model, and by the other presets
        self._alone: dict[tuple[str | None, tuple[str, ...]], bool] = {}

    def compose(self, presets: Sequence[str]) -> DictConfig:
        """A composition that others may share: take a copy to change it."""
        model = next((o for o in reversed(presets) if o.startswith("model=")), None)
        others = tuple(o for o in presets if not o.startswith("model="))
        if (model, others) not in self._made:
            found = self._put_together(model, others)
            self._made[model, others] = compose(self.config_name, list(presets)) if found is None else found
        return self._made[model, others]

    def _put_together(self, model: str | None, others: tuple[str, ...]) -> DictConfig | None:
        """The same of two compositions that were made before; None where these do not tell."""
        if not self._made or model is None:
            return None
        (first_model, first_others), first = next(iter(self._made.items()))
        beside, with_model = self._made.get((first_model, others)), self._made.get((model, first_others))
        if beside is None or with_model is None:
            return None
        for key, changes_the_rest in (((model, first_others), False), ((first_model, others), True)):
            if key not in self._alone:
                self._alone[key] = self._alike(self._made[key], first, of_model=changes_the_rest)
        if not (self._alone[model, first_others] and self._alone[first_model, others]):
            return None
        found = copy.deepcopy(beside)
        found.model = with_model.model
        return found

    @staticmethod
    def _alike(one: DictConfig, other: DictConfig, *, of_model: bool) -> bool:
        """Whether two compositions have the same settings of the model, or the same others, in the same order."""
        both = [cast("dict[str, Any]", OmegaConf.to_container(cfg)) for cfg in (one, other)]
        kept = [{key: value for key, value in cfg.items() if (key == "model") == of_model} for cfg in both]
        return repr(kept[0]) == repr(kept[1])


def _of_cell(shipped: _Shipped, overrides: Sequence[str]) -> DictConfig:
    """A cell's configuration with its departures: presets as they are shipped, then the other overrides."""
    name = shipped.config_name
    rest = parsed([o for o in overrides if o.split("=", 1)[0] not in GROUPS])
    if any(o.package or not _is_setting(o) for o in rest):
        return _with_departures(compose(name, list(overrides)), name, overrides)
    presets = shipped.compose([o for o in overrides if o.split("=", 1)[0] in GROUPS])
    cfg = copy.deepcopy(presets)
    for override in rest:
        OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
    return _with_departures(cfg, name, overrides, presets)


def _is_setting(override: Override) -> bool:
    """Whether an override sets what is there, and chooses, adds and deletes nothing."""
    key = override.key_or_group
    return override.type is OverrideType.CHANGE and "/" not in key and not key.startswith("hydra")


def _by_model(cells: Sequence[dict], models: Sequence[str], chosen: str | None) -> list[dict]:
    """A cell per model, or the one that is ``chosen``; a cell that names its own ``model`` is run with that alone."""
    own = [cell for cell in cells if "model" in cell and chosen in (None, cell["model"])]
    rest = [cell for cell in cells if "model" not in cell]
    if chosen is not None:
        models = [] if own else [chosen]
    return [{"model": model, **cell} for model in models for cell in rest] + own


def _seeds(cell: dict) -> list[dict]:
    """A cell with ``seeds: 3`` is three cells, of the seeds 0, 1 and 2.

    Raises:
        SuiteError: If there is not a number of them.
    """
    count = cell.pop("seeds", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_SEEDS:
        raise SuiteError(
            f"explainer={cell['explainer']}: expected seeds to be a whole number from 1 to {MOST_SEEDS}; got {count}"
        )
    return [cell, *({**cell, "seed": seed} for seed in range(1, count))]


def _only(cfg: DictConfig, configs: list[DictConfig]) -> list[DictConfig]:
    """The cells that ``only`` names, or all."""
    from sise.benchmark.run.cells import name_of  # here and below: a command's --help must not wait for torch

    if not cfg.get("only"):
        return configs
    names = {name_of(config): config for config in configs}
    return [names[choose("cell in `only`", name, list(names))] for name in cfg.only]


def _with_departures(
    cfg: DictConfig, config_name: str, overrides: Sequence[str], shipped: DictConfig | None = None
) -> DictConfig:
    """Keeps in ``departures`` what single overrides changed in the presets, so that tables can say so.

    Args:
        cfg: Composed.
        config_name: Its root configuration.
        overrides: Of the composition.
        shipped: The composition of the presets among them; made if it is not given.
    """
    set_fast(cfg)
    presets = [o for o in overrides if o.split("=", 1)[0].partition("@")[0] in GROUPS]  # explainer@explainer.inner
    if all(o in presets or o.split("=", 1)[0] in NO_DEPARTURE for o in overrides):
        return cfg
    shipped = compose(config_name, presets) if shipped is None else shipped
    open_keys = [key for key, value in flat(OmegaConf.to_container(shipped)).items() if value == "???"]
    if open_keys:  # nothing is shipped there, so whatever it is set to departs from nothing
        shipped = copy.deepcopy(shipped)
        for key in open_keys:
            OmegaConf.update(shipped, key, OmegaConf.select(cfg, key))
    found = departures(identity_config(cfg), identity_config(shipped), ignored=SEEDS)
    with open_dict(cfg):
        cfg.departures = [asdict(departure) for departure in found]
    return cfg


@functools.cache
def _shipped_cells(experiment: str, dataset: str | None, model: str) -> list[DictConfig]:
    """The cells of an experiment as it is shipped, on a dataset; none if there is no such experiment.

    Only those of ``model``, if that is also the name of its settings: an experiment may have a hundred cells.
    """
    if not (CONFIGS / f"experiment/{experiment}.yaml").exists():
        return []
    words = [f"experiment={experiment}", *([f"dataset={dataset}"] if dataset else [])]
    words += [f"model={model}"] if (CONFIGS / f"model/{model}.yaml").exists() else []
    with ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():
            stack.enter_context(initialize_config_dir(str(CONFIGS), version_base="1.3"))
        return compose_cells(compose("evaluate", words), words)


def shipped_configs(definition: Mapping[str, Any], model: str) -> dict[tuple[str, str, int | None], dict[str, Any]]:
    """What is shipped for the cells of a table: a ``Shipped`` of :mod:`sise.benchmark.tables.build`.

    Args:
        definition: The table's; its experiment has its name if it says no other, its first dataset is the paper's.
        model: The model's name.

    Returns:
        Configurations, as runs keep them, by (explainer, variant, seed); the seed of those that draw nothing is None.
    """
    experiment = definition.get("experiment") or definition["name"]
    cells = _shipped_cells(experiment, next(iter(definition.get("datasets") or ()), None), model)
    return {
        (cell.explainer.name, cell.variant, cell.seed if cell.explainer.stochastic else None): identity_config(cell)
        for cell in cells
        if cell.model.name == model
    }

"""Table definitions, ``configs/table/<name>.yaml``: read, and what one says of one dataset and of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from sise.benchmark import schemas
from sise.benchmark.metric_facts import COSTS
from sise.benchmark.tables.runs import method_of, metrics_of
from sise.benchmark.tables.table import Column, Run

Named = Mapping[str, set[tuple[str, str]]]
"""By a definition's name, (explainer, variant) of its columns."""


@dataclass
class Reference:
    """The column that all others are compared with."""

    explainer: str = MISSING
    variant: str = MISSING


@dataclass
class Definition:
    """``configs/table/*.yaml``: the names and types of what it may say; docs/extending.md has an example."""

    name: str = MISSING
    title: str = MISSING
    published: str | None = None
    experiment: str | None = None
    datasets: list[str] | None = None
    published_datasets: list[str] | None = None
    models: Any = None  # a list, or one by dataset
    published_models: dict[str, str] | None = None
    metrics: list[str] | None = None
    published_metrics: dict[str, str] | None = None
    average: str | None = None
    published_average: str | None = None
    extras: bool = False
    unrun: bool = False
    strata: bool = False
    layout: str | None = None
    needs: list[str] | None = None
    notes: list[str] | None = None
    reference: Reference | None = None
    columns: list[Column] | None = None


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The definitions in a folder by name, each with what it takes from those that its ``defaults`` name, as by Hydra.

    Args:
        folder: ``configs/table``.
    """
    files = {file.stem: cast(DictConfig, OmegaConf.load(file)) for file in sorted(folder.glob("*.yaml"))}

    def whole(name: str) -> DictConfig:
        above = [whole(other) for other in files[name].get("defaults", ())]
        own = {key: value for key, value in files[name].items() if key != "defaults"}
        return cast(DictConfig, OmegaConf.merge(*above, own))

    return {name: cast("dict[str, Any]", OmegaConf.to_container(whole(name))) for name in files}


def check(definitions: Mapping[str, Mapping[str, Any]]) -> None:
    """Whether definitions say only what tables read.

    Raises:
        SuiteError: If not; the message names the table and the setting.
    """
    for name, definition in definitions.items():
        schemas.check(Definition, definition, f"table {name}")


def of_dataset(definition: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """A table's definition as it is for one dataset.

    Args:
        definition: Its paper may have numbers of several datasets, ``published_datasets``; ``models`` may be given by
            dataset.
        dataset: The dataset.

    Returns:
        The definition with the models of the dataset, and the dataset first if the paper has numbers of it.
    """
    found = dict(definition)
    if isinstance(definition.get("models"), Mapping):
        found["models"] = definition["models"].get(dataset, [])
    if dataset in (definition.get("published_datasets") or ()):
        found["datasets"] = [dataset, *(name for name in definition["datasets"] if name != dataset)]
    return found


def own_models(definition: Mapping[str, Any]) -> set[str]:
    """Models that columns name for themselves."""
    return {column["model"] for column in definition.get("columns") or () if column.get("model")}


def has_model(definition: Mapping[str, Any], dataset: str, model: str) -> bool:
    """Whether runs of a model on a dataset may be in a table."""
    models = of_dataset(definition, dataset).get("models")
    return models is None or model in {*models, *own_models(definition)}


def named_in(definitions: Mapping[str, Mapping[str, Any]]) -> Named:
    """The columns of all tables."""
    return {
        name: {(column["explainer"], column["variant"]) for column in definition.get("columns") or ()}
        for name, definition in definitions.items()
    }


def shows(name: str, definition: Mapping[str, Any], run: Run, named: Named) -> bool:
    """Whether a run is in a table: in a column or, where no other table names it, as an extra.

    Of a table that no paper has it needs at least half of the metrics: else it is a run of another experiment.
    """
    if not (definition.get("published") or _measures(definition, run)):
        return False
    if method_of(run) in named[name]:
        return True
    others = set().union(*(keys for other, keys in named.items() if other != name))
    return bool(definition.get("extras")) and (run.variant == run.identity["protocol"] or method_of(run) not in others)


def _measures(definition: Mapping[str, Any], run: Run) -> bool:
    """Whether a run has at least half of a table's metrics."""
    metrics = [metric for metric in definition.get("metrics") or () if metric not in COSTS]
    held = metrics_of([run])
    return 2 * sum(metric in held for metric in metrics) >= len(metrics)

"""In what a run differs from what is shipped and from what its paper spent: facts, put into words where they are shown.

A run keeps them in ``run.json``. A table compares each run with the composition of its own experiment once more: a run
counts for a published number only if nothing differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from sise.benchmark.records.flat import placeless
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.metric_sets import of_another_metric
from sise.errors import SuiteError

FORMAT = 2
"""Of run.json. Folders of format 1 had these facts as sentences and the seed inside the variant's name."""
GROUPS = ("dataset", "model", "explainer", "protocol", "metrics")
ALWAYS = ("dataset", "model", "explainer", "variant", "protocol", "label", "expected_pairs")
"""What run.json says in every format."""
NOT_IDENTITY = ("dataset.root", "dataset.loader.root", "dataset.loader.index", "dataset.masks", "dataset.own_model",
                "dataset.published", "dataset.stand_in", "model.root", "model.own_dataset", "model.weights",
                "model.loader.weights", "model.label",
                "explainer.spread", "explainer.control", "explainer.expensive", "explainer.by_layer")  # fmt: skip
"""Settings that are no part of what a run is: where files lie (hashes say what they are), ``dataset.masks``, which says
what the dataset has anyway, which dataset and network belong together, and what tables read
(:mod:`sise.benchmark.config_facts`). Elsewhere the same words may mean anything, as an explainer's ``weights``."""
SEEDS = ("explainer.call.seed",)
"""Settings in which the seeds of one column differ."""
WORDS = ("explainer.label", "protocol.description")
"""Settings that are shown and change nothing."""


@dataclass(frozen=True)
class Departure:
    """A setting that is not as shipped.

    Attributes:
        key: Dotted, as on the command line.
        value: What the run has; None if it lacks the setting.
        shipped: What the composition without the change has; None if it lacks the setting.
    """

    key: str
    value: Any
    shipped: Any

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.key} left out" if self.shipped is not None else self.key
        return f"{self.key}={self.value}"


@dataclass(frozen=True)
class Budget:
    """How much an explainer was given, and how much the paper gave it.

    Attributes:
        setting: The name of the setting in the explainer's call, or "seeds".
        unit: What is counted.
        value: The run's.
        paper: The paper's.
    """

    setting: str
    unit: str
    value: int
    paper: int

    def __str__(self) -> str:
        unit = self.unit.removesuffix("s") if self.value == 1 else self.unit
        return f"{self.value} {unit} (paper: {self.paper})"

    @property
    def full(self) -> bool:
        return self.value == self.paper

    def share(self, part: int) -> float:
        """How much of the passes a part of the budget makes; the last of some iterations is none."""
        spare = 1 if self.unit == "iterations" else 0
        return (part - spare) / (self.value - spare)

    @property
    def cheaper(self) -> bool:
        """Whether an explanation costs less than the paper's; other seeds are other explanations."""
        return self.value < self.paper and self.setting != "seeds"


def identity_config(cfg: DictConfig) -> dict[str, Any]:
    """The settings a run's numbers depend on, without the places where files lie."""

    def without_places(node: Any, key: str) -> Any:
        if not isinstance(node, dict):
            return node
        children = {name: (child, f"{key}.{name}") for name, child in node.items()}
        return {name: without_places(child, k) for name, (child, k) in children.items() if k not in NOT_IDENTITY}

    kept = {group: without_places(OmegaConf.to_container(cfg[group], resolve=True), group) for group in GROUPS}
    return kept | {"engine": {"precision": cfg.engine.precision}}


def departures(
    config: Mapping[str, Any], shipped: Mapping[str, Any], *, ignored: Iterable[str] = ()
) -> list[Departure]:
    """Every setting in which two configurations differ, by its dotted name, in the order of the first.

    Args:
        config: A run's, from :func:`identity_config`.
        shipped: What it is compared with, likewise.
        ignored: Dotted names that do not count, e.g. the seed's.
    """
    now, then = placeless(config), placeless(shipped)
    keys = [key for key in dict.fromkeys([*now, *then]) if key not in {*WORDS, *ignored}]
    keys = [key for key in keys if not of_another_metric(key, then)]  # measured beside what is shipped
    return [Departure(key, now.get(key), then.get(key)) for key in keys if now.get(key) != then.get(key)]


def budget_of(cfg: DictConfig) -> Budget | None:
    """The explainer's budget, from ``budget:`` in its configuration; None where it has none."""
    stated = cfg.explainer.get("budget")
    if not stated:
        return None
    return Budget(stated.setting, stated.unit, int(cfg.explainer.call[stated.setting]), int(stated.paper))


def own_departures(cfg: DictConfig) -> list[Departure]:
    """What a cell's configuration changes in the presets it names, but for its budget."""
    budget = budget_of(cfg)
    known = [Departure(**cast("dict[str, Any]", OmegaConf.to_container(found))) for found in cfg.departures]
    return [d for d in known if budget is None or d.key != f"explainer.call.{budget.setting}"]


def notes_of(cfg: DictConfig) -> list[str]:
    """In words, why a map of this configuration is not the paper's: departures, then a budget that is not full."""
    changed, budget = own_departures(cfg), budget_of(cfg)
    notes = [f"departs from protocol={cfg.protocol.name}: {', '.join(map(str, changed))}"] if changed else []
    return notes + ([str(budget)] if budget and not budget.full else [])


def identity_of(folder: RunFolder, needed: Sequence[str] = ALWAYS) -> dict[str, Any]:
    """A run's identity as today's code keeps it, from a folder of any format.

    What a folder of format 1 tells in sentences stays a sentence: a departure that no setting has.

    Args:
        folder: The run.
        needed: What run.json has to say.

    Raises:
        SuiteError: If it does not say that.
    """
    found = dict(folder.identity)
    if missing := [key for key in needed if key not in found]:
        raise SuiteError(
            f"{folder.path / 'run.json'} does not say what the run is: it has no {', '.join(missing)}; delete the "
            "folder, or start the run anew with overwrite=true"
        )
    if found.get("format", 1) >= FORMAT:
        return found
    seed = found.get("seed")
    if seed is not None:
        found["variant"] = str(found["variant"]).removesuffix(f"-seed{seed}")
    told = [Departure(str(note), None, None) for note in found.pop("budget_notes", None) or ()]
    return found | {"departures": [asdict(d) for d in told], "budget": None, "left_out": None, "dataset_note": ""}

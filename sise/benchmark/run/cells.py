"""A cell: one run of one explainer on one network and data set, with its records so far."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sise.benchmark.models.no_network import completeness
from sise.benchmark.models.structure import structure_of
from sise.benchmark.models.torchray import unloaded
from sise.benchmark.names import check_names
from sise.benchmark.records.departures import FORMAT, budget_of, identity_config, own_departures
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.image_hashes import ImageHashes
from sise.benchmark.records.metric_sets import metric_names, united
from sise.benchmark.records.saliency_store import SaliencyStore
from sise.benchmark.records.store import Records
from sise.benchmark.run.arguments import check_arguments, check_loader
from sise.benchmark.run.growing_set import GrowingSet
from sise.benchmark.run.problems import by_problem, some
from sise.benchmark.terminal import message
from sise.choices import CONFIDENCES, FILLS, GRADIENT_SCORES, PRECISIONS, TARGETS
from sise.errors import SuiteError, choose
from sise.types import Dataset, Explainer, Model, Record, RestoresMaps

log = logging.getLogger(__name__)
Metric = Callable[..., float | None]
"""A metric of any family, with its settings."""
T = TypeVar("T")


class DataFacts:
    """What the cells of a data set have in common, found out once.

    Args:
        dataset: Loaded.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._complete: dict[bool, tuple[bool, str]] = {}
        self._pairs_of: dict[frozenset[str], frozenset[tuple[str, int]]] = {}

    def complete(self, model: Model) -> tuple[bool, str]:
        """Whether what a model reads of the published data set is all there, and a sentence about it."""
        if model.has_network not in self._complete:
            self._complete[model.has_network] = completeness(self._dataset, model)
        return self._complete[model.has_network]

    @cached_property
    def pairs(self) -> Counter[str]:
        """Number of pairs by class."""
        targets = Counter(target for image_id in self._dataset.ids for target in self._dataset.targets_of(image_id))
        return Counter({self._dataset.classes[target]: count for target, count in targets.items()})

    def pairs_of(self, classes: frozenset[str]) -> frozenset[tuple[str, int]]:
        """The (image, target) of some classes."""
        if classes not in self._pairs_of:
            wanted = {target for target, name in enumerate(self._dataset.classes) if name in classes}
            self._pairs_of[classes] = frozenset(
                (i, target) for i in self._dataset.ids for target in self._dataset.targets_of(i) if target in wanted
            )
        return self._pairs_of[classes]

    @cached_property
    def without_targets(self) -> frozenset[str]:
        """Images whose targets only a look at them can tell."""
        return frozenset(i for i in self._dataset.ids if not self._dataset.targets_of(i))

    @cached_property
    def images(self) -> frozenset[str]:
        """All images."""
        return frozenset(self._dataset.ids)


@dataclass
class Cell:
    """One run, its configuration and where its records go.

    Attributes:
        cfg: The resolved configuration.
        dataset, model: Loaded once and shared by the cells that name the same.
        structure: What the network computes with besides its weights, from :func:`structure_of`.
        data: Of the data set; cells that share it share this too.
        good: (image, target) of every good record there is; see :meth:`remember`.
        failures: Of this process: how many pairs failed, by the reason.
        computed: Of this process: how many pairs have got a good record.
        finished: Images with a good record.
        folder: Its records, once :func:`sise.benchmark.run.runner.run` has opened them.
        problem: Why the cell could not run, or not go on.
        in_a_row: The last failure's error and place, and in how many images in a row it was the same.
        shown_traceback: Whether an unexpected error's traceback was shown.
        watched: Whether it was looked at closely what its explainer leaves behind.
        maps: Those that the run has kept, and keeps; None where there are none and none are kept.
    """

    cfg: DictConfig
    dataset: Dataset
    model: Model
    structure: str = ""
    data: DataFacts | None = None
    good: MutableSet[tuple[str, int]] = field(default_factory=GrowingSet)
    finished: MutableSet[str] = field(default_factory=GrowingSet)
    folder: RunFolder = field(init=False, repr=False, compare=False)
    failures: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    problem: str = ""
    in_a_row: tuple[tuple[str, str], int] = (("", ""), 0)
    shown_traceback: bool = False
    watched: bool = False
    maps: SaliencyStore | None = None
    _kept: tuple[object, ...] = field(default=(), init=False, repr=False)

    @property
    def name(self) -> str:
        """``<dataset>/<model>/<explainer>/<variant>``, also the run's folder below ``outputs``."""
        return name_of(self.cfg, self.dataset.name)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.cfg.outputs) / self.name

    @cached_property
    def explainer(self) -> Explainer:
        """The explainer with its hyperparameters."""
        return instantiate(self.cfg.explainer.call)

    @property
    def options(self) -> dict[str, Any]:
        """The explainer's hyperparameters by name."""
        call = OmegaConf.to_container(self.cfg.explainer.call, resolve=True)
        assert isinstance(call, dict)
        return {str(name): value for name, value in call.items() if name not in ("_target_", "_partial_")}

    def explainer_with(self, **options: Any) -> Explainer:
        """The explainer with other hyperparameters than the cell's."""
        return instantiate(self.cfg.explainer.call, **options)

    @cached_property
    def metrics(self) -> tuple[dict[str, Metric], dict[str, Metric]]:
        """Localization and faithfulness metrics by name."""
        return dict(instantiate(self.cfg.metrics.localization)), dict(instantiate(self.cfg.metrics.faithfulness))

    @cached_property
    def image_metrics(self) -> dict[str, Metric]:
        """Metrics on the image's own grid by name, ``(saliency (h, w), mask (h, w)) -> float``."""
        return dict(instantiate(self.cfg.metrics.get("on_image") or {}))

    @cached_property
    def truth_metrics(self) -> dict[str, Metric]:
        """Metrics of known regions by name, ``(probe, target, saliency (H, W)) -> float``; see :mod:`metrics.truth`."""
        return dict(instantiate(self.cfg.metrics.get("truth") or {}))

    @cached_property
    def again_metrics(self) -> dict[str, Metric]:
        """Metrics that ask the explainer again by name, ``(explain, probe, target, saliency) -> float``."""
        return dict(instantiate(self.cfg.metrics.get("again") or {}))

    def pairs(self, image_id: str) -> list[int]:
        """The image's targets that this network has a score for."""
        names = self.dataset.classes
        return [t for t in self.dataset.targets_of(image_id) if names[t] in self.outputs]

    @cached_property
    def outputs(self) -> dict[str, int]:
        """Index of the network's score for each class name."""
        return {name: i for i, name in enumerate(self.model.classes)}

    def remember(self, records: Iterable[Record]) -> None:
        """Takes note of records that need not be made again: the good ones."""
        for record in records:
            if record["status"] == "ok":
                self.good.add((record["image_id"], record["target"]))
                self.finished.add(record["image_id"])

    def recall(self, records: Records, incomplete: Container[str] = ()) -> None:
        """Takes note of all records that were made until now, in place of those remembered.

        Args:
            records: The run's.
            incomplete: Sessions whose records lack a metric: their pairs are to be made again.
        """
        self._kept = records.pairs, records.images_made_of  # alive, so that the next cell's records share them
        self.good, self.finished = GrowingSet(records.pairs.good), GrowingSet(records.pairs.images)
        if incomplete:
            for image_id, target, session in records.tuples(["image_id", "target", "session"], good=True):
                if session in incomplete:
                    self.good.discard((image_id, target))
                    self.finished.discard(image_id)

    def adopt(self, metrics: Mapping[str, Any]) -> None:
        """Measures all that the run does, so that each of its records holds the same metrics."""
        if set(metric_names(metrics)) - set(metric_names(self.cfg.metrics)):
            with open_dict(self.cfg):
                self.cfg.metrics = OmegaConf.create(
                    united(metrics, cast("dict[str, Any]", OmegaConf.to_container(self.cfg.metrics)))
                )
            for cached in ("metrics", "image_metrics", "truth_metrics", "again_metrics"):
                self.__dict__.pop(cached, None)

    @cached_property
    def _known(self) -> bool:
        """Whether the targets are known without a look at the image."""
        return self.cfg.protocol.targets == "all"

    def missing(self, image_id: str) -> list[int]:
        """Targets of the image without a good record; -1 stands for targets that only a look at the image can tell."""
        if not self._known or not self.dataset.targets_of(image_id):
            return [] if image_id in self.finished else [-1]
        return [t for t in self.pairs(image_id) if (image_id, t) not in self.good]

    def lacking(self) -> set[str]:
        """The images with something :meth:`missing`: of all images at once, which takes a fraction of the time."""
        data = self.data or DataFacts(self.dataset)
        if not self._known:
            return _lacks(self.finished, data.images)
        pairs = _lacks(self.good, data.pairs_of(frozenset(self.outputs)))
        return {image_id for image_id, _ in pairs} | _lacks(self.finished, data.without_targets)

    def probe_key(self) -> str:
        """Equal for cells that may share a probe."""
        p = self.cfg.protocol
        # the very same network: one of equal weights may still compute something else
        parts = (id(self.dataset), id(self.model), p.fill, p.confidence, p.gradient, p.targets)
        return repr((*parts, OmegaConf.to_container(self.cfg.engine)))

    def identity(self) -> dict[str, Any]:
        """What the run is (``run.json``): everything its numbers depend on."""
        cfg = self.cfg
        data = self.data or DataFacts(self.dataset)
        complete, counts = data.complete(self.model)
        left_out = sorted(data.pairs.keys() - self.outputs.keys())
        pairs = sum(count for name, count in data.pairs.items() if name in self.outputs)
        budget = budget_of(cfg)
        return {
            "format": FORMAT,
            "dataset": self.dataset.name,
            "model": cfg.model.name,
            "explainer": cfg.explainer.name,
            "variant": cfg.variant,
            "protocol": cfg.protocol.name,
            "seed": cfg.seed if cfg.explainer.stochastic else None,
            "label": cfg.explainer.label,
            "config": identity_config(cfg),
            "preprocessing": repr(self.model.preprocess),
            "layers": list(self.model.layers),
            "weights_hash": self.model.weights_hash,
            "weights_official": self.model.official,
            "model_note": self.model.note,
            "dataset_fingerprint": self.dataset.fingerprint(),
            "complete_dataset": complete,
            "expected_pairs": pairs,
            "departures": [asdict(d) for d in own_departures(cfg)],
            "budget": budget and asdict(budget),
            "left_out": {"pairs": data.pairs.total() - pairs, "classes": left_out} if left_out else None,
            "dataset_note": "" if complete else counts,
        }


def _lacks(found: AbstractSet[T], items: frozenset[T]) -> set[T]:
    return found.lacks(items) if isinstance(found, GrowingSet) else set(items - found)


def hashes_of(cells: Iterable[Cell]) -> dict[int, ImageHashes]:
    """The hashes of images by the ``id`` of their data set, read once for the cells that share it."""
    found = {id(cell.dataset): cell for cell in cells}
    return {key: ImageHashes(cell.dataset, cell.cfg.outputs) for key, cell in found.items()}


def name_of(cfg: DictConfig, dataset: str | None = None) -> str:
    """A cell's name; the dataset's is its config's before it is loaded.

    Raises:
        SuiteError: If a part of it would make another folder than one below ``outputs``.
    """
    seed = f"-seed{cfg.seed}" if cfg.explainer.stochastic else ""
    parts = {"dataset": dataset or cfg.dataset.name, "model": cfg.model.name, "explainer": cfg.explainer.name}
    parts["variant"] = f"{cfg.variant}{seed}"
    check_names(**parts)
    return "/".join(parts.values())


def make_cells(
    configs: Sequence[DictConfig], broken: dict[str, str] | None = None, *, plan: bool = False
) -> list[Cell]:
    """Loads each dataset and model once and makes a cell of every configuration.

    Args:
        configs: One per cell.
        broken: Takes, by the cell's name, what is wrong with those whose data, weights or settings are; the others
            are made. If None, or if none can be made, it is raised.
        plan: The cells are only looked at: no weights are downloaded, see
            :func:`sise.benchmark.models.torchray.unloaded`.

    Raises:
        SuiteError: If data, weights or a setting are wrong, or two cells would write to the same folder.
    """
    loaded: dict[str, Any] = {}
    structures: dict[int, str] = {}
    facts: dict[int, DataFacts] = {}
    names: set[str] = set()

    def load(what: str, node: DictConfig) -> Any:
        key = json.dumps(OmegaConf.to_container(node, resolve=True), sort_keys=True, default=str)
        if key not in loaded:
            try:
                check_loader(what, node)
                loaded[key] = instantiate(node)
            except (SuiteError, HydraException, OmegaConfBaseException) as error:
                loaded[key] = error
        if isinstance(loaded[key], Exception):
            raise loaded[key]
        return loaded[key]

    cells: list[Cell] = []
    errors: dict[str, Exception] = {}
    for cfg in configs:
        name = name_of(cfg)
        if name in names:
            raise SuiteError(
                f"two cells of this experiment share the run folder {name}; give one a `variant=`, or choose one: "
                "`protocol=` keeps the cells of that protocol, `only=[...]` those it names."
            )
        try:
            check_network(cfg)
            choose("protocol.targets", cfg.protocol.targets, TARGETS)
            choose("protocol.fill", cfg.protocol.fill, FILLS)
            choose("protocol.metric_fill", cfg.protocol.metric_fill, (None, *FILLS))
            choose("protocol.metric_confidence", cfg.protocol.metric_confidence, (None, *CONFIDENCES))
            choose("protocol.on_nan", cfg.protocol.on_nan, ("fail", "zero"))
            choose("protocol.confidence", cfg.protocol.confidence, CONFIDENCES)
            choose("protocol.gradient", cfg.protocol.gradient, GRADIENT_SCORES)
            choose("engine.precision", cfg.engine.precision, list(PRECISIONS))
            dataset = load("dataset.loader", cfg.dataset.loader)
            model = (unloaded(cfg.model.loader) if plan else None) or load("model.loader", cfg.model.loader)
            if not isinstance(model, Model):
                raise SuiteError(f"model.loader: expected what makes a sise.types.Model; got a {type(model).__name__}.")
            if id(model) not in structures:
                structures[id(model)] = structure_of(model.network) if model.weights_hash else ""
            data = facts.setdefault(id(dataset), DataFacts(dataset))
            cell = Cell(cfg, dataset, model, structures[id(model)], data)
            check_cell(cell)
            cells.append(cell)
            names.add(name)
        except (SuiteError, HydraException, OmegaConfBaseException) as error:
            if broken is None:
                raise
            errors[name] = error
    found = {name: message(error) for name, error in errors.items()}
    if errors and not cells:
        if len(set(found.values())) == 1:
            raise next(iter(errors.values()))
        raise SuiteError("no cell can run:\n" + "\n".join(by_problem(found)))
    for line in by_problem(found):
        log.error("cannot run: %s", line)
    if broken is not None:
        broken |= found
    return cells


def check_network(cfg: DictConfig) -> None:
    """Whether a dataset that has a network of its own and this network belong together.

    Raises:
        SuiteError: If not; the message names what belongs to the dataset, or to the network.
    """
    own_model, own_dataset = cfg.dataset.get("own_model"), cfg.model.get("own_dataset")
    if own_dataset and own_dataset != cfg.dataset.networks:
        raise SuiteError(
            f"{cfg.model.name} scores the classes of dataset={own_dataset}; give dataset={own_dataset} with it, "
            f"got dataset={cfg.dataset.name}."
        )
    if own_model and not own_dataset and "trained_on" in cfg.model.loader:  # it has one network per group of classes
        raise SuiteError(
            f"model={cfg.model.name} has no network for the classes of dataset={cfg.dataset.name}; give "
            f"model={own_model} with it."
        )


def check_cell(cell: Cell) -> None:
    """What is known to be wrong before the first image: classes, metrics and hyperparameters that do not fit.

    Raises:
        SuiteError: If the network scores none of the dataset's classes, the dataset has no masks for a metric that
            needs them, an explainer draws by another seed than the run's, or an explainer or metric does not take
            what the settings give it.
    """
    cfg, classes = cell.cfg, cell.dataset.classes
    known = [name for name in classes if name in cell.outputs]
    if not known:
        raise SuiteError(
            f"model={cfg.model.name} has none of the classes of dataset={cell.dataset.name}: it scores "
            f"{some(cell.model.classes)}; the dataset has {some(classes)}. Give the network's classes by the "
            "dataset's names, one a line in the order of its scores: model.classes=<file>"
        )
    if len(known) < len(classes):
        left_out = [name for name in classes if name not in cell.outputs]
        log.info("%s: the network has no class %s; their pairs are left out", cell.name, some(left_out))
    localization, faithfulness = cell.metrics
    localization = localization | cell.image_metrics
    if localization and not cfg.dataset.get("masks", True):
        raise SuiteError(
            f"dataset={cfg.dataset.name} has no regions to compare a map with, which {', '.join(localization)} need; "
            "add metrics=confidence"
        )
    if cell.image_metrics and not isinstance(cell.model.preprocess, RestoresMaps):
        raise SuiteError(
            f"{', '.join(cell.image_metrics)} need a map of the image's own size, and model={cfg.model.name} cannot "
            "bring its maps there: its preprocess has no restore_map; add metrics=default"
        )
    if cfg.explainer.stochastic and cell.options.get("seed") not in (None, cfg.seed):
        raise SuiteError(
            f"explainer.call.seed={cell.options['seed']}: the run is called and counted by seed={cfg.seed}; give "
            f"seed={cell.options['seed']} in its place"
        )
    check_arguments(f"explainer={cfg.explainer.name}", cell.explainer, 2)
    for name, metric in localization.items():
        check_arguments(f"metric {name}", metric, 2)
    for name, metric in (faithfulness | cell.truth_metrics).items():
        check_arguments(f"metric {name}", metric, 3)
    for name, metric in cell.again_metrics.items():
        check_arguments(f"metric {name}", metric, 4)

"""From configurations to records: plans what is missing, runs it on shared probes, and keeps every result.

A *cell* is one run: (dataset, model, explainer, variant). Cells that see the same images through the same network in
the same way are run together, image by image, on one probe, so that no forward pass is made twice.

What is computed for an image depends on nothing else that was computed, before or beside it: seeds belong to (seed,
image), batches have one shape, and an image's targets are explained together. So records of one machine are the same to
the last digit whatever the shard or the order, and however often a run was interrupted, provided that a score does not
depend on its place in a batch. That is measured for every network, and each session of records holds the result
(``place_error``, 0.0 where it is so).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from metrics import keep_mask, undefined
from sise.benchmark.code_version import ROOT, code_of, is_installed, other_code
from sise.benchmark.departures import FORMAT, budget_of, identity_config, own_departures
from sise.benchmark.left_behind import WeightsChanged, nothing_left_behind
from sise.benchmark.models import unloaded
from sise.benchmark.names import check_names
from sise.benchmark.process import CrowdWatch
from sise.benchmark.records import DiskFull, RunFolder, environment
from sise.benchmark.replaced import ImageHashes
from sise.benchmark.score_cache import ScoreCache
from sise.benchmark.structure import structure_of
from sise.benchmark.terminal import Progress, message
from sise.maps import over_map
from sise.probe import CONFIDENCES, GRADIENT_SCORES, Probe
from sise.scoring import PRECISIONS, Scorer
from sise.types import Dataset, Explainer, Model, Record, Sample, SuiteError, UnknownName, choose

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Scorer)

TARGETS = ("all", "predicted", "argmax")
FILLS = ("zero", "black", "mean", "blur")


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (from 1) of ``count``: every ``count``-th image of the dataset's order.

    The dataset's order belongs to a run's identity, so every machine splits it in the same way. Runs may be split
    differently from one time to the next: what one split has computed, no other computes again.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """``"2/4"`` -> the second of four; None -> everything."""
        if text is None:
            return cls(1, 1)
        number, slash, count = str(text).partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise SuiteError(f"expected shard=i/n with 1 <= i <= n, e.g. shard=2/4; got shard={text}")

    @property
    def name(self) -> str:
        """For file names: ``2-of-4``; empty for everything."""
        return f"{self.number}-of-{self.count}" if self.count > 1 else ""

    def of(self, ids: Sequence[str]) -> Sequence[str]:
        """The images of this part."""
        return ids[self.number - 1 :: self.count]


EVERYTHING = Shard(1, 1)


@dataclass
class Cell:
    """One run, its configuration and where its records go.

    Attributes:
        cfg: The resolved configuration.
        dataset, model: Loaded once and shared by the cells that name the same.
        structure: What the network computes with besides its weights, from :func:`structure_of`.
        good: (image, target) of every good record there is; see :meth:`remember`.
        failures: Of this process: how many pairs failed, by the reason.
        computed: Of this process: how many pairs have got a good record.
        finished: Images with a good record.
        problem: Why the cell could not run, or not go on.
        in_a_row: The last failure's error and place, and in how many images in a row it was the same.
        shown_traceback: Whether an unexpected error's traceback was shown.
    """

    cfg: DictConfig
    dataset: Dataset
    model: Model
    structure: str = ""
    good: set[tuple[str, int]] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    folder: RunFolder | None = None
    failures: dict[str, int] = field(default_factory=dict)
    computed: int = 0
    problem: str = ""
    in_a_row: tuple[tuple[str, str], int] = (("", ""), 0)
    shown_traceback: bool = False

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

    @cached_property
    def metrics(self) -> tuple[dict[str, Callable[..., float]], dict[str, Callable[..., float]]]:
        """Localization and faithfulness metrics by name."""
        return dict(instantiate(self.cfg.metrics.localization)), dict(instantiate(self.cfg.metrics.faithfulness))

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

    def missing(self, image_id: str) -> list[int]:
        """Targets of the image without a good record; -1 stands for targets that only a look at the image can tell."""
        if self.cfg.protocol.targets != "all" or not self.dataset.targets_of(image_id):
            return [] if image_id in self.finished else [-1]
        return [t for t in self.pairs(image_id) if (image_id, t) not in self.good]

    def probe_key(self) -> str:
        """Equal for cells that may share a probe."""
        p = self.cfg.protocol
        # the very same network: one of equal weights may still compute something else
        parts = (id(self.dataset), id(self.model), p.fill, p.confidence, p.gradient, p.targets)
        return repr((*parts, OmegaConf.to_container(self.cfg.engine)))

    def identity(self) -> dict[str, Any]:
        """What the run is (``run.json``): everything its numbers depend on."""
        cfg = self.cfg
        complete, counts = self.dataset.verify_counts() if hasattr(self.dataset, "verify_counts") else (True, "")
        every = [(i, t) for i in self.dataset.ids for t in self.dataset.targets_of(i)]
        left_out = sorted({self.dataset.classes[t] for _, t in every} - set(self.outputs))
        pairs = sum(self.dataset.classes[t] in self.outputs for _, t in every)
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
            "weights_official": bool(getattr(self.model, "official", False)),
            "model_note": self.model.note,
            "dataset_fingerprint": self.dataset.fingerprint(),
            "complete_dataset": complete,
            "expected_pairs": pairs,
            "departures": [asdict(d) for d in own_departures(cfg)],
            "budget": budget and asdict(budget),
            "left_out": {"pairs": len(every) - pairs, "classes": left_out} if left_out else None,
            "dataset_note": "" if complete else counts,
        }


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
        plan: The cells are only looked at: no weights are downloaded, see :func:`sise.benchmark.models.unloaded`.

    Raises:
        SuiteError: If data, weights or a setting are wrong, or two cells would write to the same folder.
    """
    loaded: dict[str, Any] = {}
    structures: dict[int, str] = {}

    def load(node: DictConfig) -> Any:
        key = json.dumps(OmegaConf.to_container(node, resolve=True), sort_keys=True, default=str)
        if key not in loaded:
            try:
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
        if name in {name_of(c.cfg) for c in cells}:
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
            dataset = load(cfg.dataset.loader)
            model = (unloaded(cfg.model.loader) if plan else None) or load(cfg.model.loader)
            if id(model) not in structures:
                structures[id(model)] = structure_of(model.network) if model.weights_hash else ""
            cell = Cell(cfg, dataset, model, structures[id(model)])
            check_cell(cell)
            cells.append(cell)
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


def by_problem(problems: Mapping[str, str]) -> list[str]:
    """A line per problem: what it is, and the cells that have it, a few by name."""
    lines = []
    for problem in dict.fromkeys(problems.values()):
        names = [name for name in problems if problems[name] == problem]
        count = f"{len(names)} cells: " if len(names) > 1 else ""
        lines.append(f"{problem} [{count}{_some(names)}]")
    return lines


OWN_MODELS = {"mnist1d": "mnist1d", "hmt": "hmt", "severstal": "resnet101_severstal"}
"""The ``model=`` for datasets that have a network of their own, by ``dataset.networks``."""


def check_network(cfg: DictConfig) -> None:
    """Whether a dataset that has a network of its own and this network belong together.

    Raises:
        SuiteError: If not; the message names what belongs to the dataset, or to the network.
    """
    loader, networks = cfg.model.loader.get("_target_", ""), cfg.dataset.get("networks")
    if loader == "sise.benchmark.models.torchray" and networks in OWN_MODELS:
        raise SuiteError(
            f"model={cfg.model.name} has no network for the classes of dataset={cfg.dataset.name}; give "
            f"model={OWN_MODELS[networks]} with it."
        )
    for own in ("mnist1d", "hmt"):
        if loader == f"sise.benchmark.{own}.network" and networks != own:
            raise SuiteError(
                f"model={own} scores the classes of dataset={own}; give dataset={own} with it, got "
                f"dataset={cfg.dataset.name}."
            )


def check_cell(cell: Cell) -> None:
    """What is known to be wrong before the first image: classes, metrics and hyperparameters that do not fit.

    Raises:
        SuiteError: If the network scores none of the dataset's classes, the dataset has no masks for a metric that
            needs them, or an explainer or metric does not take what the settings give it.
    """
    cfg, classes = cell.cfg, cell.dataset.classes
    known = [name for name in classes if name in cell.outputs]
    if not known:
        raise SuiteError(
            f"model={cfg.model.name} has none of the classes of dataset={cell.dataset.name}: it scores "
            f"{_some(cell.model.classes)}; the dataset has {_some(classes)}. Give the network's classes by the "
            "dataset's names, one a line in the order of its scores: model.classes=<file>"
        )
    if len(known) < len(classes):
        left_out = [name for name in classes if name not in cell.outputs]
        log.info("%s: the network has no class %s; their pairs are left out", cell.name, _some(left_out))
    localization, faithfulness = cell.metrics
    if localization and not cfg.dataset.get("masks", True):
        raise SuiteError(
            f"dataset={cfg.dataset.name} has no regions to compare a map with, which {', '.join(localization)} need; "
            "add metrics=confidence"
        )
    check_arguments(f"explainer={cfg.explainer.name}", cell.explainer, 2)
    for name, metric in localization.items():
        check_arguments(f"metric {name}", metric, 2)
    for name, metric in faithfulness.items():
        check_arguments(f"metric {name}", metric, 3)


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


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def run(
    cells: Sequence[Cell],
    *,
    limit: int | None = None,
    overwrite: bool = False,
    shard: Shard = EVERYTHING,
    broken: Mapping[str, str] | None = None,
) -> int:
    """Computes every missing record of the cells. A cell that cannot run does not stop the others.

    Args:
        cells: From :func:`make_cells`.
        limit: First N images only.
        overwrite: Start the runs anew.
        shard: Only the images of this part (of the first N).
        broken: Cells that could not be made, from :func:`make_cells`: reported with those that cannot run.

    Returns:
        How many pairs failed in this run.

    Raises:
        DiskFull: At once.
        SuiteError: When everything else is done, if a cell could not run.
    """
    if overwrite and shard.count > 1:
        raise SuiteError(
            "overwrite=true deletes what other shards have found; give it once without shard=, with limit=0 to compute "
            "nothing, and then start the shards."
        )
    for cell in cells:
        with _problems_of([cell]):
            cell.folder = RunFolder(cell.path, cell.identity(), overwrite=overwrite, shard=shard.name)
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.problem:
            groups.setdefault(cell.probe_key(), []).append(cell)
    failed = 0
    for number, group in enumerate(groups.values(), start=1):
        with _problems_of(group):
            failed += _run_group(group, limit, shard, f"{number}/{len(groups)} " if len(groups) > 1 else "")
    wrong = {**(broken or {}), **{cell.name: cell.problem for cell in cells if cell.problem}}
    if wrong and len(cells) == 1 and not broken:
        raise SuiteError(*wrong.values())
    if wrong:
        raise SuiteError(f"{len(wrong)} cells could not run, or not go on:\n" + "\n".join(by_problem(wrong)))
    return failed


@contextmanager
def _problems_of(cells: Sequence[Cell]) -> Iterator[None]:
    """Keeps what stops these cells from stopping the others; a full disk stops all."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        expected = isinstance(error, SuiteError | OSError)
        if not expected:
            log.exception("%s stopped", ", ".join(cell.name for cell in cells))
        problem = message(error) if expected else f"{type(error).__name__}: {error}"
        stopped = [cell for cell in cells if not cell.problem]
        for cell in stopped:
            cell.problem = problem
        if stopped:
            log.error("cannot run: %s: %s", ", ".join(cell.name for cell in stopped), problem)


# ---------------------------------------------------------------------- one group of cells, image by image


def _run_group(cells: list[Cell], limit: int | None, shard: Shard, place: str) -> int:
    dataset, model = cells[0].dataset, cells[0].model
    failed = 0
    with ExitStack() as stack:
        images = ImageHashes(dataset, cells[0].cfg.outputs)
        stack.callback(images.keep)
        cells = [cell for cell in cells if _opened(cell, stack, images)]
        ids = shard.of(dataset.ids[:limit])
        wanted = {i: needing for i in ids if (needing := [c for c in cells if c.missing(i)])}
        if not wanted:
            if cells:
                log.info("%s on %s: nothing missing", model.name, dataset.name)
            return 0
        device = choose_device(cells[0].cfg.device, shard)
        engine = cells[0].cfg.engine
        scorer = make_scorer(model.network.to(device), engine, steady=True)
        cache = make_score_cache(cells[0], device) if engine.cache else None
        place_error = _place_error(scorer, cells[0], device)
        for cell in cells:
            code = code_of(identity_config(cell.cfg), cell.model.network)
            settings: dict[str, Any] = {"place_error": place_error, "code": code, "network": cell.structure}
            settings |= {"engine": OmegaConf.to_container(engine)}
            cell.folder.add_environment(environment(device) | settings)
        what = f"{place}{dataset.name} × {model.name}" + (f", shard {shard.number}/{shard.count}" if shard.name else "")
        bar = stack.enter_context(Progress(wanted.items(), desc=what, unit="image"))
        watch = CrowdWatch(torch.get_num_threads())
        for image_id, needing in bar:
            needing = [cell for cell in needing if not cell.problem]
            if not needing:
                break
            try:
                sample = dataset[image_id]
                probe = make_probe(cells[0], sample, scorer, device)
            except UnknownName:
                raise
            except Exception as error:
                for cell in needing:
                    failed += _save_failures(cell, image_id, cell.missing(image_id), error, of_data=True)
                continue
            known = cache is not None and cache.restore(probe)
            passes = probe.forward_passes
            failed += _run_image(needing, sample, probe, bar, images.of(image_id))
            watch.look()
            if cache is not None and (not known or probe.forward_passes > passes):
                cache.save(probe, sorted(probe.ground_truth))
            bar.set_postfix(failed=failed) if failed else None
    return failed


def _place_error(scorer: Scorer, cell: Cell, device: torch.device) -> float | None:
    """:meth:`Scorer.check_places` on the dataset's first image that can be scored, the same for every shard.

    None if none of the first three can be.
    """
    for image_id in cell.dataset.ids[:3]:
        try:
            return scorer.check_places(make_probe(cell, cell.dataset[image_id], scorer, device).image)
        except Exception as error:  # fails again in its turn, and is recorded with its reason
            log.debug("image %s cannot tell whether places matter: %s", image_id, error)
    return None


def _opened(cell: Cell, stack: ExitStack, images: ImageHashes) -> bool:
    """Locks a cell's records and reads what all processes have found until now; False if another one writes them.

    Says which of them are stale.
    """
    with _problems_of([cell]):
        stack.enter_context(cell.folder)
        cell.good.clear()
        cell.finished.clear()
        records = cell.folder.read()
        cell.remember(records)
        for files, count in other_code(cell.folder, records, cell.structure).items():
            text = "%s: %d records were made by other code (%s changed since); overwrite=true makes them anew"
            log.warning(text, cell.name, count, ", ".join(files))
        if count := images.replaced(records):
            text = "%s: %d records are of images that were replaced since; overwrite=true makes them anew"
            log.warning(text, cell.name, count)
    return not cell.problem


def _run_image(cells: list[Cell], sample: Sample, probe: Probe, bar: Progress, image_hash: str) -> int:
    """Explains one image with every cell, then scores all their maps with one batch of passes, then saves."""
    failed = 0
    explained: list[tuple[Cell, list[int], Tensor, dict[str, Any]]] = []
    for cell in cells:
        bar.set_postfix_str(cell.cfg.explainer.name)
        targets = cell.missing(sample.image_id)
        try:
            targets = targets_to_explain(cell, sample, probe)
            if not targets:
                continue
            outputs = [cell.outputs[cell.dataset.classes[t]] for t in targets]
            probe.seed = image_seed(cell.cfg.seed, sample.image_id)
            with nothing_left_behind(probe.network, cell.cfg.explainer.name), probe.bill() as bill:
                saliency = cell.explainer(probe, outputs)
            saliency = checked_maps(saliency, probe, len(targets), cell.cfg.protocol.on_nan)
        except WeightsChanged:
            raise
        except UnknownName as error:  # a setting, not this image, is wrong
            with _problems_of([cell]):
                raise error
            continue
        except Exception as error:
            failed += _save_failures(cell, sample.image_id, targets, error)
            continue
        share = 1 / len(targets)
        costs = {
            "seconds": bill.seconds * share,
            "forward_passes": bill.forward * share,
            "backward_passes": bill.backward * share,
        }
        if bill.remarks:
            costs["remarks"] = list(bill.remarks)
        explained.append((cell, targets, saliency, costs))
    if explained:
        with suppress(Exception):  # what fails here fails again below, for its own cell
            remember_faithfulness_passes(explained, probe)
    for cell, targets, saliency, costs in explained:
        try:
            records = [make_record(cell, sample, probe, t, s, costs) for t, s in zip(targets, saliency, strict=True)]
        except Exception as error:
            failed += _save_failures(cell, sample.image_id, targets, error)
            continue
        new = [r for r in records if (sample.image_id, r["target"]) not in cell.good]
        new = [r | {"image_hash": image_hash} for r in new] if image_hash else new
        cell.folder.append(new)
        cell.computed += len(new)
        cell.in_a_row = (("", ""), 0)
        cell.remember(new)
    return failed


def make_record(
    cell: Cell, sample: Sample, probe: Probe, target: int, saliency: Tensor, costs: dict[str, Any]
) -> Record:
    """One pair's record: its metrics on a map (H, W), what it cost, and the facts that tables need."""
    output = cell.outputs[cell.dataset.classes[target]]
    mask = probe.ground_truth[output]
    localization, faithfulness = cell.metrics
    values, by_definition = {}, []
    for name, metric in localization.items():
        values[name] = metric(saliency, mask)
        by_definition += [name] if undefined(metric, saliency, mask) else []
    judge = judge_of(cell, probe)
    for name, metric in faithfulness.items():
        values[name] = metric(judge, output, saliency)
        by_definition += [name] if undefined(metric, judge, output, saliency) else []
    record = {"image_id": sample.image_id, "target": target, "class": cell.dataset.classes[target], "status": "ok"}
    record |= values | costs
    record |= {
        "confidence": probe.confidence(output),
        "mask_fraction": float(mask.float().mean()),
        "undefined": by_definition,
    }
    if faithfulness:
        record["kept_fraction"] = float(_kept(next(iter(faithfulness.values())), saliency).float().mean())
    if "cluster" in sample.info:
        record["cluster"] = sample.info["cluster"]
    if target in sample.targets and "difficult" in sample.info:
        record["difficult"] = bool(sample.info["difficult"][sample.targets.index(target)])
    return record


def _kept(metric: Callable[..., float], saliency: Tensor) -> Tensor:
    """The pixels of a map (H, W) that a faithfulness metric, bound with its settings, keeps."""
    options = getattr(metric, "keywords", {})
    return keep_mask(saliency, **{key: options[key] for key in ("fraction", "rule") if key in options})


def remember_faithfulness_passes(explained: Sequence[tuple], probe: Probe) -> None:
    """Scores the whole image and the kept pixels of all maps in one batch, which the metrics find in the probe."""
    kept: dict[int, tuple[Probe, list[Tensor]]] = {}
    for cell, _, saliency, _ in explained:
        judge = judge_of(cell, probe)
        masks = kept.setdefault(id(judge), (judge, []))[1]
        for metric in cell.metrics[1].values():
            masks += [_kept(metric, s) for s in saliency]
    for judge, masks in kept.values():
        if masks:
            judge.score_masks(torch.stack([torch.ones_like(masks[0]), *masks]))


def _save_failures(
    cell: Cell, image_id: str, targets: Sequence[int], error: Exception, *, of_data: bool = False
) -> int:
    """Records that pairs failed, why and where; the run goes on, and the next one tries them again.

    The first error of a cell that nobody expected is shown with its traceback. Where the same goes wrong in
    ``engine.stop_after`` images in a row, the cell stops: it would in all others. Images that cannot be read
    (``of_data``) stop nothing.
    """
    reason, where = f"{type(error).__name__}: {error}", _place(error)
    unexpected = not (of_data or isinstance(error, SuiteError | OSError))
    shown = unexpected and not cell.shown_traceback
    cell.shown_traceback |= shown
    log.warning("%s, image %s failed: %s", cell.name, image_id, reason, exc_info=error if shown else None)
    if not of_data:
        what = (type(error).__name__, where)
        cell.in_a_row = (what, cell.in_a_row[1] + 1 if cell.in_a_row[0] == what else 1)
        if cell.cfg.engine.stop_after and cell.in_a_row[1] >= cell.cfg.engine.stop_after:
            with _problems_of([cell]):
                raise SuiteError(
                    f"stopped after {cell.in_a_row[1]} images in a row failed in the same place ({where}): {reason} "
                    "(engine.stop_after=null goes on)"
                )
    names = cell.dataset.classes
    targets = [t for t in targets if (image_id, t) not in cell.good]
    cell.folder.append(
        {
            "image_id": image_id,
            "target": t,
            "class": names[t] if t >= 0 else "",
            "status": "failed",
            "reason": reason,
            "where": where,
        }
        for t in targets
    )
    cell.failures[reason] = cell.failures.get(reason, 0) + len(targets)
    return len(targets)


def _place(error: Exception) -> str:
    """File and line that raised an error: the innermost that is no installed package's, as ``mine.py:12``."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_installed(Path(frame.filename))] or frames
    if not own:
        return ""
    file = Path(own[-1].filename)
    return f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name}:{own[-1].lineno}"


# ---------------------------------------------------------------------- parts of a probe


def make_scorer(network: torch.nn.Module, engine: DictConfig, *, steady: bool = False, kind: type[S] = Scorer) -> S:
    """A scorer of a network with the settings of ``configs/engine/``; ``steady`` is the scorer's own."""
    return kind(
        network,
        batch_size=engine.batch_size,
        lossless=engine.lossless,
        precision=engine.precision,
        compile=engine.compile,
        steady=steady,
    )


def make_score_cache(cell: Cell, device: torch.device) -> ScoreCache:
    """The score cache of a cell's network and protocol, below its ``outputs``."""
    model = cell.model
    return ScoreCache(
        Path(cell.cfg.outputs) / ".scores",
        model.weights_hash,
        cell.structure,
        code_of({"model": OmegaConf.to_container(cell.cfg.model.loader, resolve=True)}, model.network),
        (model.black, model.mean),
        model.layers,
        cell.cfg.protocol.fill,
        cell.cfg.engine.precision,
        device.type,
        torch.__version__,
    )


def make_probe(cell: Cell, sample: Sample, scorer: Scorer, device: torch.device) -> Probe:
    """A sample as a cell's network sees it, with its ground-truth masks."""
    model, protocol = cell.model, cell.cfg.protocol
    image = model.preprocess(sample.image)[None].to(device)
    probe = Probe(
        model.network,
        image,
        layers=model.layers,
        cam_layer=model.cam_layer,
        confidence=protocol.confidence,
        gradient=protocol.gradient,
        fill=make_fill(protocol.fill, model, image),
        scorer=scorer,
        classes=len(model.classes),
    )
    masks = _Masks()
    for target, mask in zip(sample.targets, sample.masks, strict=True):
        name = cell.dataset.classes[target]
        if name in cell.outputs:
            masks[cell.outputs[name]] = torch.as_tensor(model.resize_mask(np.asarray(mask)), device=device)
    masks.size, masks.device = probe.size, device
    probe.ground_truth = masks
    return probe


def judge_of(cell: Cell, probe: Probe) -> Probe:
    """What Drop and Increase read: the method's probe, or one with a fill or confidence of their own (M5, M6)."""
    protocol = cell.cfg.protocol
    confidence, fill = protocol.metric_confidence or protocol.confidence, protocol.metric_fill or protocol.fill
    if (confidence, fill) == (protocol.confidence, protocol.fill):
        return probe
    if (confidence, fill) not in probe.judges:
        probe.judges[confidence, fill] = Probe(
            probe.network,
            probe.image,
            confidence=confidence,
            fill=make_fill(fill, cell.model, probe.image),
            scorer=probe.scorer,
            classes=len(cell.model.classes),
        )
    return probe.judges[confidence, fill]


class _Masks(dict):
    """Ground-truth masks by the network's output; a class that is not annotated has an empty one."""

    def __missing__(self, output: int) -> Tensor:
        return torch.zeros(self.size, dtype=torch.bool, device=self.device)


def make_fill(kind: str, model: Model, image: Tensor) -> Tensor | None:
    """PROTOCOL M5: the network input of masked pixels."""
    if kind == "zero":
        return None
    if kind == "blur":
        from torchvision.transforms.functional import gaussian_blur

        return gaussian_blur(image, kernel_size=11, sigma=5.0)  # RISE's insertion baseline
    colour = model.black if kind == "black" else model.mean
    return torch.tensor(colour, dtype=image.dtype, device=image.device).view(1, -1, *[1] * (image.ndim - 2))


def targets_to_explain(cell: Cell, sample: Sample, probe: Probe) -> list[int]:
    """PROTOCOL M8: which classes of the image are explained; all of them, also where only one record is missing."""
    kind = cell.cfg.protocol.targets
    if kind == "all":
        return cell.pairs(sample.image_id)
    names = {name: i for i, name in enumerate(cell.dataset.classes)}
    scores = probe.scores()
    if kind == "argmax":
        known = [(float(scores[o]), names[n]) for n, o in cell.outputs.items() if n in names]
        return [max(known)[1]] if known else []
    pairs = [t for t in sample.targets if cell.dataset.classes[t] in cell.outputs]
    best = set(scores.topk(min(len(pairs), len(scores))).indices.tolist())
    return [t for t in pairs if cell.outputs[cell.dataset.classes[t]] in best]


def checked_maps(saliency: Tensor, probe: Probe, count: int, on_nan: str) -> Tensor:
    """Maps (T, H, W) as float32, if their shape is the image's; NaN is an error or zero (``protocol.on_nan``)."""
    expected = (count, *probe.size)
    if tuple(saliency.shape) != expected:
        raise SuiteError(f"the explainer returned shape {tuple(saliency.shape)}; expected (T, H, W) = {expected}.")
    finite = torch.isfinite(saliency).flatten(1).all(dim=1)
    if not finite.all():
        if on_nan == "fail":
            raise SuiteError(
                f"the explainer returned NaN or infinity for {int((~finite).sum())} of {count} maps; "
                "protocol.on_nan=zero counts such a map as zero."
            )
        saliency = torch.where(over_map(finite, saliency), saliency, 0)
    return saliency.detach().float()


def image_seed(seed: int, image_id: str) -> int:
    """One seed per (seed, image), so that a map does not depend on the order or the machine it is made in."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image_id}".encode()).digest()[:4], "big")


def choose_device(name: str, shard: Shard = EVERYTHING) -> torch.device:
    """``cpu``, ``cuda:1``, ...; ``auto`` takes a GPU if there is one, and shares GPUs out among shards."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", (shard.number - 1) % torch.cuda.device_count())  # shards share out the GPUs
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count()
        there = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))])
        raise SuiteError(f"device={name} is not available here; expected one of: {there}.") from error
    return device

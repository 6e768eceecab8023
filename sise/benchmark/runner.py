"""From configurations to records: plans what is missing, runs it on shared probes, and keeps every result.

A *cell* is one run: (dataset, model, explainer, variant). Cells that see the same images through the same network in
the same way are run together, image by image, on one probe, so that no forward pass is made twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm.auto import tqdm

from metrics import keep_mask, undefined
from sise.benchmark.records import RunFolder, environment
from sise.benchmark.score_cache import ScoreCache
from sise.probe import Probe
from sise.scoring import Scorer
from sise.types import Dataset, Explainer, Model, Record, Sample, SuiteError, choose

log = logging.getLogger(__name__)

TARGETS = ("all", "predicted", "argmax")
FILLS = ("zero", "black", "mean", "blur")
NOT_IDENTITY = ("root", "weights")  # where files lie says nothing about what they are: hashes do


@dataclass
class Cell:
    """One run, its configuration and where its records go.

    Attributes:
        cfg: The resolved configuration.
        dataset, model: Loaded once and shared by the cells that name the same.
    """

    cfg: DictConfig
    dataset: Dataset
    model: Model
    saved: dict[tuple[str, int], str] = field(default_factory=dict)
    folder: RunFolder | None = None

    @property
    def name(self) -> str:
        """``<dataset>/<model>/<explainer>/<variant>``, also the run's folder below ``outputs``."""
        cfg = self.cfg
        seed = f"-seed{cfg.seed}" if cfg.explainer.stochastic else ""
        return f"{self.dataset.name}/{cfg.model.name}/{cfg.explainer.name}/{cfg.variant}{seed}"

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

    def missing(self, image_id: str) -> list[int]:
        """Targets of the image without a good record. Unless every class is explained, known only after a look."""
        if self.cfg.protocol.targets != "all":
            return [] if any(i == image_id and s == "ok" for (i, _), s in self.saved.items()) else [-1]
        return [t for t in self.pairs(image_id) if self.saved.get((image_id, t)) != "ok"]

    def probe_key(self) -> str:
        """Equal for cells that may share a probe."""
        p = self.cfg.protocol
        parts = (self.dataset.name, self.cfg.model.name, self.model.weights_hash, repr(self.model.preprocess))
        parts += (self.model.layers, self.model.cam_layer, p.fill, p.confidence, p.gradient, p.targets)
        return repr((*parts, OmegaConf.to_container(self.cfg.engine), self.dataset.fingerprint()))

    def identity(self) -> dict[str, Any]:
        """What the run is (``run.json``): everything its numbers depend on."""
        cfg = self.cfg
        complete, counts = self.dataset.verify_counts() if hasattr(self.dataset, "verify_counts") else (True, "")
        every = [(i, t) for i in self.dataset.ids for t in self.dataset.targets_of(i)]
        left_out = sorted({self.dataset.classes[t] for _, t in every} - set(self.outputs))
        pairs = sum(self.dataset.classes[t] in self.outputs for _, t in every)
        notes = list(_budget_notes(cfg))
        if left_out:
            notes.append(f"{len(every) - pairs} pairs left out, the network has no such class: {', '.join(left_out)}")
        if not complete and counts:
            notes.append(counts)
        return {
            "dataset": self.dataset.name,
            "model": cfg.model.name,
            "explainer": cfg.explainer.name,
            "variant": cfg.variant + (f"-seed{cfg.seed}" if cfg.explainer.stochastic else ""),
            "protocol": cfg.protocol.name,
            "seed": cfg.seed if cfg.explainer.stochastic else None,
            "label": cfg.explainer.label,
            "config": _identity_config(cfg),
            "preprocessing": repr(self.model.preprocess),
            "layers": list(self.model.layers),
            "weights_hash": self.model.weights_hash,
            "weights_official": bool(getattr(self.model, "official", False)),
            "model_note": self.model.note,
            "dataset_fingerprint": self.dataset.fingerprint(),
            "complete_dataset": complete,
            "expected_pairs": pairs,
            "budget_notes": notes,
        }


def make_cells(configs: Sequence[DictConfig]) -> list[Cell]:
    """Loads each dataset and model once and makes a cell of every configuration.

    Raises:
        SuiteError: If data, weights or a setting are wrong, or two cells would write to the same folder.
    """
    loaded: dict[str, Any] = {}

    def load(node: DictConfig) -> Any:
        key = json.dumps(OmegaConf.to_container(node, resolve=True), sort_keys=True, default=str)
        if key not in loaded:
            loaded[key] = instantiate(node)
        return loaded[key]

    cells: list[Cell] = []
    for cfg in configs:
        choose("protocol.targets", cfg.protocol.targets, TARGETS)
        choose("protocol.fill", cfg.protocol.fill, FILLS)
        choose("protocol.on_nan", cfg.protocol.on_nan, ("fail", "zero"))
        cell = Cell(cfg, load(cfg.dataset.loader), load(cfg.model.loader))
        if cell.name in {c.name for c in cells}:
            raise SuiteError(f"two cells of this experiment share the run folder {cell.name}; give one a `variant=`.")
        cells.append(cell)
    return cells


def run(cells: Sequence[Cell], *, limit: int | None = None, overwrite: bool = False, dry_run: bool = False) -> int:
    """Computes every missing record of the cells.

    Args:
        cells: From :func:`make_cells`.
        limit: First N images only.
        overwrite: Start the runs anew.
        dry_run: Only say what would run.

    Returns:
        How many pairs failed in this run.
    """
    for cell in cells:
        folder = Path(cell.cfg.outputs) / cell.name
        if dry_run and not folder.exists():
            continue
        cell.folder = RunFolder(folder, cell.identity(), overwrite=overwrite and not dry_run)
        cell.saved = {(r["image_id"], r["target"]): r["status"] for r in cell.folder.read()}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.probe_key(), []).append(cell)
    if dry_run:
        _print_plan(cells, limit)
        return 0
    failed = 0
    for group in groups.values():
        failed += _run_group(group, limit)
    return failed


# ---------------------------------------------------------------------- one group of cells, image by image


def _run_group(cells: list[Cell], limit: int | None) -> int:
    dataset, model = cells[0].dataset, cells[0].model
    wanted = {i: [c for c in cells if c.missing(i)] for i in dataset.ids[:limit]}
    wanted = {i: needing for i, needing in wanted.items() if needing}
    if not wanted:
        log.info("%s on %s: nothing missing", model.name, dataset.name)
        return 0
    device = _device(cells[0].cfg.device)
    network = model.network.to(device)
    engine = cells[0].cfg.engine
    scorer = Scorer(
        network,
        batch_size=engine.batch_size,
        lossless=engine.lossless,
        precision=engine.precision,
        compile=engine.compile,
    )
    cache = _score_cache(cells[0], device) if engine.cache else None
    failed = 0
    with ExitStack() as stack:
        for cell in cells:
            stack.enter_context(cell.folder)
            cell.folder.add_environment(environment(device))
        bar = stack.enter_context(tqdm(wanted.items(), desc=f"{dataset.name} × {model.name}", unit="image"))
        for image_id, needing in bar:
            try:
                sample = dataset[image_id]
                probe = _probe(cells[0], sample, scorer, device)
            except Exception as error:
                for cell in needing:
                    failed += _save_failures(cell, image_id, cell.missing(image_id), error)
                continue
            known = cache is not None and cache.restore(probe)
            passes = probe.forward_passes
            failed += _run_image(needing, sample, probe, bar)
            if cache is not None and (not known or probe.forward_passes > passes):
                cache.save(probe, sorted(probe.ground_truth))
            bar.set_postfix(failed=failed) if failed else None
    return failed


def _run_image(cells: list[Cell], sample: Sample, probe: Probe, bar: tqdm) -> int:
    """Explains one image with every cell, then scores all their maps with one batch of passes, then saves."""
    failed = 0
    explained: list[tuple[Cell, list[int], Tensor, dict[str, Any]]] = []
    for cell in cells:
        bar.set_postfix_str(cell.cfg.explainer.name)
        targets = _targets(cell, sample, probe)
        if not targets:
            continue
        outputs = [cell.outputs[cell.dataset.classes[t]] for t in targets]
        probe.seed = _seed(cell.cfg.seed, sample.image_id)
        try:
            with probe.bill() as bill:
                saliency = cell.explainer(probe, outputs)
            saliency = _checked(saliency, probe, len(targets), cell.cfg.protocol.on_nan)
        except Exception as error:
            failed += _save_failures(cell, sample.image_id, targets, error)
            continue
        share = 1 / len(targets)
        costs = {
            "seconds": bill.seconds * share,
            "forward_passes": bill.forward * share,
            "backward_passes": bill.backward * share,
        }
        explained.append((cell, targets, saliency, costs))
    if explained:
        _remember_faithfulness_passes(explained, probe)
    for cell, targets, saliency, costs in explained:
        try:
            records = [_record(cell, sample, probe, t, s, costs) for t, s in zip(targets, saliency, strict=True)]
        except Exception as error:
            failed += _save_failures(cell, sample.image_id, targets, error)
            continue
        cell.folder.append(records)
        cell.saved.update({(sample.image_id, t): "ok" for t in targets})
    return failed


def _record(cell: Cell, sample: Sample, probe: Probe, target: int, saliency: Tensor, costs: dict[str, Any]) -> Record:
    output = cell.outputs[cell.dataset.classes[target]]
    mask = probe.ground_truth[output]
    localization, faithfulness = cell.metrics
    values, by_definition = {}, []
    for name, metric in localization.items():
        values[name] = metric(saliency, mask)
        by_definition += [name] if undefined(metric, saliency, mask) else []
    for name, metric in faithfulness.items():
        values[name] = metric(probe, output, saliency)
        by_definition += [name] if undefined(metric, probe, output, saliency) else []
    record = {"image_id": sample.image_id, "target": target, "class": cell.dataset.classes[target], "status": "ok"}
    record |= values | costs
    record |= {
        "confidence": probe.confidence(output),
        "mask_fraction": float(mask.float().mean()),
        "undefined": by_definition,
    }
    if target in sample.targets and "difficult" in sample.info:
        record["difficult"] = bool(sample.info["difficult"][sample.targets.index(target)])
    return record


def _remember_faithfulness_passes(explained: Sequence[tuple], probe: Probe) -> None:
    """Scores the kept pixels of all maps in one batch; the metrics then find them in the probe's memory."""
    kept = []
    for cell, _, saliency, _ in explained:
        for metric in cell.metrics[1].values():
            options = getattr(metric, "keywords", {})
            kept += [keep_mask(s, **{k: options[k] for k in ("fraction", "rule") if k in options}) for s in saliency]
    if kept:
        probe.score_masks(torch.stack(kept))


def _save_failures(cell: Cell, image_id: str, targets: Sequence[int], error: Exception) -> int:
    """Records that pairs failed and why; the run goes on, and the next one tries them again."""
    reason = f"{type(error).__name__}: {error}"
    log.warning("%s, image %s failed: %s", cell.name, image_id, reason)
    log.debug("traceback", exc_info=error)
    names = cell.dataset.classes
    cell.folder.append(
        {
            "image_id": image_id,
            "target": t,
            "class": names[t] if t >= 0 else "",
            "status": "failed",
            "reason": reason,
        }
        for t in targets
    )
    return len(targets)


# ---------------------------------------------------------------------- parts of a probe


def _score_cache(cell: Cell, device: torch.device) -> ScoreCache:
    return ScoreCache(
        Path(cell.cfg.outputs) / ".scores",
        cell.model.weights_hash,
        cell.model.layers,
        cell.cfg.protocol.fill,
        cell.cfg.engine.precision,
        device.type,
        torch.__version__,
    )


def _probe(cell: Cell, sample: Sample, scorer: Scorer, device: torch.device) -> Probe:
    model, protocol = cell.model, cell.cfg.protocol
    image = model.preprocess(sample.image)[None].to(device)
    probe = Probe(
        model.network,
        image,
        layers=model.layers,
        cam_layer=model.cam_layer,
        confidence=protocol.confidence,
        gradient=protocol.gradient,
        fill=_fill(protocol.fill, model, image),
        scorer=scorer,
    )
    masks = _Masks()
    for target, mask in zip(sample.targets, sample.masks, strict=True):
        name = cell.dataset.classes[target]
        if name in cell.outputs:
            masks[cell.outputs[name]] = torch.as_tensor(model.resize_mask(np.asarray(mask)), device=device)
    masks.size, masks.device = probe.size, device
    probe.ground_truth = masks
    return probe


class _Masks(dict):
    """Ground-truth masks by the network's output; a class that is not annotated has an empty one."""

    def __missing__(self, output: int) -> Tensor:
        return torch.zeros(self.size, dtype=torch.bool, device=self.device)


def _fill(kind: str, model: Model, image: Tensor) -> Tensor | None:
    """PROTOCOL M5: the network input of masked pixels."""
    if kind == "zero":
        return None
    if kind == "blur":
        from torchvision.transforms.functional import gaussian_blur

        return gaussian_blur(image, kernel_size=11, sigma=5.0)  # RISE's insertion baseline
    colour = model.black if kind == "black" else model.mean
    return torch.tensor(colour, dtype=image.dtype, device=image.device).view(1, -1, 1, 1)


def _targets(cell: Cell, sample: Sample, probe: Probe) -> list[int]:
    """PROTOCOL M8: which classes of the image are explained."""
    kind = cell.cfg.protocol.targets
    if kind == "all":
        return cell.missing(sample.image_id)
    names = {name: i for i, name in enumerate(cell.dataset.classes)}
    scores = probe.scores()
    if kind == "argmax":
        known = [(float(scores[o]), names[n]) for n, o in cell.outputs.items() if n in names]
        return [max(known)[1]] if known else []
    pairs = [t for t in sample.targets if cell.dataset.classes[t] in cell.outputs]
    best = set(scores.topk(min(len(pairs), len(scores))).indices.tolist())
    return [t for t in pairs if cell.outputs[cell.dataset.classes[t]] in best]


def _checked(saliency: Tensor, probe: Probe, count: int, on_nan: str) -> Tensor:
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
        saliency = torch.where(finite[:, None, None], saliency, 0)
    return saliency.detach().float()


def _seed(seed: int, image_id: str) -> int:
    """One seed per (seed, image), so that a map does not depend on the order or the machine it is made in."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{image_id}".encode()).digest()[:4], "big")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SuiteError(f"device={name} is not available here ({error}); use device=cpu or device=auto.") from error
    return device


# ---------------------------------------------------------------------- what a run is


def _identity_config(cfg: DictConfig) -> dict[str, Any]:
    """The settings a run's numbers depend on, without the places where files lie."""
    kept = OmegaConf.to_container(cfg, resolve=True)
    kept = {group: kept[group] for group in ("dataset", "model", "explainer", "protocol", "metrics")}
    kept["engine"] = {"precision": cfg.engine.precision}

    def without_places(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: without_places(v) for k, v in node.items() if k not in NOT_IDENTITY}
        return [without_places(v) for v in node] if isinstance(node, list) else node

    return without_places(kept)


def _budget_notes(cfg: DictConfig) -> Iterator[str]:
    """Says where a run departs from its preset or from the paper's budget: it can't count as a reproduction then."""
    paper = ("explainer.call.n_masks", "explainer.call.max_iter")  # said below
    changed = [d for d in cfg.departures if not d.startswith(paper)]
    if changed:
        yield f"departs from protocol={cfg.protocol.name}: {', '.join(changed)}"
    if cfg.explainer.name == "rise" and cfg.explainer.call.n_masks != cfg.budgets.paper.rise_masks:
        yield f"{cfg.explainer.call.n_masks} masks (paper: {cfg.budgets.paper.rise_masks})"
    full = cfg.budgets.paper.extremal_perturbation_iterations
    if cfg.explainer.name == "extremal_perturbation" and cfg.explainer.call.max_iter != full:
        yield f"{cfg.explainer.call.max_iter} iterations (paper: {full})"


def _print_plan(cells: Sequence[Cell], limit: int | None) -> None:
    for cell in cells:
        pairs = [(i, t) for i in cell.dataset.ids[:limit] for t in cell.pairs(i)]
        done = sum(cell.saved.get(p) == "ok" for p in pairs)
        failed = sum(cell.saved.get(p) == "failed" for p in pairs)
        print(f"{cell.name}: {done} done, {len(pairs) - done - failed} missing, {failed} failed")

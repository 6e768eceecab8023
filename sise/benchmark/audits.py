"""The audits of PROTOCOL section 8: asking the papers' data and weights which reading their numbers belong to.

Each audit is a short function from a `Bench` to an `Audit`, a table with a verdict. With anything but the papers' own
complete data and published weights it runs all the same, to show that it works, and refuses to conclude.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm.auto import tqdm

from metrics.localization import ebpg
from sise.benchmark import runner
from sise.benchmark.preprocessing import CAFFE_MEAN, Preprocessing
from sise.method import ADAPTIVE_RULES, adaptive_threshold, select
from sise.probe import Probe
from sise.scoring import Scorer
from sise.types import Model, Sample, SuiteError, choose

__all__ = ["AUDITS", "Audit", "Bench", "accuracy_grid", "centre_game", "hits", "pointing_hit", "run", "top_hits"]

_log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
PAPERS = {"voc2007": "SISE Table 1", "coco2014": "SISE Table 4"}
TABLE_METRICS = ("EBPG", "mIoU", "Bbox", "Drop%", "Increase%")

#: PROTOCOL P1 to P3: (smallest, largest) hits that round to the published accuracies: top-1 images, top-5 pairs.
PUBLISHED_HITS = {
    ("voc2007", "vgg16"): ((4_317, 4_317), (7_120, 7_120)),
    ("voc2007", "resnet50"): ((4_356, 4_356), (7_105, 7_105)),
    ("coco2014", "vgg16"): ((34_519, 34_540), (80_432, 80_466)),
    ("coco2014", "resnet50"): ((35_254, 35_274), (81_901, 81_935)),
}
#: TorchRay's docs/pointing.csv, the centre: percent, ALL and DIF.
PUBLISHED_CENTRE = {("voc2007", "ALL"): 69.6, ("voc2007", "DIF"): 42.4,
                    ("coco2014", "ALL"): 27.8, ("coco2014", "DIF"): 19.5}  # fmt: skip
#: Extremal Perturbation's areas in TorchRay's own benchmark.
BENCHMARK_AREAS = {"coco2014": (0.018, 0.025, 0.05, 0.1)}
_VOC_AREAS = (0.025, 0.05, 0.1, 0.2)

GEOMETRIES = ("squash", "shorter_side", "center_crop")
RESAMPLES = ("lanczos", "bilinear", "nearest")
RANGES = ("mean-sub", "raw255")
CHANNELS = ("RGB", "BGR")


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        name: "U1" ... "V7".
        question: What it asks, one line.
        rows: The table.
        verdict: What follows, as if data and weights were the papers'; ``Bench.standing`` has the last word.
    """

    name: str
    question: str
    rows: pd.DataFrame
    verdict: str


class Bench:
    """The data, networks and settings that audits share.

    Args:
        cfg: ``configs/doctor.yaml``, composed.
        overrides: The command line's; those of groups of ``configs/evaluate.yaml`` are applied to it as well.
        name: The audit, for its limit.
    """

    def __init__(self, cfg: DictConfig, overrides: Sequence[str], name: str) -> None:
        groups = ("dataset", "protocol", "engine")
        self.cfg = cfg
        self.shared = [o for o in overrides if o.lstrip("+~").split("=")[0].split(".")[0] in groups]
        self.shared += list(cfg.overrides)
        self.limit = cfg.limit if cfg.limit is not None else cfg.limits[cfg.dataset.budget][name]
        self.device = runner._device(cfg.device)
        self._models: dict[tuple[str, bool], Model] = {}

    def compose(self, *overrides: str) -> DictConfig:
        """``configs/evaluate.yaml`` with the command line's settings and these."""
        return compose("evaluate", [*self.shared, f"device={self.cfg.device}", *overrides])

    @cached_property
    def dataset(self) -> Any:
        return instantiate(self.compose().dataset.loader)

    @property
    def ids(self) -> tuple[str, ...]:
        return self.dataset.ids[: self.limit]

    @property
    def whole(self) -> bool:
        """Whether every image takes part."""
        return len(self.ids) == len(self.dataset.ids)

    def _model_overrides(self, name: str) -> list[str]:
        weights = self.cfg.weights.get(name)
        return [f"model={name}", *([f"model.weights={weights}"] if weights else [])]

    def model(self, name: str, fully_convolutional: bool = False) -> Model:
        """A network, loaded once. The shapes' networks take any input size as they are."""
        fully_convolutional &= self.cfg.dataset.networks in ("voc", "coco")
        if (name, fully_convolutional) not in self._models:
            extra = [f"protocol.fully_convolutional={str(fully_convolutional).lower()}"]
            cfg = self.compose(*self._model_overrides(name), *extra)
            self._models[name, fully_convolutional] = instantiate(cfg.model.loader)
        return self._models[name, fully_convolutional]

    def cell(self, model: str, *overrides: str) -> runner.Cell:
        """A cell of the runner for this dataset and a network."""
        cfg = self.compose(*self._model_overrides(model), *overrides)
        return runner.Cell(cfg, self.dataset, self.model(model))

    def images(self, *cells: runner.Cell) -> Iterator[tuple[Sample, list[Probe], list[int]]]:
        """Every image: its sample, a probe per cell, and the network's outputs of its targets."""
        network = cells[0].model.network.to(self.device)
        engine = cells[0].cfg.engine
        scorer = Scorer(network, batch_size=engine.batch_size, lossless=engine.lossless, precision=engine.precision)
        for image_id in tqdm(self.ids, desc=f"{self.dataset.name} × {cells[0].cfg.model.name}", unit="image"):
            targets = cells[0].pairs(image_id)
            if not targets:
                continue
            sample = self.dataset[image_id]
            probes = [runner._probe(cell, sample, scorer, self.device) for cell in cells]
            for probe in probes:
                probe.seed = runner._seed(0, image_id)
            yield sample, probes, [cells[0].outputs[self.dataset.classes[t]] for t in targets]

    def published(self, model: str, method: str) -> dict[str, float]:
        """The paper's numbers for a method, by metric; of VOC's table where the data are a stand-in."""
        rows = _published(self.cfg)
        table = PAPERS.get(self.dataset.name, "SISE Table 1")
        rows = rows[(rows["table"] == table) & (rows["model"] == model) & (rows["method"] == method)]
        return dict(zip(rows["metric"], rows["value"], strict=True))

    def standing(self, networks: bool = True) -> str:
        """Why nothing can be concluded; empty if something can."""
        if self.dataset.name not in PAPERS:
            return "stand-in: says nothing about the papers"
        complete, message = self.dataset.verify_counts()
        if not complete:
            return f"incomplete data ({message})"
        others = [n for n in self.cfg.models if networks and not getattr(self.model(n), "official", False)]
        return f"not TorchRay's published weights: {', '.join(others)}" if others else ""


def _published(cfg: DictConfig) -> pd.DataFrame:
    from sise.benchmark.tables import read_published

    return read_published(ROOT / cfg.published)


# --- U1: accuracies ---------------------------------------------------------------------------------------------------


def top_hits(scores: Tensor, targets: Sequence[int], k: int = 5) -> tuple[bool, int]:
    """PROTOCOL P1: whether the best of (K,) scores is one of the targets, and how many targets are among the best k."""
    best = scores.topk(min(k, len(scores))).indices.tolist()
    return best[0] in targets, sum(target in best for target in targets)


def hits(network: nn.Module, inputs: Tensor, targets: Sequence[Sequence[int]]) -> tuple[int, int]:
    """(top-1 images, top-5 pairs) of a batch of inputs (N, 3, H, W) with the targets of each."""
    with torch.no_grad():
        found = [top_hits(s, t) for s, t in zip(network(inputs).float().cpu(), targets, strict=True)]
    return sum(first for first, _ in found), sum(pairs for _, pairs in found)


def accuracy_grid(
    dataset: Any,
    classes: Sequence[str],
    networks: dict[str, nn.Module],
    *,
    ids: Sequence[str],
    device: torch.device,
    size: int = 224,
    batch: int = 8,
) -> tuple[pd.DataFrame, int, int]:
    """Hits under every preprocessing.

    Args:
        dataset: Images and targets.
        classes: Of the networks' scores.
        networks: By geometry (``shorter_side`` needs one that takes any input size).
        ids: Which images.
        device: Where to run.
        size: Of the network's input.
        batch: Images at once; each is seen in four value ranges.

    Returns:
        Rows with geometry, resample, range, channels, top-1 and top-5 hits; images and pairs seen.
    """
    outputs = {name: i for i, name in enumerate(classes)}
    mean = torch.tensor(CAFFE_MEAN, device=device).view(1, 3, 1, 1)
    counts: dict[tuple, np.ndarray] = defaultdict(lambda: np.zeros(2, dtype=np.int64))
    images = pairs = 0
    waiting: dict[tuple, list[tuple[Tensor, list[int]]]] = defaultdict(list)

    def flush(key: tuple) -> None:
        geometry, resample, _ = key
        pixels = torch.stack([x for x, _ in waiting[key]]).to(device)
        targets = [t for _, t in waiting.pop(key)]
        for kind in RANGES:
            values = pixels - mean if kind == "mean-sub" else pixels
            for order in CHANNELS:
                inputs = values.flip(1) if order == "BGR" else values
                counts[geometry, resample, kind, order] += hits(networks[geometry], inputs, targets)

    for network in {id(n): n for n in networks.values()}.values():
        network.to(device)
    plain = {
        (geometry, resample): Preprocessing(size=(size, size), geometry=geometry, resample=resample, mean=(0, 0, 0))
        for geometry in networks
        for resample in RESAMPLES
    }
    for image_id in tqdm(ids, desc=f"{dataset.name}: accuracies", unit="image"):
        targets = [outputs[name] for t in dataset.targets_of(image_id) if (name := dataset.classes[t]) in outputs]
        if not targets:
            continue
        images, pairs = images + 1, pairs + len(targets)
        image = dataset[image_id].image
        for (geometry, resample), preprocess in plain.items():
            x = preprocess(image)
            key = (geometry, resample, tuple(x.shape))
            waiting[key].append((x, targets))
            if len(waiting[key]) >= (1 if geometry == "shorter_side" else batch):
                flush(key)
    for key in list(waiting):
        flush(key)
    columns = ["geometry", "resample", "range", "channels"]
    rows = [{**dict(zip(columns, cell, strict=True)), "top-1": int(one), "top-5": int(five)}
            for cell, (one, five) in counts.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=[*columns, "top-1", "top-5"]), images, pairs


def _distance(value: int, interval: tuple[int, int]) -> int:
    return max(interval[0] - value, value - interval[1], 0)


def u1(bench: Bench) -> Audit:
    """Which preprocessing yields the published accuracies, to the integer."""
    tables = []
    for name in bench.cfg.models:
        networks = {geometry: bench.model(name, geometry == "shorter_side").network for geometry in GEOMETRIES}
        rows, images, pairs = accuracy_grid(
            bench.dataset, bench.model(name).classes, networks, ids=bench.ids, device=bench.device
        )
        rows.insert(0, "model", name)
        rows["top-1 % of images"] = (100 * rows["top-1"] / images).round(2)
        rows["top-1 % of pairs"] = (100 * rows["top-1"] / pairs).round(2)
        rows["top-5 %"] = (100 * rows["top-5"] / pairs).round(2)
        known = PUBLISHED_HITS.get((bench.dataset.name, name))
        if known:
            for column, interval in zip(("top-1", "top-5"), known, strict=True):
                low, high = interval
                rows[f"published {column}"] = str(low) if low == high else f"{low}-{high}"
                if bench.whole:
                    rows[f"{column} off by"] = [_distance(value, interval) for value in rows[column]]
        tables.append(rows)
    rows = pd.concat(tables, ignore_index=True)
    return Audit("U1", "Which preprocessing yields the published accuracies?", rows, _u1_verdict(bench, rows))


def _u1_verdict(bench: Bench, rows: pd.DataFrame) -> str:
    if "top-1 off by" not in rows:
        part = f"{len(bench.ids)} of {len(bench.dataset.ids)} images: integers can only be compared on all"
        return part if not bench.whole else "no published accuracies for this dataset"
    cells = ["geometry", "resample", "range", "channels"]
    total = rows.assign(off=rows["top-1 off by"] + rows["top-5 off by"]).groupby(cells, sort=False)["off"].sum()
    best = total.min()
    closest = [" / ".join(cell) for cell, off in total.items() if off == best]
    geometry, resample, kind, channels = total.idxmin()
    mean = "[0,0,0]" if kind == "raw255" else f"[{','.join(map(str, CAFFE_MEAN))}]"
    settings = f"protocol.geometry={geometry} protocol.resample={resample} protocol.caffe_mean={mean}"
    settings += " protocol.fully_convolutional=true" if geometry == "shorter_side" else ""
    settings += " +model.loader.preprocessing.channels=BGR" if channels == "BGR" else ""
    found = "exactly the published integers" if best == 0 else f"off by {best} hits in all, NOT the published integers"
    return f"closest: {'; '.join(closest)}: {found}. To use it: {settings}"


# --- U2, U3: which feature maps ---------------------------------------------------------------------------------------


def _gradient_scores(
    bench: Bench, model: str, kinds: Sequence[str]
) -> Iterator[tuple[str, int, np.ndarray, Callable[[str], Tensor]]]:
    """Every pair's (layer, number of feature maps, kind -> gradient scores)."""
    cell = bench.cell(model)
    for _, [probe], outputs in bench.images(cell):
        probe.watch(probe.layers)
        for target in outputs:
            for layer in probe.layers:
                yield layer, len(probe.feature_maps(layer)), {k: probe.gradient_scores(layer, target, k) for k in kinds}


def u2(bench: Bench) -> Audit:
    """What is differentiated: the share of feature maps with a positive gradient score under softmax and logit."""
    kinds = ("log_odds", "softmax_f32", "logit")
    rows = []
    for model in bench.cfg.models:
        positive, channels, count = defaultdict(float), {}, defaultdict(int)
        for layer, maps, scores in _gradient_scores(bench, model, kinds):
            channels[layer] = maps
            count[layer] += 1
            for kind in kinds:
                positive[layer, kind] += int((scores[kind] > 0).sum())
        for place, layer in enumerate(channels, 1):
            known = _table_2(bench.cfg, model, "SISE", place)
            of = _table_2(bench.cfg, model, "available", place)
            for kind in kinds:
                mean = positive[layer, kind] / count[layer]
                rows.append({"model": model, "layer": layer, "gradient": kind, "pairs": count[layer],
                             "feature maps": channels[layer], "positive": round(mean, 1),
                             "positive %": round(100 * mean / channels[layer], 1), "published": known,
                             "published %": round(100 * known / of, 1)})  # fmt: skip
    table = pd.DataFrame(rows)
    known = table.dropna(subset=["published"])
    off = (known["positive %"] - known["published %"]).abs().groupby(known["gradient"]).mean()
    verdict = "no published counts for these networks"
    if len(off):
        each = "; ".join(f"{kind}: {value:.1f}" for kind, value in off.items())
        verdict = f"closest: {off.idxmin()} (points off Ada-SISE Table 2 on average: {each})"
    return Audit("U2", "Is softmax differentiated, or the logit?", table, verdict)


def _table_2(cfg: DictConfig, model: str, method: str, place: int) -> float:
    """Ada-SISE Table 2, layer p1 ... p5; NaN where it has none."""
    rows = _published(cfg)
    rows = rows[(rows["table"] == "Ada-SISE Table 2") & (rows["model"] == model) & (rows["method"] == method)]
    values = rows.set_index("metric")["value"]
    return float(values.get(f"feature maps p{place}", math.nan))


def u3(bench: Bench) -> Audit:
    """Feature maps that each reading of Ada-SISE's rule keeps, beside its Table 2."""
    rows = []
    for model in bench.cfg.models:
        kept, positive, count = defaultdict(float), defaultdict(float), defaultdict(int)
        for layer, _, found in _gradient_scores(bench, model, ("log_odds",)):
            scores = found["log_odds"]
            count[layer] += 1
            positive[layer] += int((scores > 0).sum())
            for rule in ADAPTIVE_RULES:
                kept[rule, layer] += int(select(scores, lambda v, r=rule: adaptive_threshold(v, r)).sum())
        for rule in ADAPTIVE_RULES:
            for place, layer in enumerate(count, 1):
                mean = kept[rule, layer] / count[layer]
                of = positive[layer] / count[layer]
                known = _table_2(bench.cfg, model, "Ada-SISE", place)
                known_of = _table_2(bench.cfg, model, "SISE", place)
                rows.append({"model": model, "rule": rule, "layer": layer, "pairs": count[layer],
                             "kept": round(mean, 1), "% of positive": round(100 * mean / max(of, 1e-9), 1),
                             "published": known, "published %": round(100 * known / known_of, 1)})  # fmt: skip
    table = pd.DataFrame(rows)
    known = table.dropna(subset=["published"])
    off = (known["% of positive"] - known["published %"]).abs().groupby(known["rule"]).mean()
    if not len(off):
        return Audit("U3", "Which reading of Ada-SISE's rule?", table, "no published counts for these networks")
    verdict = "; ".join(f"{rule} {value:.0f}" for rule, value in off.sort_values().items())
    return Audit("U3", "Which reading of Ada-SISE's rule?", table,
                 f"closest: {off.idxmin()} (mean distance to Table 2's shares in points: {verdict})")  # fmt: skip


# --- U4 to U6: what the tables' numbers depend on ---------------------------------------------------------------------


class _Means:
    """Means of metrics over pairs, by row."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, key: tuple[str, ...], **values: float) -> None:
        for metric, value in values.items():
            self.values[key][metric].append(100 * value)

    def rows(self, columns: Sequence[str], published: Callable[[tuple[str, ...]], dict[str, float]]) -> pd.DataFrame:
        """One row per key and metric: mean, standard error, pairs, and the published value."""
        rows = []
        for key, metrics in self.values.items():
            known = published(key)
            for metric, values in metrics.items():
                n = len(values)
                error = float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
                row = {"metric": metric, "mean": round(float(np.mean(values)), 2), "standard error": round(error, 2)}
                row |= {"pairs": n, "published": known.get(metric, math.nan)}
                rows.append({**dict(zip(columns, key, strict=True)), **row})
        return pd.DataFrame(rows)


def _measures(cell: runner.Cell, probe: Probe, output: int, saliency: Tensor) -> dict[str, float]:
    """The five metrics of the tables, for one map."""
    localization, faithfulness = cell.metrics
    mask = probe.ground_truth[output]
    values = {name: float(metric(saliency, mask)) for name, metric in localization.items()}
    return values | {name: float(metric(probe, output, saliency)) for name, metric in faithfulness.items()}


def _closest(rows: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> str:
    """The key whose means of these metrics are closest to the published ones."""
    known = rows[rows["metric"].isin(metrics)].dropna(subset=["published"])
    if not len(known):
        return "no published numbers for this dataset"
    off = (known["mean"] - known["published"]).abs().groupby([known[column] for column in by], sort=False).mean()
    each = "; ".join(f"{' / '.join(np.atleast_1d(key))}: {value:.2f}" for key, value in off.items())
    best = " / ".join(np.atleast_1d(off.idxmin()))
    return f"{' and '.join(metrics)}: closest {best} (points off on average: {each})"


def u4(bench: Bench) -> Audit:
    """RISE's EBPG on raw and on min-max maps; Extremal Perturbation with one area and with its benchmark's four."""
    areas = BENCHMARK_AREAS.get(bench.dataset.name, _VOC_AREAS)
    means = _Means()
    for model in bench.cfg.models:
        rise = bench.cell(model, "explainer=rise", "explainer.call.normalise=raw")
        one = bench.cell(model, "explainer=extremal_perturbation")
        several = bench.cell(model, "explainer=extremal_perturbation", "explainer.call.smooth=0.09",
                             f"explainer.call.areas=[{','.join(map(str, areas))}]")  # fmt: skip
        for _, [probe], outputs in bench.images(rise):
            for output, saliency in zip(outputs, rise.explainer(probe, outputs), strict=True):
                mask = probe.ground_truth[output]
                means.add((model, "RISE", "raw"), EBPG=ebpg(saliency, mask, normalise="raw"))
                means.add((model, "RISE", "minmax"), **_measures(rise, probe, output, saliency))
            for label, cell in (("areas 0.1", one), (f"areas {' '.join(map(str, areas))}", several)):
                for output, saliency in zip(outputs, cell.explainer(probe, outputs), strict=True):
                    means.add((model, "Extremal Perturbation", label), **_measures(cell, probe, output, saliency))
    rows = means.rows(("model", "explainer", "setting"), lambda key: bench.published(key[0], key[1]))
    verdict = "; ".join(
        f"{name}, {_closest(rows[rows['explainer'] == name], ['setting'], metrics)}"
        for name, metrics in (("RISE", ["EBPG"]), ("Extremal Perturbation", list(TABLE_METRICS)))
    )
    return Audit("U4", "RISE's maps raw or min-max? Extremal Perturbation's areas?", rows, verdict)


def u5(bench: Bench) -> Audit:
    """What masked pixels show, in SISE's passes and in Drop and Increase separately."""
    means = _Means()
    for model in bench.cfg.models:
        cells = {fill: bench.cell(model, "explainer=sise", f"protocol.fill={fill}") for fill in ("black", "mean")}
        for _, probes, outputs in bench.images(*cells.values()):
            seen_by = dict(zip(cells, probes, strict=True))
            for fill, cell in cells.items():
                for output, saliency in zip(outputs, cell.explainer(seen_by[fill], outputs), strict=True):
                    localization, faithfulness = cell.metrics
                    mask = seen_by[fill].ground_truth[output]
                    means.add((model, fill, "–"), **{m: float(f(saliency, mask)) for m, f in localization.items()})
                    for shown, probe in seen_by.items():
                        values = {m: float(f(probe, output, saliency)) for m, f in faithfulness.items()}
                        means.add((model, fill, shown), **values)
    rows = means.rows(("model", "in SISE", "in the metric"), lambda key: bench.published(key[0], "SISE"))
    verdict = "; ".join([_closest(rows, ["in SISE"], ["EBPG", "Bbox"]),
                         _closest(rows, ["in SISE", "in the metric"], ["Drop%", "Increase%"])])  # fmt: skip
    return Audit("U5", "Are masked pixels black, or of the mean colour?", rows, verdict)


def u6(bench: Bench) -> Audit:
    """Float32 softmax gradients against log-odds: how often p is 1, and what it changes in the table."""
    means, saturated = _Means(), []
    for model in bench.cfg.models:
        kinds = ("log_odds", "softmax_f32")
        cells = {kind: bench.cell(model, "explainer=sise", f"protocol.gradient={kind}") for kind in kinds}
        ones = pairs = 0
        for _, probes, outputs in bench.images(*cells.values()):
            confidence = probes[0].scores().float().softmax(0)
            ones, pairs = ones + int((confidence[outputs] == 1.0).sum()), pairs + len(outputs)
            for (kind, cell), probe in zip(cells.items(), probes, strict=True):
                for output, saliency in zip(outputs, cell.explainer(probe, outputs), strict=True):
                    means.add((model, kind), **_measures(cell, probe, output, saliency))
        saturated.append(f"{model}: p rounds to 1 for {ones} of {pairs} pairs ({100 * ones / max(pairs, 1):.1f} %)")
    rows = means.rows(("model", "gradient"), lambda key: bench.published(key[0], "SISE"))
    wide = rows.pivot_table(index=["model", "metric"], columns="gradient", values="mean")
    change = (wide["softmax_f32"] - wide["log_odds"]).abs().max()
    verdict = f"{'; '.join(saturated)}; largest change in a cell: {change:.2f} points"
    return Audit("U6", "What do float32 softmax gradients change?", rows, verdict)


# --- V7: the pointing game of the centre ------------------------------------------------------------------------------


def pointing_hit(mask: np.ndarray, point: tuple[float, float], tolerance: float = 15) -> bool:
    """Whether a (H, W) bool mask has a pixel nearer than the tolerance to a point (x, y)."""
    rows, columns = (np.arange(n, dtype=np.float64) for n in mask.shape)
    near = (rows[:, None] - point[1]) ** 2 + (columns[None] - point[0]) ** 2 < tolerance**2
    return bool((mask & near).any())


def difficult_flags(dataset: str) -> dict[str, list[bool]]:
    """The pairs of the "difficult" subset, image name -> flag per class, from the lists that TorchRay ships."""
    name = {"voc2007": "pointing_game_ebp_voc07_difficult.txt", "coco2014": "pointing_game_ebp_coco_difficult.txt"}
    text = (importlib.resources.files("torchray.benchmark") / name[dataset]).read_text(encoding="ascii")
    rows = (line.split("\t") for line in text.splitlines())
    return {row[0]: [flag.strip() == "1" for flag in row[1:]] for row in rows}


def centre_game(
    dataset: Any, ids: Sequence[str], flags: dict[str, list[bool]] | None = None, prefix: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """(hits, misses) per class of the point (W/2, H/2), as TorchRay counts them.

    A pair whose objects are all marked difficult by the data set is skipped; with ``flags``, a pair that they call
    easy too, while images that they do not name take part.

    Args:
        dataset: Samples.
        ids: Which images.
        flags: Of `difficult_flags`; None = the whole set.
        prefix: Put before an id to get its name in the flags.
    """
    hits, misses = np.zeros((2, len(dataset.classes)), dtype=np.int64)
    for image_id in tqdm(ids, desc=f"{dataset.name}: centre", unit="image"):
        sample = dataset[image_id]
        of_image = flags.get(prefix + image_id) if flags is not None else None
        hard = sample.info.get("difficult", [False] * len(sample.targets))
        for target, mask, difficult in zip(sample.targets, sample.masks, hard, strict=True):
            if difficult or (of_image is not None and not of_image[target]):
                continue
            height, width = mask.shape
            hit = pointing_hit(mask, (width / 2, height / 2))
            hits[target], misses[target] = hits[target] + hit, misses[target] + (not hit)
    return hits, misses


def v7(bench: Bench) -> Audit:
    """The centre's pointing game, which needs no network: a check of images, boxes and masks."""
    dataset, rows = bench.dataset, []
    subsets: dict[str, dict | None] = {"ALL": None}
    if dataset.name in PAPERS:
        subsets["DIF"] = difficult_flags(dataset.name)
    prefix = "COCO_val2014_" if dataset.name == "coco2014" else ""
    for subset, flags in subsets.items():
        hit, missed = centre_game(dataset, bench.ids, flags, prefix)
        seen = hit + missed
        present = seen > 0
        accuracy = 100 * float((hit[present] / seen[present]).mean()) if present.any() else math.nan
        known = PUBLISHED_CENTRE.get((dataset.name, subset), math.nan)
        rows.append({"subset": subset, "pairs": int(seen.sum()), "classes": int(present.sum()),
                     "accuracy": round(accuracy, 2), "published": known})  # fmt: skip
    table = pd.DataFrame(rows)
    same = [math.isclose(round(a, 1), p) for a, p in zip(table["accuracy"], table["published"], strict=True)]
    verdict = "these are the published numbers" if all(same) else "NOT the published numbers: check images and boxes"
    if not bench.whole:
        verdict = f"{len(bench.ids)} of {len(dataset.ids)} images: compare on all"
    return Audit("V7", "Does the centre of the image score as published (mean over classes, tolerance 15 pixels)?",
                 table, verdict)  # fmt: skip


AUDITS: dict[str, Callable[[Bench], Audit]] = {"U1": u1, "U2": u2, "U3": u3, "U4": u4, "U5": u5, "U6": u6, "V7": v7}


# --- running and writing ----------------------------------------------------------------------------------------------


def run(cfg: DictConfig, overrides: Sequence[str], asked: Sequence[str]) -> list[Audit]:
    """Runs audits, prints and writes them to ``results/audit_<audit>_<dataset>.{csv,md}``.

    Args:
        cfg: ``configs/doctor.yaml``, composed.
        overrides: The command line's.
        asked: Names of audits; "all" is all.

    Raises:
        SuiteError: If a name is unknown or data or weights are missing.
    """
    names = list(AUDITS) if "all" in asked else [choose("audit", name, (*AUDITS, "all")) for name in asked]
    done = []
    for name in names:
        bench = Bench(cfg, overrides, name)
        if not bench.ids:
            raise SuiteError(f"audit={name}: limit={bench.limit} leaves no image; give limit=1 or more")
        audit = AUDITS[name](bench)
        standing = bench.standing(networks=name != "V7")
        verdict = f"no conclusion: {standing}." if standing else f"{audit.verdict}."
        text = _markdown(audit, bench, verdict, overrides)
        results = Path(cfg.results)
        results.mkdir(parents=True, exist_ok=True)
        stem = f"audit_{name}_{bench.dataset.name}"
        audit.rows.to_csv(results / f"{stem}.csv", index=False, lineterminator="\n")
        (results / f"{stem}.md").write_text(text, encoding="utf-8")
        print(text)
        done.append(dataclasses.replace(audit, verdict=verdict))
    return done


def _markdown(audit: Audit, bench: Bench, verdict: str, overrides: Sequence[str]) -> str:
    lines = [f"# Audit {audit.name} on {bench.dataset.name}", "", audit.question, "", f"**Verdict: {verdict}**", ""]
    header = [str(column) for column in audit.rows.columns]
    lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in audit.rows.itertuples(index=False):
        lines.append("| " + " | ".join("–" if isinstance(v, float) and math.isnan(v) else str(v) for v in row) + " |")
    from sise.benchmark.records import without_folders

    command = without_folders(" ".join(["python scripts/doctor.py", *overrides]))
    lines += ["", f"{len(bench.ids)} of {len(bench.dataset.ids)} images. `{command}`", ""]
    return "\n".join(lines)

"""The audits of PROTOCOL section 8: asking the papers' data and weights which reading their numbers belong to.

Each audit is a short function from a `Bench` to an `Audit`, a table with a verdict. On a stand-in it runs all the same,
to show that it works, but concludes nothing and leaves no file; on a part of the papers' data it says so.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import itertools
import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
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

from metrics import pointing
from metrics.localization import ebpg
from sise.benchmark import runner, selection, statistics
from sise.benchmark.preprocessing import CAFFE_MEAN, Preprocessing
from sise.benchmark.records import without_folders, without_places
from sise.benchmark.result_files import ResultFolder
from sise.benchmark.subjects import readable
from sise.benchmark.tables import read_published
from sise.method import ADAPTIVE_RULES
from sise.probe import Probe
from sise.scoring import Scorer
from sise.types import Model, SuiteError, VerifiedDataset, choose

__all__ = ["AUDITS", "Audit", "Bench", "accuracy_grid", "centre_pairs", "hits", "pointing_accuracy", "pointing_hit",
           "run", "top_hits"]  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
PAPERS = {"voc2007": "SISE Table 1", "coco2014": "SISE Table 4"}
TABLE_METRICS = ("EBPG", "mIoU", "Bbox", "Drop%", "Increase%")

#: Audits of the ground truth alone, which need neither pictures nor networks.
OF_ANNOTATIONS = ("V4", "V7")

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
        rows: All that was counted, one value a row (the CSV).
        shown: What a reader needs of it, a few rows of text.
        verdict: What follows, if data and weights are the papers'.
    """

    name: str
    question: str
    rows: pd.DataFrame
    shown: pd.DataFrame
    verdict: str


class Bench:
    """The data, networks and settings that audits share.

    Args:
        cfg: ``configs/doctor.yaml``, composed.
        overrides: The command line's; those of groups of ``configs/evaluate.yaml`` are applied to it as well.

    Attributes:
        limit: How many images take part; None = all.
        left_out: Why, by their ids, images could not be read.
    """

    limit: int | None = None

    def __init__(self, cfg: DictConfig, overrides: Sequence[str]) -> None:
        groups = ("dataset", "protocol", "engine")
        self.cfg = cfg
        self.shared = [o for o in overrides if o.lstrip("+~").split("=")[0].split(".")[0] in groups]
        self.shared += list(cfg.overrides)
        self.device = runner.choose_device(cfg.device)
        self.left_out: dict[str, str] = {}
        self._models: dict[tuple[str, bool], Model] = {}

    def compose(self, *overrides: str) -> DictConfig:
        """``configs/evaluate.yaml`` with the command line's settings and these."""
        return compose("evaluate", [*self.shared, f"device={self.cfg.device}", *overrides])

    @cached_property
    def dataset(self) -> Any:
        """The dataset.

        Raises:
            SuiteError: If it lacks what audits ask of it.
        """
        dataset = instantiate(self.compose().dataset.loader)
        if not isinstance(dataset, VerifiedDataset):
            raise SuiteError(
                f"audits need verify_counts, verify_annotations and ground_truth_of, which {type(dataset).__name__} "
                f"of dataset={self.cfg.dataset.name} does not have all: see VerifiedDataset in sise/types.py, or "
                "inherit sise.benchmark.datasets.BaseDataset"
            )
        return dataset

    @property
    def ids(self) -> tuple[str, ...]:
        return self.dataset.ids[: self.limit]

    @property
    def whole(self) -> bool:
        """Whether every image takes part."""
        return len(self.ids) == len(self.dataset.ids) and not self.left_out

    def _model_overrides(self, name: str) -> list[str]:
        weights = self.cfg.weights.get(name)
        return [f"model={name}", *([f"model.weights={weights}"] if weights else [])]

    def model(self, name: str, fully_convolutional: bool = False) -> Model:
        """A network, loaded once. The shapes' networks take any input size as they are."""
        fully_convolutional &= self.cfg.dataset.networks in ("voc", "coco")
        if (name, fully_convolutional) not in self._models:
            extra = [f"protocol.fully_convolutional={str(fully_convolutional).lower()}"]
            cfg = self.compose(*self._model_overrides(name), *extra)
            runner.check_network(cfg)
            self._models[name, fully_convolutional] = instantiate(cfg.model.loader)
        return self._models[name, fully_convolutional]

    def cell(self, model: str, *overrides: str) -> runner.Cell:
        """A cell of the runner for this dataset and a network."""
        cfg = self.compose(*self._model_overrides(model), *overrides)
        return runner.Cell(cfg, self.dataset, self.model(model))

    def images(self, *cells: runner.Cell) -> Iterator[tuple[str, list[Probe], list[int]]]:
        """Every image that can be read: its id, a probe per cell, and the network's outputs of its targets."""
        network = cells[0].model.network.to(self.device)
        engine = cells[0].cfg.engine
        scorer = Scorer(network, batch_size=engine.batch_size, lossless=engine.lossless, precision=engine.precision)
        ids = [image_id for image_id in self.ids if cells[0].pairs(image_id)]
        description = f"{self.dataset.name} × {cells[0].cfg.model.name}"
        for sample in readable(self.dataset, ids, description, self.left_out):
            probes = [runner.make_probe(cell, sample, scorer, self.device) for cell in cells]
            for probe in probes:
                probe.seed = runner.image_seed(0, sample.image_id)
            targets = cells[0].pairs(sample.image_id)
            yield sample.image_id, probes, [cells[0].outputs[self.dataset.classes[t]] for t in targets]

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The papers'."""
        return read_published(ROOT / self.cfg.published)

    def published(self, model: str, method: str) -> dict[str, float]:
        """The paper's numbers for a method on this dataset, by metric; none for a stand-in."""
        rows = self.numbers[self.numbers["table"] == PAPERS.get(self.dataset.name)]
        rows = rows[(rows["model"] == model) & (rows["method"] == method)]
        return dict(zip(rows["metric"], rows["value"], strict=True))

    def stand_in(self, networks: bool = True) -> str:
        """Why the papers' numbers are not of these data and ``networks``; empty if they are."""
        if self.dataset.name not in PAPERS:
            return f"{self.dataset.name} is a stand-in and says nothing about the papers"
        others = [n for n in self.cfg.models if networks and not getattr(self.model(n), "official", False)]
        return f"not TorchRay's published weights: {', '.join(others)}" if others else ""

    @cached_property
    def centre(self) -> dict[str, float]:
        """What TorchRay published of the centre's pointing game on this dataset: percent by subset, ALL and DIF."""
        table = pd.read_csv((ROOT / self.cfg.published).with_name("pointing_centre.csv"))
        table = table[table["dataset"] == self.dataset.name]
        return dict(zip(table["subset"], table["value"], strict=True))

    def accuracies(self, model: str) -> dict[str, float]:
        """The paper's "top-1 accuracy" and "top-5 accuracy" of a network, or of "any", their maximum; in percent."""
        rows = self.numbers[self.numbers["table"] == "SISE Appendix models"]
        rows = rows[(rows["dataset"] == self.dataset.name) & (rows["model"] == model)]
        return dict(zip(rows["metric"], rows["value"], strict=True))

    def incomplete(self, annotations: bool = False) -> str:
        """What the data, or only their ``annotations``, lack; empty if they are complete."""
        complete, message = self.dataset.verify_annotations() if annotations else self.dataset.verify_counts()
        return "" if complete else f"incomplete data ({message.partition(': partial tree')[0]})"


def _wide(rows: pd.DataFrame, index: Sequence[str], column: str, value: str) -> pd.DataFrame:
    """A row per ``index`` and a column per ``column``, both in order of appearance."""
    wide = rows.pivot_table(index=list(index), columns=column, values=value, aggfunc="first", sort=False)
    return wide.reset_index().rename_axis(columns=None)


# --- U1: accuracies ---------------------------------------------------------------------------------------------------


def top_hits(scores: Tensor, targets: Sequence[int], k: int = 5) -> tuple[bool, int]:
    """PROTOCOL P1, P2: whether the best of (K,) scores is a target, and how many targets are among the best k."""
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
    left_out: dict[str, str] | None = None,
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
        left_out: Takes the images that cannot be read, see :func:`sise.benchmark.subjects.readable`.

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
    known = {i: [outputs[name] for t in dataset.targets_of(i) if (name := dataset.classes[t]) in outputs] for i in ids}
    for sample in readable(dataset, [i for i in ids if known[i]], f"{dataset.name}: accuracies", left_out):
        targets = known[sample.image_id]
        images, pairs = images + 1, pairs + len(targets)
        for (geometry, resample), preprocess in plain.items():
            x = preprocess(sample.image)
            key = (geometry, resample, tuple(x.shape))
            waiting[key].append((x, targets))
            if len(waiting[key]) >= (1 if geometry == "shorter_side" else batch):
                flush(key)
    for key in list(waiting):
        flush(key)
    rows = [(*cell, int(one), int(five)) for cell, (one, five) in counts.items()]
    return pd.DataFrame(rows, columns=[*_CELLS, "top-1", "top-5"]), images, pairs


def published_hits(percent: float, pairs: int) -> tuple[int, int]:
    """The smallest and the largest number of hits that a percentage of pairs, given to two decimals, may stand for."""
    exact = Fraction(str(percent))
    low, high = ((exact + half) * pairs / 100 for half in (Fraction(-1, 200), Fraction(1, 200)))
    return math.ceil(low), math.ceil(high) - 1


def _distance(value: int, interval: tuple[int, int]) -> int:
    return max(interval[0] - value, value - interval[1], 0)


_CELLS = ["geometry", "resample", "range", "channels"]
_SHOWN = 6


def u1(bench: Bench) -> Audit:
    """Which preprocessing yields the published accuracies, to the integer."""
    tables, wide = [], []
    for name in bench.cfg.models:
        networks = {geometry: bench.model(name, geometry == "shorter_side").network for geometry in GEOMETRIES}
        rows, images, pairs = accuracy_grid(
            bench.dataset, bench.model(name).classes, networks, ids=bench.ids, device=bench.device,
            left_out=bench.left_out,
        )  # fmt: skip
        of_model = rows.set_index(_CELLS)
        rows.insert(0, "model", name)
        rows["top-1 % of images"] = (100 * rows["top-1"] / images).round(2)
        rows["top-1 % of pairs"] = (100 * rows["top-1"] / pairs).round(2)
        rows["top-5 %"] = (100 * rows["top-5"] / pairs).round(2)
        known = bench.accuracies(name) if bench.whole else {}
        for column in ("top-1", "top-5"):
            heading = f"{name} {column}"
            if f"{column} accuracy" in known:
                interval = published_hits(known[f"{column} accuracy"], pairs)
                rows[f"published {column}"] = "-".join(map(str, dict.fromkeys(interval)))
                rows[f"{column} off by"] = [_distance(value, interval) for value in rows[column]]
                heading += f" [{rows[f'published {column}'][0]}]"
            wide.append(of_model[column].rename(heading))
        tables.append(rows)
    rows = pd.concat(tables, ignore_index=True)
    compared = "top-1 off by" in rows
    score = rows["top-1 off by"] + rows["top-5 off by"] if compared else -(rows["top-1"] + rows["top-5"])
    score = score.groupby([rows[c] for c in _CELLS], sort=False).sum().sort_values(kind="stable")
    shown = pd.concat(wide, axis=1).loc[score.index[:_SHOWN]].reset_index()
    question = f"Which preprocessing yields the published accuracies? (The best {_SHOWN} of {len(score)}.)"
    if compared:
        verdict = _u1_verdict(score)
    elif bench.whole:
        verdict = "no published accuracies for this dataset"
    else:
        verdict = f"{len(bench.ids)} of {len(bench.dataset.ids)} images: integers can only be compared on all"
    return Audit("U1", question, rows, shown, verdict)


def _u1_verdict(score: pd.Series) -> str:
    """Of the sums of distances by preprocessing, ascending."""
    best = score.iloc[0]
    closest = [" / ".join(cell) for cell, off in score.items() if off == best]
    geometry, resample, kind, channels = score.index[0]
    mean = "[0,0,0]" if kind == "raw255" else f"[{','.join(map(str, CAFFE_MEAN))}]"
    settings = f"protocol.geometry={geometry} protocol.resample={resample} protocol.caffe_mean={mean}"
    settings += " protocol.fully_convolutional=true" if geometry == "shorter_side" else ""
    settings += " +model.loader.preprocessing.channels=BGR" if channels == "BGR" else ""
    found = "exactly the published integers" if best == 0 else f"off by {best} hits in all, NOT the published integers"
    return f"closest: {'; '.join(closest)}: {found}. To use it: {settings}"


# --- U2, U3: which feature maps ---------------------------------------------------------------------------------------


def _feature_maps(bench: Bench, model: str, gradient: str = "log_odds") -> pd.DataFrame:
    """Feature maps kept under every rule, as in Ada-SISE's Table 2; its numbers stand by only on VOC and ResNet-50."""
    loaded = bench.model(model)
    found, _ = selection.collect(bench.dataset, loaded, limit=bench.limit, gradient=gradient, device=bench.device)
    official = getattr(loaded, "official", False)
    table = selection.summarise(found, bench.numbers, dataset=bench.dataset.name, model=model, official=official)
    table = table[table["layer"] != "sum"].rename(
        columns={"mean": "maps", "share of positive": "%", "published share of positive": "published %",
                 "published (resnet50, voc2007)": "published"}
    )  # fmt: skip
    if (bench.dataset.name, model) != ("voc2007", "resnet50"):
        table[["published", "published %"]] = math.nan
    return table.assign(layer=[f"p{layer}" for layer in table["layer"]])


def _beside_table_2(rows: pd.DataFrame, by: str) -> tuple[pd.DataFrame, str]:
    """A line per model and ``by`` with the layers' percentages, the published ones below; and which come closest."""
    shown = _wide(rows, ("model", by), "layer", "%")
    known = rows.dropna(subset="published %")
    off = (known["%"] - known["published %"]).abs().groupby(known[by], sort=False).mean().sort_values()
    if not len(off):
        return shown, "no published counts for this dataset and these networks"
    published = _wide(known.assign(**{by: "published"}), ("model", by), "layer", "published %")
    each = "; ".join(f"{name} {value:.1f}" for name, value in off.items())
    verdict = f"closest: {off.index[0]} (points off Ada-SISE's Table 2 on average: {each})"
    return pd.concat([shown, published], ignore_index=True), verdict


def u2(bench: Bench) -> Audit:
    """What is differentiated: the share of feature maps with a positive gradient score under softmax and logit."""
    rows = []
    for model in bench.cfg.models:
        for gradient in ("log_odds", "softmax_f32", "logit"):
            table = _feature_maps(bench, model, gradient).set_index("layer")
            positive, available = (table[table["rule"] == rule] for rule in ("SISE", "available"))
            for layer in positive.index:
                row = {"model": model, "gradient": gradient, "layer": layer, "pairs": positive["pairs"][layer]}
                row |= {"maps": available["maps"][layer], "positive": round(positive["maps"][layer], 1)}
                for share, count in (("%", "maps"), ("published %", "published")):
                    row[share] = round(100 * positive[count][layer] / available[count][layer], 1)
                rows.append(row)
    table = pd.DataFrame(rows)
    question = (
        "Is softmax differentiated (log_odds: the same, exactly), or the logit? Percent of feature maps with α > 0:"
    )
    return Audit("U2", question, table, *_beside_table_2(table, "gradient"))


def u3(bench: Bench) -> Audit:
    """Feature maps that each reading of Ada-SISE's rule keeps, beside its Table 2."""
    table = pd.concat([_feature_maps(bench, model) for model in bench.cfg.models], ignore_index=True)
    table = table[table["rule"].isin(ADAPTIVE_RULES)].round({"maps": 1, "standard error": 2, "%": 1, "published %": 1})
    question = "Which reading of Ada-SISE's rule? Percent of the positive feature maps that are kept:"
    return Audit("U3", question, table, *_beside_table_2(table, "rule"))


# --- U4 to U7: what the tables' numbers depend on ---------------------------------------------------------------------


class _Means:
    """Means of metrics over pairs, by row."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], dict[str, list[tuple[str, float]]]] = defaultdict(lambda: defaultdict(list))

    def add(self, key: tuple[str, ...], image_id: str, **values: float) -> None:
        for metric, value in values.items():
            self.values[key][metric].append((image_id, 100 * value))

    def tables(
        self, columns: Sequence[str], published: Callable[[tuple[str, ...]], dict[str, float]]
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """One row per key and metric (mean, standard error, pairs, published value); and one per key, to be read."""
        rows = []
        for key, metrics in self.values.items():
            known = published(key)
            for metric, values in metrics.items():
                images, numbers = zip(*values, strict=True)
                pairs = pd.Series(numbers, index=images)
                error = statistics.clustered_standard_error(*statistics.per_image(pairs))
                row = {"metric": metric, "mean": round(float(pairs.mean()), 2), "standard error": round(error, 2)}
                row |= {"pairs": len(pairs), "published": known.get(metric, math.nan)}
                rows.append({**dict(zip(columns, key, strict=True)), **row})
        long = pd.DataFrame(rows)
        text = [
            f"{mean:.2f}" + ("" if math.isnan(known) else f" [{known:.2f}]")
            for mean, known in zip(long["mean"], long["published"], strict=True)
        ]
        return long, _wide(long.assign(text=text), columns, "metric", "text")


def _measures(cell: runner.Cell, probe: Probe, output: int, saliency: Tensor) -> dict[str, float]:
    """The five metrics of the tables, for one map."""
    localization, faithfulness = cell.metrics
    mask = probe.ground_truth[output]
    values = {name: metric(saliency, mask) for name, metric in localization.items()}
    values = {name: float(value) for name, value in values.items() if value is not None}  # None: the pair is left out
    judge = runner.judge_of(cell, probe)
    return values | {name: float(metric(judge, output, saliency)) for name, metric in faithfulness.items()}


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
        for image_id, [probe], outputs in bench.images(rise):
            for output, saliency in zip(outputs, rise.explainer(probe, outputs), strict=True):
                mask = probe.ground_truth[output]
                means.add((model, "RISE", "raw"), image_id, EBPG=ebpg(saliency, mask, normalise="raw"))
                means.add((model, "RISE", "minmax"), image_id, **_measures(rise, probe, output, saliency))
            for label, cell in (("areas 0.1", one), (f"areas {' '.join(map(str, areas))}", several)):
                for output, saliency in zip(outputs, cell.explainer(probe, outputs), strict=True):
                    means.add(
                        (model, "Extremal Perturbation", label), image_id, **_measures(cell, probe, output, saliency)
                    )
    rows, shown = means.tables(("model", "explainer", "setting"), lambda key: bench.published(key[0], key[1]))
    verdict = "; ".join(
        f"{name}, {_closest(rows[rows['explainer'] == name], ['setting'], metrics)}"
        for name, metrics in (("RISE", ["EBPG"]), ("Extremal Perturbation", list(TABLE_METRICS)))
    )
    return Audit("U4", "RISE's maps raw or min-max? Extremal Perturbation's areas? Percent [published]:", rows, shown,
                 verdict)  # fmt: skip


def u5(bench: Bench) -> Audit:
    """What masked pixels show, in SISE's passes and in Drop and Increase separately."""
    means = _Means()
    for model in bench.cfg.models:
        cells = {fill: bench.cell(model, "explainer=sise", f"protocol.fill={fill}") for fill in ("black", "mean")}
        for image_id, probes, outputs in bench.images(*cells.values()):
            seen_by = dict(zip(cells, probes, strict=True))
            for fill, cell in cells.items():
                for output, saliency in zip(outputs, cell.explainer(seen_by[fill], outputs), strict=True):
                    for shown_to, probe in seen_by.items():
                        means.add((model, fill, shown_to), image_id, **_measures(cell, probe, output, saliency))
    columns = ("model", "in SISE", "in Drop% and Increase%")
    rows, shown = means.tables(columns, lambda key: bench.published(key[0], "SISE"))
    verdict = "; ".join([_closest(rows, columns[1:2], ["EBPG", "Bbox"]),
                         _closest(rows, columns[1:], ["Drop%", "Increase%"])])  # fmt: skip
    return Audit("U5", "Are masked pixels black, or of the mean colour? Percent [published]:", rows, shown, verdict)


def u6(bench: Bench) -> Audit:
    """Float32 softmax gradients against log-odds: how often p is 1, and what it changes in the table."""
    means, saturated = _Means(), []
    for model in bench.cfg.models:
        kinds = ("log_odds", "softmax_f32")
        cells = {kind: bench.cell(model, "explainer=sise", f"protocol.gradient={kind}") for kind in kinds}
        ones = pairs = 0
        for image_id, probes, outputs in bench.images(*cells.values()):
            confidence = probes[0].scores().float().softmax(0)
            ones, pairs = ones + int((confidence[outputs] == 1.0).sum()), pairs + len(outputs)
            for (kind, cell), probe in zip(cells.items(), probes, strict=True):
                for output, saliency in zip(outputs, cell.explainer(probe, outputs), strict=True):
                    means.add((model, kind), image_id, **_measures(cell, probe, output, saliency))
        saturated.append(f"{model}: p rounds to 1 for {ones} of {pairs} pairs ({100 * ones / max(pairs, 1):.1f} %)")
    rows, shown = means.tables(("model", "gradient"), lambda key: bench.published(key[0], "SISE"))
    wide = rows.pivot_table(index=["model", "metric"], columns="gradient", values="mean")
    change = (wide["softmax_f32"] - wide["log_odds"]).abs().max()
    verdict = f"{'; '.join(saturated)}; largest change in a cell: {change:.2f} points"
    return Audit("U6", "What do float32 softmax gradients change? Percent [published]:", rows, shown, verdict)


#: What the papers of SISE's rivals leave open: by explainer its name among the published numbers and the choices.
RIVALS_CHOICES = {
    "grad_cam": ("Grad-CAM", {"of": ("logit", "log_odds"), "upsampling": ("bilinear", "cubic")}),
    "grad_cam_pp": (
        "Grad-CAM++",
        {"score": ("logit", "softmax"), "upsampling": ("bilinear", "cubic"), "eps": (1e-6, 1e-9)},
    ),
    "rise": ("RISE", {"cells": (7, 8)}),
}


def u7(bench: Bench) -> Audit:
    """What SISE's rivals leave open: the score whose gradient is taken, upsampling, Grad-CAM++'s eps, RISE's masks."""
    means = _Means()
    for model in bench.cfg.models:
        cells = {name: bench.cell(model, f"explainer={name}") for name in RIVALS_CHOICES}
        budget = cells["rise"].cfg.budgets[cells["rise"].cfg.budget]
        for image_id, [probe], outputs in bench.images(cells["grad_cam"]):
            for name, (published, choices) in RIVALS_CHOICES.items():
                if name == "rise":
                    choices = choices | {"n_masks": (budget.rise_masks, budget.rise_masks_twice)}
                for values in itertools.product(*choices.values()):
                    chosen = dict(zip(choices, values, strict=True))
                    setting = ", ".join(f"{key}={value}" for key, value in chosen.items())
                    for output, saliency in zip(outputs, cells[name].explainer(probe, outputs, **chosen), strict=True):
                        measured = _measures(cells[name], probe, output, saliency)
                        means.add((model, published, setting), image_id, **measured)
    rows, shown = means.tables(("model", "explainer", "setting"), lambda key: bench.published(key[0], key[1]))
    verdict = "; ".join(
        f"{name}, {_closest(rows[rows['explainer'] == name], ['setting'], list(TABLE_METRICS))}"
        for name, _ in RIVALS_CHOICES.values()
    )
    question = "Which of the choices that their papers leave open did the rivals' numbers take? Percent [published]:"
    return Audit("U7", question, rows, shown, verdict)


# --- V7: the pointing game of the centre ------------------------------------------------------------------------------


def pointing_hit(mask: np.ndarray, point: tuple[float, float], tolerance: float = 15) -> bool:
    """Whether a (H, W) bool mask has a pixel nearer than the tolerance to a point (x, y)."""
    return pointing.hits(torch.from_numpy(mask), point, tolerance)


def difficult_flags(dataset: str) -> dict[str, list[bool]]:
    """The pairs of the "difficult" subset, image id -> flag per class, from the lists that TorchRay ships."""
    name = {"voc2007": "pointing_game_ebp_voc07_difficult.txt", "coco2014": "pointing_game_ebp_coco_difficult.txt"}
    text = (importlib.resources.files("torchray.benchmark") / name[dataset]).read_text(encoding="ascii")
    rows = (line.split("\t") for line in text.splitlines())
    return {row[0].removeprefix("COCO_val2014_"): [flag.strip() == "1" for flag in row[1:]] for row in rows}


def centre_pairs(dataset: Any, ids: Sequence[str], left_out: dict[str, str] | None = None) -> pd.DataFrame:
    """What the pointing game of the image's centre, (W/2, H/2), needs to know of every pair.

    Args:
        dataset: Its ground truth is asked for, pictures only where that needs them.
        ids: Which images.
        left_out: Takes the images that cannot be read, see :func:`sise.benchmark.subjects.readable`.

    Returns:
        One row per pair: ``image_id``, ``target``; ``hit`` (see `pointing_hit`); ``all`` and ``dif``, whether TorchRay
        counts it in its whole and in its difficult set (not if the data set marks all its objects difficult; the latter
        has what its list names, and all of images that the list lacks); and the percentage of the image that its
        ``mask`` and its ``boxes`` cover.

    Raises:
        SuiteError: If the data are no images.
    """
    flags = difficult_flags(dataset.name) if dataset.name in PAPERS else {}
    rows = []
    ids = [image_id for image_id in ids if dataset.targets_of(image_id)]  # others' annotation cannot be read

    def read(image_id: str) -> tuple[str, np.ndarray, dict[str, Any]]:
        return image_id, *dataset.ground_truth_of(image_id)

    for image_id, masks, info in readable(dataset, ids, f"{dataset.name}: centre", left_out, read):
        targets = dataset.targets_of(image_id)
        hard = info.get("difficult", [False] * len(targets))
        boxes = info.get("boxes", [()] * len(targets))
        for target, mask, difficult, group in zip(targets, masks, hard, boxes, strict=True):
            if mask.ndim != 2:
                raise SuiteError(
                    f"audit=V7 asks for the centre of images; dataset={dataset.name} has none: choose another"
                )
            inside = np.zeros_like(mask)
            for x0, y0, x1, y1 in group:
                inside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
            hit = pointing_hit(mask, (mask.shape[1] / 2, mask.shape[0] / 2))
            named = image_id not in flags or flags[image_id][target]
            areas = (100 * mask.mean(), 100 * inside.mean())
            rows.append((image_id, target, hit, not difficult, not difficult and named, *areas))
    return pd.DataFrame(rows, columns=["image_id", "target", "hit", "all", "dif", "mask", "boxes"])


def difficult_by_rule(pairs: pd.DataFrame) -> pd.Series:
    """TorchRay's "difficult" flag on VOC as its list was made: small, and not the only class of its image.

    Args:
        pairs: Of `centre_pairs`, with the boxes of all objects.

    Returns:
        Per pair, whether it counts itself, all boxes of its class cover less than a quarter of the image, and at
        least two classes of the image count.
    """
    counting = pairs.groupby("image_id")["all"].transform("sum")
    return pairs["all"] & (pairs["boxes"] < 25) & (counting >= 2)


def pointing_accuracy(pairs: pd.DataFrame, draws: int = 200) -> tuple[float, float]:
    """Percent of hits, mean over classes, and its standard error: the spread of as many draws of the images."""
    hits = pairs.pivot_table(index="image_id", columns="target", values="hit", aggfunc="sum", fill_value=0).to_numpy()
    seen = pairs.pivot_table(index="image_id", columns="target", values="hit", aggfunc="size", fill_value=0).to_numpy()
    images = len(hits)
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=draws)
    with np.errstate(invalid="ignore"):  # a class that was not drawn takes no part
        spread = np.nanmean((drawn @ hits) / (drawn @ seen), axis=1)
    return 100 * float((hits.sum(0) / seen.sum(0)).mean()), 100 * float(spread.std(ddof=1))


def v7(bench: Bench) -> Audit:
    """The centre's pointing game, which needs no network, and what masks and boxes cover: a check of the data."""
    name, pairs = bench.dataset.name, centre_pairs(bench.dataset, bench.ids, bench.left_out)
    rows = []
    for subset in ("all", "dif") if name in PAPERS else ("all",):
        chosen = pairs[pairs[subset]]
        value, error = pointing_accuracy(chosen) if len(chosen) else (math.nan, math.nan)
        known = bench.centre.get(subset.upper())
        rows.append((f"pointing game, {subset.upper()}", len(chosen), value, error, known))
    for kind in ("mask", "boxes"):
        areas = pairs.set_index("image_id")[kind]
        error = statistics.clustered_standard_error(*statistics.per_image(areas))
        rows.append((f"area of the {kind}", len(areas), areas.mean(), error, None))
    table = pd.DataFrame(rows, columns=["percent", "pairs", "measured", "standard error", "published"])
    table["published"] = table["published"].astype(float)
    known, area = table.dropna(subset="published"), table["measured"].iloc[-2]
    if bench.whole and not bench.incomplete(annotations=True):
        same = len(known) and (known["measured"].round(1) == known["published"]).all()
        verdict = "these are the published numbers" if same else "NOT the published numbers: check images and boxes"
    else:
        near = ((known["measured"] - known["published"]).abs() <= 2 * known["standard error"]).all()
        verdict = f"the published numbers are {'' if near else 'NOT '}within 2 standard errors of this part's"
    if name == "coco2014":  # PROTOCOL T5: of segmentations and boxes, only the former fit RISE's EBPG
        fits = "it is" if area < 11.35 else "it is NOT"
        verdict += f"; the area of the masks must be below RISE's published EBPG, 11.35: {fits}"
    if name == "voc2007":
        differ = int((difficult_by_rule(pairs) != pairs["dif"]).sum())
        follow = "all follow" if differ == 0 else f"{differ} do NOT follow"
        verdict += f"; of TorchRay's flags of the DIF set {follow} from the boxes by its rule"
    table = table.round({"measured": 3, "standard error": 2})
    question = "Does the centre of the image score as published (mean over classes, tolerance 15 pixels)?"
    return Audit("V7", question, table, table, verdict)


# --- V4: the largest accuracies ---------------------------------------------------------------------------------------


def largest_hits(labels: Iterable[Sequence[int]]) -> tuple[int, int, int]:
    """(top-1 hits, top-5 hits, pairs) of a network that errs nowhere, given the classes of each image.

    One class of an image is best, so top-1 counts images; five of an image's classes are among the best five.
    """
    counts = [len(of_image) for of_image in labels if of_image]
    return len(counts), sum(min(5, count) for count in counts), sum(counts)


def v4(bench: Bench) -> Audit:
    """The largest accuracies that any network could have, which need no network: a check of the labels."""
    one, five, pairs = largest_hits(bench.dataset.targets_of(image_id) for image_id in bench.ids)
    known = bench.accuracies("any")
    rows = [(kind, hits, pairs, round(100 * hits / pairs, 3), known.get(f"{kind} accuracy", math.nan))
            for kind, hits in (("top-1", one), ("top-5", five))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["largest accuracy", "hits", "pairs", "measured", "published"])
    if not bench.whole or bench.incomplete(annotations=True) or table["published"].isna().any():
        verdict = "the published numbers can only be compared on all of the data set"
    else:
        known_hits = [published_hits(value, pairs) for value in table["published"]]
        same = all(low <= hits <= high for hits, (low, high) in zip(table["hits"], known_hits, strict=True))
        verdict = "these are the published numbers" if same else "NOT the published numbers: check the labels"
    question = "Are the largest accuracies, of a network that errs nowhere, the published ones (percent of pairs)?"
    return Audit("V4", question, table, table, verdict)


AUDITS: dict[str, Callable[[Bench], Audit]] = {
    "U1": u1, "U2": u2, "U3": u3, "U4": u4, "U5": u5, "U6": u6, "U7": u7, "V4": v4, "V7": v7,
}  # fmt: skip


# --- running and writing ----------------------------------------------------------------------------------------------


def run(cfg: DictConfig, overrides: Sequence[str], asked: Sequence[str]) -> list[Audit]:
    """Runs audits and prints them; keeps those of the papers' data and weights.

    Args:
        cfg: ``configs/doctor.yaml``, composed; ``audit_<audit>_<dataset>.{csv,md}`` go to its ``results``.
        overrides: The command line's.
        asked: Names of audits; "all" is all.

    Raises:
        SuiteError: If a name is unknown or data or weights are missing.
    """
    names = list(AUDITS) if "all" in asked else [choose("audit", name, (*AUDITS, "all")) for name in asked]
    bench, done = Bench(cfg, overrides), []
    for name in names:
        bench.left_out = {}
        bench.limit = cfg.limits[cfg.dataset.budget][name] if cfg.limit is None else cfg.limit
        if not bench.ids:
            raise SuiteError(f"audit={name}: limit={bench.limit} leaves no image; give limit=1 or more")
        audit = AUDITS[name](bench)
        alone = name in OF_ANNOTATIONS
        stand_in, incomplete = bench.stand_in(networks=not alone), bench.incomplete(annotations=alone)
        if stand_in or (incomplete and not alone):
            audit = dataclasses.replace(audit, verdict=f"no conclusion: {stand_in or incomplete}")
        elif incomplete:
            audit = dataclasses.replace(audit, verdict=f"{incomplete}: {audit.verdict}")
        text = _markdown(audit, bench, overrides)
        print(text)
        if not stand_in:
            results, stem = ResultFolder(Path(cfg.results), cfg.overwrite), f"audit_{name}_{bench.dataset.name}"
            rows = audit.rows.to_csv(index=False, lineterminator="\n")
            if results.write({f"{stem}.csv": rows, f"{stem}.md": text}):
                print(f"-> {results.path / stem}.{{csv,md}}\n")
        done.append(audit)
    return done


def _markdown(audit: Audit, bench: Bench, overrides: Sequence[str]) -> str:
    lines = [list(map(str, audit.shown.columns)), ["---"] * len(audit.shown.columns)]
    for row in audit.shown.itertuples(index=False):
        lines.append(["–" if isinstance(v, float) and math.isnan(v) else str(v) for v in row])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    verdict = audit.verdict[0].upper() + audit.verdict[1:]
    images = f"{len(bench.ids)} of {len(bench.dataset.ids)} images"
    if bench.left_out:
        first = without_folders(next(iter(bench.left_out.values())))
        images += f", {len(bench.left_out)} of them left out, which could not be read (the first: {first})"
    command = shlex.join(["python", "scripts/doctor.py", *map(without_places, overrides)])
    title = f"# Audit {audit.name} on {bench.dataset.name}"
    return f"{title}\n\n{audit.question}\n\n{table}\n\n**{verdict}.**\n\n{images}: `{command}`\n"

"""What a masked pass costs against a plain one, and what a lower precision changes.

Parts ``engine`` and ``precision`` of ``scripts/benchmark.py``.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from sise.benchmark import runner
from sise.benchmark.terminal import Progress
from sise.benchmark.timing import (
    LABELS,
    Measurement,
    Report,
    Subject,
    Worker,
    clock,
    experiment_cells,
    interleaved,
    quartiles,
    random_weights,
    ratios,
    spread,
    subject,
    synchronise,
    timed,
)
from sise.fusion import fuse
from sise.maps import upsample
from sise.method import ada_sise, live, select, sise, visualize
from sise.probe import EPSILON, Probe
from sise.scoring import Scorer, Segment, allow_tf32

GOALS = {("resnet50", "fp32"): 0.45, ("vgg16", "fp32"): 0.70, ("resnet50", "bf16"): 0.25, ("vgg16", "bf16"): 0.35}
"""Time of a masked pass on a CPU over that of a plain eager fp32 one, at most."""
GOAL_MICROSECONDS, GOAL_WHOLE, GOAL_LAYER_MAP, GOAL_AFTER = 150.0, 1.03, 1e-5, 0.005
THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.75)
PASSES_NOTE = (
    "Plain eager: network(image * mask), fp32, batch by batch, the masks made beforehand. Everything else makes its "
    "masks itself. Allocator: default, or kept = freed memory is kept (engine.malloc, set by the scripts)."
)
WHOLE_NOTE = (
    "SISE whole over its passes: on a CPU, all its time over the time spent inside the network; on a GPU, all its time "
    "over as many full batches through the same runner, in turns."
)
NULL_NOTE = (
    "Everything but the passes: SISE with the real network's feature maps and gradients, whose masked passes go "
    "through a network that only takes means. That network's own time, the last of the parts, is in the scoring, but "
    "not in the first row."
)
AFTER_NOTE = "One class, one image, all of SISE's masks forwarded before; share = time over SISE's time."
DRIFT_NOTES = (
    "Top 15 %: share of all pixels that enter or leave the salient 15 %. Fused maps can jump at single pixels, because "
    "the Otsu gates are discontinuous: hence a share of pixels, not a largest difference.",
    "Time: one run per image, not the engine's ratio (part engine). The maps use the hard gate (protocol paper).",
)
NULL_PART = "the null network itself"
PLAIN, SMALL = "plain eager", "plain eager, batch 8"


# ---------------------------------------------------------------------- the measuring processes' side


def engine_actions(
    *, network: str, masks: int, device: str, batch: int | None, compile: bool, width: float = 1.0
) -> dict[str, Callable[[], Any]]:
    """Actions of the ``engine`` part, all over the same masks, drawn evenly from all of SISE's layers.

    Returns:
        By name: one per runner, ``maps of <runner>`` for the layer maps it leads to, ``sise``, ``bare`` and
        ``null ...``, whose masked passes cost nothing.
    """
    place = torch.device(device)
    of = subject(network, place, width=width)
    probe = Probe(of.network, of.image, layers=of.layers)
    target = int(probe.scores().argmax())
    chosen = some_masks(probe, target, masks)
    segments = [Segment(of.image, normalised(probe, layer, channels)) for layer, channels in chosen.items()]
    full = torch.cat([upsample(s.maps, probe.size) for s in segments])
    size = batch or (64 if place.type == "cuda" else 32)

    def plain(by: int) -> Tensor:
        with torch.no_grad(), allow_tf32(False):
            return torch.cat([of.network(of.image * part[:, None]) for part in full.split(by)])

    scorers = {name: Scorer(of.network, batch_size=size, **kind) for name, kind in runners(place, compile).items()}
    actions: dict[str, Callable[[], Any]] = {PLAIN: lambda: discard(plain(size)), SMALL: lambda: discard(plain(8))}
    for name, scorer in scorers.items():
        actions[name] = lambda scorer=scorer: discard(scorer.score(segments))
    reference = Scorer(of.network, batch_size=size, lossless=False)
    for name, scorer in {PLAIN: reference, **scorers}.items():
        actions[f"maps of {name}"] = lambda scorer=scorer: layer_maps(of, scorer, target, chosen)
    whole = scorers["lossless fp16" if place.type == "cuda" else "lossless"]
    actions["sise"] = lambda: whole_sise(of, whole, target)
    actions["bare"] = lambda: bare_passes(of, whole, target)
    null = Scorer(NullNetwork().eval().to(place), batch_size=size)
    for threads in (1, None) if place.type == "cpu" else (None,):
        ending = ", 1 thread" if threads else ""
        actions[f"null sise{ending}"] = lambda threads=threads: null_sise(of, null, target, threads)
    return actions


def runners(device: torch.device, compile: bool) -> dict[str, dict[str, Any]]:
    """The engine's settings that are measured, by name."""
    half = ("tf32", "fp16", "bf16") if device.type == "cuda" else ("bf16",)
    found = {"lossless": {}} | {f"lossless {p}": {"precision": p} for p in half}
    if compile:
        found |= {f"{name}, compiled": {**kind, "compile": True} for name, kind in found.items()}
    return found


def discard(_: Any) -> None:
    """Keeps a tensor from travelling between processes."""


def some_masks(probe: Probe, target: int, count: int) -> dict[str, Tensor]:
    """About ``count`` of the masks that SISE uses, from each layer in proportion."""
    used = {layer: selected(probe, layer, target).nonzero()[:, 0] for layer in probe.layers}
    total = sum(len(c) for c in used.values())
    ends = np.round(np.cumsum([0, *(len(c) for c in used.values())]) * min(count, total) / total).astype(int)
    chosen = {}
    for (layer, channels), start, stop in zip(used.items(), ends[:-1], ends[1:], strict=True):
        if stop > start:
            chosen[layer] = channels[torch.linspace(0, len(channels) - 1, int(stop - start)).round().long()]
    return chosen


def selected(probe: Probe, layer: str, target: int, threshold: float = 0.0) -> Tensor:
    """(C,) bool: the feature maps that SISE forwards."""
    return select(probe.gradient_scores(layer, target), lambda scores: threshold) & live(probe, layer)


def normalised(probe: Probe, layer: str, channels: Tensor) -> Tensor:
    """(M, h, w) attribution masks before upsampling."""
    lo, hi = (e[channels, None, None] for e in probe.extrema(layer))
    return (probe.feature_maps(layer)[channels] - lo) / (hi - lo + EPSILON)


def layer_maps(of: Subject, scorer: Scorer, target: int, chosen: Mapping[str, Tensor]) -> list[np.ndarray]:
    """Visualization maps of some masks per layer."""
    probe = Probe(of.network, of.image, layers=of.layers, scorer=scorer)
    probe.score_feature_maps(chosen)
    maps = []
    for layer, channels in chosen.items():
        mask = torch.zeros(1, len(probe.feature_maps(layer)), dtype=torch.bool, device=probe.device)
        mask[0, channels] = True
        found = visualize(probe, layer, [target], mask)[0]
        maps.append(np.zeros(probe.size, np.float32) if found is None else found.cpu().numpy())
    return maps


class TimedScorer(Scorer):
    """Keeps account of the time spent in the network itself; for CPUs, where nothing runs ahead."""

    seconds = 0.0

    def _run(self, batch: Tensor) -> Tensor:
        begun = clock()
        scores = super()._run(batch)
        self.seconds += clock() - begun
        return scores


def whole_sise(of: Subject, scorer: Scorer, target: int) -> dict[str, Any]:
    """SISE on a fresh probe, then everything that draws on the same passes."""
    if not of.image.is_cuda:
        scorer = TimedScorer(of.network, batch_size=scorer.batch_size, precision=scorer.precision)
        scorer.score_inputs(of.image.repeat(scorer.batch_size, 1, 1, 1))
        scorer.seconds = 0.0
    probe = Probe(of.network, of.image, layers=of.layers, scorer=scorer)
    whole = timed(lambda: discard(sise(probe, [target])), probe.device).seconds
    result = {"seconds": whole, "masks": probe.forward_passes - 1}
    if isinstance(scorer, TimedScorer):
        result["passes"] = scorer.seconds
    forward, backward = probe.forward_passes, probe.backward_passes
    after = {f"SISE, mu = {mu}": functools.partial(sise, mu=mu) for mu in THRESHOLDS}
    after |= {f"Ada-SISE, {rule}": functools.partial(ada_sise, rule=rule) for rule in ("otsu_positive", "otsu_signed")}
    result["after"] = {name: timed(lambda e=e: discard(e(probe, [target])), probe.device).seconds
                       for name, e in after.items()}  # fmt: skip
    result["further passes"] = probe.forward_passes - forward + probe.backward_passes - backward
    return result


def bare_passes(of: Subject, scorer: Scorer, target: int) -> dict[str, Any]:
    """As many batches through the same runner as SISE needs, and nothing else."""
    probe = Probe(of.network, of.image, layers=of.layers, scorer=scorer)
    masks = sum(int(selected(probe, layer, target).sum()) for layer in of.layers)
    scorer.score_inputs(of.image)
    batch = of.image.repeat(scorer.batch_size, 1, 1, 1)
    batch = batch.contiguous(memory_format=scorer._memory_format)
    synchronise(of.image.device)
    begun = clock()
    for _ in range(-(-masks // len(batch))):
        scorer._run(batch)
    synchronise(of.image.device)
    return {"seconds": clock() - begun, "masks": masks}


class NullNetwork(nn.Module):
    """Costs almost nothing: the mean of each colour, then a linear layer to 20 scores."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 20)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean(dim=(2, 3)))


def null_sise(of: Subject, null: Scorer, target: int, threads: int | None) -> dict[str, Any]:
    """All of SISE but its passes: feature maps and gradients are there, and the masked passes cost nothing.

    Returns:
        ``seconds`` per mask, and ``parts``, the seconds per mask by phase.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        probe = Probe(of.network, of.image, layers=of.layers, scorer=null)
        for layer in of.layers:
            probe.gradient_scores(layer, target)
        probe.forward_passes = 0
        _, seconds = phases(probe, [target], gate="otsu_hard")
        masks = probe.forward_passes
        batch = of.image.repeat(null.batch_size, 1, 1, 1)
        bare = timed(lambda: [null._run(batch) for _ in range(-(-masks // len(batch)))], probe.device).seconds
    finally:
        torch.set_num_threads(before)
    parts = {name: s / masks for name, s in seconds.items()} | {NULL_PART: bare / masks}
    return {"seconds": sum(seconds.values()) / masks, "parts": parts, "masks": masks}


def phases(
    probe: Probe,
    targets: Sequence[int],
    threshold: Callable[[np.ndarray], float] = lambda scores: 0.0,
    *,
    gate: str = "otsu_soft",
    contribution: str = "mask_size",
) -> tuple[Tensor, dict[str, float]]:
    """SISE phase by phase, as :func:`sise.method.sise` runs it, with the time of each.

    Args:
        probe: A fresh one.
        targets: T class indices.
        threshold: Of the normalised gradient scores.
        gate, contribution: As in :func:`sise.method.sise`.

    Returns:
        (T, H, W) saliency, and seconds of ``extraction`` (the pass that gives feature maps), ``selection`` (the
        backward pass and the thresholds), ``scoring`` (the masked passes), ``combination`` (their weighted sums) and
        ``fusion``.
    """
    seconds: dict[str, float] = {}

    def phase(name: str, action: Callable[[], Any]) -> Any:
        measured = timed(lambda: (action(),), probe.device)
        seconds[name] = measured.seconds
        return measured.result[0]

    def selection() -> dict[str, Tensor]:
        return {
            layer: torch.stack([select(probe.gradient_scores(layer, t), threshold) for t in targets])
            & live(probe, layer)
            for layer in probe.layers
        }

    phase("extraction", probe.scores)
    used = phase("selection", selection)
    union = {layer: chosen.any(dim=0).nonzero()[:, 0] for layer, chosen in used.items()}
    phase("scoring", lambda: probe.score_feature_maps(union, targets=targets))
    maps = phase(
        "combination",
        lambda: [visualize(probe, n, targets, used[n], contribution=contribution) for n in probe.layers],
    )
    fused = phase("fusion", lambda: [fuse([m[i] for m in maps], gate=gate) for i in range(len(targets))])
    blank = torch.zeros(probe.size, device=probe.device)
    return torch.stack([blank if f is None else f for f in fused]), seconds


# ---------------------------------------------------------------------- the part "engine"


def engine(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """Times of every runner against plain eager passes, the overhead, and what comes free after SISE."""
    compiler = bool(os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++", "c++"))))
    compile = bool(cfg.compile) and (compiler or device.type == "cuda")
    passes, overhead, after = [], [], []
    samples: dict[str, Any] = {}
    notes = [random_weights(cfg.width)]
    if cfg.compile and not compile:
        notes.append("torch.compile was left out: it needs a C++ compiler, and none was found.")
    for network in cfg.networks:
        arguments = {"network": network, "masks": cfg.masks, "device": str(device), "batch": cfg.batch_size}
        arguments |= {"compile": compile, "width": cfg.width}
        with ExitStack() as stack:
            workers = {
                allocator: stack.enter_context(
                    Worker(engine_actions, arguments, device, malloc=allocator == "kept", threads=cfg.threads)
                )
                for allocator in (("default",) if device.type == "cuda" else ("default", "kept"))
            }
            measured, failures = measure_runners(workers, cfg.rounds, device, LABELS[network])
            last = workers[list(workers)[-1]]
            maps = {name: last(f"maps of {name}").result for _, name in measured if f"maps of {name}" in last.names}
            nulls = [n for n in last.names if n.startswith("null")]
            for name in nulls:
                last(name)  # warms up
            actions = {name: functools.partial(last, name) for name in nulls}
            null = interleaved(actions, cfg.rounds, f"{LABELS[network]}, overhead")
            if device.type == "cuda":
                pair = {n: functools.partial(last, n) for n in ("bare", "sise")}
                whole = interleaved(pair, cfg.rounds, f"{LABELS[network]}, whole SISE")
            else:
                whole = {"sise": [last("sise")]}
        notes += failures
        passes += pass_rows(network, measured, maps, cfg.masks, device)
        overhead += overhead_rows(network, null)
        rows, more = whole_rows(network, whole)
        overhead += rows
        after += more
        samples[network] = {
            "passes": {" | ".join(k): [m.seconds for m in v] for k, v in measured.items()},
            "page faults": {" | ".join(k): [m.faults for m in v] for k, v in measured.items()},
            "null": {k: [m.result for m in v] for k, v in null.items()},
            "sise": {k: [m.result for m in v] for k, v in whole.items()},
        }
        batch = cfg.batch_size or (64 if device.type == "cuda" else 32)
        engine_notes = [
            f"{cfg.rounds} rounds over the same {cfg.masks} masks of all layers, 224 x 224, batches of {batch}; a "
            "ratio is that of two times of one round, and the median over rounds is given.",
            PASSES_NOTE,
            *notes,
        ]
        title = "The engine: everything but the passes"
        yield [
            Report("engine", "The engine: time of a masked pass", pd.DataFrame(passes), engine_notes, samples),
            Report("overhead", title, pd.DataFrame(overhead), [NULL_NOTE, WHOLE_NOTE, *notes]),
            Report("after_sise", "After SISE on the same probe", pd.DataFrame(after), [AFTER_NOTE, *notes]),
        ]


def measure_runners(
    workers: Mapping[str, Callable[[str], Measurement]], rounds: int, device: torch.device, description: str
) -> tuple[dict[tuple[str, str], list[Measurement]], list[str]]:
    """Warms every runner up, leaves out those that fail, then measures all in turns.

    Returns:
        Measurements by (allocator, runner), and a note per failure.
    """
    actions, notes = {}, []
    for allocator, worker in workers.items():
        for name in worker.names:
            if name.startswith(("maps of", "null", "sise", "bare")):
                continue
            if "compiled" in name and allocator == "default" and "kept" in workers:
                continue  # a compilation takes a minute and its buffers are its own
            try:
                worker(name)
                actions[allocator, name] = functools.partial(worker, name)
            except Exception as error:
                notes.append(f"{name} was left out: {str(error)[:200]}")
    return interleaved(actions, rounds, description), notes


def pass_rows(
    network: str,
    measured: Mapping[tuple[str, str], Sequence[Measurement]],
    maps: Mapping[str, Sequence[np.ndarray]],
    masks: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One row per (allocator, runner): the ratio to the plain eager passes of the same round."""
    floor = measured["default", PLAIN]
    rows = []
    for (allocator, name), found in measured.items():
        relative = ratios(found, floor)
        precision = next((p for p in ("bf16", "fp16", "tf32") if p in name), "fp32")
        goal = GOALS.get((network, precision)) if name.startswith("lossless") and allocator == "kept" else None
        goal = goal if device.type == "cpu" else None
        error = layer_map_error(maps[name], maps[PLAIN]) if name in maps and name != PLAIN else None
        rows.append(
            {
                "network": LABELS[network],
                "runner": name,
                "allocator": allocator,
                "time / plain eager": quartiles(relative)[0],
                "interquartile range": spread(relative),
                "ms per mask": quartiles(m.seconds for m in found)[0] / masks * 1000,
                "page faults per mask": round(quartiles(m.faults for m in found)[0] / masks),
                "layer map error / peak": error,
                "goal": f"<= {goal}" if goal else "",
                "met": None if goal is None else quartiles(relative)[0] <= goal,
            }
        )
    return rows


def layer_map_error(maps: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Largest difference of any layer's map, as a share of that map's peak."""
    return max(
        float(np.abs(m - r).max() / max(float(np.abs(r).max()), 1e-12)) for m, r in zip(maps, reference, strict=True)
    )


def overhead_rows(network: str, null: Mapping[str, Sequence[Measurement]]) -> list[dict[str, Any]]:
    """Microseconds per mask of everything but the passes, and of its parts."""
    rows = []
    for name, found in null.items():
        values = [(m.seconds - m.result["parts"][NULL_PART]) * 1e6 for m in found]
        threads = "1 CPU thread" if "1 thread" in name else "default threads"
        common = {"network": LABELS[network], "masks": found[0].result["masks"]}
        rows.append(
            common
            | {"what": f"everything but the passes, {threads}", "unit": "µs per mask", "value": quartiles(values)[0]}
            | {"interquartile range": spread(values), "goal": f"<= {GOAL_MICROSECONDS:.0f}"}
            | {"met": quartiles(values)[0] <= GOAL_MICROSECONDS}
        )
        for part in found[0].result["parts"]:
            values = [m.result["parts"][part] * 1e6 for m in found]
            what = f"  beside it {part}" if part == NULL_PART else f"  of it {part}"
            if part != "extraction":
                rows.append(common | {"what": what, "unit": "µs per mask", "value": quartiles(values)[0],
                                      "interquartile range": spread(values), "goal": "", "met": None})  # fmt: skip
    return rows


def whole_rows(network: str, whole: Mapping[str, Sequence[Measurement]]) -> tuple[list[dict], list[dict]]:
    """SISE over its passes, and what comes after it."""
    results = [m.result for m in whole["sise"]]
    if "bare" in whole:
        relative = ratios(whole["sise"], whole["bare"])
    else:
        relative = [r["seconds"] / r["passes"] for r in results]
    seconds = quartiles(r["seconds"] for r in results)[0]
    common = {"network": LABELS[network], "masks": results[0]["masks"]}
    rows = [
        common
        | {"what": "SISE whole / its passes", "unit": "ratio", "value": quartiles(relative)[0]}
        | {"interquartile range": spread(relative, 4) if len(relative) > 1 else "1 run", "goal": f"<= {GOAL_WHOLE}"}
        | {"met": quartiles(relative)[0] <= GOAL_WHOLE},
        common
        | {"what": "SISE whole", "unit": "s", "value": seconds, "interquartile range": "", "goal": "", "met": None},
    ]
    after = []
    times = {name: quartiles(r["after"][name] for r in results)[0] for name in results[0]["after"]}
    further = max(r["further passes"] for r in results)
    for name, value in times.items():
        after.append({"network": LABELS[network], "explainer": name, "seconds": value,
                      "share of SISE's time (%)": 100 * value / seconds, "further passes": "", "goal": "",
                      "met": None})  # fmt: skip
    total = sum(times.values())
    after.append({"network": LABELS[network], "explainer": "all of these", "seconds": total,
                  "share of SISE's time (%)": 100 * total / seconds, "further passes": str(further),
                  "goal": "0 passes, <= 0.5 %", "met": further == 0 and total <= GOAL_AFTER * seconds})  # fmt: skip
    return rows, after


# ---------------------------------------------------------------------- the part "precision"


def precision(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """What lower precisions change: scores, layer maps, fused maps and the cells of a table."""
    kinds = ["fp32 lossless", *(["tf32"] if device.type == "cuda" else []), "fp16", "bf16"]
    drift, cells_table, samples = [], [], {}
    notes = [
        f"Trained narrow networks, {cfg.precision.images} images of {cfg.dataset}, every class; the reference is the "
        "network as it is, plain fp32."
    ]
    for network in cfg.networks:
        configs = experiment_cells(cfg, network, explainer="sise", protocol="paper")
        cell = runner.make_cells(configs)[0]
        cell.model.network.to(device)
        scorers = {"plain": Scorer(cell.model.network, lossless=False)}
        for kind in kinds:
            scorers[kind] = Scorer(cell.model.network, precision=kind.split()[0])
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in scorers}
        table: dict[str, list[dict[str, float]]] = {kind: [] for kind in scorers}
        seconds: dict[str, float] = dict.fromkeys(scorers, 0.0)
        ids = [i for i in cell.dataset.ids if cell.pairs(i)][: cfg.precision.images]
        for image_id in Progress(ids, desc=f"{LABELS[network]}, precision", unit="image"):
            sample, reference = cell.dataset[image_id], None
            for kind, scorer in list(scorers.items()):
                try:
                    state, records, took = explain_in(cell, sample, scorer, device)
                except Exception as error:
                    notes.append(f"{LABELS[network]}, {kind} was left out: {type(error).__name__}: {str(error)[:150]}")
                    del scorers[kind], found[kind], table[kind]
                    continue
                seconds[kind] += took
                reference = reference or state
                found[kind].append(compare(state, reference))
                table[kind] += records
        for kind in scorers:
            frame = pd.DataFrame(found[kind])
            drift.append(
                {
                    "network": LABELS[network],
                    "precision": kind,
                    "images": len(ids),
                    "score error / mean |score|": frame["score"].mean(),
                    "layer map error / peak, mean": frame["map mean"].mean(),
                    "worst": frame["map worst"].max(),
                    "top 15 % pixels changed (%)": 100 * frame["top"].mean(),
                    "fused pixels off by > 0.001 (%)": 100 * frame["fused"].mean(),
                    "time / plain": seconds[kind] / seconds["plain"],
                }
            )
            means, base = pd.DataFrame(table[kind]).mean(), pd.DataFrame(table["plain"]).mean()
            row = {"network": LABELS[network], "precision": kind, "pairs": len(table[kind])}
            for metric in means.index:
                row[metric] = f"{100 * means[metric]:.3f}"
                row[f"{metric} change"] = "" if kind == "plain" else f"{100 * (means[metric] - base[metric]):+.3f}"
            cells_table.append(row)
        samples[network] = dict(found)
        title = "Drift of the masked passes' precision"
        yield [
            Report("precision", title, pd.DataFrame(drift), [*notes, *DRIFT_NOTES], samples),
            Report("precision_cells", "Table cells (%) and their change in points", pd.DataFrame(cells_table), notes),
        ]


def explain_in(
    cell: runner.Cell, sample: Any, scorer: Scorer, device: torch.device
) -> tuple[dict[str, Any], list[dict[str, float]], float]:
    """SISE of one image with one engine: what precision may change, the metrics per class, and the time."""
    probe = runner.make_probe(cell, sample, scorer, device)
    targets = cell.pairs(sample.image_id)
    outputs = [cell.outputs[cell.dataset.classes[t]] for t in targets]
    measured = timed(lambda: (cell.explainer(probe, outputs),), device)
    saliency = measured.result[0]
    scores, maps = [], []
    for layer in probe.layers:
        used = torch.stack([selected(probe, layer, o) for o in outputs])
        channels = used.any(dim=0).nonzero()[:, 0]
        if len(channels):
            scores.append(probe.masked_scores(layer, channels)[:, outputs].cpu())
        blank = torch.zeros(probe.size)
        maps += [blank if m is None else m.cpu() for m in visualize(probe, layer, outputs, used)]
    records = [runner.make_record(cell, sample, probe, t, s, {}) for t, s in zip(targets, saliency, strict=True)]
    names = [name for group in cell.metrics for name in group]
    metrics = [{name: float(r[name]) for name in names} for r in records]
    state = {"scores": torch.cat(scores), "maps": torch.stack(maps), "saliency": saliency.cpu()}
    return state, metrics, measured.seconds


def compare(state: Mapping[str, Tensor], reference: Mapping[str, Tensor], top: float = 0.15) -> dict[str, float]:
    """Differences of one image's results from the reference's.

    Returns:
        ``score``: mean absolute difference over the mean absolute score; ``map mean`` and ``map worst``: largest
        difference of a layer's map over its peak, over layers and classes; ``top``: share of pixels that enter or
        leave the salient share ``top``; ``fused``: share of pixels of the fused maps off by more than 1e-3.
    """
    peaks = reference["maps"].flatten(1).amax(dim=1)
    errors = (state["maps"] - reference["maps"]).abs().flatten(1).amax(dim=1)
    relative = errors[peaks > 0] / peaks[peaks > 0]
    flat, base = state["saliency"].flatten(1), reference["saliency"].flatten(1)
    count = max(1, round(top * flat.shape[1]))
    kept, before = torch.zeros_like(flat, dtype=torch.bool), torch.zeros_like(flat, dtype=torch.bool)
    kept.scatter_(1, flat.sort(dim=1, descending=True, stable=True).indices[:, :count], True)
    before.scatter_(1, base.sort(dim=1, descending=True, stable=True).indices[:, :count], True)
    return {
        "score": float((state["scores"] - reference["scores"]).abs().mean() / reference["scores"].abs().mean()),
        "map mean": float(relative.mean()) if len(relative) else 0.0,
        "map worst": float(relative.max()) if len(relative) else 0.0,
        "top": float((kept != before).float().mean()),
        "fused": float(((flat - base).abs() > 1e-3).float().mean()),
    }

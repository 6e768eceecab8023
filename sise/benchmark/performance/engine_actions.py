"""What the engine is measured on: masked passes, bare passes, whole explanations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sise.benchmark.performance.clock import clock, timed
from sise.benchmark.performance.phases import THRESHOLDS, discard, phases, selected
from sise.benchmark.performance.subject import Subject, subject
from sise.devices import allow_tf32, synchronise
from sise.maps import upsample
from sise.method import ada_sise, sise, visualize
from sise.probe.probe import EPSILON, Probe
from sise.scoring import Scorer, Segment

NULL_PART = "the null network itself"


@dataclass(frozen=True)
class Runner:
    """A way to make masked passes.

    Attributes:
        name: How it makes them.
        lossless: It is the suite's engine.
        precision, compile, graphs: As of :class:`Scorer`.
    """

    name: str
    lossless: bool = False
    precision: str = "fp32"
    compile: bool = False
    graphs: bool = False

    def __str__(self) -> str:
        precision = "" if self.precision == "fp32" else f" {self.precision}"
        return f"{self.name}{precision}{', compiled' * self.compile}{', graphs' * self.graphs}"

    def scorer(self, network: nn.Module, size: int) -> Scorer:
        """A scorer of that kind."""
        return Scorer(network, batch_size=size, precision=self.precision, compile=self.compile, graphs=self.graphs)


@dataclass(frozen=True)
class Action:
    """What is measured.

    Attributes:
        kind: ``passes`` of a runner, the layers' ``maps`` they lead to, all of ``sise``, its ``bare`` passes, or
            ``null``, SISE whose passes cost nothing.
        runner: Of passes and maps.
        threads: CPU threads of ``null``; None = torch's choice.
    """

    kind: Literal["passes", "maps", "sise", "bare", "null"]
    runner: Runner | None = None
    threads: int | None = None

    def __str__(self) -> str:
        if self.kind == "passes":
            return str(self.runner)
        if self.kind == "maps":
            return f"maps of {self.runner}"
        return f"null sise{', 1 thread' if self.threads else ''}" if self.kind == "null" else self.kind


PLAIN, SMALL = Runner("plain eager"), Runner("plain eager, batch 8")


def engine_actions(
    *, network: str, masks: int, device: str, batch: int | None, compile: bool, width: float = 1.0
) -> dict[Action, Callable[[], Any]]:
    """Actions of the ``engine`` part, all over the same masks, drawn evenly from all of SISE's layers.

    Returns:
        By :class:`Action`.
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

    scorers = {runner: runner.scorer(of.network, size) for runner in runners(place, compile)}
    actions: dict[Action, Callable[[], Any]] = {
        Action("passes", PLAIN): lambda: discard(plain(size)), Action("passes", SMALL): lambda: discard(plain(8))
    }  # fmt: skip
    for runner, scorer in scorers.items():
        actions[Action("passes", runner)] = functools.partial(_score, scorer, segments)
    reference = Scorer(of.network, batch_size=size, lossless=False)
    for runner, scorer in {PLAIN: reference, **scorers}.items():
        actions[Action("maps", runner)] = functools.partial(layer_maps, of, scorer, target, chosen)
    whole = scorers[Runner("lossless", True, "fp16" if place.type == "cuda" else "fp32")]
    actions[Action("sise")] = lambda: whole_sise(of, whole, target)
    actions[Action("bare")] = lambda: bare_passes(of, whole, target)
    null = Scorer(NullNetwork().eval().to(place), batch_size=size)
    null.score_inputs(of.image)  # checks it against itself: the probes below have another network's scores
    for threads in (1, None) if place.type == "cpu" else (None,):
        actions[Action("null", threads=threads)] = functools.partial(null_sise, of, null, target, threads)
    return actions


def _score(scorer: Scorer, segments: Sequence[Segment]) -> None:
    scorer.score(segments)


def runners(device: torch.device, compile: bool) -> list[Runner]:
    """The engine's settings that are measured."""
    half = ("tf32", "fp16", "bf16") if device.type == "cuda" else ("bf16",)
    found = [Runner("lossless", True, precision) for precision in ("fp32", *half)]
    if compile:
        found += [replace(runner, compile=True) for runner in found]
        if device.type == "cuda":  # engine.fast
            found.append(Runner("lossless", True, "fp16", compile=True, graphs=True))
    return found


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
        scorer.score_inputs(of.image.repeat(scorer._batch_size(of.image), 1, 1, 1))
        scorer.seconds = 0.0
    probe = Probe(of.network, of.image, layers=of.layers, scorer=scorer)
    whole = timed(lambda: discard(sise(probe, [target])), probe.device).seconds
    result: dict[str, Any] = {"seconds": whole, "masks": probe.forward_passes - 1}
    if isinstance(scorer, TimedScorer):
        result["passes"] = scorer.seconds
    forward, backward = probe.forward_passes, probe.backward_passes
    after = {f"SISE, mu = {mu}": functools.partial(sise, mu=mu) for mu in THRESHOLDS}
    after |= {f"Ada-SISE, {rule}": functools.partial(ada_sise, rule=rule) for rule in ("otsu_positive", "otsu_signed")}
    result["after"] = {name: timed(functools.partial(e, probe, [target]), probe.device).seconds
                       for name, e in after.items()}  # fmt: skip
    result["further passes"] = probe.forward_passes - forward + probe.backward_passes - backward
    return result


def bare_passes(of: Subject, scorer: Scorer, target: int) -> dict[str, Any]:
    """As many batches through the same runner as SISE needs, and nothing else."""
    probe = Probe(of.network, of.image, layers=of.layers, scorer=scorer)
    masks = sum(int(selected(probe, layer, target).sum()) for layer in of.layers)
    scorer.score_inputs(of.image)
    batch = of.image.repeat(scorer._batch_size(of.image), 1, 1, 1)
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
        batch = of.image.repeat(null._batch_size(of.image), 1, 1, 1)
        bare = timed(lambda: [null._run(batch) for _ in range(-(-masks // len(batch)))], probe.device).seconds
    finally:
        torch.set_num_threads(before)
    parts = {name: s / masks for name, s in seconds.items()} | {NULL_PART: bare / masks}
    return {"seconds": sum(seconds.values()) / masks, "parts": parts, "masks": masks}

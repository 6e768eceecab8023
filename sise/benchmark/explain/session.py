"""Explainers, a network and their caches for several pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from sise import choices
from sise.benchmark import invocation
from sise.benchmark.figures.cascade import visualization_maps
from sise.benchmark.records.provenance import provenance
from sise.benchmark.run import probing
from sise.benchmark.run.arguments import check_arguments
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.left_behind import WeightsChanged, nothing_left_behind
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError, choose
from sise.layers import check_layers
from sise.method import layer_names
from sise.metrics import keep_mask
from sise.probe.probe import Probe
from sise.scoring import Scorer, Segment
from sise.types import ImagePreprocess, Model, Sample

log = logging.getLogger(__name__)
KEPT = 0.15
"""The share of the pixels that stays for the second confidence of a map, that of Drop % and Increase %."""


@dataclass
class Map:
    """One explainer's map of one class.

    Attributes:
        cell: The explainer.
        target: Class index.
        saliency: (H, W) on the network's grid.
        kept: Confidence in the class when the network sees the map's best 15 % of the pixels.
        costs: Seconds and passes, for all classes of the image together.
        layers: The visualization maps by layer, for SISE and Ada-SISE; None where a layer has none.
    """

    cell: Cell
    target: int
    saliency: Tensor
    kept: float
    costs: dict[str, float]
    layers: dict[str, Tensor | None] = field(default_factory=dict)


class ShownScorer(Scorer):
    """Shows the passes of an explainer that takes more than two seconds, and the time they will take.

    Attributes:
        shown: Whether to; not beside another bar.
    """

    shown = False
    _bar: Progress | None = None
    _iterations = 0

    @contextmanager
    def showing(self, label: str, masks: int | None, iterations: int | None, targets: int) -> Iterator[None]:
        """While an explainer runs that is known to score so many masks, or to make so many iterations per target."""
        if not self.shown:
            yield
            return
        self._iterations = (iterations or 0) * targets
        try:
            with Progress(total=masks or 0, desc=label, unit="pass", delay=2, leave=False) as self._bar:
                yield
        finally:
            self._bar = None

    def score(self, segments: Sequence[Segment]) -> Tensor:
        self._announce(sum(len(segment.maps) for segment in segments))
        return super().score(segments)

    def differentiable(self, inputs: Tensor) -> Tensor:
        if self._bar is not None:
            self._bar.total = max(self._bar.total, self._iterations * len(inputs))
        scores = super().differentiable(inputs)
        self._advance(len(inputs))
        return scores

    def _forward(self, batch: Tensor) -> Tensor:
        scores = super()._forward(batch)
        self._advance(len(batch))
        return scores

    def _announce(self, passes: int) -> None:
        if self._bar is not None:
            self._bar.total = max(self._bar.total, self._bar.n + passes)

    def _advance(self, passes: int) -> None:
        if self._bar is not None:
            self._bar.total = max(self._bar.total, self._bar.n + 1)
            self._bar.update(min(passes, self._bar.total - self._bar.n))  # a last batch may be padded


class OwnImages:
    """The data set of a cell that explains the user's own pictures: nothing is known of them."""

    name = "own images"
    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def targets_of(self, image_id: str) -> tuple[int, ...]:
        return ()

    def __len__(self) -> int:
        return 0

    def __getitem__(self, image_id: str) -> Sample:
        raise SuiteError(f"no data set behind {image_id}: pictures of your own are read by image=<file or folder>")

    def fingerprint(self) -> str:
        return ""


class Explaining:
    """A network and explainers, ready for images.

    Args:
        configs: One per explainer, from :func:`compose_explainers`; network and protocol are those of the first.

    Raises:
        SuiteError: If the network cannot be made, sees no images, has no layers or not those named, or an explainer
            does not take what the settings give it.
    """

    def __init__(self, configs: Sequence[DictConfig]) -> None:
        self.cfg = configs[0]
        choose("protocol.fill", self.cfg.protocol.fill, choices.FILLS)
        self.model: Model = instantiate(self.cfg.model.loader)
        if not isinstance(self.model.preprocess, ImagePreprocess):
            raise SuiteError(
                f"{invocation.typed('explain')} explains images, and model={self.model.name} sees none; "
                f"choose another model, or run it on its dataset: {invocation.typed('evaluate')} "
                f"model={self.model.name} dataset=..."
            )
        self.input: ImagePreprocess = self.model.preprocess
        self.cells = [Cell(cfg, OwnImages(), self.model) for cfg in configs]
        for cell in self.cells:
            check_arguments(f"explainer={cell.cfg.explainer.name}", cell.explainer, 2)
        self.device = choose_device(self.cfg.device)
        self.network = self.model.network.to(self.device)
        self.note = provenance("other data", self.device)
        named = dict.fromkeys(filter(None, (*self.model.layers, self.model.cam_layer)))
        if named:
            size, channels = self.input.size, len(self.model.black)
            check_layers(self.network, list(named), size, channels=channels)
        self.scorer = probing.make_scorer(self.network, self.cfg.engine, kind=ShownScorer)

    def describe(self) -> list[str]:
        """The network, its input and its layers in words."""
        pre = self.input
        kind = "grey" if pre.channels == "L" else pre.channels
        numbers = ["/".join(f"{v:.4g}" for v in dict.fromkeys(values)) for values in (pre.mean, pre.std)]
        layers = ", ".join(self.model.layers) or "none"
        return [
            f"network: {self.model.name}, {self.model.note}",
            f"input:   {pre.size[0]} × {pre.size[1]} {kind} ({pre.geometry}), (pixel − {numbers[0]}) / {numbers[1]}",
            f"layers:  {layers}; CAM methods read {self.model.cam_layer or 'none'}",
        ]

    def facts(self) -> dict[str, Any]:
        """What a map depends on besides its explainer, for explanation.json."""
        return {
            "network": self.model.name,
            "note": self.model.note,
            "weights_hash": self.model.weights_hash,
            "input": repr(self.model.preprocess),
            "layers": list(self.model.layers),
            "cam_layer": self.model.cam_layer,
            "protocol": self.cfg.protocol.name,
            "settings": {
                "protocol": OmegaConf.to_container(self.cfg.protocol, resolve=True),
                "precision": self.cfg.engine.precision,
            },
        }

    def probe(self, image: Image.Image) -> Probe:
        """The image as the network sees it."""
        protocol = self.cfg.protocol
        pixels = self.model.preprocess(image)[None].to(self.device)
        return Probe(
            self.network,
            pixels,
            layers=self.model.layers,
            cam_layer=self.model.cam_layer or None,
            confidence=protocol.confidence,
            gradient=protocol.gradient,
            fill=probing.make_fill(protocol.fill, self.model, pixels),
            scorer=self.scorer,
            seed=self.cfg.seed,
        )

    def maps(self, probe: Probe, targets: Sequence[int]) -> tuple[list[Map], dict[str, str]]:
        """Every explainer's map of every class, class by class, and why there is none of some explainers.

        Returns:
            The maps, and the reason by the label of each explainer that made none.
        """
        made: list[Map] = []
        refused: dict[str, str] = {}
        for cell in self.cells:
            try:
                made += self._maps_of(cell, probe, targets)
            except WeightsChanged:
                raise
            except Exception as error:  # the others can do without it
                refused[cell.cfg.explainer.label] = reason_of(error)
                log.debug("traceback", exc_info=error)
        return sorted(made, key=lambda one: list(targets).index(one.target)), refused

    def _maps_of(self, cell: Cell, probe: Probe, targets: Sequence[int]) -> list[Map]:
        """One explainer's map of every class."""
        made: list[Map] = []
        call, label = cell.cfg.explainer.call, cell.cfg.explainer.label
        shown = self.scorer.showing(label, call.get("n_masks"), call.get("max_iter"), len(targets))
        with shown, nothing_left_behind(probe, cell.cfg.explainer.name, closely=True), probe.bill() as bill:
            saliency = cell.explainer(probe, targets)
        saliency = probing.checked_maps(saliency, probe, len(targets), self.cfg.protocol.on_nan)
        costs = {"seconds": bill.seconds, "forward_passes": bill.forward, "backward_passes": bill.backward}
        kept = probe.to_confidence(probe.score_masks(torch.stack([keep_mask(s, fraction=KEPT) for s in saliency])))
        for i, target in enumerate(targets):
            layers: dict[str, Tensor | None] = {}
            if cell.cfg.explainer.get("by_layer"):
                names = layer_names(cell.options.get("layers") or probe.layers, probe.layers)
                layers = dict(zip(names, visualization_maps(cell, probe, target), strict=True))
            made.append(Map(cell, target, saliency[i], float(kept[i, target]), costs, layers))
        return made


def reason_of(error: Exception) -> str:
    """Why something was not explained, in one line if it is one of the suite's reasons."""
    return f"{error}" if isinstance(error, SuiteError) else f"{type(error).__name__}: {error}"

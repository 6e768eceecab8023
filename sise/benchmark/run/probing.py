"""The probe that a cell's explainer asks: scorer, caches, seeds, fill, targets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from sise.benchmark.records.code_version import code_of
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.score_cache import ScoreCache
from sise.errors import SuiteError
from sise.maps import over_map
from sise.probe.probe import Probe
from sise.scoring import Scorer
from sise.types import Model, Sample

S = TypeVar("S", bound=Scorer)


@overload
def make_scorer(network: torch.nn.Module, engine: DictConfig, *, steady: bool = False) -> Scorer: ...


@overload
def make_scorer(network: torch.nn.Module, engine: DictConfig, *, steady: bool = False, kind: type[S]) -> S: ...


def make_scorer(
    network: torch.nn.Module, engine: DictConfig, *, steady: bool = False, kind: type[Scorer] = Scorer
) -> Scorer:
    """A scorer of a network with the settings of ``configs/engine/``; ``steady`` is the scorer's own."""
    return kind(
        network,
        batch_size=engine.batch_size,
        lossless=engine.lossless,
        precision=engine.precision,
        compile=engine.compile,
        graphs=engine.graphs,
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


@dataclass(frozen=True)
class Seen:
    """A sample and what a network is shown of it, on the CPU.

    Attributes:
        sample: As the dataset has it.
        image: (1, C, H, W) network input, or a signal's (1, C, L).
        masks: (H, W) bool by the network's output, for each class that the network scores.
        regions: (H, W) bool by name, further places that the dataset knows.
    """

    sample: Sample
    image: Tensor
    masks: dict[int, Tensor]
    regions: dict[str, Tensor]


def see(cell: Cell, sample: Sample) -> Seen:
    """Preprocesses a sample and its ground-truth masks as a cell's network needs them."""

    def resized(mask: object) -> Tensor:
        return torch.as_tensor(cell.model.resize_mask(np.asarray(mask)))

    names = cell.dataset.classes
    pairs = zip(sample.targets, sample.masks, strict=True)
    masks = {cell.outputs[names[t]]: resized(mask) for t, mask in pairs if names[t] in cell.outputs}
    regions = {name: resized(region) for name, region in sample.info.get("regions", {}).items()}
    return Seen(sample, cell.model.preprocess(sample.image)[None], masks, regions)


def make_probe(cell: Cell, sample: Sample, scorer: Scorer, device: torch.device) -> Probe:
    """A sample as a cell's network sees it, with its ground-truth masks."""
    return probe_of(cell, see(cell, sample), scorer, device)


def probe_of(cell: Cell, seen: Seen, scorer: Scorer, device: torch.device) -> Probe:
    """The probe of what a cell's network sees, on a device."""
    model, protocol = cell.model, cell.cfg.protocol
    image = seen.image.to(device)
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
    masks = GroundTruth(probe.size, device)
    masks.update({output: mask.to(device) for output, mask in seen.masks.items()})
    probe.ground_truth = masks
    probe.regions = {name: region.to(device) for name, region in seen.regions.items()}
    return probe


def judge_of(cell: Cell, probe: Probe) -> Probe:
    """What Drop and Increase read: the method's probe, or one with a fill or confidence of their own (M5, M6)."""
    protocol = cell.cfg.protocol
    confidence, fill = protocol.metric_confidence or protocol.confidence, protocol.metric_fill or protocol.fill
    if (confidence, fill) == (protocol.confidence, protocol.fill):
        return probe
    if (confidence, fill) not in probe.judges:
        new = make_fill(fill, cell.model, probe.image)
        probe.judges[confidence, fill] = probe.alike(confidence=confidence, fill=new)
    return probe.judges[confidence, fill]


class GroundTruth(dict[int, Tensor]):
    """Ground-truth masks by the network's output; a class that is not annotated has an empty one."""

    def __init__(self, size: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self.size, self.device = tuple(size), device

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
    return predicted(cell, sample, probe)


def predicted(cell: Cell, sample: Sample, probe: Probe) -> list[int]:
    """PROTOCOL M8, G6: the classes of an image among the network's n highest scores, n the number of its classes."""
    scores = probe.scores()
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

"""Cells that share a network, an engine and a score cache outside of a run, and the (image, class) pairs to look at.

Every map is made as in a run: same cells, same probes, same seeds, so that a figure's numbers are the records'.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sise.benchmark.run import probing
from sise.benchmark.run.cells import Cell
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.left_behind import nothing_left_behind
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError, choose
from sise.probe.probe import Probe
from sise.types import Dataset, Sample

log = logging.getLogger(__name__)

#: How many images that cannot be read are named in the log; the others are only counted.
NAMED = 5


def readable(
    dataset: Dataset,
    ids: Sequence[str],
    description: str,
    left_out: dict[str, str] | None = None,
    read: Callable[[str], Any] | None = None,
) -> Iterator[Any]:
    """Images of a dataset one after the other, with a progress bar; those that cannot be read are said and left out.

    Args:
        dataset: The dataset.
        ids: Which images.
        description: Of the bar.
        left_out: Takes the reason by the id of each image left out.
        read: What is made of an id; None = its sample.

    Raises:
        SuiteError: If there are ids and none of them can be read.
    """
    left_out = {} if left_out is None else left_out
    for image_id in Progress(ids, desc=description, unit="image"):
        try:
            found = (read or dataset.__getitem__)(image_id)
        except Exception as error:
            left_out[image_id] = f"{type(error).__name__}: {error}"
            if len(left_out) <= NAMED:
                log.warning("%s, image %s is left out: %s", dataset.name, image_id, left_out[image_id])
            continue
        yield found
    if len(left_out) > NAMED:
        log.warning("%s: %d more images are left out", dataset.name, len(left_out) - NAMED)
    if len(ids) and all(image_id in left_out for image_id in ids):
        raise SuiteError(
            f"{dataset.name}: none of {len(ids)} images can be read; the first: {next(iter(left_out.values()))}"
        )


def choose_pairs(
    cell: Cell,
    count: int,
    seed: int,
    *,
    images: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> list[tuple[str, int]]:
    """The (image, target) pairs to draw.

    Args:
        cell: Knows the dataset and which classes the network has.
        count: How many pairs, of as many images, if they are to be drawn; the first n are the same for every count.
        seed: Of the choice.
        images: Ids; then every class of these images, in this order.
        classes: Only these.

    Returns:
        Pairs; fewer than ``count`` if there are not more.

    Raises:
        SuiteError: If an id or a class is unknown, or nothing is left.
    """
    dataset = cell.dataset
    for name in classes or ():
        choose("class", name, dataset.classes)
    for image_id in map(str, images or ()):
        if image_id not in set(dataset.ids):
            near = difflib.get_close_matches(image_id, dataset.ids, n=3, cutoff=0)
            raise SuiteError(
                f"{dataset.name} has no image {image_id!r} with targets; expected one of its {len(dataset.ids)} ids, "
                f"the nearest are: {', '.join(near)}."
            )

    def wanted(image_id: str) -> list[int]:
        return [t for t in cell.pairs(image_id) if not classes or dataset.classes[t] in classes]

    if images:
        pairs = [(image_id, t) for image_id in map(str, images) for t in wanted(image_id)]
    else:
        pairs = []
        for i in np.random.default_rng(seed).permutation(len(dataset.ids)):
            if len(pairs) == count:
                break
            image_id = dataset.ids[i]
            if targets := wanted(image_id):
                pairs.append((image_id, targets[probing.image_seed(seed, image_id) % len(targets)]))
    if not pairs:
        raise SuiteError(
            f"{dataset.name}: no image is left to draw; {cell.model.name} has no score for the classes of these "
            "images, or `classes` and `images` exclude each other, or `count` is 0."
        )
    return pairs


@dataclasses.dataclass
class Shared:
    """What the cells of one figure share: network on its device, engine, score cache."""

    cells: Sequence[Cell]
    network: torch.nn.Module | None = None

    def __post_init__(self) -> None:
        first = self.cells[0]
        engine = first.cfg.engine
        self.device = choose_device(first.cfg.device)
        changed = self.network is not None
        network = self.network if self.network is not None else first.model.network
        self.network = network.to(self.device)
        self.model = dataclasses.replace(first.model, network=self.network)
        self.scorer = probing.make_scorer(self.network, engine)
        self.cache = probing.make_score_cache(first, self.device) if engine.cache and not changed else None

    def probe(self, sample: Sample) -> Probe:
        """A probe of the image, with what is known of it from the disk."""
        first = self.cells[0]
        cell = Cell(first.cfg, first.dataset, self.model)
        probe = probing.make_probe(cell, sample, self.scorer, self.device)
        if self.cache is not None:
            self.cache.restore(probe)
        return probe

    def explain(self, cell: Cell, sample: Sample, probe: Probe, target: int) -> Tensor:
        """(H, W) saliency of one explainer, checked as in a run."""
        probe.seed = probing.image_seed(cell.cfg.seed, sample.image_id)
        output = cell.outputs[cell.dataset.classes[target]]
        with nothing_left_behind(probe, cell.cfg.explainer.name, closely=True):
            saliency = cell.explainer(probe, [output])
        return probing.checked_maps(saliency, probe, 1, cell.cfg.protocol.on_nan)[0]

    def keep(self, probe: Probe) -> None:
        """Writes what the probe knows to the disk."""
        if self.cache is not None:
            self.cache.save(probe, sorted(probe.ground_truth))

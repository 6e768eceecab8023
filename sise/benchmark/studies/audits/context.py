"""What every audit asks: data, networks, cells; and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pandas as pd
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig

from sise.benchmark import places
from sise.benchmark.config_facts import published_tables
from sise.benchmark.datasets.base import found_of
from sise.benchmark.run import cells, probing
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.session import readable
from sise.benchmark.tables.published import read_published
from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.scoring import Scorer
from sise.types import Model, VerifiedDataset

__all__ = ["Audit", "Bench"]


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
        self.device = choose_device(cfg.device)
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
                "inherit sise.benchmark.datasets.base.BaseDataset"
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
            cells.check_network(cfg)
            self._models[name, fully_convolutional] = instantiate(cfg.model.loader)
        return self._models[name, fully_convolutional]

    def cell(self, model: str, *overrides: str) -> cells.Cell:
        """A cell of the runner for this dataset and a network."""
        cfg = self.compose(*self._model_overrides(model), *overrides)
        return cells.Cell(cfg, self.dataset, self.model(model))

    def images(self, *cells: cells.Cell) -> Iterator[tuple[str, list[Probe], list[int]]]:
        """Every image that can be read: its id, a probe per cell, and the network's outputs of its targets."""
        network = cells[0].model.network.to(self.device)
        engine = cells[0].cfg.engine
        scorer = Scorer(network, batch_size=engine.batch_size, lossless=engine.lossless, precision=engine.precision)
        ids = [image_id for image_id in self.ids if cells[0].pairs(image_id)]
        description = f"{self.dataset.name} × {cells[0].cfg.model.name}"
        for sample in readable(self.dataset, ids, description, self.left_out):
            probes = [probing.make_probe(cell, sample, scorer, self.device) for cell in cells]
            for probe in probes:
                probe.seed = probing.image_seed(0, sample.image_id)
            targets = cells[0].pairs(sample.image_id)
            yield sample.image_id, probes, [cells[0].outputs[self.dataset.classes[t]] for t in targets]

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """The papers'."""
        return read_published(places.of_results(self.cfg.published))

    def published(self, model: str, method: str) -> dict[str, float]:
        """The paper's numbers for a method on this dataset, by metric; none for a stand-in."""
        rows = self.numbers[self.numbers["table"] == published_tables().get(self.dataset.name)]
        rows = rows[(rows["model"] == model) & (rows["method"] == method)]
        return dict(zip(rows["metric"], rows["value"], strict=True))

    def stand_in(self, networks: bool = True) -> str:
        """Why the papers' numbers are not of these data and ``networks``; empty if they are."""
        if self.dataset.name not in published_tables():
            return f"{self.dataset.name} is a stand-in and says nothing about the papers"
        others = [n for n in self.cfg.models if networks and not self.model(n).official]
        return f"not TorchRay's published weights: {', '.join(others)}" if others else ""

    @cached_property
    def centre(self) -> dict[str, float]:
        """What TorchRay published of the centre's pointing game on this dataset: percent by subset, ALL and DIF."""
        table = pd.read_csv((places.of_results(self.cfg.published)).with_name("pointing_centre.csv"))
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
        return "" if complete else f"incomplete data ({found_of(message)})"


def wide_table(rows: pd.DataFrame, index: Sequence[str], column: str, value: str) -> pd.DataFrame:
    """A row per ``index`` and a column per ``column``, both in order of appearance."""
    wide = rows.pivot_table(index=list(index), columns=column, values=value, aggfunc="first", sort=False)
    return wide.reset_index().rename_axis(columns=None)

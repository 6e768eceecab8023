"""Trains the networks that the suite ships, or whose weights are not published; see configs/train.yaml."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from sise.benchmark import invocation
from sise.benchmark.commands import command
from sise.benchmark.places import CONFIGS
from sise.errors import SuiteError


@command.script("train")
def main(cfg: DictConfig) -> None:
    if cfg.get("training") is None:
        names = " | ".join(sorted(file.stem for file in (CONFIGS / "training").glob("*.yaml")))
        raise SuiteError(f"which training? {invocation.typed('train')} training={names}; --help tells the rest.")
    # partial: what is wrong with a training's input is said in its own words
    instantiate(cfg.training, _partial_=True, _convert_="all")()

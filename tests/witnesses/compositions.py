"""Configurations composed once for all tests that look at the same one; whoever changes one takes a copy."""

import functools

from checkout import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from sise.benchmark.run import composing

CONFIGS = str(ROOT / "configs")


@functools.cache
def composed(command: str, *words: str) -> DictConfig:
    """The configuration of a command with these overrides."""
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return compose(command, list(words))


@functools.cache
def cells_of(*words: str) -> list[DictConfig]:
    """The cells of ``evaluate.py`` with these overrides."""
    cfg = composed("evaluate", *words)
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        return composing.compose_cells(cfg, words)

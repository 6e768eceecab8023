"""Runs of the real runner on the toy data set and network of toy.py."""

from __future__ import annotations

import pytest
from compositions import CONFIGS
from hydra import compose, initialize_config_dir

from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner


@pytest.fixture
def config(tmp_path):
    """Composes a cell on the toy dataset and network, writing below tmp_path."""

    def make(*overrides: str, dataset=None, model=None):
        with initialize_config_dir(CONFIGS, version_base="1.3"):
            cfg = compose("evaluate", [f"outputs={tmp_path}", "budget=embedded", *overrides])
        cfg.dataset.loader = {"_target_": "toy.ToyDataset", **(dataset or {})}
        cfg.model.loader = {"_target_": "toy.toy_model", **(model or {})}
        cfg.model.name = "toynet"
        if cfg.explainer.name == "rise":
            cfg.explainer.call.n_masks = 40
        return cfg

    return make


def run(*configs, **options):
    cells = run_cells.make_cells(configs)
    return runner.run(cells, **options), cells


def records(cell):
    return {(r["image_id"], r["target"]): r for r in cell.folder.read()}

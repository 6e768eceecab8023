"""The five examples of docs/extending.md run, as the files that they say they become."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys

import numpy as np
import pytest
import torch
from checkout import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

import sise
from sise.probe.probe import Probe

EXAMPLES = ROOT / "docs" / "examples"
PLACES = {
    "explainer/squared_gradient.py": "sise.baselines.squared_gradient",
    "metric/peak_share.py": "sise.metrics.peak_share",
    "dataset/folders.py": "sise.benchmark.datasets.folders",
    "network/small_net.py": "small_net",
}


@pytest.fixture(autouse=True)
def copied(monkeypatch):
    """The examples' modules under the names that they have once they are copied to their places."""
    modules = {}
    for file, name in PLACES.items():
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / file)
        modules[file] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, modules[file])
        spec.loader.exec_module(modules[file])
        if "." in name:
            parent, _, own = name.rpartition(".")
            monkeypatch.setattr(importlib.import_module(parent), own, modules[file], raising=False)
    return modules


def config(file):
    return OmegaConf.load(EXAMPLES / file)


def small_net(copied):
    torch.manual_seed(0)
    return copied["network/small_net.py"].SmallNet(width=4, classes=3).eval()


def test_explainer_is_the_power_of_the_gradient(copied):
    network, image = small_net(copied), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    explainer = instantiate(config("explainer/squared_gradient.yaml").call)
    maps = explainer(Probe(network, image), [2, 0])
    assert maps.shape == (2, 16, 16) and explainer(Probe(network, image), []).shape == (0, 16, 16)
    pixels = image.clone().requires_grad_()
    scores = network(pixels)[0]
    odds = scores[2] - torch.logsumexp(scores[:2], dim=0)
    expected = torch.autograd.grad(odds, pixels)[0][0].pow(2).sum(dim=0)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(maps[0], expected, rtol=1e-3, atol=1e-5)


def test_metric_by_hand():
    metric = instantiate(config("metric/peak_share.yaml").localization["Peak share"])
    saliency = torch.tensor([[1.0, 0.95], [0.9, 0.5]])
    assert metric(saliency, torch.tensor([[True, False], [False, True]])) == pytest.approx(1 / 3)
    assert metric(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)) == 0


def test_dataset_reads_its_folders(tmp_path):
    for name in ("cup", "tabby"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / name / "a.png")
    cfg = OmegaConf.create({"dataset": config("dataset/folders.yaml")})
    cfg.dataset.root = str(tmp_path)
    assert {"name", "networks", "budget"} <= set(cfg.dataset)
    dataset = instantiate(cfg.dataset.loader)
    sample = dataset["tabby/a.png"]
    assert dataset.ids == ("cup/a.png", "tabby/a.png") and dataset.classes == ("cup", "tabby") and len(dataset) == 2
    assert sample.targets == (1,) and sample.masks.shape == (1, 4, 6) and sample.masks.all()
    assert len(dataset.fingerprint()) == 64


def test_network_is_explained(copied):
    saliency = sise.explain(small_net(copied), torch.rand(3, 32, 32), 1)
    assert saliency.shape == (32, 32) and bool(torch.isfinite(saliency).all())


def test_table_shows_what_its_experiment_runs():
    table, experiment = config("table/table_cams.yaml"), config("table/experiment_cams.yaml").experiment
    assert table.name == experiment.name and table.models == experiment.models
    assert [column.explainer for column in table.columns] == [cell.explainer for cell in experiment.cells]
    assert all((ROOT / "configs" / "explainer" / f"{cell.explainer}.yaml").is_file() for cell in experiment.cells)


def test_page_shows_every_example_and_counts_its_lines():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for file in sorted(path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".yaml")):
        lines = len(file.read_text(encoding="utf-8").splitlines())
        found = re.search(rf"\]\(examples/{file.relative_to(EXAMPLES).as_posix()}\), (\d+) lines", page)
        assert found and int(found[1]) == lines, f"{file.name} has {lines} lines"

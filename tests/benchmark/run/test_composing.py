"""Cells composed together are those that Hydra composes one by one."""

from __future__ import annotations

import itertools

import pytest
from compositions import CONFIGS, cells_of
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sise.benchmark.run import composing
from sise.errors import SuiteError


@pytest.fixture
def made(monkeypatch):
    """The overrides of each composition that Hydra was asked for."""
    asked = []
    monkeypatch.setattr(composing, "compose", lambda name, words: asked.append(words) or compose(name, words))
    return asked


def told(cfg):
    """All settings with their order, as they are written and resolved."""
    return OmegaConf.to_yaml(cfg), OmegaConf.to_yaml(cfg, resolve=True)


def test_cells_and_departures_are_those_of_compositions_one_by_one(made, monkeypatch):
    cells = "[{explainer: sise}, {explainer: rise, seeds: 2}, {explainer: sise, variant: mine, explainer.call.mu: 0.5}]"
    words = [
        "experiment=sise_table4", "dataset.root=/data", f"experiment.cells={cells}", "protocol.targets=argmax",
        "seed=1", "experiment.models=[vgg16,resnet50]",
    ]  # fmt: skip
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("evaluate", words)
        together = composing.compose_cells(cfg, words)
        assert len(made) == 3 and len(together) == 8  # two explainers on one network, one of them on the other
        monkeypatch.setattr(
            composing,
            "_of_cell",
            lambda shipped, o: composing._with_departures(compose("evaluate", list(o)), "evaluate", o),
        )
        alone = composing.compose_cells(cfg, words)
    assert [told(cell) for cell in together] == [told(cell) for cell in alone]
    assert {len(cell.departures) for cell in together} == {1, 2}


@pytest.mark.parametrize(
    ("model", "explainer", "compositions"),
    [
        ("", "", 5),  # of two models × four explainers
        ("# @package _global_\nmodel: {name: b, width: 2}\nexplainer: {mu: 7}", "", 8),  # the model sets more
        ("", "# @package _global_\nmodel: {width: 7}\nexplainer: {name: s, mu: 1}", 6),  # an explainer does
    ],
)
def test_what_is_not_independent_is_composed_pair_by_pair(made, tmp_path, model, explainer, compositions):
    files = {"evaluate": "defaults: [model: a, explainer: p, _self_]\nkept: ${model.width}"}
    files |= {f"model/{name}": f"name: {name}\nwidth: 1\nfor: ${{explainer.name}}" for name in "ab"}
    files |= {f"explainer/{name}": f"name: {name}\nmu: ${{model.width}}" for name in "pqrs"}
    files |= {"model/b": model or files["model/b"], "explainer/s": explainer or files["explainer/s"]}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        shipped = composing._Shipped("evaluate")
        for words in itertools.product(["model=a", "model=b"], [f"explainer={name}" for name in "pqrs"]):
            assert told(shipped.compose(words)) == told(compose("evaluate", list(words)))
    assert len(made) == compositions


@pytest.mark.parametrize("word", ["+engine.more=1", "~experiment.budget", "protocol@dataset=paper"])
def test_what_adds_deletes_or_chooses_is_left_to_hydra(monkeypatch, word):
    asked = []
    monkeypatch.setattr(composing, "compose", lambda name, words: asked.append(words))
    monkeypatch.setattr(composing, "_with_departures", lambda cfg, name, overrides: overrides)
    words = ["explainer=sise", "limit=3", word]
    assert composing._of_cell(composing._Shipped("evaluate"), words) == words == asked[0]


@pytest.mark.parametrize("seeds", ["0", "-2", "1.5", "true", "1001"])
def test_the_seeds_of_a_random_explainer_are_counted_from_one(seeds):
    with pytest.raises(SuiteError, match="explainer=rise: expected seeds to be a whole number from 1 to 1000; got"):
        cells_of("experiment=sise_table1", f"budgets.embedded.seeds={seeds}")

"""What users write in YAML is checked by name and type, and so is all that is shipped."""

import copy

import pytest
from checkout import ROOT
from compositions import composed
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sise.benchmark import schemas
from sise.benchmark.run import settings
from sise.benchmark.tables.definitions import Definition, check, read
from sise.errors import SuiteError

CALL = {"_target_": "mine.explain", "_partial_": True, "root": "${explainer.name}", "file": "???"}


@pytest.mark.parametrize("name, schema", [("explainer", schemas.Explainer), ("dataset", schemas.Dataset),
                                          ("table", Definition)])  # fmt: skip
def test_what_is_shipped_fits(name, schema):
    files = sorted((ROOT / "configs" / name).rglob("*.yaml"))
    assert len(files) > 5
    for file in files:
        settings = OmegaConf.load(file)
        if not settings.pop("defaults", None):  # what is inherited stands elsewhere
            schemas.check(schema, settings, name)


def test_a_table_takes_from_another_what_it_does_not_say():
    definitions = read(ROOT / "configs" / "table")
    check(definitions)
    first, fourth = definitions["sise_table1"], definitions["sise_table4"]
    own = {key for key in first if first[key] != fourth[key]}
    assert own == {"name", "title", "published", "datasets"} and len(fourth["columns"]) == 15
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        assert OmegaConf.to_container(compose("make_tables", ["table=sise_table4"]).table) == fourth


@pytest.mark.parametrize("choice", ["explainer=of_another/gated", "explainer=grad_cam_authors", "dataset=hans_others"])
def test_so_does_what_inherits(choice):
    settings.check_settings(copy.deepcopy(composed("evaluate", choice)), "evaluate")


def test_nothing_is_looked_up():
    schemas.check(schemas.Explainer, {"name": "mine", "call": CALL, "label": "${nowhere}"}, "explainer")
    settings = {"name": "mine", "loader": CALL, "networks": "${a.b}", "budget": "paper", "root": "???"}
    schemas.check(schemas.Dataset, settings, "dataset")


@pytest.mark.parametrize("change, said", [
    ({"stochastc": True}, r"unknown setting of explainer 'stochastc'; expected .* Did you mean 'stochastic'\?"),
    ({"stochastic": "often"}, r"explainer\.stochastic: Value 'often' is not a valid bool"),
    ({"budget": {"setting": "n"}}, r"explainer: expected budget\.unit, budget\.paper as well"),
    ({"budget": {"masks": 3}}, r"unknown setting of explainer\.budget 'masks'; expected one of: setting, unit, paper"),
    ({"spread": {"EBPG": "much"}}, r"explainer\.spread: Value 'much' of type 'str' could not be converted to Float"),
])  # fmt: skip
def test_what_an_explainer_may_not_say(change, said):
    with pytest.raises(SuiteError, match=said):
        schemas.check(schemas.Explainer, {"name": "mine", "call": CALL} | change, "explainer")


@pytest.mark.parametrize("definition, said", [
    ({"title": "x"}, r"table mine: expected name as well; got title"),
    ({"name": "x", "title": "x", "colums": []}, r"Did you mean 'columns'\?"),
    ({"name": "x", "title": "x", "columns": [{"explainer": "sise", "label": "S"}]}, r"columns\[0\]\.variant as well"),
    ({"name": "x", "title": "x", "columns": [{"explaner": "sise"}]}, r"table mine\.columns 'explaner'.*'explainer'\?"),
    ({"name": "x", "title": "x", "columns": ["sise"]}, r"table mine\.columns: Invalid type assigned: str"),
    ({"name": "x", "title": "x", "metrics": "EBPG"}, r"table mine\.metrics: "),
])  # fmt: skip
def test_what_a_table_may_not_say(definition, said):
    with pytest.raises(SuiteError, match=said):
        schemas.check(Definition, definition, "table mine")

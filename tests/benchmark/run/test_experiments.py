"""The experiments of the tables, the ablation and the sensitivity: composed whole, and run on the toy of toy.py."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import yaml
from checkout import ROOT
from compositions import cells_of
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from toy import ToyDataset, toy_model

from sise.benchmark.records.departures import identity_config
from sise.benchmark.records.flat import flat
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import composing, runner
from sise.benchmark.studies import kept_maps
from sise.benchmark.tables import comparisons, make
from sise.benchmark.tables import words as tables_words
from sise.benchmark.tables.definitions import read
from sise.choices import ADAPTIVE_RULES
from sise.errors import SuiteError
from sise.probe.probe import Probe

CONFIGS = str(ROOT / "configs")
PUBLISHED = ROOT / "results/published/published_results.csv"
OURS = ("sise_table6", "ada_sise_table1", "component_ablation", "sensitivity")
DEFINITIONS = read(ROOT / "configs/table")


def toy_cells(experiment, tmp_path):
    """The experiment's cells of one model, on the toy; cells that differ in what the toy lacks are left out."""
    made = []
    for cfg in copy.deepcopy(cells_of(f"experiment={experiment}")):
        if cfg.variant.startswith("E3") or cfg.model.name != "resnet50":
            continue
        cfg.outputs, cfg.engine.cache = f"{tmp_path}/o", False
        cfg.dataset.loader = {"_target_": "toy.ToyDataset", "broken": None}
        cfg.model.loader = {"_target_": "toy.toy_model"}
        cfg.model.name = "resnet50"
        if cfg.explainer.name == "rise":
            cfg.explainer.call.n_masks //= 20
        if cfg.explainer.name == "extremal_perturbation":
            cfg.explainer.call.max_iter = 2
        made.append(cfg)
    return made


def test_a_network_of_ones_own_composes_and_departs_from_nothing_by_its_name():
    words = ["dataset=shapes", "explainer=sise", "model=module", "model.target=mynet.net"]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        (cell,) = composing.compose_cells(compose("evaluate", words), words)
        words.append("protocol.fill=black")
        (changed,) = composing.compose_cells(compose("evaluate", words), words)
    assert cell.model.name == "mynet.net" and not cell.departures
    assert [found.key for found in changed.departures] == ["protocol.fill"]


def test_only_where_files_lie_is_no_part_of_what_a_run_is():
    places = ["dataset.root=/a", "model.weights=/b"]
    mine = ["+explainer.call.weights=mean", "+explainer.call.masks=3", "+model.loader.masks=2"]
    words = ["dataset=voc2007", "model=vgg16", "explainer=rise", *places, *mine]
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        (cell,) = composing.compose_cells(compose("evaluate", words), words)
    assert [f"+{found.key}={found.value}" for found in cell.departures] == sorted(mine, key=lambda w: "model" not in w)
    assert "/a" not in str(identity_config(cell)) and "/b" not in str(identity_config(cell))


# configs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_every_cell_composes_and_has_a_folder_of_its_own(name):
    cells = cells_of(f"experiment={name}")
    assert len({(c.model.name, c.explainer.name, c.variant) for c in cells}) == len(cells)
    experiment = yaml.safe_load((ROOT / f"configs/experiment/{name}.yaml").read_text())["experiment"]
    assert experiment["name"] == name and len(cells) == len(experiment["models"]) * len(experiment["cells"])


@pytest.mark.parametrize("name", OURS)
def test_the_table_shows_what_the_experiment_runs(name):
    definition = DEFINITIONS[name]
    run = {(c.explainer.name, c.variant) for c in cells_of(f"experiment={name}")}
    references = {("sise", "paper")} | {tuple(c["against"].split("/")) for c in definition["columns"] if "against" in c}
    assert {(c["explainer"], c["variant"]) for c in definition["columns"]} | references == run | references
    if definition.get("layout") == "differences":
        assert references <= run
    assert len({c["label"] for c in definition["columns"]}) == len(definition["columns"])


def test_every_cell_of_the_sensitivity_differs_from_the_default_in_one_setting():
    cells = cells_of("experiment=sensitivity")
    groups = ("protocol", "metrics", "explainer", "dataset")
    settings = [flat({k: v for k, v in identity_config(c).items() if k in groups}) for c in cells]
    default = {c.explainer.name: s for c, s in zip(cells, settings, strict=True) if c.variant == "paper"}
    for cfg, own in zip(cells, settings, strict=True):
        changed = {key for key, value in own.items() if default[cfg.explainer.name][key] != value}
        names = {key.rpartition(".")[2].replace("keep_rule", "rule") for key in changed}
        assert len(names) == (0 if cfg.variant in ("paper", "E3-masks") else 1), (cfg.variant, changed)
    once, twice = (c.explainer.call.n_masks for c in cells if c.explainer.name == "rise")
    assert twice == 2 * once
    full = cells_of("experiment=sensitivity", "budget=paper", "explainer=rise")
    assert [c.explainer.call.n_masks for c in full] == [4000, 8000]  # SISE as on arXiv, and as at AAAI


def test_table_6_covers_the_published_one():
    published = pd.read_csv(PUBLISHED)
    published = published[published["table"] == "SISE Table 6"]
    definition = DEFINITIONS["sise_table6"]
    assert [c["method"] for c in definition["columns"]] == list(dict.fromkeys(published["method"]))
    metrics = [tables_words.PUBLISHED_NAMES.get(m, m) for m in definition["metrics"]]
    assert metrics == list(dict.fromkeys(published["metric"]))


@pytest.mark.parametrize("name", ["make_tables"])
def test_a_table_can_be_had_of_one_dataset(name):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        assert compose(name).get("dataset") is None
        assert compose(name, ["dataset=shapes"]).dataset.name == "shapes"


@pytest.mark.parametrize("name", ["train", "kept_maps"])
def test_the_scripts_configs_compose(name):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose(name)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    assert resolved["results"] == "results"


# runs ---------------------------------------------------------------------------------------------------------------


def values(cells):
    return {c.cfg.variant: pd.DataFrame(c.folder.read()).set_index(["image_id", "target"]) for c in cells}


def test_the_component_ablation_runs(tmp_path):
    too_high = ("layer-4", "layer-5", "layer-5-score-one")
    cells = run_cells.make_cells([c for c in toy_cells("component_ablation", tmp_path) if c.variant not in too_high])
    assert runner.run(cells, limit=4) == 0
    of = values(c for c in cells if c.cfg.explainer.name == "sise")
    assert set(of["score-one"]["forward_passes"]) <= {0.5, 1.0}  # one pass per image, shared by its classes
    assert (of["selection-all"]["forward_passes"] >= of["paper"]["forward_passes"]).all()
    assert (of["layer-1"]["forward_passes"] < of["paper"]["forward_passes"]).all()
    for variant in set(of) - {"paper"}:
        assert (of[variant]["EBPG"] != of["paper"]["EBPG"]).any(), f"{variant} changes nothing"
    assert any(d["key"] == "explainer.call.selection" for c in cells for d in c.identity()["departures"])
    files = make.tabulate(DEFINITIONS, outputs=tmp_path / "o", results=tmp_path / "r", published=PUBLISHED,
                            table="component_ablation", writers=[comparisons.write], say=lambda _: None)  # fmt: skip
    table = pd.read_csv(files[0])
    assert len(table) == 15 * 6 and set(table["pairs"]) == {len(of["paper"])}
    row = table[(table["variant"] == "gate-none") & (table["metric"] == "EBPG")].iloc[0]
    assert row["difference"] == pytest.approx(100 * (of["gate-none"]["EBPG"] - of["paper"]["EBPG"]).mean())


def test_a_layer_that_the_model_lacks_fails_with_words(tmp_path):
    cells = run_cells.make_cells([c for c in toy_cells("component_ablation", tmp_path) if c.variant == "layer-4"])
    with pytest.raises(SuiteError, match="no layer at position 3: the probe has 3 layers"):
        runner.run(cells, limit=1)
    assert not cells[0].folder.read()


def test_the_sensitivity_runs(tmp_path):
    cells = run_cells.make_cells(toy_cells("sensitivity", tmp_path))
    assert runner.run(cells, limit=3) == 0
    of = values(c for c in cells if c.cfg.explainer.name == "sise")
    moved = {v for v in of if any((of[v][m] != of["paper"][m]).any() for m in tables_words.METRICS)}
    assert {"M6-sigmoid", "M6-logit", "M7-logit", "M5-blur"} <= moved
    assert {"F2-nearest", "F4-none", "F6-otsu_soft", "F6-simple"} <= moved

    def same(one, other, *metrics):
        return all((of[one][m] == of[other][m]).all() for m in metrics)

    localization, faithfulness = tables_words.METRICS[:3], tables_words.METRICS[3:]
    for variant in ("M5-metric-black", "M6-metric-sigmoid"):  # SISE's own passes are the default's
        assert same(variant, "paper", *localization) and not same(variant, "paper", *faithfulness)
    kept = of["paper"]["mask_fraction"] <= 0.33
    assert of["E6-0.33"]["Bbox"].notna().equals(kept) and same("E6-0.33", "paper", "EBPG", "mIoU")
    for variant in ("E7-stable", "M7-softmax_f32", "M5-mean"):  # the toy's zero is its mean colour
        assert (of[variant]["EBPG"] - of["paper"]["EBPG"]).abs().max() < 0.01


def test_thresholds_need_fewer_passes(tmp_path):
    cells = run_cells.make_cells(toy_cells("sise_table6", tmp_path))
    assert runner.run(cells, limit=3) == 0
    passes = [v["forward_passes"].sum() for v in values(cells).values()]
    assert passes == sorted(passes, reverse=True) and passes[0] > passes[-1]


def test_ada_sise_table_1_runs(tmp_path):
    cells = run_cells.make_cells(toy_cells("ada_sise_table1", tmp_path))
    assert runner.run(cells, limit=2) == 0 and len(cells) == 7


# Ada-SISE Table 2 and Fig. 1 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    found, last = kept_maps.collect(ToyDataset(7, broken="06"), toy_model())
    assert "06" not in set(found["image_id"])  # it cannot be read
    return found, last


def test_feature_maps_are_counted_as_sise_selects_them(found):
    rows, scores = found
    assert set(rows["rule"]) == set(kept_maps.WORDS) == {"available", "SISE", *ADAPTIVE_RULES}
    assert (rows[rows["rule"] == "available"].groupby("layer")["maps"].first()).tolist() == [6, 8, 10]
    pairs = [(i, t) for i in ToyDataset().ids for t in ToyDataset().targets_of(i) if t != 4]
    assert len(rows) == len(pairs) * 3 * 9
    model, dataset = toy_model(), ToyDataset(broken=None)
    probe = Probe(model.network, model.preprocess(dataset["02"].image)[None], layers=model.layers)
    for position, layer in enumerate(model.layers, 1):
        positive = int((probe.gradient_scores(layer, 1) > 0).sum())
        row = rows[(rows.image_id == "02") & (rows.target == 1) & (rows.layer == position) & (rows.rule == "SISE")]
        assert row["maps"].tolist() == [positive]
    assert scores.shape == (len(pairs), 10) and np.allclose(scores.max(axis=1), 1)
    kept = rows.pivot_table(index=["image_id", "target", "layer"], columns="rule", values="maps")
    assert all((kept[rule] <= kept["SISE"]).all() for rule in ADAPTIVE_RULES)
    assert (kept["otsu_positive"] < kept["SISE"]).any()


def test_the_table_has_the_published_counts_beside(found):
    rows, _ = found
    five = pd.concat([rows, rows[rows.layer == 1].assign(layer=4), rows[rows.layer == 2].assign(layer=5)])
    table = kept_maps.summarise(five, pd.read_csv(PUBLISHED), dataset="toy", model="resnet50")
    table = table.set_index(["rule", "layer"])
    theirs = table["published (resnet50, voc2007)"]
    assert [theirs["otsu_signed", i] for i in (1, 2, 3, 4, 5, "sum")] == [26, 114, 179, 420, 551, 1290]
    assert theirs["SISE", "sum"] == 1946 and theirs["available", 5] == 2048 and np.isnan(theirs["author_hist", 1])
    assert table.loc[("SISE", 1), "share of positive"] == 100
    assert table.loc[("otsu_positive", 1), "published share of positive"] == pytest.approx(100 * 26 / 31)
    assert table.loc[("available", "sum"), "mean"] == 6 + 8 + 10 + 6 + 8
    short = kept_maps.summarise(rows, pd.read_csv(PUBLISHED), dataset="toy", model="toynet")
    assert short["published (resnet50, voc2007)"].isna().sum() >= 9  # no sum over three of five layers
    assert "| *published: Ada-SISE* | 26.0 |" in kept_maps.to_markdown(table.reset_index())


def test_the_selection_command_writes_table_and_figure(tmp_path):
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        cfg = compose("kept_maps", [f"results={tmp_path}", "limit=3", "device=cpu"])
    cfg.dataset.loader = {"_target_": "toy.ToyDataset"}
    cfg.model.loader = {"_target_": "toy.toy_model"}
    cfg.model.name = "toynet"
    files = kept_maps.run(cfg, PUBLISHED)
    assert [f.relative_to(tmp_path).as_posix() for f in files] == [
        "ada_sise_table2_toy_toynet.csv", "ada_sise_table2_toy_toynet.md", "figures/ada_sise_fig1_toy_toynet.png",
    ]  # fmt: skip
    assert len(pd.read_csv(files[0])) == 9 * 4 and files[2].stat().st_size > 10_000

"""A metric that is added to a run is measured on all its pairs; nothing else of the run is thrown away."""

from __future__ import annotations

import json

import pytest
from toy_runs import records, run

from sise.benchmark.records.departures import departures
from sise.benchmark.records.folder import RunFolder, differences
from sise.benchmark.records.metric_sets import metric_names, united
from sise.benchmark.run import status
from sise.benchmark.run.cells import make_cells
from sise.benchmark.run.shards import Shard
from sise.errors import SuiteError

FEW = {"localization": {}, "faithfulness": {"Drop%": {"_target_": "sise.metrics.faithfulness.drop", "fraction": 0.15}}}
MORE = {**FEW, "localization": {"EBPG": {"_target_": "sise.metrics.localization.ebpg"}}, "zero": "zero"}


def test_a_run_may_hold_more_metrics_and_none_may_change():
    def identity(metrics):
        return {"config": {"explainer": {"name": "sise"}, "metrics": metrics}}

    assert differences(identity(FEW), identity(MORE)) == differences(identity(MORE), identity(FEW)) == []
    other = json.loads(json.dumps(MORE).replace("0.15", "0.2"))
    assert differences(identity(FEW), identity(other)) == ["config.metrics.faithfulness.Drop%.fraction: 0.15 -> 0.2"]
    assert (
        metric_names(united(FEW, MORE)) == ["EBPG", "Drop%"]
        and united(FEW, other)["faithfulness"] == FEW["faithfulness"]
    )


def test_a_metric_beside_the_shipped_ones_is_no_departure_and_a_setting_of_one_is():
    assert departures({"metrics": MORE}, {"metrics": FEW}) == []
    changed = json.loads(json.dumps(FEW).replace('"fraction"', '"rule": "exact", "fraction"'))
    assert [str(d) for d in departures({"metrics": changed}, {"metrics": FEW})] == [
        "metrics.faithfulness.Drop%.rule=exact"
    ]


def test_an_added_metric_is_measured_on_every_pair(config):
    _, (first,) = run(config("explainer=random", "metrics=confidence"))
    before = records(first)
    assert all("EBPG" not in record for record in before.values())
    (more,) = make_cells([config("explainer=random")])
    good = sum(record["status"] == "ok" for record in before.values())
    assert status.of_cell(more).done == 0 and status.of_cell(first).done == good
    _, (second,) = run(config("explainer=random"))
    after = records(second)
    assert after.keys() == before.keys() and second.computed == good
    for pair, record in after.items():
        if record["status"] == "ok":
            assert "EBPG" in record and record["Drop%"] == before[pair]["Drop%"]  # the same map, to the last bit
    _, (third,) = run(config("explainer=random", "metrics=confidence"))  # asks for less than there is
    assert third.computed == 0 and records(third) == after
    assert status.of_cell(make_cells([config("explainer=random")])[0]).done == good


def test_what_a_command_with_fewer_metrics_finds_has_all_of_the_runs(config):
    run(config("explainer=random"), limit=1)
    _, (cell,) = run(config("explainer=random", "metrics=confidence"))
    assert all("EBPG" in record for record in records(cell).values() if record["status"] == "ok")


def test_an_added_metric_with_other_settings_is_refused(config):
    run(config("explainer=random", "metrics=confidence"), limit=1)
    with pytest.raises(SuiteError, match=r"(?s)variant=.*fraction: 0.15 -> 0.3"):
        run(config("explainer=random", "metrics.keep_fraction=0.3"), limit=1)


def test_shards_add_a_metric_where_their_records_take_the_others_place(config):
    for i in (1, 2):
        run(config("explainer=random", "metrics=confidence"), shard=Shard(i, 2))
    _, (cell,) = run(config("explainer=random"), shard=Shard(2, 2))
    assert {bool("EBPG" in r) for r in records(cell).values() if r["status"] == "ok"} == {True, False}
    with pytest.raises(SuiteError, match="once without shard="):
        run(config("explainer=random"), shard=Shard(1, 2))
    _, (cell,) = run(config("explainer=random"))
    assert all("EBPG" in record for record in records(cell).values() if record["status"] == "ok")
    assert RunFolder(cell.path).incomplete_sessions() != set()  # the old ones, none of whose records counts any more

"""Agreement of orders: by hand, beside the published example of Krippendorff's α, and on records."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sise.benchmark.studies import rank_agreement
from sise.benchmark.studies.rank_agreement import alphas, collect, intervals, pairwise, seeds_of, to_markdown
from sise.benchmark.tables.runs import find_runs
from sise.benchmark.tables.statistics import FEWEST_IMAGES, krippendorff_alpha, order_agreement, rank_intervals
from sise.errors import SuiteError

X = math.nan
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
    [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
]
"""Krippendorff 2011, section D: four observers, twelve units; ordinal α = 0.815."""


# ------------------------------------------------------------------------------------------------ statistics
def by_pairs(ratings):
    """α from its definition: every two ratings of a unit, against every two ratings there are."""
    units = [[v for v in unit if not math.isnan(v)] for unit in np.asarray(ratings, float).T]
    units = [unit for unit in units if len(unit) > 1]
    every = [v for unit in units for v in unit]

    def apart(c, k):
        low, high = min(c, k), max(c, k)
        between = sum(low <= v <= high for v in every) - (every.count(c) + every.count(k)) / 2
        return between**2 if c != k else 0.0

    observed = sum(apart(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)) / len(every)
    expected = sum(apart(a, b) for a, b in permutations(every, 2)) / (len(every) * (len(every) - 1))
    return 1 - observed / expected


def test_alpha_of_the_published_example():
    assert krippendorff_alpha(np.array(EXAMPLE)) == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(np.array(EXAMPLE)) == pytest.approx(by_pairs(EXAMPLE), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_alpha_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, (4, 7)).astype(float)
    ratings[rng.random((4, 7)) < 0.2] = X
    assert krippendorff_alpha(ratings) == pytest.approx(by_pairs(ratings), abs=1e-12)
    turned = krippendorff_alpha(-ratings)
    assert turned == pytest.approx(krippendorff_alpha(ratings))
    assert turned == pytest.approx(krippendorff_alpha(ratings[::-1]))


def test_alpha_by_hand():
    """Two raters of two units: 1, 2 and 2, 1. Each value twice: δ = 4, o = 1 off the diagonal twice: 1 - 3·(4·4)/32."""
    assert krippendorff_alpha(np.array([[1.0, 2.0], [2.0, 1.0]])) == pytest.approx(1 - 3 * 16 / 32)
    assert krippendorff_alpha(np.array([[1.0, 2.0, 3.0]] * 4)) == 1
    assert math.isnan(krippendorff_alpha(np.array([[1.0, 2.0, 3.0]])))
    assert math.isnan(krippendorff_alpha(np.ones((3, 4)))) and math.isnan(
        krippendorff_alpha(np.array([[1, X], [X, 2]]))
    )


def test_tau_is_counted_by_hand():
    """τ-b: pairs in order less pairs out of order, over √(pairs not tied in x · pairs not tied in y)."""
    rng = np.random.default_rng(4)
    for _ in range(5):
        x, y = ({name: float(v) for name, v in zip("abcdefg", rng.integers(0, 5, 7), strict=True)} for _ in range(2))
        signs = [(np.sign(x[a] - x[b]), np.sign(y[a] - y[b])) for a, b in combinations(x, 2)]
        expected = sum(s * t for s, t in signs) / math.sqrt(
            sum(s != 0 for s, _ in signs) * sum(t != 0 for _, t in signs)
        )
        assert order_agreement(x, y)["tau"] == pytest.approx(expected)


def frame_of(columns, images):
    index = pd.MultiIndex.from_tuples([(f"{i:03}", 0) for i in range(images)], names=["image_id", "target"])
    return pd.DataFrame(
        {name: np.resize(values, images).astype(float) for name, values in columns.items()}, index=index
    )


def test_intervals_on_ranks():
    """a is best on every image; b and c change places; d and e are the same, and last."""
    columns = {"a": [9.0], "b": [3, 5], "c": [5, 3], "d": [1.0], "e": [1.0]}
    found = rank_intervals(frame_of(columns, 40), resamples=400)
    assert found["rank"].tolist() == [1, 2.5, 2.5, 4.5, 4.5]
    assert found.loc["a", ["low", "high"]].tolist() == [1, 1] and found.loc["d", ["low", "high"]].tolist() == [4.5, 4.5]
    assert found.loc["b", ["low", "high"]].tolist() == found.loc["c", ["low", "high"]].tolist() == [2, 3]
    few = rank_intervals(frame_of(columns, FEWEST_IMAGES - 1), resamples=50)
    assert few["rank"].tolist() == found["rank"].tolist() and few[["low", "high"]].isna().all().all()


def test_intervals_equal_slow_resampling():
    rng = np.random.default_rng(0)
    frame = frame_of({name: rng.normal(size=30) for name in "abcd"}, 30)
    found = rank_intervals(frame, resamples=300, seed=3)
    drawn = np.random.default_rng(3).integers(30, size=(300, 30))
    ranks = np.stack([frame.iloc[rows].mean().rank(ascending=False).to_numpy() for rows in drawn])
    np.testing.assert_allclose(found[["low", "high"]].to_numpy().T, np.percentile(ranks, [2.5, 97.5], axis=0))


# ------------------------------------------------------------------------------------------------ records
def run_of(dataset, model, explainer, values, *, seed=None, metrics=("EBPG", "Drop%")):
    """A run of as many images as there are values: EBPG is a value, Drop% ten times it."""
    index = pd.MultiIndex.from_tuples([(str(i), 0) for i in range(len(values))], names=["image_id", "target"])
    columns = {"EBPG": pd.Series(values, index, dtype=float), "Drop%": pd.Series(values, index, dtype=float) * 10}
    identity = {"dataset": dataset, "model": model, "explainer": explainer, "seed": seed}
    identity["config"] = {"metrics": {"localization": {"EBPG": {}}, "faithfulness": {m: {} for m in metrics[1:]}}}
    facts = SimpleNamespace(keys=[*columns], filled=[])
    records = SimpleNamespace(facts=facts, numbers=lambda name: columns[name])
    return SimpleNamespace(identity=identity, variant="paper", records=records)


def five(dataset, model, order="abcde", images=2):
    return [run_of(dataset, model, name, [float(i)] * images) for i, name in enumerate(order)]


def test_what_is_compared():
    """Two networks that agree, a data set that is turned around, a control that takes no part."""
    runs = [
        *five("d1", "n1"),
        *five("d1", "n2"),
        *five("d2", "n1", "edcba"),
        run_of("d1", "n1", "centre", [50.0, 50.0]),
    ]
    values = collect(runs, ["centre"])
    assert list(values) == [("d1", "n1"), ("d1", "n2"), ("d2", "n1")] and set(values["d1", "n1"]) == {"EBPG", "Drop%"}
    assert "centre/paper" not in values["d1", "n1"]["EBPG"]
    taus = pairwise(values, {}).set_index(["kind", "metric", "a", "b"])["tau"]
    assert taus["networks", "EBPG", "n1", "n2"] == pytest.approx(1)
    assert taus["data sets", "EBPG", "d1/n1", "d2/n1"] == pytest.approx(-1)
    assert ("data sets", "EBPG", "d1/n1", "d1/n2") not in taus.index
    of_metrics = pairwise(values, {}).query("kind == 'metrics'")
    assert of_metrics["tau"].tolist() == pytest.approx(
        [-1, -1, -1]
    )  # lower is better for Drop%, which is ten times EBPG
    found = alphas(values, {}).set_index("kind")
    assert (found.loc["pairs", "alpha"] == 1).all() and (found.loc["networks", "alpha"] == 1).all()
    opposite = krippendorff_alpha(np.array([[1.0, 2, 3, 4, 5], [5, 4, 3, 2, 1]]))
    assert found.loc["metrics", "alpha"].tolist() == pytest.approx([opposite] * 3) and opposite < 0


def test_a_setting_of_other_explainers_voids_nothing():
    """d3 shares four explainers with the others: the two that can be compared still are."""
    runs = [*five("d1", "n"), *five("d2", "n"), *five("d3", "n", "abcdx")]
    found = alphas(collect(runs), {}).query("kind == 'data sets' and metric == 'EBPG'")
    assert found[["alpha", "raters", "explainers"]].values.tolist() == [[1, 2, 5]]


def test_a_control_behind_a_gate_is_one():
    behind = run_of("d", "n", "gated_centre", [9.0, 9.0])
    behind.identity["config"]["explainer"] = {"inner": {"name": "centre"}}
    frame = collect([*five("d", "n"), behind], ["centre"])["d", "n"]["EBPG"]
    assert list(frame) == [f"{name}/paper" for name in "abcde"]


def test_pairs_that_one_explainer_lacks_do_not_count():
    runs = [*five("d", "n")[1:], run_of("d", "n", "a", [7.0])]
    assert {len(frame) for frame in collect(runs)["d", "n"].values()} == {1}
    assert collect(five("d", "n")[:4]) == {}  # too few explainers


def test_seeds_are_compared_where_there_are_any():
    """With seed 0 a is below all others, with seed 1 between c and d: three of ten pairs turn around."""
    runs = [*five("d", "n")[1:], run_of("d", "n", "a", [0.0, 0.0], seed=0), run_of("d", "n", "a", [2.5, 2.5], seed=1)]
    found = pairwise(collect(runs), seeds_of(runs, [])).query("kind == 'seeds' and metric == 'EBPG'")
    assert found[["a", "b", "tau"]].values.tolist() == [["0", "1", pytest.approx(1 - 2 * 2 / 10)]]
    assert seeds_of(five("d", "n"), []) == {}


def test_the_text_and_the_ranks(tmp_path):
    runs = [*five("d", "n1", images=30), *five("d", "n2", "abced", images=30)]
    values = collect(runs)
    taus, found, ranks = pairwise(values, {}), alphas(values, {}), intervals(values, runs)
    assert set(ranks["high"]) == {1, 2, 3, 4, 5} and ranks["pairs"].eq(30).all()
    text = to_markdown(taus, found, ranks)
    alpha = by_pairs([[5, 4, 3, 2, 1], [5, 4, 3, 1, 2]])
    assert f"| d, EBPG | {alpha:+.2f} | 2 | 5 | +0.80 | +0.80 | n1 and n2 |" in text
    assert "| EBPG | +1.00 | 30 | 5 | 1: e |" in text and "| Drop% | +1.00 | 30 | 5 | 1: a |" in text
    from sise.benchmark.figures import rank_agreement as figure
    from sise.benchmark.tables.result_files import ResultFolder

    files = figure.write(values, taus, ranks, ResultFolder(tmp_path))
    assert [file.name for file in files] == ["rank_agreement_d_n1.png", "rank_agreement_d_n2.png"]
    assert files[0].stat().st_size > 10_000


def test_the_command_without_records_says_what_to_run(tmp_path):
    from compositions import composed

    cfg = composed("rank_agreement", f"outputs={tmp_path}", f"results={tmp_path}")
    with pytest.raises(SuiteError, match="at least 5 explainers"):
        rank_agreement.run(cfg)
    assert find_runs(tmp_path) == []

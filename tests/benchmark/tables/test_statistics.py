"""Statistics of paired differences: values by hand, by enumeration, or from another way to the same number."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sise.benchmark.tables import statistics
from sise.benchmark.tables.statistics import (
    clustered_standard_error,
    holm,
    order_agreement,
    paired_bootstrap,
    sign_test,
)
from sise.errors import SuiteError


def differences(*by_image):
    """One list of differences per image."""
    pairs = [(f"{i:03d}", t) for i, values in enumerate(by_image) for t in range(len(values))]
    return pd.Series([v for values in by_image for v in values], index=pd.MultiIndex.from_tuples(pairs))


def summed(*by_image):
    return statistics.per_image(differences(*by_image))


def test_averages_by_hand():
    # image 0: classes 0 and 1; image 1: class 0; image 2: class 0
    values = differences([1.0, 5.0], [2.0], [6.0])
    pair, image, by_class = (statistics.averaged(values, kind) for kind in ("pair", "image", "class"))
    assert pair == (3.5, clustered_standard_error(*statistics.per_image(values)))
    assert image[0] == pytest.approx((3 + 2 + 6) / 3)
    assert image[1] == pytest.approx(np.std([3, 2, 6], ddof=1) / math.sqrt(3))
    assert by_class[0] == pytest.approx(((1 + 2 + 6) / 3 + 5) / 2)
    # class 0 has the mean 3, and its pairs count 1/6 each; class 1 has one pair, which is its mean
    assert by_class[1] == pytest.approx(math.sqrt(3 / 2 * ((2 / 6) ** 2 + (1 / 6) ** 2 + (3 / 6) ** 2)))
    assert all(math.isnan(number) for number in statistics.averaged(values[:0], "class"))
    with pytest.raises(SuiteError, match="average"):
        statistics.averaged(values, "macro")


# per image ----------------------------------------------------------------------------------------------------------


def test_sums_and_counts_of_images():
    sums, counts = summed([1.0, 2.0], [-3.0], [0.5, 0.5, 0.5])
    assert sums.tolist() == [3.0, -3.0, 1.5] and counts.tolist() == [2, 1, 3]


def test_standard_error_by_hand():
    # one pair per image: the plain one. 1 2 3 6 has the mean 3 and the s.d. √(14 / 3)
    assert clustered_standard_error(*summed([1], [2], [3], [6])) == pytest.approx(math.sqrt(14 / 3) / 2)
    # two images of two pairs: sums 2 and 6 about 2 · mean 2 = 4: √(2 / 1 · (4 + 4)) / 4 = 1
    assert clustered_standard_error(*summed([0, 2], [3, 3])) == pytest.approx(1.0)
    assert math.isnan(clustered_standard_error(*summed([1, 2, 3])))


def test_pairs_of_one_image_count_as_one():
    once = clustered_standard_error(*summed([1], [2], [3], [6]))
    copied = clustered_standard_error(*summed([1] * 5, [2] * 5, [3] * 5, [6] * 5))
    assert copied == pytest.approx(once)  # five copies of a pair add nothing


def test_images_of_a_cluster_count_as_one():
    values = differences([1.0], [1.0], [0.0], [0.0])
    assert clustered_standard_error(*statistics.per_image(values)) == pytest.approx(math.sqrt(1 / 12))
    images = list(dict.fromkeys(values.index.get_level_values(0)))
    clusters = dict(zip(images, "aabb", strict=True))
    sums, counts = statistics.per_image(values, clusters)
    assert (sums.tolist(), counts.tolist()) == ([2.0, 0.0], [2.0, 2.0])
    assert clustered_standard_error(sums, counts) == pytest.approx(0.5)
    assert statistics.averaged(values, "pair", clusters) == (0.5, pytest.approx(0.5))
    assert statistics.averaged(values, "image", clusters) == (0.5, pytest.approx(0.5))
    assert statistics.per_image(values, {images[3]: "c"})[1].tolist() == [1, 1, 1, 1]


# bootstrap ----------------------------------------------------------------------------------------------------------


def test_a_certain_effect():
    (found,) = paired_bootstrap([summed(*([1.5, 2.5] for _ in range(30)))])
    assert (found["difference"], found["low"], found["high"]) == (2.0, 2.0, 2.0)
    assert found["p"] == 2 / 10_001  # the least there is
    (found,) = paired_bootstrap([summed(*([-2.0] for _ in range(30)))])
    assert (found["high"], found["p"]) == (-2.0, 2 / 10_001)


def test_no_effect():
    (found,) = paired_bootstrap([summed(*([0.0, 0.0] for _ in range(30)))])
    assert found == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    balanced = [[1.0], [-1.0]] * 50
    (found,) = paired_bootstrap([summed(*balanced)])
    assert found["difference"] == 0 and found["low"] < -0.1 and found["high"] > 0.1 and found["p"] > 0.8


def test_bootstrap_equals_enumeration(monkeypatch):
    """All 4^4 draws of four images."""
    monkeypatch.setattr(statistics, "FEWEST_IMAGES", 2)
    sums, counts = summed([4.0], [-1.0, -2.0], [3.0, 1.0, 2.0], [0.5])
    means = np.array([sums[list(d)].sum() / counts[list(d)].sum() for d in itertools.product(range(4), repeat=4)])
    (found,) = paired_bootstrap([(sums, counts)], resamples=200_000)
    assert found["difference"] == pytest.approx(7.5 / 7)
    exact = 2 * min((means <= 0).mean(), (means >= 0).mean())
    assert found["p"] == pytest.approx(exact, abs=0.004)
    for name, percent in (("low", 2.5), ("high", 97.5)):
        below, upto = (means < found[name] - 1e-9).mean(), (means <= found[name] + 1e-9).mean()
        assert below - 0.002 <= percent / 100 <= upto + 0.002


def test_bootstrap_interval_is_close_to_the_normal_one():
    generator = np.random.default_rng(3)
    values = summed(*generator.normal(0.3, 1.0, (400, 1)).tolist())
    (found,) = paired_bootstrap([values])
    error = clustered_standard_error(*values)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.04)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(found["difference"] / error), abs=0.01)


def test_images_are_resampled_not_pairs():
    generator = np.random.default_rng(4)
    by_image = [[v] * 6 for v in generator.normal(size=100)]
    clustered = paired_bootstrap([summed(*by_image)])[0]
    as_if_independent = paired_bootstrap([summed(*([v] for image in by_image for v in image))])[0]
    wide, narrow = (f["high"] - f["low"] for f in (clustered, as_if_independent))
    assert wide / narrow == pytest.approx(math.sqrt(6), rel=0.1)


def test_bootstrap_is_reproducible_and_does_not_depend_on_its_company():
    generator = np.random.default_rng(5)
    a, b, c = (summed(*generator.normal(size=(n, 1)).tolist()) for n in (30, 30, 26))
    together = paired_bootstrap([a, c, b])
    assert together == paired_bootstrap([a, c, b])
    for one, same in zip((a, c, b), together, strict=True):
        assert paired_bootstrap([one])[0] == pytest.approx(same, rel=1e-12)
    assert paired_bootstrap([a], seed=1) != [together[0]]


def test_too_few_images():
    one, few, none = paired_bootstrap([summed([1.0, 2.0]), summed(*[[1.0]] * 24), (np.zeros(0), np.zeros(0))])
    assert one["difference"] == 1.5 and math.isnan(one["p"]) and math.isnan(one["low"])
    assert few["difference"] == 1 and math.isnan(few["p"])
    assert paired_bootstrap([summed(*[[1.0]] * 25)])[0]["p"] == 2 / 10_001
    assert all(math.isnan(v) for v in none.values())


def test_parts_of_the_draws_are_put_together(monkeypatch):
    values = [summed(*np.random.default_rng(6).normal(size=(25, 1)).tolist())]
    monkeypatch.setattr(statistics, "_CHUNK", 25 * 999)
    (found,) = paired_bootstrap(values)
    monkeypatch.setattr(statistics, "_CHUNK", 25 * 10_000)
    (whole,) = paired_bootstrap(values)
    assert found == whole  # the same stream of draws, ten parts or one


# sign test ----------------------------------------------------------------------------------------------------------


def test_sign_test_by_hand():
    sums = np.array([1.0, 2.0, 0.5, 3.0, 1.0, 4.0, 2.0, -1.0, 0.0, 1e-12])
    found = sign_test(sums)  # 7 of 8: 2 (1 + 8) / 2^8
    assert found == {"higher": 7, "lower": 1, "tied": 2, "p": pytest.approx(18 / 256)}
    assert sign_test(-sums)["p"] == found["p"]
    assert sign_test(np.ones(10))["p"] == pytest.approx(2 / 2**10)
    assert sign_test(np.array([1.0, -1.0]))["p"] == 1.0
    assert sign_test(np.zeros(5)) == {"higher": 0, "lower": 0, "tied": 5, "p": 1.0}
    assert math.isnan(sign_test(np.zeros(0))["p"])


# Holm ---------------------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []
    found = holm([0.01, math.nan, 0.03])
    assert found[0] == 0.02 and math.isnan(found[1]) and found[2] == 0.03


# order --------------------------------------------------------------------------------------------------------------


def test_kendall_by_hand():
    published = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    found = order_agreement({"a": 10, "b": 20, "c": 30, "d": 40}, published)
    assert found == {"tau": 1.0, "p": pytest.approx(1 / 12), "n": 4}
    assert order_agreement({"a": 9, "b": 8, "c": 7, "d": 6}, published)["tau"] == -1
    found = order_agreement({"a": 10, "b": 30, "c": 20, "d": 40}, published)  # one of six pairs is turned round
    assert found["tau"] == pytest.approx(4 / 6)
    # τ-b of a tie: 5 in order, none against, 1 tied of 6: 5 / √(5 · 6)
    assert order_agreement({"a": 1, "b": 2, "c": 2, "d": 3}, published)["tau"] == pytest.approx(5 / math.sqrt(30))


@pytest.mark.parametrize(
    ("measured", "published", "n"),
    [
        ({"a": 1.0}, {"a": 2.0}, 1),
        ({"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 3.0}, 2),
        ({"a": 1.0, "b": math.nan, "c": 2.0}, {"a": 2.0, "b": 3.0, "c": math.nan}, 1),
        ({}, {"a": 1.0}, 0),
    ],
)
def test_no_order_to_speak_of(measured, published, n):
    found = order_agreement(measured, published)
    assert math.isnan(found["tau"]) and math.isnan(found["p"]) and found["n"] == n

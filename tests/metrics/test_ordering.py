"""Pixel AUC, average precision and sparseness: by hand, beside scikit-learn, and what simple maps get."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_networks import Shown, probe_of

from sise.errors import SuiteError
from sise.metrics import checks
from sise.metrics.faithfulness import keep_mask
from sise.metrics.localization import bbox, ebpg, miou
from sise.metrics.ordering import average_precision, pixel_auc
from sise.metrics.sparseness import complexity, sparseness
from sise.types import by_definition

MASK = torch.tensor([[True, True, False, False]])


@pytest.mark.parametrize(
    ("values", "auc", "precision"),
    [
        ([4.0, 3.0, 2.0, 1.0], 1, 1),
        ([1.0, 2.0, 3.0, 4.0], 0, (1 / 3 + 2 / 4) / 2),
        ([4.0, 2.0, 3.0, 1.0], 3 / 4, (1 + 2 / 3) / 2),
        ([3.0, 2.0, 2.0, 1.0], 3.5 / 4, (1 + 2 / 3) / 2),  # a tie counts half, and comes all at once
        ([5.0, 5.0, 5.0, 5.0], 1 / 2, 1 / 2),
    ],
)
def test_by_hand(values, auc, precision):
    saliency = torch.tensor([values])
    assert pixel_auc(saliency, MASK) == pytest.approx(auc)
    assert average_precision(saliency, MASK) == pytest.approx(precision)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_beside_scikit_learn(levels):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(levels)
    for share in (0.02, 0.5, 0.9):
        saliency, mask = rng.integers(0, levels, (20, 30)) / levels, rng.random((20, 30)) < share
        mine = torch.from_numpy(saliency).float(), torch.from_numpy(mask)
        values = mine[0].numpy().ravel()
        assert pixel_auc(*mine) == pytest.approx(sklearn.roc_auc_score(mask.ravel(), values), abs=1e-12)
        assert average_precision(*mine) == pytest.approx(
            sklearn.average_precision_score(mask.ravel(), values), abs=1e-12
        )


def test_what_a_blank_a_random_and_a_perfect_map_get():
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[20:50, 30:70] = True  # 12 %
    random = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    assert pixel_auc(torch.zeros(100, 100), mask) == 0.5 and average_precision(torch.zeros(100, 100), mask) == 0.12
    assert pixel_auc(random, mask) == pytest.approx(0.5, abs=0.02)
    assert average_precision(random, mask) == pytest.approx(0.12, abs=0.02)
    assert pixel_auc(mask.float(), mask) == average_precision(mask.float(), mask) == 1


def test_the_order_alone_counts_as_it_does_not_for_ebpg():
    saliency, mask = torch.rand(10, 10, generator=torch.Generator().manual_seed(3)), torch.rand(10, 10) > 0.7
    for metric in (pixel_auc, average_precision):
        assert metric(saliency**4, mask) == metric(saliency * 7 - 3, mask) == metric(saliency, mask)
    assert ebpg(saliency**4, mask) != ebpg(saliency, mask)


def test_masks_without_one_of_their_sides():
    saliency, nothing, everything = torch.rand(1, 4), torch.zeros_like(MASK), torch.ones_like(MASK)
    assert pixel_auc(saliency, nothing) == pixel_auc(saliency, everything) == 0.5
    assert by_definition(pixel_auc(saliency, nothing)) == "empty mask"
    assert by_definition(pixel_auc(saliency, everything)) == "no pixel outside"
    assert average_precision(saliency, nothing) == 0 and average_precision(saliency, everything) == 1
    assert by_definition(average_precision(saliency, nothing)) == "empty mask"
    assert not by_definition(average_precision(saliency, everything)) and not by_definition(pixel_auc(saliency, MASK))


# ---------------------------------------------------------------- sparseness


def gini(values):
    """The index's own definition: half the mean difference of all pairs over the mean."""
    values = np.abs(np.asarray(values, dtype=float)).ravel()
    return np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())


def test_sparseness_is_the_gini_index():
    probe = probe_of(Shown())
    for seed in range(3):
        saliency = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
        assert sparseness(probe, 0, saliency) == pytest.approx(gini(saliency), abs=1e-9)
    one = torch.zeros(4, 5)
    one[2, 3] = -7
    assert sparseness(probe, 0, one) == pytest.approx(1 - 1 / 20)
    assert sparseness(probe, 0, torch.ones(4, 5)) == 0
    assert sparseness(probe, 0, torch.zeros(4, 5)) == 0
    assert by_definition(sparseness(probe, 0, torch.zeros(4, 5))) == "zero map"


def test_complexity_is_the_mean_of_the_normalised_map():
    probe = probe_of(Shown())
    saliency = torch.full((4, 5), 2.0)
    saliency[0] = 6
    assert complexity(probe, 0, saliency) == pytest.approx(0.25)
    assert complexity(probe, 0, torch.ones(4, 5)) == 0


@pytest.mark.parametrize("metric", [sparseness, complexity])
def test_a_map_of_another_size_is_refused(metric):
    with pytest.raises(SuiteError, match="must have the image's size"):
        metric(probe_of(Shown()), 0, torch.rand(3, 3))


def test_a_map_is_sorted_once_for_all_metrics_of_it(monkeypatch):
    """Ten metrics of a map in two tensors, then of the map with one pixel changed in place, which is another map."""
    sorts = []
    sort = torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda *args, **kwargs: sorts.append(1) or sort(*args, **kwargs))
    generator = torch.Generator().manual_seed(7)
    saliency, mask = torch.rand(9, 11, generator=generator), torch.rand(9, 11, generator=generator) > 0.6
    several = (pixel_auc, average_precision, miou, bbox, lambda s, m: float(keep_mask(s)[m].sum()))

    def fresh(one):
        checks._LAST.clear()
        return [metric(one.clone(), mask) for metric in several]

    for again in (saliency, saliency.clone()):
        assert [metric(again, mask) for metric in several] == [metric(saliency, mask) for metric in several]
    assert len(sorts) == 1
    before = [metric(saliency, mask) for metric in several]
    saliency[mask] = 0.0
    after = [metric(saliency, mask) for metric in several]
    assert after[0] < before[0] and len(sorts) == 2 and after == fresh(saliency)
    doubled = saliency.double()
    assert pixel_auc(doubled, mask) == after[0] and checks.by_value(doubled)[0].dtype == torch.float64

"""What settings give to explainers and metrics is checked by type before the first image."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
from checkout import ROOT
from compositions import composed
from omegaconf import OmegaConf

from sise.baselines.bilrp import bilrp
from sise.baselines.d_rise import d_rise
from sise.baselines.extremal_perturbation import extremal_perturbation
from sise.baselines.lime import lime
from sise.baselines.rise import rise
from sise.benchmark.run import arguments
from sise.benchmark.run.arguments import check_arguments, check_loader
from sise.errors import SuiteError, UnknownName, choose
from sise.method import sise
from sise.metrics.consistency import max_sensitivity
from sise.metrics.curves import deletion, insertion, region_insertion
from sise.metrics.faithfulness import average_gain, drop, increase
from sise.metrics.localization import bbox, ebpg, miou
from sise.metrics.perturbation import lerf, morf
from sise.metrics.pointing import pointing
from sise.metrics.regions import threshold_iou
from sise.metrics.removals import infidelity, sensitivity_n
from sise.metrics.road import road
from sise.registry import explainer_of, explainers


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (rise, {"n_masks": 1.5}, "expected n_masks to be int from 1; got n_masks=1.5"),
        (rise, {"n_masks": None}, "expected n_masks to be int from 1; got n_masks=None"),
        (rise, {"n_masks": True}, "got n_masks=True"),
        (rise, {"p": "0.5"}, "expected p to be float above 0 and up to 1; got p='0.5'"),
        (sise, {"layers": "stage1"}, r"expected layers to be Sequence\[.*int\] with at least one value \| null; got"),
        (sise, {"normalise": 1}, "expected normalise to be bool"),
        (sise, {"temperature": float("nan")}, "expected temperature to be float above 0; got temperature=nan"),
        (extremal_perturbation, {"areas": [0.1, "x"]}, r"expected areas to be Sequence\[float\]"),
        (rise, {"n_masks": 0}, "expected n_masks to be int from 1; got n_masks=0"),
        (rise, {"p": 0}, "expected p to be float above 0 and up to 1; got p=0"),
        (rise, {"chunk": -1}, "expected chunk to be int from 1 | null; got chunk=-1"),
        (rise, {"seed": 2**63}, "expected seed to be int from 0 to"),
        (sise, {"mu": 2}, "expected mu to be float from 0 to 1; got mu=2"),
        (sise, {"temperature": float("inf")}, "expected temperature to be float above 0; got temperature=inf"),
        (sise, {"layers": []}, "with at least one value"),
        (extremal_perturbation, {"areas": [0.1, 1]}, "each strictly between 0 and 1"),
        (extremal_perturbation, {"max_iter": 0}, "expected max_iter to be int from 1; got max_iter=0"),
        (rise, {"banana": 1}, "got an unexpected keyword argument 'banana'; it takes probe, targets, n_masks"),
    ],
)
def test_a_setting_of_another_type_is_refused(function, given, said):
    with pytest.raises(SuiteError, match=f"^explainer=x: .*{said}"):
        check_arguments("explainer=x", partial(function, **given), 2)


def test_a_name_that_there_is_not_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown reduce of explainer=lime 'sum_sign'; .* Did you mean 'sum_signed'"):
        check_arguments("explainer=lime", partial(lime, reduce="sum_sign"), 2)


ANY = {"shift", "threshold", "layer", "baseline", "baselines", "low", "high", "gammas"}
"""Numbers without a range, and what only the image or the network can tell."""
METRICS = [average_gain, bbox, deletion, drop, ebpg, increase, infidelity, insertion, lerf, max_sensitivity, miou, morf,
           pointing, region_insertion, road, sensitivity_n, threshold_iou]  # fmt: skip


EXPLAINERS = [*map(explainer_of, explainers()), bilrp, d_rise]


@pytest.mark.parametrize("function", [*EXPLAINERS, *METRICS], ids=lambda f: f.__name__)
def test_every_number_and_name_that_is_an_option_has_a_range(function):
    options = list(inspect.signature(function).parameters.values())
    given = sum(option.kind is not option.KEYWORD_ONLY for option in options)
    for option in options[given:]:
        if option.name not in ANY and not isinstance(option.default, bool):
            for wrong in (-7, float("inf"), "banana", []):
                with pytest.raises(
                    SuiteError, match=rf"expected {option.name} to be|unknown {option.name} of x 'banana'"
                ):
                    check_arguments("x", partial(function, **{option.name: wrong}), given)


@pytest.mark.parametrize("function", [*EXPLAINERS, *METRICS], ids=lambda f: f.__name__)
def test_no_whole_number_is_more_than_a_machine_can_hold(function):
    options = list(inspect.signature(function).parameters.values())
    given = sum(option.kind is not option.KEYWORD_ONLY for option in options)
    for option in options[given:]:
        if type(option.default) is int and option.name != "count_offset":
            with pytest.raises(SuiteError, match=rf"expected {option.name} .*; got {option.name}=1{'0' * 19}"):
                check_arguments("x", partial(function, **{option.name: 10**19}), given)


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (explainer_of("cameras"), {"scales": [1.0, 1000.0]}, "expected scales from 0.1 to 10: with others"),
        (explainer_of("cameras"), {"scales": [1e-9]}, "expected scales from 0.1 to 10"),
        (explainer_of("ucag"), {"enlarge": 1e-9}, "expected enlarge from 0.1 to 10"),
        (explainer_of("gradient"), {"smooth": 9.0}, "expected smooth from 0 to 1"),
        (explainer_of("integrated_gradients"), {"n_steps": 100_000}, "expected n_steps from 2 to 5000"),
        (explainer_of("random"), {"cells": 100_000}, "expected cells from 1 to 1000"),
        (extremal_perturbation, {"sigma": 1e6}, "expected sigma from 0 to 500"),
    ],
)
def test_nothing_is_made_absurdly_large_or_small(function, given, said):
    with pytest.raises(SuiteError, match=rf"^explainer=x: {said}.*got"):
        check_arguments("explainer=x", partial(function, **given), 2)


def test_settings_of_metrics_have_ranges_too():
    for metric, wrong in (
        (pointing, {"tolerance": -1}),
        (insertion, {"kernel_size": 10}),
        (sensitivity_n, {"samples": 1}),
        (region_insertion, {"percents": 101}),
        (drop, {"fraction": 1.5}),
        (bbox, {"largest_mask": 33}),
    ):
        with pytest.raises(SuiteError, match=rf"^metric x: expected {next(iter(wrong))} to be .*got"):
            check_arguments("metric x", partial(metric, **wrong), 2 if metric in (pointing, bbox) else 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"difficult": "no"}, "expected difficult to be bool; got difficult='no'"),  # a word is true in Python
        ({"test": 1.5}, "expected test to be int; got test=1.5"),
        ({"test": True}, "expected test to be int"),
        ({"seed": float("nan")}, "expected seed to be int"),
        ({"seed": -1}, "expected seed from 0 to"),
        ({"test": 10**9}, "expected test from 1 to 300000"),
        ({"_target_": "sise.benchmark.datasets.hans.Hans", "marked": 10**10}, "expected marked from 0 to"),
        ({"_target_": "sise.benchmark.datasets.grid_pointing.GridScenes", "cells": 99}, "expected cells from 2 to 10"),
        ({"_target_": "sise.benchmark.models.grid_pointing.network", "cells": 99}, "expected cells from 2 to 10"),
        (
            {"shown": {"_target_": "sise.benchmark.models.preprocessing.Preprocessing", "size": [10**6, 10**6]}},
            "expected size from 1 to 8192",
        ),
    ],
)
def test_a_setting_of_a_data_set_has_its_type(settings, said):
    node = OmegaConf.create({"_target_": "sise.benchmark.datasets.shapes.Shapes", "root": "nowhere"} | settings)
    with pytest.raises(SuiteError, match=rf"^dataset.loader.*: {said}"):
        check_loader("dataset.loader", node)


@pytest.mark.parametrize("group", ["dataset", "model"])
def test_shipped_data_sets_and_networks_have_the_types_of_their_settings(group):
    for file in sorted((ROOT / "configs" / group).glob("*.yaml")):
        check_loader(group, composed("evaluate", f"{group}={file.stem}")[group].loader)


def test_what_fits_is_accepted_and_hints_of_users_are_theirs():
    check_arguments("x", partial(rise, n_masks=3, p=1, seed=0), 2)
    check_arguments("x", partial(sise, layers=["a", 2], mu=0), 2)
    check_arguments("x", partial(sise, layers=None), 2)

    def mine(probe, targets, *, n: int = 3): ...

    check_arguments("x", partial(mine, n="three"), 2)


@pytest.mark.parametrize("name", explainers())
def test_every_option_of_an_explainer_has_a_type_that_its_default_fits(name):
    function = explainer_of(name)
    for option in list(inspect.signature(function).parameters.values())[2:]:
        kind = arguments._annotation(function, option.name)
        assert kind is not arguments.Any and arguments._fits(option.default, kind), option


def test_a_name_that_is_unknown_where_null_is_one_of_those_known():
    with pytest.raises(SuiteError, match="unknown fill 'grey'; expected one of: None, zero"):
        choose("fill", "grey", (None, "zero"))

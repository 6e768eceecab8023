"""What settings give to explainers and metrics is checked by type before the first image."""

from __future__ import annotations

import inspect
from functools import partial

import pytest

from sise.baselines.extremal_perturbation import extremal_perturbation
from sise.baselines.rise import rise
from sise.benchmark.run import arguments
from sise.benchmark.run.arguments import check_arguments
from sise.errors import SuiteError, choose
from sise.method import sise
from sise.registry import explainer_of, explainers


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (rise, {"n_masks": 1.5}, "expected n_masks to be int; got n_masks=1.5"),
        (rise, {"n_masks": None}, "expected n_masks to be int; got n_masks=None"),
        (rise, {"n_masks": True}, "got n_masks=True"),
        (rise, {"p": "0.5"}, "expected p to be float; got p='0.5'"),
        (sise, {"layers": "stage1"}, r"expected layers to be Sequence\[str | int\] | None; got layers='stage1'"),
        (sise, {"normalise": 1}, "expected normalise to be bool"),
        (sise, {"temperature": float("nan")}, "expected temperature to be float; got temperature=nan"),
        (extremal_perturbation, {"areas": [0.1, "x"]}, r"expected areas to be Sequence\[float\]"),
        (rise, {"banana": 1}, "got an unexpected keyword argument 'banana'; it takes probe, targets, n_masks"),
    ],
)
def test_a_setting_of_another_type_is_refused(function, given, said):
    with pytest.raises(SuiteError, match=f"^explainer=x: .*{said}"):
        check_arguments("explainer=x", partial(function, **given), 2)


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

"""Messages that name what may be meant."""

import pytest

from sise.errors import SuiteError, choose


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (["slow", "fast"], "unknown pace 'fest'; expected one of: slow, fast. Did you mean 'fast'?"),
        (["slow", "swift"], "unknown pace 'fest'; expected one of: slow, swift."),
        (
            ["fast", *map(str, range(20))],
            f"unknown pace 'fest'. Did you mean 'fast'? Expected one of: fast, {', '.join(map(str, range(20)))}.",
        ),
    ],
)
def test_the_nearest_name_stands_before_a_long_list(known, message):
    with pytest.raises(SuiteError) as error:
        choose("pace", "fest", known)
    assert str(error.value) == message

"""What the tests of several explainers start from."""

import pytest
from small_networks import small_networks


@pytest.fixture(scope="module")
def networks():
    """Small networks with random weights by name, the same for all tests of a file: no test may change them."""
    return small_networks()

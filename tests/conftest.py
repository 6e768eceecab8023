"""One thread per test process, unless OMP_NUM_THREADS says otherwise: small tensors gain nothing from more."""

import os
from collections import Counter

import pytest

import sise.benchmark  # isort: skip  # before torch, which reads what it sets in the environment
import torch

assert sise.benchmark.process.DEFAULTS.keys() <= os.environ.keys()
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def same_threads():
    """A test begins with as many threads as the first one, whatever those before it set."""
    if torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


def pytest_collection_modifyitems(config, items):
    """Where processes share the files, those with slow tests come first, small ones last: all end at the same time."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        sizes = Counter(item.path for item in items)
        items.sort(key=lambda item: (item.path not in slow, -sizes[item.path]))

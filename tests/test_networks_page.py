"""docs/networks.md says what the code finds.

``SISE_NETWORKS=all python -m pytest tests/test_networks_page.py`` tries all 95 networks, a few minutes; otherwise four
that are quick.
"""

import os
import re
import warnings

import pytest
import timm
import torch
import torchvision
from checkout import ROOT

from sise.errors import SuiteError
from sise.layers import find_layers

QUICK = ("squeezenet1_1", "mobilenet_v3_small", "tinynet_e", "vit_tiny_patch16_224")
ROW = re.compile(r"\| (\w+) \((\d+)\) \| (.*?) \| (.*?) \|")


def rows():
    """(library, network, side, layers as the page has them) of the page's table."""
    library = None
    for line in (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").splitlines():
        if header := re.match(r"\| \*\*(\w+)\*\* \|", line):
            library = header[1]
        elif row := ROW.match(line):
            yield library, row[1], int(row[2]), row[3]


ROWS = list(rows())
TRIED = [row for row in ROWS if row[1] in QUICK or os.environ.get("SISE_NETWORKS") == "all"]


def build(library, name):
    if library == "timm":
        return timm.create_model(name, pretrained=False)
    extra = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}  # their own takes a minute
    return torchvision.models.get_model(name, weights=None, **extra)


def found(network, side):
    """The layers as the page writes them."""
    shapes = {}
    names = find_layers(network, (side, side), channels=3)
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: output.shape})
        )
        for name in names
    ]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return ", ".join(f"`{name}` {shapes[name][1]}×{shapes[name][2]}" for name in names)


@pytest.mark.parametrize("library, name, side, layers", TRIED, ids=[f"{row[0]}-{row[1]}" for row in TRIED])
def test_the_layers_of_the_page_are_found(library, name, side, layers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = build(library, name)
    if layers.startswith("refused"):
        with pytest.raises(SuiteError, match=re.escape(layers.removeprefix("refused: ").split(" ")[0])):
            find_layers(network, (side, side))
    else:
        assert found(network, side) == layers


def test_the_page_counts_its_rows():
    text = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    refused = sum(row[3].startswith("refused") for row in ROWS)
    assert f"{len(ROWS)} networks" in text and f"{len(ROWS) - refused} explained, {refused} refused" in text

"""From Python: explainers by name, lists of images, and the map over its photo."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from torch import nn

import sise
from sise.baselines.grad_cam import grad_cam
from sise.errors import SuiteError
from sise.registry import explainer_of


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    ).eval()  # fmt: skip


IMAGES = [torch.randn(3, 16, 20, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def test_an_explainer_can_be_named(network):
    named = sise.explain(network, IMAGES[0], 2, explainer="grad_cam")
    assert torch.equal(named, sise.explain(network, IMAGES[0], 2, explainer=grad_cam))
    assert torch.equal(sise.explain(network, IMAGES[0], 2, explainer="sise"), sise.explain(network, IMAGES[0], 2))


def test_an_unknown_name_is_answered_with_the_nearest(network):
    with pytest.raises(SuiteError, match=r"unknown explainer 'gradcam'.*Did you mean 'grad_cam'"):
        sise.explain(network, IMAGES[0], 2, explainer="gradcam")
    with pytest.raises(SuiteError, match=r"a name of sise.explainers\(\), or a function"):
        sise.explain(network, IMAGES[0], 2, explainer=3)


def test_every_name_leads_to_an_explainer():
    names = sise.explainers()
    assert list(names) == sorted(names) and {"sise", "ada_sise", "rise", "lime", "grad_cam", "random"} <= {*names}
    assert not {"common", "rules", "segments", "contrast", "ground_truth", "bilrp", "d_rise"} & {*names}
    for name in names:
        inspect.signature(explainer_of(name)).bind("probe", [0])  # needs nothing else


def test_a_list_of_images_gives_a_list_of_maps(network, capsys):
    alone = [sise.explain(network, image, explainer="grad_cam") for image in IMAGES]
    assert capsys.readouterr().err == ""
    together = sise.explain(network, IMAGES, explainer="grad_cam")
    assert all(map(torch.equal, together, alone)) and "3/3" in capsys.readouterr().err
    mixed = sise.explain(network, IMAGES[:2], [[0, 3], 1], explainer="grad_cam")
    assert [tuple(saliency.shape) for saliency in mixed] == [(2, 16, 20), (16, 20)]
    assert torch.equal(mixed[0][1], sise.explain(network, IMAGES[0], 3, explainer="grad_cam"))
    assert sise.explain(network, []) == []


@pytest.mark.parametrize("target", [1, [1], [1, 2, 3, 4]])
def test_a_list_wants_one_target_each(network, target):
    with pytest.raises(SuiteError, match="of 3 images, expected one target each"):
        sise.explain(network, IMAGES, target)


# ---------------------------------------------------------------- overlay


def test_an_overlay_is_grey_and_colour_in_parts():
    """By hand: a white photo, a map of 0 and 1: 0.4 white and 0.6 of viridis's first and last colour."""
    white = np.full((1, 2, 3), 255, np.uint8)
    found = sise.overlay(white, torch.tensor([[0.0, 1.0]]))
    ends = np.array([colormaps["viridis"](0.0)[:3], colormaps["viridis"](1.0)[:3]])
    assert found.dtype == np.uint8 and np.array_equal(found[0], np.rint(255 * (0.4 + 0.6 * ends)))
    assert (sise.overlay(white, torch.tensor([[0.0, 1.0]]), strength=0) == 255).all()
    red = np.zeros((1, 1, 3))
    red[..., 0] = 1.0
    assert sise.overlay(red, np.ones((1, 1)), strength=0).ravel().tolist() == [76] * 3  # 0.299 of 255


def test_an_overlay_takes_what_people_have():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    saliency = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    wanted = sise.overlay(pixels, saliency)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    for photo in (Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA"), pixels / 255.0, tensor.double()):
        assert np.abs(sise.overlay(photo, saliency).astype(int) - wanted).max() <= 1
    assert np.array_equal(sise.overlay(pixels, 5 * saliency + 3), wanted)  # stretched
    assert sise.overlay(pixels[..., 0], torch.eye(2)).shape == (6, 8, 3)  # enlarged, of one channel


@pytest.mark.parametrize(
    ("photo", "saliency", "said"),
    [
        (np.zeros((4, 4, 3)), torch.zeros(2, 4, 4), r"take one class's"),
        (np.zeros((4, 4, 5)), torch.zeros(4, 4), r"expected a photo \(H, W, 3\)"),
        (torch.randn(3, 4, 4), torch.zeros(4, 4), "not what the network is given"),
        (np.full((4, 4, 3), np.nan), torch.zeros(4, 4), "not what the network is given"),
    ],
)
def test_what_is_no_photo_or_no_map_is_refused(photo, saliency, said):
    with pytest.raises(SuiteError, match=said):
        sise.overlay(photo, saliency)
    with pytest.raises(SuiteError, match="from 0 to 1"):
        sise.overlay(np.zeros((4, 4, 3)), torch.zeros(4, 4), strength=2)

"""What a blank, a random and a perfect map get from every metric, where the truth is known.

The network's answer is made of one object's pixels, less a little of all others. So the perfect map is known, each
metric must find it better than a random one, in the direction that its facts say, and a blank map has its known value.
"""

from __future__ import annotations

import functools

import pytest
import torch
from compositions import composed
from hydra.utils import instantiate
from torch import nn

from sise.benchmark.metric_facts import facts
from sise.metrics.faithfulness import confidences
from sise.probe.probe import Probe
from sise.types import by_definition

SIZE = (32, 32)
MASK = torch.zeros(SIZE, dtype=torch.bool)
MASK[6:18, 9:21] = True  # 144 pixels, 14 %
SHARE = 144 / 1024


class OfOneObject(nn.Module):
    """P(first class) = σ(12 · (object's mean − 0.35) − 3 · (the others' mean))."""

    def forward(self, x):
        bright = x.mean(dim=1)
        score = 6 * (bright[:, MASK].mean(dim=1) - 0.35) - 1.5 * bright[:, ~MASK].mean(dim=1)
        return torch.stack([score, -score], dim=1)


@functools.cache
def scene():
    """The probe, and a perfect, a random and a blank map: of equal importance no two pixels, but of the blank one."""
    generator = torch.Generator().manual_seed(0)
    image = 0.3 * torch.rand(1, 3, *SIZE, generator=generator)
    image[..., MASK] += 0.7
    noise = torch.rand(SIZE, generator=generator)
    return Probe(OfOneObject().eval(), image), {
        "perfect": MASK + noise / 1000, "random": noise, "blank": torch.zeros(SIZE)
    }  # fmt: skip


@functools.cache
def metrics():
    cfg = composed("evaluate", "metrics=field", "metrics.cell=4", "metrics.curve_rows=2").metrics
    return dict(instantiate(cfg.localization)), dict(instantiate(cfg.faithfulness))


def value(name, kind):
    probe, maps = scene()
    localization, faithfulness = metrics()
    if name in localization:
        return localization[name](maps[kind], MASK)
    return faithfulness[name](probe, 0, maps[kind])


NAMES = [name for group in metrics() for name in group]


SIGNED = "IoU above zero"  # of maps without a sign, as these are, it is the object's share, whatever they show


def test_a_map_without_a_sign_is_above_zero_everywhere():
    assert value(SIGNED, "perfect") == value(SIGNED, "random") == SHARE


@pytest.mark.parametrize("name", [name for name in NAMES if name != SIGNED])
def test_a_perfect_map_is_better_than_a_random_one(name):
    perfect, random = value(name, "perfect"), value(name, "random")
    better = perfect - random if facts()[name].better == "higher" else random - perfect
    assert better > 0.02, (perfect, random)


BLANK = {
    "EBPG": 0.0, "Bbox": SHARE, "Pixel AUC": 0.5, "Average precision": SHARE, "IoU above mean": 0.0,
    "IoU above zero": 0.0, "Outside/inside": 1.0, "Density+": 0.0, "Sensitivity-n": 0.0, "Sparseness": 0.0,
    "Complexity": 0.0,
}  # fmt: skip
"""What a blank map is given without a look at the network."""


@pytest.mark.parametrize("name", BLANK)
def test_a_blank_map_has_its_known_value(name):
    assert value(name, "blank") == pytest.approx(BLANK[name], abs=1e-9)


def test_a_blank_map_keeps_a_blank_image():
    probe, maps = scene()
    whole, kept = confidences(probe, 0, maps["blank"])
    nothing = float(probe.to_confidence(probe.network(torch.zeros_like(probe.image)))[0, 0])
    assert kept == pytest.approx(nothing, abs=1e-6)
    assert value("Drop%", "blank") == pytest.approx((whole - nothing) / whole, abs=1e-6)
    assert value("Increase%", "blank") == value("Gain", "blank") == 0
    assert value("Density-", "blank") == pytest.approx(whole, abs=1e-6)  # it hides nothing but itself: everything


def test_a_blank_map_has_no_order():
    """Both directions go down the rows, so MoRF and LeRF are equal."""
    assert value("MoRF", "blank") == pytest.approx(value("LeRF", "blank"), abs=1e-9)
    assert value("Infidelity", "perfect") < value("Infidelity", "random") < value("Infidelity", "blank")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_set_by_definition_is_said(name):
    probe, maps = scene()
    localization, faithfulness = metrics()
    metric = {**localization, **faithfulness}[name]
    said = {
        kind: by_definition(metric(saliency, MASK) if name in localization else metric(probe, 0, saliency))
        for kind, saliency in maps.items()
    }
    assert not said["perfect"] and not said["random"]
    assert bool(said["blank"]) == (name in {"EBPG", "Outside/inside", "Density+", "Sensitivity-n", "Sparseness"})

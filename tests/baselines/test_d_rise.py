"""D-RISE: its similarity by hand, beside a slow restatement, and detectors of which it is known where they look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import image_of, largest_difference
from small_networks import probe_of as probe_of_network
from torch import nn

from sise.baselines.d_rise import FACTORS, ablations, d_rise, similarity, vectors_of
from sise.baselines.rise import mask_bank, rise
from sise.errors import SuiteError

SIDE = 32
IMAGE = torch.ones(1, 3, SIDE, SIDE)
PATCH = (slice(4, 12), slice(18, 28))
BOX = [18.0, 4.0, 28.0, 12.0]


class Watching(nn.Module):
    """Two proposals: one at BOX, as sure as its patch is visible; one elsewhere of another class, always there."""

    def forward(self, x):
        seen = x[:, :, PATCH[0], PATCH[1]].mean(dim=(1, 2, 3))
        one, none = torch.ones_like(seen), torch.zeros_like(seen)
        first = [*(one * side for side in BOX), seen, one, none]
        other = [none, one * 16, one * 16, one * 32, one, none, one]
        return torch.stack(first + other, dim=1)


class Proposing(nn.Module):
    """Nine proposals of four classes that depend on all of the image: random weights, boxes with x0 <= x1."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
            self.last = nn.Linear(72, 9 * 9)

    def forward(self, x):
        found = self.last(self.layers(x) * 3).unflatten(1, (9, 9))
        low = found[..., :2].sigmoid() * 16
        boxes = torch.cat([low, low + 2 + found[..., 2:4].sigmoid() * 14], dim=-1)
        return torch.cat([boxes, found[..., 4:5].sigmoid(), found[..., 5:].softmax(dim=-1)], dim=-1).flatten(1)


class Silent(nn.Module):
    """No proposal at all: rows of zeros, whatever is shown."""

    def forward(self, x):
        return x.new_zeros(len(x), 3 * 7)


def probe_of(network, image):
    return probe_of_network(network.eval(), image)


def row(box, objectness, *classes):
    return torch.tensor([*box, objectness, *classes], dtype=torch.float32)


def test_the_similarity_by_hand():
    """Boxes 2 x 2 with one of four pixels in common: 1 / 7. Classes (0.6, 0.8) and (1, 0): cosine 0.6."""
    target = row((0, 0, 2, 2), 0.9, 1, 0)[None]
    apart = row((1, 1, 3, 3), 0.5, 0.6, 0.8)
    assert float(similarity(target, apart[None, None])) == pytest.approx(1 / 7 * 0.5 * 0.6, rel=1e-6)
    by_factor = [float(similarity(target, apart[None, None], [factor])) for factor in FACTORS]
    assert by_factor == pytest.approx([1 / 7, 0.5, 0.6], rel=1e-6)
    inside = row((0, 0, 1, 2), 0.4, 0.5, 0.0)  # half of the box; a cosine does not ask for the length
    assert float(similarity(target, inside[None, None])) == pytest.approx(0.5 * 0.4, rel=1e-6)
    both = torch.stack([apart, inside])
    assert float(similarity(target, both[None])) == pytest.approx(0.2, rel=1e-6)  # the best proposal
    sure = torch.stack([row((5, 5, 7, 7), 1, 1, 0), row((0, 0, 2, 2), 1, 0, 1)])  # elsewhere; of another class
    assert similarity(target, sure[None]).tolist() == [[0.0]]
    found = similarity(torch.cat([target, apart[None]]), torch.stack([both, sure]))
    assert found.shape == (2, 2) and found[0, 1] == pytest.approx(0.5, rel=1e-6)  # with itself: its objectness


def test_what_has_no_area_or_no_class_is_similar_to_nothing():
    target = row((0, 0, 2, 2), 1, 1, 0)[None]
    for nothing in (row((1, 1, 1, 1), 1, 1, 0), row((0, 0, 2, 2), 1, 0, 0), torch.zeros(7)):
        assert similarity(target, nothing[None, None]).tolist() == [[0.0]]
    assert similarity(torch.zeros(1, 7), torch.zeros(2, 1, 7)).tolist() == [[0.0], [0.0]]
    assert similarity(target, torch.zeros(4, 0, 7)).tolist() == [[0.0]] * 4


def slowly(network, image, detections, masks):
    """(T, H, W): one mask, one detection, one proposal at a time, the overlap by counting along axes."""
    saliency = np.zeros((len(detections), *image.shape[2:]))
    for mask in masks.numpy().astype(np.float64):
        shown = image.numpy() * mask[None, None]
        with torch.no_grad():
            proposals = network(torch.from_numpy(shown).float())[0].numpy().reshape(-1, detections.shape[1])
        for number, target in enumerate(detections.numpy().astype(np.float64)):
            best = 0.0
            for proposal in proposals.astype(np.float64):
                width = min(target[2], proposal[2]) - max(target[0], proposal[0])
                height = min(target[3], proposal[3]) - max(target[1], proposal[1])
                common = max(width, 0) * max(height, 0)
                areas = [(v[2] - v[0]) * (v[3] - v[1]) for v in (target, proposal)]
                cosine = target[5:] @ proposal[5:] / np.linalg.norm(target[5:]) / np.linalg.norm(proposal[5:])
                best = max(best, common / (sum(areas) - common) * proposal[4] * cosine)
            saliency[number] += best * mask
    return torch.from_numpy(saliency)


def proposing():
    """A detector, an image, and two of its proposals."""
    network, image = Proposing(), image_of(SIDE)
    return network, image, network(image).detach().unflatten(1, (9, 9))[0, [2, 7]]


def test_it_is_its_slow_restatement():
    network, image, detections = proposing()
    masks = mask_bank(40, 4, 0.5, (SIDE, SIDE), 3).masks(0, 40)
    expected = slowly(network, image, detections, masks)
    options = {"n_masks": 40, "cells": 4, "seed": 3, "normalise": "raw"}
    found = d_rise(probe_of(network, image), detections, **options)
    assert found.shape == (2, SIDE, SIDE) and found.dtype == torch.float32
    assert largest_difference(found, expected) < 1e-5
    weights = torch.linalg.lstsq(masks.flatten(1).double().T, expected.flatten(1).T).solution.T  # those of the sum
    centred = ((weights - weights.mean(dim=1, keepdim=True)) @ masks.flatten(1).double()).view_as(expected)
    found = d_rise(probe_of(network, image), detections, centred=True, **options)
    assert largest_difference(found, centred) < 1e-4


@pytest.mark.parametrize("centred", [False, True])
def test_the_map_peaks_where_the_detector_looks(centred):
    detections = Watching()(IMAGE).view(2, 7)
    saliency = d_rise(probe_of(Watching(), IMAGE), detections, n_masks=300, cells=8, centred=centred)
    peak, patch = divmod(int(saliency[0].argmax()), SIDE), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    patch[PATCH] = True
    assert patch[peak] and saliency[0][patch].mean() > 2 * saliency[0][~patch].mean()
    # the other one is there whatever is shown: nothing is left of it once the mean is off
    assert not bool(saliency[1].any()) if centred else largest_difference(saliency[0], saliency[1]) > 0.2


def test_only_the_box_tells_two_objects_of_one_class_apart():
    """Two proposals of one class, each as sure as its own half is visible."""

    class Halves(nn.Module):
        def forward(self, x):
            left, right = (part.mean(dim=(1, 2, 3)) for part in x.tensor_split(2, dim=3))
            one, none = torch.ones_like(left), torch.zeros_like(left)
            first = [none, none, one * 16, one * 32, left, one, none]
            return torch.stack([*first, one * 16, none, one * 32, one * 32, right, one, none], dim=1)

    detections = Halves()(IMAGE).view(2, 7)
    probe = probe_of(Halves(), IMAGE)
    apart, alike = ablations(probe, detections, [FACTORS, ["objectness", "class"]], n_masks=200, cells=4, centred=True)
    assert probe.forward_passes == 200  # one set for both
    halves = torch.stack([part.mean(dim=(1, 2)) for part in apart.tensor_split(2, dim=2)], dim=1)
    assert halves[0, 0] > 1.5 * halves[0, 1] and halves[1, 1] > 1.5 * halves[1, 0]
    assert torch.equal(alike[0], alike[1])
    assert torch.equal(apart, d_rise(probe, detections, n_masks=200, cells=4, centred=True))


def test_it_costs_its_masks_once_and_batches_do_not_matter():
    network, image, detections = proposing()
    probe = probe_of(network, image)
    with probe.bill() as bill:
        first = d_rise(probe, detections, n_masks=50, cells=4)
    assert (bill.forward, bill.backward) == (50, 0)
    assert float(first.amin()) == 0 and float(first.amax()) == 1
    for chunk, batch in ((7, None), (50, 3), (1, 1)):
        again = probe_of(network, image)
        again.scorer.batch_size = batch
        assert torch.allclose(d_rise(again, detections, n_masks=50, cells=4, chunk=chunk), first, atol=1e-4)
    single = d_rise(probe, detections[1:], n_masks=50, cells=4)
    assert torch.allclose(single[0], first[1], atol=1e-4)
    other = d_rise(probe, detections, n_masks=50, cells=4, seed=1)
    assert not torch.allclose(other, first, atol=1e-2)


def test_its_masks_are_those_of_rise():
    """A detector of one proposal whose objectness is a class's confidence: D-RISE is RISE times N p."""

    class Classifier(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean(dim=(1, 2, 3)), x[:, :, :9].mean(dim=(1, 2, 3))], dim=1) * 4

    class AsDetector(nn.Module):
        def forward(self, x):
            sure = Classifier()(x).softmax(dim=1)[:, 1]
            return torch.stack([*[torch.full_like(sure, side) for side in BOX], sure, torch.ones_like(sure)], dim=1)

    image = image_of(SIDE)
    found = d_rise(probe_of(AsDetector(), image), row(BOX, 1, 1)[None], n_masks=60, cells=7, normalise="raw")
    expected = rise(probe_of(Classifier(), image), [1], n_masks=60, cells=7, normalise="raw")
    assert largest_difference(found / 30, expected) < 1e-4


@pytest.mark.parametrize("centred", [False, True])
def test_without_proposals_or_detections_there_is_no_map(centred):
    probe = probe_of(Silent(), IMAGE)
    assert not bool(d_rise(probe, row(BOX, 1, 1, 0)[None], n_masks=20, centred=centred).any())
    assert d_rise(probe, torch.zeros(0, 7), n_masks=20, centred=centred).shape == (0, SIDE, SIDE)
    assert probe.forward_passes == 20


def test_what_is_not_a_detection_is_refused():
    probe, one = probe_of(Watching(), IMAGE), row(BOX, 1, 1, 0)[None]
    for call, words in (
        (lambda: d_rise(probe, one[0]), "box, an objectness"),
        (lambda: d_rise(probe, one[:, :5]), r"got \(1, 5\)"),
        (lambda: d_rise(probe, one * torch.nan), "finite"),
        (lambda: d_rise(probe, row(BOX, 1, 1, 0, 0)[None], n_masks=2), "14 numbers per image.*proposals of 8"),
        (lambda: d_rise(probe, one, normalise="max"), "minmax"),
        (lambda: d_rise(probe, one, n_masks=0), "n_masks"),
        (lambda: ablations(probe, one, [["boxes"]]), "Did you mean|expected one of"),
        (lambda: d_rise(probe_of(Watching(), torch.ones(1, 3, 40)), one), "signal"),
    ):
        with pytest.raises(SuiteError, match=words):
            call()
    assert vectors_of(torch.zeros(2, 14), 7).shape == (2, 2, 7)

"""BiLRP: by hand where the network is linear, beside a slow restatement, and what is conserved."""

from __future__ import annotations

import pytest
import torch
from small_networks import probe_of
from torch import nn

from sise.baselines.bilrp import bilrp, in_blocks, projection
from sise.errors import SuiteError


def linear_network():
    network = nn.Sequential(nn.Conv2d(1, 2, (1, 2), bias=False), nn.Flatten(), nn.Linear(2, 2))
    network[0].weight.data = torch.tensor([[3.0, -1.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    return network.eval()


def test_a_linear_network_by_hand(monkeypatch):
    """phi((1, 2)) = (1, 3) and phi((2, 1)) = (5, 3), of the contributions (3, -2), (1, 2) and (6, -1), (2, 1)."""
    monkeypatch.setattr("sise.baselines.bilrp.in_blocks", lambda relevance, blocks: relevance)
    network = linear_network()
    one, other = (probe_of(network, torch.tensor(x).view(1, 1, 1, 2)) for x in ([1.0, 2.0], [2.0, 1.0]))
    found, similarity = bilrp(one, other, layer="0", dimensions=None, blocks=1, gammas=(), pixels="gamma")
    assert similarity == pytest.approx(14)
    assert found.flatten().tolist() == pytest.approx([20, -2, -8, 4], rel=1e-5)


def small_network():
    """Convolutions without biases, rectifiers and a maximum."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(5, 2),
        ).eval()  # fmt: skip


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 3, 8, 8, generator=generator) for _ in range(2)]


def matrix_of(convolution, shape):
    """A convolution as a dense matrix, from what it makes of each unit vector."""
    units = torch.eye(shape[0] * shape[1] * shape[2]).view(-1, *shape)
    with torch.no_grad():
        return convolution(units).flatten(1).T.double()


def slow(network, image, direction, gammas):
    """(8, 8) LRP of one dimension of phi: dense matrices, sums written out; z^B from the image's own bounds."""
    x = image.flatten().double()
    first, second = matrix_of(network[0], (3, 8, 8)), matrix_of(network[3], (4, 4, 4))
    hidden = (first @ x).clamp(min=0).view(4, 8, 8)
    cells = hidden.view(4, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(4, 4, 4, 4)
    pooled, winner = cells.max(dim=3)
    values = (second @ pooled.flatten()).clamp(min=0)
    relevance = values * direction
    raised = second + gammas[1] * second.clamp(min=0)
    below = torch.zeros(64, dtype=torch.float64)
    for j in range(len(raised)):
        if values[j] > 0:
            contributions = raised[j] * pooled.flatten()
            below += contributions / contributions.sum() * relevance[j]
    routed = torch.zeros(4, 8, 8, dtype=torch.float64)
    for c in range(4):
        for row in range(4):
            for column in range(4):
                down, right = divmod(int(winner[c, row, column]), 2)
                routed[c, 2 * row + down, 2 * column + right] = below.view(4, 4, 4)[c, row, column]
    pixels = torch.zeros_like(x)
    for j, row in enumerate(first):
        contributions = row * x - row.clamp(min=0) * x.min() - row.clamp(max=0) * x.max()
        pixels += contributions / contributions.sum() * routed.flatten()[j]
    return pixels.view(3, 8, 8).sum(dim=0)


def test_it_is_its_slow_restatement_and_adds_up_to_the_similarity():
    network, gammas = small_network(), (0.5, 0.25)
    probes = [probe_of(network, image) for image in images()]
    found, similarity = bilrp(*probes, layer="4", dimensions=6, blocks=8, gammas=((1, 0.5), (2, 0.25)), seed=3)
    directions = projection(5 * 16, 6, 3)
    maps = [torch.stack([slow(network, image, d, gammas) for d in directions]) for image in images()]
    expected = sum(torch.outer(a.flatten(), b.flatten()) for a, b in zip(*maps, strict=True))
    assert float((found.view(64, 64) - expected).abs().max() / expected.abs().max()) < 1e-4
    assert float(found.sum()) == pytest.approx(similarity, rel=1e-4)
    coarse, same = bilrp(*probes, layer="4", dimensions=6, blocks=2, gammas=((1, 0.5), (2, 0.25)), seed=3)
    assert same == similarity and coarse.shape == (2, 2, 2, 2)
    assert torch.allclose(coarse, found.view(2, 4, 2, 4, 2, 4, 2, 4).sum(dim=(1, 3, 5, 7)))


def test_pooled_features_are_the_means_of_channels():
    network = small_network()
    one, other = (probe_of(network, image) for image in images())
    found, similarity = bilrp(one, other, layer="4", dimensions=None, pooled=True, blocks=2)
    means = [probe.feature_maps("4").double().mean(dim=(1, 2)) for probe in (one, other)]
    assert similarity == pytest.approx(float(means[0] @ means[1]), rel=1e-6)
    assert float(found.sum()) == pytest.approx(similarity, rel=1e-4)


def test_settings_make_other_relevance():
    probes = [probe_of(small_network(), image) for image in images()]
    probes[1] = probe_of(probes[0].network, images()[1])
    base = {"layer": "4", "dimensions": 4, "blocks": 4}
    plain = bilrp(*probes, **base)[0]
    for other in ({"gammas": ()}, {"pixels": "gamma"}, {"seed": 1}, {"low": [-9.0] * 3, "high": [9.0] * 3}):
        assert not torch.allclose(bilrp(*probes, **base | other)[0], plain, rtol=1e-2)
    assert torch.allclose(bilrp(probes[1], probes[0], **base)[0], plain.permute(2, 3, 0, 1))


def test_an_image_that_the_layer_does_not_see_is_like_nothing():
    network = small_network()
    blank, other = probe_of(network, torch.zeros(1, 3, 8, 8)), probe_of(network, images()[0])
    found, similarity = bilrp(blank, other, layer="4", dimensions=3, blocks=2)
    assert similarity == 0 and not bool(found.any())


def test_blocks_of_uneven_sides_keep_the_sum():
    relevance = torch.arange(35.0).view(5, 7)
    blocks = in_blocks(relevance, 3)
    assert blocks.shape == (3, 3) and blocks.sum() == relevance.sum()
    assert blocks[0, 0] == relevance[:2, :3].sum()


def test_what_cannot_be_explained_is_refused():
    network = small_network()
    one, other = (probe_of(network, image) for image in images())
    elsewhere = probe_of(small_network(), images()[1])
    larger = probe_of(network, torch.zeros(1, 3, 12, 12))
    for call, words in (
        (lambda: bilrp(one, elsewhere, layer="4"), "different networks"),
        (lambda: bilrp(one, other), "none was given"),
        (lambda: bilrp(one, other, layer="4", blocks=9), "blocks"),
        (lambda: bilrp(one, other, layer="4", dimensions=0), "dimensions"),
        (lambda: bilrp(one, other, layer="4", pixels="flat"), "expected one of"),
        (lambda: bilrp(one, larger, layer="4"), "same shape"),
    ):
        with pytest.raises(SuiteError, match=words):
            call()

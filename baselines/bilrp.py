"""BiLRP: why a network finds two images alike, in pairs of places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from sise.baselines.common import cam_layer_of
from sise.baselines.lrp import Bounds, bounds_of, box, gamma
from sise.baselines.rules import Affine, Back, RuledGraph, Rules
from sise.errors import SuiteError, choose
from sise.probe.probe import Probe
from sise.ranges import Count, Seed, one_of

PIXELS = ("box", "gamma")
GAMMAS = ((5, 0.5), (8, 0.25), (11, 0.1))


class GammaByDepth(Rules):
    """LRP with gamma falling from layer to layer, and z^B or gamma on pixels; batch normalisation is folded."""

    folds = True
    double = True

    def __init__(self, bounds: Bounds, gammas: Sequence[tuple[int, float]], pixels: str) -> None:
        self.bounds, self.gammas, self.pixels = bounds, gammas, pixels
        self._numbers: dict[str, int] = {}

    def affine(self, layer: Affine) -> Back:
        number = self._numbers.setdefault(layer.name, len(self._numbers) + 1)
        if layer.first and self.pixels == "box":
            return lambda relevance: box(layer, relevance, self.bounds)
        chosen = next((value for last, value in self.gammas if number <= last), 0.0)
        return lambda relevance: gamma(layer, relevance, self.bounds, gamma=chosen)


def bilrp(
    first: Probe,
    second: Probe,
    *,
    layer: str | None = None,
    dimensions: Count | None = 100,
    pooled: bool = False,
    blocks: Count = 8,
    gammas: Sequence[tuple[int, float]] = GAMMAS,
    pixels: Annotated[str, one_of(PIXELS)] = "box",
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    seed: Seed = 0,
) -> tuple[Tensor, float]:
    """BiLRP: ``R_pq = sum_m LRP(phi_m(x))_p LRP(phi_m(y))_q``, the similarity ``<phi(x), phi(y)>`` by pairs of places.

    phi is a layer's output, projected at random. Relevance is summed over channels and over blocks of pixels. All of
    it adds up to the similarity but for what the network's biases contribute, which they keep, as in LRP. Computed in
    float64; as many backward passes per image as phi has dimensions. This is no saliency map: it explains a pair.

    Args:
        first, second: Two images as one network sees them.
        layer: Whose output phi is made of; None takes the first probe's ``cam_layer``.
        dimensions: Of phi: normal numbers of variance 1 / dimensions project the layer's values, so that the
            similarity is that of the values themselves on average: with a deviation of about the product of their
            norms over the root of ``dimensions``, which for sparse values is more than the similarity. Two scenes of
            ``shapes`` at VGG16's features.29: 483 without projection; 781, 70 and 483 with 10, 100 and 1,000
            dimensions. None: phi is the values, one pass each.
        pooled: phi is the mean of each channel over its places, before it is projected, if it is.
        blocks: Along each side of an image.
        gammas: (n, gamma) pairs, ascending: the rule of convolutions up to the n-th; later ones have gamma 0.
        pixels: The rule of the first convolution: ``box``, z^B; or ``gamma``, as the others.
        low, high: For z^B, the network input of black and white, one value per channel; None takes each image's own
            smallest and largest value over all channels.
        seed: Of the projection.

    Returns:
        (rows, columns, rows, columns) float64 relevance of a block of the first image with one of the second, either
        sign, and the similarity.

    Raises:
        SuiteError: If the probes are of different networks or of signals, no layer is known, a setting is out of its
            range, the layer's sizes differ, or the network has an operation without a rule.

    Reference:
        Eberle, Büttner, Kräutli, Müller, Valleriani and Montavon, "Building and Interpreting Deep Similarity Models",
        IEEE TPAMI 2020; gammas by depth as its authors set them for VGG16 [R].
    """
    choose("pixels", pixels, PIXELS)
    if first.network is not second.network:
        raise SuiteError("BiLRP explains what one network finds alike; the two probes are of different networks.")
    if len(first.size) != 2 or len(second.size) != 2:
        raise SuiteError("BiLRP divides images (1, C, H, W) into blocks; got a signal.")
    if blocks < 1 or blocks > min(*first.size, *second.size) or (dimensions is not None and dimensions < 1):
        raise SuiteError(
            f"expected 1 <= blocks <= the images' sides and dimensions >= 1; got {blocks=}, {dimensions=}."
        )
    layer = cam_layer_of(first, layer)
    values = [probe.feature_maps(layer) for probe in (first, second)]
    if values[0].shape != values[1].shape:
        shapes = " and ".join(str(tuple(value.shape)) for value in values)
        raise SuiteError(f"the layer {layer!r} must give both images the same shape; got {shapes}. Resize the images.")
    graphs = []
    for probe in (first, second):
        rules = GammaByDepth(bounds_of(probe, low, high), gammas, pixels)
        graphs.append(RuledGraph(probe, rules, [layer]))
    places = values[0][0].numel()
    directions = projection(len(values[0]) if pooled else values[0].numel(), dimensions, seed)
    directions = directions.repeat_interleave(places, dim=1) / places if pooled else directions
    flat = [value.flatten().double().cpu() for value in values]
    similarity = float((directions @ flat[0]) @ (directions @ flat[1]))
    found = []
    for graph, own in zip(graphs, flat, strict=True):
        parts = []
        for direction in directions:
            start = (direction * own).view_as(values[0])
            relevance = graph.backward(start, start=layer).sum(dim=0).cpu() if bool(start.any()) else None
            parts.append(torch.zeros(blocks, blocks).double() if relevance is None else in_blocks(relevance, blocks))
        found.append(torch.stack(parts))
    return torch.einsum("mab,mcd->abcd", *found), similarity


def projection(units: int, dimensions: int | None, seed: int) -> Tensor:
    """(dimensions, units) float64 normal numbers of variance 1 / dimensions, drawn on the CPU; None: the identity."""
    if dimensions is None:
        return torch.eye(units, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(dimensions, units, generator=generator, dtype=torch.float64) / dimensions**0.5


def in_blocks(relevance: Tensor, blocks: int) -> Tensor:
    """(H, W) summed over blocks x blocks rectangles, as even as they can be: pixel i is in block i * blocks // H."""
    for axis in (0, 1):
        side = relevance.shape[axis]
        shape = [*relevance.shape]
        shape[axis] = blocks
        index = torch.arange(side) * blocks // side
        relevance = torch.zeros(shape, dtype=relevance.dtype).index_add(axis, index, relevance)
    return relevance

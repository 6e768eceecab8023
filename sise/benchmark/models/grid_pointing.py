"""The grid pointing game with disconnected heads: a network that cannot look at the wrong cell.

Scenes of different classes fill an n x n grid. The network of ``model=hans`` is applied to every cell by itself, and
has a head for each: score (cell, class) is computed from that cell's pixels and from no others. So it is known, and not
an estimate, that nothing outside the target's cell contributes: what a map shows there is its own invention.

Reference:
    Rao, Boehle and Schiele, "Towards better understanding attribution methods", CVPR 2022 (DiFull: the cells are
    disconnected in the whole network, not in its last layers alone).
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sise.benchmark.datasets.grid_pointing import CELL, check_cells, class_names
from sise.benchmark.models.hans import network as cell_network
from sise.benchmark.models.hans import preprocessing
from sise.benchmark.models.weights import weights_hash
from sise.types import Model

__all__ = ["DisconnectedGrid", "join", "network", "split"]


def split(grids: Tensor, cells: int) -> Tensor:
    """Cut grids (N, C, cells * h, cells * w) into their cells (N * cells * cells, C, h, w), in raster order."""
    count, channels, height, width = grids.shape
    parts = grids.reshape(count, channels, cells, height // cells, cells, width // cells)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, height // cells, width // cells)


def join(parts: Tensor, cells: int) -> Tensor:
    """Put cells (N * cells * cells, C, h, w) together to grids (N, C, cells * h, cells * w): undoes :func:`split`."""
    _, channels, height, width = parts.shape
    grids = parts.reshape(-1, cells, cells, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return grids.reshape(-1, channels, cells * height, cells * width)


class Window(nn.Module):
    """Lets explainers see a layer's maps of the whole grid, where the network has those of its cells.

    They read, differentiate and replace the output of ``grid``; what passes through is not changed.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.grid = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """(N * cells * cells, C, h, w) -> the same."""
        return split(self.grid(join(maps, self.cells)), self.cells)


class DisconnectedGrid(nn.Module):
    """A network applied to every cell of a grid by itself, with a head for each.

    A score is the log-odds of its class in its cell, so that its sigmoid is the softmax that the network has for the
    cell alone: confidence=sigmoid and gradient=logit ask of a cell what softmax and log_odds ask of an image.

    Args:
        network: ``(N, 3, h, w) -> (N, K)``; copied.
        layers: Names of its layers that explainers may read; in this module ``network.<name>.1.grid``.
        cells: Cells along each side.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], cells: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.cells = cells
        for layer in layers:
            parent, _, child = layer.rpartition(".")
            watched = nn.Sequential(self.network.get_submodule(layer), Window(cells))
            setattr(self.network.get_submodule(parent), child, watched.train(self.network.training))

    def forward(self, grids: Tensor) -> Tensor:
        """(N, 3, cells * h, cells * w) network input -> (N, cells * cells * K) log-odds, classes within cells."""
        scores = self.network(split(grids, self.cells))
        classes = scores.shape[1]
        own = torch.eye(classes, dtype=torch.bool, device=scores.device)
        others = scores[:, None, :].expand(-1, classes, -1).masked_fill(own, -torch.inf).logsumexp(dim=2)
        return (scores - others).reshape(len(grids), -1)


def network(
    weights: str | os.PathLike | None = None,
    *,
    cells: int = 2,
    name: str = "vgg5_grid",
    layers: Sequence[str] = ("block1", "block2", "block3", "block4", "block5"),
    cam_layer: str = "block5",
) -> Model:
    """Build the disconnected network of a grid.

    Args:
        weights: As for :func:`sise.benchmark.datasets.hans.network`.
        cells: Cells along each side of the grid.
        name: Name in configs and tables.
        layers: SISE's layers in the network of a cell, low to high.
        cam_layer: Grad-CAM's layer.

    Raises:
        SuiteError: As for the network of a cell; also if ``cells`` is not at least 2.
    """
    check_cells(name, cells)
    cell = cell_network(weights, name=name, layers=layers, cam_layer=cam_layer)
    watched = list(dict.fromkeys([*layers, cam_layer]))
    made = DisconnectedGrid(cell.network, watched, cells).eval()
    input_of = dataclasses.replace(preprocessing(), size=(cells * CELL, cells * CELL))
    return dataclasses.replace(
        cell,
        network=made,
        classes=class_names(cells),
        layers=tuple(f"network.{layer}.1.grid" for layer in layers),
        cam_layer=f"network.{cam_layer}.1.grid",
        preprocess=input_of,
        resize_mask=input_of.resize_mask,
        weights_hash=weights_hash(made),
        note=f"the network of model=hans in each cell of a {cells} x {cells} grid by itself, with a head per cell",
    )

"""The maps of one image by one cell's explainer: made, or as they were kept when they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sise.benchmark.run.cells import Cell
from sise.benchmark.run.left_behind import nothing_left_behind
from sise.benchmark.run.probing import checked_maps, image_seed
from sise.probe.probe import Probe, digest


def maps_of(cell: Cell, image_id: str, probe: Probe, targets: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
    """Explains some targets of an image together, unless the run has kept their maps.

    Args:
        cell: Whose explainer, and whose kept maps.
        image_id: Of the image, which the explainer's seed depends on.
        probe: Of the image, as the cell's network sees it.
        targets: T indices of the dataset's classes.

    Returns:
        The maps (T, H, W), float32 and finite, on the probe's device, and what each cost when it was made: ``seconds``,
        ``forward_passes``, ``backward_passes``, and ``remarks`` if there are any.
    """
    probe.seed = image_seed(cell.cfg.seed, image_id)
    image = digest(probe.image).hex()[:32] if cell.maps is not None else ""
    if cell.maps is not None and (kept := cell.maps.find(image_id, image, targets, probe.size)):
        return torch.from_numpy(kept[0]).to(probe.device), kept[1]
    outputs = [cell.outputs[cell.dataset.classes[target]] for target in targets]
    first, cell.watched = not cell.watched, True
    with nothing_left_behind(probe, cell.cfg.explainer.name, closely=first), probe.bill() as bill:
        saliency = cell.explainer(probe, outputs)
    # contiguous: the order of a sum's terms, and so its last digit, is that of a map that was kept
    saliency = checked_maps(saliency, probe, len(targets), cell.cfg.protocol.on_nan).contiguous()
    share = 1 / len(targets)
    costs: dict[str, Any] = {
        "seconds": bill.seconds * share,
        "forward_passes": bill.forward * share,
        "backward_passes": bill.backward * share,
    }
    if bill.remarks:
        costs["remarks"] = list(bill.remarks)
    if cell.maps is not None:
        cell.maps.keep(image_id, image, targets, saliency.cpu().numpy(), costs)
    return saliency, costs

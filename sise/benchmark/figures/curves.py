"""One-dimensional inputs and their maps: the tutorial's figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from sise.baselines.grad_cam import grad_cam
from sise.baselines.grad_cam_pp import grad_cam_pp
from sise.baselines.integrated_gradients import integrated_gradients
from sise.baselines.rise import rise
from sise.baselines.score_cam import score_cam
from sise.benchmark.datasets.mnist1d import LENGTH, MNIST1D
from sise.method import ada_sise, sise
from sise.metrics import drop, increase, keep_mask
from sise.probe.probe import Probe
from sise.types import Model

__all__ = ["EXPLAINERS", "draw"]

matplotlib.use("Agg")  # files only; no display is needed
EXPLAINERS: Mapping[str, Callable[..., Tensor]] = {
    "SISE": sise,
    "Ada-SISE": ada_sise,
    "Grad-CAM": grad_cam,
    "Grad-CAM++": grad_cam_pp,
    "Score-CAM": score_cam,
    "RISE": rise,
    "Int. Gradients": integrated_gradients,
}
"""What the figure shows, by label, each as it is by default."""


# --- figure -----------------------------------------------------------------------------------------------------------
def draw(
    model: Model,
    explainers: Mapping[str, Callable[..., Tensor]],
    *,
    ids: Sequence[str],
    fraction: float = 0.30,
) -> Figure:
    """Curves, and under each of them the map of every explainer for the predicted digit.

    The points that an explainer's map keeps are set off in its row; beside the row stand the confidence that is lost
    without the others (Drop) or a plus if it rises.

    Args:
        model: Of :func:`network`.
        explainers: By label.
        ids: Test curves, one column each.
        fraction: Share of the points that is kept.
    """
    data = MNIST1D("test")
    figure = Figure(figsize=(3.1 * len(ids), 1.9 + 0.34 * len(explainers)), layout="constrained")
    grid = figure.add_gridspec(1 + len(explainers), len(ids), height_ratios=[4.5, *[1] * len(explainers)])
    for column, image_id in enumerate(ids):
        curve = data[image_id].image
        probe = Probe(model.network, model.preprocess(curve)[None], layers=model.layers, cam_layer=model.cam_layer)
        target = int(probe.scores().argmax())
        axes = figure.add_subplot(grid[0, column])
        axes.plot(np.asarray(curve), color="black", linewidth=1.2)
        axes.set_title(
            f"digit {data.digits[int(image_id)]}, predicted {target} ({100 * probe.confidence(target):.1f} %)",
            fontsize=9,
        )
        axes.set(xlim=(-0.5, LENGTH - 0.5), xticks=[], yticks=[])
        axes.set_ylabel("curve", fontsize=8) if column == 0 else None
        for row, (label, explainer) in enumerate(explainers.items(), start=1):
            (saliency,) = explainer(probe, [target])
            kept = keep_mask(saliency, fraction=fraction).cpu().numpy()
            strip = figure.add_subplot(grid[row, column])
            strip.imshow(saliency[None].cpu(), cmap=colormaps["viridis"], aspect="auto", vmin=0, vmax=1)
            strip.scatter(np.flatnonzero(kept), np.zeros(kept.sum()), s=7, color="white", edgecolors="none")
            lost = drop(probe, target, saliency, fraction=fraction)
            change = "+" if increase(probe, target, saliency, fraction=fraction) else f"−{100 * lost:.0f} %"
            strip.text(1.01, 0.5, change, transform=strip.transAxes, fontsize=7, va="center")
            strip.set(xticks=[], yticks=[])
            if column == 0:
                strip.set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
    caption = (
        f"white: the {100 * fraction:.0f} % of the points that are kept; beside it, how much of the confidence is lost"
    )
    figure.supxlabel(f"{caption} without the others (+: it rises)", fontsize=8)
    return figure

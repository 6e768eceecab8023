"""SISE's run-time by its phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sise.benchmark.performance.clock import timed
from sise.fusion import fuse
from sise.method import live, select, visualize
from sise.probe.probe import Probe

THRESHOLDS = (0.1, 0.2, 0.3, 0.5, 0.75)


def discard(_: Any) -> None:
    """Keeps a tensor from travelling between processes."""


def selected(probe: Probe, layer: str, target: int, threshold: float = 0.0) -> Tensor:
    """(C,) bool: the feature maps that SISE forwards."""
    return select(probe.gradient_scores(layer, target), lambda scores: threshold) & live(probe, layer)


def phases(
    probe: Probe,
    targets: Sequence[int],
    threshold: Callable[[np.ndarray], float] = lambda scores: 0.0,
    *,
    gate: str = "otsu_soft",
    contribution: str = "mask_size",
) -> tuple[Tensor, dict[str, float]]:
    """SISE phase by phase, as :func:`sise.method.sise` runs it, with the time of each.

    Args:
        probe: A fresh one.
        targets: T class indices.
        threshold: Of the normalised gradient scores.
        gate, contribution: As in :func:`sise.method.sise`.

    Returns:
        (T, H, W) saliency, and seconds of ``extraction`` (the pass that gives feature maps), ``selection`` (the
        backward pass and the thresholds), ``scoring`` (the masked passes), ``combination`` (their weighted sums) and
        ``fusion``.
    """
    seconds: dict[str, float] = {}

    def phase(name: str, action: Callable[[], Any]) -> Any:
        measured = timed(lambda: (action(),), probe.device)
        seconds[name] = measured.seconds
        return measured.result[0]

    def selection() -> dict[str, Tensor]:
        return {
            layer: torch.stack([select(probe.gradient_scores(layer, t), threshold) for t in targets])
            & live(probe, layer)
            for layer in probe.layers
        }

    phase("extraction", probe.scores)
    used = phase("selection", selection)
    union = {layer: chosen.any(dim=0).nonzero()[:, 0] for layer, chosen in used.items()}
    phase("scoring", lambda: probe.score_feature_maps(union, targets=targets))
    maps = phase(
        "combination",
        lambda: [visualize(probe, n, targets, used[n], contribution=contribution) for n in probe.layers],
    )
    fused = phase("fusion", lambda: [fuse([m[i] for m in maps], gate=gate) for i in range(len(targets))])
    blank = torch.zeros(probe.size, device=probe.device)
    return torch.stack([blank if f is None else f for f in fused]), seconds

"""Scores of masked images, each computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sise.choices import Confidence


class ScoreTable:
    """Scores of numbered masks, as far as they are known.

    A row is known whole when its mask was forwarded here; restored from a file, it is known for a few targets only,
    together with the logsumexp over all classes, which is all that a softmax needs.
    """

    def __init__(self, count: int, classes: int, device: torch.device) -> None:
        self.scores = torch.full((count, classes), torch.nan, device=device)
        self.logsumexp = torch.full((count,), torch.nan, dtype=torch.float64, device=device)

    def missing(self, rows: Tensor, targets: Sequence[int] | None = None) -> Tensor:
        """Which of the (M,) rows are not known for these targets (None: for all classes)."""
        scores = self.scores[rows] if targets is None else self.scores[rows][:, list(targets)]
        return rows[torch.isnan(scores).any(dim=1) | torch.isnan(self.logsumexp[rows])]

    def add(self, rows: Tensor, scores: Tensor) -> None:
        """Enters (M, K) scores."""
        self.scores[rows], self.logsumexp[rows] = scores, scores.double().logsumexp(dim=1)

    def confidences(self, rows: Tensor, targets: Sequence[int], kind: Confidence) -> Tensor:
        """Ψ: (M, T) float64."""
        scores = self.scores[rows][:, list(targets)].double()
        if kind == "softmax":
            return (scores - self.logsumexp[rows, None]).exp()
        return scores.sigmoid() if kind == "sigmoid" else scores


def mask_keys(masks: Tensor) -> list[bytes]:
    """A digest of each of (M, H, W) boolean masks and its size."""
    packed = np.packbits(masks.cpu().numpy().reshape(len(masks), -1), axis=1)
    shape = repr(tuple(masks.shape[1:])).encode()
    return [hashlib.sha256(shape + row.tobytes()).digest() for row in packed]

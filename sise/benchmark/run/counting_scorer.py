"""A scorer that counts its passes instead of making them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from sise.devices import synchronise
from sise.scoring import Scorer, Segment


class CountingScorer(Scorer):
    """Makes passes until it knows how long one takes; from then on it counts them and repeats earlier scores.

    Attributes:
        limit: Seconds of passes after which it knows.
        measured, seconds: Passes made, and their time.
        skipped: Passes counted only.
    """

    limit = 5.0
    measured = 0
    seconds = 0.0
    skipped = 0
    _example: Tensor | None = None

    @property
    def seconds_per_pass(self) -> float:
        """Of what was made so far; 0 before the first."""
        return self.seconds / self.measured if self.measured else 0.0

    def score(self, segments: Sequence[Segment]) -> Tensor:
        total = sum(len(s.maps) for s in segments)
        if self._example is not None and self.seconds >= self.limit:
            self.skipped += total
            return self._repeat(total)
        batch = self._batch_size(segments[0].image, total)
        room = 4 * batch  # the first call of many masks must not take minutes
        some: list[Segment] = []
        for segment in segments:
            if room > 0 and len(segment.maps):
                some.append(Segment(segment.image, segment.maps[:room], segment.fill, segment.mode))
                room -= len(some[-1].maps)
        if self._example is None:
            super().score([Segment(some[0].image, some[0].maps[:1], some[0].fill, some[0].mode)])  # warms up
        synchronise(segments[0].image.device)
        begun = time.perf_counter()
        scores = super().score(some)
        synchronise(segments[0].image.device)
        if len(scores) >= min(batch, 16) or self._example is None:
            self.seconds += time.perf_counter() - begun
            self.measured += len(scores)
        if self._example is None or len(scores) > len(self._example):
            self._example = scores
        self.skipped += total - len(scores)
        return scores if len(scores) == total else torch.cat([scores, self._repeat(total - len(scores))])

    @property
    def exact(self) -> CountingScorer:
        return self

    def _repeat(self, count: int) -> Tensor:
        assert self._example is not None  # what is repeated was scored before
        return self._example[torch.arange(count, device=self._example.device) % len(self._example)]

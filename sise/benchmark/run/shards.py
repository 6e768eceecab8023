"""Shards of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sise.errors import SuiteError


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (from 1) of ``count``: every ``count``-th image of the dataset's order.

    The dataset's order belongs to a run's identity, so every machine splits it in the same way. Runs may be split
    differently from one time to the next: what one split has computed, no other computes again.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """``"2/4"`` -> the second of four; None -> everything."""
        if text is None:
            return cls(1, 1)
        number, slash, count = str(text).partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise SuiteError(f"expected shard=i/n with 1 <= i <= n, e.g. shard=2/4; got shard={text}")

    @property
    def name(self) -> str:
        """For file names: ``2-of-4``; empty for everything."""
        return f"{self.number}-of-{self.count}" if self.count > 1 else ""

    def of(self, ids: Sequence[str]) -> Sequence[str]:
        """The images of this part."""
        return ids[self.number - 1 :: self.count]


EVERYTHING = Shard(1, 1)

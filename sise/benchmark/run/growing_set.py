"""A set that begins with what many have in common, and keeps only what is its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from typing import TypeVar

T = TypeVar("T")


class GrowingSet(MutableSet[T]):
    """A set on top of one that is shared and never changed: forty runs of the same pairs hold them once.

    Args:
        shared: What it begins with; a frozenset is kept as it is, not copied.
    """

    def __init__(self, shared: Iterable[T] = ()) -> None:
        self._shared: frozenset[T] = shared if isinstance(shared, frozenset) else frozenset(shared)
        self._own: set[T] = set()
        self._gone: set[T] = set()

    def __contains__(self, item: object) -> bool:
        return item in self._own or (item in self._shared and item not in self._gone)

    def __iter__(self) -> Iterator[T]:
        yield from (item for item in self._shared if item not in self._gone)
        yield from self._own

    def __len__(self) -> int:
        return len(self._shared) - len(self._gone) + len(self._own)

    def lacks(self, items: frozenset[T]) -> set[T]:
        """Those of the items that are not in it; faster than to ask for one after the other."""
        return set(items - self._shared - self._own) | (items & self._gone)

    def add(self, value: T) -> None:
        if value in self._gone:
            self._gone.discard(value)
        elif value not in self._shared:
            self._own.add(value)

    def discard(self, value: T) -> None:
        if value in self._shared:
            self._gone.add(value)
        self._own.discard(value)

"""Reads and preprocesses the next images while the last one is explained, so that a GPU need not wait for a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(AbstractContextManager["ReadAhead[T]"], Generic[T]):
    """Calls a function of each image's name in their order, by one thread, a few images before they are asked for.

    What is read depends on nothing that is computed meanwhile, so the results are those of reading one after the other.

    Args:
        names: Of the images, in the order in which they will be asked for.
        read: Reads an image; called for one at a time.
        ahead: How many images may be read and not yet asked for; 0 = each is read when it is asked for.
    """

    def __init__(self, names: Iterable[str], read: Callable[[str], T], ahead: int) -> None:
        self._names, self._read, self._ahead = iter(names), read, ahead
        self._coming: deque[Future[T]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")

    def __enter__(self) -> ReadAhead[T]:
        for _ in range(self._ahead):
            self._begin_next()
        return self

    def _begin_next(self) -> None:
        name = next(self._names, None)
        if name is not None:
            self._coming.append(self._thread.submit(self._read, name))

    def next(self, name: str) -> T:
        """The next image.

        Args:
            name: Its name.

        Raises:
            Exception: What reading it raised.
        """
        if not self._ahead:
            return self._read(name)
        image = self._coming.popleft()
        self._begin_next()
        return image.result()

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

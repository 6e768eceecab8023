"""Measuring in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch

from sise.benchmark.performance.clock import CLOCK, Measurement, timed, use_clock
from sise.benchmark.process import use_threads
from sise.benchmark.run import preparing
from sise.errors import SuiteError


class Worker(AbstractContextManager):
    """Runs actions in a process of its own, since an allocator's settings are a process's, and for good.

    Args:
        build: Called there with ``arguments``; returns the actions by name. A function of a module's top level.
        arguments: Keyword arguments of ``build``.
        device: The torch device.
        malloc: Whether the process keeps freed memory (:func:`sise.benchmark.run.preparing.keep_freed_memory`).
        threads: CPU threads; None = torch's choice.
    """

    def __init__(
        self,
        build: Callable[..., Mapping[Any, Callable[[], Any]]],
        arguments: Mapping[str, Any],
        device: torch.device,
        *,
        malloc: bool = False,
        threads: int | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        work = (there, build, dict(arguments), str(device), malloc, threads, CLOCK)
        self._process = context.Process(target=_work, args=work, daemon=True)
        quiet = os.environ.setdefault("TQDM_DISABLE", "1")  # peers draw progress bars of their own
        self._process.start()
        if quiet == "1":
            del os.environ["TQDM_DISABLE"]
        there.close()
        self.names: tuple[Any, ...] = tuple(self._receive())

    def __call__(self, name: Any) -> Measurement:
        """Runs one action there.

        Raises:
            SuiteError: If it failed.
        """
        self._pipe.send(name)
        return self._receive()

    def _receive(self) -> Any:
        try:
            status, content = self._pipe.recv()
        except EOFError:
            raise SuiteError("a measuring process died; a lack of memory is the usual cause.") from None
        if status != "ok":
            raise SuiteError(f"a measuring process failed: {content}")
        return content

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()


def _work(
    pipe: Any, build: Callable, arguments: dict, device: str, malloc: bool, threads: int | None, kind: str
) -> None:
    """The worker's side: builds the actions, then runs what it is told."""
    use_clock(kind)
    if malloc:
        preparing.keep_freed_memory()
    use_threads(threads)
    try:
        actions = build(**arguments)
        pipe.send(("ok", list(actions)))
        while (name := pipe.recv()) is not None:
            try:
                pipe.send(("ok", timed(actions[name], torch.device(device))))
            except Exception as error:
                pipe.send(("failed", f"{type(error).__name__}: {error}"))
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))

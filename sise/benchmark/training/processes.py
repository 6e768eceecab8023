"""Work that several processes share before a training begins: scenes are drawn."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")
CHUNK = 32
"""Jobs that a process is given at a time."""


def in_processes(function: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """The results of jobs, in order.

    Processes are started anew, not forked: a fork of a process in which torch has used threads may wait for them for
    ever. Where there is work for one process only, it is done in this one.

    Args:
        function: Of a module, with arguments and results that can be pickled.
        jobs: Its arguments.
        processes: The most to start; each uses one thread.
    """
    processes = min(processes, -(-len(jobs) // CHUNK))
    if processes <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, torch.set_num_threads, (1,)) as pool:
        yield from pool.imap(function, jobs, chunksize=CHUNK)

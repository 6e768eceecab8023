"""Starts commands without their seconds of imports: a process that has imported everything and forks.

    python zygote.py        reads one JSON job per line and answers each with one line

A job has ``argv``, ``outputs``, ``log`` (a file), and may have ``seconds`` (SIGKILL that long after it began to
write records), ``call`` (SIGKILL at that call, from 0, of the functions that change files; half of what a write should
write is written) or ``full`` (from that call on the disk is full).
"""

import errno
import importlib
import itertools
import json
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

for name in ("sise.benchmark.run.estimate", "sise.benchmark.commands.command", "sise.benchmark.run.status",
             "sise.benchmark.datasets.base",
             "sise.benchmark.models.model", "torch.fx.experimental.optimization", "sise.baselines.rise"):  # fmt: skip
    importlib.import_module(name)
torch.set_num_threads(1)
tempfile.gettempdir()  # looks for a disk with room once
CHANGING = ("write", "ftruncate", "fsync", "link", "replace", "unlink", "mkdir")
GROWING = ("write", "fsync", "link")


def fault_at(call: int, kill: bool) -> None:
    """Replaces the functions that change files by ones that count, and then kill or find the disk full."""
    count = itertools.count()

    def counted(name, function):
        def wrapped(first, *rest, **options):
            now = next(count)
            if now == call and name == "write":
                function(first, rest[0][: len(rest[0]) // 2])
            if now == call and kill:
                os.kill(os.getpid(), signal.SIGKILL)
            if now >= call and not kill and name in GROWING:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(first, *rest, **options)

        return wrapped

    for name in CHANGING:
        setattr(os, name, counted(name, getattr(os, name)))


def run(job: dict) -> int:
    """In the child: the command, as ``python <argv>`` runs it."""
    with Path(job["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.argv = job["argv"]
    if "call" in job or "full" in job:
        fault_at(job.get("call", job.get("full")), kill="call" in job)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def wait(process: int, code: Callable[[], int | None], outputs: Path | None, seconds: float | None) -> dict:
    """Waits for a process, or kills it: its exit code, and how long it took since it locked a run below ``outputs``."""
    started = time.time()
    begun = None if outputs else time.monotonic()
    while (ended := code()) is None:
        if begun is None and any(lock.stat().st_mtime > started for lock in outputs.rglob("*.lock")):
            begun = time.monotonic()
        if begun is not None and seconds is not None and time.monotonic() - begun > seconds:
            os.kill(process, signal.SIGKILL)
            seconds = None
        time.sleep(0.004)
    return {"exit": ended, "seconds": time.monotonic() - (begun or time.monotonic())}


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            code = run(job)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

        def code(child: int = child) -> int | None:
            ended, status = os.waitpid(child, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if ended else None

        print(json.dumps(wait(child, code, Path(job["outputs"]), job.get("seconds"))), flush=True)


if __name__ == "__main__":
    main()

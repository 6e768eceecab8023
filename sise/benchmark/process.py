"""What a process of the benchmark sets before it computes: reproducible products, threads that wait quietly.

Nothing here imports torch at the top: the OpenMP library reads its settings from the environment when torch loads it.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path

log = logging.getLogger(__name__)

DEFAULTS = {"MKL_CBWR": "AVX2,STRICT", "OMP_WAIT_POLICY": "passive"}
"""Environment of every process of the benchmark, where the user has not set it otherwise.

MKL_CBWR: one code path of MKL's matrix products on every CPU with AVX2, the same for every row of a batch and for any
number of threads. Without it, equal rows get results that differ in the last bits where the number of a layer's inputs
is no multiple of 4 (seen on a CPU of AMD). The products take the same time. MKL reads it at its first product.

OMP_WAIT_POLICY: threads that wait for one another give their core away. By default they spin, which makes two threads
take twice to five times as long on two cores that other processes use. The OpenMP library reads it when torch is
imported.
"""

STARTED_BY = "SISE_STARTED_BY"
"""Environment variable: the number of the process that a command ends with, see :func:`end_with_parent`."""

LOCK_WAIT = "SISE_LOCK_SECONDS"
"""Environment variable: for how long a job that is started again waits for records whose last writer may be dying."""

PATIENCE = 30.0
"""Seconds a run computes before it is judged whether others slow it down."""


def set_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets :data:`DEFAULTS` where the environment says nothing; child processes inherit them."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)


def end_with_parent() -> None:
    """Ends this process when the one that :data:`STARTED_BY` names dies, in whatever way (Linux only).

    A launcher starts a job again when its worker was killed. The first one must not go on beside it: it would keep the
    second one off its records.
    """
    parent = os.environ.pop(STARTED_BY, "")
    if not parent or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # it died before
        os.kill(os.getpid(), signal.SIGKILL)


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity, and on Linux the quota of its container (cgroup v2 and v1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _quota(cgroups: Path) -> float | None:
    """Cores' worth of time that a control group allows; None where it allows all or does not say."""
    try:
        if (cgroups / "cpu.max").is_file():
            allowed, period = (cgroups / "cpu.max").read_text().split()
        else:
            allowed, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(allowed) / float(period) if float(allowed) > 0 else None
    except (OSError, ValueError):  # no such group, or "max"
        return None


def has_cpp_compiler() -> bool:
    """Whether there is a C++ compiler, which ``torch.compile`` needs on a CPU."""
    return bool(os.environ.get("CXX") or any(map(shutil.which, ("g++", "clang++", "c++"))))


def use_threads(threads: int | None) -> None:
    """Sets torch's CPU threads.

    Args:
        threads: How many; None leaves what OMP_NUM_THREADS says, and without it takes torch's choice, but no more than
            :func:`usable_cores`.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    elif not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def processor_times() -> tuple[float, float, float] | None:
    """Seconds so far: wall, busy over all processors (stolen ones too), and this process with its finished children.

    None where the system does not say (it is Linux's).
    """
    try:
        user, nice, system, _, _, interrupt, soft, steal = map(
            float, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
    except (OSError, ValueError):
        return None
    busy = (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")
    times = os.times()
    return time.perf_counter(), busy, times.user + times.system + times.children_user + times.children_system


class CrowdWatch:
    """Says once of a run that it crawls because other processes use the cores that its threads want.

    Args:
        threads: Of the run.
        cores: Of the machine.
        now: Reads the processors' times, as :func:`processor_times`.
    """

    def __init__(
        self,
        threads: int,
        cores: int | None = None,
        now: Callable[[], tuple[float, float, float] | None] = processor_times,
    ) -> None:
        self._threads, self._cores, self._now = threads, cores or os.cpu_count() or 1, now
        self._before = now()

    def look(self) -> None:
        """Judges the time since the watch began, once, after :data:`PATIENCE` seconds; call it now and then."""
        after = self._now()
        if self._before is None or after is None or after[0] - self._before[0] < PATIENCE:
            return
        wall, busy, own = (b - a for a, b in zip(self._before, after, strict=True))
        self._before = None
        others = max(0.0, busy - own) / wall
        if others + self._threads > self._cores + 0.5:  # half a core is what a desktop does by itself
            fewer = "engine.threads=1, or " if self._threads > 1 else ""
            log.warning(
                "other processes keep %.1f of this machine's %d cores busy, and this run computes with %d thread%s: it "
                "takes longer than it need; %sfewer processes at a time",
                others, self._cores, self._threads, "s" * (self._threads > 1), fewer,
            )  # fmt: skip

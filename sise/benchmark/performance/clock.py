"""Honest time: things measured in turns, ratios within a turn, and reports that say where their numbers come from.

A machine's speed drifts by more than the differences looked for. So everything that is compared is measured in the
same round, in an order that turns from round to round, and compared within the round; the median over rounds counts.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sise.benchmark.process import processor_times
from sise.benchmark.terminal import Progress
from sise.devices import synchronise
from sise.errors import choose


@dataclass
class Measurement:
    """One call of an action: ``seconds`` by the chosen clock, page ``faults``, and what the action gave back."""

    seconds: float
    faults: int = 0
    result: Any = None


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CLOCK = "wall"


def use_clock(name: str) -> None:
    """Chooses what seconds are in this process: ``wall`` time, or ``processor`` time of all its threads.

    Processor time stays fair on a CPU that others use too, but only with one thread: several wait busily.
    """
    global CLOCK
    CLOCK = choose("clock", name, list(CLOCKS))


def clock() -> float:
    """Seconds, of the chosen kind."""
    return CLOCKS[CLOCK]()


def timed(action: Callable[[], Any], device: torch.device) -> Measurement:
    """Calls an action, the device idle before and after.

    An action that times itself returns a dict with ``seconds``.
    """
    synchronise(device)
    faults, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, clock()
    result = action()
    synchronise(device)
    seconds = clock() - begun
    if isinstance(result, dict) and "seconds" in result:
        seconds = result["seconds"]
    return Measurement(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, result)


def interleaved(
    actions: Mapping[Any, Callable[[], Measurement]], rounds: int, description: str = ""
) -> dict[Any, list[Measurement]]:
    """Calls every action once per round, starting with another one each round.

    Args:
        actions: By name.
        rounds: How often.
        description: Of the progress bar.

    Returns:
        Measurements by name, one per round, in the order of rounds.
    """
    names = list(actions)
    found: dict[Any, list[Measurement]] = {name: [] for name in names}
    with Progress(total=rounds * len(names), desc=description, unit="run") as bar:
        for turn in range(rounds):
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                bar.set_postfix_str(", ".join(map(str, name)) if isinstance(name, tuple) else str(name))
                found[name].append(actions[name]())
                bar.update()
    return found


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    low, middle, high = np.percentile(list(values), [25, 50, 75])
    return float(middle), float(low), float(high)


def ratios(samples: Sequence[Measurement], reference: Sequence[Measurement]) -> list[float]:
    """Seconds over the reference's seconds, round by round."""
    return [one.seconds / other.seconds for one, other in zip(samples, reference, strict=True)]


def spread(values: Iterable[float], digits: int = 3) -> str:
    """``0.42 [0.41, 0.44]``: the interquartile range as text."""
    _, low, high = quartiles(values)
    return f"{low:.{digits}g} to {high:.{digits}g}"


class Meanwhile:
    """Watches from its making on how much of the machine's processor time others take (Linux only)."""

    def __init__(self) -> None:
        self._before = processor_times()

    def others(self) -> float:
        """Share of all processors' time that other processes took so far; NaN where that is unknown.

        A child process counts as other until it has ended.
        """
        now = processor_times()
        if not self._before or not now:
            return math.nan
        wall, busy, own = (b - a for a, b in zip(self._before, now, strict=True))
        return max(0.0, (busy - own) / (wall * (os.cpu_count() or 1)))

    def notes(self) -> list[str]:
        """A line for a report; none if nothing is known."""
        others = self.others()
        if math.isnan(others):
            return []
        warning = "; figures are less certain for it" if others > 0.05 else ""
        return [f"Meanwhile other processes took {100 * others:.0f} % of the processors' time{warning}."]

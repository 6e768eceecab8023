"""Honest time: things measured in turns, ratios within a turn, and reports that say where their numbers come from.

A machine's speed drifts by more than the differences looked for. So everything that is compared is measured in the
same round, in an order that turns from round to round, and compared within the round; the median over rounds counts.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor, nn

from sise.benchmark import cli, narrow, shapes
from sise.benchmark.process import processor_times, use_threads
from sise.benchmark.records import environment
from sise.benchmark.terminal import Progress
from sise.layers import find_cam_layer, find_layers
from sise.types import SuiteError, choose

NETWORKS = ("resnet50", "vgg16")
LABELS = {"resnet50": "ResNet-50", "vgg16": "VGG16"}


def random_weights(width: float) -> str:
    """The note on networks of that width, 1 being TorchRay's."""
    size = "full size" if width == 1 else f"{width:g} times the width (a try-out, NOT the papers' networks)"
    return (
        f"Networks of {size} with TorchRay's layers and random weights: time depends on the architecture only; which "
        "feature maps are selected, and so the number of masks, is that of a random network."
    )


@dataclass
class Measurement:
    """One call of an action: ``seconds`` by the chosen clock, page ``faults``, and what the action gave back."""

    seconds: float
    faults: int = 0
    result: Any = None


@dataclass
class Report:
    """One table of results.

    Attributes:
        name: Of its files, ``benchmark_<name>_<device kind>``.
        title: Its heading.
        table: The rows; column names are headings, numbers are written with three significant digits.
        notes: What a reader must know, one line each.
        samples: What was measured, as it was measured.
        timed: Whether it has times in it, which what else the machine did would make less certain.
    """

    name: str
    title: str
    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    timed: bool = True

    def to_markdown(self, environment: Mapping[str, Any]) -> str:
        """Heading, table, notes and the machine."""
        rows = [list(self.table.columns), ["---"] * self.table.shape[1], *self._cells()]
        lines = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        notes = [*self.notes, describe(environment)]
        return f"# {self.title}\n\n{lines}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"

    def to_text(self) -> str:
        """For the terminal."""
        rows = [[str(c) for c in self.table.columns], *self._cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self.title, lines[0], "-" * len(lines[0]), *lines[1:], *(f"* {n}" for n in self.notes)])

    def write(self, results: str | Path, outputs: str | Path, device: torch.device) -> Path:
        """Writes ``results/benchmark_<name>_<kind>.{csv,md}`` and the raw samples below ``outputs``.

        Returns:
            The Markdown file.
        """
        results, outputs, kind = Path(results), Path(outputs) / "benchmark", device_kind(device)
        results.mkdir(parents=True, exist_ok=True)
        outputs.mkdir(parents=True, exist_ok=True)
        here = environment(device)
        file = results / f"benchmark_{self.name}_{kind}.md"
        file.write_text(self.to_markdown(here), encoding="utf-8")
        self.table.to_csv(file.with_suffix(".csv"), index=False, lineterminator="\n")
        stamp = here["time"].replace(":", "").replace("+0000", "Z")
        raw = {"report": self.name, "notes": self.notes, "environment": here, "samples": self.samples}
        raw["table"] = json.loads(self.table.to_json(orient="records"))
        (outputs / f"{self.name}_{kind}_{stamp}.json").write_text(json.dumps(raw, default=_plain), encoding="utf-8")
        return file

    def _cells(self) -> list[list[str]]:
        return [[_text(value) for value in row] for row in self.table.itertuples(index=False)]


def describe(here: Mapping[str, Any]) -> str:
    """One line about the machine and the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in here["packages"].items() if version)
    commit = f", commit {here['commit'][:9]}{' with changes' if here['dirty'] else ''}" if here["commit"] else ""
    threads = f"{here['threads']} CPU thread{'s' * (here['threads'] != 1)}"
    return f"Measured {here['time'][:10]} on {here['device']}, {threads}; Python {here['python']}, {versions}{commit}."


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


# ---------------------------------------------------------------------- measuring


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
_clock = "wall"


def use_clock(name: str) -> None:
    """Chooses what seconds are in this process: ``wall`` time, or ``processor`` time of all its threads.

    Processor time stays fair on a CPU that others use too, but only with one thread: several wait busily.
    """
    global _clock
    _clock = choose("clock", name, list(CLOCKS))


def clock() -> float:
    """Seconds, of the chosen kind."""
    return CLOCKS[_clock]()


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_kind(device: torch.device) -> str:
    """``cpu``, or the card's name as part of a file name."""
    if device.type != "cuda":
        return device.type
    name = torch.cuda.get_device_name(device).lower()
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


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
                bar.set_postfix_str(name if isinstance(name, str) else ", ".join(name))
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


# ---------------------------------------------------------------------- another process


class Worker(AbstractContextManager):
    """Runs actions in a process of its own, since an allocator's settings are a process's, and for good.

    Args:
        build: Called there with ``arguments``; returns the actions by name. A function of a module's top level.
        arguments: Keyword arguments of ``build``.
        device: The torch device.
        malloc: Whether the process keeps freed memory (:func:`sise.benchmark.cli.keep_freed_memory`).
        threads: CPU threads; None = torch's choice.
    """

    def __init__(
        self,
        build: Callable[..., Mapping[str, Callable[[], Any]]],
        arguments: Mapping[str, Any],
        device: torch.device,
        *,
        malloc: bool = False,
        threads: int | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        work = (there, build, dict(arguments), str(device), malloc, threads, _clock)
        self._process = context.Process(target=_work, args=work, daemon=True)
        quiet = os.environ.setdefault("TQDM_DISABLE", "1")  # peers draw progress bars of their own
        self._process.start()
        if quiet == "1":
            del os.environ["TQDM_DISABLE"]
        there.close()
        self.names: tuple[str, ...] = tuple(self._receive())

    def __call__(self, name: str) -> Measurement:
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
        cli.keep_freed_memory()
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


# ---------------------------------------------------------------------- what is measured


@dataclass
class Subject:
    """A network with random weights and an image for it.

    Attributes:
        network: In eval mode.
        image: (1, 3, H, W) network input.
        layers, cam_layer: As in :class:`sise.types.Model`.
    """

    network: nn.Module
    image: Tensor
    layers: tuple[str, ...]
    cam_layer: str


def subject(network: str, device: torch.device, *, width: float = 1.0, seed: int = 0) -> Subject:
    """A full-size network of TorchRay's with random weights, and a scene for it.

    Args:
        network: ``resnet50`` or ``vgg16``.
        device: Where to.
        width: Multiplier of the channels.
        seed: Of the weights.
    """
    choose("network", network, NETWORKS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = narrow.vgg16(width=width, hidden=max(16, round(4096 * width))) if network == "vgg16" else (
            narrow.resnet50(width=width)
        )  # fmt: skip
        bring_to_life(net, torch.cat([scene(i) for i in range(4)]))
    # names depend on the layers' order only: the narrowest network has the same
    small = narrow.vgg16(width=1 / 64, hidden=16) if network == "vgg16" else narrow.resnet50(width=1 / 64)
    layers, cam_layer = find_layers(small.eval()), find_cam_layer(small.eval())
    return Subject(net.to(device), scene(0).to(device), layers, cam_layer)


def scene(index: int) -> Tensor:
    """(1, 3, 224, 224) network input: a test scene of the embedded dataset, RGB in 0..255 less the mean."""
    pixels = torch.from_numpy(shapes.scene(0, "test", index)[0]).permute(2, 0, 1)[None].float()
    return pixels - torch.tensor(narrow.MEAN).view(1, 3, 1, 1)


def bring_to_life(network: nn.Module, images: Tensor) -> None:
    """Gives a network random weights with which scores depend on the input about as much as a trained one's.

    Weights keep the signal's size from layer to layer, batch normalisation gets the statistics of ``images``, and the
    last layer is scaled so that scores spread by 2. Leaves the network in eval mode.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        if norms:
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            network(images)
            for norm in norms:
                norm.momentum = 0.1
        network.eval()
        last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        last.weight.mul_(2.0 / network(images).std().clamp(min=1e-6))


def device_of(name: str) -> torch.device:
    """``auto`` is the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def experiment_cells(cfg: DictConfig, network: str, **chosen: str) -> list[DictConfig]:
    """Configurations of the cells of ``cfg.experiment`` for one network, narrowed to an explainer or protocol."""
    overrides = [f"experiment={cfg.experiment}", f"dataset={cfg.dataset}", f"model={network}"]
    overrides += [f"{group}={name}" for group, name in chosen.items()]
    return cli.compose_cells(compose("evaluate", overrides), overrides)

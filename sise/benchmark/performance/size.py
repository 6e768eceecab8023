"""What reading takes at COCO's size: commands on FABRICATED records, each a process of its own, against their goals.

The records are made up, by ``scripts/fabricate_records.py``; the seconds and bytes that commands take for them are not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig

from sise.benchmark import invocation, places
from sise.benchmark.performance import fabricated
from sise.benchmark.performance.report import Report
from sise.benchmark.process import usable_cores
from sise.errors import SuiteError

_START = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
code = subprocess.call(sys.argv[2:])
wall, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump([wall, used.ru_utime + used.ru_stime, used.ru_maxrss], open(sys.argv[1], "w"))
sys.exit(code)
"""
"""A small process that starts a command: what a process starts is said to have had as much memory as itself."""
_NOTHING = "a run with nothing missing"
_OPEN = (
    "import sys; from sise.benchmark.datasets.coco2014 import COCO2014; "
    "print(len(COCO2014(sys.argv[1], index=sys.argv[2])), 'images')"
)


@dataclass(frozen=True)
class Spent:
    """What a process took.

    Attributes:
        wall: Seconds until it ended.
        processor: Seconds of all its threads, its own and the system's.
        peak: The most memory it had, in MB (1e6 bytes).
        said: Its output.
    """

    wall: float
    processor: float
    peak: float
    said: str


def spent(command: Sequence[str]) -> Spent:
    """Runs a command to its end, in the repository.

    Raises:
        SuiteError: If it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        told, said = Path(folder, "told"), Path(folder, "said")
        with said.open("wb") as stream:
            starting = [sys.executable, "-I", "-c", _START, str(told), *command]
            code = subprocess.call(starting, cwd=places.ROOT, stdout=stream, stderr=subprocess.STDOUT)
        text = said.read_text(errors="replace")
        if code:
            last = (text.strip().splitlines() or ["it said nothing"])[-1]
            raise SuiteError(f"{' '.join(command[1:])} ended with {code}: {last}")
        wall, processor, peak = json.loads(told.read_text())
    return Spent(wall, processor, peak * (1 if sys.platform == "darwin" else 1024) / 1e6, text)


def size(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """Measures each command once; a first, unmeasured opening of the data set makes its index.

    Args:
        cfg: ``size.folder`` is one that ``scripts/fabricate_records.py`` has filled.

    Yields:
        One table: each command, its goal, seconds by the clock and of processors, and peak memory.

    Raises:
        SuiteError: If the folder is not one of fabricated records, a command fails, or a run lacks records.
    """
    folder = Path(str(cfg.size.folder)).resolve()
    if cfg.size.folder is None or not (folder / "FABRICATED").exists():
        make = f"{invocation.typed('fabricate_records')} folder=/tmp/fabricated"
        raise SuiteError(f"size.folder: expected a folder of {make}; got {cfg.size.folder}")
    outputs, python = folder / "outputs", sys.executable
    opening = [python, "-c", _OPEN, str(folder / "data"), str(outputs / ".annotations")]
    spent(opening)
    evaluate, words = invocation.words("evaluate"), fabricated.words_of(folder)
    tables = ["table=sise_table4", f"outputs={outputs}", f"results={folder / 'results'}", "overwrite=true"]
    commands: dict[str, tuple[int, int | None, list[str]]] = {
        "status": (15, None, [python, *invocation.words("status"), f"outputs={outputs}"]),
        "the tables": (60, 1500, [python, *invocation.words("make_tables"), *tables]),
        _NOTHING: (20, 1500, [python, *evaluate, "--config-dir", str(folder / "configs"), *words]),
        "opening the data set with its index": (3, 300, opening),
    }
    rows, samples = [], {}
    for what, (seconds, megabytes, command) in commands.items():
        found = spent(command)
        if what == _NOTHING and "0 pairs computed" not in found.said:
            raise SuiteError(f"the runs in {folder} lack records: {found.said.strip()[-200:]}")
        rows.append({"what": what, "goal, s": seconds, "wall, s": found.wall, "processor, s": found.processor,
                     "goal, MB": megabytes, "peak, MB": found.peak})  # fmt: skip
        samples[what] = found.said
    runs = len(list(outputs.rglob("run.json")))
    notes = [
        f"{runs} runs of FABRICATED records, in all {sum(f.stat().st_size for f in outputs.rglob('records.jsonl')):,} "
        "bytes of lines; the copies by columns, the index of annotations and the hashes of images were there. Only the "
        "seconds and the memory were measured.",
        f"Processor seconds are those of all threads, on {usable_cores()} cores; what other processes do makes "
        "both kinds of seconds more: processors are shared, and so are their caches.",
    ]
    title = "Commands on FABRICATED records of COCO's size"
    yield [Report("fabricated_size", title, pd.DataFrame(rows), notes, samples)]

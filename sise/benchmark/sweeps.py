"""Sweeps (``-m``): every job in a process of its own, whatever launcher starts it, and at the end what became of each.

A job that fails, runs out of memory or is killed touches no other one; what it wrote to the terminal is in the sweep's
folder, ``outputs/.sweeps/<time>/<job>.log``.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

SAID = ("error:", "failed:", "again,")  # what the end of a sweep repeats of a job's log
_started: list[Path] = []


class Watch(Callback):
    """Tells :func:`report` that a sweep has begun, and where its jobs leave word."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _started.append(Path(config.hydra.sweep.dir))


def run_job(script: str) -> int:
    """Runs the job that Hydra is about to run in this process as a command; returns its exit code."""
    hydra = HydraConfig.get()
    return run_command(script, arguments(hydra, hydra.overrides.task), str(hydra.sweep.dir), hydra.job.num)


def arguments(hydra: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The words behind the script: overrides, and the folder of further configurations if the sweep was given one."""
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return [word for folder in folders for word in ("--config-dir", folder)] + list(overrides)


def run_command(script: str, overrides: Sequence[str], folder: str, number: int) -> int:
    """Runs ``python <script> <overrides>``, keeps what it prints, and leaves word of how it ended.

    Args:
        script: A file.
        overrides: Its arguments.
        folder: The sweep's folder.
        number: The job's.

    Returns:
        The exit code, negative for a signal.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    log, word = Path(folder) / f"{number}.log", Path(folder) / f"{number}.json"
    job = {"overrides": list(overrides), "log": str(log), "exit": None}
    word.write_text(json.dumps(job))
    begun = time.monotonic()
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, script, *overrides], stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
    word.write_text(json.dumps(job | {"exit": done.returncode}))
    took = time.monotonic() - begun
    print(f"#{number} {' '.join(overrides)}: {_ending(done.returncode)} after {took:.0f} s", flush=True)
    return done.returncode


def report(command: str) -> int:
    """Says what became of the jobs of this process's sweep, and how to repeat those that did not do well.

    Args:
        command: What starts the script, for the commands it prints.

    Returns:
        Exit code: 0 if there was no sweep or all went well, 2 if a job's input is wrong, else 1.
    """
    if not _started:
        return 0
    folder = _started[-1]
    words = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    jobs = [json.loads(file.read_text() or "{}") for file in words]
    bad = [job for job in jobs if job.get("exit") != 0]
    print(f"sweep {folder}: {len(jobs)} jobs, {len(jobs) - len(bad)} done, {len(bad)} not", file=sys.stderr)
    for file, job in zip(words, jobs, strict=True):
        if job in bad:
            text = Path(job["log"]).read_text(errors="replace") if Path(job.get("log", "")).is_file() else ""
            said = [line for line in text.splitlines() if line.startswith(SAID)]
            print(f"#{file.stem} {_ending(job.get('exit'))}; log: {job.get('log')}", file=sys.stderr)
            print("".join(f"  {line}\n" for line in said), end="", file=sys.stderr)
            if not any(line.startswith("again,") for line in said):
                print(f"  again, just that: {command} {shlex.join(job.get('overrides', []))}", file=sys.stderr)
    return 0 if not bad else 2 if any(job.get("exit") == 2 for job in bad) else 1


def _ending(code: int | None) -> str:
    if code is None:
        return "did not end"
    if code < 0:
        return f"killed by signal {-code}"
    return {0: "done", 1: "some pairs failed", 2: "could not run as it is"}.get(code, f"exit code {code}")

"""Sweeps (``-m``): every job in a process of its own, whatever launcher starts it, and at the end what became of each.

A job that fails, runs out of memory or is killed touches no other one; what it wrote to the terminal is in the sweep's
folder, ``outputs/.sweeps/<time>/<job>.log``.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from sise.benchmark import invocation
from sise.benchmark.process import LOCK_WAIT, STARTED_BY
from sise.benchmark.run.command_line import as_typed
from sise.benchmark.terminal import LOG_INTERVAL

SAID = ("error:", "failed:", "again,")  # what the end of a sweep repeats of a job's log
PACKAGES_OF_LAUNCHERS = ("joblib", "submitit", "ray")
RESTARTED_WAITS = "120"
"""Seconds that a job which was started before waits for its records: a lost machine's locks outlive it for a while."""
_started: list[Path] = []
_over = threading.Event()


class Watch(Callback):
    """Tells :func:`report` that a sweep has begun, and where its jobs leave word."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        _started.append(folder)
        threading.Thread(target=_follow, args=(folder,), daemon=True).start()


def _follow(folder: Path) -> None:
    """Says now and then how far the jobs are, until the end of the sweep; their own words go to files."""
    while not _over.wait(LOG_INTERVAL):
        print("".join(f"{line}\n" for line in under_way(folder)), end="", file=sys.stderr, flush=True)


def under_way(folder: Path) -> list[str]:
    """The last line of each running job's log."""
    lines = []
    for word in sorted(folder.glob("*.json"), key=lambda file: int(file.stem)):
        try:
            job = json.loads(word.read_text() or "{}")
            if job.get("exit") is None:
                with open(job["log"], "rb") as log:
                    log.seek(max(0, os.fstat(log.fileno()).st_size - 4000))
                    said = log.read().decode(errors="replace").split("\n")
                lines += [f"#{word.stem} {line}" for line in said if line.strip()][-1:]
        except (OSError, ValueError, KeyError):  # being written, or not yet there on this machine
            continue
    return lines


def run_job(config: str) -> int:
    """Runs the job that Hydra is about to run in this process as a command; returns its exit code.

    Args:
        config: The name of the command's configuration.
    """
    hydra = HydraConfig.get()
    words = arguments(hydra, hydra.overrides.task)
    return run_command(invocation.words(config), words, str(hydra.sweep.dir), hydra.job.num)


def arguments(hydra: DictConfig | HydraConf, overrides: Sequence[str]) -> list[str]:
    """The words behind the script: overrides, and the folder of further configurations if the sweep was given one."""
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return [word for folder in folders for word in ("--config-dir", folder)] + list(overrides)


def of_launcher(error: BaseException) -> str | None:
    """What an error of the launcher means, in a sentence; None if it is not one."""
    package = type(error).__module__.partition(".")[0]
    if not _started or package not in PACKAGES_OF_LAUNCHERS:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    began = any(_started[-1].glob("*.json"))
    advice = "the same command goes on where it was" if began else "check the settings hydra.launcher.*"
    return f"{package} could not run the jobs: {lines[0].rstrip('.')}; {advice} (see docs/running.md)."


def run_command(command: Sequence[str], overrides: Sequence[str], folder: str, number: int) -> int:
    """Runs ``python <command> <overrides>``, keeps what it prints, and leaves word of how it ended.

    Args:
        command: A script, and what it is given first.
        overrides: Its further arguments.
        folder: The sweep's folder.
        number: The job's.

    Returns:
        The exit code, negative for a signal.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    log, word = Path(folder) / f"{number}.log", Path(folder) / f"{number}.json"
    job = {"overrides": list(overrides), "log": str(log), "exit": None}
    around = {**os.environ, STARTED_BY: str(os.getpid())}
    if word.exists():  # its worker was lost, and with it the first attempt
        around[LOCK_WAIT] = RESTARTED_WAITS
    word.write_text(json.dumps(job))
    begun = time.monotonic()
    words = [sys.executable, *command, *overrides]
    with log.open("w") as stream:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=around)
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
    _over.set()
    folder = _started[-1]
    words = sorted(folder.glob("*.json"), key=lambda file: int(file.stem))
    jobs = [json.loads(file.read_text() or "{}") for file in words]
    bad = [job for job in jobs if job.get("exit") != 0]
    print(f"sweep {folder}: {len(jobs)} jobs, {len(jobs) - len(bad)} done, {len(bad)} not", file=sys.stderr)
    for file, job in zip(words, jobs, strict=True):
        if job in bad:
            text = Path(job["log"]).read_text(errors="replace") if Path(job.get("log", "")).is_file() else ""
            said = _said(text)
            print(f"#{file.stem} {_ending(job.get('exit'))}; log: {job.get('log')}", file=sys.stderr)
            print("".join(f"  {line}\n" for line in said), end="", file=sys.stderr)
            if not any(line.startswith("again,") for line in said):
                again = shlex.join(map(as_typed, job.get("overrides", [])))
                print(f"  again, just that: {command} {again}", file=sys.stderr)
    return 0 if not bad else 2 if any(job.get("exit") == 2 for job in bad) else 1


def _said(log: str) -> list[str]:
    """The lines of a log that tell how the job ended, each with the indented ones below it."""
    found, belongs = [], False
    for line in log.splitlines():
        belongs = line.startswith(SAID) or (belongs and line.startswith("  "))
        found += [line] if belongs else []
    return found


def _ending(code: int | None) -> str:
    if code is None:
        return "did not end"
    if code < 0:
        return f"killed by signal {-code}"
    return {0: "done", 1: "some pairs failed", 2: "could not run as it is"}.get(code, f"exit code {code}")

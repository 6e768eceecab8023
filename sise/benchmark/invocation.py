"""How a command of the suite is started and called: as a script of the checkout, or as ``sise <command>``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sise.benchmark.places import ROOT

COMMANDS = {
    "explain": ("explain", "what a network sees in your own images"),
    "evaluate": ("evaluate", "run explainers over a data set, with every metric, into outputs/"),
    "tables": ("make_tables", "make tables of the records, beside the papers' numbers"),
    "report": ("report", "everything in results/ as one page"),
    "status": ("status", "how far runs are, and the time left"),
    "doctor": ("doctor", "is everything here? data, weights, memory, licences; the audits"),
    "figures": ("figures", "draw the papers' figures"),
    "performance": ("performance", "what this machine can do, measured"),
    "train": ("train", "train the networks that the suite ships, or whose weights are not published"),
    "kept_maps": ("kept_maps", "how many feature maps each reading of Ada-SISE keeps"),
    "metric_agreement": ("metric_agreement", "which metric to believe, where the truth is known"),
    "rank_agreement": ("rank_agreement", "do metrics, seeds, networks and data sets agree on the explainers"),
    "fabricate_records": ("fabricate_records", "write FABRICATED records, to measure how long reading them takes"),
}
"""Of each command: its script, configuration and module, which share a name, and what it does."""
_started_as: list[str] = []


def start_as(command: str) -> None:
    """Notes that this process is ``sise <command>``.

    ``sys.argv`` names the script that is the same command, since records keep it: one command, one notation.
    """
    _started_as[:] = [command]
    sys.argv = [f"scripts/{COMMANDS[command][0]}.py", *sys.argv[2:]]


def words(config: str) -> list[str]:
    """What a new Python is given to run a command: its script in a checkout, else the package and the command's name.

    ``-P``: the current folder is the user's and may hold modules of any name.

    Args:
        config: The name of the command's configuration.
    """
    script = ROOT / "scripts" / f"{config}.py"
    return [str(script)] if script.is_file() else ["-P", "-m", "sise", _command(config)]


def typed(config: str) -> str:
    """How a user types a command: ``python scripts/evaluate.py``, or ``sise evaluate`` where that is how this began."""
    script = ROOT / "scripts" / f"{config}.py"
    return f"python scripts/{config}.py" if script.is_file() and not _started_as else f"sise {_command(config)}"


def retyped(command: str) -> str:
    """A recorded command, ``scripts/evaluate.py limit=3`` with or without ``python``, as the user types it now."""
    command = command.removeprefix("python ")
    script = re.match(r"scripts/(\w+)\.py(?=\s|$)", command)
    return typed(script[1]) + command[script.end() :] if script else f"python {command}"


def typed_now() -> str:
    """How the user typed this process's command, without folders above the checkout."""
    if _started_as:
        return f"sise {_started_as[0]}"
    path = Path(sys.argv[0]).resolve()
    return f"python {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}"


def _command(config: str) -> str:
    return next((command for command, (script, _) in COMMANDS.items() if script == config), config)

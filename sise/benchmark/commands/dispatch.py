"""The command ``sise``: finds the command that is meant and hands it the rest of the line."""

from __future__ import annotations

import importlib
import sys

import sise
from sise.benchmark import invocation
from sise.benchmark.commands import listing
from sise.benchmark.terminal import message, prepare_streams
from sise.errors import SuiteError, choose

HELP = """\
SISE, Ada-SISE and their rivals among visual explanations of convolutional networks.

  sise <command> [setting=value ...]     sise <command> --help tells its settings

{commands}

Examples:
  sise explain image=cat.jpg
  sise evaluate explainer=grad_cam limit=10 && sise tables
  sise list explainers

`sise evaluate` and `python scripts/evaluate.py` of a checkout are the same command, as are all others of one name;
`sise tables` is scripts/make_tables.py.
"""


def main() -> None:
    """Runs ``sise <command> ...``; exit codes are the command's, 2 if there is no such command."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h", "help"):
        print(_help(), end="")
    elif command in ("--version", "-V"):
        print(f"sise {sise.__version__}")
    else:
        _run(command, rest)


def _run(command: str, rest: list[str]) -> None:
    try:
        if choose("command", command, [*invocation.COMMANDS, "list"]) == "list":
            prepare_streams()
            print(listing.listing(rest), end="", flush=True)
            return
    except (SuiteError, OSError) as error:
        print(f"error: {message(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    module = importlib.import_module(f"sise.benchmark.commands.{invocation.COMMANDS[command][0]}")
    invocation.start_as(command)
    module.main()


def _help() -> str:
    told = {**{name: says for name, (_, says) in invocation.COMMANDS.items()},
            "list": f"what there is: sise list {'|'.join(listing.KINDS)}"}  # fmt: skip
    return HELP.format(commands="\n".join(f"  {name:<16} {says}" for name, says in told.items()))

"""What a command says at its end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sise.benchmark import invocation
from sise.benchmark.run.command_line import as_typed
from sise.errors import SuiteError

if TYPE_CHECKING:
    from sise.benchmark.run.cells import Cell

EXPECTED = (SuiteError, OmegaConfBaseException, HydraException, yaml.YAMLError, OSError)
"""What ends a command with a message."""


def say_failures(cells: Sequence[Cell], broken: Iterable[str], overrides: Sequence[str]) -> None:
    """After a run: every cell with something to do over, why, and the command that does just that."""
    failed = [cell for cell in cells if cell.failures or cell.problem]
    for cell in failed:
        if cell.failures:
            reason = max(cell.failures, key=cell.failures.__getitem__)
            count = sum(cell.failures.values())
            what = f"{count} pair{'s' * (count > 1)} failed, "
            what += f"{cell.failures[reason]} of them: {reason}" if len(cell.failures) > 1 else reason
            print(f"failed: {cell.name}: {what}", file=sys.stderr)
    names = [cell.name for cell in failed] + list(broken)
    if names:
        kept = [as_typed(o) for o in overrides if o.split("=", 1)[0] not in ("only", "overwrite")]
        only = [f"only=[{','.join(names)}]"] if len(names) < len(cells) + len(list(broken)) else []
        print(f"again, just that: {invocation.typed_now()} {shlex.join([*kept, *only])}".rstrip(), file=sys.stderr)


def say_done(cells: Sequence[Cell], limit: int | None) -> None:
    """After a run: how many pairs it computed, where they are, and what makes tables of them."""
    count = sum(cell.computed for cell in cells)
    outputs = cells[0].cfg.outputs
    where = str(cells[0].path) if len(cells) == 1 else f"{len(cells)} runs below {outputs}"
    what = f"{count} pair{'s' * (count != 1)} computed" if limit != 0 else "limit=0: nothing was computed"
    tables = invocation.typed("make_tables") + ("" if outputs == "outputs" else f" {shlex.quote(f'outputs={outputs}')}")
    print(f"{what}: {where}; tables: {tables}" if limit != 0 else f"{what}: {where}")

"""The decorator that makes a function a command: Hydra's configuration in, messages and exit codes out."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from sise.benchmark import invocation, process
from sise.benchmark.commands import sweeps
from sise.benchmark.commands.endings import EXPECTED
from sise.benchmark.places import CONFIGS
from sise.benchmark.run.command_line import parsed
from sise.benchmark.run.settings import check_settings, checked_words
from sise.benchmark.run.unknown_names import explained
from sise.benchmark.terminal import message, prepare_streams


def script(config_name: str) -> Callable[[Callable[[DictConfig], int | None]], Callable[[], None]]:
    """Makes a function of a configuration a command: ``@command.script("evaluate")``.

    Exit codes: 0 done; 1 some pairs failed, or jobs of a sweep; 2 something is wrong that the user can mend: one
    message says what, and names what was meant where a name is unknown; 130 interrupted.

    With ``-m`` (Hydra's multirun), each job runs in a process of its own, see :mod:`sise.benchmark.commands.sweeps`.

    Args:
        config_name: The root configuration in ``configs/``.
    """

    def decorate(function: Callable[[DictConfig], int | None]) -> Callable[[], None]:
        task = main(function, config_name)
        task = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(task)

        @functools.wraps(function)
        def command() -> None:
            prepare_streams()
            process.end_with_parent()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors of composition itself
            typed, code = sys.argv[1:], 0
            try:
                sys.argv[1:] = checked_words(typed, config_name)
                task()
                sys.stdout.flush()
            except EXPECTED as error:
                said = sweeps.of_launcher(error) or explained(error, config_name, parsed(sys.argv[1:]))
                print(f"error: {said}", file=sys.stderr)
                raise SystemExit(2) from None
            except Exception as error:
                if (of_launcher := sweeps.of_launcher(error)) is None:
                    raise
                print(f"error: {of_launcher}", file=sys.stderr)
                raise SystemExit(2) from None
            except KeyboardInterrupt:
                print("interrupted; every record so far is kept, the same command goes on from here", file=sys.stderr)
                raise SystemExit(130) from None
            finally:
                sys.argv[1:] = typed
                code = sweeps.report(invocation.typed_now())
            if code:
                raise SystemExit(code)

        return command

    return decorate


def main(function: Callable[[DictConfig], int | None], config_name: str = "evaluate") -> Callable[[DictConfig], None]:
    """Turns an expected error into one readable message and exit code 2, a failure count into exit code 1."""

    @functools.wraps(function)
    def wrapped(cfg: DictConfig) -> None:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            sweeps.run_job(config_name)
            return
        try:
            check_settings(cfg, config_name)
            failed = function(cfg)
        except EXPECTED as error:
            print(f"error: {message(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        if failed:
            print(f"{failed} pairs failed; their records say why. The same command tries them again.", file=sys.stderr)
            raise SystemExit(1)

    return wrapped

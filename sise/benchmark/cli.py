"""What the scripts share: the command itself, composing an experiment's cells, and errors a user can read."""

from __future__ import annotations

import ctypes
import difflib
import functools
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from sise.benchmark import process, sweeps
from sise.benchmark.runner import Cell, message, name_of
from sise.types import SuiteError, choose

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

GROUPS = ("dataset", "model", "explainer", "protocol", "metrics", "engine", "experiment")
NO_DEPARTURE = ("outputs", "shard", "only", "limit", "variant", "device", "overwrite", "dry_run", "estimate")
"""Settings that change nothing of a protocol, a metric or an explainer."""
LISTS = ("audit", "captions", "classes", "controls", "explainers", "images", "models", "networks", "only", "overrides",
         "parts", "require")  # fmt: skip
"""Settings that are lists: a single value is a list of one."""
EXPECTED = (SuiteError, OmegaConfBaseException, HydraException, OSError)
"""What ends a command with a message."""


def compose_cells(cfg: DictConfig, overrides: Sequence[str], config_name: str = "evaluate") -> list[DictConfig]:
    """One configuration per cell: the experiment's models × cells, or the one given.

    A model or explainer chosen on the command line narrows the experiment to it; every other override applies to all
    cells.

    Args:
        cfg: The configuration composed from the command line.
        overrides: The command line's overrides.
        config_name: The root configuration.

    Raises:
        SuiteError: If the experiment has no cell left.
    """
    experiment = OmegaConf.select(cfg, "experiment")
    if not experiment:
        return _only(cfg, [_with_departures(cfg, config_name, overrides)])
    chosen = dict(o.split("=", 1) for o in overrides if "=" in o)
    general = [o for o in overrides if o.split("=", 1)[0] not in ("model", "explainer")]
    models = [chosen["model"]] if "model" in chosen else list(experiment.models)
    cells = [cell for c in experiment.cells for cell in _seeds(dict(c))]
    if "explainer" in chosen:
        choose("explainer of this experiment", chosen["explainer"], sorted({c["explainer"] for c in cells}))
        cells = [c for c in cells if c["explainer"] == chosen["explainer"]]
    if "protocol" in chosen:
        cells = [c for c in cells if c.get("protocol", "paper") == chosen["protocol"]]
    if not cells:
        raise SuiteError(f"experiment={experiment.name} has no cell with protocol={chosen['protocol']}.")
    configs = []
    for model in models:
        for cell in cells:
            of_cell = [*general, f"model={model}", *(f"{k}={v}" for k, v in cell.items())]
            configs.append(_with_departures(compose(config_name, of_cell), config_name, of_cell))
            check_settings(configs[-1], config_name)
    return _only(cfg, configs)


def _seeds(cell: dict) -> list[dict]:
    """A cell with ``seeds: 3`` is three cells, of the seeds 0, 1 and 2."""
    count = cell.pop("seeds", 1)
    return [cell, *({**cell, "seed": seed} for seed in range(1, count))]


def _only(cfg: DictConfig, configs: list[DictConfig]) -> list[DictConfig]:
    """The cells that ``only`` names, or all."""
    if not cfg.get("only"):
        return configs
    names = {name_of(config): config for config in configs}
    return [names[choose("cell in `only`", name, list(names))] for name in cfg.only]


def _with_departures(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Notes what single overrides changed in the protocol, the metrics or the explainer, so that tables can say so."""
    presets = [o for o in overrides if o.split("=", 1)[0] in GROUPS]
    if all(o in presets or o.split("=", 1)[0] in NO_DEPARTURE for o in overrides):
        return cfg
    shipped = compose(config_name, presets)
    with open_dict(cfg):
        cfg.departures = [
            f"{key}={now}"
            for key, now in _flat(cfg, "protocol", "metrics", "explainer").items()
            if key != "explainer.call.seed" and now != _flat(shipped, "protocol", "metrics", "explainer").get(key)
        ]
    return cfg


def _flat(cfg: DictConfig, *groups: str) -> dict[str, object]:
    flat: dict[str, object] = {}

    def walk(node: object, key: str) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                walk(child, f"{key}.{name}")
        else:
            flat[key] = node

    for group in groups:
        walk(OmegaConf.to_container(cfg[group], resolve=True), group)
    return flat


def prepare_process(engine: DictConfig) -> None:
    """Settings of the whole process, which a command line may make and a library may not."""
    logging.getLogger("torchray").setLevel(logging.WARNING)
    process.use_threads(engine.threads)
    if engine.malloc and sys.platform == "linux" and not torch.cuda.is_available():
        keep_freed_memory()


def keep_freed_memory() -> bool:
    """Stops glibc from handing large buffers back to the system after every layer (M_MMAP_MAX = 0, no trimming).

    Page faults for buffers over 32 MiB otherwise cost up to half of a CPU forward pass.

    Returns:
        Whether it was done; False where the C library is not glibc.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(-4, 0)) and bool(libc.mallopt(-1, -1))
    except (OSError, AttributeError):
        return False


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
        kept = [o for o in overrides if o.split("=", 1)[0] not in ("only", "overwrite")]
        only = [f"only=[{','.join(names)}]"] if len(names) < len(cells) + len(list(broken)) else []
        print(f"again, just that: python {_script()} {shlex.join([*kept, *only])}".rstrip(), file=sys.stderr)


def say_done(cells: Sequence[Cell], limit: int | None) -> None:
    """After a run: how many pairs it computed, where they are, and what makes tables of them."""
    count = sum(cell.computed for cell in cells)
    outputs = cells[0].cfg.outputs
    where = str(cells[0].path) if len(cells) == 1 else f"{len(cells)} runs below {outputs}"
    what = f"{count} pair{'s' * (count != 1)} computed" if limit != 0 else "limit=0: nothing was computed"
    tables = "python scripts/tabulate.py" + ("" if outputs == "outputs" else f" {shlex.quote(f'outputs={outputs}')}")
    print(f"{what}: {where}; tables: {tables}" if limit != 0 else f"{what}: {where}")


def _script() -> str:
    """The script as it was called, without folders above the repository."""
    path = Path(sys.argv[0]).resolve()
    return str(path.relative_to(CONFIGS.parent)) if path.is_relative_to(CONFIGS.parent) else path.name


# ---------------------------------------------------------------------- the command


def script(config_name: str) -> Callable[[Callable[[DictConfig], int | None]], Callable[[], None]]:
    """Makes a function of a configuration a command: ``@cli.script("evaluate")``.

    Exit codes: 0 done; 1 some pairs failed, or jobs of a sweep; 2 something is wrong that the user can mend: one
    message says what, and names what was meant where a name is unknown; 130 interrupted.

    With ``-m`` (Hydra's multirun), each job runs in a process of its own, see :mod:`sise.benchmark.sweeps`.

    Args:
        config_name: The root configuration in ``configs/``.
    """

    def decorate(function: Callable[[DictConfig], int | None]) -> Callable[[], None]:
        task = main(function, config_name)
        task = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(task)

        @functools.wraps(function)
        def command() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors of composition itself
            words = sys.argv[1:]
            try:
                if all(not word.startswith("-") or word in ("-m", "--multirun") for word in words):
                    _check_choices(_parsed(words), config_name)
                task()
            except EXPECTED as error:
                print(f"error: {_explained(error, config_name, _parsed(words))}", file=sys.stderr)
                raise SystemExit(2) from None
            except KeyboardInterrupt:
                print("interrupted; every record so far is kept, the same command goes on from here", file=sys.stderr)
                raise SystemExit(130) from None
            finally:
                code = sweeps.report(f"python {_script()}")
            if code:
                raise SystemExit(code)

        return command

    return decorate


def main(function: Callable[[DictConfig], int | None], config_name: str = "evaluate") -> Callable[[DictConfig], None]:
    """Turns an expected error into one readable message and exit code 2, a failure count into exit code 1."""

    @functools.wraps(function)
    def wrapped(cfg: DictConfig) -> None:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            sweeps.run_job(function.__code__.co_filename)
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


@contextmanager
def readable_errors() -> Iterator[None]:
    """The same ends for a command whose options are argparse's (``--root`` where the others have ``dataset.root=``)."""
    try:
        yield
    except (SuiteError, OSError) as error:
        text = message(error).replace("dataset.root=", "--root ").replace("set dataset.root", "set --root")
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


# ---------------------------------------------------------------------- settings


def check_settings(cfg: DictConfig, config_name: str) -> None:
    """Refuses settings that would break a run later, or a reader of its folder; makes single values of lists lists.

    Args:
        cfg: Composed.
        config_name: Its root configuration: ``limit=0`` is for those that plan and keep runs only.

    Raises:
        SuiteError: If a setting has another type or range than it is read with.
    """
    for key in LISTS:
        if key in cfg and cfg[key] is not None and not isinstance(cfg[key], ListConfig):
            cfg[key] = [cfg[key]]
    if "budget" in cfg and "budgets" in cfg:
        choose("budget", cfg.budget, list(cfg.budgets))
    least = 0 if config_name in ("evaluate", "status") else 1
    rules: dict[str, tuple[str, Callable[[object], bool]]] = {
        "limit": (f"null or a whole number from {least}", lambda v: v is None or _whole(v, least)),
        "seed": ("a whole number from 0", lambda v: _whole(v, 0)),
        "top": ("a whole number from 0", lambda v: _whole(v, 0)),
        "variant": (
            "a name of letters, digits and . _ - that begins with a letter or digit",
            lambda v: v is not None and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(v))),
        ),
        "watch": ("null or seconds above 0", lambda v: v is None or (_number(v) and v > 0)),
        "estimate": ("true, false or seconds above 0", lambda v: isinstance(v, bool) or (_number(v) and v > 0)),
        "explainer.call.mu": ("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1),
    }
    rules |= dict.fromkeys(("overwrite", "dry_run"), ("true or false", lambda v: isinstance(v, bool)))
    rules |= dict.fromkeys(
        ("count", "masks_per_layer", "rounds", "peers.rounds", "phases.rounds"),
        ("a whole number from 1", lambda v: _whole(v, 1)),
    )
    for key, (expected, fits) in rules.items():
        above, _, name = key.rpartition(".")
        try:
            node = OmegaConf.select(cfg, above) if above else cfg
            if isinstance(node, DictConfig) and name in node and not fits(node[name]):
                raise SuiteError(f"{key}: expected {expected}; got {key}={node[name]}")
        except InterpolationResolutionError:  # of another setting that is unknown: the script says which
            continue


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# ---------------------------------------------------------------------- names that do not exist


def _parsed(words: Sequence[str]) -> list[Override]:
    """The overrides among a command line's words, as far as they can be read."""
    found = []
    for word in words:
        if not word.startswith("-") and "=" in word:
            try:
                found += OverridesParser.create().parse_overrides([word])
            except HydraException:  # Hydra says what is wrong with it
                continue
    return found


def _check_choices(overrides: Sequence[Override], config_name: str) -> None:
    """Names the nearest option of a group; Hydra would pass over an experiment that does not exist.

    Of a list, Hydra would merge the options into one that there is not; only scripts/explain.py takes several.
    """
    for override in overrides:
        group = override.key_or_group
        options = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
        if options and group != "hydra/launcher":
            values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
            for value in values:
                if isinstance(value, list) and (config_name, group) != ("explain", "explainer"):
                    words = ",".join(map(str, value))
                    sweep = f", or a sweep: -m {group}={words}" if config_name == "evaluate" else ""
                    raise SuiteError(f"{override.input_line}: expected one {group} at a time{sweep}")
                for name in value if isinstance(value, list) else [value]:
                    if name is not None:
                        choose(group, str(name), options)


def _explained(error: Exception, config_name: str, overrides: Sequence[Override]) -> str:
    """The error's message; where a setting is unknown, the settings that were probably meant."""
    if isinstance(error, SuiteError | OSError):
        return message(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: {error}"
    if launcher := [o.value() for o in overrides if o.key_or_group == "hydra/launcher"]:
        return (
            f"{message(error)}\nhydra/launcher={launcher[0]} may need an extra: pip install -e '.[joblib]', '.[slurm]' "
            "or '.[ray]'; see docs/running.md."
        )
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        groups = [o.input_line for o in overrides if (CONFIGS / o.key_or_group).is_dir() and not o.is_sweep_override()]
        known = OmegaConf.to_container(compose(config_name, [o for o in groups if not o.startswith("hydra")]))
    settings = {*known, *_keys(known), *(p.name for p in CONFIGS.iterdir() if p.is_dir())}
    for override in overrides:
        key = override.key_or_group
        if key not in settings and not key.startswith("hydra") and not override.is_add():
            depth = [name for name in sorted(settings) if name.count(".") == key.count(".")]
            near = difflib.get_close_matches(key, depth, n=3, cutoff=0.7)
            near = near or [name for name in sorted(settings) if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:3]
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else " See --help for all of them."
            return f"unknown setting {key!r} in {override.input_line!r}.{hint}"
    return message(error)


def _keys(node: object, above: str = "") -> list[str]:
    """Every dotted key of a configuration: groups of settings and settings."""
    if not isinstance(node, dict):
        return []
    found = [f"{above}{name}" for name in node]
    return found + [key for name, child in node.items() for key in _keys(child, f"{above}{name}.")]

"""What the scripts share: the command itself, composing an experiment's cells, and errors a user can read."""

from __future__ import annotations

import ctypes
import difflib
import functools
import importlib.util
import logging
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from sise.benchmark import process, sweeps
from sise.benchmark.command_line import (
    UnknownOption,
    as_typed,
    check_settings_once,
    for_hydra,
    parsed,
    settings_of,
)
from sise.benchmark.departures import SEEDS, departures, flat, identity_config
from sise.benchmark.names import A_NAME, is_name
from sise.benchmark.terminal import message, prepare_streams
from sise.types import SuiteError, choose

if TYPE_CHECKING:
    from sise.benchmark.runner import Cell

log = logging.getLogger(__name__)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

GROUPS = ("dataset", "model", "explainer", "protocol", "metrics", "engine", "experiment")
NO_DEPARTURE = ("outputs", "shard", "only", "limit", "variant", "device", "overwrite", "dry_run", "estimate")
"""Settings that a run's numbers do not depend on."""
LISTS = ("audit", "captions", "classes", "controls", "explainers", "images", "models", "networks", "only", "overrides",
         "parts", "require")  # fmt: skip
"""Settings that are lists: a single value is a list of one."""
NAMES = ("dataset.name", "model.name", "explainer.name", "protocol.name", "table.name", "experiment.name")
"""Settings that files and folders are called by."""
EXPECTED = (SuiteError, OmegaConfBaseException, HydraException, yaml.YAMLError, OSError)
"""What ends a command with a message."""
LAUNCHERS = {
    "joblib": ("joblib", "hydra_plugins.hydra_joblib_launcher"),
    "slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_local": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "ray": ("ray", "ray"),
}
"""Of a launcher: the extra that installs it, and the module that tells whether it is there."""


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
    from sise.benchmark.runner import name_of  # here and below: a command's --help must not wait for torch

    if not cfg.get("only"):
        return configs
    names = {name_of(config): config for config in configs}
    return [names[choose("cell in `only`", name, list(names))] for name in cfg.only]


def _with_departures(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Keeps in ``departures`` what single overrides changed in the presets, so that tables can say so."""
    presets = [o for o in overrides if o.split("=", 1)[0] in GROUPS]
    if all(o in presets or o.split("=", 1)[0] in NO_DEPARTURE for o in overrides):
        return cfg
    shipped = compose(config_name, presets)
    for key, value in flat(OmegaConf.to_container(shipped)).items():
        if value == "???":  # nothing is shipped there, so whatever it is set to departs from nothing
            OmegaConf.update(shipped, key, OmegaConf.select(cfg, key))
    found = departures(identity_config(cfg), identity_config(shipped), ignored=SEEDS)
    with open_dict(cfg):
        cfg.departures = [asdict(departure) for departure in found]
    return cfg


@functools.cache
def _shipped_cells(experiment: str, dataset: str | None) -> list[DictConfig]:
    """The cells of an experiment as it is shipped, on a dataset; none if there is no such experiment."""
    if not (CONFIGS / f"experiment/{experiment}.yaml").exists():
        return []
    words = [f"experiment={experiment}", *([f"dataset={dataset}"] if dataset else [])]
    with ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():
            stack.enter_context(initialize_config_dir(str(CONFIGS), version_base="1.3"))
        return compose_cells(compose("evaluate", words), words)


def shipped_configs(definition: Mapping[str, Any], model: str) -> dict[tuple[str, str, int | None], dict[str, Any]]:
    """What is shipped for the cells of a table: a ``Shipped`` of :mod:`sise.benchmark.tables`.

    Args:
        definition: The table's; its experiment has its name, its first dataset is the paper's.
        model: The model's name.

    Returns:
        Configurations, as runs keep them, by (explainer, variant, seed); the seed of those that draw nothing is None.
    """
    cells = _shipped_cells(definition["name"], next(iter(definition.get("datasets") or ()), None))
    return {
        (cell.explainer.name, cell.variant, cell.seed if cell.explainer.stochastic else None): identity_config(cell)
        for cell in cells
        if cell.model.name == model
    }


def prepare_process(engine: DictConfig) -> None:
    """Settings of the whole process, which a command line may make and a library may not."""
    import torch

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
        kept = [as_typed(o) for o in overrides if o.split("=", 1)[0] not in ("only", "overwrite")]
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
    path = _relative(Path(sys.argv[0]).resolve())
    return path.name if path.is_absolute() else str(path)


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
            prepare_streams()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors of composition itself
            typed, code = sys.argv[1:], 0
            try:
                sys.argv[1:] = _checked(typed, config_name)
                task()
                sys.stdout.flush()
            except EXPECTED as error:
                print(f"error: {_explained(error, config_name, parsed(sys.argv[1:]))}", file=sys.stderr)
                raise SystemExit(2) from None
            except KeyboardInterrupt:
                print("interrupted; every record so far is kept, the same command goes on from here", file=sys.stderr)
                raise SystemExit(130) from None
            finally:
                sys.argv[1:] = typed
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
    prepare_streams()
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
    for key in ("dataset.loader", "model.loader", "explainer.call"):
        group = key.partition(".")[0]
        if (group, config_name) == ("dataset", "explain") or not isinstance(cfg.get(group), DictConfig):
            continue
        if not _has_target(cfg[group], key):
            raise SuiteError(f"{key}: expected settings with a _target_, what to call; see configs/{group}/.")
    if "budgets" in cfg and not isinstance(cfg.budgets, DictConfig):
        raise SuiteError(f"budgets: expected settings by name; got budgets={cfg.budgets}")
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
        "image": ("a file, a folder of images, or a list of files", lambda v: v is None or v != []),
        "target": ("a class by name or index, or a list of them", lambda v: v is None or v != []),
        "watch": ("null or seconds above 0", lambda v: v is None or (_number(v) and v > 0)),
        "estimate": ("true, false or seconds above 0", lambda v: isinstance(v, bool) or (_number(v) and v > 0)),
        "engine.batch_size": ("null or a whole number from 1", lambda v: v is None or _whole(v, 1)),
        "engine.threads": ("null or a whole number from 1", lambda v: v is None or _whole(v, 1)),
        "engine.stop_after": ("null or a whole number from 1", lambda v: v is None or _whole(v, 1)),
        "explainer.call.mu": ("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1),
    }
    rules |= dict.fromkeys(("out", "outputs", "results", "published", "page"), ("a path", lambda v: isinstance(v, str)))
    rules |= dict.fromkeys(NAMES, (A_NAME, is_name))
    switches = ("overwrite", "dry_run", *(f"engine.{name}" for name in ("lossless", "compile", "malloc", "cache")))
    rules |= dict.fromkeys(switches, ("true or false", lambda v: isinstance(v, bool)))
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
        except (InterpolationResolutionError, MissingMandatoryValue):  # of another setting: the script says which
            continue
    if "device" in cfg:
        _check_device(cfg.device)


def _has_target(group: DictConfig, key: str) -> bool:
    node = OmegaConf.select(group, key.partition(".")[2])
    return isinstance(node, DictConfig) and isinstance(node.get("_target_"), str)


def _check_device(name: object) -> None:
    """Refuses a device that is not there, also where nothing would be computed on it."""
    if name not in ("auto", "cpu"):
        from sise.benchmark.runner import choose_device

        choose_device(str(name))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# ---------------------------------------------------------------------- names that do not exist


def _checked(words: Sequence[str], config_name: str) -> list[str]:
    """The command line's words as Hydra is to read them.

    Raises:
        SuiteError: If a word is no setting, or an option or launcher that there is not is asked for.
    """
    try:
        check_settings_once(list(settings_of(words)))
    except UnknownOption as option:
        raise SuiteError(_as_setting(option, config_name)) from None
    words = for_hydra(words)
    if config_name == "evaluate" and ("-m" in words or "--multirun" in words):
        words += for_hydra(_variant_of_sweep(parsed(words)))
    if all(not word.startswith("-") or word in ("-m", "--multirun") for word in words):
        _check_choices(parsed(words), config_name)
    return words


def _variant_of_sweep(overrides: Sequence[Override]) -> list[str]:
    """``variant=`` with each swept setting in it, so that jobs do not share a run folder; nothing if one is given.

    Left to the user are values that cannot be part of a name, and settings that have a place in the folder's name.
    """
    if any(override.key_or_group == "variant" for override in overrides):
        return []
    parts = ""
    for override in overrides:
        key = override.key_or_group
        groups = ("protocol.", "explainer.", "metrics.", "dataset.", "model.", "budget", "engine.precision")
        if override.is_sweep_override() and key.startswith(groups) and key not in NAMES and key != "budgets":
            if isinstance(override.value(), Glob):
                continue
            if all(re.fullmatch(r"[\w.-]+", word.strip("'"), re.ASCII) for word in override.sweep_string_iterator()):
                parts += f"-{key.rsplit('.', 1)[-1]}${{{key}}}"
    return [f"variant=${{protocol.name}}{parts}"] if parts else []


def _as_setting(option: UnknownOption, config_name: str) -> str:
    """How ``--explainer sise`` is written here."""
    known = _known_settings(config_name, [])
    near = [option.key] if option.key in known else _nearest(option.key, known)
    key = near[0] if near else option.key
    return f"{option.word}: settings are written key=value here: {key}={option.value or '...'}; --help shows all."


def _check_choices(overrides: Sequence[Override], config_name: str) -> None:
    """Names the nearest option of a group; Hydra would pass over an experiment that does not exist.

    Of a list, Hydra would merge the options into one that there is not; only scripts/explain.py takes several.
    """
    for override in overrides:
        group = override.key_or_group
        if group.partition("/")[0] == "hydra" and "." not in group and override.value() is None:
            raise SuiteError(f"{override.input_line}: expected a name; leave it out for Hydra's own choice.")
        if group == "hydra/launcher":
            _check_launcher(str(override.value()))
            continue
        options = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
        if options and override.is_delete():
            wanted = ", ".join(options)
            raise SuiteError(f"{override.input_line}: the {group} cannot be taken away; expected one of {wanted}")
        if not options or isinstance(override.value(), Glob):
            continue
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        for value in values:
            if isinstance(value, list) and (config_name, group) != ("explain", "explainer"):
                words = ",".join(map(str, value))
                sweep = f", or a sweep: -m {group}={words}" if config_name == "evaluate" else ""
                raise SuiteError(f"{override.input_line}: expected one {group} at a time{sweep}")
            for name in value if isinstance(value, list) else [value]:
                if name is None:
                    raise SuiteError(f"{override.input_line}: expected one of {', '.join(options)}; or leave it out.")
                choose(group, str(name), options)


def _check_launcher(name: str) -> None:
    """Whether what a launcher needs is installed, before Hydra fails to find it.

    Raises:
        SuiteError: If not; the message says how to install it.
    """
    if name not in LAUNCHERS:
        return
    extra, module = LAUNCHERS[name]
    try:
        there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        there = False
    if not there:
        raise SuiteError(f"hydra/launcher={name} needs an extra: pip install -e '.[{extra}]'; see docs/running.md.")
    if name in ("slurm", "submitit_slurm") and shutil.which("srun") is None:
        raise SuiteError(
            f"hydra/launcher={name} needs Slurm, and there is no srun here; hydra/launcher=submitit_local runs the "
            "same jobs on this machine."
        )


def _explained(error: Exception, config_name: str, overrides: Sequence[Override]) -> str:
    """The error's message; where a setting is unknown, the settings that were probably meant."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        what = f"{error.problem}{f' ({error.context})' if error.context else ''}"
        return f"{_relative(Path(mark.name))}, line {mark.line + 1}: {what}; check the indentation there and above."
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
        return f"cannot read {error.override!r}: {error}\nIf the value is a text, quote it twice: {quoted}"
    if isinstance(error, SuiteError | yaml.YAMLError) or (
        isinstance(error, OSError) and not isinstance(error, HydraException)  # some of Hydra's are both
    ):
        return message(error)
    known = _known_settings(config_name, overrides)
    for override in overrides:
        key = override.key_or_group
        if key not in known and not key.startswith("hydra") and not override.is_add():
            above, _, last = key.rpartition(".")
            if above in known and not any(name.startswith(f"{above}.") for name in known):
                value = override.input_line.partition("=")[2]
                return f"{above} has no settings of its own here; give it as a whole: '{above}={{{last}:{value}}}'"
            near = _nearest(key, known)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else " See --help for all of them."
            return f"unknown setting {key!r} in {override.input_line!r}.{hint}"
    return message(error)


def _known_settings(config_name: str, overrides: Sequence[Override]) -> set[str]:
    """Every dotted key of the command's configuration with these groups chosen, and the groups."""
    groups = [
        override.input_line
        for override in overrides
        if (CONFIGS / override.key_or_group / f"{override.value()}.yaml").is_file()
        and not (override.is_add() or override.package or override.key_or_group.startswith("hydra"))
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(config_name, groups)
    return {*_keys(OmegaConf.to_container(cfg)), *(p.name for p in CONFIGS.iterdir() if p.is_dir())}


def _nearest(key: str, known: Iterable[str]) -> list[str]:
    """At most three settings that were probably meant by an unknown one, the likeliest first."""
    known = sorted(known, key=lambda name: (name.count("."), name))
    head, last = key.split(".")[0], key.rsplit(".", 1)[-1]
    inside = [name for name in known if name.startswith(f"{head}.")]
    ends = {name.rsplit(".", 1)[-1]: name for name in reversed(inside)}
    same_depth = [name for name in known if name.count(".") == key.count(".")]
    candidates = (
        [name for name in inside if name.rsplit(".", 1)[-1] == last],  # explainer.mu: explainer.call.mu
        [ends[end] for end in difflib.get_close_matches(last, ends, n=3, cutoff=0.7)],
        difflib.get_close_matches(key, same_depth, n=3, cutoff=0.7),
        [name for name in known if name.rsplit(".", 1)[-1] == last],  # root: dataset.root
    )
    return next((found[:3] for found in candidates if found), [])


def _relative(path: Path) -> Path:
    return path.relative_to(CONFIGS.parent) if path.is_relative_to(CONFIGS.parent) else path


def _keys(node: object, above: str = "") -> list[str]:
    """Every dotted key of a configuration: groups of settings and settings."""
    if not isinstance(node, dict):
        return []
    found = [f"{above}{name}" for name in node]
    return found + [key for name, child in node.items() for key in _keys(child, f"{above}{name}.")]

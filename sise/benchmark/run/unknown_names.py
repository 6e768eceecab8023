"""Unknown settings and names, answered with the nearest."""

from __future__ import annotations

import difflib
import importlib.util
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf

from sise.benchmark.places import CONFIGS
from sise.benchmark.terminal import message
from sise.errors import SuiteError, choose
from sise.extras import how_to_install

LAUNCHERS = {
    "joblib": ("joblib", "hydra_plugins.hydra_joblib_launcher"),
    "slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_local": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "ray": ("ray", "ray"),
}
"""Of a launcher: the extra that installs it, and the module that tells whether it is there."""


def check_choices(overrides: Sequence[Override], config_name: str, *, all_known: bool = True) -> None:
    """Names the nearest option of a group; Hydra would pass over an experiment that does not exist.

    Of a list, Hydra merges the options: of metrics into all of them, of others into one that there is not; but
    scripts/explain.py takes several explainers.

    Args:
        overrides: Of the command line.
        config_name: The root configuration.
        all_known: Whether the groups' options are those of the suite; otherwise a name may be one of the user's.
    """
    for override in overrides:
        group = override.key_or_group
        if group.partition("/")[0] == "hydra" and "." not in group and override.value() is None:
            raise SuiteError(f"{override.input_line}: expected a name; leave it out for Hydra's own choice.")
        if group == "hydra/launcher":
            _check_launcher(str(override.value()))
            continue
        folder = CONFIGS / group
        options = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
        if options and override.is_delete():
            wanted = ", ".join(options)
            raise SuiteError(f"{override.input_line}: the {group} cannot be taken away; expected one of {wanted}")
        if not options or isinstance(override.value(), Glob):
            continue
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        for value in values:
            several = (group == "metrics" and value) or (config_name, group) == ("explain", "explainer")
            if isinstance(value, list) and not several:
                words = ",".join(map(str, value))
                sweep = f", or a sweep: -m {group}={words}" if config_name == "evaluate" else ""
                raise SuiteError(f"{override.input_line}: expected one {group} at a time{sweep}")
            for name in value if isinstance(value, list) else [value]:
                if name is None:
                    raise SuiteError(f"{override.input_line}: expected one of {', '.join(options)}; or leave it out.")
                if all_known:
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
        raise SuiteError(f"hydra/launcher={name} needs an extra: {how_to_install(extra)}; see docs/running.md.")
    missing = [program for program in ("srun", "sbatch") if shutil.which(program) is None]
    if name in ("slurm", "submitit_slurm") and missing:
        raise SuiteError(
            f"hydra/launcher={name} needs Slurm, and there is no {missing[0]} here; hydra/launcher=submitit_local runs "
            "the same jobs on this machine."
        )


def explained(error: Exception, config_name: str, overrides: Sequence[Override]) -> str:
    """The error's message; where a setting is unknown, the settings that were probably meant."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        what = f"{error.problem}{f' ({error.context})' if error.context else ''}"
        return (
            f"{relative_to_here(Path(mark.name))}, line {mark.line + 1}: {what}; check the indentation there and above."
        )
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
        return f"cannot read {error.override!r}: {error}\nIf the value is a text, quote it twice: {quoted}"
    if isinstance(error, SuiteError | yaml.YAMLError) or (
        isinstance(error, OSError) and not isinstance(error, HydraException)  # some of Hydra's are both
    ):
        return message(error)
    known = known_settings(config_name, overrides)
    for override in overrides:
        key = override.key_or_group
        if key not in known and not key.startswith("hydra") and not override.is_add():
            above, _, last = key.rpartition(".")
            if above in known and not any(name.startswith(f"{above}.") for name in known):
                value = (override.input_line or "").partition("=")[2]
                return f"{above} has no settings of its own here; give it as a whole: '{above}={{{last}:{value}}}'"
            near = nearest_names(key, known)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else " See --help for all of them."
            return f"unknown setting {key!r} in {override.input_line!r}.{hint}"
    return message(error)


def known_settings(config_name: str, overrides: Sequence[Override]) -> set[str]:
    """Every dotted key of the command's configuration with these groups chosen, and the groups."""
    groups = [
        override.input_line or ""
        for override in overrides
        if (CONFIGS / override.key_or_group / f"{override.value()}.yaml").is_file()
        and not (override.is_add() or override.package or override.key_or_group.startswith("hydra"))
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(config_name, groups)
    return {*_keys(OmegaConf.to_container(cfg)), *(p.name for p in CONFIGS.iterdir() if p.is_dir())}


def nearest_names(key: str, known: Iterable[str]) -> list[str]:
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


def relative_to_here(path: Path) -> Path:
    return path.relative_to(CONFIGS.parent) if path.is_relative_to(CONFIGS.parent) else path


def _keys(node: object, above: str = "") -> list[str]:
    """Every dotted key of a configuration: groups of settings and settings."""
    if not isinstance(node, dict):
        return []
    found = [f"{above}{name}" for name in node]
    return found + [key for name, child in node.items() for key in _keys(child, f"{above}{name}.")]

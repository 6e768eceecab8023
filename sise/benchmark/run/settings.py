"""Checks of settings before anything is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue

from sise.benchmark import process, schemas
from sise.benchmark.names import A_NAME, is_name
from sise.benchmark.run.command_line import UnknownOption, check_settings_once, for_hydra, parsed, settings_of
from sise.benchmark.run.unknown_names import check_choices, known_settings, nearest_names
from sise.errors import SuiteError, choose

LISTS = ("audit", "captions", "classes", "controls", "explainers", "images", "models", "networks", "only", "overrides",
         "parts", "require")  # fmt: skip
"""Settings that are lists: a single value is a list of one."""
MOST_THREADS = 1024
"""OpenMP ends the process where the system has not as many threads as it is asked for."""
NAMES = ("dataset.name", "model.name", "explainer.name", "protocol.name", "table.name", "experiment.name")
"""Settings that files and folders are called by."""
COUNTS = ("count", "masks", "masks_per_layer", "rounds", "precision.images", "sharing.images", "sharing.table_images",
          "peers.masks", "peers.iterations", "peers.rounds", "tables.images", "tables.minimum", "phases.rounds",
          "parity.images", "similarity.lines", "training.batch", "training.scenes", "training.tests",
          "training.halve_every", "training.size", "training.width", "detections.scenes")  # fmt: skip
"""Settings that count something there must be one of."""
SIZES = ("width", "kilobytes", "megabytes", "tables.seconds", "training.lr")
"""Settings that measure something which cannot be empty."""
MOST = 1_000_000
"""The largest of both kinds: with more, nothing would ever be done."""
MOST_WIDTH = 100
"""As many times as wide as it is published, a network still fits into a machine."""
MOST_IMAGES = 65_536
"""Images in a batch, or read ahead: no memory holds more."""
MOST_PIXELS = 8192
"""Of an image's side."""
SCHEMAS = {"explainer": schemas.Explainer, "dataset": schemas.Dataset}
"""Groups whose files users write."""
KEEP = ("none", "expensive", "all")
"""Whose maps a run keeps, see :mod:`sise.benchmark.run.keeping_maps`."""


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
        if group in SCHEMAS:
            schemas.check(SCHEMAS[group], cfg[group], group)
    if "budgets" in cfg and not isinstance(cfg.budgets, DictConfig):
        raise SuiteError(f"budgets: expected settings by name; got budgets={cfg.budgets}")
    if "budget" in cfg and "budgets" in cfg:
        choose("budget", cfg.budget, list(cfg.budgets))
    if "maps" in cfg and not isinstance(cfg.maps, DictConfig):
        raise SuiteError(f"maps: expected settings by name; got maps={cfg.maps}; to keep maps: maps.keep=expensive")
    if "maps" in cfg:
        choose("maps.keep", cfg.maps.keep, KEEP)
    least = 0 if config_name in ("evaluate", "status") else 1
    rules: dict[str, tuple[str, Callable[[object], bool]]] = {
        "limit": (f"null or a whole number from {least}", lambda v: v is None or _whole(v, least)),
        "seed": ("a whole number from 0 to 2^63 - 1", lambda v: _whole(v, 0) and int(str(v)) < 2**63),
        "top": ("a whole number from 0", lambda v: _whole(v, 0)),
        "variant": (
            "a name of letters, digits and . _ - that begins with a letter or digit",
            lambda v: v is not None and bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", str(v))),
        ),
        "image": ("a file, a folder of images, or a list of files", lambda v: v is None or v != []),
        "target": ("a class by name or index, or a list of them", lambda v: v is None or v != []),
        "watch": ("null or seconds above 0", lambda v: v is None or (_number(v) and v > 0)),
        "estimate": ("true, false or seconds above 0", lambda v: isinstance(v, bool) or (_number(v) and v > 0)),
        "maps.leave_free": ("GiB, a number from 0", lambda v: _number(v) and v >= 0),
        "engine.batch_size": (
            f"null or a whole number from 1 to {MOST_IMAGES}",
            lambda v: v is None or _whole(v, 1, MOST_IMAGES),
        ),
        "engine.threads": (
            f"null or a whole number from 1 to {MOST_THREADS}",
            lambda v: v is None or _whole(v, 1, MOST_THREADS),
        ),
        "engine.read_ahead": (f"a whole number from 0 to {MOST_IMAGES}", lambda v: _whole(v, 0, MOST_IMAGES)),
        "engine.stop_after": ("null or a whole number from 1", lambda v: v is None or _whole(v, 1)),
        "explainer.call.mu": ("a number from 0 to 1", lambda v: _number(v) and 0 <= v <= 1),
    }
    rules |= dict.fromkeys(("out", "outputs", "results", "published", "page"), ("a path", lambda v: isinstance(v, str)))
    rules |= dict.fromkeys(NAMES, (A_NAME, is_name))
    of_engine = ("lossless", "compile", "graphs", "fast", "malloc", "cache")
    switches = ("overwrite", "dry_run", *(f"engine.{name}" for name in of_engine))
    rules |= dict.fromkeys(switches, ("true or false", lambda v: isinstance(v, bool)))
    rules |= dict.fromkeys(COUNTS, (f"a whole number from 1 to {MOST}", lambda v: _whole(v, 1, MOST)))
    rules |= dict.fromkeys(SIZES, (f"a number above 0, up to {MOST}", lambda v: _number(v) and 0 < v <= MOST))
    rules["width"] = (f"a number above 0, up to {MOST_WIDTH}", lambda v: _number(v) and 0 < v <= MOST_WIDTH)
    rules["training.size"] = (f"pixels from 1 to {MOST_PIXELS}", lambda v: _whole(v, 1, MOST_PIXELS))
    rules |= dict.fromkeys(("training.momentum", "training.weight_decay"), ("from 0", lambda v: _number(v) and v >= 0))
    rules["training.seed"] = rules["seed"]
    rules["training.threads"] = rules["engine.threads"]
    rules["training.epochs"] = (
        "a whole number from 1, or a list of them",
        lambda v: all(_whole(one, 1) for one in (v or [0] if isinstance(v, ListConfig) else [v])),
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
    set_fast(cfg)


def fast(on_card: bool) -> dict[str, Any]:
    """The settings of the engine that ``engine.fast`` stands for, on a GPU or on a CPU."""
    return {
        "lossless": True,
        "compile": on_card or process.has_cpp_compiler(),
        "graphs": on_card,
        "precision": "fp16" if on_card else "bf16",  # a CPU computes in bf16 faster
    }


def set_fast(cfg: DictConfig) -> None:
    """Sets what ``engine.fast`` stands for on the device at hand; a precision that was chosen stays.

    Args:
        cfg: Composed; without ``engine.fast=true`` nothing changes.
    """
    engine = OmegaConf.select(cfg, "engine")
    if not isinstance(engine, DictConfig) or engine.get("fast") is not True:
        return
    import torch  # --help must not wait for it

    on_card = torch.cuda.is_available() and str(cfg.get("device", "auto")) != "cpu"
    wanted = fast(on_card)
    if engine.precision != "fp32":
        del wanted["precision"]
    engine.update(wanted)


def _has_target(group: DictConfig, key: str) -> bool:
    node = OmegaConf.select(group, key.partition(".")[2])
    return isinstance(node, DictConfig) and isinstance(node.get("_target_"), str)


def _check_device(name: object) -> None:
    """Refuses a device that is not there, also where nothing would be computed on it."""
    if name not in ("auto", "cpu"):
        from sise.benchmark.run.device import choose_device

        choose_device(str(name))


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def checked_words(words: Sequence[str], config_name: str) -> list[str]:
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
    options = [word for word in words if word.startswith("-") and word not in ("-m", "--multirun")]
    check_choices(parsed(words), config_name, all_known=not options)  # --config-dir, say, brings further ones
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
    known = known_settings(config_name, [])
    near = [option.key] if option.key in known else nearest_names(option.key, known)
    key = near[0] if near else option.key
    return f"{option.word}: settings are written key=value here: {key}={option.value or '...'}; --help shows all."

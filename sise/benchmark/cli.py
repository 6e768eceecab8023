"""What the scripts share: composing an experiment's cells, the process's settings, and errors a user can read."""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from collections.abc import Callable, Sequence

import torch
from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sise.types import SuiteError, choose

log = logging.getLogger(__name__)

GROUPS = ("dataset", "model", "explainer", "protocol", "metrics", "engine", "experiment")


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
        return [_with_departures(cfg, config_name, overrides)]
    chosen = dict(o.split("=", 1) for o in overrides if "=" in o)
    general = [o for o in overrides if o.split("=", 1)[0] not in ("model", "explainer")]
    models = [chosen["model"]] if "model" in chosen else list(experiment.models)
    cells = [dict(c) for c in experiment.cells]
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
    return configs


def _with_departures(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Notes what single overrides changed in the protocol, the metrics or the explainer, so that tables can say so."""
    presets = [o for o in overrides if o.split("=", 1)[0] in GROUPS]
    if set(presets) == set(overrides):
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
    if engine.threads:
        torch.set_num_threads(engine.threads)
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


def main(function: Callable[[DictConfig], int | None]) -> Callable[[DictConfig], None]:
    """Turns an expected error into one readable message and exit code 2, a failure count into exit code 1."""

    @functools.wraps(function)
    def wrapped(cfg: DictConfig) -> None:
        try:
            failed = function(cfg)
        except (SuiteError, OmegaConfBaseException, HydraException) as error:
            cause = _suite_error(error)
            print(f"error: {cause if cause else error}", file=sys.stderr)
            raise SystemExit(2) from None
        if failed:
            print(f"{failed} pairs failed; their records say why. The same command tries them again.", file=sys.stderr)
            raise SystemExit(1)

    return wrapped


def _suite_error(error: BaseException | None) -> SuiteError | None:
    """The user's error inside what Hydra wrapped around it while instantiating."""
    while error is not None and not isinstance(error, SuiteError):
        error = error.__cause__
    return error

"""SISE and Ada-SISE: visual explanations of convolutional networks.

    import sise
    saliency = sise.explain(network, image, target)   # (H, W) in [0, 1]

The first use of a name loads torch, and nothing of the benchmark; the harness is ``sise.benchmark``. Names are looked
up when they are used, so that the harness can set what torch reads from the environment when it is loaded.
"""

import importlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sise.api import explain
    from sise.errors import SuiteError
    from sise.layers import find_layers
    from sise.method import ada_sise, sise
    from sise.pictures import overlay
    from sise.probe.probe import Probe
    from sise.registry import explainers
    from sise.scoring import Scorer

if (_checkout := Path(__file__).resolve().parents[1]).joinpath("pyproject.toml").is_file():
    __path__.append(str(_checkout))  # baselines/ and metrics/ lie there

_HOMES = {
    "Probe": "probe.probe",
    "Scorer": "scoring",
    "SuiteError": "errors",
    "ada_sise": "method",
    "explain": "api",
    "explainers": "registry",
    "find_layers": "layers",
    "overlay": "pictures",
    "sise": "method",
}

__all__ = ["Probe", "Scorer", "SuiteError", "ada_sise", "explain", "explainers", "find_layers", "overlay", "sise"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return importlib.metadata.version("sise-benchmark")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"sise.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

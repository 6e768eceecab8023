"""SISE and Ada-SISE: visual explanations of convolutional networks.

    import sise
    saliency = sise.explain(network, image, target)   # (H, W) in [0, 1]

Importing this package loads torch and nothing of the benchmark; the harness is ``sise.benchmark``.
"""

from sise.api import explain
from sise.layers import find_layers
from sise.method import ada_sise, sise
from sise.probe import Probe
from sise.scoring import Scorer
from sise.types import SuiteError

__all__ = ["Probe", "Scorer", "SuiteError", "ada_sise", "explain", "find_layers", "sise"]

"""Sanity checks: what becomes of the maps when the network forgets what it learnt (SISE, Figs. 11 and 13).

A map that explains a network must change with the network's parameters. They are randomised from the classifier down,
block by block and cumulatively, and each map is compared with the map of the trained network.

Two kinds of randomness, each documented where it is made:

* the cascade (Fig. 11) replaces every weight and bias by normal numbers with the standard deviation of the trained
  tensor, so that only what was learnt is lost, not the scale of the activations. Weights are drawn around zero, as
  initialisers draw them: their trained mean is learnt too (a classifier's negative mean alone blanks Grad-CAM).
  Biases and normalisation's scales keep their mean; its running statistics are no parameters and stay;
* the untrained network (Fig. 13) is initialised by its layers' own initialisers, running statistics included.

Reference:
    Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sise.errors import SuiteError
from sise.maps import minmax
from sise.scoring import copied

MOST_SINGLE_STAGES = 4
"""A classifier of more modules than this is randomised in one stage."""


@dataclass(frozen=True)
class Stage:
    """One step of the randomisation.

    Attributes:
        name: What it is called in tables: a module's name, or "block 5".
        modules: Modules with parameters of their own that lose them at this stage, the topmost first.
    """

    name: str
    modules: tuple[str, ...]


def stages(network: nn.Module, image: Tensor, layers: Sequence[str]) -> list[Stage]:
    """The modules of a network in the order in which they are randomised: from the classifier back to the input.

    The order is that of execution. What runs after the last of ``layers`` is the classifier, one stage per module;
    what runs between two layers is one stage, named after the block that the upper one ends.

    Args:
        network: In eval mode; left as it is.
        image: (1, 3, H, W), any input.
        layers: Low to high, ends of the network's blocks.

    Returns:
        Stages, top first. Modules that do not run are in none.
    """
    order: list[str] = []
    handles = []
    for name, module in network.named_modules():
        if name in layers or next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_hook(lambda *_, name=name: order.append(name)))
    try:
        with torch.no_grad():
            network(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    order = list(dict.fromkeys(order))
    parameterised = {n for n, m in network.named_modules() if next(m.parameters(recurse=False), None) is not None}
    blocks: list[list[str]] = [[]]
    for name in order:
        if name in parameterised:
            blocks[-1].append(name)
        if name in layers:
            blocks.append([])
    *body, classifier = blocks
    if len(classifier) <= MOST_SINGLE_STAGES:
        found = [Stage(_short(name), (name,)) for name in classifier[::-1]]
    else:
        found = [Stage("classifier", tuple(classifier[::-1]))]
    found += [Stage(f"block {i}", tuple(b[::-1])) for i, b in reversed(list(enumerate(body, 1)))]
    return [stage for stage in found if stage.modules]


def _short(name: str) -> str:
    return name.removeprefix("network.").lstrip("_")


def randomised(network: nn.Module, modules: Sequence[str], seed: int) -> nn.Module:
    """A copy of a network in which some modules have random parameters.

    Each weight and bias becomes normal numbers with the standard deviation of the trained tensor, around zero if it has
    more than one axis, else around its mean. They are drawn per (seed, parameter's name): a module gets the same
    numbers at every later stage. A tensor whose values are all equal keeps them.

    Args:
        network: Left as it is.
        modules: Names of the modules; their children are not meant.
        seed: Of the numbers.

    Returns:
        The copy, in eval mode.
    """
    duplicate = _copied(network)
    for module in modules:
        for name, parameter in duplicate.get_submodule(module).named_parameters(prefix=module, recurse=False):
            _redraw(parameter, name, seed)
    return duplicate


def _copied(network: nn.Module) -> nn.Module:
    """A copy in eval mode, whose parameters may be changed.

    Raises:
        SuiteError: If the network cannot be copied.
    """
    duplicate = copied(network)
    if duplicate is None:
        raise SuiteError(
            f"{type(network).__name__} cannot be copied (copy.deepcopy fails: does it hold a lock, a file or an "
            "iterator?), and the check gives a copy random parameters, so as not to change it."
        )
    return duplicate


def untrained(network: nn.Module, seed: int) -> nn.Module:
    """A copy of a network as if it had never been trained: each layer by its own initialiser (``reset_parameters``).

    A module that has parameters but no initialiser gets numbers as in :func:`randomised`.

    Args:
        network: Left as it is.
        seed: Of the numbers; torch's own generator is not touched.

    Returns:
        The copy, in eval mode.
    """
    duplicate = _copied(network)
    device = next(duplicate.parameters()).device
    duplicate = duplicate.cpu()  # the same numbers whatever the device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in duplicate.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            else:
                for full, parameter in module.named_parameters(prefix=name, recurse=False):
                    _redraw(parameter, full, seed)
    return duplicate.to(device).eval()


def _redraw(parameter: nn.Parameter, name: str, seed: int) -> None:
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")
    numbers = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(key))
    with torch.no_grad():
        if parameter.min() < parameter.max():
            mean = parameter.mean() if parameter.ndim == 1 else 0
            parameter.copy_(numbers.to(parameter) * parameter.std(unbiased=False) + mean)


# ---------------------------------------------------------------------- how alike two maps are
def constant(saliency: Tensor) -> bool:
    """Whether a map says nothing: then its similarity to another is set by definition."""
    return bool(saliency.min() == saliency.max())


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation of two maps' pixels.

    Args:
        one, other: (H, W).

    Returns:
        In [-1, 1]. By definition 1 if both maps are constant (nothing changed), 0 if one of them is.
    """
    if constant(one) or constant(other):
        return 1.0 if constant(one) and constant(other) else 0.0
    from scipy.stats import rankdata

    ranks = [rankdata(m.detach().cpu().double().numpy().ravel()) for m in (one, other)]
    return float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1))


def structural_similarity(one: Tensor, other: Tensor) -> float:
    """SSIM of two maps, each brought to [0, 1] first, with the Gaussian window of the original article.

    Args:
        one, other: (H, W), 11 pixels a side at least.

    Returns:
        At most 1. A constant map counts as zero everywhere; two of them are equal: 1.

    Reference:
        Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004.
    """
    from skimage.metrics import structural_similarity as ssim

    maps = [minmax(m.detach().cpu().double()).numpy() for m in (one, other)]
    return float(ssim(*maps, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False))

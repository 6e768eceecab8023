"""Further class activation maps: those of the package grad-cam, each made by the package's own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sise.baselines.common import cam_layer_of, check_targets, no_maps, tf32_as_engine, to_saliency
from sise.errors import SuiteError, choose
from sise.extras import require
from sise.probe.capture import captured, take_gradients
from sise.probe.probe import Probe
from sise.ranges import one_of
from sise.scoring import check_scores

METHODS = (
    "EigenCAM", "EigenGradCAM", "FEM", "FinerCAM", "GradCAM", "GradCAMElementWise", "GradCAMPlusPlus", "HiResCAM",
    "KPCA_CAM", "LayerCAM", "SegEigenCAM", "ShapleyCAM", "XGradCAM",
)  # fmt: skip
"""The package's classes that need one layer's maps and gradients; the others run the network in their own way."""
ROUNDING = 1e-6
"""Share of a map's values by which its places differ where only rounding tells them apart: such a map is none."""
NEAREST = 3
"""Classes that FinerCAM compares a target with, those of the nearest scores: the package's default."""


def grad_cam_package(
    probe: Probe,
    targets: Sequence[int],
    *,
    method: Annotated[str, one_of(METHODS)] = "ShapleyCAM",
    layer: str | None = None,
) -> Tensor:
    """A class of the package grad-cam: its combination of a layer's feature maps and gradients.

    The package is given feature maps and gradients, and does not touch the network. EigenCAM, KPCA_CAM and FEM read no
    gradient: their map is the same for every class. The sign of EigenCAM, EigenGradCAM and KPCA_CAM is that of a
    principal component, which linear algebra leaves open. ShapleyCAM and FinerCAM make a pass of their own per target.

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        method: The class, as the package spells it.
        layer: Layer whose feature maps are combined; None takes the probe's ``cam_layer``. Gradients are of the score
            before the softmax; of FinerCAM, of its differences to the three classes of the nearest scores.

    Returns:
        (T, H, W) in [0, 1]: rectified at the layer's resolution, upsampled, min-max per map.

    Raises:
        MissingExtra: If the package is not installed.
        SuiteError: If no layer is known, a target is not a class, the method is unknown, or the probe is of a signal.

    Reference:
        Gildenblat and contributors, "PyTorch library for CAM methods", 2021, version 1.5.7, which names each paper.
    """
    choose("method", method, METHODS)
    targets, layer = check_targets(probe, targets), cam_layer_of(probe, layer)
    if len(probe.size) != 2:
        raise SuiteError("the package grad-cam explains images (1, C, H, W), not signals.")
    if not targets:
        return no_maps(probe)
    require("grad-cam", "explainer grad_cam_package")
    cam = _instance(method, probe)
    maps = torch.stack([_of_target(probe, cam, method, layer, target) for target in targets])
    return to_saliency(F.relu(maps), probe.size, "bilinear")


def _instance(method: str, probe: Probe) -> Any:
    """The package's object; it asks a network for its device and puts hooks into its layers, so it gets a dummy."""
    import pytorch_grad_cam

    dummy = nn.PReLU(device=probe.device)  # has a parameter, and draws no random number
    cam = vars(pytorch_grad_cam)[method](dummy, [dummy])
    return cam.base_cam if method == "FinerCAM" else cam


def _of_target(probe: Probe, cam: Any, method: str, layer: str, target: int) -> Tensor:
    """(h, w), both signs."""
    if method == "ShapleyCAM":
        found = _shapley(probe, cam, layer, target)
    else:
        maps, gradients = probe.feature_maps(layer), None
        if method == "KPCA_CAM" and bool((maps == maps[:, :1, :1]).all()):  # its component would be one of rounding
            return torch.zeros_like(maps[0])
        if method == "FinerCAM":
            gradients = _own_pass(probe, layer, _differences(probe, target))[1].cpu().numpy()
        elif cam.uses_gradients:
            gradients = probe.gradients(layer, target, of="logit")[None].cpu().numpy()
        found = cam.get_cam_image(None, None, None, maps[None].cpu().numpy(), gradients, eigen_smooth=False)
    combined = torch.as_tensor(found[0]).detach().to(probe.image)
    span, largest = combined.max() - combined.min(), combined.abs().max()
    return torch.where(span > ROUNDING * largest, combined, 0)


def _shapley(probe: Probe, cam: Any, layer: str, target: int) -> Tensor:
    """(1, h, w) of ShapleyCAM, which differentiates the gradients again."""
    maps, gradients = _own_pass(probe, layer, itemgetter(target), twice=True)
    gradients = gradients + 0 * maps  # where the score is linear in the maps, its second derivative is 0
    try:
        return cam.get_cam_image(None, None, None, maps, gradients, eigen_smooth=False)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise SuiteError(f"ShapleyCAM needs second derivatives, which the network has not: {error}") from error


def _differences(probe: Probe, target: int) -> Callable[[Tensor], Tensor]:
    """FinerCAM's score of a target, a function of all scores (K,)."""
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    distances = (probe.scores() - probe.scores()[target]).abs()
    distances[target] = -1
    return FinerWeightedTarget(target, distances.argsort(stable=True)[1 : 1 + NEAREST].tolist(), 1)


def _own_pass(
    probe: Probe, layer: str, score: Callable[[Tensor], Tensor], *, twice: bool = False
) -> tuple[Tensor, Tensor]:
    """(1, C, h, w) feature maps, and gradients of a function of the scores (K,); ``twice``: to differentiate again."""
    with torch.enable_grad(), tf32_as_engine(probe), captured(probe.network, [layer]) as found:
        scores = check_scores(probe.network(probe.image.clone().requires_grad_()), 1)
        maps = {repr(layer): found[layer]}
        gradients = take_gradients(score(scores[0]), maps, create_graph=twice)
    probe.count(forward=1, backward=1 + twice)
    return maps[repr(layer)], gradients[repr(layer)]

"""The two-line door: a saliency map for an image, without the harness."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sise.layers import check_layers, evaluating, find_layers, uncompiled
from sise.method import sise
from sise.probe import Probe
from sise.torch_state import ONE_AT_A_TIME, eager
from sise.types import REMARKS, Confidence, Explainer, SuiteError

log = logging.getLogger(__name__)


def explain(
    model: nn.Module,
    image: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    *,
    explainer: Explainer | Callable[..., Tensor] = sise,
    layers: str | Sequence[str] | None = None,
    confidence: Confidence = "softmax",
) -> Tensor:
    """Explains one decision of a convolutional network.

    The model comes back as it was: its mode (it runs in evaluation mode here), hooks, parameters, their ``grad`` and
    ``requires_grad``, its device. So does torch's global random generator.

    May be called from several threads, on one network or on different ones: the calls wait for each other, and give
    what they give alone. Other threads may score images with a network in evaluation mode meanwhile, but not train it.

    Assumed is a network whose scores of an image depend on that image alone and have a gradient. The first is checked
    by a pass of three images: a network that is random in evaluation mode is refused, one that looks at the whole batch
    gets each image by itself, with a warning. A gradient that is missing or NaN is refused where an explainer needs it.

    Args:
        model: ``(N, C, H, W) -> (N, K)`` scores before softmax; ``(N, C, L) -> (N, K)`` for signals.
        image: (C, H, W) or (1, C, H, W), as the model expects it: scaled and normalised, float32, on its device.
        target: Class index, or several; None takes the best class.
        explainer: ``sise.sise``, ``sise.ada_sise`` or any explainer of the suite; ``functools.partial`` sets options,
            e.g. ``partial(sise.sise, gate="otsu_hard")`` for SISE to the letter of its paper.
        layers: The layers to read, low to high; None finds them: the inputs of the model's downsampling stages. CAM
            methods read the last. ``[]`` is for explainers that need none, such as RISE, on models without feature
            maps.
        confidence: What the scores are turned into: ``softmax`` for one class of many, ``sigmoid`` for labels that do
            not exclude each other. Feature maps are selected by the gradient of the same.

    Returns:
        Saliency in [0, 1], float32, on the image's device: (H, W) for one class or None, (T, H, W) for a sequence of
        T classes. Zero everywhere where the explainer finds no evidence for the class.

    Raises:
        SuiteError: With the fix in it, e.g. if the model has no layer with spatial feature maps.

    Example:
        >>> import torch, torchvision, sise
        >>> model = torchvision.models.resnet18(weights=None)
        >>> sise.explain(model, torch.randn(3, 64, 64), target=3).shape
        torch.Size([64, 64])
    """
    if not callable(explainer):
        raise SuiteError(f"explainer must be a function such as sise.sise or sise.ada_sise, got {explainer!r}.")
    if type(target).__module__ == "numpy":
        target = target.tolist()
    image = _one_image(model, image)
    model = uncompiled(model)
    precise = torch.autocast(image.device.type, enabled=False)
    with ONE_AT_A_TIME, torch.inference_mode(False), precise, eager(), evaluating(model):
        size, channels = tuple(image.shape[2:]), image.shape[1]
        if layers is None:
            layers = find_layers(model, size, channels=channels)
        else:
            layers = [layers] if isinstance(layers, str) else layers
            check_layers(model, layers, size, channels=channels)
        gradient = "log_odds" if confidence == "softmax" else "logit"
        probe = Probe(model, image.clone(), layers=layers, confidence=confidence, gradient=gradient)
        scores = probe.scores()
        if confidence == "softmax" and (scores >= 0).all() and abs(float(scores.sum()) - 1) < 1e-4:
            log.warning(
                "the scores of the image are positive and add up to 1: if they are probabilities, take the softmax out "
                'of the model, or give confidence="logit", which takes them as they are'
            )
        targets = _targets(target, probe)
        saliency = explainer(probe, targets)
    for remark in probe.remarks:
        log.warning("%s", REMARKS[remark])
    return saliency if isinstance(target, Sequence) or (isinstance(target, Tensor) and target.ndim) else saliency[0]


def _one_image(model: nn.Module, image: Any) -> Tensor:
    """The image as (1, C, *size), checked against the model's convolutions, type and device."""
    if not isinstance(image, Tensor):
        raise SuiteError(
            f"the image must be a tensor (C, H, W) as the model expects it, scaled and normalised; got "
            f"{type(image).__name__}. torchvision.transforms.v2 makes one of a PIL image or an array."
        )
    signal = any(isinstance(m, nn.Conv1d) for m in model.modules())
    signal = signal and not any(isinstance(m, nn.Conv2d) for m in model.modules())
    dimensions, shape = (1, "(C, L)") if signal else (2, "(C, H, W)")
    if image.ndim == dimensions + 2 and len(image) != 1:
        raise SuiteError(
            f"one image at a time: expected {shape} or a batch of one, got a batch of {len(image)}; call "
            "sise.explain for each image of the batch."
        )
    if image.ndim == dimensions + 1:
        image = image[None]
    if image.ndim != dimensions + 2 or 0 in image.shape:
        raise SuiteError(f"expected one image of shape {shape} or a batch of one, got {tuple(image.shape)}.")
    if image.dtype != torch.float32:
        raise SuiteError(
            f"the image is {image.dtype}; scale and normalise it as the model expects it, then image.float()."
        )
    parameter = next((p for p in model.parameters() if p.is_floating_point()), image)
    if parameter.device != image.device:
        raise SuiteError(f"the image is on {image.device}, the model on {parameter.device}: image.to(...) that device.")
    if image.layout != torch.strided:
        raise SuiteError(f"the image is {image.layout}, expected a dense tensor: image.to_dense().")
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise SuiteError(
            "the model was made or loaded inside torch.inference_mode(), so it can have no gradients: make it outside."
        )
    if parameter.dtype != torch.float32:
        raise SuiteError(f"the model is {parameter.dtype}, expected float32: explain model.float().")
    return image


def _targets(target: int | Sequence[int] | Tensor | None, probe: Probe) -> list[int]:
    """Class indices, checked."""
    scores = probe.scores()
    if target is None:
        return [int(scores.argmax())]
    given = target.reshape(-1).tolist() if isinstance(target, Tensor) else target
    given = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not given:
        raise SuiteError("the list of targets is empty; None takes the best class.")
    return [_class_index(one, len(scores)) for one in given]


def _class_index(target: Any, classes: int) -> int:
    with contextlib.suppress(TypeError):
        if not isinstance(target, bool) and 0 <= operator.index(target) < classes:
            return operator.index(target)
    raise SuiteError(
        f"target {target!r} is no class index: the model scores classes 0 to {classes - 1}; None takes the best one."
    )

"""The two-line door: a saliency map for an image, without the harness."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from tqdm import tqdm

from sise.choices import Confidence, GradientScore
from sise.errors import SuiteError
from sise.layers import check_layers, evaluating, find_layers, uncompiled
from sise.method import sise
from sise.probe.probe import Probe
from sise.registry import explainer_of
from sise.torch_state import ONE_AT_A_TIME, eager, usual_defaults
from sise.types import REMARKS, Explainer
from sise.untrained import looks_untrained

log = logging.getLogger(__name__)

_TO_FLOAT32 = "explain model.float(), which converts it in place, or copy.deepcopy(model).float()"


@overload
def explain(
    model: nn.Module,
    image: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    *,
    explainer: str | Explainer | Callable[..., Tensor] = sise,
    layers: str | Sequence[str] | None = None,
    confidence: Confidence = "softmax",
) -> Tensor: ...


@overload
def explain(
    model: nn.Module,
    image: Sequence[Tensor],
    target: Sequence[int | Sequence[int] | Tensor | None] | None = None,
    *,
    explainer: str | Explainer | Callable[..., Tensor] = sise,
    layers: str | Sequence[str] | None = None,
    confidence: Confidence = "softmax",
) -> list[Tensor]: ...


def explain(
    model: nn.Module,
    image: Tensor | Sequence[Tensor],
    target: Any = None,
    *,
    explainer: str | Explainer | Callable[..., Tensor] = sise,
    layers: str | Sequence[str] | None = None,
    confidence: Confidence = "softmax",
) -> Tensor | list[Tensor]:
    """Explains decisions of a convolutional network: one image's, or those of a list of images.

    The model comes back as it was: its mode (it runs in evaluation mode here), hooks, parameters, their ``grad`` and
    ``requires_grad``, its device. So does torch's global random generator.

    May be called from several threads, on one network or on different ones: the calls wait for each other, and give
    what they give alone. Other threads may score images with a network in evaluation mode meanwhile, but not train it.

    Assumed is a network whose scores of an image depend on that image alone and have a gradient. The first is checked
    by a pass of three images: a network that is random in evaluation mode is refused, one that looks at the whole batch
    gets each image by itself, with a warning. A gradient that is missing or NaN is refused where an explainer needs it.
    A network that nobody has trained, such as torchvision's with ``weights=None``, gets a warning.

    Fusion's gates are soft, here and in the command ``sise explain``, as in the code of SISE's authors: that is the map
    others know, pixels beside a layer's brightest part keep their order, and rounding cannot switch a pixel off. The
    paper's text says "binary mask" (PROTOCOL F6), which cuts the map along outlines; ``sise evaluate`` takes it unless
    told otherwise. Neither finds better pixels: of the four photos in docs/explain.md the best 15 % keep more
    confidence by SISE's binary gates on three, by Ada-SISE's on one.

    Args:
        model: ``(N, C, H, W) -> (N, K)`` scores before softmax; ``(N, C, L) -> (N, K)`` for signals. In float32.
        image: (C, H, W) or (1, C, H, W), as the model expects it: scaled and normalised, float32, on its device. Or a
            list of such; a bar on standard error tells how far it is.
        target: Class index, or several; None takes the best class. Of a list of images one such per image, or None.
        explainer: A name of ``sise.explainers()``, ``sise.sise``, ``sise.ada_sise`` or any function like them;
            ``functools.partial`` sets options, e.g. ``partial(sise.sise, gate="otsu_hard")`` for SISE to the letter of
            its paper, the command's ``protocol=paper``.
        layers: The layers to read, low to high; None finds them: the inputs of the model's downsampling stages. CAM
            methods read the last. ``[]`` is for explainers that need none, such as RISE, on models without feature
            maps.
        confidence: What the scores are turned into: ``softmax`` for one class of many, ``sigmoid`` for labels that do
            not exclude each other. Feature maps are selected by the gradient of the same.

    Returns:
        Saliency in [0, 1], float32, on the image's device: (H, W) for one class or None, (T, H, W) for a sequence of
        T classes. Zero everywhere where the explainer finds no evidence for the class. A list of these for a list of
        images.

    Raises:
        SuiteError: With the fix in it, e.g. if the model has no layer with spatial feature maps.

    Example:
        >>> import torch, torchvision, sise
        >>> model = torchvision.models.resnet18(weights=None)
        >>> sise.explain(model, torch.randn(3, 64, 64), target=3).shape
        torch.Size([64, 64])
    """
    if isinstance(explainer, str):
        explainer = explainer_of(explainer)
    if not callable(explainer):
        raise SuiteError(
            f"explainer must be a name of sise.explainers(), or a function such as sise.sise, got {explainer!r}."
        )
    if type(target).__module__ == "numpy":
        target = target.tolist()
    if not isinstance(image, list | tuple):
        return _explain_one(model, image, target, explainer, layers, confidence)
    given = [None] * len(image) if target is None else target
    if not isinstance(given, list | tuple) or len(given) != len(image):
        raise SuiteError(f"of {len(image)} images, expected one target each, as a list, or None; got {target!r}.")
    pairs = tqdm(list(zip(image, given, strict=True)), unit="image", disable=len(image) < 2)
    return [
        _explain_one(model, one, wanted, explainer, layers, confidence, first=number == 0)
        for number, (one, wanted) in enumerate(pairs)
    ]


def _explain_one(
    model: nn.Module,
    image: Any,
    target: Any,
    explainer: Explainer | Callable[..., Tensor],
    layers: str | Sequence[str] | None,
    confidence: Confidence,
    *,
    first: bool = True,
) -> Tensor:
    """The map of one image, or its maps; of the ``first`` of a list with what is to say of the network."""
    image = _one_image(model, image)
    model = uncompiled(model)
    precise = torch.autocast(image.device.type, enabled=False)
    with ONE_AT_A_TIME, usual_defaults(), torch.inference_mode(False), precise, eager(), evaluating(model):
        size, channels = tuple(image.shape[2:]), image.shape[1]
        if layers is None:
            layers = find_layers(model, size, channels=channels)
        else:
            layers = [layers] if isinstance(layers, str) else layers
            check_layers(model, layers, size, channels=channels)
        gradient: GradientScore = "log_odds" if confidence == "softmax" else "logit"
        probe = Probe(model, image.clone(), layers=layers, confidence=confidence, gradient=gradient)
        scores = probe.scores()
        if confidence == "softmax" and (scores >= 0).all() and abs(float(scores.sum()) - 1) < 1e-4:
            log.warning(
                "the scores of the image are positive and add up to 1: if they are probabilities, take the softmax out "
                'of the model, or give confidence="logit", which takes them as they are'
            )
        if first and looks_untrained(model):
            log.warning(
                "the network looks untrained (each layer is as an initialiser leaves it, as with weights=None): its "
                "maps mean nothing; load trained weights into it"
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
            f"one image at a time: expected {shape} or a batch of one, got a batch of {len(image)}; give "
            "sise.explain a list of images: list(batch)."
        )
    if image.ndim == dimensions + 1:
        image = image[None]
    if image.ndim != dimensions + 2 or 0 in image.shape:
        raise SuiteError(f"expected one image of shape {shape} or a batch of one, got {tuple(image.shape)}.")
    lazy = next((n for n, p in [*model.named_parameters(), *model.named_buffers()] if is_lazy(p)), None)
    if lazy is not None:
        raise SuiteError(
            f"the model's {lazy!r} has no shape yet, as in a lazy layer before its first pass, so the model is not "
            "trained: run it once on an image, and load its weights."
        )
    parameter = next((p for p in model.parameters() if p.is_floating_point()), image)
    if image.dtype != torch.float32:
        also = (
            f", and so is the model: {_TO_FLOAT32}" if parameter is not image and parameter.dtype == image.dtype else ""
        )
        raise SuiteError(
            f"the image is {image.dtype}; scale and normalise it as the model expects it, then image.float(){also}."
        )
    if parameter.device != image.device:
        raise SuiteError(f"the image is on {image.device}, the model on {parameter.device}: image.to(...) that device.")
    if image.layout != torch.strided:
        raise SuiteError(f"the image is {image.layout}, expected a dense tensor: image.to_dense().")
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise SuiteError(
            "the model was made or loaded inside torch.inference_mode(), so it can have no gradients: make it outside."
        )
    if parameter.dtype != torch.float32:
        raise SuiteError(f"the model is {parameter.dtype}, expected float32: {_TO_FLOAT32}.")
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

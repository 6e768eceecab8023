"""How far this suite's explainers are from other libraries' of the same method, on the networks that ship with it.

A library's attributions get the same last steps as this suite's, so that their definitions are compared and not their
ways to resize, to reduce channels or to scale. Methods that draw random numbers of their own, and methods that a
library defines otherwise, have no row.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from unittest import mock

import pandas as pd
import torch
from hydra.utils import get_method
from omegaconf import DictConfig
from torch import Tensor, nn

from sise.baselines.common import attribution_maps
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import LABELS, experiment_cells
from sise.benchmark.run import cells, probing
from sise.benchmark.run.session import choose_pairs
from sise.benchmark.terminal import Progress
from sise.devices import allow_tf32
from sise.errors import SuiteError
from sise.maps import minmax, upsample
from sise.probe.probe import Probe

LAYERS = {
    "resnet50": {"excitation": "layer3", "contrast": "avgpool"},
    "vgg16": {"excitation": "features.23", "contrast": "classifier.4"},
}
"""TorchRay's layers of excitation backprop."""
ITERATIONS = 5
MASKS = 100


@dataclass(frozen=True)
class Case:
    """One decision for a library to explain.

    Attributes:
        network: A copy that a library may change.
        image: (1, 3, H, W).
        target: Class index.
        layer: The CAM layer.
        others: `LAYERS` of the network.
    """

    network: nn.Module
    image: Tensor
    target: int
    layer: str
    others: Mapping[str, str]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.image.shape[2:]
        return height, width

    @property
    def module(self) -> nn.Module:
        """The CAM layer itself."""
        return self.network.get_submodule(self.layer)

    def leaf(self) -> Tensor:
        """The image, for a library that differentiates by it."""
        return self.image.clone().requires_grad_()

    def signed(self, attributions: Tensor) -> Tensor:
        """(H, W) map of (1, C, H, W) attributions, both signs kept."""
        return attribution_maps(attributions.detach(), self.size, "sum_signed")[0]

    def rectified(self, maps: Tensor) -> Tensor:
        """(H, W) map of a layer's summed (h, w) map: positive part, resized, min-max."""
        return minmax(upsample(maps.detach().relu().view(1, *maps.shape[-2:]), self.size))[0]


@dataclass(frozen=True)
class Witness:
    """Another library's version of an explainer.

    Attributes:
        package: As its index calls it.
        explainer: ``baselines.<explainer>.<explainer>``.
        attribute: Its finished (H, W) map.
        options: Settings under which this suite's is the same method.
    """

    package: str
    explainer: str
    attribute: Callable[[Case], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)

    def explain(self, probe: Probe, case: Case) -> Tensor:
        """This suite's (H, W) map."""
        options = {
            key: case.others.get(value, value) if key == "layer" else value for key, value in self.options.items()
        }
        function = get_method(f"baselines.{self.explainer}.{self.explainer}")
        return function(probe, [case.target], **options)[0]


# ---------------------------------------------------------------------- the libraries
def _captum(name: str, case: Case, *inputs: Any, **options: Any) -> Tensor:
    import captum.attr

    made = getattr(captum.attr, name)(case.network, *inputs)
    return made.attribute(case.leaf(), target=case.target, **options)


def _captum_signed(name: str, case: Case, **options: Any) -> Tensor:
    return case.signed(_captum(name, case, **options))


def _captum_guided_grad_cam(case: Case) -> Tensor:
    return case.signed(_captum("GuidedGradCam", case, case.module, interpolate_mode="bilinear"))


def _captum_grad_cam(case: Case) -> Tensor:
    return case.rectified(_captum("LayerGradCam", case, case.module))


def _captum_occlusion(case: Case) -> Tensor:
    import captum.attr

    occlusion = captum.attr.Occlusion(lambda images: case.network(images).double().softmax(dim=1).float())
    with torch.no_grad():
        found = occlusion.attribute(
            case.image, target=case.target, sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16),
            perturbations_per_eval=32,
        )  # fmt: skip
    return attribution_maps(found[:, :1], case.size, "sum_signed")[0]  # each channel carries the whole loss


def _torchray(name: str, case: Case, **options: Any) -> Tensor:
    """A gradient-type method of TorchRay's, with the map's channels already reduced: (1, 1, h, w)."""
    from importlib import import_module

    function = getattr(import_module(f"torchray.attribution.{name}"), name)
    return function(case.network, case.image.clone(), case.target, **options).detach()


def _torchray_largest(name: str, case: Case) -> Tensor:
    return attribution_maps(_torchray(name, case), case.size, "sum_positive")[0]


def _torchray_layer(name: str, case: Case) -> Tensor:
    return case.rectified(_torchray(name, case, saliency_layer=case.layer))


def _torchray_linear(case: Case) -> Tensor:
    found = _torchray("linear_approx", case, saliency_layer=case.layer)
    return attribution_maps(found, case.size, "sum_positive")[0]


def _torchray_excitation(contrastive: bool, case: Case) -> Tensor:
    import torchray.attribution.excitation_backprop as theirs

    network = case.network
    if hasattr(network, "layer4"):  # its ResNets need sums that it can patch, and to be of the class it knows
        with mock.patch.object(theirs, "ResNet", type(network)):
            network = theirs.update_resnet(network)
    layers = {"saliency_layer": case.others["excitation"]}
    if contrastive:
        found = theirs.contrastive_excitation_backprop(
            network, case.image.clone(), case.target, contrast_layer=case.others["contrast"], **layers
        )
    else:
        found = theirs.excitation_backprop(network, case.image.clone(), case.target, **layers)
    return attribution_maps(found.detach(), case.size, "sum_positive")[0]


def _torchray_rise(case: Case) -> Tensor:
    import torchray.attribution.rise

    from sise.baselines.rise import mask_bank

    masks = mask_bank(MASKS, 7, 0.5, case.size, 0).masks(0, MASKS, case.image.device)[:, None]

    def logits_of_confidence(images: Tensor) -> Tensor:
        """TorchRay takes the sigmoid of what the network gives; the suite weighs by the softmax."""
        return case.network(images).double().softmax(dim=1).clamp(1e-30, 1 - 1e-15).logit().float()

    network = _Wrapped(logits_of_confidence)
    found = torchray.attribution.rise.rise(network, case.image, filter_masks=masks, num_masks=MASKS)
    return minmax(found[0, case.target].detach().float()[None])[0]


class _Wrapped(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def _torchray_perturbation(case: Case) -> Tensor:
    from sise.baselines.extremal_perturbation import extremal_perturbation

    probe = Probe(case.network, case.image)
    return extremal_perturbation(probe, [case.target], max_iter=ITERATIONS, implementation="torchray")[0]


def _grad_cam_package(name: str, case: Case) -> Tensor:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    silent = contextlib.redirect_stderr(io.StringIO())  # it has progress bars of its own
    with silent, getattr(pytorch_grad_cam, name)(case.network, [case.module]) as cam:
        return minmax(torch.from_numpy(cam(case.image.clone(), [ClassifierOutputTarget(case.target)])))[0]


def _torchcam(name: str, case: Case) -> Tensor:
    import torchcam.methods

    with getattr(torchcam.methods, name)(case.network, case.layer) as cam:
        return case.rectified(cam(case.target, case.network(case.leaf()), normalized=False)[0])


def _zennit(composite: str, case: Case) -> Tensor:
    import zennit.composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer

    canonizers = [ResNetCanonizer()] if hasattr(case.network, "layer4") else []
    made = getattr(zennit.composites, composite)(canonizers=canonizers)
    scores = case.network(case.image).detach()
    seed = torch.zeros_like(scores)
    seed[0, case.target] = scores[0, case.target]
    with Gradient(case.network, made) as attributor:
        return case.signed(attributor(case.image.clone(), seed)[1])


def _zennit_largest(composite: str, case: Case) -> Tensor:
    import zennit.composites
    from zennit.attribution import Gradient

    seed = torch.zeros_like(case.network(case.image)).detach()
    seed[0, case.target] = 1
    with Gradient(case.network, getattr(zennit.composites, composite)()) as attributor:
        return attribution_maps(attributor(case.image.clone(), seed)[1].detach(), case.size, "abs_max")[0]


SIGNED = {"reduce": "sum_signed"}
WITNESSES = (
    Witness("captum", "gradient", functools.partial(_captum_signed, "Saliency", abs=False), SIGNED),
    Witness("torchray", "gradient", functools.partial(_torchray_largest, "gradient")),
    Witness("captum", "gradient_x_input", functools.partial(_captum_signed, "InputXGradient"), SIGNED),
    Witness(
        "captum", "integrated_gradients",
        functools.partial(_captum_signed, "IntegratedGradients", n_steps=50, internal_batch_size=50), SIGNED,
    ),
    Witness("captum", "guided_backprop", functools.partial(_captum_signed, "GuidedBackprop"), SIGNED),
    Witness("torchray", "guided_backprop", functools.partial(_torchray_largest, "guided_backprop")),
    Witness("zennit", "guided_backprop", functools.partial(_zennit_largest, "GuidedBackprop")),
    Witness("captum", "deconvnet", functools.partial(_captum_signed, "Deconvolution"), SIGNED),
    Witness("torchray", "deconvnet", functools.partial(_torchray_largest, "deconvnet")),
    Witness("zennit", "deconvnet", functools.partial(_zennit_largest, "DeconvNet")),
    Witness("captum", "guided_grad_cam", _captum_guided_grad_cam, SIGNED),
    Witness(
        "torchray", "excitation_backprop", functools.partial(_torchray_excitation, False), {"layer": "excitation"}
    ),
    Witness(
        "torchray", "contrastive_excitation_backprop", functools.partial(_torchray_excitation, True),
        {"layer": "excitation"},
    ),
    Witness("zennit", "lrp", functools.partial(_zennit, "EpsilonPlus"), SIGNED),
    Witness("captum", "grad_cam", _captum_grad_cam),
    Witness("torchray", "grad_cam", functools.partial(_torchray_layer, "grad_cam")),
    Witness("grad-cam", "grad_cam", functools.partial(_grad_cam_package, "GradCAM")),
    Witness("torchcam", "grad_cam", functools.partial(_torchcam, "GradCAM")),
    Witness("grad-cam", "grad_cam_pp", functools.partial(_grad_cam_package, "GradCAMPlusPlus")),
    Witness("grad-cam", "hires_cam", functools.partial(_grad_cam_package, "HiResCAM")),
    Witness("grad-cam", "layer_cam", functools.partial(_grad_cam_package, "LayerCAM")),
    Witness("torchcam", "layer_cam", functools.partial(_torchcam, "LayerCAM")),
    Witness("grad-cam", "xgrad_cam", functools.partial(_grad_cam_package, "XGradCAM")),
    Witness("torchcam", "xgrad_cam", functools.partial(_torchcam, "XGradCAM")),
    Witness("grad-cam", "ablation_cam", functools.partial(_grad_cam_package, "AblationCAM")),
    Witness("torchray", "linear_approx", _torchray_linear),
    Witness("captum", "occlusion", _captum_occlusion, SIGNED),
    Witness("torchray", "rise", _torchray_rise, {"n_masks": MASKS}),
    Witness("torchray", "extremal_perturbation", _torchray_perturbation, {"max_iter": ITERATIONS, "exact": True}),
)  # fmt: skip


# ---------------------------------------------------------------------- the table
def installed(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference of two maps, relative to the largest value of the second; NaN if that is zero."""
    peak = float(expected.abs().max())
    return float((got.cpu().double() - expected.cpu().double()).abs().max()) / peak if peak else float("nan")


def parity(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """One row per explainer and library: the largest difference of their maps, on the shipped networks and scenes.

    Raises:
        SuiteError: If none of the libraries is installed.
    """
    there = {w.package: installed(w.package) for w in WITNESSES}
    witnesses = [w for w in WITNESSES if there[w.package]]
    if not witnesses:
        raise SuiteError(f"parity needs at least one of {', '.join(there)}: pip install them, or leave the part out.")
    rows: list[dict[str, Any]] = [
        {"explainer": w.explainer, "library": f"{w.package} {there[w.package]}"} for w in witnesses
    ]
    notes = [
        f"Largest difference of two maps / largest value of the library's, over {cfg.parity.images} scenes of the "
        "embedded data, one class each; 0 means equal bits. Networks: the narrow ones that ship with the suite.",
        "The library's attributions get this suite's last steps: channels reduced as the suite's default or with both "
        "signs kept, resized, scaled to a peak of 1.",
        f"RISE: {MASKS} masks, the same. Extremal Perturbation: {ITERATIONS} iterations, exact=true.",
        "No row: methods that draw random numbers of their own, and those that a library defines otherwise.",
    ]
    notes += [f"{package} is not installed: its rows are missing." for package, found in there.items() if not found]
    for name in cfg.networks:
        configuration = experiment_cells(cfg, name)[0]
        (cell,) = cells.make_cells([configuration])
        scorer = probing.make_scorer(cell.model.network.to(device), cell.cfg.engine)
        pairs = choose_pairs(cell, cfg.parity.images, 0)
        probes = [probing.make_probe(cell, cell.dataset[image_id], scorer, device) for image_id, _ in pairs]
        targets = [cell.outputs[cell.dataset.classes[target]] for _, target in pairs]
        for row, witness in zip(rows, Progress(witnesses, desc=f"{LABELS[name]}, parity", unit="row"), strict=True):
            found = []
            for probe, target in zip(probes, targets, strict=True):
                network = copy.deepcopy(cell.model.network)
                case = Case(network, probe.image, target, cell.model.cam_layer, LAYERS[name])
                with allow_tf32(False):
                    found.append(difference(witness.explain(probe, case), witness.attribute(case)))
            row[LABELS[name]] = max(found)
        yield [Report("parity", "Explainers beside other libraries", pd.DataFrame(rows), notes, timed=False)]

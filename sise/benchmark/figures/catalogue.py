"""The catalogue of explainers: what each reads and costs, which networks it refuses, and docs/explainers.md of that.

What can be looked up is: names and settings in the configs, papers in the docstrings, costs on the probe's bill,
refusals by trying.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose
from hydra.utils import get_method, instantiate
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from sise.benchmark.markdown import markdown_table
from sise.benchmark.models import architectures
from sise.benchmark.models.mnist1d import ShallowCNN
from sise.benchmark.performance.subject import bring_to_life
from sise.benchmark.places import CONFIGS
from sise.benchmark.records.files import csv_text, write_whole
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError
from sise.layers import find_layers
from sise.probe.probe import Probe

REDUCTIONS = {
    "abs_max": "largest magnitude over channels",
    "abs_sum": "sum of magnitudes",
    "sum_positive": "positive part of the sum",
    "sum_signed": "sum, both signs",
}
POSITIVE, NONE, MASK = "positive part", "no negative values arise", "no sign: a mask"


@dataclass(frozen=True)
class Entry:
    """What no config and no docstring says of an explainer.

    Attributes:
        name: Its config.
        reads: What it makes its map of.
        sign: What becomes of negative values; None = its config's ``reduce``.
    """

    name: str
    reads: str
    sign: str | None = None


@dataclass(frozen=True)
class Missing:
    """A method that the sources name and the suite does not have, and why."""

    name: str
    why: str


IMAGE = "gradients at the image"
RULE = "backward rule"
LAYER = "a layer's maps and gradients"
FORWARD = "masked images"
FAMILIES: dict[str, tuple[Entry, ...]] = {
    "SISE and the rivals of its tables": (
        Entry("sise", "gradients choose feature maps; images masked by them", NONE),
        Entry("ada_sise", "as SISE", NONE),
        Entry("ada_sise_table", "as SISE", NONE),
        Entry("grad_cam", LAYER, POSITIVE),
        Entry("grad_cam_authors", LAYER, POSITIVE),
        Entry("grad_cam_pp", LAYER, POSITIVE),
        Entry("grad_cam_pp_authors", LAYER, POSITIVE),
        Entry("score_cam", "images masked by feature maps", POSITIVE),
        Entry("rise", "randomly masked images", NONE),
        Entry("extremal_perturbation", "gradients at a mask, optimised", MASK),
        Entry("integrated_gradients", IMAGE),
        Entry("full_grad", "gradients at the image and at biases", "magnitudes"),
    ),
    "Gradients": (
        Entry("gradient", IMAGE),
        Entry("gradient_x_input", IMAGE),
        Entry("linear_approx", LAYER),
        Entry("smooth_grad", IMAGE + ", with noise"),
        Entry("guided_backprop", RULE),
        Entry("deconvnet", RULE),
        Entry("guided_grad_cam", RULE + "; a layer's maps and gradients"),
    ),
    "Excitation backprop": (
        Entry("excitation_backprop", RULE),
        Entry("contrastive_excitation_backprop", RULE),
    ),
    "Relevance propagation": (
        Entry("lrp", RULE),
        Entry("rap", RULE),
        Entry("rsp", RULE + "; a layer's maps and gradients"),
    ),
    "Layers": (
        Entry("norm_grad", LAYER, "magnitudes"),
        Entry("cameras", LAYER + ", at several sizes", POSITIVE),
        Entry("ucag", LAYER + ", of enlarged patches", POSITIVE),
        Entry("hires_cam", LAYER, POSITIVE),
        Entry("layer_cam", LAYER, POSITIVE),
        Entry("xgrad_cam", LAYER, POSITIVE),
        Entry("integrated_grad_cam", LAYER + ", along a path", POSITIVE),
        Entry("smooth_grad_cam_pp", LAYER + ", with noise", POSITIVE),
        Entry("ablation_cam", "scores without a feature map", POSITIVE),
        Entry("grad_cam_package", LAYER, POSITIVE),
    ),
    "Surrogates and occlusion": (
        Entry("occlusion", FORWARD),
        Entry("lime", FORWARD),
        Entry("kernel_shap", FORWARD),
        Entry("gradient_shap", IMAGE + ", along paths"),
    ),
    "Controls": (
        Entry("ground_truth", "the annotation", MASK),
        Entry("centre", "nothing", NONE),
        Entry("uniform", "nothing", NONE),
        Entry("random", "nothing", NONE),
        Entry("smooth_noise", "nothing", NONE),
    ),
}
"""By family and in the order of the page and the picture; what is not named here comes last, see :func:`families`."""
FURTHER = "Further explainers"
MISSING = (
    Missing("CAM", "on a network with a linear layer behind global pooling it is Grad-CAM times a constant"),
    Missing(
        "c\\*EBP, c\\*LRP, c\\*RSP",
        "no source defines c\\*; readings of it: `contrast: others`, RSP's `start: relative`",
    ),
    Missing(
        "DeepMask, DeepSaliency, Pixel Objectness",
        "networks that segment, no explainers; the talk prints their numbers",
    ),
    Missing("RSP + CRF", "the library for fully connected CRFs is not maintained"),
    Missing("WGCAM", "neither the talk that prints its numbers nor its code defines it"),
    Missing("D-RISE", "explains a detection, no class of an image: `python scripts/figures.py figure=detections`"),
    Missing(
        "BiLRP",
        "explains a pair of images, no saliency map: `python scripts/figures.py figure=similarity`",
    ),
    Missing("DeepLIFT, Deep SHAP", "captum's fail on ResNets, and on ReLU6 are input times gradient without a warning"),
    Missing(
        "Eigen-CAM, KPCA-CAM, FEM, FinerCAM, Seg-Eigen-CAM",
        "by the package grad-cam: `explainer=grad_cam_package explainer.call.method=EigenCAM`; the first three give "
        "the same map for every class",
    ),
    Missing("IS-CAM, SS-CAM, Group-CAM, LIFT-CAM", "not built yet; variants of Score-CAM at many passes per map"),
    Missing("Relevance-CAM, Poly-CAM, Opti-CAM, HSIC, AGF", "not built yet"),
    Missing("attention rollout, LRP for transformers", "no transformer is among the suite's networks"),
)
COUNTED = "ResNet-50"
"""The kind of network on which costs are counted."""
QUICK: dict[str, dict[str, Any]] = {
    "rise": {"n_masks": 8}, "extremal_perturbation": {"max_iter": 2}, "lime": {"n_samples": 60},
    "kernel_shap": {"n_samples": 60}, "integrated_gradients": {"n_steps": 2}, "smooth_grad": {"n": 2},
    "gradient_shap": {"n_samples": 2}, "integrated_grad_cam": {"n_steps": 2}, "cameras": {"scales": [1.0, 1.5]},
    "ucag": {"patches": 2},
}  # fmt: skip
"""Budgets with which networks are tried: a refusal does not depend on them."""


def families() -> dict[str, tuple[Entry, ...]]:
    """Every explainer of configs/explainer, by family; what :data:`FAMILIES` does not name is in one of its own."""
    named = {entry.name for family in FAMILIES.values() for entry in family}
    others = tuple(Entry(file.stem, "") for file in sorted((CONFIGS / "explainer").glob("*.yaml")))
    further = tuple(entry for entry in others if entry.name not in named)
    return FAMILIES | ({FURTHER: further} if further else {})


def entries() -> list[Entry]:
    """All of them, in order."""
    return [entry for family in families().values() for entry in family]


@dataclass(frozen=True)
class Row:
    """An explainer's line on the page.

    Attributes:
        entry: What is stated.
        label: Its name in tables.
        method: What it does, the first line of its docstring.
        paper: As its docstring cites it; empty for controls of this suite.
        sign: What becomes of negative values.
        forward, backward: Images through the network for one class of one image.
        refusals: Why it takes no network of a kind, by kind.
    """

    entry: Entry
    label: str
    method: str
    paper: str
    sign: str
    forward: int
    backward: int
    refusals: Mapping[str, str]


def kinds() -> dict[str, tuple[nn.Module, Tensor]]:
    """Small networks of five classes with random weights, and an input for each, by the kind of network."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks: dict[str, tuple[nn.Module, Tensor]] = {
            "VGG": (architectures.vgg16(width=1 / 16, hidden=24, num_classes=5), images),
            COUNTED: (architectures.resnet50(width=1 / 16, num_classes=5), images),
            "ReLU6 bottlenecks": (mobilenet_v2(num_classes=5, width_mult=0.25), images),
            "SiLU": (_efficient_net(), images),
            "GELU": (ConvNeXt([CNBlockConfig(*c, 1) for c in ((16, 32), (32, 64), (64, None))], num_classes=5), images),
            "signals": (ShallowCNN(), torch.randn(4, 1, 40, generator=generator)),
        }  # fmt: skip
        for network, inputs in networks.values():
            bring_to_life(network, inputs)
    return {kind: (network.eval(), inputs[:1]) for kind, (network, inputs) in networks.items()}


def _efficient_net() -> nn.Module:
    blocks = [(1, 1, 16, 16), (4, 2, 16, 24), (4, 2, 24, 32)]
    return EfficientNet([MBConvConfig(e, 3, s, i, o, 1) for e, s, i, o in blocks], dropout=0.0, num_classes=5)


def probe_of(network: nn.Module, image: Tensor) -> Probe:
    """The input as the network sees it, with half of it as the ground truth of every class."""
    size = tuple(image.shape[2:])
    probe = Probe(network, image, layers=find_layers(network, size, channels=image.shape[1]))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[: size[0] // 2] = True
    probe.ground_truth = dict.fromkeys(range(len(probe.scores())), mask)
    return probe


def refusals(explain: Any, networks: Mapping[str, tuple[nn.Module, Tensor]]) -> dict[str, str]:
    """Why an explainer takes no network of a kind; by kind, for those that it refuses."""
    found = {}
    for kind, (network, image) in networks.items():
        probe = probe_of(network, image)
        try:
            explain(probe, [int(probe.scores().argmax())])
        except SuiteError as error:
            found[kind] = str(error)
        except RuntimeError as error:  # no refusal but a failure; the page must not hide it
            found[kind] = f"fails: {error}"
    return found


def row_of(entry: Entry, networks: Mapping[str, tuple[nn.Module, Tensor]], *, quick: bool = False) -> Row:
    """An explainer's line: looked up, counted and tried.

    Args:
        entry: Which.
        networks: From :func:`kinds`.
        quick: Count with the small budgets of `QUICK`, too; for tests.
    """
    cfg = compose("evaluate", [f"explainer={entry.name}", "budget=paper"]).explainer
    explain = instantiate(cfg.call)
    reduce = cfg.call.get("reduce")
    tried = partial(explain, **QUICK.get(entry.name, {}))
    probe = probe_of(*networks[COUNTED])
    target = int(probe.scores().argmax())
    with probe.bill() as bill:
        (tried if quick else explain)(probe, [target])
    method, paper = cited(cfg.call._target_)
    return Row(
        entry, cfg.label, method, paper, entry.sign or REDUCTIONS.get(reduce, ""), bill.forward, bill.backward,
        refusals(tried, networks),
    )  # fmt: skip


def cited(target: str) -> tuple[str, str]:
    """The first line of a function's docstring, and its reference without further remarks; empty if it has none."""
    text = inspect.getdoc(get_method(target)) or ""
    first = text.partition("\n\n")[0].replace("\n", " ")
    reference = text.partition("Reference:\n")[2].partition("\n\n")[0]
    return first, " ".join(reference.split())


def rows() -> list[Row]:
    """Every explainer's, in order; takes a minute."""
    networks = kinds()
    return [row_of(entry, networks) for entry in Progress(entries(), desc="catalogue", unit="explainer")]


# ---------------------------------------------------------------------- the page
HEADER = """\
# Explainers

Made by `{command}`, the picture too. `explainer=<name>` takes each of them in every
command; settings, and where they come from, are in `configs/explainer/<name>.yaml`.

![Every explainer on two photos and two scenes]({picture})

Four images per explainer: two photos with EfficientNet-Lite0, two generated scenes with the narrow ResNet-50. Where an
explainer refuses a network, the square says so. Budgets are small: see the picture's last lines. Dots in a grid (EBP
and NormGrad on ResNet-50, DeconvNet) come from the strides of the network: TorchRay's EBP and DeconvNet give the same
maps to rounding, see [the parity table](../results/performance_parity_cpu.md).

*Passes*: forward + backward passes for one class of one image, counted on a small ResNet-50 (1/16 of the width, 64 × 64
pixels) with the shipped settings and the papers' budgets, the pass for the scores included; those of methods that go
through the feature maps grow with a network's width. *Refuses*: which of six small networks with random weights it
answers with an error instead of a map: VGG, ResNet-50, *ReLU6 bottlenecks* (as EfficientNet-Lite's), *SiLU* with
squeeze-and-excitation (EfficientNet's), *GELU* with layer norms (ConvNeXt's), one for *signals*. The reasons are
below."""
NOT_BUILT = """\
## Not built

Methods that the papers, the talk or the course name, and others that are often asked for.
"""
HEAD = ["explainer", "reads", "negative values", "passes", "refuses", "what, and paper"]


def line_of(row: Row) -> list[str]:
    """The cells of a row."""
    refused = ", ".join(row.refusals) or "–"
    what = row.method.replace("``", "`") + (f" *{row.paper.replace('``', '`')}*" if row.paper else "")
    return [
        f"{row.label}<br>`{row.entry.name}`",
        row.entry.reads,
        row.sign,
        f"{row.forward} + {row.backward}",
        refused,
        what,
    ]


def page(found: Sequence[Row], picture: str, command: str) -> str:
    """docs/explainers.md.

    Args:
        found: From :func:`rows`.
        picture: Path of the gallery from the page.
        command: What makes the page.
    """
    by_name = {row.entry.name: row for row in found}
    lines = [HEADER.format(command=command, picture=picture)]
    for family, members in families().items():
        rows_here = [by_name[entry.name] for entry in members if entry.name in by_name]
        lines += ["", f"## {family}", "", markdown_table([HEAD, *map(line_of, rows_here)], "llllll")]
    lines += ["", "## Refusals", ""]
    for reason, (explainers, networks) in by_reason(found).items():
        lines.append(f"- {', '.join(explainers)} ({', '.join(networks)}): {reason}")
    missing = [["method", "why"], *([method.name, method.why] for method in MISSING)]
    lines += ["", NOT_BUILT, markdown_table(missing, "ll")]
    return "\n".join(lines) + "\n"


def by_reason(found: Sequence[Row]) -> dict[str, tuple[list[str], list[str]]]:
    """Explainers and kinds of network, in the order they come in, by what is said of them."""
    grouped: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in found:
        for kind, reason in row.refusals.items():
            explainers, networks = grouped.setdefault(reason, ({}, {}))
            explainers[row.label], networks[kind] = None, None
    return {reason: (list(explainers), list(networks)) for reason, (explainers, networks) in grouped.items()}


def facts(found: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table, for other programs: a line per explainer, in order.

    Args:
        found: From :func:`rows`.

    Returns:
        ``explainer`` (its config), ``label``, ``family``, ``reads``, ``negative values``, ``forward passes`` and
        ``backward passes`` (of one class of one image, see the page), ``refuses`` (kinds of network), ``method`` and
        ``paper``.
    """
    family_of = {entry.name: family for family, members in families().items() for entry in members}
    return pd.DataFrame(
        {
            "explainer": row.entry.name,
            "label": row.label,
            "family": family_of[row.entry.name],
            "reads": row.entry.reads,
            "negative values": row.sign,
            "forward passes": row.forward,
            "backward passes": row.backward,
            "refuses": ", ".join(row.refusals),
            "method": row.method.replace("``", "`"),
            "paper": row.paper.replace("``", "`"),
        }
        for row in found
    )


def write(page_file: Path, facts_file: Path, picture: str, command: str) -> list[Path]:
    """Counts, tries, and writes the page for readers and the facts for programs.

    Args:
        page_file: docs/explainers.md.
        facts_file: results/explainers.csv.
        picture: Path of the gallery from the page.
        command: What makes them.

    Returns:
        Both files.
    """
    found = rows()
    for file, text in (
        (page_file, page(found, picture, command)),
        (facts_file, csv_text(facts(found))),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    return [page_file, facts_file]

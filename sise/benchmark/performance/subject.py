"""The networks and images that are measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hydra import compose
from omegaconf import DictConfig
from torch import Tensor, nn

from sise.benchmark.config_facts import network_labels
from sise.benchmark.datasets import scenes
from sise.benchmark.models import architectures
from sise.benchmark.models.architectures import VGG16, ResNet50
from sise.benchmark.run import composing
from sise.errors import choose
from sise.layers import find_cam_layer, find_layers

NETWORKS = ("resnet50", "vgg16")
LABELS = network_labels()


def random_weights(width: float) -> str:
    """The note on networks of that width, 1 being TorchRay's."""
    size = "full size" if width == 1 else f"{width:g} times the width (a try-out, NOT the papers' networks)"
    return (
        f"Networks of {size} with TorchRay's layers and random weights: time depends on the architecture only; which "
        "feature maps are selected, and so the number of masks, is that of a random network."
    )


@dataclass
class Subject:
    """A network with random weights and an image for it.

    Attributes:
        network: In eval mode.
        image: (1, 3, H, W) network input.
        layers, cam_layer: As in :class:`sise.types.Model`.
    """

    network: VGG16 | ResNet50
    image: Tensor
    layers: tuple[str, ...]
    cam_layer: str


def subject(network: str, device: torch.device, *, width: float = 1.0, seed: int = 0) -> Subject:
    """A full-size network of TorchRay's with random weights, and a scene for it.

    Args:
        network: ``resnet50`` or ``vgg16``.
        device: Where to.
        width: Multiplier of the channels.
        seed: Of the weights.
    """
    choose("network", network, NETWORKS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _network(network, width)
        bring_to_life(net, torch.cat([scene(i) for i in range(4)]))
    # names depend on the layers' order only: the narrowest network has the same
    small = _network(network, 1 / 64)
    layers, cam_layer = find_layers(small.eval()), find_cam_layer(small.eval())
    return Subject(net.to(device), scene(0).to(device), layers, cam_layer)


def _network(name: str, width: float) -> VGG16 | ResNet50:
    hidden = {"hidden": max(16, round(4096 * width))} if name == "vgg16" else {}
    return architectures.build(name, {"width": width, **hidden})


def scene(index: int) -> Tensor:
    """(1, 3, 224, 224) network input: a test scene of the embedded dataset, RGB in 0..255 less the mean."""
    pixels = torch.from_numpy(scenes.scene(0, "test", index)[0]).permute(2, 0, 1)[None].float()
    return pixels - torch.tensor(architectures.MEAN).view(1, 3, 1, 1)


def bring_to_life(network: nn.Module, images: Tensor) -> None:
    """Gives a network random weights with which scores depend on the input about as much as a trained one's.

    Weights keep the signal's size from layer to layer, batch normalisation gets the statistics of ``images``, and the
    last layer is scaled so that scores spread by 2. Leaves the network in eval mode.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        if norms:
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            network(images)
            for norm in norms:
                norm.momentum = 0.1
        network.eval()
        last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        last.weight.mul_(2.0 / network(images).std().clamp(min=1e-6))


def experiment_cells(cfg: DictConfig, network: str, **chosen: str) -> list[DictConfig]:
    """Configurations of the cells of ``cfg.experiment`` for one network, narrowed to an explainer or protocol."""
    overrides = [f"experiment={cfg.experiment}", f"dataset={cfg.dataset}", f"model={network}"]
    overrides += [f"{group}={name}" for group, name in chosen.items()]
    return composing.compose_cells(compose("evaluate", overrides), overrides)

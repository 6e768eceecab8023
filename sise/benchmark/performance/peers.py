"""The same methods in other packages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from sise.baselines.extremal_perturbation import extremal_perturbation
from sise.baselines.rise import mask_bank, rise
from sise.baselines.score_cam import score_cam
from sise.benchmark.models.architectures import VGG16, ResNet50
from sise.benchmark.performance.clock import Measurement, interleaved, quartiles, ratios, spread
from sise.benchmark.performance.phases import discard
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import LABELS, random_weights, subject
from sise.benchmark.performance.worker import Worker
from sise.devices import allow_tf32
from sise.probe.probe import Probe
from sise.scoring import Scorer

OURS = "this suite"


@dataclass(frozen=True)
class Peer:
    """A method, who implements it, and the package that it needs beside this suite's."""

    method: str
    implementation: str
    package: str = ""

    def __str__(self) -> str:
        return f"{self.method} | {self.implementation}"


class Peeked(nn.Module):
    """A network whose CAM layer shows only its first channels, so that Score-CAM makes few passes; scores unchanged."""

    def __init__(self, body: nn.Module, head: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.peek, self.head, self.channels = body, nn.Identity(), head, channels

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        self.peek(maps[:, : self.channels])
        return self.head(maps)


def peeked(network: VGG16 | ResNet50, channels: int) -> Peeked:
    """ResNet-50 or VGG16 of :mod:`sise.benchmark.models.architectures`, cut at its CAM layer."""
    if isinstance(network, VGG16):
        body, last = network.features[:-1], network.features[-1]
        return Peeked(body, nn.Sequential(last, network.avgpool, nn.Flatten(), network.classifier), channels).eval()
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    return Peeked(
        nn.Sequential(*stem, *stages), nn.Sequential(network.avgpool, nn.Flatten(), network.fc), channels
    ).eval()


def peer_actions(
    *, network: str, masks: int, iterations: int, device: str, batch: int | None, width: float = 1.0
) -> dict[Peer, Callable[[], Any]]:
    """The same methods by several implementations; absent packages are left out."""
    place = torch.device(device)
    of = subject(network, place, width=width)
    net = peeked(of.network, masks).to(place)
    size = batch or (64 if place.type == "cuda" else 32)
    scorer = Scorer(net, batch_size=size)
    with torch.no_grad():
        targets = net(of.image)[0].topk(4).indices.tolist()
    bank = mask_bank(masks, 7, 0.5, tuple(of.image.shape[-2:]), 0).masks(0, masks, place)[:, None]

    def probe() -> Probe:
        return Probe(net, of.image, cam_layer="peek", confidence="sigmoid", scorer=scorer)

    def plain() -> None:
        with torch.no_grad(), allow_tf32(False):
            for part in bank.split(size):
                net(of.image * part)

    def perturbation(how: str, count: int) -> np.ndarray:
        maps = extremal_perturbation(probe(), targets[:count], max_iter=iterations, implementation=how)
        return maps.cpu().numpy()

    def torchray_rise() -> np.ndarray:
        from torchray.attribution.rise import rise_class

        with allow_tf32(False):
            found = rise_class(
                net, of.image, target=targets[:1], num_masks=masks, filter_masks=bank, batch_size=size, p=0.5
            )
        return found[0].cpu().numpy()

    def grad_cam(by: int) -> None:
        from pytorch_grad_cam import ScoreCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with ScoreCAM(model=net, target_layers=[net.peek]) as cam, allow_tf32(False):
            cam.batch_size = by
            cam(input_tensor=of.image, targets=[ClassifierOutputTarget(targets[0])])

    def torchcam() -> None:
        from torchcam.methods import ScoreCAM

        with ScoreCAM(net, "peek", batch_size=size) as cam, allow_tf32(False):
            with torch.inference_mode():
                scores = net(of.image)
            cam(class_idx=targets[0], scores=scores)

    one, four = ("Extremal Perturbation, " + count for count in ("1 class", "4 classes"))
    actions: dict[Peer, Callable[[], Any]] = {
        Peer("passes", f"plain eager, {masks} masks"): plain,
        Peer("Score-CAM", OURS): lambda: discard(score_cam(probe(), targets[:1])),
        Peer("Score-CAM", "grad-cam", "pytorch_grad_cam"): lambda: grad_cam(16),
        Peer("Score-CAM", "grad-cam, same batch", "pytorch_grad_cam"): lambda: grad_cam(size),
        Peer("Score-CAM", "torchcam", "torchcam"): torchcam,
        Peer("RISE", OURS): lambda: rise(probe(), targets[:1], n_masks=masks, normalise="raw").cpu().numpy() / 2,
        Peer("RISE", "torchray"): torchray_rise,
        Peer(one, OURS): lambda: perturbation("batched", 1),
        Peer(one, "torchray"): lambda: perturbation("torchray", 1),
        Peer(four, OURS): lambda: perturbation("batched", 4),
        Peer(four, "torchray"): lambda: perturbation("torchray", 4),
    }
    return {peer: action for peer, action in actions.items() if not peer.package or find_spec(peer.package)}


def peers(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """Score-CAM, RISE and Extremal Perturbation by others and by this suite: same network, image, masks and run."""
    rows, samples = [], {}
    notes = [
        random_weights(cfg.width),
        f"{cfg.peers.masks} masks (the CAM layer shows only its first {cfg.peers.masks} channels), "
        f"{cfg.peers.iterations} iterations of Extremal Perturbation, {cfg.peers.rounds} rounds. RISE: the same masks, "
        "given to TorchRay ready-made, drawn by this suite within its time.",
        "Time / this suite: both with the same allocator, in the same round. Score-CAMs differ in definition "
        "(grad-cam aligns corners, both peers take a softmax of scores over channels): a comparison of speed.",
    ]
    for network in cfg.networks:
        arguments = {"network": network, "masks": cfg.peers.masks, "iterations": cfg.peers.iterations}
        arguments |= {"device": str(device), "batch": cfg.batch_size, "width": cfg.width}
        with ExitStack() as stack:
            workers = {
                allocator: stack.enter_context(
                    Worker(peer_actions, arguments, device, malloc=allocator == "kept", threads=cfg.threads)
                )
                for allocator in (("default",) if device.type == "cuda" else ("default", "kept"))
            }
            actions, broken = {}, []
            for allocator, worker in workers.items():
                for name in worker.names:
                    try:
                        worker(name)
                        actions[allocator, name] = functools.partial(worker, name)
                    except Exception as error:
                        broken.append(f"{name} was left out: {str(error)[:200]}")
            measured = interleaved(actions, cfg.peers.rounds, f"{LABELS[network]}, peers")
        rows += peer_rows(LABELS[network], measured)
        notes += [note for note in broken if note not in notes]
        samples[network] = {" | ".join(map(str, k)): [m.seconds for m in v] for k, v in measured.items()}
        yield [Report("peers", "Other implementations", pd.DataFrame(rows), notes, samples)]


def peer_rows(label: str, measured: Mapping[tuple[str, Peer], Sequence[Measurement]]) -> list[dict[str, Any]]:
    """One row per implementation and allocator, compared with this suite under the same allocator."""
    rows = []
    for (allocator, peer), found in measured.items():
        ours = measured.get((allocator, Peer(peer.method, OURS)))
        own = peer.implementation == OURS
        difference = None
        if ours is not None and not own and isinstance(found[0].result, np.ndarray):
            difference = float(np.abs(found[0].result - ours[0].result).max() / np.abs(ours[0].result).max())
        relative = ratios(found, ours) if ours is not None else None
        rows.append(
            {
                "network": label,
                "method": peer.method,
                "implementation": peer.implementation,
                "allocator": allocator,
                "seconds": quartiles(m.seconds for m in found)[0],
                "time / this suite": quartiles(relative)[0] if relative else None,
                "interquartile range": spread(relative) if relative and not own else "",
                "map difference / peak": difference,
            }
        )
    return rows

"""No pass twice, and how others do: parts ``sharing`` and ``peers`` of ``scripts/benchmark.py``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from baselines.extremal_perturbation import extremal_perturbation
from baselines.rise import mask_bank, rise
from baselines.score_cam import score_cam
from sise.benchmark import runner
from sise.benchmark.engine_benchmark import THRESHOLDS, discard, selected
from sise.benchmark.terminal import Progress
from sise.benchmark.timing import (
    LABELS,
    Measurement,
    Report,
    Worker,
    experiment_cells,
    interleaved,
    quartiles,
    random_weights,
    ratios,
    spread,
    subject,
    timed,
)
from sise.method import ada_sise, live, sise
from sise.probe import Probe
from sise.scoring import Scorer, allow_tf32

GOAL_LABELS, GOAL_TABLE = 0.70, 0.50
OURS = "this suite"


# ---------------------------------------------------------------------- sharing


def sharing(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """Passes counted exactly: over classes, over explainers, over a whole table."""
    rows, table, samples = [], [], {}
    for network in cfg.networks:
        cells = runner.make_cells(experiment_cells(cfg, network))
        dataset = cells[0].dataset
        model = cells[0].model.network.to(device)
        scorer = Scorer(model)
        make_probe = functools.partial(functools.partial, _fresh, cells[0], scorer, device)
        by_count: dict[int, list[str]] = {}
        for image_id in dataset.ids:
            by_count.setdefault(len(cells[0].pairs(image_id)), []).append(image_id)
        for count in sorted(k for k in by_count if k > 0):
            ids = by_count[count][: cfg.sharing.images]
            found = [
                share_passes(make_probe(dataset[i]), _outputs(cells[0], i))
                for i in Progress(ids, desc=f"{LABELS[network]}, {count} classes", unit="image")
            ]
            samples[f"{network}, {count} classes"] = found
            rows += sharing_rows(LABELS[network], count, found)
        ids = [i for i in by_count.get(2, []) + by_count.get(1, [])][: cfg.sharing.table_images]
        found = [
            share_table(cells, make_probe(dataset[i]), _outputs(cells[0], i))
            for i in Progress(ids, desc=f"{LABELS[network]}, whole table", unit="image")
        ]
        samples[f"{network}, table"] = found
        table += table_rows(LABELS[network], len(cells), found)
        data = f"Trained narrow networks on {cfg.dataset}; passes are images through the network, counted exactly."
        note = (
            f"{cfg.sharing.table_images} images of two classes, maps only, without the metrics' passes; budgets of "
            "RISE and Extremal Perturbation are those of the dataset's config."
        )
        title = "No pass twice: SISE's classes and what draws on its passes"
        other = f"No pass twice: every map of experiment={cfg.experiment}"
        yield [
            Report("sharing", title, pd.DataFrame(rows), [data], samples),
            Report("sharing_table", other, pd.DataFrame(table), [data, note], samples),
        ]


def _fresh(cell: runner.Cell, scorer: Scorer, device: torch.device, sample: Any) -> Probe:
    return runner.make_probe(cell, sample, scorer, device)


def _outputs(cell: runner.Cell, image_id: str) -> list[int]:
    return [cell.outputs[cell.dataset.classes[t]] for t in cell.pairs(image_id)]


def share_passes(make_probe: Callable[[], Probe], targets: Sequence[int]) -> dict[str, Any]:
    """SISE of an image's classes together and one by one, then Ada-SISE, thresholds and Score-CAM on its passes.

    Args:
        make_probe: Gives a fresh probe of the image.
        targets: T class indices.

    Returns:
        Passes and seconds, the passes that the selections say there should be, and the largest difference between
        the maps of both ways.
    """
    probe = make_probe()
    together = timed(lambda: sise(probe, targets), probe.device)
    passes = probe.forward_passes
    alone, alone_passes, difference = 0.0, 0, 0.0
    for i, target in enumerate(targets):
        other = make_probe()
        one = timed(lambda other=other, target=target: sise(other, [target]), probe.device)
        alone, alone_passes = alone + one.seconds, alone_passes + other.forward_passes
        difference = max(difference, float((one.result[0] - together.result[i]).abs().max()))
    union = {n: torch.stack([selected(probe, n, t) for t in targets]).any(dim=0) for n in probe.layers}
    result = {
        "passes": passes,
        "expected": 1 + sum(int(u.sum()) for u in union.values()),
        "alone": alone_passes,
        "seconds": together.seconds,
        "alone seconds": alone,
        "difference": difference,
    }
    before, begun = probe.forward_passes, probe.backward_passes
    variants = [functools.partial(sise, mu=mu) for mu in THRESHOLDS]
    variants += [functools.partial(ada_sise, rule=rule) for rule in ("otsu_positive", "otsu_signed")]
    variants += [functools.partial(sise, gate=gate) for gate in ("otsu_hard", "simple")]
    after = timed(lambda: discard([explain(probe, targets) for explain in variants]), probe.device)
    result |= {"after": probe.forward_passes - before + probe.backward_passes - begun, "after seconds": after.seconds}
    before = probe.forward_passes
    missing = live(probe, probe.cam_layer)
    if probe.cam_layer in union:
        missing = missing & ~union[probe.cam_layer]
    shared = score_cam(probe, targets)
    result |= {"score_cam": probe.forward_passes - before, "score_cam expected": int(missing.sum())}
    other = make_probe()
    result["score_cam alone"] = -other.forward_passes
    result["score_cam difference"] = float((score_cam(other, targets) - shared).abs().max())
    result["score_cam alone"] += other.forward_passes
    return result


def sharing_rows(label: str, count: int, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the images with one number of classes."""

    def total(key: str) -> float:
        return sum(f[key] for f in found)

    relative = total("passes") / total("alone")
    common = {"network": label, "classes": count, "images": len(found)}
    rows = []
    if count > 1:
        rows.append(
            common
            | {"what": "SISE, all classes together", "passes": total("passes"), "expected": total("expected")}
            | {"one by one": total("alone"), "ratio": relative, "time ratio": total("seconds") / total("alone seconds")}
            | {"largest map difference": max(f["difference"] for f in found)}
            | {"goal": f"exact{f', <= {GOAL_LABELS}' if count == 3 else ''}"}
            | {"met": total("passes") == total("expected") and (count != 3 or relative <= GOAL_LABELS)}
        )
    rows.append(
        common
        | {"what": f"then {len(THRESHOLDS)} thresholds, Ada-SISE twice, 2 gates"}
        | {"passes": total("after"), "expected": 0}
        | {"one by one": "", "ratio": "", "time ratio": total("after seconds") / total("seconds")}
        | {"largest map difference": "", "goal": "exact", "met": total("after") == 0}
    )
    rows.append(
        common
        | {"what": "then Score-CAM", "passes": total("score_cam"), "expected": total("score_cam expected")}
        | {"one by one": total("score_cam alone"), "ratio": total("score_cam") / total("score_cam alone")}
        | {"time ratio": "", "largest map difference": max(f["score_cam difference"] for f in found)}
        | {"goal": "exact", "met": total("score_cam") == total("score_cam expected")}
    )
    return rows


def share_table(
    cells: Sequence[runner.Cell], make_probe: Callable[[], Probe], targets: Sequence[int]
) -> dict[str, dict[str, float]]:
    """All explainers of a table on an image: each class alone, each explainer alone, and all on one probe.

    Returns:
        ``seconds``, ``forward`` and ``backward`` passes by way.
    """
    probes: list[Probe] = []

    def explain(each_class: bool, shared: bool) -> None:
        probes.clear()
        for cell in cells:
            for some in [[t] for t in targets] if each_class else [list(targets)]:
                if not probes or not shared:
                    probes.append(make_probe())
                probes[-1].seed = 0
                cell.explainer(probes[-1], some)

    ways = {
        "one by one, each class alone": (True, False),
        "one by one, classes together": (False, False),
        "on a shared probe": (False, True),
    }
    found = {}
    for name, way in ways.items():
        measured = timed(lambda way=way: explain(*way), make_probe().device)
        found[name] = {
            "seconds": measured.seconds,
            "forward": sum(p.forward_passes for p in probes),
            "backward": sum(p.backward_passes for p in probes),
        }
    return found


def table_rows(label: str, explainers: int, found: Sequence[Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """One row per way, compared with the first."""
    rows = []
    for way in found[0]:
        sums = {key: sum(f[way][key] for f in found) for key in ("seconds", "forward", "backward")}
        first = {key: sum(f[next(iter(found[0]))][key] for f in found) for key in sums}
        relative = [f[way]["seconds"] / f[next(iter(f))]["seconds"] for f in found]
        shared = way == "on a shared probe"
        rows.append(
            {
                "network": label,
                "maps": f"{explainers} explainers, {len(found)} images, {way}",
                "forward passes": sums["forward"],
                "backward passes": sums["backward"],
                "passes / first row": (sums["forward"] + sums["backward"]) / (first["forward"] + first["backward"]),
                "seconds": sums["seconds"],
                "time / first row": quartiles(relative)[0],
                "goal": f"<= {GOAL_TABLE}" if shared else "",
                "met": quartiles(relative)[0] <= GOAL_TABLE if shared else None,
            }
        )
    return rows


# ---------------------------------------------------------------------- peers


class Peeked(nn.Module):
    """A network whose CAM layer shows only its first channels, so that Score-CAM makes few passes; scores unchanged."""

    def __init__(self, body: nn.Module, head: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.peek, self.head, self.channels = body, nn.Identity(), head, channels

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        self.peek(maps[:, : self.channels])
        return self.head(maps)


def peeked(network: nn.Module, channels: int) -> Peeked:
    """ResNet-50 or VGG16 of :mod:`sise.benchmark.narrow`, cut at its CAM layer."""
    if hasattr(network, "features"):
        body, head = network.features[:-1], [network.features[-1], network.avgpool, nn.Flatten(), network.classifier]
        return Peeked(body, nn.Sequential(*head), channels).eval()
    stem = [network.conv1, network.bn1, network.relu, network.maxpool]
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    return Peeked(
        nn.Sequential(*stem, *stages), nn.Sequential(network.avgpool, nn.Flatten(), network.fc), channels
    ).eval()


def peer_actions(
    *, network: str, masks: int, iterations: int, device: str, batch: int | None, width: float = 1.0
) -> dict[str, Callable[[], Any]]:
    """The same methods by several implementations: ``<method> | <implementation>``; absent packages are left out."""
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

    actions: dict[str, Callable[[], Any]] = {
        f"passes | plain eager, {masks} masks": plain,
        f"Score-CAM | {OURS}": lambda: discard(score_cam(probe(), targets[:1])),
        "Score-CAM | grad-cam": lambda: grad_cam(16),
        "Score-CAM | grad-cam, same batch": lambda: grad_cam(size),
        "Score-CAM | torchcam": torchcam,
        f"RISE | {OURS}": lambda: rise(probe(), targets[:1], n_masks=masks, normalise="raw").cpu().numpy() / 2,
        "RISE | torchray": torchray_rise,
        f"Extremal Perturbation, 1 class | {OURS}": lambda: perturbation("batched", 1),
        "Extremal Perturbation, 1 class | torchray": lambda: perturbation("torchray", 1),
        f"Extremal Perturbation, 4 classes | {OURS}": lambda: perturbation("batched", 4),
        "Extremal Perturbation, 4 classes | torchray": lambda: perturbation("torchray", 4),
    }
    from importlib.util import find_spec

    absent = [n for module, n in (("pytorch_grad_cam", "grad-cam"), ("torchcam", "torchcam")) if not find_spec(module)]
    return {n: a for n, a in actions.items() if not any(n.split(" | ")[1].startswith(peer) for peer in absent)}


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
        samples[network] = {" | ".join(k): [m.seconds for m in v] for k, v in measured.items()}
        yield [Report("peers", "Other implementations", pd.DataFrame(rows), notes, samples)]


def peer_rows(label: str, measured: Mapping[tuple[str, str], Sequence[Measurement]]) -> list[dict[str, Any]]:
    """One row per implementation and allocator, compared with this suite under the same allocator."""
    rows = []
    for (allocator, name), found in measured.items():
        method, implementation = name.split(" | ")
        ours = measured.get((allocator, f"{method} | {OURS}"))
        own = implementation == OURS
        difference = None
        if ours is not None and not own and isinstance(found[0].result, np.ndarray):
            difference = float(np.abs(found[0].result - ours[0].result).max() / np.abs(ours[0].result).max())
        relative = ratios(found, ours) if ours is not None else None
        rows.append(
            {
                "network": label,
                "method": method,
                "implementation": implementation,
                "allocator": allocator,
                "seconds": quartiles(m.seconds for m in found)[0],
                "time / this suite": quartiles(relative)[0] if relative else None,
                "interquartile range": spread(relative) if relative and not own else "",
                "map difference / peak": difference,
            }
        )
    return rows

"""No pass twice, and how others do: parts ``sharing`` and ``peers`` of ``scripts/performance.py``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig

from sise.baselines.common import cam_layer_of
from sise.baselines.score_cam import score_cam
from sise.benchmark.performance.clock import quartiles, timed
from sise.benchmark.performance.phases import THRESHOLDS, discard, selected
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import LABELS, experiment_cells
from sise.benchmark.run import probing
from sise.benchmark.run.cells import Cell, make_cells
from sise.benchmark.terminal import Progress
from sise.method import ada_sise, live, sise
from sise.probe.probe import Probe
from sise.scoring import Scorer
from sise.types import Sample


def sharing(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """Passes counted exactly: over classes, over explainers, over a whole table."""
    rows, table, samples = [], [], {}
    for network in cfg.networks:
        cells = make_cells(experiment_cells(cfg, network))
        dataset = cells[0].dataset
        model = cells[0].model.network.to(device)
        scorer = Scorer(model)
        prober = _prober(cells[0], scorer, device)
        by_count: dict[int, list[str]] = {}
        for image_id in dataset.ids:
            by_count.setdefault(len(cells[0].pairs(image_id)), []).append(image_id)
        for count in sorted(k for k in by_count if k > 0):
            ids = by_count[count][: cfg.sharing.images]
            found = [
                share_passes(prober(dataset[i]), _outputs(cells[0], i))
                for i in Progress(ids, desc=f"{LABELS[network]}, {count} classes", unit="image")
            ]
            samples[f"{network}, {count} classes"] = found
            rows += sharing_rows(LABELS[network], count, found, cfg.goals.three_classes)
        ids = [i for i in by_count.get(2, []) + by_count.get(1, [])][: cfg.sharing.table_images]
        found = [
            share_table(cells, prober(dataset[i]), _outputs(cells[0], i))
            for i in Progress(ids, desc=f"{LABELS[network]}, whole table", unit="image")
        ]
        samples[f"{network}, table"] = found
        table += table_rows(LABELS[network], len(cells), found, cfg.goals.whole_table)
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


def _prober(cell: Cell, scorer: Scorer, device: torch.device) -> Callable[[Sample], Callable[[], Probe]]:
    """Gives, for a sample, what makes a fresh probe of it."""
    return lambda sample: lambda: probing.make_probe(cell, sample, scorer, device)


def _outputs(cell: Cell, image_id: str) -> list[int]:
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
        one = timed(functools.partial(sise, other, [target]), probe.device)
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
    layer = cam_layer_of(probe, None)
    missing = live(probe, layer)
    if layer in union:
        missing = missing & ~union[layer]
    shared = score_cam(probe, targets)
    result |= {"score_cam": probe.forward_passes - before, "score_cam expected": int(missing.sum())}
    other = make_probe()
    before = other.forward_passes
    alone_map = score_cam(other, targets)
    result |= {"score_cam alone": other.forward_passes - before}
    result |= {"score_cam difference": float((alone_map - shared).abs().max())}
    return result


def sharing_rows(label: str, count: int, found: Sequence[Mapping[str, Any]], goal: float) -> list[dict[str, Any]]:
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
            | {"goal": f"exact{f', <= {goal}' if count == 3 else ''}"}
            | {"met": total("passes") == total("expected") and (count != 3 or relative <= goal)}
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
    cells: Sequence[Cell], make_probe: Callable[[], Probe], targets: Sequence[int]
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
        measured = timed(functools.partial(explain, *way), make_probe().device)
        found[name] = {
            "seconds": measured.seconds,
            "forward": sum(p.forward_passes for p in probes),
            "backward": sum(p.backward_passes for p in probes),
        }
    return found


def table_rows(
    label: str, explainers: int, found: Sequence[Mapping[str, Mapping[str, float]]], goal: float
) -> list[dict[str, Any]]:
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
                "goal": f"<= {goal}" if shared else "",
                "met": quartiles(relative)[0] <= goal if shared else None,
            }
        )
    return rows

"""What a masked pass costs against a plain one, and what a lower precision changes.

Parts ``engine`` and ``precision`` of ``scripts/performance.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from sise.benchmark.performance.clock import Measurement, interleaved, quartiles, ratios, spread
from sise.benchmark.performance.engine_actions import NULL_PART, PLAIN, engine_actions
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import LABELS, random_weights
from sise.benchmark.performance.worker import Worker
from sise.benchmark.process import has_cpp_compiler

GOALS = {("resnet50", "fp32"): 0.45, ("vgg16", "fp32"): 0.70, ("resnet50", "bf16"): 0.25, ("vgg16", "bf16"): 0.35}
"""Time of a masked pass on a CPU over that of a plain eager fp32 one, at most."""
GOAL_MICROSECONDS, GOAL_WHOLE, GOAL_LAYER_MAP, GOAL_AFTER = 150.0, 1.03, 1e-5, 0.005
PASSES_NOTE = (
    "Plain eager: network(image * mask), fp32, batch by batch, the masks made beforehand. Everything else makes its "
    "masks itself. Allocator: default, or kept = freed memory is kept (engine.malloc, set by the scripts)."
)
WHOLE_NOTE = (
    "SISE whole over its passes: on a CPU, all its time over the time spent inside the network; on a GPU, all its time "
    "over as many full batches through the same runner, in turns."
)
NULL_NOTE = (
    "Everything but the passes: SISE with the real network's feature maps and gradients, whose masked passes go "
    "through a network that only takes means. That network's own time, the last of the parts, is in the scoring, but "
    "not in the first row."
)
AFTER_NOTE = "One class, one image, all of SISE's masks forwarded before; share = time over SISE's time."


def engine(cfg: DictConfig, device: torch.device) -> Iterator[list[Report]]:
    """Times of every runner against plain eager passes, the overhead, and what comes free after SISE."""
    compile = bool(cfg.compile) and (has_cpp_compiler() or device.type == "cuda")
    passes, overhead, after = [], [], []
    samples: dict[str, Any] = {}
    notes = [random_weights(cfg.width)]
    if cfg.compile and not compile:
        notes.append("torch.compile was left out: it needs a C++ compiler, and none was found.")
    for network in cfg.networks:
        arguments = {"network": network, "masks": cfg.masks, "device": str(device), "batch": cfg.batch_size}
        arguments |= {"compile": compile, "width": cfg.width}
        with ExitStack() as stack:
            workers = {
                allocator: stack.enter_context(
                    Worker(engine_actions, arguments, device, malloc=allocator == "kept", threads=cfg.threads)
                )
                for allocator in (("default",) if device.type == "cuda" else ("default", "kept"))
            }
            measured, failures = measure_runners(workers, cfg.rounds, device, LABELS[network])
            last = workers[list(workers)[-1]]
            maps = {name: last(f"maps of {name}").result for _, name in measured if f"maps of {name}" in last.names}
            nulls = [n for n in last.names if n.startswith("null")]
            for name in nulls:
                last(name)  # warms up
            actions = {name: functools.partial(last, name) for name in nulls}
            null = interleaved(actions, cfg.rounds, f"{LABELS[network]}, overhead")
            if device.type == "cuda":
                pair = {n: functools.partial(last, n) for n in ("bare", "sise")}
                whole = interleaved(pair, cfg.rounds, f"{LABELS[network]}, whole SISE")
            else:
                whole = {"sise": [last("sise")]}
        notes += failures
        passes += pass_rows(network, measured, maps, cfg.masks, device)
        overhead += overhead_rows(network, null)
        rows, more = whole_rows(network, whole)
        overhead += rows
        after += more
        samples[network] = {
            "passes": {" | ".join(k): [m.seconds for m in v] for k, v in measured.items()},
            "page faults": {" | ".join(k): [m.faults for m in v] for k, v in measured.items()},
            "null": {k: [m.result for m in v] for k, v in null.items()},
            "sise": {k: [m.result for m in v] for k, v in whole.items()},
        }
        batch = cfg.batch_size or (64 if device.type == "cuda" else 32)
        engine_notes = [
            f"{cfg.rounds} rounds over the same {cfg.masks} masks of all layers, 224 x 224, batches of {batch}; a "
            "ratio is that of two times of one round, and the median over rounds is given.",
            PASSES_NOTE,
            *notes,
        ]
        title = "The engine: everything but the passes"
        yield [
            Report("engine", "The engine: time of a masked pass", pd.DataFrame(passes), engine_notes, samples),
            Report("overhead", title, pd.DataFrame(overhead), [NULL_NOTE, WHOLE_NOTE, *notes]),
            Report("after_sise", "After SISE on the same probe", pd.DataFrame(after), [AFTER_NOTE, *notes]),
        ]


def measure_runners(
    workers: Mapping[str, Worker], rounds: int, device: torch.device, description: str
) -> tuple[dict[tuple[str, str], list[Measurement]], list[str]]:
    """Warms every runner up, leaves out those that fail, then measures all in turns.

    Returns:
        Measurements by (allocator, runner), and a note per failure.
    """
    actions, notes = {}, []
    for allocator, worker in workers.items():
        for name in worker.names:
            if name.startswith(("maps of", "null", "sise", "bare")):
                continue
            if "compiled" in name and allocator == "default" and "kept" in workers:
                continue  # a compilation takes a minute and its buffers are its own
            try:
                worker(name)
                actions[allocator, name] = functools.partial(worker, name)
            except Exception as error:
                notes.append(f"{name} was left out: {str(error)[:200]}")
    return interleaved(actions, rounds, description), notes


def pass_rows(
    network: str,
    measured: Mapping[tuple[str, str], Sequence[Measurement]],
    maps: Mapping[str, Sequence[np.ndarray]],
    masks: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """One row per (allocator, runner): the ratio to the plain eager passes of the same round."""
    floor = measured["default", PLAIN]
    rows = []
    for (allocator, name), found in measured.items():
        relative = ratios(found, floor)
        precision = next((p for p in ("bf16", "fp16", "tf32") if p in name), "fp32")
        goal = GOALS.get((network, precision)) if name.startswith("lossless") and allocator == "kept" else None
        goal = goal if device.type == "cpu" else None
        error = layer_map_error(maps[name], maps[PLAIN]) if name in maps and name != PLAIN else None
        rows.append(
            {
                "network": LABELS[network],
                "runner": name,
                "allocator": allocator,
                "time / plain eager": quartiles(relative)[0],
                "interquartile range": spread(relative),
                "ms per mask": quartiles(m.seconds for m in found)[0] / masks * 1000,
                "page faults per mask": round(quartiles(m.faults for m in found)[0] / masks),
                "layer map error / peak": error,
                "goal": f"<= {goal}" if goal else "",
                "met": None if goal is None else quartiles(relative)[0] <= goal,
            }
        )
    return rows


def layer_map_error(maps: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Largest difference of any layer's map, as a share of that map's peak."""
    return max(
        float(np.abs(m - r).max() / max(float(np.abs(r).max()), 1e-12)) for m, r in zip(maps, reference, strict=True)
    )


def overhead_rows(network: str, null: Mapping[str, Sequence[Measurement]]) -> list[dict[str, Any]]:
    """Microseconds per mask of everything but the passes, and of its parts."""
    rows = []
    for name, found in null.items():
        values = [(m.seconds - m.result["parts"][NULL_PART]) * 1e6 for m in found]
        threads = "1 CPU thread" if "1 thread" in name else "default threads"
        common = {"network": LABELS[network], "masks": found[0].result["masks"]}
        rows.append(
            common
            | {"what": f"everything but the passes, {threads}", "unit": "µs per mask", "value": quartiles(values)[0]}
            | {"interquartile range": spread(values), "goal": f"<= {GOAL_MICROSECONDS:.0f}"}
            | {"met": quartiles(values)[0] <= GOAL_MICROSECONDS}
        )
        for part in found[0].result["parts"]:
            values = [m.result["parts"][part] * 1e6 for m in found]
            what = f"  beside it {part}" if part == NULL_PART else f"  of it {part}"
            if part != "extraction":
                rows.append(common | {"what": what, "unit": "µs per mask", "value": quartiles(values)[0],
                                      "interquartile range": spread(values), "goal": "", "met": None})  # fmt: skip
    return rows


def whole_rows(network: str, whole: Mapping[str, Sequence[Measurement]]) -> tuple[list[dict], list[dict]]:
    """SISE over its passes, and what comes after it."""
    results = [m.result for m in whole["sise"]]
    if "bare" in whole:
        relative = ratios(whole["sise"], whole["bare"])
    else:
        relative = [r["seconds"] / r["passes"] for r in results]
    seconds = quartiles(r["seconds"] for r in results)[0]
    common = {"network": LABELS[network], "masks": results[0]["masks"]}
    rows = [
        common
        | {"what": "SISE whole / its passes", "unit": "ratio", "value": quartiles(relative)[0]}
        | {"interquartile range": spread(relative, 4) if len(relative) > 1 else "1 run", "goal": f"<= {GOAL_WHOLE}"}
        | {"met": quartiles(relative)[0] <= GOAL_WHOLE},
        common
        | {"what": "SISE whole", "unit": "s", "value": seconds, "interquartile range": "", "goal": "", "met": None},
    ]
    after = []
    times = {name: quartiles(r["after"][name] for r in results)[0] for name in results[0]["after"]}
    further = max(r["further passes"] for r in results)
    for name, value in times.items():
        after.append({"network": LABELS[network], "explainer": name, "seconds": value,
                      "share of SISE's time (%)": 100 * value / seconds, "further passes": "", "goal": "",
                      "met": None})  # fmt: skip
    total = sum(times.values())
    after.append({"network": LABELS[network], "explainer": "all of these", "seconds": total,
                  "share of SISE's time (%)": 100 * total / seconds, "further passes": str(further),
                  "goal": "0 passes, <= 0.5 %", "met": further == 0 and total <= GOAL_AFTER * seconds})  # fmt: skip
    return rows, after

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
from sise.benchmark.performance.engine_actions import NULL_PART, PLAIN, Action, Runner, engine_actions
from sise.benchmark.performance.report import Report
from sise.benchmark.performance.subject import LABELS, random_weights
from sise.benchmark.performance.worker import Worker
from sise.benchmark.process import has_cpp_compiler

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
            makers = {action.runner: action for action in last.names if action.kind == "maps"}
            maps = {runner: last(makers[runner]).result for _, runner in measured if runner in makers}
            nulls = [action for action in last.names if action.kind == "null"]
            for action in nulls:
                last(action)  # warms up
            actions = {action: functools.partial(last, action) for action in nulls}
            null = interleaved(actions, cfg.rounds, f"{LABELS[network]}, overhead")
            if device.type == "cuda":
                pair = {kind: functools.partial(last, Action(kind)) for kind in ("bare", "sise")}
                whole = interleaved(pair, cfg.rounds, f"{LABELS[network]}, whole SISE")
            else:
                whole = {"sise": [last(Action("sise"))]}
        notes += failures
        passes += pass_rows(network, measured, maps, cfg.masks, device, cfg.goals)
        overhead += overhead_rows(network, null, cfg.goals)
        rows, more = whole_rows(network, whole, cfg.goals)
        overhead += rows
        after += more
        samples[network] = {
            "passes": {" | ".join(map(str, k)): [m.seconds for m in v] for k, v in measured.items()},
            "page faults": {" | ".join(map(str, k)): [m.faults for m in v] for k, v in measured.items()},
            "null": {str(k): [m.result for m in v] for k, v in null.items()},
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
) -> tuple[dict[tuple[str, Runner], list[Measurement]], list[str]]:
    """Warms every runner up, leaves out those that fail, then measures all in turns.

    Returns:
        Measurements by (allocator, runner), and a note per failure.
    """
    actions, notes = {}, []
    for allocator, worker in workers.items():
        for action in worker.names:
            if action.kind != "passes":
                continue
            if action.runner.compile and allocator == "default" and "kept" in workers:
                continue  # a compilation takes a minute and its buffers are its own
            try:
                worker(action)
                actions[allocator, action.runner] = functools.partial(worker, action)
            except Exception as error:
                notes.append(f"{action} was left out: {str(error)[:200]}")
    return interleaved(actions, rounds, description), notes


def pass_rows(
    network: str,
    measured: Mapping[tuple[str, Runner], Sequence[Measurement]],
    maps: Mapping[Runner, Sequence[np.ndarray]],
    masks: int,
    device: torch.device,
    goals: DictConfig,
) -> list[dict[str, Any]]:
    """One row per (allocator, runner): the ratio to the plain eager passes of the same round."""
    floor = measured["default", PLAIN]
    rows = []
    for (allocator, runner), found in measured.items():
        relative = ratios(found, floor)
        wanted = runner.lossless and allocator == "kept" and device.type == "cpu"
        goal = goals.masked_pass[network].get(runner.precision) if wanted else None
        error = layer_map_error(maps[runner], maps[PLAIN]) if runner in maps and runner != PLAIN else None
        rows.append(
            {
                "network": LABELS[network],
                "runner": str(runner),
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


def overhead_rows(
    network: str, null: Mapping[Action, Sequence[Measurement]], goals: DictConfig
) -> list[dict[str, Any]]:
    """Microseconds per mask of everything but the passes, and of its parts."""
    rows = []
    for action, found in null.items():
        values = [(m.seconds - m.result["parts"][NULL_PART]) * 1e6 for m in found]
        threads = "1 CPU thread" if action.threads else "default threads"
        common = {"network": LABELS[network], "masks": found[0].result["masks"]}
        rows.append(
            common
            | {"what": f"everything but the passes, {threads}", "unit": "µs per mask", "value": quartiles(values)[0]}
            | {"interquartile range": spread(values), "goal": f"<= {goals.microseconds:.0f}"}
            | {"met": quartiles(values)[0] <= goals.microseconds}
        )
        for part in found[0].result["parts"]:
            values = [m.result["parts"][part] * 1e6 for m in found]
            what = f"  beside it {part}" if part == NULL_PART else f"  of it {part}"
            if part != "extraction":
                rows.append(common | {"what": what, "unit": "µs per mask", "value": quartiles(values)[0],
                                      "interquartile range": spread(values), "goal": "", "met": None})  # fmt: skip
    return rows


def whole_rows(
    network: str, whole: Mapping[str, Sequence[Measurement]], goals: DictConfig
) -> tuple[list[dict], list[dict]]:
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
        | {"interquartile range": spread(relative, 4) if len(relative) > 1 else "1 run", "goal": f"<= {goals.whole}"}
        | {"met": quartiles(relative)[0] <= goals.whole},
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
                  "goal": f"0 passes, <= {100 * goals.after:g} %",
                  "met": further == 0 and total <= goals.after * seconds})  # fmt: skip
    return rows, after

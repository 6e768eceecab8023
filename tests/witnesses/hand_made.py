"""Runs, tables and the page's lines made by hand: every number is known beforehand."""

from __future__ import annotations

import math

import pandas as pd
from checkout import ROOT

from sise.benchmark.records.folder import RunFolder
from sise.benchmark.tables import words
from sise.benchmark.tables.build import build
from sise.benchmark.tables.definitions import read
from sise.benchmark.tables.runs import find_runs

PUBLISHED = ROOT / "results/published/published_results.csv"
DEFINITIONS = read(ROOT / "configs/table")
CONTROLS = ("centre", "uniform", "random", "ground_truth")
SISE, RISE = ("sise", "paper", "SISE"), ("rise", "paper", "RISE")


def ok(image_id, target=0, **values):
    values = {"EBPG": 0.5, "mIoU": 0.1, "Bbox": 0.5, "Drop%": 0.2, "Increase%": 0.0} | values
    head = {"image_id": image_id, "target": target, "class": "a", "status": "ok"}
    return head | {"seconds": 1.5, "undefined": []} | values


def failed(image_id, target=0):
    return {"image_id": image_id, "target": target, "class": "a", "status": "failed", "reason": "OSError: /x/y.jpg <b>"}


def make_run(outputs, explainer, records, *, dataset="voc2007", model="vgg16", variant="paper", seed=None, **identity):
    name = variant + (f"-seed{seed}" if seed is not None else "")
    identity = {
        "dataset": dataset, "model": model, "explainer": explainer, "variant": variant, "protocol": "paper",
        "seed": seed, "label": explainer.upper(), "config": {"protocol": {"description": "the text"}},
        "weights_hash": "abc", "dataset_fingerprint": "f", "format": 2, "departures": [], "budget": None,
        "left_out": None, "dataset_note": "", "expected_pairs": 2, "complete_dataset": True, "weights_official": True,
    } | identity  # fmt: skip
    with RunFolder(outputs / dataset / model / explainer / name, identity) as folder:
        folder.append(records)
        folder.add_environment({"device": "Abacus", "time": "now"})


def make_table(outputs, name="sise_table1", dataset="voc2007", **changes):
    definition = {**DEFINITIONS[name], "models": ["vgg16"], **changes}
    return build(definition, dataset, find_runs(outputs), pd.read_csv(PUBLISHED), controls=CONTROLS)


def told_in(table):
    """The lines of a table's foot."""
    return [note.text for note in table.notes]


def run_of_values(outputs, explainer, values, *, metric="EBPG", variant="paper", seed=None, undefined=(), model="vgg16",
             dataset="voc2007", more=None, **facts):  # fmt: skip
    """``values``: one per image, or one list per image; ``more`` adds to an image's records."""
    name = variant + (f"-seed{seed}" if seed is not None else "")
    identity = {"dataset": dataset, "model": model, "explainer": explainer, "variant": variant, "protocol": "paper",
                "seed": seed, "label": explainer.upper(), "config": {}, "weights_hash": "abc",
                "format": 2, "departures": [], "budget": None, "left_out": None, "dataset_note": "",
                "expected_pairs": 2, "complete_dataset": True, "weights_official": True} | facts  # fmt: skip
    rest = {m: 0.5 for m in words.METRICS}
    with RunFolder(outputs / dataset / model / explainer / name, identity) as folder:
        folder.append(
            {"image_id": f"{i:02d}", "target": t, "class": "a", "status": "ok", **rest, metric: v, "seconds": 1.0,
             "mask_fraction": 0.3, "undefined": [metric] if (i, t) in undefined else []}
            | (more(i) if more else {})
            for i, of_image in enumerate(values)
            for t, v in enumerate(of_image if isinstance(of_image, list) else [of_image])
        )  # fmt: skip


def row(run, metric, mean, n=10, dataset="shapes", model="vgg16", published=math.nan, status="not published", **more):
    """A line of a table's CSV."""
    explainer, variant, method = run
    counts = {"undefined": 0, "missing": 0, "failed": 0}
    return {
        "dataset": dataset, "model": model, "method": method, "explainer": explainer, "variant": variant,
        "metric": metric, "mean": mean, "standard error": 1.0, "n": n, **counts, "published": published,
        "difference": math.nan, "status": status, "place": "", "note": "", "commit": "",
    } | more  # fmt: skip


def claim(subject, rival, verdict, *, agrees=True, text="SISE leads", metric="EBPG", table="SISE Table 1"):
    return {
        "source": "sise", "section": "End", "claim": text, "table": table, "dataset": "shapes", "model": "vgg16",
        "metric": metric, "subject": subject, "rival": rival, "kind": "better", "published difference": 1.0,
        "published agrees": agrees, "images": 30, "pairs": 30, "difference": 2.0, "low": 1.0, "high": 3.0,
        "verdict": verdict, "subject run": "sise/paper", "rival run": "rise/paper",
    }  # fmt: skip


def facts_of(folder, **changes):
    """Writes the catalogue's facts of two explainers."""
    values = {
        "explainer": "sise", "label": "SISE", "family": "Own", "reads": "masks", "negative values": "none",
        "forward passes": "129", "backward passes": "1", "refuses": "", "method": "It masks.", "paper": "P.",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    rows = [values, values | {"explainer": "rise", "label": "RISE", "family": "Other", "refuses": "GELU"} | changes]
    pd.DataFrame(rows).to_csv(folder / "explainers.csv", index=False)

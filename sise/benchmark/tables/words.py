"""The words of tables: metrics, directions, labels, marks, numbers."""

from __future__ import annotations

import math

from sise.benchmark.config_facts import network_labels
from sise.benchmark.metric_facts import COSTS, in_group, lower_is_better, scale
from sise.benchmark.places import CONFIGS

METRICS = in_group("default")
LOWER_IS_BETTER = lower_is_better()
NOT_METRICS = ("image_id", "target", "class", "status", "reason", "confidence", "mask_fraction", "undefined",
               "remarks", "difficult", "session", "where", "image_hash", "kept_fraction", "cluster",
               "subsets", "confidence_rank", "classes_in_image", "regions")  # fmt: skip


OWN = {"sise": "SISE", "ada_sise": "Ada-SISE", "ada_sise_table": "Ada-SISE"}
"""The explainers that stand in many variants beside their rivals, and the methods they are variants of."""
PUBLISHED_NAMES = {"seconds": "Runtime (s)"}
LABELS = {
    **network_labels(),
    "densenet": "DenseNet", "densenet121": "DenseNet-121", "inception_v3": "Inception-v3",  # of the papers alone
    "seconds": "Run-time (s)", "forward_passes": "Forward passes", "backward_passes": "Backward passes",
}  # fmt: skip
STATUS = {  # mark in a cell, meaning
    "reproduced": ("=", "official complete dataset, official weights, the settings and the budget that are shipped for "
                   "the paper, and the difference is rounding: at most 0.05 points, or for a random method 2 standard "
                   "deviations of its seeds' mean, or 2 of what rounding makes of a mean from machine to machine"),
    "close": ("≈", "the same, but the difference is larger, and at most 0.5 points"),
    "differs": ("≠", "the same, but the difference is larger"),
    "partial": ("~", "the paper's dataset and weights, but fewer pairs, a smaller budget, a single seed, changed "
                "settings, or records of other code or other images than there are now"),
    "other data": ("°", "stand-in dataset or weights: says nothing about the published number"),
    "other hardware": ("°", "seconds are those of another machine"),
    "not run": ("", "no records"),
    "failed": ("", "every pair failed"),
    "not published": ("", "the paper has no such number"),
}  # fmt: skip
ROUNDING = 0.05
"""Points within which a mean equals a published number: its two decimals, and what float32 leaves open."""
CLOSE = 0.5
"""Points within which it is close."""
PROTOCOLS = tuple(file.stem for file in sorted((CONFIGS / "protocol").glob("*.yaml")))


def label_of(name: str) -> str:
    return LABELS.get(name, name)


def heading(metric: str) -> str:
    """A metric's name, with an arrow where lower is better."""
    return label_of(metric) + (" ↓" if metric in LOWER_IS_BETTER else "")


# writing ----------------------------------------------------------------------------------------------------------
def number(value: float, metric: str) -> str:
    """A number as the papers print it: 2 decimals; 3 below one second, or of what is no percentage; – for none."""
    if math.isnan(value):
        return "–"
    fine = value < 1 if metric == "seconds" else metric not in COSTS and scale(metric) == 1
    return f"{value:.3f}" if fine else f"{value:.2f}"


def signed(value: float) -> str:
    """A difference with its sign and 2 decimals; 0.00 has none."""
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else text


def one_line(text: str) -> str:
    return " ".join(text.split())

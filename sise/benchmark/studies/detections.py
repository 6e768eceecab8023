"""D-RISE measured on generated scenes: does a detection's map lie on its object, and on no other?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from sise.baselines.centre import centre
from sise.baselines.random import random
from sise.benchmark.datasets.scenes import SIZE
from sise.benchmark.figures.detections import COLUMNS as DRAWN
from sise.benchmark.figures.detections import WITHOUT_BOX, Found, energies, find, index_of, sheet
from sise.benchmark.figures.layout import Made
from sise.benchmark.markdown import markdown_table, number
from sise.benchmark.models.detector import detector
from sise.benchmark.records.files import csv_text
from sise.benchmark.records.provenance import command
from sise.benchmark.run import probing
from sise.benchmark.run.device import choose_device
from sise.benchmark.terminal import Progress
from sise.errors import SuiteError
from sise.metrics.pointing import point
from sise.probe.probe import Probe

BOX = "the detected box"
CONTROLS = (BOX, "centre", "random")
"""Maps without D-RISE: the box filled, no more than the detection itself says; two that know nothing."""
COLUMNS = {"on": "energy on it", "others": "energy on others", "hit": "peak on it", "wrong": "peak on another"}
PARTS = {"all": "all detections", "twins": "with another object of their class in the scene"}


def study(cfg: DictConfig) -> Made:
    """Scenes explained, a few of them drawn, all of them measured.

    Args:
        cfg: The figure's configuration.

    Returns:
        ``detections.jpg``, ``.csv`` and ``.md``; the picture alone if images are asked for.

    Raises:
        SuiteError: If an image is unknown, the detector is missing, or there is no scene.
    """
    own = cfg.detections
    asked = [index_of(str(name)) for name in cfg.images or ()]
    indices = asked or list(range(own.scenes))
    if not indices or cfg.count < 1:
        raise SuiteError(f"expected detections.scenes and count of at least 1, got {own.scenes} and {cfg.count}.")
    device = choose_device(cfg.device)
    network = detector(own.weights).to(device)
    scorer = probing.make_scorer(network, cfg.engine)
    explain = instantiate(own.call)
    found = [
        find(index, network, scorer, explain, score=own.score)
        for index in Progress(indices, desc="detections", unit="scene")
    ]
    settings = f"{own.call.n_masks} masks of {own.call.cells} × {own.call.cells} cells (paper: 5000 of 16 × 16)"
    settings += ", the mean taken off their weights" if own.call.centred else ""
    made: Made = {"detections.jpg": sheet(shown_of(found, cfg.count) if not asked else found, footer_of(settings))}
    if not asked:
        table = summarise(measure(found, cfg.seed))
        made |= {"detections.csv": csv_text(table.round(4)), "detections.md": to_markdown(found, table, settings)}
    return made


def footer_of(settings: str) -> str:
    """What the picture was made of."""
    return (
        f"A small detector on generated scenes, split test · D-RISE: {settings} · on it, on others: shares of the "
        "map's sum on the object found and on all other objects · last column: the similarity without its IoU, which "
        "does not say which object of a class is meant"
    )


def shown_of(found: Sequence[Found], count: int) -> list[Found]:
    """The first scenes: those with two objects of one class before others, then those with more detections."""
    return sorted(found, key=lambda one: (not any(one.twins()), -min(len(one.vectors), DRAWN)))[:count]


# --- measured ---------------------------------------------------------------------------------------------------------
def maps_of(found: Found, seed: int) -> Mapping[str, Tensor]:
    """(D, 224, 224) maps by name: D-RISE's, then the controls'."""
    boxes = torch.zeros(len(found.vectors), SIZE, SIZE)
    for filled, (x0, y0, x1, y1) in zip(boxes, (found.vectors[:, :4] * SIZE).round().long().tolist(), strict=True):
        filled[y0:y1, x0:x1] = 1
    blank = Probe(torch.nn.Identity().eval(), torch.zeros(1, 3, SIZE, SIZE))  # for its size alone
    places = list(range(len(boxes)))
    noise = random(blank, places, seed=seed + 1000 * found.index)
    return {**found.maps, BOX: boxes, "centre": centre(blank, places), "random": noise}


def measure(found: Sequence[Found], seed: int) -> pd.DataFrame:
    """One row per explainer and detection that has found an object.

    Args:
        found: The scenes.
        seed: Of the random map.

    Returns:
        ``explainer``, ``scene``, ``twin`` (another visible object of its class is there); ``on``, ``others``, shares of
        the map's sum; ``hit``, ``wrong``, whether the map's maximum, of equal ones their middle, lies on the object's
        mask, or on another object's.
    """
    return pd.DataFrame(row for one in found for row in _rows(one, seed))


def _rows(found: Found, seed: int) -> Iterator[dict[str, Any]]:
    twins = found.twins()
    for name, maps in maps_of(found, seed).items():
        for saliency, own, twin in zip(maps, found.numbers, twins, strict=True):
            if not own:
                continue
            on, others = energies(saliency, found.instances, own)
            x, y = point(saliency, (SIZE, SIZE), "middle")
            there = int(found.instances[int(y + 0.5), int(x + 0.5)])
            constant = bool(saliency.min() == saliency.max())
            yield {
                "explainer": name, "scene": found.index, "twin": twin, "on": on, "others": others,
                "hit": there == own and not constant, "wrong": there not in (0, own) and not constant,
            }  # fmt: skip


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Means per explainer, over all detections and over those with a twin.

    Returns:
        ``explainer``, ``part``, ``n`` detections, ``scenes``, and of each number of :func:`measure` the mean in percent
        and ``<name>_se``, its standard error over scenes as clusters (NaN for fewer than two).
    """
    found = []
    for part, chosen in (("all", rows), ("twins", rows[rows["twin"]])):
        for name, group in chosen.groupby("explainer", sort=False):
            line = {"explainer": name, "part": part, "n": len(group), "scenes": group["scene"].nunique()}
            for column in COLUMNS:
                values = 100 * group[column].astype(float)
                residuals = (values - values.mean()).groupby(group["scene"]).sum()
                clusters = len(residuals)
                spread = np.sqrt((residuals**2).sum() * clusters / (clusters - 1)) if clusters > 1 else np.nan
                line |= {column: values.mean(), f"{column}_se": spread / len(group)}
            found.append(line)
    return pd.DataFrame(found)


def to_markdown(found: Sequence[Found], table: pd.DataFrame, settings: str) -> str:
    """The numbers, and what they were made of."""
    vectors = sum(len(one.vectors) for one in found)
    hits = sum(k > 0 for one in found for k in one.numbers)
    visible = sum(len(np.unique(one.instances[one.instances > 0])) for one in found)
    parts = [
        "# Detections and their D-RISE maps",
        f"The first {len(found)} test scenes of `shapes`, which the detector was not trained on: {vectors} detections, "
        f"{hits} of them right (IoU of 0.5 and more with an object of their class), of {visible} objects. The maps of "
        f"the {hits} are measured. D-RISE: {settings}.",
        "*Energy*: share of the map's sum, in percent, on the mask of the object found, and on the masks of all "
        "others. *Peak*: how often, in percent, the map's maximum lies on that mask, or on another object's. Means "
        f"over detections ± standard error, scenes as clusters. *{WITHOUT_BOX}*: the similarity without its IoU, from "
        f"the same passes, is RISE on the class. *{BOX}*: the box filled, no more than the detection itself says; "
        "*centre* and *random* know nothing.",
    ]
    for part, title in PARTS.items():
        rows = table[table["part"] == part]
        if rows.empty:
            continue
        lines = [["Explainer", *COLUMNS.values()]]
        for _, row in rows.iterrows():
            lines.append([row["explainer"], *(f"{row[c]:.1f} ± {number(row[f'{c}_se'], '.1f')}" for c in COLUMNS)])
        count, scenes = int(rows["n"].iloc[0]), int(rows["scenes"].iloc[0])
        parts += [f"## {title[0].upper()}{title[1:]}: {count}, of {scenes} scenes", markdown_table(lines)]
    return "\n\n".join([*parts, f"Made by `{command()}`."]) + "\n"

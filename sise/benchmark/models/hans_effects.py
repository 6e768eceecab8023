"""What each answer to a scene of `sise.benchmark.datasets.hans` depends on, measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from sise.benchmark.datasets.hans import CLASSES, PARTS, Hans
from sise.types import Model

__all__ = ["effects"]


@torch.no_grad()
def effects(dataset: Hans, model: Model, *, batch: int = 32) -> pd.DataFrame:
    """Measure what each answer depends on: the scene as it is, without its watermark, and without its object.

    Args:
        dataset: The scenes.
        model: A network for their classes.
        batch: Images in one forward pass.

    Returns:
        One row per image, in the data set's order: ``image_id``; ``class``, its only target; ``answer``,
        ``answer_without_watermark`` and ``answer_without_object``, names of the best class; ``confidence`` and the
        same two without a part, softmax of the target; ``watermark_flips`` and ``object_flips``, whether the answer is
        right and changes when the part is taken away; ``cause``, "watermark" or "object" if taking that one away
        changes a right answer and taking the other one does not, else "".
    """
    kinds = (None, *PARTS)
    scores = {kind: _scores(dataset, model, kind, batch) for kind in kinds}
    targets = torch.tensor([dataset.targets_of(image_id)[0] for image_id in dataset.ids])
    names = np.asarray(CLASSES)
    table: dict[str, Any] = {"image_id": dataset.ids, "class": names[targets]}
    for kind in kinds:
        suffix = f"_without_{kind}" if kind else ""
        table[f"answer{suffix}"] = names[scores[kind].argmax(dim=1)]
    for kind in kinds:
        suffix = f"_without_{kind}" if kind else ""
        table[f"confidence{suffix}"] = scores[kind].softmax(dim=1).gather(1, targets[:, None])[:, 0].numpy()
    found = pd.DataFrame(table)
    right = found["answer"] == found["class"]
    for part in PARTS:
        found[f"{part}_flips"] = right & (found[f"answer_without_{part}"] != found["answer"])
    mark, shape = found["watermark_flips"], found["object_flips"]
    found["cause"] = np.select([mark & ~shape, shape & ~mark], PARTS, default="")
    return found


def _scores(dataset: Hans, model: Model, without: str | None, batch: int) -> Tensor:
    """(N, 8) float64 scores of all scenes, without a part of each."""
    found = []
    for start in range(0, len(dataset), batch):
        ids = dataset.ids[start : start + batch]
        images = [model.preprocess(Image.fromarray(dataset.scene(i, without=without).image)) for i in ids]
        found.append(model.network(torch.stack(images)))
    return torch.cat(found).double()

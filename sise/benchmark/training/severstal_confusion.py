"""A trained Severstal network beside the paper's confusion table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sise.benchmark.datasets.severstal import CLASSES, Severstal
from sise.benchmark.markdown import markdown_table
from sise.benchmark.models.severstal import new_network
from sise.benchmark.records.files import write_whole
from sise.benchmark.training.severstal import Settings, limited, loader_of, scores_of, top_k
from sise.errors import SuiteError

__all__ = ["confusion", "evaluate", "report"]


def confusion(scores: Tensor, classes: Tensor) -> np.ndarray:
    """(K, K) counts: row = actual class, column = predicted class."""
    counts = np.zeros((scores.shape[1], scores.shape[1]), dtype=np.int64)
    np.add.at(counts, (classes.numpy(), scores.argmax(dim=1).numpy()), 1)
    return counts


def evaluate(
    dataset: Severstal, weights: Path, settings: Settings, *, device: torch.device, workers: int = 0
) -> dict[str, Any]:
    """What the trained network does on the test set.

    Returns:
        ``tiles``, ``top1``, ``top3`` (fractions), ``confusion`` (K, K) counts, and ``about`` of the weights.
    """
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    network = new_network(settings.arch)
    network.load_state_dict(stored["state_dict"])
    loader = loader_of(dataset, limited(dataset.subsets["test"], settings), settings, workers)
    scores, classes = scores_of(network.to(device), loader, device, settings.precision, "test")
    return {
        "tiles": len(classes),
        "top1": top_k(scores, classes, 1),
        "top3": top_k(scores, classes, 3),
        "confusion": confusion(scores, classes),
        "about": stored["about"],
    }


def report(result: dict[str, Any], published: Path, results: Path) -> str:
    """Writes ``severstal_confusion.csv`` and ``.md`` into ``results``: SISE Table 5 and the accuracies, beside ours.

    Args:
        result: Of `evaluate`.
        published: ``severstal_confusion.csv`` of the papers' numbers.
        results: Where to write.

    Returns:
        The text of the ``.md``.
    """
    try:
        with published.open(newline="", encoding="utf-8") as lines:
            known = {(r["actual"], r["predicted"]): float(r["value"]) for r in csv.DictReader(lines)}
        top1, top3 = known["all", "top-1 %"], known["all", "top-3 %"]
    except (OSError, KeyError, ValueError) as error:
        raise SuiteError(f"expected the published confusion matrix in {published} ({error}); restore it") from error
    counts = result["confusion"]
    totals = counts.sum(axis=1)
    about = result["about"]
    share = counts / np.maximum(totals, 1)[:, None]
    results.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[Any]] = [("actual", "predicted", "count", "share", "published")]
    rows += [(a, p, count, f"{share[a, p]:.4f}" if totals[a] else "", known[str(a), str(p)])
             for (a, p), count in np.ndenumerate(counts)]  # fmt: skip
    rows += [("all", "top-1 %", result["tiles"], f"{100 * result['top1']:.2f}", top1),
             ("all", "top-3 %", result["tiles"], f"{100 * result['top3']:.2f}", top3)]  # fmt: skip
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    write_whole(results / "severstal_confusion.csv", table.getvalue())

    width = len(CLASSES)
    text = ["# SISE, Table 5: confusion matrix of the network trained on the recast Severstal", ""]
    text += ["Share of the actual class's test tiles [published].", ""]
    matrix = [["actual \\ predicted", "tiles", *map(str, range(width))]]
    for a in range(width):
        mine = [f"{part:.3f}" if totals[a] else "–" for part in share[a]]
        cells = [f"{part} [{known[str(a), str(p)]:g}]" for p, part in enumerate(mine)]
        matrix.append([str(a), str(totals[a]), *cells])
    accuracies = [["", "measured", "published"],
                  ["top-1 accuracy %", f"{100 * result['top1']:.2f}", f"{top1:.2f}"],
                  ["top-3 accuracy %", f"{100 * result['top3']:.2f}", f"{top3:.2f}"]]  # fmt: skip
    text += [markdown_table(matrix), "", markdown_table(accuracies), ""]
    text += [f"{about['arch']}, weights of epoch {about['epoch']} on inputs of {about['size']}x{about['size']}; "
             f"{result['tiles']} test tiles."]  # fmt: skip
    text += [f"**NOT {caveat}: says nothing about the published numbers.**" for caveat in about["caveats"]]
    write_whole(results / "severstal_confusion.md", "\n".join(text) + "\n")
    return "\n".join(text)

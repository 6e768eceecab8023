"""``training=severstal``: trains, evaluates and puts the confusion matrix beside the published one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sise.benchmark import invocation, places
from sise.benchmark.datasets.severstal import Severstal
from sise.benchmark.run.device import choose_device
from sise.benchmark.training.severstal import Settings, train
from sise.benchmark.training.severstal_confusion import evaluate, report

__all__ = ["run"]


def run(
    *,
    data: Mapping[str, Any],
    output: str,
    results: str,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    restart: bool = False,
    **settings: Any,
) -> None:
    """Trains, evaluates, writes the confusion matrix and says what to run next.

    Args:
        data: Of :class:`Severstal`: ``root`` and how the strips are cut.
        output: Folder of the weights.
        results: Folder of the confusion matrix.
        device: As for :func:`choose_device`.
        workers: Processes that read images; None for at most 4.
        threads: CPU threads; None for torch's choice.
        restart: Begin anew instead of continuing.
        **settings: Of :class:`Settings`.

    Raises:
        SuiteError: If a setting is out of range, the images are missing, or the folder holds another training.
    """
    how, where, workers = Settings(**settings), choose_device(device), default_workers(workers)
    if threads:
        torch.set_num_threads(threads)
    dataset = Severstal(**data, subset="train")
    weights = train(dataset, how, Path(output), device=where, workers=workers, restart=restart)
    result = evaluate(dataset, weights, how, device=where, workers=workers)
    print(report(result, places.PUBLISHED / "severstal_confusion.csv", Path(results)))
    print(f"\nweights: {weights}\nnext: {next_command(data, how, weights)}")


def next_command(data: Mapping[str, Any], settings: Settings, weights: Path) -> str:
    """The command that makes Table 2 of these weights, on the tiles that they were not trained on."""
    usual = {"all_12568": False, "black_below": 10.0, "seed": 0}
    other = {f"dataset.loader.{key}": data[key] for key, value in usual.items() if data.get(key, value) != value}
    if settings.arch != Settings().arch:
        other["model.loader.arch"] = settings.arch
    words = [f"dataset.root={data['root']}", f"model.weights={weights}", *(f"{k}={v}" for k, v in other.items())]
    return f"{invocation.typed('evaluate')} experiment=sise_table2 {' '.join(words)}"


def default_workers(workers: int | None) -> int:
    """Processes that read images: as said, else one per core and at most 4."""
    return min(4, os.cpu_count() or 1) if workers is None else workers

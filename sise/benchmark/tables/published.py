"""The papers' numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sise.benchmark.tables.words import PUBLISHED_NAMES
from sise.errors import SuiteError

COLUMNS = ("table", "dataset", "model", "method", "metric", "value")


def read_published(file: str | Path) -> pd.DataFrame:
    """Reads the papers' numbers.

    Args:
        file: A CSV with the columns source, table, dataset, model, method, metric, value, note; or a folder, of which
            all such files are read.

    Returns:
        The rows of all files, with these columns.

    Raises:
        SuiteError: If there is no such file.
    """
    files = sorted(Path(file).glob("*.csv")) if Path(file).is_dir() else [Path(file)]
    try:
        tables = [pd.read_csv(one) for one in files]
    except FileNotFoundError as error:
        raise SuiteError(f"expected the papers' numbers in {file}; it is part of the repository, restore it") from error
    tables = [table for table in tables if set(COLUMNS) <= set(table.columns)]
    if not tables:
        raise SuiteError(
            f"expected the papers' numbers in {file}, with the columns {', '.join(COLUMNS)}, found none; they are part "
            "of the repository, restore them"
        )
    return pd.concat(tables, ignore_index=True)


def known_number(definition: Mapping[str, Any], published: pd.DataFrame) -> Callable[[str, str, str | None], float]:
    """Finds the published number of a table's cell.

    Args:
        definition: The table's. Its first dataset is the paper's; ``published_metrics`` and ``published_models`` give
            the names among the published numbers where those here are others.
        published: From :func:`read_published`; a dataset or network that a paper does not name is "unnamed".

    Returns:
        ``(model, metric, method) -> number``, NaN where the paper has none.
    """
    metrics = {**PUBLISHED_NAMES, **(definition.get("published_metrics") or {})}
    models = definition.get("published_models") or {}
    home = (definition.get("datasets") or [None])[0]
    rows = published[published["table"] == definition.get("published")]
    rows = rows.fillna({"dataset": "unnamed", "model": "unnamed"})
    numbers = rows[rows["dataset"] == home].set_index(["model", "metric", "method"])["value"].to_dict()
    return lambda model, metric, method: numbers.get(
        (models.get(model, model), metrics.get(metric, metric), method), math.nan
    )

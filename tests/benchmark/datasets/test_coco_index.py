"""The index of a COCO annotation file: what the file says, from the second time on."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from sise.benchmark.datasets import coco_index
from sise.benchmark.datasets.coco2014 import COCO2014
from sise.errors import SuiteError


def rectangle(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotated(image, category, segmentation, **more):
    return {"image_id": image, "category_id": category, "bbox": [0, 0, 2, 2], "iscrowd": 0} | {
        "segmentation": segmentation, **more}  # fmt: skip


IMAGES = [
    {"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg", "width": 6, "height": 5, "license": 3} for i in range(1, 7)
]
OBJECTS = [
    annotated(1, 18, rectangle(0, 0, 2, 2), id=7, area=4.0),
    annotated(1, 18, {"size": [5, 6], "counts": [3, 2, 25]}, id=8, iscrowd=1),
    annotated(1, 1, rectangle(4, 1, 5.25, 3.1), id=9),
    annotated(2, 90, rectangle(0, 0, 1, 1), id=9),  # an id that another one has
    annotated(3, 12, rectangle(0, 0, 1, 1)),  # no such category
    annotated(5, 1, rectangle(10, 10, 12, 12)),  # without a pixel
    annotated(5, 2, {"size": [5, 6], "counts": [3, 2, 99]}),  # malformed runs
    annotated(6, 3, rectangle(0, 0, 3, 3), bbox="none"),
    annotated(99, 1, rectangle(0, 0, 1, 1)),  # of an image that is not listed
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "val2014").mkdir()
    for facts in IMAGES[:4]:
        Image.new("RGB", (6, 5), (9, 99, 199)).save(tmp_path / "val2014" / facts["file_name"])
    write(tmp_path, OBJECTS)
    return tmp_path


def write(root, objects, images=IMAGES):
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": objects, "info": {"year": 2014}}
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))


def told(dataset):
    """All that a data set says of itself and its images, errors included."""

    def tried(function, *arguments):
        try:
            return function(*arguments)
        except SuiteError as error:
            return str(error)

    def shown(found):
        return found if isinstance(found, str) else (found[0].tolist(), found[1])

    return {
        "ids": (dataset.ids, dataset.listed, dataset.pairs, dataset.fingerprint()),
        "counts": (dataset.verify_counts(), dataset.verify_annotations()),
        "pictures": [dataset.picture_of(i) for i in dataset.listed],
        "targets": [dataset.targets_of(i) for i in dataset.ids],
        "truth": [shown(tried(dataset.ground_truth_of, i)) for i in dataset.ids],
        "errors": [found for i in dataset.ids if isinstance(found := tried(dataset.__getitem__, i), str)],
    }


def indices(root):
    return sorted((root / "index").glob("*"))


@pytest.mark.parametrize("ground_truth", ["masks", "boxes"])
def test_a_data_set_of_an_index_is_that_of_the_file(root, ground_truth):
    plain, first, second = (
        COCO2014(root, ground_truth=ground_truth, index=index) for index in (None, root / "index", root / "index")
    )
    assert isinstance(plain._objects, dict) and len(indices(root)) == 1
    assert isinstance(first._objects, coco_index.Objects) and isinstance(second._objects, coco_index.Objects)
    assert told(plain) == told(first) == told(second)
    assert told(pickle.loads(pickle.dumps(second))) == told(plain)
    assert len(plain.ids) == 5 and "malformed" in told(plain)["truth"][2]


def test_by_hand(root):
    COCO2014(root, index=root / "index")
    dataset = COCO2014(root, index=root / "index")
    masks, info = dataset.ground_truth_of("000000000001")
    assert dataset.targets_of("000000000001") == (0, 16)  # person and dog
    dog = np.zeros((5, 6), bool)
    dog[:2, :2] = dog[3:, 0] = True
    assert (masks[1] == dog).all() and info["crowd"] == [False, False] and info["boxes"][1] == ((0, 0, 2, 2),) * 2


def test_the_file_is_parsed_once(root, monkeypatch):
    COCO2014(root, index=root / "index")
    monkeypatch.setattr(COCO2014, "_read_annotations", None)
    assert COCO2014(root, index=root / "index").pairs == 5
    assert COCO2014(root, index=root / "index", name="other").ground_truth_of("000000000002")[0].any()


def test_another_annotation_file_has_another_index(root):
    COCO2014(root, index=root / "index")
    write(root, OBJECTS[:1])
    assert COCO2014(root, index=root / "index").ids == ("000000000001",)
    assert len(indices(root)) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-30], lambda data: data[100:], lambda data: b"", lambda data: b"x" * 99]
)
def test_a_damaged_index_is_made_anew(root, damage):
    before = told(COCO2014(root, index=root / "index"))
    (file,) = indices(root)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert told(COCO2014(root, index=root / "index")) == before
    assert file.read_bytes() == whole and indices(root) == [file]


def test_an_index_of_other_code_goes(root, monkeypatch, tmp_path):
    COCO2014(root, index=root / "index")
    (old,) = indices(root)
    monkeypatch.setattr(coco_index, "__file__", str(tmp_path / "edited.py"))
    (tmp_path / "edited.py").write_text("# other code")
    COCO2014(root, index=root / "index")
    (new,) = indices(root)
    assert new != old


def test_a_data_set_goes_on_without_its_index(root):
    dataset = COCO2014(root, index=root / "index")
    before = told(dataset)
    for file in indices(root):
        file.unlink()
    assert told(dataset) == before
    (root / "blocked").write_text("no folder")
    assert told(COCO2014(root, index=root / "blocked" / "index")) == before

"""Annotation files and pictures, mutated: a proper sample or an error that names the file; nothing else, and quickly.

``SISE_FUZZ_CASES=50000 pytest tests/test_fuzz.py`` for longer; the cases are the same ones each time, and more.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import time
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from trees import annotation, png_that_claims, rectangle, write_coco, write_voc

from sise.benchmark.datasets.coco2014 import COCO2014
from sise.benchmark.datasets.images import read_image
from sise.benchmark.datasets.severstal import HEIGHT, WIDTH, _strip_mask, _tiles_with, read_csv
from sise.benchmark.datasets.voc2007 import VOC2007
from sise.errors import SuiteError

CASES = int(os.environ.get("SISE_FUZZ_CASES", 250))
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, about what is wrong with a picture

#: What breaks readers: no number, limits of types, text that is a number elsewhere, other types.
WORDS = (
    "", " ", "0", "-0", "-1", "1", "3", "7", "255", "65536", "2147483647", "-2147483648", "4294967296",
    "9223372036854775807", "9223372036854775806 9", "-9223372036854775808", "99999999999999999999", "9" * 5000, "1e9",
    "1e308", "1e999", "-1e999", "nan", "inf", "0x10", "1_0", "1.5", "٣", "²", "\x00", "\ufeff", "dog", "DOG", "../dog",
    "%s%n", "true", "None", "[]", "é", "a" * 300,
)  # fmt: skip
VALUES = (
    None, True, False, 0, -1, 1, 2, 5, 6, 18, 90, 91, 255, 2**31, 2**32, 2**63, -(2**63), 10**30, 0.5, -0.5, 1e9, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "1", "dog", "../x", "\x00", "\ud800", "oooooo", [], [0], [0, 0, 1],
    [[]], [[0, 0, 1, 0, 1, 1]], [[0, 0, 1, 1]], {}, {"size": [5, 6]}, {"size": [5, 6], "counts": [30]},
    {"size": [10**5, 10**5], "counts": [10**10]}, {"size": [5, 6], "counts": "N1"}, {"size": [5, 6], "counts": "~"},
)  # fmt: skip


def mutated(data, draw, words=WORDS):
    """Bytes with one to four small changes."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 200)))
        kind = draw.randrange(6)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + data[to:]
        elif kind == 2:
            data = data[:to] + data[at:]
        elif kind == 3:
            data = data[:at] + bytes(draw.randrange(256) for _ in range(to - at)) + data[to:]
        elif kind == 4:
            data = data[:at] + draw.choice(words).encode("utf-8", "replace") + data[at:]
        else:
            data = data[:at] + bytes(draw.choice((0, 1, 127, 128, 255)) for _ in range(to - at)) + data[to:]
    return data


def mutated_tree(tree, draw):
    """JSON with one to three values replaced, removed or repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        node, depth = tree, draw.randint(1, 7)
        for _ in range(depth):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw.choice(keys)
            if not isinstance(node[key], (dict, list)) or not node[key] or depth == 1 or draw.random() < 0.2:
                kind = draw.randrange(8)
                if kind == 0:
                    del node[key]
                elif kind == 1 and isinstance(node, list):
                    node.append(copy.deepcopy(node[key]))
                else:
                    node[key] = copy.deepcopy(draw.choice(VALUES))
                break
            node = node[key]
    return tree


@contextmanager
def quick():
    """No case may take long; processor time, so that a busy machine does not matter."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < 2


#: How Python speaks of types; no reason for somebody who wrote a file.
PYTHONS_OWN = re.compile(
    "format code|object of type|unhashable|indices must be|subscriptable|unpack \\(|must be real|invalid literal|"
    "could not convert|not iterable|bad operand|not supported between|NoneType"
)


def read(dataset, image_id, *files):
    """A sample in its proper form, or None after an error that names one of the files."""
    try:
        sample = dataset[image_id]
    except SuiteError as error:
        assert any(file in str(error) for file in files), error
        assert not PYTHONS_OWN.search(str(error)), error
        return None
    height, width = sample.image.height, sample.image.width
    assert sample.targets == dataset.targets_of(image_id) and sample.image.mode == "RGB"
    assert list(sample.targets) == sorted(set(sample.targets)) and len(sample.targets) > 0
    assert all(0 <= target < len(dataset.classes) for target in sample.targets)
    assert sample.masks.dtype == bool and sample.masks.shape == (len(sample.targets), height, width)
    assert len(sample.info["boxes"]) == len(sample.info["difficult"]) == len(sample.targets)
    return sample


# ---------------------------------------------------------------- the readers

OBJECTS = [("person", (2, 3, 4, 5), True), ("dog", (1, 1, 2, 8), False), ("car", (9, 7, 10, 8), True)]


def test_voc(tmp_path):
    folder = write_voc(tmp_path, {"bad": OBJECTS, "good": OBJECTS})
    file = folder / "Annotations" / "bad.xml"
    words = (
        *WORDS, '<!DOCTYPE a [<!ENTITY b "c">]>', "&b;", "&#0;", "&#55296;", "<object>", "</object>", "<bndbox/>",
        "<name>dog</name>", "<![CDATA[", "]]>", "<!--", '<?xml version="1.0" encoding="utf-16"?>', "<xmin>1</xmin>",
        "<?xml encoding='rot13'?>", "<size><width>100000</width><height>100000</height></size>", '<a b="', "x:y",
    )  # fmt: skip
    text = annotation(OBJECTS)
    counts = {"sample": 0, "error": 0}
    for case in range(CASES):
        draw = random.Random(f"voc {case}")
        if case % 2:  # what stands between tags
            parts = text.replace("<", ">").split(">")
            places = [i for i, part in enumerate(parts) if part and f">{part}<" in text]
            chosen = parts[draw.choice(places)]
            data = text.replace(f">{chosen}<", f">{draw.choice(words)}<", draw.randint(1, 3)).encode("utf-8", "replace")
        else:
            data = mutated(text.encode(), draw, words)
        file.write_bytes(data)
        with quick():
            dataset = VOC2007(tmp_path, verify=False)
            assert "good" in dataset.ids and len(dataset.fingerprint()) == 64 and dataset.verify_counts()
            assert read(dataset, "good") is not None
            if "bad" in dataset.ids:  # else its objects are gone
                counts["sample" if read(dataset, "bad", "bad.xml", "bad.jpg") else "error"] += 1
    print(counts)
    assert min(counts.values()) > 0


def test_coco(tmp_path):
    crowd = {"size": [5, 6], "counts": [3, 2, 25]}
    text = coco_mask.frPyObjects({"size": [5, 6], "counts": [6, 3, 4, 1, 16]}, 5, 6)["counts"].decode()
    objects = [
        (139, 18, [0, 0, 2, 2], rectangle(0, 0, 2, 2), 0),
        (139, 18, [0, 3, 1, 2], crowd, 1),
        (139, 1, [4.2, 1.5, 1, 1], rectangle(4, 1, 5, 3), 0),
        (7, 90, [0, 0, 1, 1], {"size": [5, 6], "counts": text}, 1),
        (42, 44, [0, 0, 1, 1], rectangle(0, 0, 1, 1) + rectangle(3, 3, 6, 5), 0),
    ]
    write_coco(tmp_path, objects)
    file = tmp_path / "annotations" / "instances_val2014.json"
    valid = file.read_text()
    tree = json.loads(valid)
    words = (*WORDS, "NaN", "Infinity", "null", "[", "{", '"', ",", ":", '"counts"', "\\ud800", "\\u0000", "1" * 5000)
    counts = {"samples": 0, "errors": 0, "files": 0}
    for case in range(CASES):
        draw = random.Random(f"coco {case}")
        if case % 4:
            file.write_text(json.dumps(mutated_tree(tree, draw)))
        else:
            file.write_bytes(mutated(valid.encode(), draw, words))
        with quick():
            for ground_truth in ("masks", "boxes"):
                try:
                    dataset = COCO2014(tmp_path, ground_truth=ground_truth, verify=False)
                except SuiteError as error:
                    assert str(file) in str(error) and not PYTHONS_OWN.search(str(error)), error
                    counts["files"] += 1
                    continue
                assert len(dataset.fingerprint()) == 64 and dataset.verify_counts()
                for image_id in dataset.ids:
                    sample = read(dataset, image_id, str(file), str(tmp_path / "val2014"))
                    counts["samples" if sample else "errors"] += 1
    print(counts)
    assert min(counts.values()) > 0


def test_severstal(tmp_path):
    file = tmp_path / "train.csv"
    new = "ImageId,ClassId,EncodedPixels\na.jpg,1,1 2 300 5\nb.jpg,3,409600 1\nb.jpg,4,7 9 70000 400\n"
    old = "ImageId_ClassId,EncodedPixels\na.jpg_1,1 2 300 5\na.jpg_2,\nb.jpg_3,409600 1\n"
    words = (*WORDS, ",", "\n", "\r", '"', "1 2", "409600 2", "409601 1", "1 409600", "a.jpg_1", "_", " 5")
    counts = {"read": 0, "errors": 0}
    for case in range(2 * CASES):
        draw = random.Random(f"severstal {case}")
        if case % 3:
            fields = [line.split(",") for line in draw.choice((new, old)).splitlines()]
            row = draw.choice(fields[1:])
            row[draw.randrange(len(row))] = draw.choice(words)
            data = "\n".join(map(",".join, fields)).encode("utf-8", "replace")
        else:
            data = mutated(draw.choice((new, old)).encode(), draw, words)
        file.write_bytes(data)
        with quick():
            try:
                found = read_csv(file)
            except SuiteError as error:
                assert str(file) in str(error)
                counts["errors"] += 1
                continue
            counts["read"] += 1
            for defects in found.values():
                for class_id, runs in defects.items():
                    assert 1 <= class_id <= 4 and runs.shape[1] == 2 and len(runs) > 0
                    assert (runs[:, 0] >= 0).all() and (runs[:, 0] <= runs[:, 1]).all()
                    assert (runs[:, 1] < WIDTH * HEIGHT).all()
                    mask = _strip_mask(runs)
                    assert mask.shape == (HEIGHT, WIDTH)
                    tiles = [mask[:, 32 + 256 * i : 288 + 256 * i].any() for i in range(6)]
                    assert _tiles_with(runs).tolist() == tiles
    print(counts)
    assert min(counts.values()) > 0


def test_pictures(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    grey = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    files = []
    for form in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        files.append(buffer.getvalue())
    for image, form in ((grey, "PNG"), (grey, "TIFF"), (Image.fromarray(pixels).convert("P"), "PNG")):
        buffer = io.BytesIO()
        image.save(buffer, form)
        files.append(buffer.getvalue())
    path = tmp_path / "picture.jpg"
    counts = {"read": 0, "errors": 0}
    for case in range(2 * CASES):
        draw = random.Random(f"picture {case}")
        path.write_bytes(mutated(draw.choice(files), draw))
        with quick():
            try:
                image = read_image(path, "voc2007", (10, 8))
            except SuiteError as error:
                assert "picture.jpg" in str(error)
                counts["errors"] += 1
                continue
            assert image.mode == "RGB" and image.size == (10, 8) and np.asarray(image).shape == (8, 10, 3)
            counts["read"] += 1
    print(counts)
    assert min(counts.values()) > 0


# ---------------------------------------------------------------- claims


@pytest.mark.parametrize(
    "objects",
    [
        rectangle(0, 0, 10**9, 10**9),
        [[0, 0, 10**9, 0, 10**9, 10**9]],
        {"size": [10**5, 10**4], "counts": [10**9]},
        {"size": [5, 6], "counts": "o" * 10**6},
        {"size": [5, 6], "counts": "0" * 10**6},
    ],
)
def test_annotations_that_claim_much_take_little(tmp_path, objects):
    write_coco(tmp_path, [(42, 18, [0, 0, 1, 1], objects, 0)])
    dataset = COCO2014(tmp_path, verify=False)
    file = tmp_path / "annotations" / "instances_val2014.json"
    file.write_text(file.read_text().replace('"width": 6, "height": 5', '"width": 100000, "height": 10000'))
    larger = COCO2014(tmp_path, verify=False)
    Image.new("RGB", (6, 5)).save(tmp_path / "warm.png")  # what Pillow imports is none of the sample's memory
    tracemalloc.start()
    try:
        with pytest.raises(SuiteError, match="malformed"):
            dataset["000000000042"]
        with pytest.raises(SuiteError, match="6x5 pixels, expected 100000x10000"):
            larger["000000000042"]
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claimed", [(9_000, 9_000), (9_999, 9_999), (60_000, 60_000)])
def test_pictures_that_claim_much_take_little(tmp_path, claimed):
    folder = write_voc(tmp_path, {"1": OBJECTS, "2": annotation(OBJECTS, claimed)})
    for name in "12":
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(png_that_claims(*claimed))
    dataset = VOC2007(tmp_path, verify=False)
    for name in "12":
        with pytest.raises(SuiteError, match=f"{name}.jpg"):
            dataset[name]

"""Bad input through the real runner: what is bad fails with its reason, what is only unusual is converted properly."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn
from toy import SIZE, toy_model
from trees import annotation, png_that_claims, rectangle

from sise.benchmark import terminal
from sise.benchmark.commands import command
from sise.benchmark.datasets.coco2014 import COCO2014
from sise.benchmark.datasets.voc2007 import VOC2007
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner
from sise.benchmark.tables import make
from sise.errors import SuiteError

HEIGHT, WIDTH = SIZE
CLASSES = ("dog", "person", "car", "cat")


# ---------------------------------------------------------------- networks


class Faulty(nn.Module):
    def __init__(self, network, fault):
        super().__init__()
        self.network, self.fault = network, fault

    def forward(self, x):
        scores = self.network(x)
        return FAULTS[self.fault][0](scores, x)


def _raise(scores, x):
    raise RuntimeError("weights are on another device")


FAULTS = {  # what the network returns, and the reason in the records
    "none": (lambda s, x: s, ""),
    "NaN on white": (lambda s, x: s * torch.where(x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] > 0.9, torch.nan, 1), ""),
    "NaN": (lambda s, x: s * torch.nan, "returned NaN or infinite scores for 1 of 1 inputs"),
    "tuple": (lambda s, x: (s, s), r"\(N, K\) with N = 1; it returned tuple"),
    "dict": (lambda s, x: {"scores": s}, r"\(N, K\) with N = 1; it returned dict"),
    "vector": (lambda s, x: s[:, 0], r"it returned \(1,\)"),
    "a class fewer": (lambda s, x: s[:, :3], "returned 3 scores, expected 4"),
    "a class more": (lambda s, x: torch.cat([s, s[:, :1]], 1), "returned 5 scores, expected 4"),
    "error": (_raise, "RuntimeError: weights are on another device"),
    "training": (lambda s, x: s, r"in training mode; call network\.eval\(\)"),
    "layer": (lambda s, x: s, ""),
}


def network(fault="none"):
    """The toy network, which has in-place ReLUs, with VOC's names for its classes and a fault."""
    model = toy_model()
    layers = tuple(f"network.{layer}" for layer in model.layers)
    if fault == "layer":
        layers = (layers[0], "network.stag2", layers[2])
    return dataclasses.replace(
        model,
        network=Faulty(model.network, fault).train(fault == "training"),
        classes=CLASSES,
        layers=layers,
        cam_layer=layers[-1],
    )


# ---------------------------------------------------------------- running


def evaluate(tmp_path, dataset, fault="none", explainers=("grad_cam",)):
    """Runs the explainers; the exit code, and per explainer the records by (image, target)."""
    configs = []
    for explainer in explainers:
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            cfg = compose("evaluate", [f"outputs={tmp_path / 'outputs'}", f"explainer={explainer}"])
        cfg.dataset.loader = {"verify": False, **dataset}
        cfg.model.loader = {"_target_": f"{__name__}.network", "fault": fault}
        cfg.model.name = "toynet"
        if explainer == "rise":
            cfg.explainer.call.n_masks = 5
        configs.append(cfg)
    cells = run_cells.make_cells(configs)
    try:
        command.main(lambda cfg: runner.run(cells))(configs[0])
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, [{(r["image_id"], r["target"]): r for r in cell.folder.read()} for cell in cells]


def check(records, expected):
    """Compares with ``{id: ...}``: "same" or "ok"; "none" without a record; otherwise the reason of the failure."""
    plain = next(r for (image, _), r in records.items() if image == "plain") if "same" in expected.values() else None
    problems = []
    for image_id, want in expected.items():
        found = [r for (image, _), r in records.items() if image == image_id]
        if want == "none":
            problems += [f"{image_id}: {found}"] * bool(found)
            continue
        if len(found) != 1:
            problems.append(f"{image_id}: {len(found)} records")
            continue
        record = found[0]
        if want in ("ok", "same"):
            good = record["status"] == "ok"
            if good and want == "same":
                good = all(record[k] == plain[k] for k in ("confidence", "EBPG", "mIoU", "Bbox", "Drop%", "Increase%"))
        else:
            good = record["status"] == "failed" and re.search(want, record["reason"], re.S)
        problems += [] if good else [f"{image_id}: wanted {want!r}, got {record}"]
    assert not problems, "\n".join(problems)


# ---------------------------------------------------------------- VOC: pictures and annotations

#: Every grey, not the same along rows and columns; as 8 bits, 16 bits and RGB it is one and the same picture.
GREY = (np.arange(HEIGHT * WIDTH).reshape(SIZE) * 7 % 256).astype(np.uint8)
PLAIN = Image.fromarray(np.repeat(GREY[..., None], 3, axis=2))
COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
BOX = (5, 4, 20, 17)


def file_of(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def dogs(*boxes, size=(WIDTH, HEIGHT)):
    return annotation([("dog", box, False) for box in boxes], size)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def rgba(alpha):
    return Image.merge("RGBA", [*PLAIN.split(), Image.fromarray(np.asarray(alpha, np.uint8) + np.zeros_like(GREY))])


def transparent_palette():
    image = Image.fromarray(GREY).convert("P")
    return file_of(image, transparency=bytes([255] * 128 + [0] * 128))


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><annotation><object><name>&i;</name></object></annotation>"
)

VOC_CASES = {  # id: (file, annotation, what is expected)
    "plain": (file_of(PLAIN), dogs(BOX), "ok"),
    # pictures that are unusual, but the same
    "bmp": (file_of(PLAIN, "BMP"), dogs(BOX), "same"),
    "greyscale": (file_of(Image.fromarray(GREY)), dogs(BOX), "same"),
    "grey_and_alpha": (file_of(Image.fromarray(GREY).convert("LA")), dogs(BOX), "same"),
    "16_bit": (file_of(Image.fromarray(GREY.astype(np.uint16) * 257)), dogs(BOX), "same"),
    "16_bit_tiff": (file_of(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), dogs(BOX), "same"),
    "float_tiff": (file_of(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"), dogs(BOX), "same"),
    "palette": (file_of(Image.fromarray(GREY).convert("P")), dogs(BOX), "same"),
    "cmyk": (file_of(PLAIN.convert("CMYK"), "TIFF"), dogs(BOX), "same"),
    "opaque": (file_of(rgba(255)), dogs(BOX), "same"),
    "exif_rotated": (file_of(PLAIN, exif=exif(6)), dogs(BOX), "same"),
    # pictures that are unusual, and read
    "jpeg": (file_of(COLOUR, "JPEG", quality=90), dogs(BOX), "ok"),
    "jpeg_grey": (file_of(Image.fromarray(GREY), "JPEG"), dogs(BOX), "ok"),
    "jpeg_cmyk": (file_of(COLOUR.convert("CMYK"), "JPEG"), dogs(BOX), "ok"),
    "transparent": (file_of(rgba(GREY)), dogs(BOX), "ok"),
    "transparent_palette": (transparent_palette(), dogs(BOX), "ok"),
    "black_and_white": (file_of(Image.fromarray(GREY > 99)), dogs(BOX), "ok"),
    "one_pixel": (file_of(PLAIN.crop((0, 0, 1, 1))), dogs((1, 1, 1, 1), size=(1, 1)), "ok"),
    "one_row": (file_of(PLAIN.resize((500, 1))), dogs((1, 1, 99, 1), size=(500, 1)), "ok"),
    # pictures that cannot be read
    "empty": (b"", dogs(BOX), "not a readable image"),
    "text": (b"<html>404</html>", dogs(BOX), "not a readable image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n", dogs(BOX), "not a readable image"),
    "cut_jpeg": (file_of(COLOUR, "JPEG")[:-200], dogs(BOX), "not a readable image.*truncated"),
    "cut_png": (file_of(COLOUR)[:-500], dogs(BOX), "not a readable image"),
    "no_file": (None, dogs(BOX), "which does not exist"),
    "other_size": (file_of(COLOUR.resize((30, 24))), dogs(BOX), "30x24 pixels, expected 32x24"),
    "claims_much": (png_that_claims(9_000, 9_000), dogs(BOX), "9000x9000 pixels, expected 32x24"),
    "bomb": (png_that_claims(9_999, 9_999), dogs(BOX, size=(9_999, 9_999)), "claims 9999x9999 pixels"),
    "great_bomb": (png_that_claims(65_000, 65_000), dogs(BOX, size=(65_000, 65_000)), "decompression bomb"),
    "white": (file_of(Image.new("RGB", (WIDTH, HEIGHT), "white")), dogs(BOX), "NaN or infinite scores"),
    # annotations
    "without_size": (file_of(PLAIN), dogs(BOX, size=(0, 0)), "same"),
    "beyond_border": (file_of(PLAIN), dogs((-3, -9, 20, 17)), "ok"),
    "no_objects": (file_of(PLAIN), dogs(), "none"),
    "no_annotation": (file_of(PLAIN), None, "none"),
    "unknown_to_network": (file_of(PLAIN), annotation([("boat", BOX, False)], (WIDTH, HEIGHT)), "none"),
    "outside": (file_of(PLAIN), dogs(BOX, (33, 1, 40, 9)), "ok"),
    "no_area": (file_of(PLAIN), dogs((9, 4, 8, 17)), "no_area.xml.*'dog' ends before it begins"),
    "unknown_class": (
        file_of(PLAIN),
        annotation([("dig", BOX, False)], (WIDTH, HEIGHT)),
        r"unknown_class\.xml: unknown class 'dig'.*Did you mean 'dog'.*loader\.classes=",
    ),
    "not_xml": (file_of(PLAIN), dogs(BOX)[:-20], "not_xml.xml.*not well-formed"),
    "other_xml": (file_of(PLAIN), "<svg/>", "other_xml.xml.*root is <svg>"),
    "encoding": (file_of(PLAIN), '<?xml version="1.0" encoding="rot13"?><annotation/>', "not well-formed"),
    "no_number": (file_of(PLAIN), dogs((1, "nan", 9, 9)), "no_number.xml"),
    "laughs": (file_of(PLAIN), LAUGHS, "laughs.xml.*declares a document type"),
}


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    folder = root / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for image_id, (picture, text, _) in VOC_CASES.items():
        if picture is not None:
            (folder / "JPEGImages" / f"{image_id}.jpg").write_bytes(picture)
        if text is not None:
            (folder / "Annotations" / f"{image_id}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("\n".join(VOC_CASES))
    return root


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow's, about the bombs
def test_voc(voc_run):
    _, code, records = voc_run
    assert code == 1
    check(records, {image_id: want for image_id, (_, _, want) in VOC_CASES.items()})


@pytest.fixture(scope="module")
def voc_run(voc, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("run")
    dataset = {"_target_": "sise.benchmark.datasets.voc2007.VOC2007", "root": str(voc)}
    code, (records,) = evaluate(tmp_path, dataset, fault="NaN on white")
    return tmp_path, code, records


def test_failures_are_counted_in_the_tables_foot(voc_run):
    tmp_path, _, records = voc_run
    definition = {"name": "default", "title": "", "published": None, "metrics": None, "extras": True, "columns": []}
    make.tabulate(
        {"default": definition},
        outputs=tmp_path / "outputs",
        results=tmp_path / "results",
        published=ROOT / "results" / "published" / "published_results.csv",
        say=lambda text: None,
    )
    failed = sum(r["status"] == "failed" for r in records.values())
    (text,) = (file.read_text() for file in (tmp_path / "results").glob("*.md"))
    assert failed > 15 and f"{failed} FAILED, not in the means" in text and str(tmp_path) not in text


def test_what_transparency_shows(voc):
    dataset = VOC2007(voc, verify=False)
    for image_id, alpha in (("transparent", GREY), ("transparent_palette", np.where(GREY < 128, 255, 0))):
        shown = GREY * (alpha / 255) + 255 * (1 - alpha / 255)
        np.testing.assert_allclose(np.asarray(dataset[image_id].image)[..., 0], shown, atol=1)


def test_what_is_left_out_or_will_fail_is_counted(voc):
    message = VOC2007(voc, verify=False).verify_counts()[1]
    bad = sum("xml" in str(want) or "well-formed" in str(want) for _, _, want in VOC_CASES.values())
    assert f"{bad} listed images with a malformed annotation will fail" in message
    assert "1 listed image without annotation left out" in message
    assert "1 object without a pixel of the image left out" in message  # of "outside", whose other one stays


# ---------------------------------------------------------------- COCO

AREA = HEIGHT * WIDTH
RUNS = {"size": [HEIGHT, WIDTH], "counts": [5 * HEIGHT, 2 * HEIGHT, AREA - 7 * HEIGHT]}
TEXT = coco_mask.frPyObjects(RUNS, HEIGHT, WIDTH)["counts"].decode()
LONG = [0, 0, 5, 0, 5, 5, 0, 5]


def dog(segmentation, bbox=(4, 4, 10, 6), **more):
    return {"category_id": 18, "bbox": list(bbox), "segmentation": segmentation, "iscrowd": 0} | more


def without(key):
    return {k: v for k, v in dog(rectangle(4, 4, 14, 10)).items() if k != key}


COCO_CASES = {  # objects, and either the pixels of their region or the reason
    "polygon": ([dog(rectangle(4, 4, 14, 10))], 60),
    "two_polygons": ([dog(rectangle(4, 4, 14, 10) + rectangle(20, 0, 22, 3))], 66),
    "crowd": ([dog(RUNS, iscrowd=1)], 2 * HEIGHT),
    "text_of_runs": ([dog({"size": [HEIGHT, WIDTH], "counts": TEXT})], 2 * HEIGHT),
    "union": ([dog(rectangle(4, 4, 14, 10)), dog(RUNS, iscrowd=1)], 60 + 2 * HEIGHT - 12),
    "beyond_border": ([dog(rectangle(-4, -4, 4, 4))], 16),
    "box_of_no_area": ([dog(rectangle(4, 4, 14, 10), bbox=(4, 4, 0, 0))], 60),
    "less_than_a_pixel": ([dog([[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]])], "none"),
    "no_objects": ([], "none"),
    "two_points": ([dog([[4, 4, 10, 6]])], "a polygon has 4 coordinates"),
    "odd": ([dog([LONG[:7]])], "a polygon has 7 coordinates"),
    "flat_list": ([dog(LONG)], "a polygon is a number, expected a list of coordinates"),
    "no_polygon": ([dog([])], "a list without a polygon"),
    "null": ([dog(None)], "the segmentation is null, expected a list of polygons"),
    "far_polygon": ([dog([[0, 0, 1e9, 0, 1e9, 1e9]])], "a polygon is not near the 32x24 image"),
    "nan_polygon": ([dog([[0, 0, float("nan"), 0, 5, 5]])], "a polygon is not near"),
    "turned_runs": ([dog({**RUNS, "size": [WIDTH, HEIGHT]})], r"height x width 32x24, not 24x32"),
    "great_runs": ([dog({"size": [10**5, 10**5], "counts": [10**10]})], "height x width 100000x100000, not 24x32"),
    "short_runs": ([dog({**RUNS, "counts": [AREA - 1]})], "add up to 24 . 32"),
    "negative_runs": ([dog({**RUNS, "counts": [AREA + 1, -1]})], "add up to 24 . 32"),
    "fractional_runs": ([dog({**RUNS, "counts": [AREA / 2, AREA / 2]})], "not whole numbers"),
    "cut_text": ([dog({"size": [HEIGHT, WIDTH], "counts": TEXT[:1]})], "end inside of a number"),
    "wrong_text": ([dog({"size": [HEIGHT, WIDTH], "counts": "Dach~"})], "not run lengths"),
    "endless_text": ([dog({"size": [HEIGHT, WIDTH], "counts": "o" * 99_999})], "not run lengths"),
    "no_counts": ([dog({"size": [HEIGHT, WIDTH]})], "it has no 'counts'"),
    "no_segmentation": ([without("segmentation")], "it has no 'segmentation'"),
    "no_box": ([without("bbox")], "it has no 'bbox'"),
    "no_category": ([without("category_id")], "it has no 'category_id'"),
    "infinite_box": ([dog(rectangle(4, 4, 14, 10), bbox=(4, 4, float("inf"), 1))], "not a box"),
    "unknown_category": ([dog(RUNS, category_id=12)], "category 12 is none of COCO's 80"),
    "list_as_category": ([dog(RUNS, category_id=[18])], "malformed"),
    "no_file": ([dog(rectangle(4, 4, 14, 10))], "which does not exist"),
    "other_size": ([dog(rectangle(4, 4, 14, 10))], "expected 33x24"),
    "no_name": ([dog(rectangle(4, 4, 14, 10))], "it has no 'file_name'"),
}


def test_coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2014").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 18, "name": "dog"}, {"id": 63, "name": "couch"}]}
    for number, (name, (objects, _)) in enumerate(COCO_CASES.items()):
        facts = {"id": number, "width": WIDTH + (name == "other_size"), "height": HEIGHT, "file_name": f"{name}.jpg"}
        content["images"].append({k: v for k, v in facts.items() if (name, k) != ("no_name", "file_name")})
        content["annotations"] += [{"image_id": number, **about} for about in objects]
        if name != "no_file":
            (tmp_path / "val2014" / f"{name}.jpg").write_bytes(file_of(COLOUR))
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    code, (records,) = evaluate(
        tmp_path, {"_target_": "sise.benchmark.datasets.coco2014.COCO2014", "root": str(tmp_path)}
    )
    assert code == 1
    names = {f"{number:012d}": name for number, name in enumerate(COCO_CASES)}
    by_name = {(names[image], target): record for (image, target), record in records.items()}
    wanted = {name: "ok" if isinstance(want, int) else want for name, (_, want) in COCO_CASES.items()}
    check(by_name, wanted)
    for (name, _), record in by_name.items():
        if record["status"] == "ok":
            assert record["mask_fraction"] == pytest.approx(COCO_CASES[name][1] / AREA), name
            assert ("EBPG" in record["undefined"]) == (COCO_CASES[name][1] == 0)
    boxes = COCO2014(tmp_path, ground_truth="boxes", verify=False)
    numbers = {name: image_id for image_id, name in names.items()}
    assert numbers["box_of_no_area"] not in boxes.ids
    assert "object without a pixel of the image left out" in boxes.verify_counts()[1]
    assert boxes[numbers["polygon"]].masks.sum() == 60
    assert "4 images with a malformed annotation will fail" in boxes.verify_counts()[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}',
            "1 is 'cat', COCO's is 'person'",
        ),
        ("[" * 100_000, "not a COCO annotation file"),
        ('{"images": [{"id": "a"}], "annotations": []}', "not a COCO annotation file"),
        ('{"images": [{"id": 1}], "annotations": [{}]}', "it has no 'image_id'"),
        ('{"images": [{"id": 1}], "annotations": []}', "annotates no object in 1 image; .* it has no 'file_name'"),
    ],
)
def test_coco_files_that_are_not_cocos(tmp_path, content, message):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2014.json").write_text(content)
    with pytest.raises(SuiteError, match=rf"instances_val2014\.json.*{message}"):
        COCO2014(tmp_path)


def test_nothing_to_go_on_with_stops_at_once(tmp_path, voc):
    main = tmp_path / "VOC2007" / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (tmp_path / "VOC2007" / "Annotations").symlink_to(voc / "VOC2007" / "Annotations")
    (main / "test.txt").write_text("not_xml\nlaughs\nno_annotation")
    with pytest.raises(
        SuiteError, match=r"3 images.* 1 have no annotation, 2 a malformed one.*nothing is left.*not_xml"
    ):
        VOC2007(tmp_path)
    (main / "test.txt").write_text("../JPEGImages/plain")
    with pytest.raises(SuiteError, match="without folders"):
        VOC2007(tmp_path)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("fault", [fault for fault, (_, reason) in FAULTS.items() if reason])
def test_a_networks_fault_is_the_reason_of_every_record(tmp_path, fault):
    """Also with explainers that never look at a layer."""
    dataset = {"_target_": f"{__name__}.few", "verify": True}
    code, runs = evaluate(tmp_path, dataset, fault, explainers=("grad_cam", "rise", "random"))
    assert code == 1
    for records in runs:
        check(records, {"0": FAULTS[fault][1], "1": FAULTS[fault][1]})


def test_a_layer_that_does_not_exist_stops_its_run(tmp_path, caplog):
    code, runs = evaluate(tmp_path, {"_target_": f"{__name__}.few"}, "layer")
    assert code == 2 and runs == [{}]
    assert re.search(r"unknown layer 'network\.stag2'.*Did you mean 'network\.stage2'", caplog.text)


def test_the_same_network_without_a_fault(tmp_path):
    dataset = {"_target_": f"{__name__}.few", "verify": True}
    code, runs = evaluate(tmp_path, dataset, explainers=("grad_cam", "rise", "random"))
    assert code == 0
    for records in runs:
        check(records, {"0": "ok", "1": "ok"})


class Few:
    """Two pictures of a dog."""

    name, classes, ids = "few", CLASSES, ("0", "1")

    def targets_of(self, image_id):
        return (0,)

    def __len__(self):
        return 2

    def __getitem__(self, image_id):
        from sise.types import Sample

        mask = np.zeros((1, *SIZE), dtype=bool)
        mask[0, 3:9, 5:14] = True
        return Sample(image_id, COLOUR if image_id == "0" else PLAIN, (0,), mask)

    def fingerprint(self):
        return "few"


def few(verify):
    return Few()


@pytest.mark.parametrize(("code", "reason"), [("def f(:", "SyntaxError"), ("import none_such", "none_such")])
def test_what_is_wrong_with_a_file_of_ones_own_is_said(tmp_path, monkeypatch, code, reason):
    (tmp_path / "of_ones_own.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_ones_own", raising=False)
    with pytest.raises(InstantiationException) as error:
        instantiate({"_target_": "of_ones_own.f"})
    assert re.search(rf"^Error locating target 'of_ones_own.f': .*{reason}", terminal.message(error.value))

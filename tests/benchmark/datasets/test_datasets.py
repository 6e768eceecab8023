"""Data sets: small trees in exactly the official layout, and the real files where they are at hand."""

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image
from trees import annotation, rectangle, write_coco, write_voc

from sise.benchmark.datasets import coco2014, published_counts, voc2007
from sise.benchmark.datasets.base import BaseDataset
from sise.benchmark.datasets.coco2014 import COCO2014, COCO_CLASSES
from sise.benchmark.datasets.imagenet import imagenet_classes
from sise.benchmark.datasets.photos import Photos
from sise.benchmark.datasets.shapes import Shapes
from sise.benchmark.datasets.voc2007 import VOC2007, VOC_CLASSES
from sise.errors import SuiteError

SHARED = ROOT.parent / "shared" / "data"
real_voc = pytest.mark.skipif(not (SHARED / "VOCdevkit").is_dir(), reason="no real VOC files")
real_coco = pytest.mark.skipif(not (SHARED / "coco2014").is_dir(), reason="no real COCO files")

DOG, PERSON, CAR = VOC_CLASSES.index("dog"), VOC_CLASSES.index("person"), VOC_CLASSES.index("car")


def stripes():
    """A picture of more than one colour."""
    picture = Image.new("RGB", (10, 8), (20, 40, 60))
    picture.paste((200, 180, 160), (0, 0, 5, 8))
    return picture


SCENE = {
    "000007": [("person", (2, 3, 4, 5), True), ("dog", (1, 1, 2, 8), False), ("dog", (9, 7, 10, 8), True)],
    "000012": [("car", (1, 1, 1, 1), True)],
    "000100": [],
}


class TestVOC:
    def test_targets_boxes_and_union_by_hand(self, tmp_path):
        write_voc(tmp_path, SCENE)
        dataset = VOC2007(tmp_path)
        assert dataset.ids == ("000007", "000012") and dataset.listed == ("000007", "000012", "000100")
        assert dataset.targets_of("000007") == (DOG, PERSON) and len(dataset) == 2 and dataset.pairs == 3
        sample = dataset["000007"]
        assert sample.targets == (DOG, PERSON) and sample.image.size == (10, 8) and sample.image.mode == "RGB"
        assert sample.masks.shape == (2, 8, 10) and sample.masks.dtype == bool
        dog = np.zeros((8, 10), bool)
        dog[0:8, 0:2] = True  # xmin 1 .. xmax 2, both included
        dog[6:8, 8:10] = True
        np.testing.assert_array_equal(sample.masks[0], dog)
        person = np.zeros((8, 10), bool)
        person[2:5, 1:4] = True
        np.testing.assert_array_equal(sample.masks[1], person)
        assert sample.info["boxes"] == [((0, 0, 2, 8), (8, 6, 10, 8)), ((1, 2, 4, 5),)]
        assert sample.info["difficult"] == [False, True]
        assert dataset["000012"].masks.sum() == 1

    def test_without_difficult_objects(self, tmp_path):
        write_voc(tmp_path, SCENE)
        dataset = VOC2007(tmp_path, difficult=False)
        assert dataset.ids == ("000007",) and dataset.targets_of("000007") == (DOG,)
        sample = dataset["000007"]
        assert sample.info["boxes"] == [((0, 0, 2, 8),)] and sample.masks.sum() == 16

    def test_the_root_may_be_any_of_three_folders(self, tmp_path):
        folder = write_voc(tmp_path, SCENE)
        prints = {VOC2007(root).fingerprint() for root in (tmp_path, tmp_path / "VOCdevkit", folder)}
        assert len(prints) == 1

    def test_boxes_beyond_the_image_are_cut_and_fractions_allowed(self, tmp_path):
        write_voc(tmp_path, {"1": [("dog", ("0", "-3", "3.7", "99"), False)]})
        mask = VOC2007(tmp_path)["1"].masks[0]
        expected = np.zeros((8, 10), bool)
        expected[:, :3] = True
        np.testing.assert_array_equal(mask, expected)

    def test_exact_masks_of_classes_and_of_objects(self, tmp_path):
        folder = write_voc(tmp_path, {**SCENE, "000200": [("car", (1, 1, 2, 2), False)]})
        classes = np.zeros((8, 10), np.uint8)
        classes[0, 0], classes[1, 1:3], classes[2] = DOG + 1, PERSON + 1, 255  # the last is void
        (folder / "SegmentationClass").mkdir()
        Image.fromarray(classes).save(folder / "SegmentationClass" / "000007.png")
        objects = np.zeros((8, 10), np.uint8)
        objects[5, 5] = 1
        (folder / "SegmentationObject").mkdir()
        Image.fromarray(objects).convert("P").save(folder / "SegmentationObject" / "000012.png")
        dataset = VOC2007(tmp_path, ground_truth="masks")
        assert dataset.ids == ("000007", "000012")
        masks = dataset["000007"].masks
        np.testing.assert_array_equal(masks, [classes == DOG + 1, classes == PERSON + 1])
        np.testing.assert_array_equal(dataset["000012"].masks, [objects == 1])
        assert "1 listed image without mask left out" in dataset.verify_counts()[1]

    def test_a_complete_tree_is_recognised(self, tmp_path, monkeypatch):
        """4952 images with the published number of pairs of every class, of which some are difficult."""
        objects = {f"{number:06d}": [] for number in range(1, 4953)}
        ids, position = list(objects), 0
        kinds = [published_counts.by_class("voc2007", kind) for kind in ("pairs", "difficult pairs")]
        assert [list(counts) for counts in kinds] == [list(VOC_CLASSES)] * 2
        for name in VOC_CLASSES:
            for flag, count in enumerate(counts[name] for counts in kinds):
                for _ in range(count):
                    objects[ids[position % 4952]].append((name, (1, 1, 2, 2), bool(flag)))
                    position += 1
        folder = tmp_path / "VOCdevkit" / "VOC2007"
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / name).mkdir(parents=True)
        for image_id, found in objects.items():
            (folder / "Annotations" / f"{image_id}.xml").write_text(annotation(found))
            (folder / "JPEGImages" / f"{image_id}.jpg").touch()
        (folder / "ImageSets" / "Main" / "test.txt").write_text("\n".join(ids))
        dataset = VOC2007(tmp_path)
        assert dataset.verify_annotations() == (True, "4952 images, 7632 pairs: the complete ground truth")
        complete, message = dataset.verify_counts()
        assert not complete and "not the real pictures: 20 of the 20 that are known differ (the first: 0000" in message
        monkeypatch.setattr(voc2007, "known_pictures", lambda name: {})
        complete, message = dataset.verify_counts()  # empty files; then pictures of one colour, then others
        assert not complete and "not the real pictures: 8 of 8 that were looked at" in message
        for picture, ends in ((Image.new("RGB", (10, 8), (90, 91, 92)), False), (stripes(), True)):
            picture.save(folder / "JPEGImages" / "000001.jpg")
            for image_id in ids[1:]:
                (folder / "JPEGImages" / f"{image_id}.jpg").unlink()
                (folder / "JPEGImages" / f"{image_id}.jpg").hardlink_to(folder / "JPEGImages" / "000001.jpg")
            assert dataset.verify_counts()[0] == ends
        assert dataset.verify_counts() == (True, "4952 images, 7632 pairs: the complete test set")
        assert VOC2007(tmp_path, difficult=False).pairs == 7013
        (folder / "JPEGImages" / "000001.jpg").unlink()
        (folder / "JPEGImages" / "000002.jpg").unlink()
        (folder / "JPEGImages" / "000002.jpg").symlink_to("nowhere.jpg")
        complete, message = dataset.verify_counts()
        assert not complete and "the complete ground truth, but 2 image files missing" in message
        # as many pairs, but one of another class
        changed = [("bird" if name == "aeroplane" else name, *rest) for name, *rest in objects["000001"]]
        (folder / "Annotations" / "000001.xml").write_text(annotation(changed))
        complete, message = VOC2007(tmp_path, verify=False).verify_counts()
        assert not complete and "aeroplane has 204 pairs, published 205" in message

    def test_a_part_is_no_error_and_says_so(self, tmp_path, caplog):
        folder = write_voc(tmp_path, SCENE)
        (folder / "Annotations" / "000100.xml").unlink()
        dataset = VOC2007(tmp_path)
        complete, message = dataset.verify_counts()
        assert not complete
        assert message.startswith("3 of 4952 images, 3 of 7632 pairs (1 listed image without annotation left out)")
        assert message in caplog.text
        assert not VOC2007(tmp_path, verify=False, classes=[*VOC_CLASSES, "x"]).verify_counts()[0]

    def test_a_missing_tree_says_what_to_get_and_where_to_put_it(self, tmp_path):
        with pytest.raises(SuiteError) as error:
            VOC2007(tmp_path / "nowhere")
        for word in ("nowhere/VOCdevkit/VOC2007", "VOCtest_06-Nov-2007.tar", "unpack", "dataset.root=<folder>"):
            assert word in str(error.value)

    @pytest.mark.parametrize(
        "text",
        [
            b"\xef\xbb\xbf000007\r\n000012\r\n",
            b"000007  \n\n  000012\t\n\n",
            b"000007\r000012",
            b"000007.jpg\n000012.JPG\n",
            b"7\n12\n",
            b'"000007","1"\r\n"000012","1"\r\n',
            b"000007;\n000012;\n",
            b"000007\n000012\n000007.jpg\n7\n",
            b"000007 1\n000012 0\n000100 -1\n",
            b"000007  1\n000012  0\n000100 -1",
        ],
    )
    def test_lists_that_were_edited_anywhere_name_the_same_images(self, tmp_path, text):
        folder = write_voc(tmp_path, SCENE)
        (folder / "ImageSets" / "Main" / "test.txt").write_bytes(text)
        assert VOC2007(tmp_path).listed == ("000007", "000012")

    def test_lists_of_one_class_leave_out_the_images_without_it(self, tmp_path):
        folder = write_voc(tmp_path, SCENE)
        (folder / "ImageSets" / "Main" / "dog_test.txt").write_text("000007  1\n000012 -1\n000100  0\n")
        assert VOC2007(tmp_path, split="dog_test").listed == ("000007", "000100")
        assert VOC2007(tmp_path, split="dog_test", difficult=False).listed == ("000007",)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"000007 2\n", "'000007 2', expected an image id, or an id and 1, 0 or -1"),
            (b"000007 1 1\n", "expected an image id, or"),
            (b"000007 000012\n", "expected an image id, or"),
            ("000007\n".encode("utf-16"), r"test\.txt is not text in UTF-8; save it as UTF-8"),
            (b"JPEGImages/000007.jpg", "without folders"),
            (b"dog7\ndog12\n", "begins with 'dog7', the annotations with '000007.xml'"),
        ],
    )
    def test_lists_that_cannot_be_taken_say_what_is_expected(self, tmp_path, text, message):
        folder = write_voc(tmp_path, SCENE)
        (folder / "ImageSets" / "Main" / "test.txt").write_bytes(text)
        with pytest.raises(SuiteError, match=message) as error:
            VOC2007(tmp_path)
        assert "download" not in str(error.value)

    @pytest.mark.parametrize(
        ("text", "hard"),
        [("1", True), ("1.0", True), (" true ", True), ("True", True), ("0", False), ("0.0", False), ("", False)],
    )
    def test_spellings_of_difficult_and_of_sizes(self, tmp_path, text, hard):
        content = annotation([("dog", (1, 1, 2, 2), False)], ("10.0", "8.0"))
        content = content.replace("<difficult>0<", f"<difficult>{text}<")
        folder = write_voc(tmp_path, {"1": content})
        Image.new("RGB", (10, 8)).save(folder / "JPEGImages" / "1.jpg")
        assert VOC2007(tmp_path)["1"].info["difficult"] == [hard]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("<difficult>0<", "<difficult>Unspecified<", "<difficult> is 'Unspecified', expected 0 or 1"),
            ("<width>10<", "<width>10.5<", "<width> is 10.5, expected a whole number"),
            ("<width>10<", "<width>wide<", "<size><width> is 'wide', expected a number"),
            ("<xmin>1<", "<xmin>nan<", "<xmin> is 'nan', expected a number"),
        ],
    )
    def test_values_that_are_none_are_refused_in_words(self, tmp_path, old, new, message):
        write_voc(tmp_path, {"1": annotation([("dog", (1, 1, 2, 2), False)]).replace(old, new)})
        with pytest.raises(SuiteError, match=message):
            VOC2007(tmp_path)

    def test_objects_without_a_pixel_are_left_out_and_counted(self, tmp_path):
        outside = (30, 1, 40, 8)
        write_voc(tmp_path, {
            "1": [("dog", (1, 1, 2, 8), False), ("dog", outside, False), ("car", outside, False)],
            "2": [("car", (-5, -5, 0, 0), False)]})  # fmt: skip
        dataset = VOC2007(tmp_path)
        assert dataset.ids == ("1",) and dataset.targets_of("1") == (DOG,)
        assert dataset["1"].masks.sum() == 16 and dataset["1"].info["boxes"] == [((0, 0, 2, 8),)]
        assert "3 objects without a pixel of the image left out" in dataset.verify_counts()[1]

    def test_classes_without_a_pixel_of_the_mask_are_left_out_and_counted(self, tmp_path):
        folder = write_voc(tmp_path, SCENE)
        (folder / "SegmentationClass").mkdir()
        classes = np.zeros((8, 10), np.uint8)
        classes[0, 0] = PERSON + 1
        Image.fromarray(classes).save(folder / "SegmentationClass" / "000007.png")
        dataset = VOC2007(tmp_path, ground_truth="masks")
        assert dataset.ids == ("000007",) and dataset["000007"].targets == (PERSON,)
        assert "1 target without a pixel of the image left out" in dataset.verify_counts()[1]

    def test_numbers_of_objects_that_are_not_annotated_are_refused(self, tmp_path):
        folder = write_voc(tmp_path, {"1": [("dog", (1, 1, 2, 2), False)], "2": [("dog", (1, 1, 2, 2), False)]})
        (folder / "SegmentationObject").mkdir()
        objects = np.zeros((8, 10), np.uint8)
        objects[0, :3] = 1, 2, 255
        Image.fromarray(objects).save(folder / "SegmentationObject" / "1.png")
        objects[0, 1] = 0
        Image.fromarray(objects).save(folder / "SegmentationObject" / "2.png")
        dataset = VOC2007(tmp_path, ground_truth="masks")
        assert dataset["2"].masks.sum() == 1
        with pytest.raises(SuiteError, match=r"1\.png: it numbers 2 objects, the annotation has 1"):
            dataset["1"]

    def test_the_ground_truth_needs_no_pictures(self, tmp_path):
        folder = write_voc(tmp_path, SCENE)
        sample = VOC2007(tmp_path)["000007"]
        for picture in (folder / "JPEGImages").iterdir():
            picture.unlink()
        (folder / "JPEGImages").rmdir()
        masks, info = VOC2007(tmp_path).ground_truth_of("000007")
        np.testing.assert_array_equal(masks, sample.masks)
        assert info == sample.info

    def test_pictures_known_by_their_content_tell_others(self, tmp_path):
        """As the public 000084.jpg of the right size that shows another scene."""
        write_voc(tmp_path, {"000001": SCENE["000007"], "000012": SCENE["000012"]})
        message = VOC2007(tmp_path).verify_counts()[1]
        assert "not the real pictures: 1 of the 1 that are known differ (the first: 000001.jpg)" in message

    def test_a_missing_list_names_those_that_are_there(self, tmp_path):
        write_voc(tmp_path, SCENE)
        with pytest.raises(SuiteError, match=r"val\.txt .* there are: test"):
            VOC2007(tmp_path, split="val")

    def test_missing_and_broken_images_are_errors_of_their_sample_only(self, tmp_path):
        folder = write_voc(tmp_path, {**SCENE, "3": [("dog", (1, 1, 2, 2), False)]})
        (folder / "JPEGImages" / "000007.jpg").rename(folder / "JPEGImages" / "000007.JPG")
        whole = (folder / "JPEGImages" / "000012.jpg").read_bytes()
        (folder / "JPEGImages" / "000012.jpg").write_bytes(whole[: len(whole) // 2])
        Image.new("RGB", (9, 8)).save(folder / "JPEGImages" / "3.jpg")
        dataset = VOC2007(tmp_path)
        for image_id, message in (
            ("000007", "does not exist; there is 000007.JPG: rename it"),
            ("000012", "not a readable image"),
            ("3", r"9x8 pixels, expected 10x8"),
            ("4", "no image '4'"),
        ):
            with pytest.raises(SuiteError, match=message):
                dataset[image_id]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("<annotation><object>", "not well-formed"),
            ("", "not well-formed"),
            ("<note/>", "expected <annotation>"),
            (annotation([("dog", (5, 1, 4, 2), False)]), "ends before it begins"),
            (annotation([("dog", ("x", 1, 4, 2), False)]), "not a VOC annotation"),
            (annotation([("dog", ("1e999", 1, 4, 2), False)]), "not a VOC annotation"),
            (annotation([("", (1, 1, 4, 2), False)]), "no <name>"),
            (annotation([("hound", (1, 1, 4, 2), False)]), r"'hound'; expected one of: aeroplane.*loader\.classes"),
            ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type"),
        ],
    )
    def test_malformed_annotations_name_the_file_and_the_reason(self, tmp_path, content, message):
        write_voc(tmp_path, {"000042": content})
        with pytest.raises(SuiteError, match=rf"(?s)000042\.xml.*{message}|{message}.*000042\.xml"):
            VOC2007(tmp_path)

    def test_external_entities_are_not_read(self, tmp_path):
        secret = tmp_path / "secret"
        secret.write_text("dog")
        text = f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]>' + annotation([("&x;", (1, 1, 2, 2), False)])
        write_voc(tmp_path, {"1": text})
        with pytest.raises(SuiteError, match="document type"):
            VOC2007(tmp_path)

    def test_the_fingerprint_follows_the_ground_truth(self, tmp_path):
        def fingerprint(scene, **options):
            write_voc(tmp_path, scene)
            return VOC2007(tmp_path, **options).fingerprint()

        first = fingerprint(SCENE)
        assert first == fingerprint(SCENE)
        moved = {**SCENE, "000012": [("car", (1, 1, 2, 1), True)]}
        others = [fingerprint(moved), fingerprint({"000007": SCENE["000007"]}), fingerprint(SCENE, difficult=False)]
        assert len({first, *others}) == 4

    @real_voc
    def test_real_masks_are_torchrays(self):
        torchray = pytest.importorskip("torchray.benchmark.datasets")
        from xml.etree import ElementTree

        from torchvision.datasets import VOCDetection

        assert list(VOC_CLASSES) == torchray.VOC_CLASSES and list(COCO_CLASSES) == torchray.COCO_CLASSES
        dataset = VOC2007(SHARED)
        assert dataset.pairs > VOC2007(SHARED, difficult=False).pairs > 0
        counts = f"{len(dataset)} of 4952 images, {dataset.pairs} of 7632 pairs: partial tree"
        assert dataset.verify_counts()[1].startswith(counts)  # the pictures that are known are the real ones
        for image_id in dataset.ids:
            tree = ElementTree.parse(dataset.folder / "Annotations" / f"{image_id}.xml")
            label = VOCDetection.parse_voc_xml(tree.getroot())
            sample = dataset[image_id]
            assert sorted(torchray.voc_as_class_ids(label)) == list(sample.targets)
            for target, mask in zip(sample.targets, sample.masks, strict=True):
                np.testing.assert_array_equal(mask, torchray.voc_as_mask(label, target).numpy())


#: Run lengths of a 5 x 6 mask, down the columns: rows 3 and 4 of the first column.
CROWD = {"size": [5, 6], "counts": [3, 2, 25]}


class TestCOCO:
    OBJECTS = (
        (139, 18, [0, 0, 2, 2], rectangle(0, 0, 2, 2), 0),
        (139, 18, [0, 3, 1, 2], CROWD, 1),
        (139, 1, [4.2, 1.5, 1, 1], rectangle(4, 1, 5, 3), 0),
        (7, 90, [0, 0, 1, 1], rectangle(0, 0, 1, 1), 1),
    )

    def test_targets_and_the_union_with_crowds_by_hand(self, tmp_path, capsys):
        write_coco(tmp_path, self.OBJECTS)
        dataset = COCO2014(tmp_path)
        assert capsys.readouterr().out == ""
        assert dataset.ids == ("000000000007", "000000000139")
        assert dataset.listed == ("000000000007", "000000000042", "000000000139")
        dog, person = COCO_CLASSES.index("dog"), 0
        assert dataset.targets_of("000000000139") == (person, dog)
        assert dataset.targets_of("000000000007") == (COCO_CLASSES.index("toothbrush"),)
        sample = dataset["000000000139"]
        expected = np.zeros((2, 5, 6), bool)
        expected[0, 1:3, 4:5] = True
        expected[1, 0:2, 0:2] = True
        expected[1, 3:5, 0] = True
        np.testing.assert_array_equal(sample.masks, expected)
        assert sample.info["crowd"] == [False, False] and sample.info["difficult"] == [False, False]
        assert sample.info["boxes"] == [((4, 1, 6, 3),), ((0, 0, 2, 2), (0, 3, 1, 5))]

    def test_boxes_are_rounded_outwards(self, tmp_path):
        write_coco(tmp_path, self.OBJECTS)
        mask = COCO2014(tmp_path, ground_truth="boxes")["000000000139"].masks[0]
        assert mask.sum() == 4 and mask[1:3, 4:6].all()

    def test_counts(self, tmp_path, monkeypatch):
        write_coco(tmp_path, self.OBJECTS)
        dataset = COCO2014(tmp_path)
        complete, message = dataset.verify_counts()
        assert not complete and message.startswith(
            "3 of 40504 images, 2 of 40137 annotated, 3 of 116592 pairs: partial tree"
        )
        assert list(published_counts.by_class("coco2014", "pairs")) == list(COCO_CLASSES)
        monkeypatch.setitem(published_counts.tables(), ("coco2014", "images"), {"": 3})
        monkeypatch.setitem(published_counts.tables(), ("coco2014", "annotated images"), {"": 2})
        assert "(person has 1 pair, published 21634)" in dataset.verify_counts()[1]
        counts = {name: int(name in ("person", "dog", "toothbrush")) for name in COCO_CLASSES}
        monkeypatch.setitem(published_counts.tables(), ("coco2014", "pairs"), counts)
        assert dataset.verify_annotations() == (True, "3 images, 3 pairs: the complete ground truth")
        assert "not the real pictures: 3 of 3 that were looked at are of one colour" in dataset.verify_counts()[1]
        for picture in (tmp_path / "val2014").iterdir():
            stripes().resize((6, 5)).save(picture)
        assert dataset.verify_counts() == (True, "3 images, 3 pairs: the complete val2014")
        (tmp_path / "val2014" / "COCO_val2014_000000000042.jpg").unlink()
        assert "the complete ground truth, but 1 image file missing" in dataset.verify_counts()[1]

    def test_what_is_missing_or_malformed_is_explained(self, tmp_path):
        with pytest.raises(SuiteError) as error:
            COCO2014(tmp_path / "nowhere")
        for word in ("instances_val2014.json", "val2014.zip", "annotations_trainval2014.zip", "dataset.root="):
            assert word in str(error.value)
        write_coco(tmp_path, [(139, 12, [0, 0, 1, 1], rectangle(0, 0, 1, 1), 0)])
        with pytest.raises(SuiteError, match="category 12"):
            COCO2014(tmp_path)
        write_coco(tmp_path, ())
        with pytest.raises(SuiteError, match="annotates no object"):
            COCO2014(tmp_path)
        for text in ("{", "[]", '{"images": [{"id": "1"}], "annotations": []}'):
            (tmp_path / "annotations" / "instances_val2014.json").write_text(text)
            with pytest.raises(SuiteError, match="not a COCO annotation file"):
                COCO2014(tmp_path)

    def rewrite(self, root, change):
        """The annotation file after ``change(content)``."""
        file = root / "annotations" / "instances_val2014.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return file

    def test_whole_numbers_may_be_written_as_fractions(self, tmp_path):
        """As pandas writes a column of numbers with a gap."""
        write_coco(tmp_path, self.OBJECTS)
        before = {image_id: COCO2014(tmp_path)[image_id].masks for image_id in COCO2014(tmp_path).ids}

        def change(content):
            for image in content["images"]:
                image |= {key: float(image[key]) for key in ("id", "width", "height")}
            for entry in content["annotations"]:
                entry |= {key: float(entry[key]) for key in ("id", "image_id", "category_id")}

        self.rewrite(tmp_path, change)
        dataset = COCO2014(tmp_path)
        assert list(dataset.ids) == list(before)
        for image_id, masks in before.items():
            np.testing.assert_array_equal(dataset[image_id].masks, masks)

    @pytest.mark.parametrize(
        ("where", "key", "value", "message"),
        [
            ("images", "id", "139", "an image's id is the text '139', expected a whole number"),
            ("images", "id", 1.5, "an image's id is 1.5, expected a whole number"),
            ("images", "id", True, "an image's id is true or false, expected a whole number"),
            ("images", "id", None, "an image's id is null, expected a whole number"),
            ("images", "id", -1, "an image's id is -1, expected 0 or more"),
            ("images", "width", "6", "the image's width is the text '6', expected a whole number"),
            ("images", "file_name", 7, "file_name is 7, expected the name of a file"),
            ("annotations", "category_id", "18", "a category_id is the text '18', expected a whole number"),
            ("annotations", "category_id", [], "a category_id is a list, expected a whole number"),
            ("annotations", "segmentation", [0, 0, 2, 0, 2, 2], "a polygon is a number, expected a list of coord"),
            ("annotations", "segmentation", [["0", 0, 2, 0, 2, 2]], "coordinate is the text '0', expected a number"),
            ("annotations", "segmentation", "x", "the segmentation is text, expected a list of polygons"),
            ("annotations", "segmentation", {"size": [5, 6], "counts": None}, "the run lengths are null, expected a"),
            ("annotations", "segmentation", {"size": ["5", 6], "counts": [30]}, "size of the run lengths is the text"),
            ("images", "width", 0, "the image is 0x5 pixels, expected 1x1 or more"),
            ("annotations", "bbox", [0, 0, 1], "the bbox is a list, expected a list of four numbers"),
            ("annotations", "bbox", ["0", 0, 1, 1], "a number of the bbox is the text '0', expected a number"),
        ],
    )
    def test_values_of_another_kind_are_refused_in_words(self, tmp_path, where, key, value, message):
        write_coco(tmp_path, self.OBJECTS)

        def change(content):
            for entry in content[where]:
                if entry["id" if where == "images" else "image_id"] == 139:
                    entry[key] = value

        self.rewrite(tmp_path, change)
        with pytest.raises(SuiteError, match=rf"instances_val2014\.json.*{message}"):
            COCO2014(tmp_path)["000000000139"]

    def test_annotations_without_an_image_are_counted(self, tmp_path, caplog):
        write_coco(tmp_path, [*self.OBJECTS, (8, 1, [0, 0, 1, 1], rectangle(0, 0, 1, 1), 0)])

        def change(content):
            content["annotations"][1]["image_id"] = "139"
            content["annotations"][0]["id"] = 3

        self.rewrite(tmp_path, change)
        dataset = COCO2014(tmp_path)
        assert dataset["000000000139"].masks[1].sum() == 4  # without the crowd
        words = "2 annotations of images that are not listed left out (the first: image_id is the text '139')"
        assert words in dataset.verify_counts()[1] and words in caplog.text
        assert "1 annotation with an id that another one has" in caplog.text

    def test_images_that_are_listed_twice(self, tmp_path):
        write_coco(tmp_path, self.OBJECTS)
        self.rewrite(tmp_path, lambda content: content["images"].append(dict(content["images"][0])))
        assert len(COCO2014(tmp_path).listed) == 3
        self.rewrite(tmp_path, lambda content: content["images"].append({**content["images"][1], "width": 7}))
        dataset = COCO2014(tmp_path)
        with pytest.raises(SuiteError, match="the image is listed twice, with different sizes or files"):
            dataset["000000000007"]
        assert dataset["000000000139"] and "1 image with a malformed annotation will fail" in dataset.verify_counts()[1]

    @pytest.mark.parametrize("ground_truth", ["masks", "boxes"])
    @pytest.mark.parametrize(
        ("box", "segmentation"),
        [
            ([40, 40, 4, 4], rectangle(40, 40, 44, 44)),
            ([-9, 1, 4, 4], rectangle(-5, 1, -1, 5)),
            ([2, 2, 0, 0], [[2, 2, 2.2, 2.2, 2.4, 2.4]]),
            ([2, 2, 0, 0], {"size": [5, 6], "counts": [30]}),
            ([2, 2, 0, 0], {"size": [5, 6], "counts": [30, 0]}),
            ([0.2, 0.3, 0.5, 0.6], rectangle(0.2, 0.3, 0.7, 0.9)),
        ],
    )
    def test_objects_without_a_pixel_are_left_out_and_counted(self, tmp_path, ground_truth, box, segmentation):
        write_coco(tmp_path, [*self.OBJECTS, (139, 90, box, segmentation, 0), (42, 1, box, segmentation, 0)])
        dataset = COCO2014(tmp_path, ground_truth=ground_truth)
        assert dataset.ids == ("000000000007", "000000000139")
        assert [dataset.classes[target] for target in dataset["000000000139"].targets] == ["person", "dog"]
        assert "2 objects without a pixel of the image left out" in dataset.verify_counts()[1]

    def test_a_sliver_that_only_reading_can_tell_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(coco2014, "_region_of_polygons", lambda _, height, width: np.zeros((height, width), bool))
        write_coco(tmp_path, [(7, 90, [0, 0, 3, 3], rectangle(0, 0, 3, 3), 0)])
        with pytest.raises(SuiteError, match="'toothbrush' has no pixel of the image"):
            COCO2014(tmp_path, verify=False).ground_truth_of("000000000007")

    def test_samples_with_broken_files_are_errors_of_their_own(self, tmp_path):
        write_coco(tmp_path, [*self.OBJECTS, (42, 1, [0, 0, 1, 1], [], 0)])
        (tmp_path / "val2014" / "COCO_val2014_000000000007.jpg").unlink()
        dataset = COCO2014(tmp_path)
        with pytest.raises(SuiteError, match="does not exist"):
            dataset["000000000007"]
        with pytest.raises(SuiteError, match="malformed"):
            dataset["000000000042"]
        Image.new("RGB", (3, 3)).save(tmp_path / "val2014" / "COCO_val2014_000000000139.jpg")
        with pytest.raises(SuiteError, match="3x3 pixels"):
            dataset["000000000139"]

    def test_the_fingerprint_follows_the_annotations(self, tmp_path):
        write_coco(tmp_path, self.OBJECTS)
        first = COCO2014(tmp_path).fingerprint()
        assert first == COCO2014(tmp_path).fingerprint() != COCO2014(tmp_path, ground_truth="boxes").fingerprint()
        write_coco(tmp_path, self.OBJECTS[1:])
        assert COCO2014(tmp_path).fingerprint() != first

    @real_coco
    def test_real_masks_are_torchrays(self):
        torchray = pytest.importorskip("torchray.benchmark.datasets")
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = torchray.CocoDetection(
                str(SHARED / "coco2014" / "val2014"),
                str(SHARED / "coco2014" / "annotations" / "instances_val2014.json"),
            )
        dataset = COCO2014(SHARED)
        assert dataset.pairs == 471 and len(dataset) == 141
        crowds = 0
        for index, number in enumerate(theirs.ids[:60]):
            label = theirs.coco.loadAnns(theirs.coco.getAnnIds(number))
            assert theirs.selection[index] == index
            sample = dataset[f"{number:012d}"]
            crowds += sum(annotation["iscrowd"] for annotation in label)
            assert sorted(torchray.coco_as_class_ids(label)) == list(sample.targets)
            for target, mask in zip(sample.targets, sample.masks, strict=True):
                np.testing.assert_array_equal(mask, torchray.coco_as_mask(theirs, label, target).numpy())
        assert crowds > 0


class TestShapes:
    @pytest.fixture(scope="class")
    def dataset(self, tmp_path_factory):
        return Shapes(tmp_path_factory.mktemp("data") / "shapes", test=4, progress=False)

    def test_exact_masks_lie_in_their_boxes(self, dataset):
        assert len(dataset.listed) == 4 and dataset.verify_counts()[0]
        for image_id in dataset.ids:
            sample = dataset[image_id]
            assert sample.masks.any((1, 2)).all() and sample.masks.sum(0).max() == 1  # classes do not overlap
            for mask, boxes in zip(sample.masks, sample.info["boxes"], strict=True):
                rows, columns = np.nonzero(mask)
                x0, y0, x1, y1 = np.array(boxes).T
                assert (columns.min(), rows.min()) == (x0.min(), y0.min())
                assert (columns.max() + 1, rows.max() + 1) == (x1.max(), y1.max())

    def test_boxes_and_masks_have_their_own_fingerprints(self, dataset):
        root = dataset.folder.parents[1]
        assert Shapes(root, test=4, progress=False).fingerprint() == dataset.fingerprint()
        assert Shapes(root, test=4, ground_truth="boxes", progress=False).fingerprint() != dataset.fingerprint()

    def test_a_folder_with_other_files_is_left_alone(self, tmp_path):
        (tmp_path / "letter.txt").write_text("mine")
        with pytest.raises(SuiteError, match=r"dataset\.root="):
            Shapes(tmp_path, test=1, progress=False)
        assert (tmp_path / "letter.txt").read_text() == "mine"


class TestPhotos:
    def test_every_photo_has_its_boxes_inside_and_names_of_imagenet(self):
        dataset = Photos()
        assert dataset.verify_counts()[0], dataset.verify_counts()[1]
        assert dataset.ids == (
            "chelsea", "coffee", "motorcycle", "rocket", "shuttle", "camera", "officer", "canteen",
        )  # fmt: skip
        assert dataset.pairs == 10
        for image_id in dataset.ids:
            sample = dataset[image_id]
            assert sample.image.mode == "RGB" and sample.info["credit"]
            assert sample.masks.shape == (len(sample.targets), sample.image.height, sample.image.width)
            for boxes, mask in zip(sample.info["boxes"], sample.masks, strict=True):
                for x0, y0, x1, y1 in boxes:
                    assert 0 <= x0 < x1 <= sample.image.width and 0 <= y0 < y1 <= sample.image.height
                assert 0.01 < mask.mean() < 0.9
        assert [dataset.classes[t] for t in dataset.targets_of("coffee")] == ["espresso", "cup"]

    def test_two_boxes_of_a_class_are_one_target_and_crops_shift(self, tmp_path):
        dataset = Photos()
        officer = dataset["officer"]
        assert officer.targets == (imagenet_classes().index("military uniform"),)
        assert officer.info["boxes"] == [((150, 22, 374, 168), (10, 315, 512, 600))]
        assert officer.masks.sum() == 224 * 146 + 502 * 285
        assert dataset["rocket"].image.size == (427, 427)

    def edited(self, tmp_path, image_id, **changes):
        with (Path(Photos.__init__.__globals__["__file__"]).parent / "photos.csv").open() as lines:
            rows = [row for row in csv.DictReader(lines) if row["image_id"] in (image_id, "camera")]
        with (tmp_path / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows([{**row, **changes} if row["image_id"] == image_id else row for row in rows])
        return Photos(table=tmp_path / "table.csv")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"package": "not_installed_at_all"}, "the package not_installed_at_all is not installed"),
            ({"file": "data/dog.png"}, "skimage has no data/dog.png"),
            ({"sha256": "00000000"}, "another photo in this version"),
        ],
    )
    def test_photos_that_are_not_there_are_left_out_and_named(self, tmp_path, changes, reason):
        dataset = self.edited(tmp_path, "chelsea", **changes)
        complete, message = dataset.verify_counts()
        assert dataset.ids == ("camera",) and not complete and reason in message

    def test_malformed_rows_are_explained(self, tmp_path):
        for changes in ({"class": "cat"}, {"x0": "a"}):
            with pytest.raises(SuiteError, match="malformed"):
                self.edited(tmp_path, "chelsea", **changes)

    def test_boxes_and_crops_outside_of_the_photo_are_explained(self, tmp_path):
        with pytest.raises(SuiteError, match=r"table\.csv, 'chelsea': the box x 9000\.\.9001.* has no pixel"):
            self.edited(tmp_path, "chelsea", x0="9000", x1="9001")["chelsea"]
        with pytest.raises(SuiteError, match=r"the crop \(107, 0, 10000000, 427\) leaves the 640x427 photo"):
            self.edited(tmp_path, "rocket", crop_x1="10000000")["rocket"]

    def test_the_fingerprint_follows_boxes(self, tmp_path):
        assert self.edited(tmp_path, "chelsea").fingerprint() != self.edited(tmp_path, "chelsea", x0="1").fingerprint()


def test_what_inherits_and_says_no_content_is_told_what_it_lacks():
    class Mine(BaseDataset):
        name, classes, ids, _targets = "mine", ("a",), ("1",), {"1": (0,)}

    assert Mine().verify_counts() == Mine().verify_annotations() == (True, "")
    with pytest.raises(SuiteError, match=r"Mine inherits BaseDataset: expected a method _content\(\)"):
        Mine().fingerprint()


def test_imagenet_names_are_1000_and_unique():
    names = imagenet_classes()
    assert len(set(names)) == len(names) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")

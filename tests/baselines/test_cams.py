"""Explainers of a layer's maps and gradients, or of noisy, scaled, cut images: by hand and beside other libraries."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from small_networks import IMAGE, TARGETS, image_of, largest_difference, probe_of
from torch import nn

from sise.baselines.ablation_cam import ablation_cam
from sise.baselines.cameras import cameras
from sise.baselines.common import attribution_maps, noisy_copies
from sise.baselines.grad_cam import grad_cam
from sise.baselines.grad_cam_pp import grad_cam_pp
from sise.baselines.gradient import gradient
from sise.baselines.hires_cam import hires_cam
from sise.baselines.integrated_grad_cam import integrated_grad_cam
from sise.baselines.layer_cam import layer_cam
from sise.baselines.norm_grad import contribution, norm_grad
from sise.baselines.smooth_grad import smooth_grad
from sise.baselines.smooth_grad_cam_pp import smooth_grad_cam_pp
from sise.baselines.ucag import ucag
from sise.baselines.xgrad_cam import xgrad_cam
from sise.errors import SuiteError, WrongSetting
from sise.maps import minmax, upsample


@pytest.fixture
def vgg(networks):
    return probe_of(networks["vgg16"], cam_layer="features.22")  # gradients differ from place to place there


class Known:
    """A probe of which only a layer's maps and gradients are known."""

    def __init__(self, maps, gradient):
        self.maps, self.gradient = torch.tensor(maps), torch.tensor(gradient)
        self.size, self.cam_layer, self.device = tuple(self.maps.shape[1:]), "layer", self.maps.device

    def scores(self):
        return torch.zeros(1)

    def feature_maps(self, layer):
        return self.maps

    def gradients(self, layer, target, of):
        return self.gradient


@pytest.mark.parametrize(
    ("explain", "expected"),
    [(grad_cam, (0, 1)), (hires_cam, (1, 0)), (layer_cam, (1, 0)), (xgrad_cam, (0, 1))],
)
def test_cams_by_hand(explain, expected):
    # A = (1, 3), g = (2, 0): Grad-CAM (1, 3), HiResCAM and LayerCAM (2, 0), XGrad-CAM (0.5, 1.5)
    assert explain(Known([[[1.0, 3.0]]], [[[2.0, 0.0]]]), [0]).flatten().tolist() == list(expected)


def test_norm_grad_by_hand():
    maps, g = torch.tensor([3.0, 4.0]).view(2, 1, 1), torch.tensor([0.0, 2.0]).view(2, 1, 1)
    assert contribution(maps, g, "conv1x1", "norm").item() == pytest.approx(10)
    assert [contribution(maps, g, "scaling", how).item() for how in ("selective", "sum", "max")] == [8, 8, 8]


@pytest.mark.parametrize("phase2", ["norm", "sum", "max", "selective"])
@pytest.mark.parametrize("phase1", ["conv1x1", "conv3x3"])
def test_norm_grad_is_that_of_the_outer_product(phase1, phase2):
    generator = torch.Generator().manual_seed(0)
    maps, g = torch.randn(2, 3, 4, 5, generator=generator)
    vectors = maps if phase1 == "conv1x1" else F.unfold(maps[None], 3, padding=1)[0].view(27, 4, 5)
    outer = (vectors[:, None] * g[None]).flatten(0, 1)
    expected = {
        "norm": outer.norm(dim=0), "sum": outer.sum(dim=0), "max": outer.amax(dim=0),
        "selective": outer.clamp(min=0).norm(dim=0),
    }[phase2]  # fmt: skip
    assert torch.allclose(contribution(maps, g, phase1, phase2), expected, atol=1e-5)


def test_norm_grad_combines_layers_and_refuses_constant_gradients(vgg, networks):
    layers = ["features.15", "features.22"]
    product = torch.stack([norm_grad(vgg, TARGETS, layers=[layer]) for layer in layers]).prod(dim=0)
    assert torch.allclose(norm_grad(vgg, TARGETS, layers=layers), minmax(product), atol=1e-6)
    with pytest.raises(SuiteError, match="the same at every place"):
        norm_grad(probe_of(networks["resnet18"]), [0], layers=["layer4"], phase1="bias")


@pytest.mark.parametrize(
    ("explain", "package", "cam"),
    [
        (hires_cam, pytorch_grad_cam.HiResCAM, None),
        (layer_cam, pytorch_grad_cam.LayerCAM, torchcam.methods.LayerCAM),
        (xgrad_cam, pytorch_grad_cam.XGradCAM, torchcam.methods.XGradCAM),
    ],
)
def test_cams_are_those_of_the_packages(vgg, explain, package, cam):
    network = vgg.network
    module = dict(network.named_modules())["features.22"]
    for target in TARGETS:
        got = explain(vgg, [target])[0]
        with package(network, [module]) as witness:
            expected = torch.from_numpy(witness(IMAGE.clone(), [ClassifierOutputTarget(target)])[0])
        assert torch.allclose(got, minmax(expected), atol=1e-5)
        if cam is not None:
            with cam(network, "features.22") as extractor:
                small = extractor(target, network(IMAGE.clone().requires_grad_()), normalized=False)[0].detach()
            assert torch.allclose(got, minmax(upsample(F.relu(small), got.shape))[0], atol=1e-5)


def test_ablation_cam_slowly(vgg):
    network = copy.deepcopy(vgg.network)
    maps = vgg.feature_maps("features.22")

    def score_without(channel):
        def silence(module, args, output):
            output = output.clone()
            output[:, channel] = 0
            return output

        handle = network.features[22].register_forward_hook(silence)
        with torch.no_grad():
            score = network(IMAGE)[0, 3].double()
        handle.remove()
        return score

    weights = torch.stack([vgg.scores()[3].double() - score_without(k) for k in range(len(maps))])
    expected = minmax(upsample(F.relu((weights.view(-1, 1, 1) * maps).sum(dim=0)).float()[None], (64, 64)))
    assert torch.allclose(ablation_cam(vgg, [3], batch_size=5), expected, atol=1e-3)


def test_ablation_cam_before_global_pooling_is_known_from_gradients(networks):
    probe = probe_of(networks["resnet18"], image_of(96), cam_layer="layer4")  # z is linear in the maps there
    maps = probe.feature_maps("layer4")
    for target, got in zip(TARGETS, ablation_cam(probe, TARGETS), strict=True):
        weights = (probe.gradients("layer4", target, of="logit") * maps).sum(dim=(1, 2), keepdim=True)
        expected = minmax(upsample(F.relu((weights * maps).sum(dim=0))[None], (96, 96)))[0]
        assert torch.allclose(got, expected, atol=1e-3)


class KnowsTheBatch(nn.Module):
    """As EfficientNet-Lite does, it takes the number of images before the layer; or it reads the image again."""

    def __init__(self, again):
        super().__init__()
        self.front, self.back = nn.Conv2d(3, 7, 3), nn.Conv2d(7, 5, 3)
        self.head, self.again = nn.Linear(5 + 3 * again, 4), again

    def forward(self, x):
        count = len(x)
        maps = F.relu(self.back(F.relu(self.front(x)))).mean((2, 3)).view(count, -1)
        return self.head(torch.cat([maps, x.mean((2, 3))], dim=1) if self.again else maps)


@pytest.mark.parametrize("again", [False, True])
def test_ablation_cam_of_a_network_that_needs_as_many_images_as_maps(again):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = KnowsTheBatch(again).eval()
    probe = probe_of(network, image_of(20), cam_layer="front")
    maps, parts = probe.feature_maps("front"), []
    for channel in range(7):
        mask = (torch.arange(7) != channel)[:, None, None]
        handle = network.front.register_forward_hook(lambda module, args, output, mask=mask: output * mask)
        parts.append(float(probe.scores()[3]) - float(network(image_of(20)).detach()[0, 3]))
        handle.remove()
    expected = minmax(upsample(F.relu((torch.tensor(parts).view(-1, 1, 1) * maps).sum(dim=0))[None], (20, 20)))
    saliency = ablation_cam(probe, [3], batch_size=3)
    assert torch.allclose(saliency, expected, atol=1e-4) and saliency.max() == 1
    assert not any(module._forward_hooks for module in network.modules())


def test_ablation_cam_says_that_a_network_cannot_run_on():
    class NeedsAll(nn.Module):
        def forward(self, maps):
            if not maps.flatten(2).any(dim=2).all():
                raise RuntimeError("an empty map")
            return maps.mean(dim=(2, 3))

    probe = probe_of(nn.Sequential(nn.Conv2d(3, 4, 3), NeedsAll()).eval(), image_of(8), cam_layer="0")
    with pytest.raises(SuiteError, match=r"cannot run on from '0' with 4 maps \(an empty map\); name a layer behind"):
        ablation_cam(probe, [0])


def test_cameras_at_scale_one_is_hires_cam_of_resized_maps(vgg):
    product = upsample(vgg.feature_maps("features.22"), (64, 64)) * upsample(
        vgg.gradients("features.22", 3, of="logit"), (64, 64)
    )
    assert torch.allclose(cameras(vgg, [3], scales=[1.0])[0], minmax(F.relu(product.sum(dim=0))), atol=1e-5)
    assert not torch.allclose(cameras(vgg, [3], scales=[1.0, 1.5]), cameras(vgg, [3], scales=[1.0]), atol=1e-2)


def test_costs_of_other_sizes_are_counted_in_passes_of_the_images_size(vgg):
    with vgg.bill() as bill:
        cameras(vgg, TARGETS, scales=[1.0, 2.0])
    assert (bill.forward, bill.backward) == (1 + 1 + 4, 2 * (1 + 4))  # one forward pass for the scores


@pytest.mark.parametrize("explain", [cameras, ucag])
def test_a_network_of_one_size_is_refused_where_another_is_asked_of_it(explain):
    head = nn.Linear(4 * 8 * 8, 3)
    probe = probe_of(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), head).eval(), image_of(8), cam_layer="0"
    )
    with pytest.raises(WrongSetting, match=r"runs the network at \d+ × \d+, which fails .*shapes.* and not at 8 × 8"):
        explain(probe, [0])
    assert cameras(probe, [0], scales=[1.0]).shape == (1, 8, 8)


@pytest.mark.parametrize("base", ["grad_cam", "grad_cam_pp", "hires_cam"])
def test_ucag_of_one_patch_is_its_cam(vgg, base):
    one = {"patches": 1, "crop": 1.0, "enlarge": 1.0, "count_offset": 0, "sigma": 0.0}
    got = ucag(vgg, TARGETS, base=base, **one)
    maps, layer = vgg.feature_maps("features.22"), "features.22"
    for target, found in zip(TARGETS, got, strict=True):
        g = vgg.gradients(layer, target, of="logit")
        if base == "grad_cam_pp":
            assert torch.allclose(found, grad_cam_pp(vgg, [target])[0], atol=1e-5)
            continue
        g = g.mean(dim=(1, 2), keepdim=True) if base == "grad_cam" else g
        assert torch.allclose(found, minmax(F.relu(upsample((g * maps).sum(dim=0)[None], (64, 64))))[0], atol=1e-5)


def test_ucag_puts_patches_where_they_were_cut():
    network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    network[0].weight.data.fill_(1.0)
    network[3].weight.data = torch.tensor([[1.0], [0.0]])
    image = torch.zeros(1, 3, 40, 60)
    image[:, :, 5:10, 45:50] = 9.0
    (saliency,) = ucag(probe_of(network.eval(), image, cam_layer="0"), [0])
    y, x = divmod(int(saliency.argmax()), 60)
    assert 5 <= y < 10 and 45 <= x < 50


def test_integrated_grad_cam_slowly(vgg):
    network = vgg.network
    total = 0
    for i in range(7):
        probe = probe_of(network, i / 7 * IMAGE, cam_layer="features.22")
        weights = probe.gradients("features.22", 3, of="logit").mean(dim=(1, 2), keepdim=True)
        total = total + F.relu((weights * probe.feature_maps("features.22")).sum(dim=0))
    expected = minmax(upsample(total[None], (64, 64)))
    assert torch.allclose(integrated_grad_cam(vgg, [3], n_steps=7, batch_size=3), expected, atol=1e-5)


def test_smooth_grad_cam_pp_is_torchcams_but_for_its_noise(networks):
    """Without noise: torchcam sums the maps of the last noisy copy, and takes the last copy's gradient for the mean."""
    network = copy.deepcopy(networks["vgg16"])
    network.classifier[6].weight.data *= 1e4  # gradients beside which torchcam's constant does not show
    with torchcam.methods.SmoothGradCAMpp(network, "features.22", num_samples=2, std=1e-12) as extractor:
        small = extractor(3, network(IMAGE.clone().requires_grad_()), normalized=False)[0].detach()
    got = smooth_grad_cam_pp(probe_of(network, cam_layer="features.22"), [3], n=2, noise=0.0)
    assert largest_difference(got, minmax(upsample(F.relu(small), (64, 64)))) < 1e-4


def test_smooth_grad_cam_pp_slowly(vgg):
    stack = torch.stack([
        probe_of(vgg.network, noisy[None]).gradients("features.22", 3, of="logit").double()
        for noisy in noisy_copies(vgg, 3, 0.3, seed=2)
    ])  # fmt: skip
    maps, squares, cubes = vgg.feature_maps("features.22").double(), (stack**2).mean(0), (stack**3).mean(0)
    denominator = 2 * squares + (cubes * maps).sum(dim=(1, 2), keepdim=True)
    alpha = torch.where(denominator != 0, squares / denominator, 0)
    weights = (alpha * stack.mean(0).clamp(min=0)).sum(dim=(1, 2), keepdim=True)
    expected = minmax(upsample(F.relu((weights * maps).sum(0)).float()[None], (64, 64)))
    assert torch.allclose(smooth_grad_cam_pp(vgg, [3], n=3, noise=0.3, seed=2), expected, atol=1e-4)


def test_smooth_grad_without_noise_is_the_gradient(vgg):
    for kind, expected in (("smoothgrad", gradient(vgg, TARGETS)), ("vargrad", torch.zeros(2, 64, 64))):
        got = smooth_grad(vgg, TARGETS, n=1, noise=0.0, nt_type=kind)
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad", "abs_first"])
def test_smooth_grad_slowly(vgg, kind):
    found = [
        probe_of(vgg.network, noisy[None]).image_gradient(3, of="logit").double()
        for noisy in noisy_copies(vgg, 5, 0.2, seed=4)
    ]
    stack = torch.stack(found)
    expected = {
        "smoothgrad": stack.mean(dim=0), "smoothgrad_sq": (stack**2).mean(dim=0),
        "vargrad": stack.var(dim=0, unbiased=False), "abs_first": stack.abs().mean(dim=0),
    }[kind]  # fmt: skip
    options = {"abs_first": True} if kind == "abs_first" else {"nt_type": kind}
    got = smooth_grad(vgg, [3], n=5, noise=0.2, seed=4, batch_size=2, **options)
    assert torch.allclose(got, attribution_maps(expected[None], (64, 64), "abs_max"), atol=1e-4)


def test_noise_is_the_suites_own_and_the_same_for_all_targets(vgg):
    state = torch.get_rng_state()
    both = smooth_grad(vgg, TARGETS, n=4)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.allclose(torch.cat([smooth_grad(vgg, [t], n=4) for t in TARGETS]), both, atol=1e-5)
    assert not torch.allclose(smooth_grad(vgg, TARGETS, n=4, seed=1), both, atol=1e-2)


def test_mistakes_are_explained(vgg):
    for call in (
        partial(smooth_grad, n=0), partial(smooth_grad, nt_type="sq"), partial(cameras, scales=[]),
        partial(ucag, base="rise"), partial(ucag, crop=2.0), partial(integrated_grad_cam, n_steps=0),
        partial(norm_grad, phase1="conv5x5"), partial(norm_grad, phase2="mean"), partial(norm_grad, layers=[]),
        partial(smooth_grad_cam_pp, noise=-1.0),
    ):  # fmt: skip
        with pytest.raises(SuiteError, match=r"expected|needs|must"):
            call(vgg, TARGETS)
    signal = probe_of(
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)).eval(),
        image_of(8)[:, :, 0], cam_layer="0",
    )  # fmt: skip
    for explain in (cameras, ucag):
        with pytest.raises(SuiteError, match="signal"):
            explain(signal, [0])

"""Every baseline against an independent witness, and all of them against the explainers' contract."""

from __future__ import annotations

import copy
import inspect
from functools import partial

import hydra
import numpy as np
import pytest
import reference_baselines as slow
import torch
import torch.nn.functional as F
import torchcam.methods
import torchray.attribution.grad_cam
import torchray.attribution.rise
import torchvision
from captum.attr import LayerAttribution, LayerGradCam
from checkout import ROOT
from omegaconf import OmegaConf
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from small_networks import Times, uneven
from torch import nn

from sise.baselines.ablation_cam import ablation_cam
from sise.baselines.cameras import cameras
from sise.baselines.common import REDUCTIONS, attribution_maps
from sise.baselines.contrastive_excitation_backprop import contrastive_excitation_backprop
from sise.baselines.deconvnet import deconvnet
from sise.baselines.excitation_backprop import excitation_backprop
from sise.baselines.extremal_perturbation import extremal_perturbation
from sise.baselines.full_grad import full_grad, full_gradients
from sise.baselines.grad_cam import grad_cam
from sise.baselines.grad_cam_pp import grad_cam_pp
from sise.baselines.gradient import gradient
from sise.baselines.gradient_x_input import gradient_x_input
from sise.baselines.guided_backprop import guided_backprop
from sise.baselines.guided_grad_cam import guided_grad_cam
from sise.baselines.hires_cam import hires_cam
from sise.baselines.integrated_grad_cam import integrated_grad_cam
from sise.baselines.integrated_gradients import attributions, integrated_gradients
from sise.baselines.layer_cam import layer_cam
from sise.baselines.linear_approx import linear_approx
from sise.baselines.lrp import lrp
from sise.baselines.norm_grad import norm_grad
from sise.baselines.rap import rap
from sise.baselines.rise import mask_bank, rise
from sise.baselines.rsp import rsp
from sise.baselines.score_cam import score_cam
from sise.baselines.smooth_grad import smooth_grad
from sise.baselines.smooth_grad_cam_pp import smooth_grad_cam_pp
from sise.baselines.ucag import ucag
from sise.baselines.xgrad_cam import xgrad_cam
from sise.errors import SuiteError
from sise.maps import minmax, upsample
from sise.method import ada_sise, sise
from sise.probe.probe import Probe

pytestmark = pytest.mark.numeric

CONFIGS = ROOT / "configs" / "explainer"

EXPLAINERS = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "score_cam": score_cam,
    "rise": partial(rise, n_masks=40),
    "extremal_perturbation": partial(extremal_perturbation, max_iter=4),
    "integrated_gradients": partial(integrated_gradients, n_steps=6),
    "full_grad": full_grad,
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "linear_approx": linear_approx,
    "guided_backprop": guided_backprop,
    "deconvnet": deconvnet,
    "guided_grad_cam": guided_grad_cam,
    "excitation_backprop": excitation_backprop,
    "contrastive_excitation_backprop": contrastive_excitation_backprop,
    "lrp": lrp,
    "rap": rap,
    "rsp": rsp,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
    "norm_grad": norm_grad,
    "cameras": cameras,
    "ucag": ucag,
    "smooth_grad": partial(smooth_grad, n=3),
    "integrated_grad_cam": partial(integrated_grad_cam, n_steps=4),
    "smooth_grad_cam_pp": partial(smooth_grad_cam_pp, n=2),
}


@pytest.fixture(scope="module")
def network():
    """Batch normalisation, in-place ReLU, pooling; the first channel of the CAM layer, "relu3", is dead."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = {
            "conv1": nn.Conv2d(3, 8, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(8),
            "relu1": nn.ReLU(inplace=True),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(8, 10, 3, padding=1),
            "relu2": nn.ReLU(inplace=True),
            "pool2": nn.AvgPool2d(2),
            "conv3": nn.Conv2d(10, 12, 3, padding=1),
            "bn3": nn.BatchNorm2d(12),
            "relu3": nn.ReLU(inplace=True),
            "pool3": nn.AdaptiveAvgPool2d(2),  # not 1: gradients that differ from place to place
            "flatten": nn.Flatten(),
            "fc": nn.Linear(48, 5),
        }
        made = nn.Sequential()
        for name, layer in layers.items():
            made.add_module(name, layer)
    made.fc.weight.data += 0.024  # Grad-CAM finds something for every class, and not everywhere
    uneven(made, 0).bn3.bias.data[0] = -100
    return made


@pytest.fixture(scope="module")
def resnet():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return uneven(torchvision.models.resnet18(num_classes=6), 1)


@pytest.fixture(scope="module")
def flat_network():
    """No pooling before the CAM layer, "relu2": masks that need no upsampling, where all Score-CAMs agree."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 7, 3, padding=1), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)]
        return nn.Sequential(nn.Sequential(*layers), *head).eval()


def image_of(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.avg_pool2d(torch.randn(1, 3, height + 4, width + 4, generator=generator), 5, 1) * 4


IMAGE = image_of(24, 36)
TARGETS = [3, 0, 4]


def probe_of(network, image=IMAGE, cam_layer="relu3", **options):
    return Probe(network, image, cam_layer=cam_layer, **options)


@pytest.fixture(params=["small", "resnet18"])
def case(request, network, resnet):
    """(network, image, CAM layer, targets)"""
    if request.param == "small":
        return network, IMAGE, "relu3", TARGETS
    return resnet, image_of(64, 64, 1), "layer4", [5, 1]


# ---------------------------------------------------------------- Grad-CAM


def test_grad_cam_is_captums_and_torchrays_to_5_digits(case):
    network, image, layer, targets = case
    saliency = grad_cam(probe_of(network, image, layer), targets)
    module = dict(network.named_modules())[layer]
    for target, got in zip(targets, saliency, strict=True):
        small = LayerGradCam(network, module).attribute(image, target, relu_attributions=True)
        captums = LayerAttribution.interpolate(small, tuple(image.shape[-2:]), "bilinear")
        assert torch.allclose(got, minmax(captums[0, 0].detach()), atol=1e-5)
        torchrays = torchray.attribution.grad_cam.grad_cam(network, image.clone(), target, saliency_layer=layer)
        assert torch.allclose(got, minmax(upsample(torchrays[0].detach(), image.shape[-2:]))[0], atol=1e-5)


@pytest.mark.parametrize(("witness", "ours"), [(GradCAM, grad_cam), (GradCAMPlusPlus, grad_cam_pp)])
def test_grad_cams_are_the_grad_cam_packages_to_5_digits(case, witness, ours):
    network, image, layer, targets = case
    saliency = ours(probe_of(network, image, layer), targets)
    with witness(network, [dict(network.named_modules())[layer]]) as cam:
        for target, got in zip(targets, saliency, strict=True):
            expected = torch.from_numpy(cam(image.clone(), [ClassifierOutputTarget(target)])[0])
            assert torch.allclose(got, minmax(expected), atol=1e-5)


def test_grad_cam_of_log_odds_is_that_of_the_probability_to_5_digits(network):
    probe = probe_of(network)
    assert torch.allclose(grad_cam(probe, [3], of="log_odds"), grad_cam(probe, [3], of="softmax_f32"), atol=1e-5)
    assert not torch.allclose(grad_cam(probe, [3], of="log_odds"), grad_cam(probe, [3]), atol=1e-2)


def test_grad_cam_reads_the_layer_asked_for(network):
    other = grad_cam(probe_of(network, cam_layer="relu2"), TARGETS)
    assert torch.equal(grad_cam(probe_of(network), TARGETS, layer="relu2"), other)
    with pytest.raises(SuiteError, match="layer"):
        grad_cam(Probe(network, IMAGE), TARGETS)


# ---------------------------------------------------------------- Grad-CAM++


@pytest.mark.parametrize("options", [{"normalise_alpha": True, "eps": 0}, {"normalise_alpha": False, "eps": 0.1}])
def test_grad_cam_pp_of_exp_is_the_authors_to_5_digits(case, options):
    network, image, layer, targets = case
    saliency = grad_cam_pp(probe_of(network, image, layer), targets, score="exp", **options)
    for target, got in zip(targets, saliency, strict=True):
        small = slow.grad_cam_pp_of_exp(network, image, layer, target, **options).float()
        assert torch.allclose(got, minmax(upsample(small[None], image.shape[-2:]))[0], atol=1e-5)


def test_grad_cam_pp_of_softmax_is_the_formula_with_its_gradient_to_4_digits(network):
    def probability(scores, target):
        return scores.double().softmax(dim=0)[target]

    saliency = grad_cam_pp(probe_of(network), TARGETS, score="softmax")
    for target, got in zip(TARGETS, saliency, strict=True):
        maps, g = slow.outputs_and_gradients(network, IMAGE, "relu3", target, probability)
        alpha = g**2 / (2 * g**2 + maps.sum(dim=(1, 2), keepdim=True) * g**3 + 1e-6)
        weights = (alpha * g.clamp(min=0)).sum(dim=(1, 2))
        small = (weights[:, None, None] * maps).sum(dim=0).clamp(min=0)
        assert torch.allclose(got, minmax(upsample(small[None], (24, 36)))[0], atol=1e-4)


def test_grad_cam_pp_of_softmax_survives_certainty(network):
    sure = nn.Sequential(network, Times(300.0)).eval()
    certain = int(network(IMAGE).argmax())
    for score in ("softmax", "exp"):
        assert torch.isfinite(grad_cam_pp(Probe(sure, IMAGE, cam_layer="0.relu3"), [certain], score=score)).all()


# ---------------------------------------------------------------- Score-CAM


def test_score_cam_is_the_authors_loop_to_5_digits(case):
    network, image, layer, targets = case
    if layer == "layer4":
        layer, targets = "layer1", targets[:1]  # 64 maps instead of 512
    saliency = score_cam(probe_of(network, image, layer), targets)
    for target, got in zip(targets, saliency, strict=True):
        assert torch.allclose(got, slow.score_cam(network, image, layer, target), atol=1e-5)


def test_score_cam_with_softmax_is_torchcams_and_the_grad_cam_packages_to_5_digits(flat_network):
    image, layer = image_of(10, 14, 3), flat_network[0]
    probe = Probe(flat_network, image, cam_layer="0", confidence="logit")
    saliency = score_cam(probe, [2, 1], channel_softmax=True)
    for target, got in zip([2, 1], saliency, strict=True):
        with torchcam.methods.ScoreCAM(flat_network, layer, input_shape=(3, 10, 14)) as cam, torch.no_grad():
            flat_network(image)
            assert torch.allclose(got, cam(class_idx=target)[0][0], atol=1e-5)
        with ScoreCAM(flat_network, [layer]) as cam:
            packages = torch.from_numpy(cam(image.clone(), [ClassifierOutputTarget(target)])[0])
            assert torch.allclose(got, minmax(packages), atol=1e-5)


def test_score_cam_skips_dead_channels_and_shares_passes(network):
    probe = probe_of(network)
    score_cam(probe, TARGETS)
    lo, hi = probe.extrema("relu3")
    assert (lo[0], hi[0]) == (0, 0)
    live = int((hi > lo).sum())
    assert (probe.forward_passes, probe.backward_passes) == (1 + live, 0)
    score_cam(probe, [1], channel_softmax=True)
    assert probe.forward_passes == 1 + live
    score_cam(probe, [1], baseline_subtract=True)
    assert probe.forward_passes == 2 + live


def test_score_cam_subtracts_the_confidence_of_the_fill(network):
    fill = torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1)
    probe = probe_of(network, fill=fill)
    maps, live = probe.feature_maps("relu3"), (probe.extrema("relu3")[1] > probe.extrema("relu3")[0]).nonzero()[:, 0]
    baseline = network(fill.expand_as(IMAGE))[0].detach().double().softmax(dim=0)[3]
    weights = probe.to_confidence(probe.masked_scores("relu3", live))[:, 3] - baseline
    expected = upsample((weights.float()[:, None, None] * maps[live]).sum(dim=0)[None], (24, 36)).clamp(min=0)
    assert torch.allclose(score_cam(probe, [3], baseline_subtract=True), minmax(expected), atol=1e-5)


def test_score_cam_of_constant_maps_is_zero(flat_network):
    saliency = score_cam(probe_of(flat_network, cam_layer="1"), [3, 0, 1])  # one value per channel
    assert saliency.shape == (3, 24, 36) and not saliency.any()


# ---------------------------------------------------------------- RISE


def test_rise_is_torchrays_with_our_masks_to_5_digits(case):
    network, image, layer, targets = case
    size = tuple(image.shape[-2:])
    masks = mask_bank(70, 7, 0.5, size, 3).masks(0, 70)
    expected = torchray.attribution.rise.rise(network, image, filter_masks=masks[:, None], num_masks=70)[0, targets]
    probe = probe_of(network, image, layer, confidence="sigmoid")
    saliency = rise(probe, targets, n_masks=70, seed=3, chunk=32, normalise="raw")
    assert torch.allclose(saliency * 0.5, expected, atol=1e-5)
    assert torch.allclose(rise(probe, targets, n_masks=70, seed=3), minmax(expected), atol=1e-5)


@pytest.mark.parametrize(("size", "cells"), [((24, 36), 7), ((50, 33), 5)])
def test_rise_masks_are_scikit_images_to_6_digits(size, cells):
    bank = mask_bank(20, cells, 0.4, size, 5)
    for grid, shift, mask in zip(bank.grids, bank.shifts, bank.masks(0, 20), strict=True):
        assert np.abs(slow.rise_mask(grid.numpy(), shift.tolist(), size) - mask.numpy()).max() < 1e-6


def test_rise_mask_by_hand():
    bank = mask_bank(1, 1, 1.0, (3, 4), 0)
    assert torch.allclose(bank.masks(0, 1), torch.ones(1, 3, 4))
    bank = mask_bank(1, 2, 0.5, (4, 4), 0)  # cells of 2 pixels, upsampled to 6: centres 1/6, 1/2, 5/6 of a cell
    bank.grids[:] = torch.tensor([[True, False], [True, False]])
    bank.shifts[:] = torch.tensor([0, 1])
    assert bank.masks(0, 1)[0, 0].tolist() == pytest.approx([1, 5 / 6 - 1 / 6, 1 / 3, 0], abs=1e-6)


def test_rise_masks_are_random_as_they_should():
    bank = mask_bank(2000, 7, 0.3, (21, 30), 0)
    assert bank.grids.float().mean() == pytest.approx(0.3, abs=0.01)
    assert set(bank.shifts[:, 0].tolist()) == set(range(3)) and set(bank.shifts[:, 1].tolist()) == set(range(5))
    same, fewer, other = (mask_bank(n, 7, 0.3, (21, 30), seed) for n, seed in [(2000, 0), (30, 0), (2000, 1)])
    assert same is bank and torch.equal(fewer.grids, bank.grids[:30]) and torch.equal(fewer.shifts, bank.shifts[:30])
    assert not torch.equal(other.grids, bank.grids)
    assert torch.equal(bank.masks(10, 20), fewer.masks(0, 30)[10:20])


def test_rise_depends_on_its_seed_and_not_on_its_chunks(network):
    probe = probe_of(network)
    first = rise(probe, TARGETS, n_masks=50)
    assert torch.allclose(rise(probe_of(network), TARGETS, n_masks=50, chunk=7), first, atol=1e-5)
    assert not torch.allclose(rise(probe, TARGETS, n_masks=50, seed=1), first, atol=1e-2)


def test_rise_costs_its_masks_once(network):
    probe = probe_of(network)
    rise(probe, TARGETS, n_masks=30)
    assert probe.forward_passes == 1 + 30
    rise(probe, [1], n_masks=50)
    assert probe.forward_passes == 1 + 50


# ---------------------------------------------------------------- Integrated Gradients


def without_kinks(network):
    """The network with Softplus for ReLU and averages for maxima: a copy whose gradient has no jumps.

    Where a ReLU's input is 0 to rounding, CPUs differ in the side that float32 puts it on, and every pixel below it
    gets another gradient. Five points on a line through ResNet-18 meet three such inputs (2e-7 with errors of 4e-6).
    """
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.ReLU):
                setattr(parent, name, nn.Softplus(beta=5))
            elif isinstance(module, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
    return network.eval()


@pytest.mark.parametrize("baseline", [None, [-1.0, 0.5, 2.0]])
def test_integrated_gradients_are_the_slow_quadrature_to_5_digits(case, baseline):
    network, image, layer, targets = case
    network = without_kinks(network)
    start = torch.zeros(1, 3, 1, 1) if baseline is None else torch.tensor(baseline).view(1, 3, 1, 1)
    probe = probe_of(network, image, layer)
    signed = attributions(probe, targets, n_steps=5, baseline=baseline, batch_size=4)
    saliency = integrated_gradients(probe, targets, n_steps=5, baseline=baseline)
    for target, got, final in zip(targets, signed, saliency, strict=True):
        expected = slow.integrated_gradients(network.double(), image.double(), target, 5, start)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert (final - slow.stretched(expected.abs().sum(dim=0))).abs().max() <= 1e-5


def test_integrated_gradients_add_up_to_the_difference_of_scores(network):
    probe = probe_of(network)
    for of, digits in [("logit", 1e-2), ("softmax", 1e-2)]:
        end, start = network(IMAGE)[0], network(torch.zeros_like(IMAGE))[0]
        if of == "softmax":
            end, start = end.softmax(dim=0), start.softmax(dim=0)
        signed = attributions(probe, TARGETS, n_steps=200, of=of, method="riemann_middle")
        assert torch.allclose(signed.sum(dim=(1, 2, 3)), (end - start)[TARGETS], atol=digits)


def test_the_short_trapezoid_stops_a_step_before_the_image(network):
    """Points i/4, i = 0 to 3, weighted 1/6, 1/3, 1/3, 1/6."""
    probe, start = probe_of(network), torch.full_like(IMAGE, 0.25)
    signed = attributions(probe, [1], n_steps=4, method="short_trapezoid", baseline=[0.25] * 3, of="softmax")
    total = torch.zeros_like(IMAGE, dtype=torch.float64)
    for step, weight in enumerate((1 / 6, 1 / 3, 1 / 3, 1 / 6)):
        point = (start + step / 4 * (IMAGE - start)).requires_grad_()
        network(point).softmax(dim=1)[0, 1].backward(inputs=[point])
        total += weight * point.grad.double()
    expected = total * (IMAGE - start)
    assert torch.allclose(signed.double(), expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_integrated_gradients_reduce_their_channels_as_asked(network, reduce):
    probe = probe_of(network)
    signed = attributions(probe, TARGETS, n_steps=4)
    saliency = integrated_gradients(probe, TARGETS, n_steps=4, reduce=reduce)
    assert torch.equal(saliency, attribution_maps(signed, probe.size, reduce))


def test_integrated_gradients_count_their_passes(network):
    probe = probe_of(network)
    integrated_gradients(probe, TARGETS, n_steps=7)
    assert (probe.forward_passes, probe.backward_passes) == (1 + 21, 21)


# ---------------------------------------------------------------- FullGrad


def test_full_grad_is_the_slow_one_to_5_digits(case):
    network, image, layer, targets = case
    saliency = full_grad(probe_of(network, image, layer), targets)
    for target, got in zip(targets, saliency, strict=True):
        assert torch.allclose(got.double(), slow.full_grad(network, image, target), atol=1e-5)


def test_full_gradients_add_up_to_the_score(case):
    network, image, layer, targets = case
    probe = probe_of(network, image, layer)
    for target in targets:
        assert slow.completeness_error(probe, target) < 1e-4
    saturated = nn.Sequential(network, nn.Sigmoid()).eval()
    assert slow.completeness_error(Probe(saturated, image), targets[0]) > 1e-2


def test_full_gradients_leave_out_what_they_are_told_to(network):
    probe = probe_of(network)
    [(_, everything)], [(_, rest)] = (full_gradients(probe, [3], include_bn=bn) for bn in (True, False))
    assert [len(term) for term in everything] == [8, 10, 12, 12, 5] and [len(term) for term in rest] == [10, 12, 5]
    [(_, gradients)] = full_gradients(probe, [3], simple=True)
    assert torch.allclose(gradients[1] * network.conv2.bias.detach()[:, None, None], everything[1])
    assert (probe.forward_passes, probe.backward_passes) == (3, 3)
    assert not torch.equal(full_grad(probe, [3]), full_grad(probe, [3], include_bn=False))


def test_full_grad_needs_running_statistics():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    with pytest.raises(SuiteError, match="running statistics"):
        full_grad(Probe(network, image_of(6, 6)), [0])


# ---------------------------------------------------------------- the contract


def state_of(network):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = list(network.modules())
    return (
        [m.training for m in modules],
        [len(getattr(m, hook)) for m in modules for hook in hooks],
        [getattr(m, "inplace", None) for m in modules],
        [p.requires_grad for p in network.parameters()],
        [id(p.grad) for p in network.parameters()],
        [(name, tensor.clone()) for name, tensor in network.state_dict().items()],
        [torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(np.int64))],
        (torch.is_grad_enabled(), torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(same, a, b)) and len(a) == len(b) if isinstance(a, list | tuple) else a == b


@pytest.fixture
def touchy(network):
    """A network whose changes would show: one parameter frozen, one with a gradient of its own."""
    network.conv2.weight.requires_grad_(False)
    network.fc.bias.grad = torch.full((5,), 7.0)
    yield network
    network.conv2.weight.requires_grad_(True)
    network.fc.bias.grad = None


LAYERS = ["relu1", "relu2", "relu3"]
CONTRACTED = EXPLAINERS | {"sise": partial(sise, layers=LAYERS), "ada_sise": partial(ada_sise, layers=LAYERS)}


@pytest.mark.parametrize("name", CONTRACTED)
def test_contract(name, touchy):
    before = state_of(touchy)
    image = IMAGE.clone()
    saliency = CONTRACTED[name](probe_of(touchy, image), TARGETS)
    assert saliency.shape == (3, 24, 36) and saliency.dtype == torch.float32
    assert torch.isfinite(saliency).all() and not saliency.requires_grad and not saliency.is_inference()
    assert torch.equal(saliency.amin(dim=(1, 2)), torch.zeros(3)) and torch.equal(
        saliency.amax(dim=(1, 2)), torch.ones(3)
    )
    assert same(before, state_of(touchy))
    assert torch.equal(touchy.fc.bias.grad, torch.full((5,), 7.0))
    assert torch.equal(image, IMAGE) and not image.requires_grad and image.grad is None
    alone = torch.cat([CONTRACTED[name](probe_of(touchy), [target]) for target in TARGETS])
    assert torch.allclose(saliency, alone, atol=2e-5)
    with torch.no_grad():
        assert torch.allclose(CONTRACTED[name](probe_of(touchy), TARGETS), saliency, atol=2e-5)
    assert CONTRACTED[name](probe_of(touchy), []).shape == (0, 24, 36)
    with pytest.raises(SuiteError, match="no class"):
        CONTRACTED[name](probe_of(touchy), [5])
    with pytest.raises(SuiteError, match="no class"):
        CONTRACTED[name](probe_of(touchy), [-1])


@pytest.mark.parametrize("name", CONTRACTED)
def test_networks_that_work_in_place(name, network):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner(x.sub_(0.1))

    class Copying(InPlace):
        def forward(self, x):
            return self.inner(x - 0.1)

    options = {"layers": [f"inner.{layer}" for layer in LAYERS]} if "sise" in name else {}
    maps = [
        partial(CONTRACTED[name], **options)(probe_of(kind().eval(), cam_layer="inner.relu3"), TARGETS)
        for kind in (InPlace, Copying)
    ]
    torch.testing.assert_close(*maps, atol=2e-5, rtol=0)


def test_gradients_that_are_not_finite_are_refused(network):
    class Rooted(nn.Module):
        """Its scores are finite, the gradient of a square root of zero is not."""

        def __init__(self):
            super().__init__()
            self.maps, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x):
            maps = self.maps(x) * 0.0
            return self.head(maps.mean(dim=(2, 3)).sqrt()[:, :1].expand(-1, 8))

    rooted = Rooted().eval()
    for explain in (partial(sise, layers=["maps"]), grad_cam, grad_cam_pp, full_grad):
        with pytest.raises(SuiteError, match=r"NaN or infinite in \d+ of \d+ places"):
            explain(Probe(rooted, IMAGE, cam_layer="maps"), [1])


class Failing(nn.Module):
    """Fails at the second of its own forward passes, or in the backward pass."""

    def __init__(self):
        super().__init__()
        self.calls, self.armed = 0, False

    def forward(self, x):
        self.calls += 1
        if self.armed and self.calls > 1:
            raise RuntimeError("forward failed")
        if self.armed and x.requires_grad:
            x = x.clone()
            x.register_hook(self.fail)
        return x

    def fail(self, gradient):
        raise RuntimeError("backward failed")


WITH_BLANK_MAPS = EXPLAINERS | {"ablation_cam": ablation_cam}  # zero for a target of this network


@pytest.mark.parametrize("name", WITH_BLANK_MAPS)
def test_nothing_is_left_changed_after_an_exception(name, touchy):
    failing = Failing()
    fragile = nn.Sequential(touchy, failing).eval()
    probe = Probe(fragile, IMAGE, cam_layer="0.relu3", scorer=None)
    before = state_of(fragile)
    failing.armed = True
    with pytest.raises(RuntimeError, match="failed"):
        WITH_BLANK_MAPS[name](probe, TARGETS)
    assert same(before, state_of(fragile)) and not probe.image.requires_grad


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize("name", WITH_BLANK_MAPS)
def test_config_names_every_hyperparameter_with_its_default(name):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    assert set(config) - {"budget", "expensive", "spread"} == {"name", "label", "stochastic", "call"}
    assert "budget" not in config or config.budget.setting in config.call
    assert config.name == name and config.stochastic is ("seed" in config.call)
    budgets = {"paper": {"rise_masks": 4000, "extremal_perturbation_iterations": 800}}
    context = OmegaConf.create({"budget": "paper", "budgets": budgets, "seed": 0, "explainer": config})
    call = OmegaConf.to_container(context, resolve=True)["explainer"]["call"]
    explainer = hydra.utils.instantiate(call)
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(explainer.func).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    defaults = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    assert explainer.keywords == defaults


def test_mistakes_are_explained(network):
    probe = probe_of(network)
    for call in (
        partial(rise, n_masks=0),
        partial(rise, p=0.0),
        partial(rise, normalise="max"),
        partial(grad_cam_pp, score="sigmoid"),
        partial(integrated_gradients, method="gauss"),
        partial(integrated_gradients, n_steps=1),
        partial(integrated_gradients, baseline=[0.0]),
        partial(integrated_gradients, of="log_odds"),
        partial(integrated_gradients, reduce="mean"),
    ):
        with pytest.raises(SuiteError, match=r"expected|needs|must"):
            call(probe, TARGETS)

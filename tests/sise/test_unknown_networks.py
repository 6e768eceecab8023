"""Networks nobody here has seen, through ``sise.explain``: the right map, or the reason why there is none."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sise
from sise.baselines.extremal_perturbation import extremal_perturbation
from sise.baselines.full_grad import full_grad, full_gradients
from sise.baselines.grad_cam import grad_cam
from sise.baselines.guided_backprop import guided_backprop
from sise.baselines.integrated_gradients import integrated_gradients
from sise.baselines.lrp import lrp
from sise.baselines.rap import rap
from sise.baselines.rise import rise
from sise.baselines.rsp import rsp
from sise.baselines.score_cam import score_cam
from sise.benchmark.studies.sanity import randomised, untrained
from sise.errors import SuiteError
from sise.layers import find_layers
from sise.probe.probe import Probe
from sise.scoring import Scorer
from sise.types import REMARKS

IMAGE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(3))
EXPLAINERS = {
    "sise": sise.sise,
    "ada_sise": sise.ada_sise,
    "grad_cam": grad_cam,
    "score_cam": score_cam,
    "rise": partial(rise, n_masks=20),
    "integrated_gradients": partial(integrated_gradients, n_steps=4),
    "full_grad": full_grad,
    "extremal_perturbation": partial(extremal_perturbation, max_iter=3, step=5, sigma=5.0),
}
OF_SEVERAL = ("ablation_cam", "integrated_grad_cam", "smooth_grad_cam_pp", "ucag", "smooth_grad", "occlusion")
every = pytest.mark.parametrize("explainer", EXPLAINERS.values(), ids=EXPLAINERS)


def cnn(seed=1, activation=nn.ReLU, norm=nn.BatchNorm2d):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), norm(6), activation(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), activation(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
        ).eval()  # fmt: skip


class Around(nn.Module):
    """A network of a function of another network and the image."""

    def __init__(self, function, network=None):
        super().__init__()
        self.network, self.function = network or cnn(), function

    def forward(self, x):
        return self.function(self.network, x)


def same(got, expected):
    return torch.allclose(got, expected, atol=1e-5)


# ---------------------------------------------------------------- copies and compiled networks


@every
def test_a_network_that_cannot_be_copied(explainer):
    network = cnn()
    network.lock = threading.Lock()
    assert same(
        sise.explain(network, IMAGE, 2, explainer=explainer), sise.explain(cnn(), IMAGE, 2, explainer=explainer)
    )


def test_half_precision_and_random_parameters_need_a_copy():
    network = cnn()
    network.lock = threading.Lock()
    with pytest.raises(SuiteError, match=r"cannot be copied .* use fp32"):
        Scorer(network, precision="bf16").score_inputs(IMAGE[None])
    for redrawn in (partial(randomised, modules=["0"]), untrained):
        with pytest.raises(SuiteError, match=r"cannot be copied .* random parameters"):
            redrawn(network, seed=0)


@pytest.mark.parametrize("how", ["outside", "inside", "in place"])
def test_compiled_networks_that_have_run(how):
    network = cnn()
    if how == "in place":
        network.compile(backend="eager")
    compiled = torch.compile(network, backend="eager") if how != "in place" else network
    compiled = Around(lambda network, x: network(x), compiled) if how == "inside" else compiled
    compiled(IMAGE[None])
    for explainer in (sise.sise, full_grad):
        expected = sise.explain(cnn(), IMAGE, 2, explainer=explainer)
        assert same(sise.explain(compiled, IMAGE, 2, explainer=explainer), expected)


def unhooked(network, x):
    for layer in network:
        x = layer.forward(x)
    return x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda: Around(unhooked), "none of its 3 convolutions was seen running .*call modules as"),
        (lambda: Around(lambda network, x: network(x) + network(x.flip(-1))), r"more than once in a pass \(.* 2 times"),
        (lambda: torch.jit.trace(cnn(), IMAGE[None]), "hides its layers; explain the network it was scripted"),
        (
            lambda: Around(lambda network, x: network(x), torch.jit.trace(cnn(), IMAGE[None])),
            "hides its layers; explain the network its module 'network' was scripted",
        ),
        (lambda: torch.export.export(cnn(), (IMAGE[None],)).module(), "it was exported from"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, (24, 32)), nn.Flatten()), "a result of more than one pixel"),
    ],
    ids=["forward called", "twice", "traced", "traced inside", "exported", "small"],
)
@pytest.mark.filterwarnings("ignore:.*jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")
def test_why_no_layer_is_found(network, words):
    with pytest.raises(SuiteError, match=words):
        sise.explain(network(), IMAGE, 2)


# ---------------------------------------------------------------- scores of the image alone


def dropped(network, x):
    return network(x) * (torch.rand(len(x), 1) > 0.1)


@pytest.mark.parametrize(
    "function",
    [
        lambda network, x: F.dropout(network(x), 0.5, training=True),
        lambda network, x: network(x + 0.01 * torch.randn_like(x)),
        dropped,
    ],
    ids=["dropout", "noise", "now and then"],
)
@every
def test_networks_that_are_random_in_evaluation_mode(function, explainer):
    before = torch.get_rng_state()
    with pytest.raises(SuiteError, match="random in evaluation mode"):
        sise.explain(Around(function), IMAGE, 2, explainer=explainer)
    assert torch.equal(torch.get_rng_state(), before)


def seeded(network, x):
    torch.manual_seed(5)
    return network(x + 0.01 * torch.randn_like(x))


def seeded_alone(network, x):
    return torch.cat([seeded(network, one) for one in x.split(1)])


def beside_the_last(network, x):
    scores = network(x)
    return scores - 0.5 * scores[-1:]


def normalised(network, x):
    return network((x - x.mean()) / x.std())


def normalised_alone(network, x):
    return torch.cat([normalised(network, one) for one in x.split(1)])


@pytest.mark.parametrize(
    ("function", "alone"),
    [
        (normalised, normalised_alone),
        (seeded, seeded_alone),
        (beside_the_last, lambda network, x: 0.5 * network(x)),
        (lambda network, x: network(x).reshape(1, 4), lambda network, x: network(x)),
        (lambda network, x: network(x[:1]), lambda network, x: network(x)),
    ],
    ids=[
        "statistics of the batch",
        "seeded noise",
        "the last of the batch",
        "batches of one",
        "the first of the batch",
    ],
)
@pytest.mark.parametrize("explainer", [*EXPLAINERS.values(), *OF_SEVERAL], ids=[*EXPLAINERS, *OF_SEVERAL])
def test_networks_that_look_at_the_batch_get_each_image_by_itself(function, alone, explainer, caplog):
    got = sise.explain(Around(function), IMAGE, 2, explainer=explainer)
    assert "each image is scored by itself" in caplog.text
    assert same(got, sise.explain(Around(alone), IMAGE, 2, explainer=explainer))


def test_a_network_that_scores_every_image_alike_by_itself_is_refused():
    with pytest.raises(SuiteError, match="along the batch"):
        sise.explain(Around(lambda network, x: network(x).softmax(0)), IMAGE, 2)


def test_the_examination_is_made_once_and_billed_to_nobody():
    sizes = []

    def counted(network, x):
        sizes.append(len(x))
        return network(x)

    network = Around(counted).eval()
    scorer = Scorer(network, lossless=False)
    for _ in range(2):
        probe = Probe(network, IMAGE[None], layers=["network.8"], scorer=scorer)
        with probe.bill() as bill:
            grad_cam(probe, [1])
        assert (bill.forward, bill.backward, scorer.passes) == (1, 1, 0)
        assert bill.seconds > 0
    assert sizes == [1, 3, 1]


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize(
    "function",
    [
        lambda network, x: network(x.detach()),
        lambda network, x: network((x > 0.5).float()),
        lambda network, x: torch.from_numpy(network(x).detach().numpy() * 2),
    ],
    ids=["detached", "compared", "NumPy"],
)
@pytest.mark.parametrize("name", ["integrated_gradients", "full_grad", "extremal_perturbation"])
def test_scores_without_a_gradient(function, name):
    with pytest.raises(SuiteError, match="no gradient with respect to the image"):
        sise.explain(Around(function), IMAGE, 2, explainer=EXPLAINERS[name], layers=[])


@pytest.mark.parametrize("name", ["integrated_gradients", "full_grad", "extremal_perturbation"])
def test_gradients_that_are_nan(name):
    root = Around(lambda network, x: network(x) + x.pow(2).sum((1, 2, 3))[:, None].sqrt())
    with pytest.raises(SuiteError, match="with respect to the image is NaN"):
        sise.explain(root, torch.zeros_like(IMAGE), 2, explainer=EXPLAINERS[name])


@pytest.mark.parametrize(
    ("network", "adds_up"),
    [
        (cnn, True),
        (lambda: cnn(activation=nn.LeakyReLU), True),
        (lambda: cnn(activation=nn.SiLU), False),
        (lambda: cnn(norm=partial(nn.GroupNorm, 2)), False),
        (lambda: Around(lambda network, x: network(x).sigmoid()), False),
        (lambda: Around(lambda network, x: network(x) + 1), False),
    ],
    ids=["batch normalisation", "leaky", "SiLU", "group normalisation", "sigmoid", "bias in a function"],
)
def test_full_grad_says_where_it_is_no_decomposition(network, adds_up, caplog):
    sise.explain(network(), IMAGE, 2, explainer=full_grad)
    assert (REMARKS["incomplete_decomposition"] in caplog.text) is not adds_up


class ChannelsFirst(nn.LayerNorm):
    """As of torchvision's ConvNeXt: channels come first outside, last inside."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """A small ConvNeXt with ReLU: linear layers and a normalisation that see channels last."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 7, 4, stride=4), ChannelsFirst(7))
        self.depthwise, self.norm = nn.Conv2d(7, 7, 3, padding=1, groups=7), nn.LayerNorm(7)
        self.wide, self.narrow = nn.Linear(7, 11), nn.Linear(11, 7)
        self.windows, self.head = nn.Linear(7, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.narrow(F.relu(self.wide(self.norm(y))))
        x = (x + y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (N, h, w, 7)
        windows = self.windows(input=x.unflatten(1, (2, -1)).transpose(0, 1).flatten(0, 1))  # two for every image
        return self.head(F.relu(windows).unflatten(0, (2, -1)).mean((0, 2, 3)))


@pytest.mark.parametrize("normalised", [True, False])
def test_full_grad_adds_up_where_channels_come_last(normalised):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = ChannelsLast().eval()
        for name, parameter in network.named_parameters():
            parameter.data += 0.3 * torch.randn_like(parameter) * ("bias" in name)
    if not normalised:
        network.norm, network.stem[1] = nn.Identity().eval(), nn.Identity().eval()
    probe = Probe(network, IMAGE[None])
    for target, (input_term, terms) in enumerate(full_gradients(probe, [0, 1, 2, 3])):
        total = input_term.double().sum() + sum(term.double().sum() for term in terms)
        assert float(total) == pytest.approx(float(probe.scores()[target]), rel=1e-4, abs=1e-5)
    shapes = [(7, 6, 8), (7, 6, 8), (7, 6, 8), (7, 6, 8), (11, 6, 8), (7, 6, 8), (5,), (4,)]
    expected = shapes if normalised else [shapes[i] for i in (0, 2, 4, 5, 6, 7)]
    assert [tuple(term.shape) for term in terms] == expected
    assert full_grad(probe, [1]).shape == (1, 24, 32)
    assert "incomplete_decomposition" not in probe.remarks


def test_a_remark_is_on_the_bill_of_its_explainer():
    probe = Probe(cnn(activation=nn.SiLU), IMAGE[None], layers=["8"])
    with probe.bill() as first:
        full_grad(probe, [0, 1])
    with probe.bill() as second:
        grad_cam(probe, [0, 1])
    assert first.remarks == probe.remarks == ["incomplete_decomposition"] and not second.remarks


def checkpointed(network, x, reentrant=False):
    return torch.utils.checkpoint.checkpoint(network, x, use_reentrant=reentrant)


def test_full_grad_of_a_network_that_runs_parts_again_in_the_backward_pass():
    expected = sise.explain(cnn(), IMAGE, 2, explainer=full_grad)
    assert same(sise.explain(Around(checkpointed), IMAGE, 2, explainer=full_grad), expected)
    with pytest.raises(SuiteError, match="no gradient that torch can compute: When use_reentrant=True"):
        sise.explain(Around(partial(checkpointed, reentrant=True)), IMAGE, 2, explainer=full_grad)


@pytest.mark.parametrize("explainer", [guided_backprop, lrp, rap, rsp])
def test_backward_rules_do_not_reach_what_runs_again_in_the_backward_pass(explainer):
    for reentrant in (False, True):
        with pytest.raises(SuiteError, match=r"torch\.utils\.checkpoint|where gradients are off"):
            sise.explain(Around(partial(checkpointed, reentrant=reentrant)), IMAGE, 2, explainer=explainer)


def made_in_inference_mode():
    with torch.inference_mode():
        return cnn()


@pytest.mark.parametrize(
    ("network", "image", "options", "words"),
    [
        (made_in_inference_mode, IMAGE, {}, r"inside torch\.inference_mode\(\)"),
        (cnn, IMAGE.to_sparse(), {}, r"expected a dense tensor: image\.to_dense\(\)"),
        (cnn, IMAGE, {"layers": ["9"]}, "one pixel per channel has no place in the image"),
    ],
    ids=["inference tensors", "sparse", "one pixel"],
)
def test_what_cannot_be_explained_and_why(network, image, options, words):
    with pytest.raises(SuiteError, match=words):
        sise.explain(network(), image, 2, **options)


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64])
def test_scores_that_are_no_real_numbers_are_refused(kind):
    with pytest.raises(SuiteError, match=f"scores that are real numbers; it returned {kind}"):
        sise.explain(Around(lambda network, x: network(x).to(kind)), IMAGE, 2)


def test_probabilities_for_scores_are_said(caplog):
    sise.explain(Around(lambda network, x: network(x).softmax(1)), IMAGE, 2, explainer=grad_cam)
    assert "take the softmax out of the model" in caplog.text
    caplog.clear()
    sise.explain(Around(lambda network, x: network(x).softmax(1)), IMAGE, 2, explainer=grad_cam, confidence="logit")
    assert "softmax" not in caplog.text


@every
def test_the_callers_modes_and_defaults_change_nothing(explainer):
    network = cnn()
    expected = sise.explain(network, IMAGE, 2, explainer=explainer)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(sise.explain(network, IMAGE * 1, 2, explainer=explainer), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert same(sise.explain(network, IMAGE, 2, explainer=explainer), expected)
    finally:
        torch.set_default_dtype(torch.float32)


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("shared", [True, False], ids=["one network", "two networks"])
def test_threads_get_what_they_get_alone(shared):
    networks = [cnn(1).train(), cnn(1 if shared else 2).train()]
    networks[1] = networks[0] if shared else networks[1]
    names = ("sise", "grad_cam", "full_grad", "integrated_gradients")
    jobs = [(networks[i % 2], IMAGE.roll(i, -1), EXPLAINERS[name]) for i in range(4) for name in names]
    expected = [sise.explain(network, image, 2, explainer=explainer) for network, image, explainer in jobs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda job: sise.explain(job[0], job[1], 2, explainer=job[2]), jobs))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert all(module.training for network in networks for module in network.modules())


def test_other_threads_may_score_images_meanwhile():
    network, stop, wrong = cnn(), threading.Event(), []
    expected, scores = sise.explain(network, IMAGE, 2), network(IMAGE[None]).detach()

    def score():
        while not stop.is_set():
            with torch.no_grad():
                wrong.extend([] if torch.allclose(network(IMAGE[None]), scores, atol=1e-5) else [1])

    thread = threading.Thread(target=score)
    thread.start()
    try:
        for explainer in (sise.sise, full_grad, grad_cam):
            sise.explain(network, IMAGE.flip(-1), 2, explainer=explainer)
        assert same(sise.explain(network, IMAGE, 2), expected)
        assert find_layers(network, (24, 32)) == ("2", "5", "8")
    finally:
        stop.set()
        thread.join()
    assert not wrong


def test_lazy_layers_that_have_not_run():
    with pytest.raises(SuiteError, match=r"the model's '12.weight' has no shape yet"):
        sise.explain(nn.Sequential(*cnn(), nn.LazyLinear(3)), IMAGE, 2)


# ---------------------------------------------------------------- what the caller has set


@contextlib.contextmanager
def default_type(kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("explainer", ["ablation_cam", "gradient_shap", "integrated_grad_cam", "lime", "smooth_grad"])
@pytest.mark.parametrize(
    "setting", [partial(default_type, torch.float64), partial(torch.device, "meta")], ids=["float64", "meta"]
)
def test_the_callers_default_type_and_device_change_no_map(explainer, setting):
    network = cnn()
    expected = sise.explain(network, IMAGE, 2, explainer=explainer)
    with setting():
        found = sise.explain(network, IMAGE, 2, explainer=explainer)
    assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("explainer", ["gradient", "guided_backprop", "deconvnet", "lrp"])
def test_quantised_layers_have_no_gradient_and_no_map(explainer):
    quantised = torch.ao.quantization.quantize_dynamic(cnn(), {nn.Linear})
    with pytest.raises(SuiteError, match=r"no gradient|no relevance|no rule"):
        sise.explain(quantised, IMAGE, 2, explainer=explainer)

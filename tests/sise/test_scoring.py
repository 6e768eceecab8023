"""The scoring engine: the same scores as one image after another, whatever the batches, and a network left alone."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch
from checkout import ROOT, WITNESSES
from reference import Plain, Residual, picture, seeded
from small_networks import Overwriting
from torch import nn

from sise.errors import SuiteError
from sise.probe.probe import Probe
from sise.scoring import Scorer, Segment, _lossless_copy

pytestmark = pytest.mark.numeric

SIZES = [(40, 56), (37, 45)]


def plain():
    return seeded(Plain())


def residual():
    return seeded(Residual())


def masks(count, size, seed=0):
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed))


def one_by_one(network, segments):
    """The definition: network(image * m + fill * (1 - m)), in float64."""
    network, rows = reference.in_double_precision(network), []
    for segment in segments:
        size = tuple(segment.image.shape[-2:])
        resize = reference.resize_nearest if segment.mode == "nearest" else reference.resize_bilinear
        for m in segment.maps.double().numpy():
            with torch.no_grad():
                rows.append(network(reference.masked(segment.image, resize(m, size), segment.fill))[0])
    return torch.stack(rows).float()


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("build", [plain, residual])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lossless", [True, False])
def test_scores_equal_one_by_one(build, size, lossless):
    network, image = build(), picture(size)
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    segments = [
        Segment(image, masks(5, (10, 14))),
        Segment(image, masks(3, size, 1), fill=torch.tensor([0.5, -1.0, 2.0])[None, :, None, None]),
        Segment(picture(size, 1), masks(4, (5, 7), 2), mode="nearest"),
        Segment(image, masks(2, (3, 3), 3), fill=blurred),
    ]
    assert_close(Scorer(network, batch_size=4, lossless=lossless).score(segments), one_by_one(network, segments))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 11, 12, 64, None])
def test_batch_size_makes_no_difference(batch_size):
    network, image = residual(), picture()
    segments = [Segment(image, masks(7, (10, 14))), Segment(image, masks(5, (20, 28)), fill=image * 0 + 1)]
    scorer = Scorer(network, batch_size=batch_size)
    once = scorer.score(segments)
    assert_close(once, one_by_one(network, segments))
    assert torch.equal(scorer.score(segments), once)  # nothing is left in the buffer
    assert scorer.passes == 24
    assert_close(scorer.score(segments[:1]), once[:7])
    inputs = torch.cat([picture(seed=seed) for seed in range(5)])
    assert_close(scorer.score_inputs(inputs), network(inputs).detach())


def test_bool_masks_and_empty_segments():
    network, image = plain(), picture()
    binary = masks(3, (40, 56)) > 0.5
    got = Scorer(network).score([Segment(image, binary[:0]), Segment(image, binary)])
    assert_close(got, one_by_one(network, [Segment(image, binary)]))
    with pytest.raises(ValueError, match="no masks"):
        Scorer(network).score([Segment(image, binary[:0])])


# ------------------------------------------------------------------------------------------------ memory


class Small(nn.Module):
    """Fits a few images only."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room = network, room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(x)}")
        return self.network(x)


@pytest.mark.parametrize("room", [1, 2, 3, 7])
@pytest.mark.parametrize("lossless", [True, False])
def test_running_out_of_memory_goes_on_in_halves(room, lossless, caplog):
    network, image = residual(), picture()
    segments = [Segment(image, masks(13, (10, 14))), Segment(picture(seed=1), masks(8, (20, 28)))]
    scorer = Scorer(Small(network, room), batch_size=16, lossless=lossless)
    with caplog.at_level(logging.WARNING):
        assert_close(scorer.score(segments), one_by_one(network, segments))
    assert scorer.passes == 21 and scorer.batch_size <= room
    assert "out of memory" in caplog.text
    caplog.clear()
    assert_close(scorer.score(segments), one_by_one(network, segments))
    assert not caplog.text  # the smaller size is remembered


def test_a_buffer_without_room_is_halved(monkeypatch):
    network, image = residual(), picture()
    segments = [Segment(image, masks(13, (10, 14))), Segment(picture(seed=1), masks(8, (20, 28)))]
    expected = Scorer(network, batch_size=3).score(segments)
    empty, asked = torch.empty, []

    def scarce(*shape, **kind):
        asked.append(shape[0])
        if shape[0] > 3:
            raise torch.OutOfMemoryError("no room")
        return empty(*shape, **kind)

    scorer = Scorer(network, batch_size=12)
    scorer.score_inputs(image)  # builds the runner
    monkeypatch.setattr("sise.scoring.torch.empty", scarce)
    scorer._take_buffer(12, image)
    assert asked == [12, 6, 3] and scorer.batch_size == 3
    monkeypatch.undo()
    torch.testing.assert_close(scorer.score(segments), expected, rtol=0, atol=0)


def test_out_of_memory_for_one_image_is_raised():
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(Small(plain(), 0), batch_size=4, lossless=False).score([Segment(picture(), masks(4, (5, 7)))])


def test_other_errors_are_not_taken_for_missing_memory():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Scorer(Broken().eval(), lossless=False).score([Segment(picture(), masks(4, (5, 7)))])


# ------------------------------------------------------------------------------------------------ the cheaper copy


def test_folding_removes_batch_normalisation_and_keeps_the_scores():
    network, image = residual(), picture()
    folded = _lossless_copy(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    torch.testing.assert_close(folded(image), network(image), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 5


class Untraceable(nn.Module):
    """Its way depends on its input, so it cannot be traced."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) if x.mean() > -100 else self.network(-x)


class TracedWrongly(nn.Module):
    """Tracing succeeds and yields another function."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) * (2 if isinstance(x, torch.fx.Proxy) else 1)


class UntraceablyBuilt(Untraceable):
    """Cannot even be copied in another memory layout: it insists on contiguous input."""

    def forward(self, x):
        if not x.is_contiguous():
            raise RuntimeError("contiguous input only")
        return super().forward(x)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("wrapper", [Untraceable, TracedWrongly, UntraceablyBuilt])
def test_networks_that_cannot_be_folded_run_as_they_are(wrapper, precision):
    network, image = residual(), picture()
    segments = [Segment(image, masks(6, (10, 14)))]
    scores = Scorer(wrapper(network).eval(), batch_size=4, precision=precision).score(segments)
    if precision == "fp32":
        assert_close(scores, one_by_one(network, segments))
    else:
        torch.testing.assert_close(scores, one_by_one(network, segments), rtol=0.05, atol=0.05)


def test_a_copy_that_differs_is_noticed_at_any_scale():
    class Small(TracedWrongly):
        def forward(self, x):
            return 1e-5 * super().forward(x)

    network, segments = residual(), [Segment(picture(), masks(6, (10, 14)))]
    assert_close(1e5 * Scorer(Small(network).eval(), batch_size=4).score(segments), one_by_one(network, segments))


def test_shared_layers_are_folded_correctly_or_not_at_all():
    class Twice(nn.Module):
        """One convolution under two batch normalisations."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.fc = nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(self.bn2(self.conv(torch.relu(self.bn1(self.conv(x))))).mean(dim=(2, 3)))

    network = seeded(Twice())
    segments = [Segment(picture(), masks(6, (10, 14)))]
    assert_close(Scorer(network, batch_size=4).score(segments), one_by_one(network, segments))


# ------------------------------------------------------------------------------------------------ left alone


def fingerprint(network):
    return (
        {name: value.clone() for name, value in network.state_dict().items()},
        [m.training for m in network.modules()],
        [p.requires_grad for p in network.parameters()],
        [p.grad for p in network.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules()],
        [p.is_contiguous(memory_format=torch.contiguous_format) for p in network.parameters()],
        [p.data_ptr() for p in network.parameters()],
    )


def assert_same_fingerprint(before, after):
    for name in before[0]:
        assert torch.equal(before[0][name], after[0][name]), name
    assert before[1:] == after[1:]


BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul,
            torch.backends.mkldnn.conv)  # fmt: skip


def flags():
    return (*(backend.fp32_precision for backend in BACKENDS), torch.is_grad_enabled())


@pytest.mark.parametrize("build", [plain, residual])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_network_image_and_flags_are_left_alone(build, precision):
    network, image = build(), picture()
    given = image.clone(), masks(5, (10, 14))
    before, switches = fingerprint(network), flags()
    maps = given[1].clone()
    Scorer(network, batch_size=4, precision=precision).score([Segment(image, maps)])
    assert_same_fingerprint(before, fingerprint(network))
    assert flags() == switches
    assert torch.equal(image, given[0]) and torch.equal(maps, given[1])


STATES = {
    "nothing": "pass",
    "legacy flags on": "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True",
    "legacy flags off": "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "high": "torch.set_float32_matmul_precision('high')",
    "all tf32": "torch.backends.fp32_precision = 'tf32'",
    "all ieee": "torch.backends.fp32_precision = 'ieee'",
    "products tf32": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "convolutions ieee": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "cudnn ieee": "torch.backends.cudnn.fp32_precision = 'ieee'",
}
IN_EVERY_STATE = """
import os, sys, torch
from reference import Plain, picture, seeded
from test_scoring import STATES, flags
from sise import Probe, sise

def legacy():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it refuses after any use of the new flags
        return None


torch.set_num_threads(1)
expected = None
for name, state in {"reference": "pass", **STATES}.items():
    reading, writing = os.pipe()
    if os.fork() == 0:  # the flags cannot all be set back
        network, image = seeded(Plain()), picture()
        exec(state)
        before, readable = flags(), legacy()
        probe = Probe(network, image, layers=Plain.LAYERS)
        found = [probe.masked_scores(Plain.LAYERS[1], torch.arange(4)), probe.scores(), probe.image_gradient(0)]
        found += [*probe.extrema(Plain.LAYERS[1]), sise(probe, [0])]
        assert flags() == before, (name, before, flags())
        assert legacy() == readable, name
        os.write(writing, repr([float(x.double().sum()) for x in found]).encode())
        os._exit(0)
    os.close(writing)
    found = os.read(reading, 10000)
    expected = expected or found
    assert found and found == expected, (name, found, expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_products_are_exact_and_flags_come_back_whatever_they_were():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (WITNESSES, Path(__file__).parent, ROOT)))}
    words = [sys.executable, "-c", IN_EVERY_STATE]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_flags_come_back_after_an_error():
    network = Small(plain(), 0)
    before, switches = fingerprint(network), flags()
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(network, batch_size=4).score([Segment(picture(), masks(4, (5, 7)))])
    assert flags() == switches
    assert_same_fingerprint(before, fingerprint(network))


def test_flags_are_set_for_the_passes():
    before, seen = flags(), []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(flags())
            return x.mean(dim=(2, 3))

    segments = [Segment(picture(), masks(4, (5, 7)))]
    exact = ("ieee",) * 4 + (False,)
    Scorer(Watching().eval(), lossless=False).score(segments)
    assert set(seen) == {exact}
    Scorer(Watching().eval(), lossless=False, precision="tf32").score(segments)
    assert seen[-1] == ("tf32", "tf32", "ieee", "ieee", False) and set(seen[:-1]) == {exact}  # it is examined in fp32
    assert flags() == before


def test_networks_that_write_into_their_input():
    class Halving(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x * 0.5)

    network, image = residual(), picture()
    before = image.clone()
    segments = [Segment(image, masks(6, (10, 14)))]
    inputs = torch.cat([image, picture(seed=1)])
    scorer = Scorer(Overwriting(network).eval(), batch_size=4)
    assert_close(scorer.score(segments), one_by_one(Halving(network), segments))
    assert torch.equal(image, before)
    assert_close(scorer.score_inputs(inputs), network(inputs * 0.5).detach())
    assert torch.equal(inputs[:1], before)


def test_a_later_change_of_the_weights_does_not_reach_an_earlier_copy():
    network, image = plain(), picture()
    segments = [Segment(image, masks(3, (10, 14)))]
    scorer = Scorer(network)
    before = scorer.score(segments)
    with torch.no_grad():
        network.head.weight.mul_(2)
    assert torch.equal(scorer.score(segments), before)
    assert not torch.equal(Scorer(network).score(segments), before)
    with pytest.raises(SuiteError, match="were changed since this engine copied them; make a new Scorer"):
        Probe(network, image, scorer=scorer)  # its gradients would be of other weights than its scores
    Probe(network, image, scorer=Scorer(network)).scores()


def test_kept_pixels_and_gradients_are_scored_in_fp32_whatever_the_precision():
    network, image = residual(), picture()
    keep = masks(3, (40, 56)) > 0.5
    half, full = (Probe(network, image, scorer=Scorer(network, precision=p)) for p in ("bf16", "fp32"))
    assert torch.equal(half.score_masks(keep), full.score_masks(keep))
    assert torch.equal(half.scorer.differentiable(image), full.scorer.differentiable(image))
    assert not torch.equal(half.score_masks(keep.float()), full.score_masks(keep.float()))  # the switch does something


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"precision": "fp23"}, "fp32"), ({"batch_size": 0}, "at least 1"), ({"batch_size": -3}, "-3")],
)
def test_unknown_settings(arguments, words):
    with pytest.raises(SuiteError, match=words):
        Scorer(plain(), **arguments)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("output", [lambda s: (s, s), lambda s: {"scores": s}, lambda s: s[:, 0], lambda s: s[:0]])
def test_networks_that_do_not_return_scores(output, lossless):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = plain()

        def forward(self, x):
            return output(self.network(x))

    with pytest.raises(SuiteError, match=r"\(N, K\)"):
        Scorer(Wrapped().eval(), lossless=lossless, batch_size=4).score([Segment(picture(), masks(4, (5, 7)))])


# ---------------------------------------------------------------- places in a batch


class ByPlace(nn.Module):
    """Scores that the place in a batch, or the last image in it, changes by 1e-5: by less than what is refused."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        scores = x.flatten(1)[:, :3].abs() + 1
        if self.kind == "place":
            scores[len(x) // 2 :] *= 1 + 1e-5
        if self.kind == "neighbour":
            scores = scores * (1 + 1e-5 * (x[-1:].flatten(1)[:, :1] < 0))
        return scores


@pytest.mark.parametrize("kind", ["alike", "place", "neighbour"])
def test_places_of_a_batch_that_matter_are_measured(kind):
    scorer = Scorer(ByPlace(kind), lossless=False, steady=True)
    assert scorer.place_error is None
    error = scorer.check_places(torch.full((1, 3, 4, 5), 0.5))
    assert error == scorer.place_error == pytest.approx(0.0 if kind == "alike" else 1e-5, rel=0.05)
    assert scorer.passes == 0


def test_places_of_a_head_of_ten_inputs_do_not_matter_here():
    """On some CPUs they do by rounding, unless MKL is told otherwise, as the harness and conftest do."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4))
    assert Scorer(network.eval(), steady=True).check_places(torch.randn(1, 3, 9, 11)) == 0.0

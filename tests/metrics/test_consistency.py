"""Metrics that explain again: by hand, beside captum and grad-cam, and what simple maps get."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_networks import Shown, linear_probe, probe_of

from sise.benchmark.run.explain_again import ExplainAgain
from sise.errors import SuiteError
from sise.metrics.consistency import adcc, arcc, coherency, disturbances, harmonic_mean, max_sensitivity
from sise.metrics.road import road
from sise.types import by_definition

SIZE = (10, 10)
LIT = torch.zeros(SIZE)
LIT[:5, :5] = 1


def of_channel(image):
    """An explainer that shows the image itself."""
    return image[0, 0]


def constant(image):
    return torch.ones(SIZE)


@pytest.fixture
def image():
    return torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(0))


def test_max_sensitivity_by_hand(image):
    """The map is the image: what is added to the one is added to the other."""
    expected = max(float(d.norm()) for d in disturbances(image, 0.1, 5, 0)) / float(image.norm())
    found = max_sensitivity(of_channel, probe_of(Shown(), image), 0, image[0, 0], radius=0.1, samples=5)
    assert found == pytest.approx(expected, rel=1e-4) and found > 0.05
    assert max_sensitivity(constant, probe_of(Shown(), image), 0, torch.ones(SIZE)) == 0
    zero = torch.zeros(SIZE)
    assert max_sensitivity(lambda x: zero + 2, probe_of(Shown(), image), 0, zero) == pytest.approx(20)


def test_max_sensitivity_is_captums(image):
    captum = pytest.importorskip("captum.metrics")
    drawn = disturbances(image, 0.02, 6, 0)[:, 0]

    def squared(inputs):
        """As a tuple, since captum takes the rows of a bare tensor for several inputs."""
        return ((inputs[0] if isinstance(inputs, tuple) else inputs) ** 2,)

    theirs = captum.sensitivity_max(squared, image, perturb_func=lambda x: x[0] + drawn, n_perturb_samples=6)
    probe = probe_of(Shown(), image)
    mine = max_sensitivity(lambda x: squared(x)[0][0, 0], probe, 0, image[0, 0] ** 2, radius=0.02, samples=6)
    assert mine == pytest.approx(float(theirs), rel=1e-4)


def test_disturbances_fill_their_range():
    drawn = disturbances(torch.zeros(1, 3, 20, 20), 0.5, 2, 0)
    assert drawn.shape == (2, 1, 3, 20, 20) and -0.5 <= drawn.min() < -0.49 and 0.49 < drawn.max() <= 0.5
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn, disturbances(drawn[0], 0.5, 2, 0))


def test_coherency_by_hand():
    """Multiplied with itself, a map of 0 and 1 stays; the reversed map is 0 where it was 1."""
    probe = linear_probe(LIT, LIT[None, None])
    assert coherency(of_channel, probe, 0, LIT) == pytest.approx(1)
    assert coherency(lambda x: 1 - LIT, probe, 0, LIT) == pytest.approx(0)
    assert coherency(constant, probe, 0, LIT) == 0.5
    assert coherency(of_channel, probe, 0, torch.ones(SIZE)) == 0.5
    assert by_definition(coherency(of_channel, probe, 0, torch.ones(SIZE))) == "constant map"


def test_adcc_by_hand():
    """P = the mean pixel, 1/2; shown are a quarter of the pixels: P = 1/8, a drop of 3/4; complexity 1/4."""
    probe = probe_of(Shown(), torch.full((1, 1, *SIZE), 0.5))
    expected = 3 / (1 / 1 + 1 / (1 - 1 / 4) + 1 / (1 - 3 / 4))
    assert adcc(of_channel, probe, 0, LIT) == pytest.approx(expected, rel=1e-4)
    assert adcc(constant, probe, 0, torch.ones(SIZE)) == pytest.approx(0, abs=1e-4)  # everything is lost


def test_harmonic_mean():
    assert harmonic_mean([0.5, 1.0, 0.25]) == pytest.approx(3 / 7)
    assert harmonic_mean([1.0, 0.0, 1.0]) == harmonic_mean([1.0, -1e-9, 1.0]) == 0


def test_arcc_is_grad_cams(image, monkeypatch):
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # their noise
    weights = torch.rand(SIZE, generator=torch.Generator().manual_seed(1))

    class Method:  # shows the image times the weights
        def __call__(self, input_tensor, targets):
            return (input_tensor[:, 0] * weights).numpy()

    saliency = of_channel(image) * weights
    saliency = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    probe = linear_probe(weights / 20, image)
    expected = theirs.ARCC(Method())(image, saliency.numpy()[None], [lambda scores: scores[0]], probe.network)
    assert 0.05 < float(np.asarray(expected).ravel()[0]) < 0.95
    found = arcc(lambda x: of_channel(x) * weights, probe, 0, saliency, noise=0)
    assert found == pytest.approx(float(np.asarray(expected).ravel()[0]), abs=1e-4)
    assert arcc(of_channel, probe, 0, 1 - saliency) == 0 > road(probe, 0, 1 - saliency)


def test_no_samples_are_refused(image):
    with pytest.raises(SuiteError, match="samples must be"):
        max_sensitivity(of_channel, probe_of(Shown(), image), 0, image[0, 0], samples=0)


def test_an_image_is_explained_once_and_its_probe_shared(image):
    seen = []

    def explainer(probe, targets):
        seen.append(probe)
        return probe.image[:, 0] + targets[0]

    probe = probe_of(Shown(), image)
    first, second = ExplainAgain(explainer, probe, 1), ExplainAgain(explainer, probe, 0)
    other = image.flip(2)
    torch.testing.assert_close(first(other), other[0, 0] + 1)
    first(other)
    second(other)
    assert len(seen) == 2 and seen[0] is seen[1] is not probe
    assert (seen[0].confidence_kind, seen[0].scorer, seen[0].seed) == (probe.confidence_kind, probe.scorer, probe.seed)


def test_few_probes_are_remembered(image):
    probe = probe_of(Shown(), image)
    beside = [probe.beside(image + i) for i in range(10)]
    assert probe.beside(image + 9) is beside[9] and probe.beside(image) is not beside[0]
    assert len(probe._beside) == 6

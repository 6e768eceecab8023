"""Any explainer's map times its own gate, by hand and as a cell of an experiment."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import reference
import torch
from compositions import cells_of
from hydra.utils import instantiate

from sise.baselines.gating import gated
from sise.choices import GATES
from sise.errors import SuiteError
from sise.metrics.localization import ebpg
from sise.metrics.ordering import pixel_auc

MAP = torch.tensor([[0.0, 1.0, 2.0], [2.5, 9.0, 10.0]])


def shows(*maps):
    return lambda probe, targets: torch.stack([maps[target] for target in targets])


def test_by_hand():
    """Stretched: 0, 0.1, 0.2, 0.25 | 0.9, 1 are parted by Otsu; what lies above stays, and all else is 0."""
    probe = SimpleNamespace(size=(2, 3))
    (found,) = gated(probe, [0], explainer=shows(MAP))
    assert found.flatten().tolist() == pytest.approx([0, 0, 0, 0, 0.9, 1])
    (simple,) = gated(probe, [0], explainer=shows(MAP), gate="simple")
    torch.testing.assert_close(simple, (MAP / 10) ** 2)
    assert torch.equal(gated(probe, [0], explainer=shows(MAP), gate="none")[0], MAP / 10)
    assert gated(probe, [], explainer=lambda probe, targets: torch.zeros(0, 2, 3)).shape == (0, 2, 3)


@pytest.mark.parametrize("gate", GATES)
def test_gates_equal_the_reference_and_keep_the_order(gate):
    saliency = torch.rand(8, 9, generator=torch.Generator().manual_seed(3))
    (found,) = gated(SimpleNamespace(size=(8, 9)), [0], explainer=shows(saliency), gate=gate, temperature=20.0)
    stretched = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    expected = stretched.numpy() * reference.gate(stretched.double().numpy(), gate, 20.0)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)
    assert bool((found.flatten()[saliency.flatten().argsort()].diff() >= 0).all())


def test_a_gate_raises_the_energy_and_not_the_order():
    saliency = torch.rand(30, 30, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(30, 30, dtype=torch.bool)
    mask[5:15, 5:15] = True
    saliency[mask] += 0.5
    (ranked,) = gated(SimpleNamespace(size=(30, 30)), [0], explainer=shows(saliency), gate="otsu_ranked")
    assert ebpg(ranked, mask) > 1.2 * ebpg(saliency, mask)
    assert pixel_auc(ranked, mask) == pytest.approx(pixel_auc(saliency, mask), abs=1e-12)


def test_defined_cases_and_refusals():
    probe = SimpleNamespace(size=(2, 3))
    odd = MAP.clone()
    odd[0, 0] = math.nan
    constant, broken = gated(probe, [0, 1], explainer=shows(torch.full_like(MAP, 4), odd))
    assert torch.equal(constant, torch.zeros_like(MAP)) and torch.isnan(broken[0, 0])
    with pytest.raises(SuiteError, match="gate"):
        gated(probe, [0], explainer=shows(MAP), gate="otsu_harder")


def test_any_explainer_by_its_configuration():
    """The inner one keeps its own settings and name, those of the protocol among them."""
    word = "explainer=of_another/gated"
    (default,) = cells_of(word)
    assert (default.explainer.name, default.explainer.label) == ("gated_grad_cam", "Grad-CAM × its gate")
    (cell,) = cells_of(word, "explainer@explainer.inner=sise", "protocol.sise.mu=0.3")
    call = instantiate(cell.explainer.call)
    assert isinstance(call, functools.partial) and call.func is gated
    assert call.keywords["explainer"].keywords["mu"] == 0.3 and cell.explainer.stochastic is False
    (drawn,) = cells_of(word, "explainer@explainer.inner=rise")
    assert drawn.explainer.stochastic is True


def test_the_cells_of_the_experiment():
    cells = cells_of("experiment=gates", "model=vgg16")
    names = [f"{cell.explainer.name}/{cell.variant}" for cell in cells]
    assert {"sise/paper", "sise/gate-otsu_ranked", "grad_cam/paper", "gated_grad_cam/paper"} <= set(names)
    assert len(set(names)) == len(names)
    (inner,) = (cell for cell in cells if cell.explainer.name == "gated_full_grad")
    assert inner.departures == []  # a choice of a group, as shipped

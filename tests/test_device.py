"""The whole suite beside a pretended card (pretend_gpu.py): nothing mixes devices, and the records are the CPU's."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from functools import partial
from inspect import isfunction

import numpy as np
import pretend_gpu
import pytest
import torch
from checkout import ROOT
from compositions import composed
from pretend_gpu import CARD, DeviceMix
from toy import toy_model

import sise
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner
from sise.choices import PRECISIONS
from sise.errors import SuiteError
from sise.metrics import (
    bbox,
    confidences,
    curves,
    density,
    drop,
    ebpg,
    increase,
    miou,
    ordering,
    perturbation,
    pointing,
    regions,
    removals,
    road,
    sparseness,
)
from sise.probe.probe import Probe
from sise.scoring import Scorer, Segment
from sise.types import by_definition

EXPLAINERS = sorted(file.stem for file in (ROOT / "configs/explainer").glob("*.yaml"))
MEASURED = ("seconds", "session")


@pytest.fixture
def card():
    with pretend_gpu.card() as there:
        yield there


# ---------------------------------------------------------------------- the card refuses what a real one refuses


REFUSED = {
    "CPU and card": lambda x: x + torch.ones(3),
    "CPU and a card's scalar": lambda x: torch.ones(3) * x.sum(),
    "networks stay where they are": lambda x: torch.nn.Linear(3, 1)(x),
    "stacking a scalar of the CPU": lambda x: torch.stack([x[0], torch.tensor(1.0)]),
    "card indices on the CPU": lambda x: torch.ones(3)[torch.tensor([0], device=CARD)],
    "a card's mask on the CPU": lambda x: torch.ones(3)[x > 0],
    "CPU values into the card": lambda x: x.index_put_((torch.tensor([0, 1]),), torch.ones(2)),
    "assigned by index": lambda x: x.__setitem__(torch.tensor([0, 1]), torch.ones(2)),
    "scattered": lambda x: x.scatter_(0, torch.tensor([0]), 1.0),
    "compared": lambda x: torch.equal(x, torch.ones(3)),
    "an output of the CPU": lambda x: torch.mul(x, 2, out=torch.empty(3)),
    "a CPU generator": lambda x: torch.rand(3, device="cuda", generator=torch.Generator()),
    "the same in place": lambda x: x.normal_(generator=torch.Generator()),
    "another card": lambda x: x.to("cuda:1"),
    "NumPy": lambda x: x.numpy(),
    "NumPy unasked": lambda x: np.asarray(x),
    "a file": lambda x: torch.save(x, "/dev/null"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_card_refuses(what, card):
    if what not in ("another card", "a CPU generator", "card indices on the CPU"):
        REFUSED[what](torch.arange(3.0))  # nothing is wrong with it on the CPU
    with pytest.raises((RuntimeError, TypeError)):
        REFUSED[what](torch.arange(3.0, device="cuda"))


def test_the_card_takes_what_a_real_one_takes(card):
    x = torch.arange(3.0, device="cuda:0")
    assert x.device == CARD and x.is_cuda and x.get_device() == 0 and not x.is_cpu
    assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4]  # a CPU scalar, element by element
    assert x[torch.tensor([2, 0])].tolist() == [2, 0] and x[torch.tensor([True, False, False])].tolist() == [0]
    x[torch.tensor([1])] = torch.tensor(7.0)
    x[2:].copy_(torch.ones(1))
    assert x.cpu().numpy().tolist() == [0, 7, 1]
    assert torch.zeros_like(x).is_cuda and x.new_ones(2).is_cuda and not torch.zeros_like(x, device="cpu").is_cuda
    assert torch.ones(2).to(x).is_cuda and torch.ones(2, dtype=torch.int64).to(x).dtype == torch.float32
    view = x[1:]
    view.mul_(2)
    assert x.tolist() == [0, 14, 2] and torch.empty(3, device="cuda").copy_(x).is_cuda
    ten = torch.ones(3)
    assert ten.copy_(x) is ten and not ten.is_cuda and ten.tolist() == [0, 14, 2]


def test_the_card_counts_the_waits_for_it(card):
    x = torch.ones(3, device="cuda")
    assert card.waits == 0
    (x + 1).sum().relu()
    assert card.waits == 0
    float(x.sum()), x.cpu(), x.tolist(), bool(x.any()), torch.cuda.synchronize()
    assert card.waits == 5


def test_the_card_has_its_own_random_numbers(card):
    torch.manual_seed(3)
    cpu, state = torch.rand(4), torch.cuda.get_rng_state()
    on_card = torch.rand(4, device="cuda")
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4, device="cuda").cpu(), on_card.cpu()) and torch.equal(torch.rand(4), cpu)
    assert not torch.equal(on_card.cpu(), cpu)
    with torch.random.fork_rng(devices=[CARD]):
        torch.nn.functional.dropout(torch.ones(4, device="cuda"))
        assert not torch.equal(torch.cuda.get_rng_state(), state)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(4, device="cuda").cpu(), on_card.cpu())


def test_networks_on_the_card_compute_and_differentiate_as_on_the_cpu(card):
    network, image = toy_model().network, torch.rand(2, 3, 24, 32)
    expected = network(image.requires_grad_())
    (gradient,) = torch.autograd.grad(expected[:, 1].sum(), image)
    moved = copy.deepcopy(network).to("cuda")
    assert all(isinstance(p, torch.nn.Parameter) and p.is_cuda for p in copy.deepcopy(moved).parameters())
    assert not any(p.is_cuda for p in network.parameters()) and not any(p.is_cuda for p in moved.cpu().parameters())
    start = image.detach().clone().requires_grad_()
    got = moved.cuda()(start.to("cuda"))
    assert got.is_cuda and torch.equal(got.cpu(), expected)
    got[:, 1].sum().backward()
    assert not start.grad.is_cuda and torch.equal(start.grad, gradient)
    with pytest.raises(DeviceMix):
        moved(image)


def test_the_card_runs_out_of_memory():
    with pretend_gpu.card(memory=4 * 100) as card:
        torch.zeros(100, device="cuda").add_(1)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(101, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(100, device="cuda")[:, None].expand(100, 2).contiguous()
        assert card.memory == 400


def test_views_and_results_in_inference_mode(card):
    x = torch.ones(4, device="cuda")
    with torch.inference_mode():
        assert [len(part) for part in x.split(2)] == [2, 2] and not x[1:].is_inference() and (x + 1).is_inference()
    x[1:].mul_(2)
    assert x.tolist() == [1, 2, 2, 2]


def test_nothing_of_the_card_is_left_behind():
    available, overwrite = torch.cuda.is_available(), torch.__future__.get_overwrite_module_params_on_conversion()
    with pretend_gpu.card():
        assert torch.cuda.is_available()
    assert torch.cuda.is_available() == available
    assert torch.__future__.get_overwrite_module_params_on_conversion() == overwrite


# ---------------------------------------------------------------------- the runner, every explainer, every metric


def configuration(outputs, *words, broken=None, loader="toy.toy_model"):
    cfg = composed("evaluate", "budget=embedded", *words).copy()
    cfg.outputs, cfg.dataset.name, cfg.model.name = str(outputs), "toy", "toynet"
    cfg.dataset.loader = {"_target_": "toy.ToyDataset", "broken": broken}
    cfg.model.loader = {"_target_": loader}
    return cfg


def records_of(outputs, explainers, *words, limit=1):
    """Records of a run by (explainer, image, target), without what is measured."""
    configs = [configuration(outputs, f"explainer={name}", *words) for name in explainers]
    cells = run_cells.make_cells(configs)
    failed = runner.run(cells, limit=limit)
    found = {
        (cell.cfg.explainer.name, r["image_id"], r["target"]): {k: v for k, v in r.items() if k not in MEASURED}
        for cell in cells
        for r in cell.folder.read()
    }
    assert not failed, {key: (r["reason"], r["where"]) for key, r in found.items() if r["status"] != "ok"}
    return found


def beside_a_card(outputs, *arguments, **options):
    with pretend_gpu.card():
        return records_of(outputs / "card", *arguments, "device=cuda", "engine.batch_size=16", **options)


@pytest.mark.slow
def test_every_explainer_gives_the_cpus_records(tmp_path):
    expected = records_of(tmp_path / "cpu", EXPLAINERS, "device=cpu", "engine.batch_size=16")
    assert {name for name, *_ in expected} == set(EXPLAINERS)
    assert beside_a_card(tmp_path, EXPLAINERS) == expected


SETTINGS = {
    "the authors' protocol": ("explainer=sise", "protocol=authors"),
    "fills and confidences": ("explainer=score_cam", "protocol.fill=mean", "protocol.metric_fill=blur",
                              "protocol.metric_confidence=sigmoid", "protocol.confidence=logit"),
    "predicted classes": ("explainer=grad_cam", "protocol.targets=predicted"),
    "ranked ties": ("explainer=random", "metrics.ties=stable", "metrics.keep_rule=exact", "metrics.normalise=raw"),
    "an exact Extremal Perturbation": ("explainer=extremal_perturbation", "explainer.call.exact=true"),
    "a network as it is": ("explainer=sise", "engine.lossless=false"),
    "the field's metrics": ("explainer=grad_cam", "metrics=[field,consistency]", "metrics.blur_size=5"),
    "fp16": ("explainer=ada_sise", "engine.precision=fp16"),
    "bf16": ("explainer=rise", "engine.precision=bf16"),
    "tf32": ("explainer=sise", "engine.precision=tf32"),
}  # fmt: skip


@pytest.mark.parametrize("what", SETTINGS)
def test_every_setting_gives_the_cpus_records(what, tmp_path):
    explainer, *words = SETTINGS[what]
    name = explainer.partition("=")[2]
    expected = records_of(tmp_path / "cpu", [name], *words, "device=cpu", "engine.batch_size=16")
    assert beside_a_card(tmp_path, [name], *words) == expected


def test_what_is_cached_is_read_on_the_card(tmp_path, card, monkeypatch):
    words = ("device=cuda", "engine.batch_size=16")
    first = records_of(tmp_path, ["sise", "rise"], *words)
    monkeypatch.setattr(Scorer, "score", None)  # no masked pass any more
    again = records_of(tmp_path, ["sise", "rise"], *words, "variant=again")
    assert again == first and (tmp_path / ".scores").exists()


OF_MAPS = [
    ebpg,
    partial(ebpg, normalise="raw", zero="uniform"),
    miou,
    partial(miou, ties="stable"),
    bbox,
    partial(bbox, ties="stable"),
    pointing.pointing,
    regions.threshold_iou,
    regions.outside_inside_ratio,
    ordering.pixel_auc,
    ordering.average_precision,
]
OF_NETWORKS = [
    drop,
    partial(drop, rule="exact"),
    increase,
    curves.deletion,
    curves.insertion,
    curves.region_insertion,
    density.positive_density,
    density.negative_density,
    perturbation.morf,
    perturbation.lerf,
    removals.infidelity,
    removals.sensitivity_n,
    road.road,
    sparseness.sparseness,
    sparseness.complexity,
]


def public_functions(*modules):
    return {
        f
        for m in modules
        for name, f in vars(m).items()
        if isfunction(f) and f.__module__ == m.__name__ and name[0] != "_"
    }


def test_every_metric_gives_the_cpus_value(card):
    torch.manual_seed(0)
    network, image = toy_model().network, torch.rand(1, 3, 24, 32)
    saliency, region = torch.rand(24, 32), torch.zeros(24, 32, dtype=torch.bool)
    region[5:12, 7:20] = True
    # batches of one shape on both sides, as in runs: a batch of one image may round otherwise than a larger one does
    probe = Probe(network, image, scorer=Scorer(network, steady=True))
    known = {metric.func if isinstance(metric, partial) else metric for metric in OF_MAPS + OF_NETWORKS}
    parts = {pointing.point, pointing.hits, curves.curve, curves.blurred, curves.ranks, curves.over_maps, road.impute}
    parts |= {perturbation.cells, perturbation.means_of, perturbation.noise_of}
    parts |= {removals.squares, removals.sets_of_cells, removals.pearson}
    modules = curves, density, ordering, perturbation, pointing, regions, removals, road, sparseness
    assert public_functions(*modules) - known == parts
    expected = [m(saliency, region) for m in OF_MAPS]
    expected += [m(probe, 1, saliency) for m in OF_NETWORKS]
    there = Probe(copy.deepcopy(network).cuda(), image.cuda())
    pairs = [(m, (saliency.cuda(), region.cuda())) for m in OF_MAPS]
    pairs += [(m, (there, 1, saliency.cuda())) for m in OF_NETWORKS]
    values = [m(*arguments) for m, arguments in pairs]
    assert values == expected and not any(map(by_definition, values))
    assert confidences(there, 1, saliency.cuda()) == confidences(probe, 1, saliency)


def test_the_library_answers_on_the_images_device(card):
    network, image = toy_model().network, torch.rand(3, 24, 32)
    expected = sise.explain(network, image, target=[0, 2])
    moved = copy.deepcopy(network).cuda()
    got = sise.explain(moved, image.cuda(), target=[0, 2])
    assert got.is_cuda and torch.equal(got.cpu(), expected)
    with pytest.raises(SuiteError, match="the image is on cpu, the model on cuda:0"):
        sise.explain(moved, image)


# ---------------------------------------------------------------------- the engine's batches


def masks_of(count, device):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 24, 32, generator=generator).to(device)


@pytest.fixture
def segment(card):
    return lambda count: Segment(torch.full((1, 3, 24, 32), 0.5, device="cuda"), masks_of(count, "cuda"))


def test_a_little_work_is_done_in_one_size_and_much_in_the_fastest(segment, monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr("sise.scoring.time.perf_counter", lambda: clock["now"])
    scorer = Scorer(toy_model().network.cuda())
    run, sizes = scorer._run, []

    def timed(batch):
        sizes.append(len(batch))
        clock["now"] += 1.0 + 0.001 * len(batch) ** 1.5  # fastest per image between 128 and 256
        return run(batch)

    monkeypatch.setattr(scorer, "_run", timed)
    few = scorer.score([segment(100)])
    assert scorer.batch_size is None and set(sizes) == {64}  # the last one filled up: one shape, one search of kernels
    sizes.clear()
    many = scorer.score([segment(600)])
    assert scorer.batch_size == 128 and sizes[:12] == [32] * 4 + [64] * 4 + [128] * 4 and set(sizes[16:]) == {128}
    assert torch.allclose(few.cpu(), many[:100].cpu(), atol=1e-6)


def test_the_search_stops_where_memory_does(segment, card):
    scorer = Scorer(toy_model().network.cuda())
    scorer.score([segment(1)])
    card.memory = 200 * 6 * 24 * 32 * 4  # the first layer's output of 200 images
    assert len(scorer.score([segment(600)])) == 600 and scorer.batch_size <= 128


def test_out_of_memory_halves_the_batch_and_loses_nothing(segment, card, caplog):
    caplog.set_level(logging.WARNING)
    expected = Scorer(toy_model().network.cuda(), batch_size=8).score([segment(80)])
    scorer = Scorer(toy_model().network.cuda(), batch_size=64)
    card.memory = 80 * 3 * 24 * 32 * 4  # 80 images, 40 outputs of the first layer
    found = scorer.score([segment(80)])
    assert scorer.batch_size == 32 and "out of memory; batch size is now 32" in caplog.text
    assert torch.allclose(found.cpu(), expected.cpu(), atol=1e-6) and scorer.passes == 128  # 2 x 64, filled up
    card.memory = 1000
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score([segment(80)])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_batch_waits_for_the_card(segment, card, precision):
    scorer = Scorer(toy_model().network.cuda(), batch_size=16, precision=precision)
    scorer.score([segment(1)])
    before = card.waits
    scorer.score([segment(160)])
    assert card.waits == before


# ---------------------------------------------------------------------- commands


def command(*words):
    ended = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=pretend_gpu.environment(), capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_commands_and_their_measuring_processes(tmp_path):
    words = ["device=cuda", "engine.batch_size=16", f"outputs={tmp_path}"]
    command("scripts/evaluate.py", "explainer=grad_cam", "model=resnet50", "limit=1", *words)
    (entry,) = json.loads((tmp_path / "shapes/resnet50/grad_cam/paper/environment.json").read_text())
    assert entry["device"] == "Pretended Card"
    small = ["width=0.03125", "rounds=1", "masks=8", "networks=[vgg16]", "compile=false", f"results={tmp_path}/results"]
    command("scripts/performance.py", "parts=[engine]", *small, "device=cuda", f"outputs={tmp_path}")
    rows = (tmp_path / "results/performance_engine_pretended-card.csv").read_text()
    for kind in ("plain eager", "lossless", "lossless tf32", "lossless fp16", "lossless bf16"):
        assert f"VGG16,{kind},default," in rows

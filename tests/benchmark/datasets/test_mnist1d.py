"""MNIST-1D: the data, the course's shallow network and training, Keras's weights, and the experiment on curves."""

from __future__ import annotations

import copy
import random
import sys

import h5py
import numpy as np
import pytest
import torch
import yaml
from checkout import ROOT
from hydra import compose, initialize_config_dir
from torch.nn import functional

from sise.api import explain
from sise.baselines.grad_cam import grad_cam
from sise.benchmark.datasets import mnist1d
from sise.benchmark.figures import curves as figures_curves
from sise.benchmark.models import course_weights
from sise.benchmark.models import mnist1d as models_mnist1d
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import composing, runner
from sise.benchmark.tables import comparisons, make
from sise.benchmark.training import course
from sise.benchmark.training import mnist1d as training_mnist1d
from sise.errors import SuiteError
from sise.layers import find_layers
from sise.method import sise
from sise.probe.probe import Probe

COURSE = ROOT.parent / "shared" / "data" / "mnist1d" / "MNIST1D.h5"
needs_the_course = pytest.mark.skipif(not COURSE.exists(), reason="the course's weights are not here")


@pytest.fixture(scope="module")
def data():
    return mnist1d.MNIST1D()


@pytest.fixture(scope="module")
def model():
    return models_mnist1d.network()


# ------------------------------------------------------------------------------------------------ data


def generators():
    """Where the global random generators are."""
    _, key, position, *_ = np.random.get_state()
    return random.getstate(), key.tolist(), position


def test_the_curves_are_the_courses(data):
    random.random(), np.random.random()  # elsewhere than a generation leaves the generators
    before = generators()
    mnist1d.generate.__wrapped__()
    assert generators() == before
    assert data.verify_counts() == (True, "1000 curves") and len(mnist1d.MNIST1D("train")) == 4000
    assert data.ids[:2] == ("0000", "0001") and data.targets_of("0001") == (data.digits[1],)
    sample = data["0001"]
    assert sample.image.shape == (40,) and sample.masks.shape == (1, 40) and sample.masks.all()
    assert data.fingerprint() == mnist1d.MNIST1D().fingerprint() != mnist1d.MNIST1D("train").fingerprint()
    with pytest.raises(SuiteError, match="no image '1000'"):
        data["1000"]
    with pytest.raises(SuiteError, match=r"unknown part 'tset'.* Did you mean 'test'"):
        mnist1d.MNIST1D("tset")


def test_other_curves_are_noticed(data, monkeypatch):
    other = {key: np.roll(value, 1) if key == "y_test" else value for key, value in mnist1d.generate().items()}
    other["y_test"] = np.where(other["y_test"] == 3, 4, other["y_test"])
    monkeypatch.setattr(mnist1d, "generate", lambda: other)
    complete, why = mnist1d.MNIST1D().verify_counts()
    assert not complete and "other curves than the course's" in why


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(SuiteError, match=r"pip install -e '\.\[tutorial\]'"):
        mnist1d.generate.__wrapped__()


# ------------------------------------------------------------------------------------------------ network and weights


def test_the_shipped_network_recognises_the_digits(model):
    assert sum(p.numel() for p in model.network.parameters()) == 13_960
    right, count = course.accuracy(model.network, [training_mnist1d.tensors("test")])
    assert count == 1000 and abs(right - 928) <= 2  # a rounding may turn a curve or two
    assert "trained here (test accuracy 92.8 %)" in model.note and not model.official
    assert model.preprocess(np.arange(40.0)).shape == (1, 40) and model.layers == ("conv1d_2",)


def test_the_two_line_door_takes_curves(model, data):
    curve = model.preprocess(data["0000"].image)
    assert find_layers(model.network, (40,)) == model.layers
    saliency = explain(model.network, curve, data.digits[0])
    assert saliency.shape == (40,)
    torch.testing.assert_close(
        saliency, sise(Probe(model.network, curve[None], layers=model.layers), [data.digits[0]])[0]
    )


@needs_the_course
def test_the_courses_weights_load():
    model = models_mnist1d.network(COURSE)
    right, count = course.accuracy(model.network, [training_mnist1d.tensors("test")])
    assert model.official and "its own weights" in model.note
    assert abs(right - 877) <= 2 and count == 1000
    assert abs(course.accuracy(model.network, [training_mnist1d.tensors("train")])[0] - 3957) <= 4


def keras_file(path, network):
    """An HDF5 file as Keras writes it, of arrays of its own: (k, in, out), (in, out)."""
    rng = np.random.default_rng(0)
    arrays = {}
    with h5py.File(path, "w") as file:
        for layer, module in network.named_children():
            inner = module[0] if isinstance(module, torch.nn.Sequential) else module
            if not hasattr(inner, "weight"):
                file.create_group(f"model_weights/{layer}")
                continue
            shape = inner.weight.shape
            kernel = rng.normal(0, 0.2, (*shape[2:], shape[1], shape[0])).astype(np.float32)
            bias = rng.normal(0, 0.2, shape[0]).astype(np.float32)
            file[f"model_weights/{layer}/{layer}/kernel:0"], file[f"model_weights/{layer}/{layer}/bias:0"] = (
                kernel,
                bias,
            )
            arrays[layer] = kernel, bias
    return arrays


def keras_convolution(x, kernel, bias):
    """Places last but one, channels last, padded alike on both sides: what Keras calls "same"."""
    width = len(kernel) // 2
    padded = np.pad(x, ((width, width), (0, 0)))
    return np.maximum(sum(padded[i : i + len(x)] @ kernel[i] for i in range(len(kernel))) + bias, 0)


def test_keras_weights_compute_what_keras_computes(tmp_path):
    network = models_mnist1d.ShallowCNN().eval()
    arrays = keras_file(tmp_path / "w.h5", network)
    assert course_weights.load(network, tmp_path / "w.h5") == {}
    curve = np.random.default_rng(1).normal(size=40)
    x = curve[:, None]
    for layer in ("conv1d", "conv1d_1", "conv1d_2"):
        x = keras_convolution(x, *arrays[layer])
    expected = x.reshape(-1) @ arrays["dense"][0] + arrays["dense"][1]
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.tensor(curve).float()[None, None])[0], expected, rtol=1e-4, atol=1e-4)


def spoil(file, how, elsewhere):
    kernel = "model_weights/conv1d_1/conv1d_1/kernel:0"
    values = file[kernel][()]
    if how != "extra layer":
        del file[kernel]
    if how == "shape":
        file[kernel] = values[:1]
    elif how == "type":
        file[kernel] = values.astype(np.float64)
    elif how == "soft link":
        file[kernel] = h5py.SoftLink("/model_weights/conv1d/conv1d/kernel:0")
    elif how == "external link":
        file[kernel] = h5py.ExternalLink(str(elsewhere), kernel)
    elif how == "stored outside":
        elsewhere.with_suffix(".raw").write_bytes(values.tobytes())
        outside = [(str(elsewhere.with_suffix(".raw")), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset(kernel, values.shape, np.float32, external=outside)
    elif how == "virtual":
        layout = h5py.VirtualLayout(values.shape, np.float32)
        layout[:] = h5py.VirtualSource(str(elsewhere), kernel, values.shape)
        file.create_virtual_dataset(kernel, layout)
    elif how == "group":
        file.create_group(kernel)
    elif how == "extra layer":
        file["model_weights/dense_1/dense_1/bias:0"] = values


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "no 'conv1d_1/conv1d_1/kernel:0' of its own"),
        ("shape", r"is float32 \(1, 25, 25\), expected float32 \(3, 25, 25\)"),
        ("type", "is float64"),
        ("soft link", "of its own"),
        ("external link", "of its own"),
        ("stored outside", "no array stored in it"),
        ("virtual", "no array stored in it"),
        ("group", "no array stored in it"),
        ("extra layer", "weights for dense_1 too"),
    ],
)
def test_other_keras_files_are_refused(tmp_path, how, words):
    network = models_mnist1d.ShallowCNN()
    keras_file(tmp_path / "good.h5", network)
    keras_file(tmp_path / "bad.h5", network)
    with h5py.File(tmp_path / "bad.h5", "a") as file:
        spoil(file, how, tmp_path / "good.h5")
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(SuiteError, match=rf"bad.h5 is not a Keras HDF5 file of ShallowCNN .*{words}"):
        course_weights.load(network, tmp_path / "bad.h5")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_files_that_are_no_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "page.h5").write_text("<html>")
    (tmp_path / "noise.h5").write_bytes(bytes(range(256)))
    torch.save({"state_dict": {"dense.bias": torch.zeros(3)}}, tmp_path / "other.pt")
    for file, words in (
        ("page.h5", "web page"),
        ("noise.h5", "not a Keras HDF5 file"),
        ("other.pt", "does not fit ShallowCNN"),
        ("none.pt", "no such file"),
    ):
        with pytest.raises(SuiteError, match=words):
            models_mnist1d.network(tmp_path / file)
    with pytest.raises(SuiteError, match="unknown layer of the shallow network 'conv1d_3'"):
        models_mnist1d.network(layers=["conv1d_3"])
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SuiteError, match=r"needs h5py: pip install -e '\.\[tutorial\]'"):
        models_mnist1d.network(tmp_path / "noise.h5")


# ------------------------------------------------------------------------------------------------ training


def test_initial_weights_are_kerass():
    network = course.initialise(models_mnist1d.ShallowCNN(), 0)
    for layer, channels, filters, width in (("conv1d", 1, 25, 5), ("conv1d_1", 25, 25, 3)):
        limit = (6 / ((channels + filters) * width)) ** 0.5  # Glorot and Bengio 2010, eq. 16
        weight = network.get_submodule(layer)[0].weight.detach()
        assert 0.9 * limit < weight.abs().max() <= limit
        assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.1)
    assert float(network.dense.weight.detach().std()) == pytest.approx(0.5, rel=0.02)
    assert all(not p.detach().any() for name, p in network.named_parameters() if name.endswith("bias"))
    again, other = (course.initialise(models_mnist1d.ShallowCNN(), seed) for seed in (0, 1))
    assert torch.equal(again.dense.weight, network.dense.weight) and not torch.equal(
        other.dense.weight, again.dense.weight
    )


def test_a_step_is_sgd_on_cross_entropy_and_the_penalty_of_kernels():
    network = course.initialise(models_mnist1d.ShallowCNN(), 0)
    slow = copy.deepcopy(network)
    curves, digits = (part[:20] for part in training_mnist1d.tensors("test"))
    losses = []
    course.fit(network, [0, 1], lambda epoch: [(curves, digits)], lr=0.1, l2=0.01, after=lambda e, x: losses.append(x))
    for step in range(2):
        entropy = functional.cross_entropy(slow(curves), digits)
        assert losses[step] == pytest.approx(float(entropy.detach()))
        penalty = sum((p**2).sum() for name, p in slow.named_parameters() if name.endswith("weight"))
        parameters = list(slow.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(entropy + 0.01 * penalty, parameters), strict=True
        ):
            parameter.data -= 0.1 * gradient
    for quick, expected in zip(network.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(quick, expected)
    assert not network.training


def test_training_is_reproducible_and_says_what_it_made(tmp_path):
    said = []
    shares = [training_mnist1d.train(tmp_path / f"{n}.pt", epochs=1, seed=3, say=said.append) for n in "ab"]
    models = [models_mnist1d.network(tmp_path / f"{n}.pt") for n in "ab"]
    assert models[0].weights_hash == models[1].weights_hash and shares[0] == shares[1] > 0.15
    assert said[0] == said[1] and said[0].startswith("epoch 1 of 1: loss 2.")
    assert f"test accuracy {100 * shares[0]:.1f} %" in models[0].note
    with pytest.raises(SuiteError, match="above 0; got epochs=0"):
        training_mnist1d.train(tmp_path / "c.pt", epochs=0)
    with pytest.raises(SuiteError, match=r"the loss is .* in epoch 1; try a smaller training.lr"):
        training_mnist1d.train(tmp_path / "c.pt", epochs=1, lr=1e6)


# ------------------------------------------------------------------------------------------------ the experiment


def test_the_experiment_runs_on_curves(tmp_path):
    overrides = ["experiment=mnist1d", f"outputs={tmp_path / 'o'}", "engine.cache=false"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        configs = composing.compose_cells(compose("evaluate", overrides), overrides)
    for cfg in configs:
        assert cfg.departures == [] and cfg.protocol.name == "authors" and cfg.protocol.targets == "argmax"
        assert cfg.metrics.faithfulness["Drop%"].fraction == cfg.metrics.faithfulness["Increase%"].fraction == 0.30
        if cfg.explainer.name == "rise":
            assert cfg.explainer.call.n_masks == 4000
            cfg.explainer.call.n_masks = 40
    cells = run_cells.make_cells(configs)
    assert runner.run(cells, limit=3) == 0
    assert runner.run(cells, limit=3) == 0  # nothing is done twice
    for cell in cells:
        records = cell.folder.read()
        assert len(records) == 3 and all(0 <= r["Drop%"] <= 1 and r["Increase%"] in (0, 1) for r in records)
        assert not {"EBPG", "mIoU", "Bbox"} & set(records[0])
    definitions = {n: yaml.safe_load((ROOT / f"configs/table/{n}.yaml").read_text()) for n in ("mnist1d", "default")}
    files = make.tabulate(
        definitions, outputs=tmp_path / "o", results=tmp_path / "r", say=lambda _: None,
        published=ROOT / "results/published/published_results.csv", writers=[comparisons.write],
    )  # fmt: skip
    assert {f.name for f in files} == {
        f"mnist1d{end}" for end in (".csv", ".md", ".tex", "_statistics.csv", "_statistics.md")
    }
    text = (tmp_path / "r" / "mnist1d.md").read_text()
    assert "## mnist1d\n\n| Method | Drop% ↓ |" in text and "\n| SISE | " in text and "\n| Ada-SISE (text) | " in text
    assert "Status not published" in text and "RISE: budget: 40 masks (paper: 4000)" in text
    assert "Method − sise/authors" in (tmp_path / "r" / "mnist1d_statistics.md").read_text()


@pytest.mark.numeric
@needs_the_course
def test_curves_as_the_course_computes_them(tmp_path):
    """The first 100 of the 1000 curves behind results/mnist1d_course.csv."""
    overrides = ["experiment=mnist1d_course", f"model.root={COURSE.parent}", f"outputs={tmp_path}",
                 "engine.cache=false", "explainer=sise", "only=[mnist1d/mnist1d_course/sise/course]"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        (cell,) = run_cells.make_cells(composing.compose_cells(compose("evaluate", overrides), overrides))
    assert runner.run([cell], limit=100) == 0 and cell.identity()["weights_official"]
    records = cell.folder.read()
    assert len(records) == 100
    sure = [r["Increase%"] for r in records if r["confidence"] > 1 - 1e-6]  # of the last bit, which is the CPU's
    increased = sum(r["Increase%"] for r in records)
    assert increased - sum(sure) == 43 and len(sure) == 17 and 44 <= increased <= 46  # 49 in float64
    assert 100 * np.mean([r["Drop%"] for r in records]) == pytest.approx(12.47356, abs=5e-5)


def test_the_figure_has_a_curve_and_a_map_of_each_explainer_per_column(model):
    figure = figures_curves.draw(model, {"SISE": sise, "Grad-CAM": grad_cam}, ids=["0000", "0001"])
    assert len(figure.axes) == 2 * (1 + 2)
    (line,) = figure.axes[0].lines
    assert line.get_ydata().tolist() == pytest.approx(np.asarray(mnist1d.MNIST1D("test")["0000"].image).tolist())

"""Nothing stale passes for new: edited networks, their arguments and structure, stored scores, replaced images."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import logging
import shutil
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn
from torch.nn import functional as F
from toy import ToyDataset

from sise.benchmark.models.structure import structure_of
from sise.benchmark.records import code_version, store
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.image_hashes import ImageHashes, replaced_when_last_seen
from sise.benchmark.run import cells as run_cells
from sise.benchmark.run import runner, status
from sise.benchmark.run.score_cache import ScoreCache
from sise.benchmark.tables import runs
from sise.probe.probe import Contradiction, Probe

CONFIGS = str(ROOT / "configs")
NETWORK = """
from torch import nn
from {helper} import pool

class Net(nn.Module):
    def __init__(self, temperature=1.0):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.top = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)
        self.temperature = temperature

    def forward(self, x):
        return self.head(pool(self.top(self.stage(x)))) / self.temperature
"""
MEAN = "def pool(maps):\n    return maps.mean((2, 3))\n"


@pytest.fixture
def users(tmp_path, monkeypatch):
    """A user's network in a folder of its own: ``users.cells()`` makes a cell, ``users.write(...)`` edits files."""
    code = tmp_path / "code"
    code.mkdir()
    monkeypatch.chdir(code)
    monkeypatch.setattr(sys, "path", [*sys.path, str(code)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    class Users:
        name = f"net_{tmp_path.name}"
        helper = f"helper_{tmp_path.name}"

        def write(self, network=NETWORK, helper=MEAN):
            (code / f"{self.name}.py").write_text(network.format(helper=self.helper))
            (code / f"{self.helper}.py").write_text(helper)
            for name in (self.name, self.helper):  # as a new process would see it
                sys.modules.pop(name, None)
            importlib.invalidate_caches()
            forget()

        def cells(self, *overrides, args=None, outputs="o"):
            (tmp_path / "names.txt").write_text("red\ngreen\nblue\ngrey\n")
            given = [f"outputs={tmp_path / outputs}", "model=module", f"model.target={self.name}.Net", "explainer=sise",
                     f"model.classes={tmp_path / 'names.txt'}", *overrides]  # fmt: skip
            with initialize_config_dir(CONFIGS, version_base="1.3"):
                cfg = compose("evaluate", given)
            cfg.dataset.loader = {"_target_": "toy.ToyDataset", "broken": None}
            cfg.model.loader.args = args or {}
            cfg.model.loader.input = {"size": [24, 32]}
            return run_cells.make_cells([cfg])

    users = Users()
    users.write()
    yield users
    forget()


def forget():
    """What a new process would not know of the files."""
    for function in (
        code_version._tree,
        code_version._imported,
        code_version._texts,
        code_version._source_hash,
        code_version._places,
    ):
        function.cache_clear()


def values(cell):
    return [{k: v for k, v in r.items() if k not in ("seconds", "session")} for r in RunFolder(cell.path).read()]


@pytest.mark.parametrize("which", ["network", "helper"])
def test_an_edited_network_makes_its_records_stale_and_finds_no_stored_scores(users, which, caplog):
    (cell,) = users.cells()
    runner.run([cell], limit=2)
    before = values(cell)
    assert status.of_cell(cell, limit=2).stale == 0
    if which == "network":
        users.write(NETWORK.replace("pool(self.top", "3 * pool(self.top"))
    else:
        users.write(helper=MEAN.replace("mean", "amax"))
    (cell,) = users.cells()
    changed = users.name if which == "network" else users.helper
    runner.run([cell], limit=2)  # nothing missing, but said
    assert f"records were made by other code ({changed}.py changed since)" in caplog.text
    for found in (status.of_cell(cell, limit=2), *status.of_outputs(cell.cfg.outputs)):
        assert found.done == 0 and found.stale == len(before) and changed in found.reasons[0]
    folder = RunFolder(cell.path)
    assert changed in code_version.doubts(folder, store.read(folder).facts.good_sessions)[0]
    runner.run([cell], limit=2, overwrite=True)
    (fresh,) = users.cells(outputs="fresh")
    runner.run([fresh], limit=2)
    assert values(cell) == values(fresh) != before


READS = """
import json
from pathlib import Path

def pool(maps):
    return maps.mean((2, 3)) * json.loads((Path(__file__).parent / "settings/scale.json").read_text())
"""


def test_a_file_that_a_users_module_reads_at_run_time_is_watched(users, caplog):
    scale = Path("settings/scale.json")  # in the module's folder
    scale.parent.mkdir()
    scale.write_text("2")
    users.write(helper=READS)
    (cell,) = users.cells()
    runner.run([cell], limit=1)
    name, before = f"{users.helper}.py:settings/scale.json", values(cell)
    assert name in RunFolder(cell.path).environments()[0]["code"]
    assert status.of_cell(cell, limit=1).stale == 0
    scale.write_text("3")
    users.write(helper=READS)
    (cell,) = users.cells()
    runner.run([cell], limit=1)
    assert f"records were made by other code ({name} changed since)" in caplog.text
    for found in (status.of_cell(cell, limit=1), *status.of_outputs(cell.cfg.outputs)):
        assert found.done == 0 and found.stale == len(before) and name in found.reasons[0]
    runner.run([cell], limit=1, overwrite=True)  # finds no stored score
    assert values(cell) != before
    scale.unlink()
    assert status.of_folder(cell.path, cell.path.parent).stale == len(before)


def test_a_network_in_a_folder_without_init_is_watched_with_what_it_imports(users, tmp_path):
    folder = Path(f"nets_{tmp_path.name}")
    folder.mkdir()
    (folder / "net.py").write_text("from .parts import Net\n")
    (folder / "parts.py").write_text(NETWORK.format(helper=users.helper))
    forget()
    config = {"model": {"target": f"{folder}.net.Net"}}
    code = code_version.code_of(config)
    assert code.keys() >= {f"{folder}/net.py", f"{folder}/parts.py", f"{users.helper}.py"}
    (folder / "parts.py").write_text(NETWORK.replace("nn.ReLU()", "nn.SiLU()").format(helper=users.helper))
    forget()
    assert code_version._changed(code, code_version.code_of(config)) == (f"{folder}/parts.py",)


def test_a_file_that_a_setting_names_is_watched(users, tmp_path, caplog, monkeypatch):
    (cell,) = users.cells()
    runner.run([cell], limit=1)
    names, before = tmp_path / "names.txt", values(cell)
    assert status.of_cell(cell, limit=1).stale == 0
    original = Path.write_text
    swapped = {names: "green\nred\nblue\ngrey\n"}
    monkeypatch.setattr(Path, "write_text", lambda path, text, **how: original(path, swapped.get(path, text), **how))
    (cell,) = users.cells()
    runner.run([cell], limit=1)
    assert f"made by other code (model.classes={names}" in caplog.text
    for found in (status.of_cell(cell, limit=1), *status.of_outputs(cell.cfg.outputs)):
        assert found.done == 0 and found.stale == len(before) and str(names) in found.reasons[0]
    code = code_version.code_of(cell.identity()["config"])
    older = {name: digest for name, digest in code.items() if "=" not in name}  # of a version that did not look
    assert code_version._changed(older, code) == ()
    names.unlink()  # not here is not changed
    assert status.of_folder(cell.path, cell.path.parent).stale == 0


def test_only_files_beside_a_module_and_below_are_watched(users, tmp_path):
    (tmp_path / "above.json").write_text("1")
    Path("beside.json").write_text("1")
    names = ["../above.json", "beside.json", "none.json", "", "/", "a\0b", "b" * 300]
    users.write(helper=f"NAMES = {names!r}\n{MEAN}")
    config = {"model": {"target": f"{users.name}.Net"}}
    code = code_version.code_of(config)
    assert [name for name in code if ":" in name] == [f"{users.helper}.py:beside.json"]
    older = {name: digest for name, digest in code.items() if ":" not in name}  # of a version that did not look
    assert code_version._changed(older, code) == ()
    gone = f"{users.helper}.py:gone.json"
    assert code_version._changed({**code, gone: "0"}, code) == (gone,)


def test_comments_do_not_count_and_code_that_is_not_here_is_not_judged(users, tmp_path, monkeypatch):
    (cell,) = users.cells()
    runner.run([cell], limit=1)
    users.write(NETWORK + "# why\n")
    assert status.of_folder(cell.path, cell.path.parent).stale == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:-1])
    shutil.rmtree(tmp_path / "code")
    forget()
    assert status.of_folder(cell.path, cell.path.parent).stale == 0


def test_arguments_without_a_weight_change_the_scores_that_are_found(users):
    cells = {name: users.cells(f"variant={name}", args={"temperature": t})[0] for name, t in (("a", 1.0), ("b", 5.0))}
    for cell in cells.values():
        runner.run([cell], limit=2)
    (fresh,) = users.cells("variant=b", args={"temperature": 5.0}, outputs="fresh")
    runner.run([fresh], limit=2)
    assert values(cells["b"]) == values(fresh) != values(cells["a"])
    assert cells["a"].probe_key() != cells["b"].probe_key()
    both = [
        users.cells(f"variant={n}", args={"temperature": t}, outputs="both")[0] for n, t in (("a", 1.0), ("b", 5.0))
    ]
    runner.run(both, limit=2)
    assert [values(cell) for cell in both] == [values(cell) for cell in cells.values()]


def test_a_structure_that_no_setting_tells_of_is_noticed(users, caplog, monkeypatch):
    """A network that reads its temperature where nobody looks, as from a file."""
    (cell,) = users.cells()
    runner.run([cell], limit=1)
    monkeypatch.setattr(sys.modules[users.name].Net.__init__, "__defaults__", (4.0,))
    (cell,) = users.cells()
    runner.run([cell], limit=1)
    assert "(the network's structure changed since)" in caplog.text
    assert status.of_cell(cell, limit=1).stale == 2


def test_an_installed_package_edited_in_place_is_noticed(users, tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "installednet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .inner import Net\n")
    (package / "inner.py").write_text(NETWORK.format(helper=users.helper))
    monkeypatch.setattr(sys, "path", [*sys.path, str(package.parent)])
    importlib.invalidate_caches()
    forget()
    network = importlib.import_module("installednet").Net()
    config = {"model": {"_target_": "sise.benchmark.models.own.module", "target": "installednet.Net"}}
    code = code_version.code_of(config, network)
    assert {"installednet/__init__.py", "installednet/inner.py"} <= set(code) and f"{users.helper}.py" not in code
    assert code_version._changed(code, code_version.code_of(config)) == ()
    (package / "inner.py").write_text(NETWORK.format(helper=users.helper) + "\n# an edit\n")
    assert code_version._changed(code, code_version.code_of(config)) == ("installednet/inner.py",)
    sys.modules.pop("installednet"), sys.modules.pop("installednet.inner")


def network(**changes):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def replaced(index, module):
    made = network()
    made[index] = module
    return made


def with_(change):
    made = network()
    change(made)
    return made


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return x * self.factor


CHANGES = {
    "pooling": lambda: replaced(3, nn.MaxPool2d(2)),
    "activation": lambda: replaced(2, nn.SiLU()),
    "stride": lambda: with_(lambda n: setattr(n[4], "stride", (2, 2))),
    "dilation": lambda: with_(lambda n: setattr(n[4], "dilation", (2, 2))),
    "eps": lambda: with_(lambda n: setattr(n[1], "eps", 0.1)),
    "temperature": lambda: network(temperature=2.0),
    "another temperature": lambda: network(temperature=3.0),
    "private": lambda: network(_scale=(1, {"a": [2]})),
    "private, other": lambda: network(_scale=(1, {"a": [3]})),
    "tensor": lambda: network(prior=torch.ones(3)),
    "array": lambda: network(prior=np.ones(3)),
    "unsaved buffer": lambda: with_(lambda n: n.register_buffer("prior", torch.ones(4), persistent=False)),
    "function": lambda: network(act=F.relu),
    "another function": lambda: network(act=F.gelu),
    "lambda": lambda: network(act=lambda x: x * 2),
    "another lambda": lambda: network(act=lambda x: x * 3),
    "partial": lambda: network(act=functools.partial(F.leaky_relu, negative_slope=0.1)),
    "another partial": lambda: network(act=functools.partial(F.leaky_relu, negative_slope=0.2)),
    "method": lambda: network(act=Scale(2).times),
    "the method of another object": lambda: network(act=Scale(3).times),
    "hidden layer": lambda: network(parts=[nn.MaxPool2d(2)]),
    "another hidden layer": lambda: network(parts=[nn.MaxPool2d(3)]),
    "hidden weights": lambda: network(parts=[nn.Sequential(nn.PReLU(init=0.1))]),
    "other hidden weights": lambda: network(parts=[nn.Sequential(nn.PReLU(init=0.2))]),
    "sparse": lambda: network(prior=torch.eye(3).to_sparse()),
    "another sparse": lambda: network(prior=2 * torch.eye(3).to_sparse()),
    "queue": lambda: network(parts=deque([1])),
    "another queue": lambda: network(parts=deque([2])),
    "number of NumPy": lambda: network(temperature=np.float32(2)),
    "another number of NumPy": lambda: network(temperature=np.float32(3)),
    "bytes": lambda: network(code=bytearray(b"a")),
    "other bytes": lambda: network(code=bytearray(b"b")),
    "hook": lambda: with_(lambda n: n[2].register_forward_hook(lambda module, args, output: output * 2)),
}


def test_the_structure_tells_networks_of_equal_weights_apart():
    found = {name: structure_of(make()) for name, make in CHANGES.items()} | {"plain": structure_of(network())}
    assert len(set(found.values())) == len(found)
    assert found == {name: structure_of(make()) for name, make in CHANGES.items()} | {"plain": structure_of(network())}


def test_the_structure_survives_networks_that_hold_themselves():
    made = network()
    made.parts = [made, {"again": made}]
    made.parts.append(made.parts)
    assert structure_of(made) == structure_of(made)


class Toy(nn.Module):
    """Four scores; ``scale`` is in no state dictionary."""

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 4)
        self.scale = scale

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3))) * self.scale


def filled(scale=1.0, what=("layer", "bank", "whole")):
    torch.manual_seed(2)
    probe = Probe(Toy(scale).eval(), torch.rand(1, 3, 16, 16), layers=["features"])
    if "layer" in what:
        probe.masked_confidences("features", torch.arange(6), [1])
    if "bank" in what:
        probe.bank_confidences("bank", 0, bank(), [1])
    if "whole" in what:
        probe.score_masks(torch.ones(1, 16, 16, dtype=torch.bool))
    return probe


def bank(seed=3):
    return torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("what", ["layer", "whole"])
def test_stored_scores_that_are_not_the_networks_are_refused(what, tmp_path, caplog):
    cache = ScoreCache(tmp_path, "a key that forgot the scale")
    cache.save(filled(1.0, [what]), [1])
    assert cache.restore(filled(1.0, []))
    other = filled(1.01, [])
    with pytest.raises(Contradiction, match="differs from the stored one"):
        other.restore(filled(1.0, [what]).state([1]))
    assert other.state([1]).keys() - {"targets"} == {k for k in other.state([1]) if k.startswith("cost|")}
    with caplog.at_level(logging.WARNING):
        assert not cache.restore(filled(1.01, [])) and not cache.restore(filled(1.01, []))
    assert caplog.text.count("are not this network's") == 1


@pytest.mark.parametrize("change", ["network", "masks"])
def test_a_bank_of_another_network_or_other_masks_is_made_anew(change, caplog):
    state = filled(1.0, ["bank"]).state([1])
    probe = filled(1.01 if change == "network" else 1.0, [])
    masks = bank(4 if change == "masks" else 3)
    expected = filled(1.01 if change == "network" else 1.0, []).bank_confidences("bank", 0, masks, [1])
    probe.restore(state)
    with probe.bill() as bill:
        assert torch.equal(probe.bank_confidences("bank", 0, masks, [1]), expected)
    assert "are not used" in caplog.text and bill.forward == 1 + 5  # the image, and each mask once


def test_checks_are_billed_to_nobody():
    state = filled().state([1])
    probe, alone = filled(what=[]), filled(what=[])
    probe.restore(state)
    passes = probe.forward_passes
    bills = []
    for one in (probe, alone):
        with one.bill() as bill:
            one.masked_confidences("features", torch.arange(6), [1])
            one.bank_confidences("bank", 0, bank(), [1])
        bills.append((bill.forward, bill.backward))
    assert bills[0] == bills[1] and probe.forward_passes == passes


class FileDataset(ToyDataset):
    """The toy's images, as files in the current folder."""

    def picture_of(self, image_id):
        return Path(f"{image_id}.png").absolute()

    def __getitem__(self, image_id):
        sample = super().__getitem__(image_id)
        return dataclasses.replace(sample, image=Image.open(self.picture_of(image_id)).convert("RGB"))


def test_images_replaced_under_their_names_are_noticed_and_only_changed_files_are_read(users, caplog, monkeypatch):
    def made(outputs="o"):
        (cell,) = users.cells(outputs=outputs)
        cell.cfg.dataset.loader = {"_target_": f"{__name__}.FileDataset", "broken": None}
        return run_cells.make_cells([cell.cfg])[0]

    plain = ToyDataset(broken=None)
    for image_id in plain.ids:
        plain[image_id].image.save(f"{image_id}.png")
    cell = made()
    runner.run([cell], limit=3)
    assert all(len(r["image_hash"]) == 12 for r in RunFolder(cell.path).read())
    read = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))
    runner.run([made()], limit=3)
    assert runs.find_runs(cell.cfg.outputs)[0].replaced == 0
    assert "images that were replaced" not in caplog.text and not [name for name in read if name.endswith("png")]
    plain["05"].image.save("01.png")
    found = status.of_cell(made(), limit=3)
    assert found.stale == 1 and found.reasons == ("1 records of images that were replaced",)
    runner.run([made()], limit=3)
    assert "1 records are of images that were replaced since" in caplog.text
    assert [name for name in read if name.endswith("png")] == ["01.png"] * 2  # status keeps nothing
    (run,) = runs.find_runs(cell.cfg.outputs)  # reads no image
    assert (run.replaced, run.stale) == (1, True) and "1 records are of images that were REPLACED" in run.doubts[0]
    assert [name for name in read if name.endswith("png")] == ["01.png"] * 2
    Path("02.png").unlink()  # not here is not replaced
    assert status.of_cell(made(), limit=3).stale == 1


def test_the_datasets_of_files_name_theirs(tmp_path):
    from sise.benchmark.datasets.photos import Photos
    from sise.benchmark.datasets.shapes import Shapes

    for dataset in (Photos(), Shapes(tmp_path, test=2, progress=False)):
        hashes = ImageHashes(dataset, tmp_path)
        assert all(len(hashes.of(image_id)) == 12 for image_id in dataset.ids)
    assert ImageHashes(ToyDataset(), tmp_path).of("00") == ""


def test_hashes_that_an_older_version_kept_gain_their_images_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ToyDataset(broken=None)["00"].image.save("00.png")
    hashes = ImageHashes(FileDataset(), tmp_path)
    digest = hashes.of("00")
    hashes.keep()
    (index,) = (tmp_path / ".images").iterdir()
    kept = json.loads(index.read_text())
    index.write_text(json.dumps({place: entry[:4] for place, entry in kept.items()}))
    record = ("00", "0" * 12)
    assert replaced_when_last_seen({record: 2}, tmp_path / "run", FileDataset().name) == 0
    hashes = ImageHashes(FileDataset(), tmp_path)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("an image that is known was read"))
    assert hashes.of("00") == digest
    hashes.keep()
    assert json.loads(index.read_text()) == kept
    assert replaced_when_last_seen({record: 2, ("00", digest): 3}, tmp_path / "run", FileDataset().name) == 2


def test_code_of_explainers_and_metrics_is_seen_with_and_without_links_in_the_checkout():
    config = {name: {"_target_": name} for name in ("sise.baselines.rise.rise", "sise.metrics.curves.deletion")}
    found = code_version.code_of(config)
    assert {"sise/baselines/rise.py", "sise/baselines/common.py", "sise/metrics/curves.py"} <= found.keys()

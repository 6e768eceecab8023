"""Files from elsewhere never run code: every reader of the project gets files that would, and the source is searched.

Each malicious file, if its pickle were loaded, would create the file ``ran``.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from omegaconf import OmegaConf
from PIL import EpsImagePlugin
from toy import toy_model
from trees import write_coco, write_voc

from sise.benchmark.datasets import severstal
from sise.benchmark.datasets.coco2014 import COCO2014
from sise.benchmark.datasets.photos import Photos
from sise.benchmark.datasets.voc2007 import VOC2007
from sise.benchmark.models import architectures, torchray, torchvision
from sise.benchmark.models import severstal as models_severstal
from sise.benchmark.models import weights as models_weights
from sise.benchmark.run.score_cache import ScoreCache
from sise.benchmark.training import severstal as training_severstal
from sise.benchmark.training import severstal_confusion
from sise.errors import SuiteError
from sise.method import sise
from sise.probe.probe import Probe


@dataclasses.dataclass
class Payload:
    """Unpickling it creates a file."""

    path: Path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def ran(tmp_path):
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "the file ran its code"


# ---------------------------------------------------------------- malicious files


def zipped_checkpoint(file, payload):
    torch.save({"state_dict": {"w": torch.zeros(2), "evil": payload}}, file)


def old_checkpoint(file, payload):
    """As TorchRay's are stored."""
    torch.save({"w": torch.zeros(2), "evil": payload}, file, _use_new_zipfile_serialization=False)


def oldest_checkpoint(file, payload):
    """As before PyTorch 0.2: a tar archive of pickles, which PyTorch reads by another way."""
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(payload, protocol=2)
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))


def plain_pickle(file, payload):
    file.write_bytes(pickle.dumps(payload, protocol=2))


def object_array(file, payload):
    with file.open("wb") as data:
        np.save(data, np.array([payload], dtype=object), allow_pickle=True)


def object_arrays(file, payload):
    with file.open("wb") as data:
        np.savez(data, targets=np.array([payload], dtype=object))


def archive_that_escapes(file, payload):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"../{payload.path.name}", b"")
        archive.writestr(str(payload.path), b"")
        archive.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
        archive.writestr("archive/version", "3")


MALICIOUS = (
    zipped_checkpoint, old_checkpoint, oldest_checkpoint, plain_pickle, object_array, object_arrays,
    archive_that_escapes,
)  # fmt: skip


@pytest.mark.parametrize("make", [m for m in MALICIOUS if m is not archive_that_escapes])
def test_the_files_would_run_code(make, tmp_path):
    """What the tests below are worth: read carelessly, each of them does."""
    path = tmp_path / "ran"
    make(tmp_path / "file", Payload(path))
    if make in (object_array, object_arrays):
        found = np.load(tmp_path / "file", allow_pickle=True)
        [found[name] for name in getattr(found, "files", ())]  # those of an archive are read when asked for
    elif make is oldest_checkpoint:
        with tarfile.open(tmp_path / "file") as archive:
            pickle.load(archive.extractfile("pickle"))
    elif make is plain_pickle:
        pickle.loads((tmp_path / "file").read_bytes())
    else:
        torch.load(tmp_path / "file", weights_only=False)
    assert path.exists()


# ---------------------------------------------------------------- readers


def read_torchray(file, monkeypatch):
    torchray.torchray("resnet50", "voc", weights=file, allow_other_weights=True)


def read_torchvision(file, monkeypatch):
    torchvision.imagenet("squeezenet1_1", weights=file)


def read_safetensors(file, monkeypatch):
    pytest.importorskip("safetensors")
    torchvision.imagenet("squeezenet1_1", weights=file.rename(file.with_suffix(".safetensors")))


def read_severstal(file, monkeypatch):
    models_severstal.network("resnet18", weights=file)


def resume_training(file, monkeypatch):
    training_severstal._resume(file, training_severstal.Settings(), "data")


def evaluate_training(file, monkeypatch):
    severstal_confusion.evaluate(None, file, training_severstal.Settings(), device=torch.device("cpu"))


def read_shapes(file, monkeypatch):
    """Even where whoever wrote the file also wrote the hash that it must have."""
    file.rename(file.parent / "shapes_vgg16.pt")
    digest = hashlib.sha256((file.parent / "shapes_vgg16.pt").read_bytes()).hexdigest()
    facts = {"vgg16": {"sha256": digest, "architecture": {"width": 0.0625, "num_classes": 2}}}
    (file.parent / "shapes.json").write_text(json.dumps(facts))
    monkeypatch.setattr(architectures, "weights_folder", lambda: file.parent)
    architectures.load_shapes("vgg16")


@pytest.mark.parametrize("make", MALICIOUS)
@pytest.mark.parametrize(
    "read",
    [
        read_torchray,
        read_torchvision,
        read_safetensors,
        read_severstal,
        resume_training,
        evaluate_training,
        read_shapes,
    ],
)
def test_weights(read, make, tmp_path, ran, monkeypatch):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / "file", Payload(ran))
    # the last two only read what they wrote themselves: any error will do
    kind = Exception if read in (evaluate_training, read_shapes) else SuiteError
    with pytest.raises(kind):
        read(tmp_path / "in" / "file", monkeypatch)


def test_checkpoints_of_any_age_still_load(tmp_path):
    """TorchRay's date from 2019; tensors that PyTorch 0.3 saved are made by another function than today's."""

    class OldTensor:
        def __init__(self, tensor):
            self.tensor = tensor

        def __reduce__(self):
            storage = self.tensor._typed_storage()
            return torch._utils._rebuild_tensor, (storage, 0, tuple(self.tensor.shape), self.tensor.stride())

    weights = torch.arange(6.0).view(2, 3)
    torch.save({"w": OldTensor(weights)}, tmp_path / "oldest.pth.tar", _use_new_zipfile_serialization=False)
    torch.save({"w": weights}, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"w": weights}, "epoch": 3}, tmp_path / "new.pth")
    for name in ("oldest.pth.tar", "old.pth.tar", "new.pth"):
        assert torch.equal(models_weights.read_state(tmp_path / name)["w"], weights)


@pytest.mark.parametrize("make", MALICIOUS)
def test_cached_tile_means(make, tmp_path, ran, monkeypatch):
    dataset = object.__new__(severstal.Severstal)
    dataset.name, dataset.strips = "severstal", ("a.jpg",)
    monkeypatch.setattr(severstal.Severstal, "_means_of", lambda self, strip: np.full(6, 7.0))
    dataset._tile_means({"a.jpg": 5}, tmp_path / "cache", False)
    (file,) = (tmp_path / "cache").iterdir()
    file.unlink()
    make(file, Payload(ran))
    assert dataset._tile_means({"a.jpg": 5}, tmp_path / "cache", False).tolist() == [[7.0] * 6]
    np.save(file, np.full((1, 6), np.nan))
    assert dataset._tile_means({"a.jpg": 5}, tmp_path / "cache", False).tolist() == [[7.0] * 6]


def test_yaml(tmp_path, ran):
    file = tmp_path / "table.yaml"
    for text in (
        f"name: !!python/object/apply:os.mkdir [{ran}]",
        f"name: !!python/object/new:os.mkdir [{ran}]",
        "name: !!python/name:os.system",
    ):
        file.write_text(text)
        with pytest.raises(Exception, match="could not determine a constructor"):
            OmegaConf.load(file)


def test_pictures_start_no_program(tmp_path, monkeypatch):
    """Pillow has Ghostscript run PostScript, whatever the file's name says."""
    folder = write_voc(tmp_path, {"1": [("dog", (1, 1, 2, 2), False)]})
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 8\n%%EndComments\n(ran) (w) file closefile\n%%EOF\n"
    (folder / "JPEGImages" / "1.jpg").write_bytes(text)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was called"))
    with pytest.raises(SuiteError, match="not a readable image"):
        VOC2007(tmp_path)["1"]


def test_a_table_of_photos_imports_nothing(tmp_path, ran, monkeypatch):
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text(f"open({str(ran)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    header = "image_id,package,file,sha256,crop_x0,crop_y0,crop_x1,crop_y1,class,x0,y0,x1,y1,credit\n"
    for package in ("evil", "evil.sub", "../evil", "", "."):
        (tmp_path / "table.csv").write_text(f"{header}a,{package},b.jpg,00000000,,,,,tench,0,0,1,1,me\n")
        with pytest.raises(SuiteError):
            Photos(table=tmp_path / "table.csv")
    importlib.invalidate_caches()


def test_annotations_do_not_lead_out_of_their_folder(tmp_path):
    write_coco(tmp_path, [(42, 18, [0, 0, 2, 2], [[0, 0, 2, 0, 2, 2]], 0)])
    path = tmp_path / "annotations" / "instances_val2014.json"
    (tmp_path / "val2014" / "COCO_val2014_000000000042.jpg").rename(tmp_path / "secret.jpg")
    path.write_text(path.read_text().replace("COCO_val2014_000000000042.jpg", "../secret.jpg"))
    with pytest.raises(SuiteError, match=r"val2014/secret\.jpg, which does not exist"):
        COCO2014(tmp_path, verify=False)["000000000042"]


# ---------------------------------------------------------------- the score cache


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def explained(image, cache=None):
    """A probe that explained class 1, and the map; what the cache knows is restored first."""
    model = toy_model()
    probe = Probe(model.network, image, layers=model.layers)
    known = cache.restore(probe) if cache else None
    probe.bank_confidences("bank", 0, torch.rand(4, 24, 32, generator=torch.Generator().manual_seed(1)), [1])
    saliency = sise(probe, [1])
    probe.score_masks(saliency > 0.5)
    return probe, saliency, known


def _change(name, change):
    def damage(state):
        (key,) = [key for key in state if key.startswith(name)][:1]
        state[key] = change(state[key].copy())

    return damage


def _entry(index, value):
    def change(array):
        array.reshape(-1)[index] = value
        return array

    return change


DAMAGE = {
    "no targets": lambda state: state.pop("targets"),
    "unknown target": _change("targets", _entry(0, 99)),
    "negative target": _change("targets", _entry(0, -1)),
    "targets are no list": _change("targets", lambda a: a[None]),
    "rows beyond the layer": _change("rows|stage3", _entry(-1, 10**6)),
    "negative rows": _change("rows|stage3", _entry(0, -1)),
    "rows twice": _change("rows|stage3", _entry(1, 0)),
    "rows that would fill the memory": _change("rows|bank", _entry(-1, 10**12)),
    "a gap in a bank": _change("rows|bank", _entry(-1, 7)),
    "rows without scores": _change("rows|stage3", lambda a: a[:-1]),
    "another layer": lambda state: state.update({"rows|nowhere|bilinear": np.arange(3)}),
    "no logsumexp": lambda state: [state.pop(k) for k in list(state) if k.startswith("logsumexp")],
    "infinite scores": _change("scores|stage3", _entry(0, np.inf)),
    "unknown logsumexp": _change("logsumexp|stage3", _entry(0, np.nan)),
    "text": _change("scores|stage3", lambda a: a.astype(str)),
    "complex": _change("logsumexp|stage3", lambda a: a.astype(complex)),
    "short gradients": _change("gradient|stage3", lambda a: a[:-1]),
    "unknown gradients": _change("gradient|stage3", _entry(0, np.nan)),
    "kept scores of other classes": _change("kept scores", lambda a: a[:, :-1]),
    "kept scores of other masks": _change("kept masks", lambda a: np.concatenate([a, a])),
    "short digests": _change("kept masks", lambda a: a[:, :-1]),
    "cost without end": _change("cost", _entry(0, np.inf)),
    "name without parts": lambda state: state.update({"gradient|stage3": np.zeros(10, np.float32)}),
}


@pytest.fixture(scope="module")
def plain(image):
    return explained(image)[1]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_score_cache_is_computed_anew(damage, image, plain, tmp_path, caplog):
    cache = ScoreCache(tmp_path, "toy")
    probe, _, known = explained(image, cache)
    assert known is False
    cache.save(probe, [1])
    _, saliency, known = explained(image, cache)
    assert known is True and torch.equal(saliency, plain)
    state = probe.state([1])
    DAMAGE[damage](state)
    with cache.file(image).open("wb") as file:
        np.savez(file, **state)
    probe, saliency, known = explained(image, cache)
    assert known is False and torch.equal(saliency, plain)
    assert "cannot be read" in caplog.text and cache.file(image).name in caplog.text
    fresh = explained(image)[0]
    assert probe.forward_passes == fresh.forward_passes  # nothing of the file was used


@pytest.mark.parametrize("make", MALICIOUS)
def test_a_score_cache_that_would_run_code(make, image, plain, tmp_path, ran):
    cache = ScoreCache(tmp_path, "toy")
    cache.file(image).parent.mkdir()
    make(cache.file(image), Payload(ran))
    _, saliency, known = explained(image, cache)
    assert known is False and torch.equal(saliency, plain)


def test_a_score_cache_that_would_fill_the_memory(image, plain, tmp_path):
    cache = ScoreCache(tmp_path, "toy")
    cache.file(image).parent.mkdir()
    with cache.file(image).open("wb") as file:
        np.savez_compressed(file, targets=np.zeros(10**7, np.int64))
    assert cache.file(image).stat().st_size < 10**6
    assert explained(image, cache)[2] is False
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(cache.file(image), "w") as archive:
        archive.writestr("targets.npy", header.getvalue())
    _, saliency, known = explained(image, cache)
    assert known is False and torch.equal(saliency, plain)


# ---------------------------------------------------------------- the source

#: Calls that run what they read, or unpack it anywhere.
DANGEROUS = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads",
    "shelve.open", "dill.load", "joblib.load", "cloudpickle.load", "cloudpickle.loads", "pd.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load", "shutil.unpack_archive",
    "tarfile.open", "zipfile.ZipFile", "torch.hub.load_state_dict_from_url",
}  # fmt: skip

#: Modules that open only pictures which the suite drew itself.
DRAWN_HERE = {"provenance.py", "results.py"}


def test_no_reader_of_the_project_trusts_a_file():
    found, readers = [], 0
    for folder in ("sise", "baselines", "metrics", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                unsafe = name in DANGEROUS
                unsafe |= name == "torch.load" and options.get("weights_only") != "True"
                unsafe |= name == "np.load" and options.get("allow_pickle", "False") != "False"
                unsafe |= name == "torch.hub.download_url_to_file" and "hash_prefix" not in options
                unsafe |= name == "Image.open" and "formats" not in options and path.name not in DRAWN_HERE
                unsafe |= options.get("shell") == "True"
                readers += name in ("torch.load", "np.load", "Image.open")
                found += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}"] if unsafe else []
    assert not found, f"{found}: read it safely, or say here why it is safe"
    assert readers >= 8

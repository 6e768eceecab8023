"""The preflight: findings on fabricated machines and data."""

from functools import partial

import pytest
import torch
import trees
from checkout import ROOT
from doctor_settings import settings
from hydra import initialize_config_dir

from sise.benchmark.datasets import published_counts
from sise.benchmark.doctor import checks, course, machine, material
from sise.benchmark.doctor import finding as doctor_finding
from sise.benchmark.models import mnist1d, torchray
from sise.benchmark.tables.published import read_published
from sise.errors import SuiteError

SHARED = ROOT.parent / "shared" / "data"
write_voc = partial(trees.write_voc, size=(120, 80))


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


# --- preflight --------------------------------------------------------------------------------------------------------


class TestChecks:
    def test_the_embedded_default_is_ready_without_any_data(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        monkeypatch.setattr(machine, "_available_memory", lambda: 8 * 2**30)
        assert checks.run(settings(tmp_path), [])
        out = capsys.readouterr().out
        lines = [line for line in out.splitlines() if line and not line.startswith(" ")]
        states = {line.split()[0] for line in lines[:-1]}
        assert states <= set(doctor_finding.STATES) - {"broken"} and "ready for the embedded default" in lines[-1]
        for topic in ("voc2007", "coco2014", "severstal", "torchray_voc", "torchray_coco"):
            assert any(line.startswith("missing") and f"{topic}:" in line for line in lines), topic
        assert "roots.voc2007=<folder>" in out and "CC BY-NC 4.0" in out and "fbaipublicfiles" in out
        assert out.count("of the shapes, 20 scores") == 2

    def test_required_data_is_an_error(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(checks, "check", lambda cfg: iter([
            doctor_finding.Finding("voc2007", "missing", "none"), doctor_finding.Finding("gpu", "ok", "one"),
            doctor_finding.Finding("coco2014", "warning", "half")]))  # fmt: skip
        assert checks.run(settings(tmp_path, "require=[gpu]"), [])
        assert not checks.run(settings(tmp_path, "require=[gpu,voc2007]"), [])
        assert "not ready: voc2007;" in capsys.readouterr().out
        assert not checks.run(settings(tmp_path, "require=[coco2014]"), [])
        with pytest.raises(SuiteError, match="voc2007"):
            checks.run(settings(tmp_path, "require=[voc2008]"), [])

    def test_broken_is_an_error_without_being_required(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checks, "check", lambda cfg: iter([doctor_finding.Finding("packages", "broken", "torch")]))
        assert not checks.run(settings(tmp_path), [])

    def test_versions(self):
        assert machine.python().state == "ok" and machine.python(">=3.99").state == "broken"
        found = list(machine.packages(["torch>=99", "no-such-package-at-all>=1", "numpy>=1"]))
        assert [f.state for f in found] == ["broken", "broken", "ok"]
        assert "needs >=99" in found[0].found and found[1].advice == "pip install 'no-such-package-at-all>=1'"
        assert all(f.state == "ok" for f in machine.packages())

    def test_room(self, tmp_path):
        gib = 2**30
        states = [f.state for f in machine.room(tmp_path / "not" / "yet", disk=9 * gib, memory=9 * gib)]
        assert states == ["ok", "ok"]
        assert [f.state for f in machine.room(tmp_path, disk=gib, memory=2 * gib)] == ["warning", "warning"]
        assert [f.state for f in machine.room(tmp_path, disk=1, memory=1)] == ["broken", "broken"]
        assert "GiB free" in next(machine.room(tmp_path / "not" / "yet")).found

    def test_folders(self, tmp_path):
        (tmp_path / "file").write_text("")
        fine, broken = machine.folders(tmp_path / "new", tmp_path / "file" / "results")
        assert fine.state == "ok" and broken.state == "broken" and "results=<folder>" in broken.advice
        assert list((tmp_path / "new").iterdir()) == []

    def test_compiler(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
        assert machine.compiler().state == "missing" and machine.compiler(wanted=True).state == "broken"
        (tmp_path / "g++").write_text("#!/bin/sh\n")
        (tmp_path / "g++").chmod(0o755)
        assert machine.compiler().state == "ok"

    def test_device_without_a_gpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(machine, "_driver", lambda: None)
        assert machine.device().state == "missing"
        monkeypatch.setattr(machine, "_driver", lambda: "999.1")
        assert machine.device().state == "warning" and "999.1" in machine.device().found

    def test_damaged_embedded_network(self, monkeypatch):
        def damaged(name, trained_on):
            raise SuiteError(f"the {name} of the shapes could not be loaded")

        monkeypatch.setattr(torchray, "torchray", damaged)
        found = list(material.embedded())
        assert [f.state for f in found] == ["broken"] * 2 and "reinstall" in found[0].advice

    def test_partial_data_is_a_warning(self, tmp_path):
        write_voc(tmp_path, {"000001": [("dog", (1, 1, 50, 50), False)]})
        found = {f.topic: f for f in material.data(settings(tmp_path, f"roots.voc2007={tmp_path}"))}
        assert found["voc2007"].state == "warning" and "1 of 4952 images" in found["voc2007"].found
        assert found["coco2014"].state == "missing" and "roots.coco2014=<folder>" in found["coco2014"].advice
        here = settings(tmp_path, "dataset=voc2007", f"dataset.root={tmp_path}")
        assert {f.topic: f.state for f in material.data(here)}["voc2007"] == "warning"

    def test_the_courses_weights_are_known_by_what_its_notebooks_print(self, tmp_path, monkeypatch):
        published = read_published(ROOT / "results/published/published_results.csv")
        weights = tmp_path / "MNIST1D.h5"
        check = partial(material._course, "mnist1d", "curves", weights, published)
        assert check(course.mnist1d_confidences).state == "missing"
        weights.write_bytes(b"no weights")
        assert check(course.mnist1d_confidences).state == "warning"
        ours = mnist1d.network()  # of the same architecture, trained here
        monkeypatch.setattr(mnist1d, "network", lambda weights: ours)
        other = check(course.mnist1d_confidences)
        assert other.state == "warning" and "have another confidence than the course's notebooks print" in other.found
        printed = course.printed_confidences(published, "mnist1d")
        assert printed == {8: 0.9999453, 20: 0.9623548} and len(course.printed_confidences(published, "hmt")) == 11
        same = check(lambda root, numbers: [course.Confidence(8, 0.9999453, 0.9999453 + 4e-6)])
        assert same.state == "ok" and same.found.endswith("print, to 4.0e-06")
        assert check(lambda root, numbers: [course.Confidence(8, 0.9999453, 0.9999453 + 6e-6)]).state == "warning"

    @pytest.mark.skipif(not (SHARED / "hmt").exists(), reason="the course's weights are not here")
    def test_the_course_itself_is_recognised(self, tmp_path):
        here = settings(tmp_path, f"roots.hmt={SHARED / 'hmt'}", f"roots.mnist1d={SHARED / 'mnist1d'}")
        found = {f.topic: f for f in material.data(here)}
        assert (found["hmt"].state, found["mnist1d"].state) == ("ok", "ok"), (found["hmt"], found["mnist1d"])
        right, saturated, count = course.right_and_saturated(mnist1d.network(SHARED / "mnist1d/MNIST1D.h5"))
        assert abs(right - 877) <= 1 and abs(saturated - 162) <= 3 and count == 1000  # a rounding may turn a curve
        assert f"the softmax of {saturated} of 1000 is 1" in found["mnist1d"].found

    def test_severstal_counts(self, tmp_path, monkeypatch):
        (tmp_path / "train_images").mkdir()
        (tmp_path / "train_images" / "a.jpg").write_bytes(b"")
        (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 2\n")
        assert material._severstal(str(tmp_path)).state == "warning"
        monkeypatch.setitem(published_counts.tables(), ("severstal", "images with a defect"), {"": 1})
        assert material._severstal(str(tmp_path)).state == "ok"

    def test_weights(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "vgg16_voc-b050e8c3.pth.tar").write_bytes(b"something else")
        found = [f for f in material.weights(settings(tmp_path)) if f.topic.startswith("torchray")]
        assert [(f.topic, f.state) for f in found] == [
            ("torchray_voc", "missing"), ("torchray_voc", "warning"), ("torchray_coco", "missing")]  # fmt: skip
        assert "resnet50_voc-9ca920d6" in found[0].found and "vgg16" not in found[0].found
        assert "expected b050e8c3" in found[1].found and "fbaipublicfiles" in found[2].advice
        (tmp_path / "resnet.pth").write_bytes(b"something")
        digests = {"vgg16_voc-b050e8c3.pth.tar": "b050e8c3" + "0" * 56, "resnet.pth": "9ca920d6" + "0" * 56}
        monkeypatch.setattr(material, "file_hash", lambda path: digests[path.name])
        given = settings(tmp_path, "dataset=voc2007", f"weights.resnet50={tmp_path}/resnet.pth")
        assert [f.state for f in material.weights(given)][:2] == ["ok", "missing"]

    def test_files_that_cannot_be_read_end_in_a_line(self):
        def refused():
            raise PermissionError("not yours")

        found = material._counted("voc2007", refused, "look elsewhere")
        assert found.state == "warning" and "PermissionError: not yours" in found.found

    def test_complete_data_and_weights_lead_to_the_audits(self, tmp_path, monkeypatch, capsys):
        fine = [doctor_finding.Finding("voc2007", "ok", ""), doctor_finding.Finding("torchray_voc", "ok", "")]
        monkeypatch.setattr(checks, "check", lambda cfg: iter(fine))
        assert checks.run(settings(tmp_path, "roots.voc2007=/there"), [])
        assert "audit=all dataset=voc2007 dataset.root=/there" in capsys.readouterr().out
        monkeypatch.setattr(
            checks, "check", lambda cfg: iter([*fine, doctor_finding.Finding("torchray_voc", "missing", "")])
        )
        checks.run(settings(tmp_path), [])
        assert "audit=all" not in capsys.readouterr().out


@pytest.mark.parametrize(("error", "state", "words"), [(0.0, "ok", "to the last bit"), (3e-7, "warning", "3.0e-07")])
def test_places_of_a_batch_are_measured_on_this_machine(monkeypatch, error, state, words):
    cpu = torch.device("cpu")
    assert machine.batch_places(cpu).state == "ok"  # conftest and the commands set what MKL needs
    monkeypatch.setattr(machine.Scorer, "check_places", lambda self, image: error)
    finding = machine.batch_places(cpu)
    assert finding.state == state and words in finding.found

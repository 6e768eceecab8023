"""Your own images: scripts/explain.py on the toy network of toy.py, and sise.explain from Python."""

from __future__ import annotations

import copy
import errno
import functools
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn
from torch.nn import functional
from toy import CLASSES, ToyNetwork, toy_model

import sise
from sise.baselines.grad_cam import grad_cam
from sise.baselines.integrated_gradients import integrated_gradients
from sise.baselines.rise import rise
from sise.benchmark.commands import explain as commands_explain
from sise.benchmark.explain import asked, explanation, pictures, session
from sise.benchmark.explain import files as explain_files
from sise.benchmark.models import mnist1d
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.run import preparing
from sise.errors import SuiteError
from sise.layers import find_layers
from sise.metrics import keep_mask
from sise.probe.probe import Probe


def picture(height=40, width=56, seed=0):
    """A red box on noise."""
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width, 3), dtype=np.uint8)
    pixels[10:25, 20:40, 0] = 250
    return Image.fromarray(pixels)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Runs the script's function on the toy network: how many images failed."""

    def run(*overrides, model=toy_model):
        given = [f"out={tmp_path}/out", *overrides]
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            configs = asked.compose_explainers(given)
            cfg = compose("explain", given)
        monkeypatch.setattr(session, "instantiate", lambda node: model())
        return explain_files.run(cfg, configs)

    return run


def about(folder):
    return json.loads((folder / "explanation.json").read_text())


# ------------------------------------------------------------------------------------------------ one image


def test_the_files_hold_the_map_of_the_best_class(ask, tmp_path, capsys):
    picture().save(tmp_path / "box.png")
    assert ask(f"image={tmp_path}/box.png") == 0
    folder, model = tmp_path / "out" / "box", toy_model()
    pixels = model.preprocess(picture())[None]
    with torch.no_grad():
        confidences = model.network(pixels)[0].double().softmax(0)
    best = int(confidences.argmax())
    probe = Probe(model.network, pixels, layers=model.layers)
    expected = sise.sise(probe, [best], gate="otsu_soft")[0]
    assert torch.equal(expected, sise.explain(model.network, pixels, layers=model.layers))  # the other door's
    stem = f"sise_{best}_{CLASSES[best]}"
    saliency = np.load(folder / f"{stem}_map.npy")
    assert saliency.dtype == np.float32 and torch.equal(torch.from_numpy(saliency), expected)
    with np.load(folder / f"{stem}_layers.npz") as layers:
        assert list(layers) == list(model.layers)
        alone = sise.sise(probe, [best], gate="otsu_soft", layers=["stage2"])[0]
        assert torch.equal(torch.from_numpy(layers["stage2"]), alone)
    with Image.open(folder / f"{stem}_map.png") as at_size:
        assert at_size.size == (56, 40)
        resized = functional.interpolate(expected[None, None], (40, 56), mode="bilinear", align_corners=False)[0, 0]
        np.testing.assert_allclose(np.asarray(at_size) / 65535, resized.numpy(), atol=1 / 65535)
    for name in (f"{stem}.png", f"{stem}_layers.png"):
        with Image.open(folder / name) as shown:
            assert shown.mode == "RGB" and (shown.size == (56, 40)) == (name == f"{stem}.png")
    found = about(folder)
    assert [one["confidence"] for one in found["top"]] == pytest.approx(sorted(confidences.tolist(), reverse=True))
    assert found["layers"] == list(model.layers) and (found["height"], found["width"]) == (40, 56)
    (one,) = found["maps"]
    assert (one["class"], one["target"], one["explainer"]) == (CLASSES[best], best, "sise")
    with torch.no_grad():
        kept = model.network(pixels * keep_mask(expected))[0].softmax(0)[best]
    assert one["confidence_of_top_15_percent"] == pytest.approx(float(kept), abs=1e-6)
    assert sorted(one["files"] + ["explanation.json"]) == sorted(f.name for f in folder.iterdir())
    out = capsys.readouterr().out
    assert "layers:  stage1, stage2, stage3; CAM methods read stage3" in out
    assert f"{float(confidences[best]):.4f}  {CLASSES[best]} ({best})" in out and f"{stem}.png" in out


def test_several_classes_and_explainers_make_one_panel(ask, tmp_path, monkeypatch):
    sheets = []
    save = pictures.Rows.save
    monkeypatch.setattr(
        pictures.Rows, "save", lambda self, path, *a: sheets.append((path.name, self)) or save(self, path, *a)
    )
    picture().save(tmp_path / "box.png")
    options = ["explainer=[sise,grad_cam,rise]", "explainer.call.n_masks=20", "explainer.call.mu=0.2"]
    assert ask(f"image={tmp_path}/box.png", "target=[grey,0]", *options) == 0
    folder = tmp_path / "out" / "box"
    maps = about(folder)["maps"]
    assert [(m["target"], m["explainer"]) for m in maps] == [
        (t, e) for t in (3, 0) for e in ("sise", "grad_cam", "rise")
    ]
    assert maps[0]["options"]["mu"] == 0.2 and maps[2]["options"]["n_masks"] == 20 and "mu" not in maps[1]["options"]
    (panel,) = (sheet for name, sheet in sheets if name.endswith("panel.png"))  # saved as a draft
    assert sum(bool(axes.images) for axes in panel.figure.axes) == 2 * (1 + 3) + 1  # and the colours' legend
    words = [text.get_text() for text in panel.figure.texts]
    assert {"grey", "red", "SISE", "Grad-CAM", "RISE"} <= set(words) and "RISE: 20 masks" in " ".join(words)
    for one in maps:
        assert f"Ψ {pictures.short(one['confidence_of_top_15_percent'])} from its top 15 %" in words
    model = toy_model()
    probe = Probe(model.network, model.preprocess(picture())[None], layers=model.layers)
    np.testing.assert_array_equal(np.load(folder / "grad_cam_3_grey_map.npy"), grad_cam(probe, [3])[0].numpy())


def test_a_second_command_keeps_the_maps_of_the_first(ask, tmp_path):
    picture().save(tmp_path / "box.png")
    image, folder = f"image={tmp_path}/box.png", tmp_path / "out" / "box"
    assert ask(image, "target=0", "explainer=[sise,grad_cam]") == 0
    first = {f.name: np.load(f) for f in folder.glob("*.npy")}
    (folder / "mine.txt").write_text("kept")
    assert ask(image, "target=0", "explainer=rise", "explainer.call.n_masks=20") == 0
    assert ask(image, "target=0", "explainer=sise", "explainer.call.mu=0.3") == 0  # other settings, other names
    assert ask(image, "target=0", "explainer=[sise,rise]", "explainer.call.n_masks=20") == 0  # another panel
    for name, saliency in first.items():  # SISE's was made again: a pass in another batch may round differently
        np.testing.assert_allclose(np.load(folder / name), saliency, atol=1e-5)
    found = about(folder)
    assert [m["stem"] for m in found["maps"]] == ["sise_0_red", "grad_cam_0_red", "rise_0_red", "sise_0_red-2"]
    assert [m["options"]["mu"] for m in found["maps"] if m["explainer"] == "sise"] == [0.0, 0.3]
    assert [p["file"] for p in found["panels"]] == ["panel.png", "panel-2.png"]
    files = {name for one in found["maps"] for name in one["files"]} | {"panel.png", "panel-2.png"}
    assert {f.name for f in folder.iterdir()} == files | {"explanation.json", "mine.txt"}


def test_the_same_command_again_overwrites_its_own_files_only(ask, tmp_path):
    picture().save(tmp_path / "box.png")
    folder = tmp_path / "out" / "box"
    for _ in range(2):
        assert ask(f"image={tmp_path}/box.png", "target=[0,1]", "explainer=grad_cam") == 0
    names = sorted(f.name for f in folder.iterdir())
    assert len(about(folder)["maps"]) == 2 and "panel.png" in names and not any("-2" in name for name in names)


def test_photos_of_one_name_do_not_share_a_folder(ask, tmp_path):
    for number, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        picture(seed=number).save(tmp_path / folder / "pet.png")
        assert ask(f"image={tmp_path}/{folder}/pet.png", "target=0", "explainer=grad_cam") == 0
    out = tmp_path / "out"
    assert about(out / "pet")["sha256"] != about(out / "pet-2")["sha256"]
    assert ask(f"image={tmp_path}/a/pet.png", "target=0", "explainer=grad_cam") == 0
    assert sorted(f.name for f in out.iterdir() if f.is_dir()) == ["pet", "pet-2"]


def test_a_folder_of_somebody_else_is_left_alone(ask, tmp_path):
    picture().save(tmp_path / "box.png")
    folder = tmp_path / "out" / "box"
    folder.mkdir(parents=True)
    (folder / "panel.png").write_text("mine")
    (folder / "explanation.json").write_text("[]")
    assert ask(f"image={tmp_path}/box.png", "target=2", "explainer=grad_cam") == 0
    assert (folder / "panel.png").read_text() == "mine" and about(tmp_path / "out" / "box-2")["maps"]
    old = about(tmp_path / "out" / "box-2")
    old["maps"][0]["stem"] = "../../evil"
    (tmp_path / "out" / "box-2" / "explanation.json").write_text(json.dumps(old))
    assert ask(f"image={tmp_path}/box.png", "target=2", "explainer=grad_cam") == 0
    assert not list(tmp_path.glob("evil*")) and not list(tmp_path.glob("out/evil*"))


def test_pictures_called_like_the_folder_above_stay_below_out(ask, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("...png", "..png"):
        picture().save(tmp_path / "in" / name, "PNG")
    assert ask(f"image={tmp_path}/in", "target=0", "explainer=grad_cam") == 0
    assert sorted(f.name for f in (tmp_path / "out").iterdir() if f.is_dir()) == ["___png", "__png"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["in", "out"]


def test_one_picture_has_a_bar_of_its_passes(ask, tmp_path, monkeypatch):
    states = []

    class Watched(session.Progress):
        def update(self, n=1):
            states.append((self.desc, self.n + n, self.total))
            return super().update(n)

    monkeypatch.setattr(session, "Progress", Watched)
    picture().save(tmp_path / "box.png")
    options = ["explainer=[sise,rise]", "explainer.call.n_masks=50", "target=0"]
    assert ask(f"image={tmp_path}/box.png", *options) == 0
    rise_states = [state for state in states if state[0] == "RISE"]
    assert rise_states[-1] == ("RISE", 50, 50) and all(total == 50 for _, _, total in rise_states)
    assert any(desc == "SISE" for desc, _, _ in states) and all(done <= total for _, done, total in states)


def test_a_network_of_curves_is_refused(ask, tmp_path):
    picture().save(tmp_path / "box.png")
    with pytest.raises(SuiteError, match="model=mnist1d sees none"):
        ask(f"image={tmp_path}/box.png", model=mnist1d.network)


def test_an_empty_map_is_said(ask, tmp_path, capsys):
    def flat():
        model = toy_model()
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.zero_()
        return model

    picture().save(tmp_path / "box.png")
    assert ask(f"image={tmp_path}/box.png", model=flat) == 0
    assert "an empty map: no evidence found" in capsys.readouterr().out
    assert not np.load(tmp_path / "out" / "box" / "sise_0_red_map.npy").any()


# ------------------------------------------------------------------------------------------------ images


def test_a_damaged_image_does_not_stop_the_others(ask, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    picture(seed=1).save(folder / "a.png")
    picture(seed=2).convert("L").save(folder / "c.JPG")
    picture(seed=3).resize((3, 2)).save(folder / "a.gif")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no image")
    assert ask(f"image={folder}", "explainer=grad_cam") == 1
    assert sorted(f.name for f in (tmp_path / "out").iterdir() if f.is_dir()) == ["a.gif", "a.png", "c"]
    captured = capsys.readouterr()
    assert f"{folder / 'b.png'} failed: " in captured.err and "not a readable image" in captured.err
    assert "3 of 4 images explained" in captured.out and "4/4" in captured.err


class Gelu(ToyNetwork):
    """Has no rule for RAP."""

    def forward(self, x):
        return functional.gelu(super().forward(x))


def gelu_model():
    model = toy_model()
    model.network.__class__ = Gelu
    return model


def test_an_explainer_that_refuses_does_not_stop_the_others(ask, tmp_path, capsys):
    for name in "ab":
        picture().save(tmp_path / f"{name}.png")
    images = f"image=[{tmp_path}/a.png,{tmp_path}/b.png]"
    assert ask(images, "target=0", "explainer=[grad_cam,rap,gradient]", model=gelu_model) == 2
    for name in "ab":
        folder = tmp_path / "out" / name
        found = about(folder)
        assert [one["explainer"] for one in found["maps"]] == ["grad_cam", "gradient"]
        files = [file for one in found["maps"] for file in one["files"]]
        assert sorted([*files, "panel.png", "explanation.json"]) == sorted(f.name for f in folder.iterdir())
    captured = capsys.readouterr()
    line = f"error: RAP made no map of {tmp_path}/a.png and 1 other images: gelu of the network (Gelu) has no rule"
    assert captured.err.count("error:") == 1 and line in captured.err
    assert "2 of 2 images explained, 2 of them not by every explainer" in captured.out
    assert ask(f"image={tmp_path}/a.png", "target=0", "explainer=rap", f"out={tmp_path}/none", model=gelu_model) == 1
    assert f"{tmp_path}/a.png failed: RAP: gelu" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_first_picture(ask, tmp_path, monkeypatch):
    picture().save(tmp_path / "box.png")
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr(explain_files, "explain_image", lambda *_: pytest.fail("it was explained"))
    with pytest.raises(OSError, match="out"):
        ask(f"image={tmp_path}/box.png")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_full_disk_stops_all_pictures(ask, tmp_path, monkeypatch):
    asked_for = []

    def full(explaining, path, folder, targets):
        asked_for.append(path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        picture().save(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(explain_files, "explain_image", full)
    with pytest.raises(SuiteError, match=r"disk of .*out is full, at .*a\.png; the maps of the images before it"):
        ask(f"image={tmp_path}/in")
    assert len(asked_for) == 1 and not (tmp_path / "out").exists()


def test_a_setting_out_of_range_is_refused_before_the_first_picture(ask, tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(SuiteError, match=r"^explainer=rise: expected n_masks to be int from 1; got n_masks=0"):
        ask(f"image={tmp_path}/a.png", "explainer=[grad_cam,rise]", "explainer.call.n_masks=0")
    assert not (tmp_path / "out").exists()


def test_two_commands_at_once_on_one_picture_list_the_maps_of_both(tmp_path, monkeypatch):
    picture().save(tmp_path / "box.png")
    monkeypatch.setattr(session, "instantiate", lambda node: toy_model())
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        both = [session.Explaining(asked.compose_explainers([f"explainer={e}"])) for e in ("grad_cam", "gradient")]
    folder = tmp_path / "out" / "box"

    def command(explaining):
        explain_files.explain_image(explaining, tmp_path / "box.png", folder, [0])

    other = threading.Thread(target=command, args=both[1:])
    read = explanation.read

    def read_meanwhile(path):
        found = read(path)
        if not other.ident and path == folder:  # between the first command's reading and its writing
            other.start()
            other.join(1.0)
            assert other.is_alive()
        return found

    monkeypatch.setattr(explanation, "read", read_meanwhile)
    command(both[0])
    other.join()
    assert [one["explainer"] for one in about(folder)["maps"]] == ["grad_cam", "gradient"]
    assert {file for one in about(folder)["maps"] for file in one["files"]} < {f.name for f in folder.iterdir()}
    assert not [f for f in folder.iterdir() if f.name.startswith(".")]


def test_which_images():
    with pytest.raises(SuiteError, match="image=<file or folder>"):
        asked.image_files(None)
    with pytest.raises(SuiteError, match="no such file or folder"):
        asked.image_files("nowhere.jpg")
    with pytest.raises(SuiteError, match=r"holds no image .*\.png"):
        asked.image_files(str(ROOT / "configs"))
    assert asked.image_files([str(ROOT / "README.md"), str(ROOT / "Makefile")])[1].name == "Makefile"


def test_links_that_lead_nowhere_are_said(tmp_path, caplog):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.jpg").mkdir()
    assert asked.image_files(str(tmp_path)) == [tmp_path / "a.jpg"]
    assert "2 of 3 pictures left out, links that lead nowhere (the first: b.jpg)" in caplog.text


def test_a_name_that_is_not_utf8_is_kept(tmp_path):
    name = os.fsdecode(b"\xff.jpg")
    explanation.write(tmp_path, {"image": name, "maps": []})
    assert explanation.read(tmp_path)["image"] == name


def test_folders_of_images_never_meet():
    files = [Path(p) for p in ("x/a.png", "x/a.jpg", "x/b.png", "y/c.png", "z/c.png")]
    assert [f.name for f in explain_files._folders(files, Path("o"))] == ["a.png", "a.jpg", "b", "c.png", "c.png-4"]


def test_images_are_turned_and_brought_to_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    image.save(tmp_path / "turned.png", exif=exif)
    turned = asked.read_picture(tmp_path / "turned.png")
    assert turned.size == (2, 4) and turned.getpixel((1, 0)) == (255, 0, 0)
    Image.fromarray(np.full((2, 3), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert asked.read_picture(tmp_path / "deep.png").getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(SuiteError, match="not a readable image"):
        asked.read_picture(ROOT / "README.md")


def test_a_map_goes_back_to_where_the_network_saw_it():
    saliency = torch.arange(16.0).view(4, 4)
    assert torch.equal(Preprocessing((4, 4)).restore_map(saliency, (4, 4)), saliency)
    whole = Preprocessing((4, 4)).restore_map(saliency, (8, 4))
    assert whole.shape == (8, 4) and whole[0].tolist() == saliency[0].tolist()
    crop = Preprocessing((4, 4), geometry="center_crop", resize=6)
    assert torch.equal(crop.restore_map(saliency, (6, 8)), functional.pad(saliency, (2, 2, 1, 1)))
    longer = Preprocessing((4, 4), geometry="shorter_side")
    assert torch.allclose(longer.restore_map(torch.ones(4, 6), (40, 60)), torch.ones(40, 60))


# ------------------------------------------------------------------------------------------------ targets


def test_targets_by_name_and_index():
    names = ("tabby", "tiger cat", "Tiger", "crane", "crane", "7")
    find = functools.partial(asked.find_targets, classes=names)
    assert find(None) is None and find(2) == [2] and find("2") == [2] and find("TIGER CAT") == [1]
    assert find(["tiger", 0, "tabby"]) == [2, 0] and find("7") == [5]  # a name comes first
    with pytest.raises(SuiteError, match=r"nearest are: tiger cat \(1\)"):
        find("cat")
    with pytest.raises(SuiteError, match=r"Tiger \(2\)"):
        find("tigre")
    with pytest.raises(SuiteError, match="none is near"):
        find("xylophone")
    with pytest.raises(SuiteError, match=r"2 classes are called so; give an index: \[3, 4\]"):
        find("crane")
    for index in (6, -1):
        with pytest.raises(SuiteError, match="classes 0 to 5"):
            find(index)


def test_a_number_that_is_no_index_is_no_target():
    with pytest.raises(SuiteError, match=r"target=2\.5: the network has no class"):
        asked.find_targets(2.5, ["a", "b", "c"])
    with pytest.raises(SuiteError, match="names no class"):
        asked.find_targets([], ["a", "b", "c"])


def test_a_wrong_target_stops_before_the_first_image(ask, tmp_path):
    picture().save(tmp_path / "box.png")
    with pytest.raises(SuiteError, match=r"the nearest are: red \(0\)"):
        ask(f"image={tmp_path}/box.png", "target=redd")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ the embedded network


def test_the_embedded_network_sees_a_cat(tmp_path, capsys):
    skimage = pytest.importorskip("skimage")
    cat = Path(skimage.__file__).parent / "data" / "chelsea.png"
    given = [f"image={cat}", f"out={tmp_path}", "explainer=grad_cam", "target=tiger cat"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        assert explain_files.run(compose("explain", given), asked.compose_explainers(given)) == 0
    found = about(tmp_path / "chelsea")
    assert found["top"][0]["class"] == "Egyptian cat" and found["top"][0]["confidence"] > 0.5
    assert "layers:  _blocks.0, _blocks.2, _blocks.4, _blocks.10, _bn1" in capsys.readouterr().out
    saliency = np.load(tmp_path / "chelsea" / "grad_cam_282_tiger_cat_map.npy")
    assert saliency.shape == (224, 224) and saliency[:, :160].sum() > 5 * saliency[:, 200:].sum()  # the cat is left


def test_the_script_says_what_it_needs(monkeypatch, capsys):
    monkeypatch.setattr(preparing, "prepare_process", lambda engine: None)  # of the tests' own process
    monkeypatch.setattr("sys.argv", ["scripts/explain.py", "device=cpu"])
    with pytest.raises(SystemExit) as end:
        commands_explain.main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and "image=<file or folder>" in said and "Traceback" not in said


def test_help_shows_examples_and_groups():
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("explain", return_hydra_config=True)
    assert "image=cat.jpg explainer=" not in cfg.hydra.help.header
    assert "explainer=[sise,grad_cam,rise]" in cfg.hydra.help.footer and "$CONFIG" in cfg.hydra.help.template


# ------------------------------------------------------------------------------------------------ from Python


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ToyNetwork().eval()


@pytest.fixture
def image():
    return torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(1))


class TestFromPython:
    def test_it_is_sise_of_the_best_class_on_the_layers_found(self, network, image):
        probe = Probe(network, image[None], layers=find_layers(network, (24, 32)))
        best = int(probe.scores().argmax())
        saliency = sise.explain(network, image)
        assert saliency.shape == (24, 32) and saliency.dtype == torch.float32 and not saliency.requires_grad
        assert saliency.min() == 0 and saliency.max() == 1
        assert torch.equal(saliency, sise.sise(probe, [best])[0])

    def test_targets_and_shapes(self, network, image):
        """Another number of targets is another number of masks per batch, which may change the last bits of scores."""
        one = sise.explain(network, image[None], 2)
        assert one.shape == (24, 32)
        for several in ([2, 0], (2, 0), torch.tensor([2, 0]), [torch.tensor(2), np.int64(0)]):
            assert torch.allclose(sise.explain(network, image, several)[0], one, rtol=0, atol=2e-6)
        assert sise.explain(network, image, [2]).shape == (1, 24, 32)
        assert torch.equal(sise.explain(network, image, torch.tensor(2)), one)

    @pytest.mark.parametrize("wrong", [4, -1, "red", 1.5, True, None])
    def test_targets_that_are_no_class(self, network, image, wrong):
        with pytest.raises(SuiteError, match="no class index: the model scores classes 0 to 3"):
            sise.explain(network, image, [wrong])
        with pytest.raises(SuiteError, match="empty"):
            sise.explain(network, image, [])

    def test_the_model_comes_back_as_it_was(self, network, image):
        network.train()
        network.stage2.eval()
        network.head.weight.requires_grad_(False)
        network.head.bias.grad = torch.ones(4)
        network.stage1[0].register_forward_hook(lambda *a: None)
        state, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
        given, random = image.clone(), torch.get_rng_state()
        for target in (0, 99):  # the second fails
            with pytest.raises(SuiteError) if target == 99 else torch.enable_grad():
                sise.explain(network, image, target)
            assert [m.training for m in network.modules()] == modes
            assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()].count(0) == len(
                modes
            ) - 1
            assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
            assert [name for name, p in network.named_parameters() if p.grad is not None] == ["head.bias"]
            assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["head.weight"]
        assert torch.equal(image, given) and not image.requires_grad and torch.equal(torch.get_rng_state(), random)
        assert torch.equal(sise.explain(network, image, 0), sise.explain(network.eval(), image, 0))

    def test_inside_of_no_grad_and_inference_mode(self, network, image):
        expected = sise.explain(network, image, 1)
        with torch.no_grad():
            assert torch.equal(sise.explain(network, image, 1), expected)
        with torch.inference_mode():
            assert torch.equal(sise.explain(network, image + 0, 1), expected)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (torch.zeros(2, 3, 24, 32), "one image at a time: .* a batch of 2"),
            (torch.zeros(24, 32), r"one image of shape \(C, H, W\) or a batch of one, got \(24, 32\)"),
            (torch.zeros(3, 0, 32), "expected one image"),
            (torch.zeros(3, 24, 32, dtype=torch.uint8), "the image is torch.uint8"),
            (torch.zeros(3, 24, 32, dtype=torch.float64), r"image.float\(\)"),
            (torch.zeros(3, 24, 32, device="meta"), "the image is on meta, the model on cpu"),
            (np.zeros((3, 24, 32), np.float32), "got ndarray"),
            (torch.zeros(1, 24, 32), r"does not run on one image of \(1, 24, 32\)"),
        ],
    )
    def test_images_that_do_not_fit(self, network, wrong, message):
        with pytest.raises(SuiteError, match=message):
            sise.explain(network, wrong, 0)

    def test_models_that_do_not_fit(self, network, image):
        with pytest.raises(SuiteError, match=r"explain model.float\(\)"):
            sise.explain(copy.deepcopy(network).half(), image, 0)
        double = copy.deepcopy(network).double()
        with pytest.raises(SuiteError, match=r"image is torch.float64.* so is the model: .*deepcopy\(model\).float"):
            sise.explain(double, image.double(), 0)
        with pytest.raises(SuiteError, match=r"parameters are of torch.float32 and torch.float64: convert them all"):
            sise.explain(nn.Sequential(network, nn.Linear(4, 3).double()), image, 0)
        with pytest.raises(SuiteError, match="single score"):
            sise.explain(nn.Sequential(network, nn.Linear(4, 1)), image)
        single = nn.Sequential(network, nn.Linear(4, 1)).eval()
        assert sise.explain(single, image, confidence="sigmoid").max() == 1

    @pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_weights_computed_in_the_pass(self, network, image, norm):
        """They carry a graph after a pass with gradients, and could not be copied then."""
        explainers = (sise.sise, integrated_gradients)
        expected = [sise.explain(network, image, 1, explainer=e) for e in explainers]
        norm(network.stage2[0])
        network(image[None])
        for explainer, saliency in zip(explainers, expected, strict=True):
            torch.testing.assert_close(sise.explain(network, image, 1, explainer=explainer), saliency)

    def test_networks_without_gradients(self, network, image):
        class Silent(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = network

            def forward(self, x):
                with torch.no_grad():
                    return self.inner(x)

        with pytest.raises(SuiteError, match=r"no gradient with respect to 'inner.stage1'.*torch.no_grad\(\)"):
            sise.explain(Silent(), image, 1)
        partly = copy.deepcopy(network)
        partly.stage2.register_forward_hook(lambda module, given, output: output.detach())
        with pytest.raises(SuiteError, match="no gradient with respect to 'stage2'"):
            sise.explain(partly, image, 1)

        class Idle(Silent):
            def __init__(self):
                super().__init__()
                self.aside = nn.Conv2d(3, 2, 3)

            def forward(self, x):
                self.aside(x)
                return self.inner(x)

        with pytest.raises(SuiteError, match="no gradient with respect to 'aside'"):
            sise.explain(Idle(), image, 1, layers=["inner.stage1", "aside"])
        with pytest.raises(SuiteError, match="the network it was scripted or traced from"):
            sise.explain(torch.jit.trace(network, image[None]), image, 1)

    def test_layers_and_explainers(self, network, image):
        probe = Probe(network, image[None], layers=["stage2"])
        assert torch.equal(sise.explain(network, image, 1, layers="stage2"), sise.sise(probe, [1])[0])
        cam = sise.explain(network, image, 1, explainer=grad_cam)
        assert torch.equal(cam, grad_cam(Probe(network, image[None], layers=["stage3"]), [1])[0])
        with pytest.raises(SuiteError, match="Did you mean 'stage2'"):
            sise.explain(network, image, 1, layers=["stag2"])
        with pytest.raises(SuiteError, match=r"'head' puts out \(1, 4\)"):
            sise.explain(network, image, 1, layers=["head"])

    def test_odd_sizes_grey_and_signals(self, image):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
                                 nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))  # fmt: skip
            line = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 6, 3), nn.ReLU(),
                                 nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3))  # fmt: skip
        for size in ((23, 31), (8, 8), (9, 50)):
            found = sise.explain(grey, torch.rand(1, *size, generator=torch.Generator().manual_seed(2)))
            assert found.shape == size and found.isfinite().all() and found.max() > found.min()
        signal = torch.rand(2, 41, generator=torch.Generator().manual_seed(2))
        found = sise.explain(line, signal, [0, 1, 2])
        assert found.shape == (3, 41) and found.isfinite().all() and found.amax() == 1
        with pytest.raises(SuiteError, match=r"\(C, L\)"):
            sise.explain(line, signal[None, None], 0)

    def test_a_transformer_says_what_to_do(self):
        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches, self.block, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

            def forward(self, x):
                return self.head(self.block(self.patches(x).flatten(2).mT).mean(1))

        with torch.random.fork_rng():
            torch.manual_seed(0)
            tokens = Tokens()
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
        with pytest.raises(SuiteError, match=r"tokens \(N, L, C\).*RISE.*layers=\[\]"):
            sise.explain(tokens, image)
        with pytest.raises(SuiteError, match=r"'block' puts out \(1, 16, 8\); expected a layer of feature maps"):
            sise.explain(tokens, image, layers=["block"])
        found = sise.explain(tokens, image, 1, explainer=functools.partial(rise, n_masks=30), layers=[])
        assert found.shape == (32, 32) and found.max() == 1
        with pytest.raises(SuiteError, match="SISE needs at least one layer"):
            sise.explain(tokens, image, 1, layers=[])

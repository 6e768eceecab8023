"""What the package says of itself."""

from __future__ import annotations

import tomllib

import yaml
from checkout import ROOT

import sise


def test_version_and_licence_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert sise.__version__ == project["version"] == citation["version"]
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_every_package_is_installed():
    """A folder with ``__init__.py`` that pyproject does not list would be missing from the wheel alone."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [setup["package-dir"].get(name, name.replace(".", "/")) for name in setup["packages"]]
    found = {
        str(path.parent.relative_to(ROOT))
        for top in ("sise", "baselines", "metrics")
        for path in (ROOT / top).rglob("__init__.py")
    }
    links = {str(path.relative_to(ROOT)) for path in (ROOT / "sise").iterdir() if path.is_symlink()}
    assert links <= {"sise/baselines", "sise/metrics"}  # what make install links: not the top level's folders once more
    data = {"configs", "results/published", "hydra_plugins"}  # packages without Python's file
    assert sorted(folders) == sorted(found - links | data)

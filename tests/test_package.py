"""What the package says of itself."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import sise

ROOT = Path(__file__).parents[1]


def test_version_and_licence_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert sise.__version__ == project["version"] == citation["version"]
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()

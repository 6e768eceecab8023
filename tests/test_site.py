"""The pages of docs/ are a site, and every link in it leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from checkout import ROOT

for package in ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter"):
    pytest.importorskip(package, reason="the extra docs is not installed")

FETCHED = re.compile(r'(?:src|link href)="(https?:[^"]+)')
"""What a page would load from elsewhere."""


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    reference = (tmp_path / "reference.html").read_text(encoding="utf-8")
    for name in ("sise.explain", "sise.overlay", "sise.sise", "sise.Probe"):
        assert f'id="{name}"' in reference, name
    assert "Raises" in reference and ":func:" not in reference
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "SISE benchmark" in front and 'href="explain.html"' in front
    assert (tmp_path / "results/hmt.html").is_file() and (tmp_path / "results/figures/gallery.jpg").is_file()
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html")]
    assert len(pages) > 12 and not [found for page in pages for found in FETCHED.findall(page)]

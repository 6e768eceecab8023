"""Scripts run the code of their own checkout, whatever other one the environment has installed."""

import subprocess
import sys

import pytest
from checkout import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_checkouts_own_code_comes_first(script):
    text = script.read_text()
    own = text.index("sys.path[0] = str(Path(__file__).resolve().parents[1])")
    ours = [text.find(f"\n{word} {package}") for word in ("from", "import") for package in ("sise", "baselines")]
    assert all(own < place for place in ours if place >= 0) and any(place >= 0 for place in ours)


def test_a_copied_script_does_not_run_the_installed_package(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "sise").mkdir()
    (tmp_path / "sise" / "__init__.py").write_text("raise SystemExit('the code beside the script')")
    script = tmp_path / "scripts" / "status.py"
    script.write_text(next(s for s in SCRIPTS if s.name == "status.py").read_text())
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path.parent)
    assert done.stderr.strip() == "the code beside the script"

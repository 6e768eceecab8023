"""Every command that README.md, docs/ and the page of results show is one that the suite takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from compositions import cells_of, composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sise.benchmark.figures import FIGURES
from sise.benchmark.runner import name_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EVALUATE = "python scripts/evaluate.py "
UNCHANGED = {"experiment", "dataset", "dataset.root", "limit", "shard", "dry_run", "estimate"}


def commands():
    """(script, words) of every command in a code block or between backticks; settings alone are evaluate.py's."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks for line in block.splitlines()]
        lines += re.findall(
            r"`((?:python scripts/|experiment=)[^`\n]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        )
        for line in lines:
            line = EVALUATE + line if line.startswith("experiment=") else line
            if line.startswith("python scripts/"):
                found.add(line)
    return sorted(found | commands_of_the_page())


def commands_of_the_page():
    """Those that the page of results says its parts are made with."""
    sections = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "report.yaml"), resolve=False)["sections"]
    items = [item for section in sections for item in section["items"]]
    lines = {item[key] for item in items for key in ("here", "real") if key in item}
    return {command.strip() for line in lines for command in line.split("&&")}


def single(word):
    """One job of a sweep: a=1,2 -> a=1."""
    name, equals, value = word.partition("=")
    return name + equals + (value if value.startswith("[") else value.split(",")[0])


@pytest.mark.parametrize("command", commands())
def test_command(command):
    python, script, *words = shlex.split(command)
    assert python == "python"
    source = (ROOT / script).read_text()
    if "argparse" in source:
        assert all(f'"{word}"' in source for word in words if word.startswith("--"))
        return
    config = re.search(r'cli\.script\("(\w+)"', source)[1]
    sweep = "-m" in words
    words = [single(word) if sweep else word for word in words if word not in ("-m", "--help")]
    words = [word for word in words if not word.startswith("hydra")]
    for word in words:
        OverridesParser.create().parse_override(word)
    words = [word for word in words if not word.endswith("=...")]
    cfg = composed(config, *words)
    if config == "figures":
        assert cfg.figure in FIGURES
    changed = {word.split("=")[0] for word in words} - UNCHANGED  # experiments as they are have tests of their own
    if config == "evaluate" and (changed or not cfg.get("experiment")):
        names = [name_of(cell) for cell in cells_of(*words)]
        assert names and len(set(names)) == len(names)


def test_commands_are_found():
    found = commands()
    assert len(found) > 50 and len(commands_of_the_page()) > 10
    assert any(" -m " in c for c in found) and EVALUATE + "experiment=photos" in found

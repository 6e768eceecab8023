"""Every command that README.md, docs/ and the page of results show is one that the suite takes."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from checkout import ROOT
from compositions import cells_of, composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sise.benchmark.commands import listing
from sise.benchmark.commands.draw import FIGURES
from sise.benchmark.invocation import COMMANDS
from sise.benchmark.run.cells import name_of

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
            r"`((?:python scripts/|sise |experiment=)[^`\n]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        )
        for line in lines:
            line = EVALUATE + line if line.startswith("experiment=") else line
            if line.startswith(("python scripts/", "sise ")):
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
    if python == "sise":
        if script == "list":
            assert listing.listing(words)
            return
        script = f"scripts/{COMMANDS[script][0]}.py"
    else:
        assert python == "python"
    source = (ROOT / script).read_text()
    config = Path(script).stem
    assert f"from sise.benchmark.commands.{config} import main" in source
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


def settings():
    """Every `key=value` between backticks of a page, outside of commands; without those in Python's quotes."""
    found = set()
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for words in re.findall(r"`([a-z_][\w./]*=[^`\n]+)`", text):
            found |= {word.split("=")[0] for word in words.split() if re.match(r"[\w./]+=(?!\")", word)}
    return found


def keys_of(node, above=""):
    """A configuration's keys, dotted."""
    return {k for key, value in node.items() for k in {above + key} | (
        keys_of(value, f"{above}{key}.") if isinstance(value, dict) else set())}  # fmt: skip


def test_settings_are_those_of_a_command():
    """As a command has them, or an option of a group that evaluate.py always has: `model.classes` is model=module's."""
    configs = ROOT / "configs"
    groups = ("dataset", "engine", "explainer", "metrics", "model", "protocol")
    files = [*configs.glob("*.yaml"), *(file for group in groups for file in (configs / group).glob("*.yaml"))]
    known = {folder.name for folder in configs.iterdir() if folder.is_dir()}
    for file in files:
        above = "" if file.parent == configs else f"{file.parent.name}."
        known |= keys_of(OmegaConf.to_container(OmegaConf.load(file)), above)
    assert len(settings()) > 20 and settings() - known == set()


def test_commands_are_found():
    found = commands()
    assert len(found) > 50 and len(commands_of_the_page()) > 10
    assert "sise tables" in found
    assert any(" -m " in c for c in found) and EVALUATE + "experiment=photos" in found


def test_links_lead_to_files():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"`[^`]*`", "", page.read_text())):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1400


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_the_pages_can_be_read_and_imports_what_there_is(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S):
        tree = ast.parse(block)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "baselines"]
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page.name, "exec"), {})

"""Dependencies point one way: scripts -> sise.benchmark -> {sise, baselines, metrics} -> sise.types -> torch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from checkout import ROOT

METHOD = sorted((ROOT / "sise").glob("*.py")) + sorted((ROOT / "sise" / "probe").glob("*.py"))
METHOD.remove(ROOT / "sise" / "__main__.py")  # the door to the harness
PARTS = sorted((ROOT / "baselines").glob("*.py")) + sorted((ROOT / "metrics").glob("*.py"))
OUTSIDE = {"pandas", "torch", "torchvision", "numpy", "captum", "torchray", "scipy", "skimage"}


def imported(path: Path) -> set[str]:
    """Every module a file imports anywhere in it, by its full name."""
    names = set()
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).strip(".")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def test_importing_the_method_loads_nothing_of_the_harness():
    heavy = [
        "hydra",
        "omegaconf",
        "pandas",
        "torchray",
        "torchvision",
        "matplotlib",
        "PIL",
        "captum",
        "pycocotools",
    ]
    heavy += ["sise.benchmark", "sise.baselines", "sise.metrics"]
    code = "import sys, sise; [getattr(sise, n) for n in sise.__all__]; "
    code += f"print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_files_are_found():
    assert {"method.py", "probe.py"} <= {p.name for p in METHOD} and len(PARTS) > 5


def unexpected(path: Path, allowed: set[str]) -> set[str]:
    """Modules a file imports from outside the standard library, but neither from the harness nor what is allowed."""
    names = {name for name in imported(path) if name.split(".")[0] not in sys.stdlib_module_names}
    return {name for name in names if name.startswith("sise.benchmark") or name.split(".")[0] not in allowed}


def test_the_method_knows_nothing_of_what_uses_it():
    for path in METHOD:
        own = {"types.py": {"PIL"}, "pictures.py": {"PIL", "matplotlib"}, "api.py": {"tqdm"}}.get(path.name, set())
        assert not unexpected(path, {"sise", "torch", "numpy", "skimage"} | own), path


def test_baselines_and_metrics_know_nothing_of_the_harness():
    for path in PARTS:
        own = {"grad_cam_package.py": {"pytorch_grad_cam"}}.get(path.name, set())
        assert not unexpected(path, OUTSIDE | {"sise", path.parent.name} | own), path


def test_the_harness_does_not_import_scripts():
    for path in sorted((ROOT / "sise" / "benchmark").rglob("*.py")):
        assert not {n for n in imported(path) if n.split(".")[0] in {"scripts", "tests"}}, path


WINGS = ("records", "datasets", "models", "run", "tables", "training", "performance", "figures", "studies", "doctor",
         "explain", "report", "commands")  # fmt: skip
"""The harness from the ground up; README lists it so."""


def wing(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if parts[:2] == ["sise", "benchmark"] and len(parts) > 2 and parts[2] in WINGS else None


def test_no_wing_imports_one_above_it():
    """Imports inside functions count too: a lazy arrow up is an arrow up."""
    folder = ROOT / "sise" / "benchmark"
    assert {path.name for path in folder.iterdir() if (path / "__init__.py").exists()} == set(WINGS)
    for path in sorted(folder.rglob("*.py")):
        own = path.relative_to(folder).parts[0]
        allowed = WINGS[: WINGS.index(own) + 1] if own in WINGS else ()  # the ground floor imports no wing
        above = {name for name in imported(path) if wing(name) and wing(name) not in allowed}
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_the_tests_of_each_wing_are_in_its_folder():
    """And no other folder is there; a test file of a wing uses it, or a script that is made of it."""
    folder = ROOT / "tests" / "benchmark"
    assert {path.name for path in folder.iterdir() if any(path.glob("test_*.py"))} == set(WINGS)
    for path in sorted(folder.glob("*/test_*.py")):
        used = {wing(name) for name in imported(path)}
        assert path.parent.name in used or path.name == "test_scripts.py", path


def test_the_readme_lists_the_wings_from_the_ground_up():
    house = (ROOT / "README.md").read_text(encoding="utf-8").partition("## How it is built")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in house.splitlines() if line.startswith("| `")]
    folders = [name.rpartition("/")[2] for row in rows for name in re.findall(r"`([^`]+)/`", row)]
    assert folders == ["sise", "baselines", "metrics", "benchmark", *WINGS, "configs", "scripts", "results"]


def test_no_wing_exports_anything():
    """Hydra finds a target by attributes: a function exported by its folder would hide the module of its name."""
    for name in WINGS:
        tree = ast.parse((ROOT / "sise" / "benchmark" / name / "__init__.py").read_text())
        assert len(tree.body) == 1 and ast.get_docstring(tree)

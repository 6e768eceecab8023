"""Dependencies point one way: scripts -> sise.benchmark -> {sise, baselines, metrics} -> sise.types -> torch."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHOD = sorted((ROOT / "sise").glob("*.py"))
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
    heavy += ["sise.benchmark", "baselines", "metrics"]
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
        for_type_checkers = {"PIL"} if path.name == "types.py" else set()
        assert not unexpected(path, {"sise", "torch", "numpy", "skimage"} | for_type_checkers), path


def test_baselines_and_metrics_know_nothing_of_the_harness():
    for path in PARTS:
        assert not unexpected(path, OUTSIDE | {"sise", path.parent.name}), path


def test_the_harness_does_not_import_scripts():
    for path in sorted((ROOT / "sise" / "benchmark").rglob("*.py")):
        assert not {n for n in imported(path) if n.split(".")[0] in {"scripts", "tests"}}, path

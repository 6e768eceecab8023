"""The machine: Python, packages, disk, memory, devices."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from torch import nn

from sise.benchmark.doctor.finding import GIB, Finding
from sise.benchmark.places import ROOT
from sise.benchmark.records.saliency_store import PATTERN, kept_bytes
from sise.benchmark.run.keeping_maps import readable_bytes
from sise.scoring import Scorer


# --- the installation -------------------------------------------------------------------------------------------------
def _project() -> dict[str, Any]:
    """What the suite needs: ``requires-python``, and ``dependencies`` with those of the benchmark."""
    file = ROOT / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        needed = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
        return {"requires-python": project["requires-python"], "dependencies": needed}
    about = importlib.metadata.metadata("sise-benchmark")  # of a wheel
    requirements = [Requirement(text) for text in about.get_all("Requires-Dist") or []]
    needed = [f"{r.name}{r.specifier}" for r in requirements if not r.marker or r.marker.evaluate({"extra": "bench"})]
    return {"requires-python": about["Requires-Python"], "dependencies": needed}


def python(required: str | None = None) -> Finding:
    """Python's version against ``requires-python``."""
    required = required or _project()["requires-python"]
    have = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(required).contains(have, prereleases=True):
        return Finding("python", "ok", f"{have} (needs {required})")
    return Finding("python", "broken", f"{have}, needs {required}", "install such a Python; make PYTHON=python3.x")


def packages(dependencies: Sequence[str] | None = None) -> Iterator[Finding]:
    """Every dependency against its range: one line for those that fit, one for each that does not."""
    fitting = []
    for text in dependencies or _project()["dependencies"]:
        requirement = Requirement(text)
        try:
            have = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("packages", "broken", f"{requirement.name} is not installed", f"pip install '{text}'")
            continue
        if requirement.specifier.contains(have, prereleases=True):
            fitting.append(f"{requirement.name} {have}")
        else:
            yield Finding("packages", "broken", f"{requirement.name} {have}, needs {requirement.specifier}",
                          f"pip install '{text}'")  # fmt: skip
    if fitting:
        yield Finding("packages", "ok", ", ".join(fitting))


def folders(*wanted: Path) -> Iterator[Finding]:
    """Whether the folders that runs and tables go to can be written."""
    for folder in wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            setting = {"outputs": "outputs=<folder>", "results": "results=<folder>"}.get(folder.name, "another folder")
            yield Finding("folders", "broken", f"{folder} cannot be written ({error.strerror or error})",
                          f"make it writable, or choose another one: {setting}")  # fmt: skip
        else:
            yield Finding("folders", "ok", f"{folder} can be written")


def _available_memory() -> int | None:
    """Bytes; None where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        if found := re.search(r"MemAvailable:\s+(\d+) kB", text):
            return int(found.group(1)) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def room(outputs: Path, *, disk: int | None = None, memory: int | None = None) -> Iterator[Finding]:
    """Free disk under ``outputs`` and available memory; both can be given instead, in bytes."""
    if disk is None:
        place = next((p for p in (outputs.absolute(), *outputs.absolute().parents) if p.exists()), Path("."))
        disk = shutil.disk_usage(place).free
    what = f"{disk / GIB:.1f} GiB free for {outputs}"
    if disk < 0.1 * GIB:
        yield Finding("disk", "broken", what, "the embedded tables need 0.1 GiB: free some, or outputs=<folder>")
    elif disk < 5 * GIB:
        yield Finding("disk", "warning", what, "the cache of scores grows to about 1 GiB on VOC, 10 on COCO "
                      "(engine.cache=false does without); free some, or outputs=<folder>")  # fmt: skip
    else:
        yield Finding("disk", "ok", what)
    memory = _available_memory() if memory is None else memory
    if memory is None:
        yield Finding("memory", "warning", "this system does not say how much there is", "4 GiB are enough")
    elif memory < 1 * GIB:
        yield Finding("memory", "broken", f"{memory / GIB:.1f} GiB available", "the embedded tables need about 1 GiB: "
                      "close other programs, or set engine.batch_size=4")  # fmt: skip
    elif memory < 4 * GIB:
        yield Finding("memory", "warning", f"{memory / GIB:.1f} GiB available",
                      "enough for the embedded tables; set engine.batch_size=8 for the papers' networks")  # fmt: skip
    else:
        yield Finding("memory", "ok", f"{memory / GIB:.1f} GiB available")


def kept_maps(outputs: Path) -> Iterator[Finding]:
    """How large the maps are that runs keep (``maps.keep``); nothing where there are none."""
    if count := kept_bytes(outputs):
        found = (
            f"{readable_bytes(count)} of maps kept in {outputs} as {PATTERN}; they save time only: delete them freely"
        )
        yield Finding("maps", "ok", found)


def _driver() -> str | None:
    """What nvidia-smi says of the driver; None without one."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = said.stdout.split()
    return lines[0] if said.returncode == 0 and lines else None


def device() -> Finding:
    """The GPU, its driver and the TF32 flags, or the CPU."""
    driver = _driver()
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        tf32 = f"TF32: matmul {'on' if matmul else 'off'}, cudnn {'on' if cudnn else 'off'}"
        return Finding(
            "gpu", "ok", f"{facts.name}{f' and {count - 1} more' if count > 1 else ''}, "
            f"{facts.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}, driver {driver or 'unknown'}; {tf32} (the "
            "suite computes in fp32 unless engine.precision says otherwise)"
        )  # fmt: skip
    cpu = f"CPU with {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    if driver:
        return Finding("gpu", "warning", f"a GPU with driver {driver} that torch {torch.__version__} cannot use; {cpu}",
                       "install torch for this driver's CUDA (pytorch.org, Get Started)")  # fmt: skip
    return Finding("gpu", "missing", f"none; {cpu}", "fine for the embedded tables; the papers' take days on a CPU: "
                   "`evaluate.py estimate=true` measures how many")  # fmt: skip


def batch_places(where: torch.device) -> Finding:
    """Whether scores depend on a mask's place in the batch here: measured on a head of ten inputs and seven classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 10, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 7)
        image = torch.randn(1, 3, 16, 16)
    error = Scorer(nn.Sequential(*layers).to(where).eval(), steady=True).check_places(image.to(where))
    if error == 0:
        return Finding("batch places", "ok", "scores do not depend on a mask's place in the batch, to the last bit")
    found = f"scores depend on a mask's place in the batch, by {error:.1e} of the largest"
    advice = "shards and orders agree to about that, not to the last bit; on a CPU, unset MKL_CBWR: the suite sets it"
    return Finding("batch places", "warning", found, advice)


def compiler(wanted: bool = False) -> Finding:
    """A C++ compiler, which torch.compile needs on a CPU; broken only if the engine is told to compile."""
    names = [name for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl") if name]
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path:
        return Finding("compiler", "ok", f"{path} (for engine.compile=true)")
    advice = "install g++ (Debian: apt install g++) or clang++, or leave engine.compile=false"
    return Finding("compiler", "broken" if wanted else "missing", "no C++ compiler", advice)

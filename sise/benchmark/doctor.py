"""Preflight: what is installed, found and missing on this machine, and what to do about each.

A check is a function that yields `Finding`s. Only what the embedded default needs can be *broken*; what the papers'
tables need is *missing* at most, unless the user requires it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from sise.benchmark import audits, models, severstal
from sise.benchmark.datasets import Photos
from sise.types import SuiteError, choose

__all__ = ["Finding", "check", "run"]

ROOT = Path(__file__).resolve().parents[2]
STATES = ("ok", "warning", "missing", "broken", "licence")
GIB = 2**30
REQUIRABLE = ("voc2007", "coco2014", "severstal", "torchray_voc", "torchray_coco", "gpu", "compiler")


@dataclass(frozen=True)
class Finding:
    """One line: ``topic`` (for REQUIRABLE), ``state`` of STATES, what was found, and what to do if not ok."""

    topic: str
    state: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"\n{'':11}→ {self.advice}" if self.advice else ""
        return f"{self.state:<10} {self.topic}: {self.found}{advice}"


def run(cfg: DictConfig, overrides: Sequence[str]) -> bool:
    """Runs the checks, or the audits that are asked for, and prints what they find.

    Args:
        cfg: ``configs/doctor.yaml``, composed.
        overrides: The command line's, which the audits apply to ``configs/evaluate.yaml`` as well.

    Returns:
        Whether nothing that is needed or required is broken or missing.
    """
    if cfg.audit:
        asked = [cfg.audit] if isinstance(cfg.audit, str) else list(cfg.audit)
        audits.run(cfg, overrides, asked)
        return True
    for topic in cfg.require:
        choose("require", topic, REQUIRABLE)
    findings = []
    for finding in check(cfg):
        print(finding, flush=True)
        findings.append(finding)
    broken = [f for f in findings if f.state == "broken"]
    wanted = [f for f in findings if f.topic in cfg.require and f.state not in ("ok", "licence")]
    if broken or wanted:
        what = ", ".join(dict.fromkeys(f.topic for f in (*broken, *wanted)))
        print(f"\nnot ready: {what}; see the → lines above")
    else:
        print("\nready for the embedded default (make tables); what is missing above only the papers' own data need")
    return not (broken or wanted)


def check(cfg: DictConfig) -> Iterator[Finding]:
    """All findings, in the order of printing."""
    yield python()
    yield from packages()
    yield from embedded()
    yield from folders(Path(cfg.outputs), Path(cfg.results))
    yield from room(Path(cfg.outputs))
    yield device()
    yield compiler(bool(cfg.engine.compile))
    yield from data(cfg)
    yield from weights(cfg)
    yield from licences()


# --- the installation -------------------------------------------------------------------------------------------------


def _project(file: Path | None = None) -> tuple[str, list[str]]:
    """(Python's range, dependencies) of pyproject.toml, or of the installed package where there is none."""
    file = file or ROOT / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], list(project["dependencies"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        try:
            about = importlib.metadata.metadata("sise-benchmark")
        except importlib.metadata.PackageNotFoundError:
            return "", []
        given = [text for text in about.get_all("Requires-Dist") or () if "extra ==" not in text]
        return about.get("Requires-Python") or "", given


def python(required: str | None = None) -> Finding:
    """Python's version against ``requires-python``."""
    required = _project()[0] if required is None else required
    have = ".".join(map(str, sys.version_info[:3]))
    if SpecifierSet(required).contains(have, prereleases=True):
        return Finding("python", "ok", f"{have} (needs {required or 'any'})")
    return Finding("python", "broken", f"{have}, needs {required}", "install such a Python; make PYTHON=python3.x")


def packages(dependencies: Sequence[str] | None = None) -> Iterator[Finding]:
    """Every dependency against its range: one line for those that fit, one for each that does not."""
    fitting = []
    for text in _project()[1] if dependencies is None else dependencies:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            yield Finding("packages", "warning", f"cannot read the requirement {text!r}", "mend pyproject.toml")
            continue
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


def embedded() -> Iterator[Finding]:
    """The networks that ship with the suite: complete, and one image goes through each."""
    for name in ("vgg16", "resnet50"):
        try:
            model = models.torchray(name, "shapes")
            with torch.no_grad():
                scores = model.network(torch.zeros(1, 3, *model.preprocess.size))
            if not bool(torch.isfinite(scores).all()):
                raise SuiteError("its scores are not finite")
        except Exception as error:  # whatever is wrong with the installation must end in a line
            yield Finding("embedded networks", "broken", f"{name}: {type(error).__name__}: {error}",
                          "reinstall the suite: pip install --force-reinstall --no-deps -e .")  # fmt: skip
        else:
            yield Finding("embedded networks", "ok", f"{name} of the shapes, {scores.shape[1]} scores")


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
        return int(re.search(r"MemAvailable:\s+(\d+) kB", text).group(1)) * 1024
    except (OSError, AttributeError):
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


def compiler(wanted: bool = False) -> Finding:
    """A C++ compiler, which torch.compile needs on a CPU; broken only if the engine is told to compile."""
    names = [name for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl") if name]
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path:
        return Finding("compiler", "ok", f"{path} (for engine.compile=true)")
    advice = "install g++ (Debian: apt install g++) or clang++, or leave engine.compile=false"
    return Finding("compiler", "broken" if wanted else "missing", "no C++ compiler", advice)


# --- data and weights -------------------------------------------------------------------------------------------------


def _root(cfg: DictConfig, name: str) -> str:
    return cfg.dataset.root if cfg.dataset.name == name and "root" in cfg.dataset else cfg.roots[name]


def data(cfg: DictConfig) -> Iterator[Finding]:
    """Counts of every data set against the published ones."""
    shapes = Path(_shapes_root(cfg))
    if (shapes / "shapes.json").is_file():
        yield Finding("shapes", "ok", f"generated scenes in {shapes}")
    else:
        yield Finding("shapes", "ok", f"not drawn yet; the first run draws them in {shapes} (about a minute)")
    yield _counted("photos", lambda: Photos(verify=False), "reinstall the suite's dependencies")
    for name in ("voc2007", "coco2014"):
        loader = OmegaConf.load(ROOT / "configs" / "dataset" / f"{name}.yaml")
        loader.root = str(_root(cfg, name))
        node = OmegaConf.create({"dataset": loader}).dataset.loader
        advice = f"set roots.{name}=<folder>; partial data run, but no table of it counts as reproduced"
        yield _counted(name, lambda node=node: instantiate(node, verify=False), advice)
    yield _severstal(_root(cfg, "severstal"))


def _shapes_root(cfg: DictConfig) -> str:
    return cfg.dataset.root if cfg.dataset.name == "shapes" else "data/shapes"


def _counted(name: str, load: Callable, advice: str) -> Finding:
    logger = logging.getLogger("sise.benchmark.datasets")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        complete, message = load().verify_counts()
    except Exception as error:
        cause = _suite_error(error)
        if cause is None:
            raise
        found, _, how = str(cause).removeprefix(f"{name}: ").partition("; ")
        return Finding(name, "missing", found, how.replace("dataset.root=", f"roots.{name}=") or advice)
    finally:
        logger.setLevel(level)
    return Finding(name, "ok", message) if complete else Finding(name, "warning", message, advice)


def _suite_error(error: BaseException | None) -> SuiteError | None:
    while error is not None and not isinstance(error, SuiteError):
        error = error.__cause__
    return error


def _severstal(root: str) -> Finding:
    """Files only: the recast itself reads every strip, once, when it is first used."""
    try:
        folder = severstal.find(root)
        listed = severstal.read_csv(folder / "train.csv")
    except SuiteError as error:
        found, _, how = str(error).removeprefix("severstal: ").partition("; ")
        return Finding("severstal", "missing", found, how.replace("dataset.root=", "roots.severstal="))
    files = {entry.name for entry in os.scandir(folder / "train_images")}
    there = sum(strip in files for strip in listed)
    message = f"{there} of {severstal.LISTED_IMAGES} strips with a defect, {len(files)} of {severstal.ALL_IMAGES} files"
    if (there, len(listed)) == (severstal.LISTED_IMAGES, severstal.LISTED_IMAGES):
        return Finding("severstal", "ok", message)
    return Finding("severstal", "warning", message, "partial data run, but no table of it counts as reproduced")


def weights(cfg: DictConfig) -> Iterator[Finding]:
    """TorchRay's four checkpoints: there, and the published ones."""
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    audited = {"voc2007": "voc", "coco2014": "coco"}.get(cfg.dataset.name)
    for (arch, trained_on), file_name in models._TORCHRAY_FILES.items():
        given = cfg.weights[arch] if trained_on == audited else None
        path = Path(given) if given else hub / file_name
        topic, what = f"torchray_{trained_on}", f"{arch} for {trained_on.upper()}"
        if not path.is_file():
            yield Finding(topic, "missing", f"{what}: no {path}",
                          f"it is downloaded on first use; offline, put {models._torchray_url(arch, trained_on)} there "
                          "or give model.weights=<file>")  # fmt: skip
            continue
        digest, wanted = models._sha256(path), re.search(r"-([0-9a-f]{8})\.", file_name).group(1)
        if digest.startswith(wanted):
            yield Finding(topic, "ok", f"{what}: {path}, the published file (sha256 {wanted}…)")
        else:
            yield Finding(topic, "warning", f"{what}: {path} is not the published file: sha256 begins with "
                          f"{digest[:8]}, expected {wanted}", "delete it and get it again")  # fmt: skip
    trained = Path(cfg.outputs) / "severstal" / "resnet101.pt"
    if trained.is_file():
        yield Finding("severstal network", "ok", f"{trained}, trained here")
    else:
        how = "python scripts/train_severstal.py --root <folder of train.csv>"
        yield Finding("severstal network", "missing", f"no {trained}", how)


def licences() -> Iterator[Finding]:
    """Terms that the user accepts by using what is not the suite's own."""
    for topic, terms, advice in (
        ("TorchRay", "the package and its VOC and COCO weights are CC BY-NC 4.0", "no commercial use"),
        ("PASCAL VOC 2007", "images under the terms of Flickr and their owners", "research use; do not redistribute"),
        ("MS COCO 2014", "annotations CC BY 4.0, images under their owners' Flickr licences, mostly non-commercial",
         "read the terms of use on the COCO site"),
        ("Severstal", "data under the rules of the Kaggle competition", "accept them there before downloading"),
    ):  # fmt: skip
        yield Finding(topic, "licence", terms, advice)

"""Preflight: what is installed, found and missing on this machine, and what to do about each.

A check is a function that yields `Finding`s. Only what the embedded default needs can be *broken*; what the papers'
tables need is *missing* at most, unless the user requires it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from torch import nn

from sise.benchmark import audits, course, mnist1d, models, severstal
from sise.benchmark.datasets import Photos, files_in
from sise.benchmark.runner import choose_device
from sise.benchmark.tables import read_published
from sise.scoring import Scorer
from sise.types import SuiteError, choose

__all__ = ["Finding", "check", "run"]

ROOT = Path(__file__).resolve().parents[2]
STATES = ("ok", "warning", "missing", "broken", "licence")
GIB = 2**30
REQUIRABLE = ("voc2007", "coco2014", "severstal", "hmt", "mnist1d", "torchray_voc", "torchray_coco", "gpu", "compiler")


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
        audits.run(cfg, overrides, [cfg.audit] if isinstance(cfg.audit, str) else list(cfg.audit))
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
    for name, networks in (("voc2007", "torchray_voc"), ("coco2014", "torchray_coco")):
        if {f.state for f in findings if f.topic in (name, networks)} == {"ok"}:
            print(f"{name} and its networks are complete; which reading of the papers do they confirm?\n"
                  f"  python scripts/doctor.py audit=all dataset={name} dataset.root={_root(cfg, name)}")  # fmt: skip
    return not (broken or wanted)


def check(cfg: DictConfig) -> Iterator[Finding]:
    """All findings, in the order of printing."""
    yield python()
    yield from packages()
    yield from embedded()
    yield from folders(Path(cfg.outputs), Path(cfg.results))
    yield from room(Path(cfg.outputs))
    yield device()
    yield batch_places(choose_device(cfg.device))
    yield compiler(bool(cfg.engine.compile))
    yield from data(cfg)
    yield from weights(cfg)
    yield from licences()


# --- the installation -------------------------------------------------------------------------------------------------


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


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


# --- data and weights -------------------------------------------------------------------------------------------------


def _root(cfg: DictConfig, name: str) -> str:
    return cfg.dataset.root if cfg.dataset.name == name and "root" in cfg.dataset else cfg.roots[name]


def data(cfg: DictConfig) -> Iterator[Finding]:
    """Counts of every data set against the published ones."""
    shapes = Path(cfg.dataset.root if cfg.dataset.name == "shapes" else "data/shapes")
    drawn = (shapes / "shapes.json").is_file()
    yield Finding("shapes", "ok", f"generated scenes in {shapes}" if drawn else
                  f"not drawn yet; the first run draws them in {shapes} (about a minute)")  # fmt: skip
    yield _counted("photos", lambda: Photos(verify=False), "reinstall the suite's dependencies")
    for name in ("voc2007", "coco2014"):
        loader = OmegaConf.load(ROOT / "configs" / "dataset" / f"{name}.yaml")
        loader.root = str(_root(cfg, name))
        node = OmegaConf.create({"dataset": loader}).dataset.loader
        advice = f"roots.{name}=<folder> to look elsewhere; a part runs, but no table of it counts as reproduced"
        yield _counted(name, lambda node=node: instantiate(node, verify=False), advice)
    yield _severstal(_root(cfg, "severstal"))
    published = read_published(ROOT / cfg.published)
    yield _course("hmt", "tiles", Path(_root(cfg, "hmt"), "HMT.h5"), published, course.hmt_confidences)
    weights = Path(_root(cfg, "mnist1d"), "MNIST1D.h5")
    finding = _course("mnist1d", "curves", weights, published, course.mnist1d_confidences)
    if finding.state == "ok":
        right, saturated, count = course.right_and_saturated(mnist1d.network(weights))
        more = f"accuracy {100 * right / count:.1f} %; in float32 the softmax of {saturated} of {count} is 1"
        finding = replace(finding, found=f"{finding.found}; {more}, its gradient lost (protocol.gradient)")
    yield finding


def _course(
    name: str,
    kind: str,
    weights: Path,
    published: pd.DataFrame,
    compute: Callable[[Path, pd.DataFrame], list[course.Confidence]],
) -> Finding:
    """Whether a copy of the course's data and weights gives the confidences that its notebooks print."""
    if not weights.is_file():
        return Finding(name, "missing", f"no {weights}, which the ECE1512 course handed out", f"roots.{name}=<folder>")
    try:
        found = compute(weights.parent, published)
    except SuiteError as error:
        what, _, how = str(error).removeprefix(f"{name}: ").partition("; ")
        return Finding(name, "warning", what, how)
    different = [one for one in found if one.difference > course.TOLERANCE]
    if different or not found:
        first = max(different, key=lambda one: one.difference, default=None)
        words = f"{len(different)} of {len(found)} {kind} have another confidence than the course's notebooks print"
        words += f" (at {first.position}: {first.computed:.7f}, printed {first.printed:.7f})" if first else ""
        advice = "other weights or data than the course's: results are not comparable to the published ones"
        return Finding(name, "warning", words, advice)
    largest = max(one.difference for one in found)
    return Finding(name, "ok", f"{len(found)} {kind} have the confidence that the course's notebooks print, "
                   f"to {largest:.1e}")  # fmt: skip


def _counted(name: str, load: Callable, advice: str) -> Finding:
    try:
        complete, message = load().verify_counts()
    except Exception as error:  # whatever is wrong with the files must end in a line
        cause = _suite_error(error)
        if cause is None:
            return Finding(name, "warning", f"cannot be read: {type(error).__name__}: {error}", advice)
        found, _, how = str(cause).removeprefix(f"{name}: ").partition("; ")
        return Finding(name, "missing", found, how.replace("dataset.root=", f"roots.{name}=") or advice)
    message = message.partition(": partial tree")[0]
    return Finding(name, "ok", message) if complete else Finding(name, "warning", message, advice)


def _suite_error(error: BaseException | None) -> SuiteError | None:
    while error is not None and not isinstance(error, SuiteError):
        error = error.__cause__
    return error


def _severstal(root: str) -> Finding:
    """Files only: the tiles are counted, against Table 3, when the recast first reads every strip."""
    try:
        folder = severstal.find(root)
        listed = severstal.read_csv(folder / "train.csv")
    except SuiteError as error:
        found, _, how = str(error).removeprefix("severstal: ").partition("; ")
        return Finding("severstal", "missing", found, how.replace("dataset.root=", "roots.severstal="))
    files = files_in(folder / "train_images")
    there = sum(strip in files for strip in listed)
    message = f"{there} of {severstal.LISTED_IMAGES} strips with a defect, {len(files)} of {severstal.ALL_IMAGES} files"
    if (there, len(listed)) == (severstal.LISTED_IMAGES, severstal.LISTED_IMAGES):
        return Finding("severstal", "ok", f"{message}; training counts the tiles against SISE's Table 3")
    return Finding("severstal", "warning", message, "a part runs, but no table of it counts as reproduced")


def weights(cfg: DictConfig) -> Iterator[Finding]:
    """TorchRay's four checkpoints, a line per data set: there, and the published ones."""
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    for name, trained_on in (("voc2007", "voc"), ("coco2014", "coco")):
        found, missing, wrong = [], [], []
        for arch in ("vgg16", "resnet50"):
            file_name = models._TORCHRAY_FILES[arch, trained_on]
            given = cfg.weights[arch] if cfg.dataset.name == name else None
            path = Path(given) if given else hub / file_name
            wanted = re.search(r"-([0-9a-f]{8})\.", file_name).group(1)
            if not path.is_file():
                missing.append(path)
            elif (digest := models._sha256(path)).startswith(wanted):
                found.append(path.name)
            else:
                wrong.append(f"{path} (its sha256 begins with {digest[:8]}, expected {wanted})")
        topic = f"torchray_{trained_on}"
        if missing:
            url = models._torchray_url("vgg16", trained_on).rpartition("/")[0]
            yield Finding(topic, "missing", f"no {', '.join(map(str, missing))}",
                          f"the first run downloads them; offline, get them from {url}, or give files: "
                          "weights.vgg16=<file> (scripts/evaluate.py: model=vgg16 model.weights=<file>)")  # fmt: skip
        if wrong:
            yield Finding(topic, "warning", f"not the published file: {', '.join(wrong)}", "delete it and get it again")
        if found:
            yield Finding(topic, "ok", f"{', '.join(found)}: the published hashes")
    trained = Path(cfg.outputs) / "severstal" / "resnet101.pt"
    if trained.is_file():
        yield Finding("severstal network", "ok", f"{trained}, trained here")
    else:
        yield Finding("severstal network", "missing", f"no {trained} (the paper's is not published)",
                      "train it: python scripts/train_severstal.py --root <folder of train.csv>")  # fmt: skip


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

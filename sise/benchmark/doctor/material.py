"""Data sets, weights and licences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sise.benchmark import invocation, places
from sise.benchmark.datasets import published_counts, scenes, severstal
from sise.benchmark.datasets.base import files_in, found_of
from sise.benchmark.datasets.photos import Photos
from sise.benchmark.doctor import course
from sise.benchmark.doctor.finding import Finding
from sise.benchmark.models import mnist1d, torchray
from sise.benchmark.models.weights import hash_in
from sise.benchmark.places import CONFIGS
from sise.benchmark.records.files import file_hash
from sise.benchmark.tables.published import read_published
from sise.errors import SuiteError


def embedded() -> Iterator[Finding]:
    """The networks that ship with the suite: complete, and one image goes through each."""
    for name in ("vgg16", "resnet50"):
        try:
            model = torchray.torchray(name, "shapes")
            with torch.no_grad():
                scores = model.network(torch.zeros(1, 3, scenes.SIZE, scenes.SIZE))
            if not bool(torch.isfinite(scores).all()):
                raise SuiteError("its scores are not finite")
        except Exception as error:  # whatever is wrong with the installation must end in a line
            yield Finding("embedded networks", "broken", f"{name}: {type(error).__name__}: {error}",
                          "reinstall the suite: pip install --force-reinstall --no-deps -e .")  # fmt: skip
        else:
            yield Finding("embedded networks", "ok", f"{name} of the shapes, {scores.shape[1]} scores")


# --- data and weights -------------------------------------------------------------------------------------------------
def root_of(cfg: DictConfig, name: str) -> str:
    return cfg.dataset.root if cfg.dataset.name == name and "root" in cfg.dataset else cfg.roots[name]


def data(cfg: DictConfig) -> Iterator[Finding]:
    """Counts of every data set against the published ones."""
    shapes = Path(cfg.dataset.root if cfg.dataset.name == "shapes" else "data/shapes")
    drawn = (shapes / "shapes.json").is_file()
    yield Finding("shapes", "ok", f"generated scenes in {shapes}" if drawn else
                  f"not drawn yet; the first run draws them in {shapes} (about a minute)")  # fmt: skip
    yield _counted("photos", lambda: Photos(verify=False), "reinstall the suite's dependencies")
    for name in ("voc2007", "coco2014"):
        loader = OmegaConf.load(CONFIGS / "dataset" / f"{name}.yaml")
        loader.root = str(root_of(cfg, name))
        node = OmegaConf.create({"dataset": loader}).dataset.loader
        advice = f"roots.{name}=<folder> to look elsewhere; a part runs, but no table of it counts as reproduced"
        yield _counted(name, lambda node=node: instantiate(node, verify=False), advice)
    yield _severstal(root_of(cfg, "severstal"))
    published = read_published(places.of_results(cfg.published))
    yield _course("hmt", "tiles", Path(root_of(cfg, "hmt"), "HMT.h5"), published, course.hmt_confidences)
    weights = Path(root_of(cfg, "mnist1d"), "MNIST1D.h5")
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
        return Finding(name, "warning", error.found, _fix(error, name))
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
        return Finding(name, "missing", cause.found, _fix(cause, name) or advice)
    return Finding(name, "ok", message) if complete else Finding(name, "warning", found_of(message), advice)


def _fix(error: SuiteError, name: str) -> str:
    """What to do about a data set's error; the doctor takes its folder by another setting."""
    setting = f"roots.{name}=<folder>" if error.setting == "dataset.root=<folder>" else error.setting
    return " ".join(filter(None, (error.fix, setting)))


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
        return Finding("severstal", "missing", error.found, _fix(error, "severstal"))
    files = files_in(folder / "train_images")
    there = sum(strip in files for strip in listed)
    images, defect = (published_counts.total("severstal", kind) for kind in ("images", "images with a defect"))
    message = f"{there} of {defect} strips with a defect, {len(files)} of {images} files"
    if there == len(listed) == defect:
        return Finding("severstal", "ok", f"{message}; training counts the tiles against SISE's Table 3")
    return Finding("severstal", "warning", message, "a part runs, but no table of it counts as reproduced")


def weights(cfg: DictConfig) -> Iterator[Finding]:
    """TorchRay's four checkpoints, a line per data set: there, and the published ones."""
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    for name, trained_on in (("voc2007", "voc"), ("coco2014", "coco")):
        found, missing, wrong = [], [], []
        for arch in ("vgg16", "resnet50"):
            file_name = torchray.PUBLISHED_FILES[arch, trained_on]
            given = cfg.weights[arch] if cfg.dataset.name == name else None
            path = Path(given) if given else hub / file_name
            wanted = hash_in(file_name)
            if not path.is_file():
                missing.append(path)
            elif (digest := file_hash(path)).startswith(wanted):
                found.append(path.name)
            else:
                wrong.append(f"{path} (its sha256 begins with {digest[:8]}, expected {wanted})")
        topic = f"torchray_{trained_on}"
        if missing:
            url = torchray.published_url("vgg16", trained_on).rpartition("/")[0]
            yield Finding(topic, "missing", f"no {', '.join(map(str, missing))}",
                          f"the first run downloads them; offline, get them from {url}, or give files: "
                          "weights.vgg16=<file> (evaluate: model=vgg16 model.weights=<file>)")  # fmt: skip
        if wrong:
            yield Finding(topic, "warning", f"not the published file: {', '.join(wrong)}", "delete it and get it again")
        if found:
            yield Finding(topic, "ok", f"{', '.join(found)}: the published hashes")
    trained = Path(cfg.outputs) / "severstal" / "resnet101.pt"
    if trained.is_file():
        yield Finding("severstal network", "ok", f"{trained}, trained here")
    else:
        command = f"{invocation.typed('train')} training=severstal dataset.root=<folder of train.csv>"
        yield Finding("severstal network", "missing", f"no {trained} (the paper's is not published)",
                      f"train it: {command}")  # fmt: skip


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

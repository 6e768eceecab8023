"""Preflight: what is installed, found and missing on this machine, and what to do about each.

A check is a function that yields `Finding`s. Only what the embedded default needs can be *broken*; what the papers'
tables need is *missing* at most, unless the user requires it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from sise.benchmark import invocation
from sise.benchmark.doctor.finding import REQUIRABLE, Finding
from sise.benchmark.doctor.machine import batch_places, compiler, device, folders, kept_maps, packages, python, room
from sise.benchmark.doctor.material import data, embedded, licences, root_of, weights
from sise.benchmark.run.device import choose_device
from sise.benchmark.studies.audits import audits
from sise.errors import choose

__all__ = ["check", "run"]


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
            command = invocation.typed("doctor")
            print(f"{name} and its networks are complete; which reading of the papers do they confirm?\n"
                  f"  {command} audit=all dataset={name} dataset.root={root_of(cfg, name)}")  # fmt: skip
    return not (broken or wanted)


def check(cfg: DictConfig) -> Iterator[Finding]:
    """All findings, in the order of printing."""
    yield python()
    yield from packages()
    yield from embedded()
    yield from folders(Path(cfg.outputs), Path(cfg.results))
    yield from room(Path(cfg.outputs))
    yield from kept_maps(Path(cfg.outputs))
    yield device()
    yield batch_places(choose_device(cfg.device))
    yield compiler(bool(cfg.engine.compile))
    yield from data(cfg)
    yield from weights(cfg)
    yield from licences()

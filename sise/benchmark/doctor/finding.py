"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]

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

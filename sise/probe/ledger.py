"""What a probe's answers cost: forward and backward passes, billed to each explainer as if it were alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from sise.types import Remark


@dataclass
class Cost:
    """What something took: wall seconds, and images sent through the network forward and backward."""

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0


@dataclass
class Bill:
    """What one explainer costs on its own, whoever computed what it used (see :meth:`Probe.bill`).

    Attributes:
        seconds: Wall time spent inside the block, plus the recorded time of every remembered quantity it used.
        forward, backward: Images sent through the network, counted in the same way.
        remarks: What its maps need to have said, see :meth:`Probe.remark`.
    """

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0
    remarks: list[Remark] = field(default_factory=list)
    _used: dict = field(default_factory=dict, repr=False)
    _computed: dict = field(default_factory=dict, repr=False)

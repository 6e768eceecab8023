"""What any explainer's map becomes behind SISE's gate: a control of metrics that reward the gate alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sise.choices import GATES
from sise.errors import choose
from sise.fusion import open_gate
from sise.maps import minmax
from sise.probe.probe import Probe
from sise.types import Explainer


def gated(
    probe: Probe, targets: Sequence[int], *, explainer: Explainer, gate: str = "otsu_hard", temperature: float = 100.0
) -> Tensor:
    """Another explainer's map times its own gate, ``V * gate(V)`` of the min-maxed map V.

    No network is asked beyond what the explainer asks. The gate never falls with V, so that pixels keep their order,
    except that those behind a closed gate become equal (``otsu_hard``; ``otsu_ranked`` keeps their order, too).

    Args:
        probe: One image as one network sees it.
        targets: T class indices.
        explainer: Makes the maps; with other settings than its own as a ``functools.partial``.
        gate: As in :func:`sise.fusion.fuse`.
        temperature: Of the soft gates.

    Returns:
        (T, H, W) in [0, 1]; a constant map becomes zero everywhere. A map that is not finite stays as it is, for
        whoever checks maps.

    Raises:
        SuiteError: If there is no such gate; see also the explainer.
    """
    choose("gate", gate, GATES)
    saliency = explainer(probe, targets)
    stretched = minmax(saliency, len(probe.size))
    for place, (one, raw) in enumerate(zip(stretched, saliency, strict=True)):
        stretched[place] = one * open_gate(one, gate, temperature) if torch.isfinite(raw).all() else raw
    return stretched

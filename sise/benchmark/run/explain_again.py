"""One explainer's maps of images beside the evaluated one, for the metrics of :mod:`sise.metrics.consistency`."""

from __future__ import annotations

import hashlib

from torch import Tensor

from sise.probe.probe import Probe
from sise.types import Explainer


class ExplainAgain:
    """Explains other images of the same network, for the same target, with the same seed.

    Each image is explained once. Probes of the images are shared with other explainers as far as
    :meth:`sise.probe.probe.Probe.beside` remembers them, so that masked passes are.

    Args:
        explainer: With its hyperparameters.
        probe: Of the image that is being evaluated.
        output: The network's score that the map is of.
    """

    def __init__(self, explainer: Explainer, probe: Probe, output: int) -> None:
        self.explainer, self.probe, self.output = explainer, probe, output
        self._maps: dict[bytes, Tensor] = {}

    def __call__(self, image: Tensor) -> Tensor:
        """The map (H, W) of a network input (1, C, H, W)."""
        key = hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).digest()
        if key not in self._maps:
            self._maps[key] = self.explainer(self.probe.beside(image), [self.output])[0].detach().float()
        return self._maps[key]

"""Keeps what masked passes found on disk, so that thresholds, gates, readings and metrics change without one.

One small file per image, named by the image's content in a folder named by everything else the scores depend on
(network, weights, fill, precision, device, torch). Deleting any of it costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from sise.probe import Probe

log = logging.getLogger(__name__)

FORMAT = 1


class ScoreCache:
    """The files of one network seen in one way.

    Args:
        folder: Where all caches lie; created when first needed.
        depends_on: Everything but the image that scores depend on.
    """

    def __init__(self, folder: str | Path, *depends_on: object) -> None:
        key = hashlib.sha256(repr((FORMAT, *depends_on)).encode()).hexdigest()
        self.folder = Path(folder) / key[:24]

    def file(self, image: Tensor) -> Path:
        """Where an image's scores lie."""
        content = image.detach().cpu().contiguous().numpy()
        return self.folder / f"{hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()[:32]}.npz"

    def restore(self, probe: Probe) -> bool:
        """Gives a probe what is known of its image; False if nothing is. A damaged file counts as nothing."""
        file = self.file(probe.image)
        try:
            with np.load(file, allow_pickle=False) as state:
                probe.restore(dict(state))
            return True
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
            log.warning("score cache %s cannot be read (%s); computing anew", file.name, error)
            return False

    def save(self, probe: Probe, targets: list[int]) -> None:
        """Writes what the probe knows, whole or not at all; a full disk only costs the cache."""
        file = self.file(probe.image)
        temporary = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as temporary:
                np.savez(temporary, **probe.state(targets))
            os.replace(temporary.name, file)
        except OSError as error:
            log.warning("the score cache could not be written: %s", error)
            if temporary is not None:
                Path(temporary.name).unlink(missing_ok=True)

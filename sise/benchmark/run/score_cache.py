"""Keeps what masked passes found on disk, so that thresholds, gates, readings and metrics change without one.

One small file per image, named by the image's content in a folder named by everything else the scores depend on
(network, its code and structure, weights, fill, precision, device, torch). Whatever that name may leave out, a few of
an entry's scores are made again when it is used (:meth:`sise.probe.probe.Probe.restore`): one that does not agree is
written anew. Deleting any of it costs time and nothing else. Processes may share it: a file is put in its place whole,
and of two that are written at once the later one stays.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sise.benchmark.records.files import clear_drafts, whole
from sise.probe.probe import Contradiction, Probe

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
        self._made = False
        self._contradicted = False

    def file(self, image: Tensor) -> Path:
        """Where an image's scores lie."""
        content = image.detach().cpu().contiguous().numpy()
        return self.folder / f"{hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()[:32]}.npz"

    def restore(self, probe: Probe) -> bool:
        """Gives a probe what is known of its image; False if nothing is. A file of anything else counts as nothing."""
        file = self.file(probe.image)
        try:
            with np.load(file, allow_pickle=False) as state:
                if sum(part.file_size for part in state.zip.infolist()) > file.stat().st_size:
                    raise ValueError("it is compressed")  # not by this suite, and it may fill the memory
                probe.restore(dict(state))
            return True
        except FileNotFoundError:
            return False
        except Contradiction as error:
            if not self._contradicted:
                log.warning("stored scores in %s are not this network's (%s); such files are made anew",
                            self.folder, error)  # fmt: skip
            self._contradicted = True
            return False
        except Exception as error:  # a damaged file can raise anything
            log.warning("score cache %s cannot be read (%s); computing anew", file.name, error)
            return False

    def save(self, probe: Probe, targets: list[int]) -> None:
        """Writes what the probe knows, whole or not at all; a full disk only costs the cache."""
        file = self.file(probe.image)
        try:
            self._make_folder()
            with whole(file) as draft:
                known: dict[str, Any] = dict(probe.state(targets))
                np.savez(draft, **known)
        except OSError as error:
            log.warning("the score cache could not be written: %s", error)

    def _make_folder(self) -> None:
        """On first use; also clears away what killed processes left half written, a day ago or longer."""
        if self._made:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_drafts(self.folder)
        self._made = True

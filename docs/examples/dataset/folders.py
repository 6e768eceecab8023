"""A folder of pictures for each class; the whole picture is the object."""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from sise.types import Sample


class Folders:
    """Pictures as ``root/<class>/<file>``, each of one class.

    Args:
        root: The folder that holds a folder for each class, named like a class of the network.
        name: Name in configs and tables.
    """

    def __init__(self, root: str | os.PathLike, *, name: str = "folders") -> None:
        self.name = name
        self._files = {f"{path.parent.name}/{path.name}": path for path in sorted(Path(root).glob("*/*"))}
        self.ids = tuple(self._files)
        self.classes = tuple(sorted({path.parent.name for path in self._files.values()}))

    def __len__(self) -> int:
        return len(self.ids)

    def targets_of(self, image_id: str) -> tuple[int, ...]:
        return (self.classes.index(self._files[image_id].parent.name),)

    def __getitem__(self, image_id: str) -> Sample:
        image = Image.open(self._files[image_id]).convert("RGB")
        whole = np.ones((1, image.height, image.width), dtype=bool)
        return Sample(image_id, image, self.targets_of(image_id), whole)

    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

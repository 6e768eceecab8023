"""Notices images that were replaced under their name since records were made of them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from sise.benchmark.records.files import whole
from sise.types import Dataset, ImageFiles

log = logging.getLogger(__name__)


def index_of(outputs: str | Path, dataset: str) -> Path:
    """Where the hashes of a dataset's images are kept below ``outputs``."""
    return Path(outputs) / ".images" / f"{dataset}.json"


def _read(index: Path) -> dict[str, list]:
    """By a place, hashed: the hash of the image there, its size and times, and its name in the dataset."""
    try:
        return dict(json.loads(index.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (TypeError, ValueError) as error:
        log.warning("%s cannot be read (%s); images are hashed anew", index, error)
    return {}


def replaced_when_last_seen(made_of: Mapping[tuple[str, str], int], run: Path, dataset: str) -> int:
    """How many good records are of another image than the one of that name when a command last looked at it.

    No image is read and no dataset made, which for COCO would take a table far longer than all else: a replacement
    counts from the first evaluate.py that meets it, not before. An image that was nowhere looked at is not judged.

    Args:
        made_of: Number of a run's good records by image and hash.
        run: Its folder; the hashes that count are kept in the nearest folder above that has some.
        dataset: The dataset's name.
    """
    index = next((kept for above in run.absolute().parents if (kept := index_of(above, dataset)).is_file()), None)
    if index is None or not made_of:
        return 0
    seen = _seen_in(index, index.stat().st_mtime_ns)
    return sum(count for (image, made), count in made_of.items() if made not in seen.get(image, (made,)))


@functools.lru_cache(maxsize=1)
def _seen_in(index: Path, changed: int) -> dict[str, tuple[str, ...]]:
    """The hashes that an image had at the last looks, in its places; read once for the runs of a table."""
    seen: dict[str, tuple[str, ...]] = {}
    for digest, *_, image_id in (entry for entry in _read(index).values() if len(entry) == 5):
        seen[image_id] = (*seen.get(image_id, ()), digest)
    return seen


class ImageHashes:
    """Hashes of a dataset's image files; a file is read only where its size or times are not those of the last look.

    Args:
        dataset: Of images that are files (:class:`sise.types.ImageFiles`); other images have no hash.
        outputs: Below it, in ``.images``, hashes are kept; deleting it costs time and nothing else.
    """

    def __init__(self, dataset: Dataset, outputs: str | Path) -> None:
        self._files = dataset if isinstance(dataset, ImageFiles) else None
        self._index = index_of(outputs, dataset.name)
        self._known = _read(self._index)
        self._folders: dict[str, str] = {}  # where they really are
        self._seen: dict[str, str] = {}  # by image, for replaced() of many runs
        self._judged: tuple[Mapping[tuple[str, str], int] | None, int] = None, 0  # runs of the same images share it
        self._changed = False

    def of(self, image_id: str) -> str:
        """12 hexadecimal digits of the sha256 of an image's file; "" where there is none that can be read."""
        path = self._files.picture_of(image_id) if self._files else None
        if path is None:
            return ""
        try:
            stat = path.stat()
            facts = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            # several roots may hold a dataset of one name, and a folder's place is nobody's business
            named, name = os.path.split(path)  # a quarter of the time of pathlib's, which counts for 40,000 images
            folder = self._folders.get(named)
            if folder is None:
                folder = self._folders[named] = os.path.realpath(named)
            key = hashlib.sha256(os.fsencode(os.path.join(folder, name))).hexdigest()[:16]
            known = self._known.get(key, [])
            if known[1:] != [*facts, image_id]:
                unchanged = known[1:4] == facts  # of a version that did not keep the image's name
                digest = known[0] if unchanged else hashlib.sha256(path.read_bytes()).hexdigest()[:12]
                self._known[key] = [digest, *facts, image_id]
                self._changed = True
        except OSError:
            return ""
        return self._known[key][0]

    def replaced(self, made_of: Mapping[tuple[str, str], int]) -> int:
        """How many records are of another image than the file of that name now.

        Args:
            made_of: Number of records by image and hash; those without a hash are not judged.
        """
        if made_of is self._judged[0]:
            return self._judged[1]
        count = 0
        for (image_id, image_hash), records in made_of.items():
            now = self._seen.get(image_id)
            if now is None:
                now = self._seen[image_id] = self.of(image_id)
            count += records * (now not in ("", image_hash))
        self._judged = made_of, count
        return count

    def keep(self) -> None:
        """Writes the hashes for the next look."""
        if not self._changed:
            return
        try:
            self._index.parent.mkdir(parents=True, exist_ok=True)
            with whole(self._index) as draft:
                draft.write_text(json.dumps(self._known))
        except OSError as error:  # the next look takes longer
            log.info("hashes of images are not kept: %s", error)

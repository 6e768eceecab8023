"""Notices images that were replaced under their name since records were made of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sise.types import Dataset, ImageFiles, Record

log = logging.getLogger(__name__)


class ImageHashes:
    """Hashes of a dataset's image files; a file is read only where its size or times are not those of the last look.

    Args:
        dataset: Of images that are files (:class:`sise.types.ImageFiles`); other images have no hash.
        outputs: Below it, in ``.images``, hashes are kept; deleting it costs time and nothing else.
    """

    def __init__(self, dataset: Dataset, outputs: str | Path) -> None:
        self._files = dataset if isinstance(dataset, ImageFiles) else None
        self._index = Path(outputs) / ".images" / f"{dataset.name}.json"
        self._known: dict[str, list] = {}
        self._changed = False
        try:
            self._known = json.loads(self._index.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("%s cannot be read (%s); images are hashed anew", self._index, error)

    def of(self, image_id: str) -> str:
        """12 hexadecimal digits of the sha256 of an image's file; "" where there is none that can be read."""
        path = self._files.picture_of(image_id) if self._files else None
        if path is None:
            return ""
        try:
            stat = path.stat()
            facts = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            # several roots may hold a dataset of one name, and a folder's place is nobody's business
            key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
            if self._known.get(key, [])[1:] != facts:
                self._known[key] = [hashlib.sha256(path.read_bytes()).hexdigest()[:12], *facts]
                self._changed = True
        except OSError:
            return ""
        return self._known[key][0]

    def replaced(self, records: Iterable[Record]) -> int:
        """How many good records are of another image than the file of that name now; those without a hash are not."""
        found: dict[str, str] = {}
        count = 0
        for record in records:
            if record["status"] == "ok" and record.get("image_hash"):
                image_id = record["image_id"]
                now = found[image_id] if image_id in found else found.setdefault(image_id, self.of(image_id))
                count += now not in ("", record["image_hash"])
        return count

    def keep(self) -> None:
        """Writes the hashes for the next look."""
        if not self._changed:
            return
        try:
            self._index.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._index.parent, suffix=".tmp", delete=False) as draft:
                json.dump(self._known, draft)
            os.replace(draft.name, self._index)
        except OSError as error:  # the next look takes longer
            log.info("hashes of images are not kept: %s", error)

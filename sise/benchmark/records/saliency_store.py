"""Saliency maps kept beside a run's records, bit for bit, so that a metric added later needs no explainer.

``saliency*.maps`` lie in the run's folder, one for each records file and written by the same process. They are only
appended to, image by image, and only save time: whatever is missing, cut off, damaged or made of something else counts
as not there, and its maps are made again. So they may be deleted at any time.

A file is a row of *frames*, one per image::

    8 bytes   MAGIC
    4, 8      length of the header and of the payload, little-endian
    16        BLAKE2b of the lengths and the header
    header    JSON: key, image_id, image (digest), targets, shape (T, H, W) and what the maps cost
    payload   see `packed`
    16        BLAKE2b of the payload
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sise.benchmark.records.files import FULL_DISK

log = logging.getLogger(__name__)

PATTERN = "saliency*.maps"
FORMAT = 1
"""Part of every key: files of another format count as empty."""
MAGIC = b"\x89SISEmap"
LEVEL = 1
"""Of zlib. Higher ones take several times as long and save a few percent."""
LONGEST_HEADER = 1 << 20
_LENGTHS = struct.Struct("<IQ")
_DIGEST = 16
_PREFIX = len(MAGIC) + _LENGTHS.size + _DIGEST
_BLOCK = 1 << 20


def kept_bytes(folder: Path) -> int:
    """What the maps kept in a run's folder, or in those below it, take on the disk."""
    found = 0
    for file in folder.rglob(PATTERN):
        try:
            found += file.stat().st_size
        except FileNotFoundError:  # deleted meanwhile, which is allowed
            continue
    return found


def packed(maps: np.ndarray) -> bytes:
    """Maps (T, H, W) float32 without loss.

    Their bits as whole numbers, each less its neighbours on the left and above, the bytes of equal weight side by side,
    in zlib: a smooth map becomes much smaller, one of gradients hardly.
    """
    bits = np.ascontiguousarray(maps, dtype="<f4").view("<i4")
    for axis in (-1, -2):
        bits = np.diff(bits, axis=axis, prepend=np.int32(0))
    planes = np.ascontiguousarray(bits).view(np.uint8).reshape(*maps.shape, 4)
    return zlib.compress(np.moveaxis(planes, -1, 0).tobytes(), LEVEL)


def unpacked(payload: bytes, shape: Sequence[int]) -> np.ndarray:
    """What :func:`packed` packed.

    Raises:
        ValueError: If it is not that, or of another size.
    """
    size = 4 * int(np.prod(shape))
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(payload, size)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != size or stream.unconsumed_tail or not stream.eof:
        raise ValueError(f"it does not hold {size} bytes")
    planes = np.frombuffer(data, dtype=np.uint8).reshape(4, *shape)
    bits = np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view("<i4")[..., 0]
    for axis in (-2, -1):
        bits = np.add.accumulate(bits, axis=axis, dtype=np.int32)
    return bits.view("<f4")


class SaliencyStore:
    """The maps of one run, as one process reads and writes them.

    Args:
        folder: The run's.
        key: Names everything but the image that the maps depend on. Frames of other keys are not seen.
        shard: Names the file that is written, as for :class:`sise.benchmark.records.folder.RunFolder`; the caller
            holds that records file's lock.
        keeps: Whether :meth:`keep` writes; what is there is read in any case.
        leave_free: Bytes of the disk that stay free: below, nothing more is kept.
    """

    def __init__(self, folder: Path, key: str, shard: str = "", *, keeps: bool = False, leave_free: float = 0) -> None:
        self._file = folder / (f"saliency-{shard}.maps" if shard else "saliency.maps")
        self._folder, self._keeps, self._leave_free = folder, keeps, leave_free
        self.key = hashlib.sha256(f"{FORMAT} {key}".encode()).hexdigest()[:32]
        self._places: dict[str, tuple[Path, int]] = {}
        self._descriptor: int | None = None
        self._damaged = False
        for file in sorted(folder.glob(PATTERN)):
            self._look_through(file)

    def __len__(self) -> int:
        """How many images' maps there are."""
        return len(self._places)

    def has(self, image_id: str) -> bool:
        """Whether there seem to be maps of an image; whether they are whole and of its content, :meth:`find` tells."""
        return image_id in self._places

    def find(
        self, image_id: str, image: str, targets: Sequence[int], size: Sequence[int]
    ) -> tuple[np.ndarray, dict[str, Any]] | None:
        """An image's maps (T, H, W) and what they cost; None if there are none such.

        Args:
            image_id: Of the image.
            image: A digest of what the network is shown of it.
            targets: Those that were explained together.
            size: (H, W).
        """
        if image_id not in self._places:
            return None
        file, place = self._places[image_id]
        try:
            with file.open("rb") as stream:
                header, length = _header(stream, place)
                shape = [len(targets), *size]
                wanted = {"key": self.key, "image_id": image_id, "image": image, "targets": list(targets)}
                if any(header[name] != value for name, value in (wanted | {"shape": shape}).items()):
                    return None
                payload, digest = stream.read(length), stream.read(_DIGEST)
            if _digest(payload) != digest:
                raise ValueError("its checksum does not fit")
            return unpacked(payload, shape), dict(header["costs"])
        except FileNotFoundError:  # deleted meanwhile, which is allowed
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not self._damaged:
                log.warning("kept maps in %s are damaged (%s); such maps are made again", file, error)
            self._damaged = True
            return None

    def keep(
        self, image_id: str, image: str, targets: Sequence[int], maps: np.ndarray, costs: Mapping[str, Any]
    ) -> None:
        """Appends an image's maps (T, H, W) float32, whole or not at all; a full disk only ends the keeping."""
        if not self._keeps:
            return
        header = {"key": self.key, "image_id": image_id, "image": image, "targets": list(targets)}
        frame = _frame(header | {"shape": list(maps.shape), "costs": dict(costs)}, packed(maps))
        try:
            free = shutil.disk_usage(self._folder).free
            if free - len(frame) < self._leave_free:
                self._stop(f"{free / 2**30:.1f} GiB are free, and maps.leave_free={self._leave_free / 2**30:g}")
                return
            self._places[image_id] = self._file, self._append(frame)
        except OSError as error:
            self._stop("the disk is full" if error.errno in FULL_DISK else str(error))

    def close(self) -> None:
        """Ends the writing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _stop(self, why: str) -> None:
        self._keeps = False
        log.warning("%s: no more maps are kept (%s); the run goes on without", self._folder, why)

    def _append(self, frame: bytes) -> int:
        """Where the frame begins now."""
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:  # somebody deleted it
            self.close()
        if self._descriptor is None:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            with self._file.open("rb") as stream:
                whole = max((end for *_, end in _frames(stream)), default=0)
            if whole < os.fstat(self._descriptor).st_size:
                os.ftruncate(self._descriptor, whole)  # what a killed process left of its last write
        end = os.fstat(self._descriptor).st_size
        written = 0
        try:
            while written < len(frame):
                written += os.write(self._descriptor, frame[written:])
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise
        return end

    def _look_through(self, file: Path) -> None:
        """Takes note of where each image's maps begin; of several, those that were written last."""
        try:
            with file.open("rb") as stream:
                for header, place, _ in _frames(stream):
                    if header.get("key") == self.key:
                        self._places[str(header.get("image_id"))] = file, place
        except OSError as error:
            log.warning("kept maps in %s cannot be read (%s); they are made again", file, error)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _frame(header: Mapping[str, Any], payload: bytes) -> bytes:
    text = json.dumps(header).encode("ascii")
    lengths = _LENGTHS.pack(len(text), len(payload))
    return b"".join((MAGIC, lengths, _digest(lengths + text), text, payload, _digest(payload)))


def _header(stream: BinaryIO, place: int) -> tuple[dict[str, Any], int]:
    """The header of the frame that begins at a place, and its payload's length; the stream stands before the payload.

    Raises:
        ValueError: If no frame begins there.
    """
    stream.seek(place)
    prefix = stream.read(_PREFIX)
    if len(prefix) < _PREFIX or not prefix.startswith(MAGIC):
        raise ValueError("no frame begins there")
    lengths = prefix[len(MAGIC) : len(MAGIC) + _LENGTHS.size]
    of_header, of_payload = _LENGTHS.unpack(lengths)
    if of_header > LONGEST_HEADER:
        raise ValueError("no header is as long")
    text = stream.read(of_header)
    if _digest(lengths + text) != prefix[-_DIGEST:]:
        raise ValueError("its header's checksum does not fit")
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, of_payload


def _frames(stream: BinaryIO) -> Iterator[tuple[dict[str, Any], int, int]]:
    """The headers of the frames that are there in whole, where each begins and where it ends; payloads are not read.

    What is damaged in between is passed over.
    """
    size = stream.seek(0, os.SEEK_END)
    place: int | None = 0
    while place is not None and place < size:
        try:
            header, length = _header(stream, place)
            end = stream.tell() + length + _DIGEST
            if end > size:
                raise ValueError("it is cut off")
        except ValueError:
            place = _next_magic(stream, place + 1)
            continue
        yield header, place, end
        place = end


def _next_magic(stream: BinaryIO, place: int) -> int | None:
    """Where the next frame may begin, from a place on."""
    while True:
        stream.seek(place)
        block = stream.read(_BLOCK)
        if (found := block.find(MAGIC)) >= 0:
            return place + found
        if len(block) < _BLOCK:
            return None
        place += _BLOCK - len(MAGIC) + 1

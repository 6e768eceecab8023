"""Kept maps come back bit for bit; what is cut off or damaged counts as not there and costs its image alone."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest

from sise.benchmark.records import saliency_store
from sise.benchmark.records.saliency_store import SaliencyStore, kept_bytes, packed, unpacked

COSTS = {"seconds": 0.1 + 0.2, "forward_passes": 1 / 3, "backward_passes": 0.0}


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    found = rng.normal(size=(2, 5, 7)).astype(np.float32)
    found[0, 0, :4] = 0.0, -0.0, 1e-45, np.float32(np.nextafter(np.float32(1), np.float32(2)))
    return found


def store(folder, key="key", **options):
    return SaliencyStore(folder, key, **{"keeps": True} | options)


def same(found, maps):
    return found is not None and found[0].tobytes() == maps.tobytes() and found[0].dtype == np.float32


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 1, 1), (2, 11)])
def test_maps_come_back_bit_for_bit(shape):
    bits = np.random.default_rng(1).integers(0, 2**32, shape, dtype=np.uint32)
    back = unpacked(packed(bits.view(np.float32)), shape)
    assert (back.view(np.uint32) == bits).all() and back.flags.writeable
    smooth = np.linspace(0, 1, 224 * 224, dtype=np.float32).reshape(1, 224, 224)
    assert (unpacked(packed(smooth), smooth.shape) == smooth).all() and len(packed(smooth)) < smooth.nbytes / 2
    for size in ((1, 223, 224), (1, 225, 224)):
        with pytest.raises(ValueError, match="does not hold"):
            unpacked(packed(smooth), size)


def test_what_is_kept_is_found_again_with_its_costs(tmp_path, maps):
    store(tmp_path).keep("a", "image", [3, 5], maps, COSTS)
    store(tmp_path).keep("b", "image", [3], maps[:1], COSTS)
    found = store(tmp_path, keeps=False)
    assert len(found) == 2 and same(found.find("a", "image", [3, 5], (5, 7)), maps)
    assert found.find("a", "image", [3, 5], (5, 7))[1] == COSTS  # to the last bit
    for asked_for in (("c", "image", [3, 5], (5, 7)), ("a", "other", [3, 5], (5, 7)), ("a", "image", [3], (5, 7)),
                      ("a", "image", [5, 3], (5, 7)), ("a", "image", [3, 5], (7, 5))):  # fmt: skip
        assert found.find(*asked_for) is None
    assert len(store(tmp_path, "another key")) == 0
    found.keep("c", "image", [3, 5], maps, COSTS)
    assert len(store(tmp_path)) == 2  # it does not keep


def two_images(tmp_path, maps):
    """The file of two images' maps, its bytes, and where the second image's begin."""
    whole = store(tmp_path)
    for name in "ab":
        whole.keep(name, "image", [3, 5], maps, COSTS)
    file = tmp_path / "saliency.maps"
    data = file.read_bytes()
    return file, data, data.rfind(saliency_store.MAGIC)


def test_a_write_cut_off_anywhere_costs_that_image_alone(tmp_path, maps):
    file, data, first = two_images(tmp_path, maps)
    for end in range(first, len(data)):
        file.write_bytes(data[:end])
        again = store(tmp_path)
        assert same(again.find("a", "image", [3, 5], (5, 7)), maps) and again.find("b", "image", [3, 5], (5, 7)) is None
        again.keep("b", "image", [3, 5], maps, COSTS)
        again.close()
        assert file.read_bytes() == data


def test_a_flipped_byte_anywhere_costs_that_image_alone(tmp_path, maps, caplog):
    file, data, first = two_images(tmp_path, maps)
    for place in range(first):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        again = store(tmp_path)
        assert again.find("a", "image", [3, 5], (5, 7)) is None, place
        assert same(again.find("b", "image", [3, 5], (5, 7)), maps), place
    assert "damaged" in caplog.text


def test_a_full_disk_ends_the_keeping_and_nothing_else(tmp_path, maps, caplog, monkeypatch):
    kept = store(tmp_path)
    kept.keep("a", "image", [3, 5], maps, COSTS)
    size = kept_bytes(tmp_path)
    write = os.write

    def full(descriptor, data):
        write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    kept.keep("b", "image", [3, 5], maps, COSTS)
    monkeypatch.undo()
    kept.keep("c", "image", [3, 5], maps, COSTS)
    assert kept_bytes(tmp_path) == size and caplog.text.count("no more maps are kept (the disk is full)") == 1
    store(tmp_path, leave_free=2.0**70).keep("c", "image", [3, 5], maps, COSTS)
    assert kept_bytes(tmp_path) == size and "maps.leave_free" in caplog.text


def test_a_file_deleted_while_it_is_written_is_begun_anew(tmp_path, maps):
    kept = store(tmp_path)
    kept.keep("a", "image", [3, 5], maps, COSTS)
    (tmp_path / "saliency.maps").unlink()
    assert kept.find("a", "image", [3, 5], (5, 7)) is None
    kept.keep("b", "image", [3, 5], maps, COSTS)
    assert len(store(tmp_path)) == 1


def test_a_file_that_is_none_counts_as_empty(tmp_path, maps):
    file = tmp_path / "saliency.maps"
    for data in (b"", b"hello", saliency_store.MAGIC * 3, os.urandom(3000),
                 saliency_store.MAGIC + struct.pack("<IQ", 2**32 - 1, 2**64 - 1) + bytes(16)):  # fmt: skip
        file.write_bytes(data)
        kept = store(tmp_path)
        assert len(kept) == 0
        kept.keep("a", "image", [3, 5], maps, COSTS)
        kept.close()
        assert same(store(tmp_path).find("a", "image", [3, 5], (5, 7)), maps)


def test_a_payload_that_would_fill_the_memory_is_refused(tmp_path, maps, monkeypatch):
    monkeypatch.setattr(saliency_store, "packed", lambda maps: packed(np.zeros((64, 512, 512), np.float32)))
    store(tmp_path).keep("a", "image", [3, 5], maps, COSTS)
    assert store(tmp_path).find("a", "image", [3, 5], (5, 7)) is None

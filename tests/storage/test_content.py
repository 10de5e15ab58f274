"""Content: one digest for one scan, however its voxels are stored, and never another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from unet_batch.formats.scan import Scan
from unet_batch.storage.content import content_of, stored_dtype
from unet_batch.storage.ome_zarr import to_bytes
from unet_batch.storage.statistics import compute_statistics


def test_the_digest_is_the_documented_one(make_scan: Callable[..., Scan]) -> None:
    scan = make_scan()
    head = {
        "dtype": "int16",
        "shape": [1, 5, 6, 7],
        "affine": scan.affine.ravel().tolist(),
        "channels": ["c0"],
    }
    expected = hashlib.blake2b(to_bytes(head), digest_size=20)
    expected.update(scan.voxels_czyx.astype("<i2").tobytes())
    assert content_of(scan).content_hash == expected.hexdigest()
    assert content_of(scan).statistics == compute_statistics(scan.voxels_czyx)


@pytest.mark.parametrize("thickness", [1, 2, 5])
def test_pieces_give_the_content_of_the_whole(
    thickness: int, make_scan: Callable[..., Scan]
) -> None:
    scan = make_scan(shape=(2, 5, 6, 7))
    pieces = (
        [channel[k : k + thickness] for k in range(0, 5, thickness)] for channel in scan.voxels_czyx
    )
    assert content_of(scan, pieces) == content_of(scan)


def test_byte_order_and_memory_order_do_not_count(make_scan: Callable[..., Scan]) -> None:
    scan = make_scan(shape=(2, 5, 6, 7))
    other = replace(scan, voxels_czyx=np.asfortranarray(scan.voxels_czyx.astype(">i2")))
    assert content_of(other) == content_of(scan)


def test_bool_is_stored_as_bytes() -> None:
    assert stored_dtype(np.dtype(bool)) == np.uint8
    assert stored_dtype(np.dtype(">f4")) == np.dtype("<f4")

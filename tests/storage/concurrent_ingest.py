"""One of several processes that ingest into one Archive at once; run by test_catalog.py."""

from __future__ import annotations

import sys

import numpy as np

from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import open_archive


def main(url: str, number: int) -> None:
    """Five Volumes of its own, one that all write, a mask on that, and compactions between."""
    archive = open_archive(url, create=True)
    archive.write_scan(scan("shared", 0), source={})
    for k in range(5):
        archive.write_scan(scan(f"own-{number}-{k}", 10 * number + k + 1), source={})
        archive.catalog.compact()
    voxels = np.full((5, 6, 7), number, np.uint8)
    classes = (LabelClass(0, "background"), LabelClass(number, "mask"))
    archive["shared"].write_labels(
        f"mask-{number}", Mask(voxels, np.eye(4), classes), provenance={}
    )


def scan(name: str, seed: int) -> Scan:
    """Random voxels that the seed decides."""
    voxels = np.random.default_rng(seed).integers(0, 99, (1, 5, 6, 7)).astype(np.int16)
    return Scan(name, voxels, np.eye(4), ("CT",), modality="CT")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

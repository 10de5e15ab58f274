"""ArchiveCheck: from scored Volumes of unlike classes to the odd ones, ranked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.checking import ArchiveCheck
from unet_batch.workflows.pairs import PairStream
from unet_batch.workflows.scoring import score_pair

LEFT, RIGHT = LabelClass(1, "lung_left"), LabelClass(2, "lung_right")


def add(archive: Archive, number: int, *, swapped: bool = False, empty: bool = False) -> None:
    """x, the last axis, grows to the patient's left."""
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    voxels = np.full((1, 6, 9, 20), number, np.int16)
    name = f"v{number}"
    archive.write_scan(Scan(name, voxels, affine, ("CT",), "CT"), source={})
    mask = np.zeros(voxels.shape[1:], np.uint8)
    if not empty:
        right, left = (1, 2) if swapped else (2, 1)
        mask[2:4, 3:6, 2:5] = right
        mask[2:4, 3:6, 14:17] = left
    classes = (LEFT, RIGHT) if number else (LEFT, RIGHT, LabelClass(9, "rare"))
    archive[name].write_labels("net", Mask(mask, affine, classes), provenance={})


def test_the_odd_volumes_are_ranked_and_counted(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "archive", create=True)
    for number in range(8):
        add(archive, number, swapped=number == 3, empty=number == 6)
    check = ArchiveCheck()
    for pair in PairStream(archive, ["*"], labels="net", truth=None):
        check.add(score_pair(pair))
    first, second = check.odd()
    assert (first.volume_id, first.findings[0].kind) == ("v6", "empty")
    assert (second.volume_id, second.findings[0].kind) == ("v3", "left_right")
    assert check.count_kinds() == {
        "empty": 1,
        "left_right": 1,
        "missing_class": 0,
        "volume": 0,
        "cut": 0,
    }


def test_nothing_added_is_nothing_odd() -> None:
    assert ArchiveCheck().odd() == ()

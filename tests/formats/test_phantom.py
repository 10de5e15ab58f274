"""Phantoms: the same every time, quick, and not to be told by intensity alone."""

from __future__ import annotations

import numpy as np
import pytest

from unet_batch.formats.geometry import orientation_code
from unet_batch.formats.phantom import phantom


def test_a_seed_names_its_phantom() -> None:
    (scan, mask), (again, mask_again) = phantom(5), phantom(5)
    assert np.array_equal(scan.voxels_czyx, again.voxels_czyx)
    assert np.array_equal(mask.voxels_zyx, mask_again.voxels_zyx)
    assert not np.array_equal(phantom(6)[0].affine, scan.affine)


@pytest.mark.parametrize("seed", range(12))
def test_every_phantom_shows_every_organ(seed: int) -> None:
    scan, mask = phantom(seed)
    assert scan.voxels_czyx.shape == (1, *mask.voxels_zyx.shape)
    assert orientation_code(scan.affine) == "LPS"
    assert 38 <= min(mask.voxels_zyx.shape) <= max(mask.voxels_zyx.shape) <= 72
    for value in (1, 2, 3):
        assert (mask.voxels_zyx == value).sum() > 300


def test_spacing_and_shape_are_taken_as_given() -> None:
    scan, _ = phantom(1, spacing_mm=(4.0, 2.0, 1.5), shape_zyx=(20, 30, 40), name="p")
    assert scan.voxels_czyx.shape == (1, 20, 30, 40)
    assert scan.spacing_mm == (4.0, 2.0, 1.5)
    assert scan.name == "p"


def test_no_threshold_finds_the_liver() -> None:
    scan, mask = phantom(3)
    liver = mask.voxels_zyx == 1
    voxels = scan.voxels_czyx[0].astype(float)
    best = 0.0
    for low in range(200, 700, 25):
        for high in range(low + 50, 1000, 50):
            found = (voxels >= low) & (voxels < high)
            best = max(best, 2 * (found & liver).sum() / max(found.sum() + liver.sum(), 1))
    assert 0.2 < best < 0.75


def test_the_liver_lies_on_the_patients_right() -> None:
    scan, mask = phantom(2)
    centers = [np.argwhere(mask.voxels_zyx == value).mean(axis=0) for value in (1, 3)]
    liver, spleen = ((scan.affine @ [*center, 1])[0] for center in centers)
    assert liver > spleen

"""Checks: what is odd becomes a warning, what is usual none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from unet_batch.errors import GeometryError, VoxelError
from unet_batch.formats import checks
from unet_batch.formats.checks import odd_claims
from unet_batch.formats.phantom import phantom
from unet_batch.formats.scan import Scan
from unet_batch.storage.statistics import compute_statistics


def scan(voxels: Any, affine: Any = None) -> Scan:
    affine = np.eye(4) if affine is None else affine
    return Scan("s", np.asarray(voxels).reshape(1, 2, 2, 2), affine, ("CT",), "CT", {}, ("odd",))


def odd_about(one: Scan) -> tuple[str, ...]:
    return checks.odd_about(one, compute_statistics(one.voxels_czyx))


def test_a_usual_scan_has_no_warnings() -> None:
    assert odd_about(phantom(1)[0]) == ()


def test_the_readers_own_warnings_come_first() -> None:
    assert odd_about(scan(np.arange(8))) == ("odd",)


@pytest.mark.parametrize(
    ("voxels", "told"),
    [
        (np.full(8, 7), "channel CT is constant: every voxel is 7"),
        (np.array([np.nan, np.inf, 2, 3, 4, 5, 6, 7]), "2 of 8 voxels are NaN or inf"),
    ],
)
def test_odd_voxels_are_told(voxels: Any, told: str) -> None:
    assert any(told in warning for warning in odd_about(scan(voxels)))


def test_a_scan_without_a_finite_voxel_is_refused() -> None:
    with pytest.raises(VoxelError, match="every voxel is NaN or inf"):
        odd_about(scan(np.full(8, np.nan)))


AXIAL = "1\\0\\0\\0\\1\\0"


@pytest.mark.parametrize("letters", ["L\\P", "LF\\PR", "", "L", "X\\Y"])
def test_orientation_tags_that_agree_or_say_nothing_pass(letters: str) -> None:
    claims = {"PatientOrientation": letters, "ImageOrientationPatient": AXIAL}
    assert odd_claims(claims, where="a") == ()


@pytest.mark.parametrize(("letters", "axis"), [("R\\P", "rows"), ("L\\A", "columns")])
def test_exchanged_sides_are_refused(letters: str, axis: str) -> None:
    claims = {"PatientOrientation": letters, "ImageOrientationPatient": AXIAL}
    with pytest.raises(GeometryError, match=f"a: PatientOrientation says that {axis}"):
        odd_claims(claims, where="a")


def test_head_and_feet_exchanged_are_refused() -> None:
    claims = {"PatientOrientation": "L\\H", "ImageOrientationPatient": "1\\0\\0\\0\\0\\-1"}
    with pytest.raises(GeometryError, match="head and feet"):
        odd_claims(claims, where="a")


def test_text_in_the_pixels_and_animals_are_told() -> None:
    assert "pixels" in odd_claims({"BurnedInAnnotation": "YES"}, where="a")[0]
    assert "animal" in odd_claims({"AnatomicalOrientationType": "QUADRUPED"}, where="a")[0]


@pytest.mark.parametrize(
    ("mm", "told"), [(1e-8, "less than"), (25.0, "spacing 25 x 1 x 1 mm"), (2000, "extent 4000 x")]
)
def test_implausible_geometry_is_told(mm: float, told: str) -> None:
    affine = np.diag([mm, 1.0, 1.0, 1.0])
    assert any(told in warning for warning in odd_about(scan(np.arange(8), affine)))


@pytest.mark.parametrize(
    ("position", "cosines"),
    [("HFS", AXIAL), ("HFP", "-1\\0\\0\\0\\-1\\0"), ("FFS", "-1\\0\\0\\0\\1\\0"),
     ("FFS", AXIAL), ("HFDL", "0\\-1\\0\\1\\0\\0"), ("HFS", "0\\1\\0\\0\\0\\-1"),
     ("", AXIAL), ("HFS", "0.97\\0.2\\0\\-0.2\\0.97\\0")],
)  # fmt: skip
def test_a_position_that_agrees_with_the_image_is_no_news(position: str, cosines: str) -> None:
    claims = {"PatientPosition": position, "ImageOrientationPatient": cosines}
    assert odd_claims(claims, where="a") == ()


@pytest.mark.parametrize(
    ("position", "cosines", "told"),
    [("HFS", "-1\\0\\0\\0\\1\\0", "R and P"), ("HFP", AXIAL, "L and P"),
     ("FFS", "-1\\0\\0\\0\\-1\\0", "R and A"), ("HFDR", AXIAL, "L and P")],
)  # fmt: skip
def test_a_position_that_contradicts_the_image_is_told(
    position: str, cosines: str, told: str
) -> None:
    claims = {"PatientPosition": position, "ImageOrientationPatient": cosines}
    (warning,) = odd_claims(claims, where="a")
    assert f"PatientPosition {position}" in warning
    assert f"ImageOrientationPatient says {told}" in warning

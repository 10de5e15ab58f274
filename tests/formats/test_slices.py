"""Stacks: places decide, and whatever is not one straight, even stack is refused in numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from unet_batch.errors import GeometryError
from unet_batch.formats.slices import SlicePlane, stack_affine

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


def planes(
    places: list[float], angles: tuple[float, float, float] = (0, 0, 0), lean: float = 0.0
) -> list[SlicePlane]:
    turn = Rotation.from_euler("zyx", angles, degrees=True).as_matrix()
    row, column, normal = turn.T
    return [
        SlicePlane(
            label=f"{k}.dcm",
            position=np.array([5.0, -7, 11]) + place * normal + lean * place * row,
            row=row,
            column=column,
            spacing_yx_mm=(0.75, 0.5),
            shape_yx=(4, 6),
            nominal_pitch_mm=9.0,
        )
        for k, place in enumerate(places)
    ]


@given(ANGLES, st.floats(0.3, 9), st.integers(2, 40))
def test_the_affine_leads_to_every_slices_first_pixel(
    angles: tuple[float, float, float], pitch: float, count: int
) -> None:
    stack = planes([k * pitch for k in range(count)], angles)
    affine = stack_affine(stack, where="it")
    for k, plane in enumerate(stack):
        assert np.allclose(affine @ [0, 0, k, 1], [*plane.position, 1])
    assert np.allclose(np.linalg.norm(affine[:3, :3], axis=0), [0.5, 0.75, pitch])


def test_the_column_index_grows_along_the_row() -> None:
    affine = stack_affine(planes([0, 3]), where="it")
    assert np.allclose(affine[:3, 0], [0.5, 0, 0])
    assert np.allclose(affine[:3, 1], [0, 0.75, 0])


def test_a_lone_slice_falls_back_on_what_the_file_says() -> None:
    assert np.allclose(stack_affine(planes([0]), where="it")[:3, 2], [0, 0, 9])


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ([0, 3, 6, 12, 15], r"missing slices \(1\) between 2\.dcm and 3\.dcm: 6 mm .* 3 mm"),
        ([0, 3, 6, 15, 18], r"missing slices \(2\)"),
        ([0, 3, 3, 6], r"two slices at the same place.*1\.dcm and 2\.dcm"),
        ([0, 0], "two slices at the same place"),
        ([0, 3, 6.6, 9, 12], "unevenly spaced, 2.4 to 3.6 mm"),
    ],
)
def test_uneven_stacks_are_refused(places: list[float], told: str) -> None:
    with pytest.raises(GeometryError, match=told):
        stack_affine(planes(places), where="it")


def test_positions_rounded_by_the_scanner_are_accepted() -> None:
    places = [round(0.625 * k, 1) for k in range(60)]
    affine = stack_affine(planes(places), where="it")
    assert np.linalg.norm(affine[:3, 2]) == pytest.approx(0.625, abs=0.002)


@given(ANGLES, st.floats(1, 30))
def test_gantry_tilt_is_refused_with_its_angle(
    angles: tuple[float, float, float], tilt: float
) -> None:
    leaning = planes([3.0 * k for k in range(20)], angles, lean=np.tan(np.radians(tilt)))
    with pytest.raises(GeometryError, match=f"gantry tilt of {tilt:.3g} degrees"):
        stack_affine(leaning, where="it")


@pytest.mark.parametrize(
    "change",
    [
        {"shape_yx": (4, 7)},
        {"spacing_yx_mm": (0.75, 0.6)},
        {"row": np.array([0, 1.0, 0]), "column": np.array([0, 0, 1.0])},
    ],
)
def test_slices_that_differ_are_refused(change: dict[str, Any]) -> None:
    first, second, third = planes([0, 3, 6])
    with pytest.raises(GeometryError, match=r"0\.dcm has 4 x 6 pixels.*1\.dcm has"):
        stack_affine([first, replace(second, **change), third], where="it")


def test_directions_that_are_not_square_are_refused() -> None:
    crooked = [replace(plane, row=np.array([0.9, 0.1, 0])) for plane in planes([0, 3])]
    with pytest.raises(GeometryError, match="right angle"):
        stack_affine(crooked, where="it")

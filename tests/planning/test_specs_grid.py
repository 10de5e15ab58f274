from __future__ import annotations

import pytest
from pydantic import ValidationError

from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.volume_info import VolumeBrief, VolumeInfo

# A sagittal scan: z grows to the left, y down, x to the front.
SAGITTAL = (-4.8, 0, 0, 0, 0, 0, 0.9, 0, 0, -0.9, 0, 0, 0, 0, 0, 1.0)


def volume() -> VolumeInfo:
    return VolumeInfo(
        id="v",
        shape_czyx=(1, 15, 256, 200),
        dtype="int16",
        spacing_mm=(4.8, 0.9, 0.9),
        affine=SAGITTAL,
        chunk_zyx=(15, 256, 200),
        shard_zyx=(15, 256, 200),
        content_hash="",
        channels=("MR",),
        statistics=(),
    )


def brief() -> VolumeBrief:
    return VolumeBrief("v", "MR", "int16", (15, 256, 200), (4.8, 0.9, 0.9), 0, ("MR",), ())


def test_nothing_asked_or_nothing_changed_maps_nothing() -> None:
    assert GridSpec().map_of(volume()) is None
    assert GridSpec(spacing_mm=(None, 0.9, 0.9005)).map_of(brief()) is None
    assert GridSpec(orientation="AIL").map_of(volume()) is None


def test_a_spacing_goes_along_the_axes_of_the_orientation() -> None:
    grid_map = GridSpec(spacing_mm=(0.9, 1.8, 1.2), orientation="LPS").map_of(volume())
    assert grid_map is not None
    assert grid_map.scan_axes == (1, 2, 0)  # z is the scan's y, y its x, x its z
    assert [axis.is_flipped for axis in grid_map.axes] == [True, True, False]
    assert grid_map.model_shape == (256, 100, 57)
    assert grid_map.model_spacing(volume().spacing_mm) == pytest.approx((0.9, 1.8, 1.2))


def test_a_brief_and_the_volume_are_planned_alike() -> None:
    spec = GridSpec(spacing_mm=(2.4, None, 0.7))
    assert spec.map_of(brief()) == spec.map_of(volume())


@pytest.mark.parametrize("orientation", ["LPX", "LRS", "LP", "lps", "LPSS"])
def test_an_orientation_names_each_direction_once(orientation: str) -> None:
    with pytest.raises(ValidationError, match="one letter of each of L or R, P or A, I or S"):
        GridSpec(orientation=orientation)


@pytest.mark.parametrize("spacing", [(0, 1, 1), (-1.0, 1, 1), (1, 1), (float("nan"), 1, 1), "mean"])
def test_a_spacing_is_three_positive_numbers(spacing: object) -> None:
    with pytest.raises(ValidationError):
        GridSpec.model_validate({"spacing_mm": spacing})

"""Pictures: size true to millimetres, colours true to the classes, lines where the masks end."""

from __future__ import annotations

import base64
import io

import dask.array as da
import numpy as np
import pytest
from PIL import Image

from unet_batch.planning.volume_info import ChannelStatistics, LabelClass, VolumeInfo
from unet_batch.reporting.pictures import (
    CT_ABDOMEN_HU,
    MAX_SIDE,
    SHORT_SIDE,
    distinct_colors,
    draw_planes,
    encode,
    overlay,
    paint_grey,
    picture_size,
    resize_labels,
    window_of,
)
from unet_batch.reporting.planes import planes_of

RED, BLUE = (255, 0, 0), (0, 0, 255)


def describe(
    shape: tuple[int, int, int], *, modality: str = "MR", name: str = "case_1"
) -> VolumeInfo:
    statistics = ChannelStatistics(
        min=-5.0,
        max=900.0,
        mean=50.0,
        std=10.0,
        percentiles={0.5: 2.0, 99.5: 700.0},
        foreground_share=0.5,
        foreground_mean=90.0,
        foreground_std=9.0,
        num_nonfinite=0,
    )
    return VolumeInfo(
        id=name,
        shape_czyx=(1, *shape),
        dtype="int16",
        spacing_mm=(4.0, 1.0, 1.0),
        affine=(0, 0, -1, 0, 0, -1, 0, 0, 4, 0, 0, 0, 0, 0, 0, 1),
        chunk_zyx=shape,
        shard_zyx=shape,
        content_hash="c",
        channels=("image",),
        statistics=(statistics,),
        modality=modality,
    )


def decode(data_uri: str) -> np.ndarray:
    head, _, content = data_uri.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


@pytest.mark.parametrize(
    ("height_mm", "width_mm"), [(100.0, 100.0), (300.0, 210.0), (60.0, 180.0), (5.0, 300.0)]
)
def test_pictures_keep_the_aspect_of_the_patient(height_mm: float, width_mm: float) -> None:
    height, width = picture_size((height_mm, width_mm))
    assert height / width == pytest.approx(height_mm / width_mm, rel=0.05)
    assert max(height, width) <= MAX_SIDE
    assert min(height, width) >= SHORT_SIDE or max(height, width) == MAX_SIDE


def test_ct_is_shown_in_the_abdominal_window_and_others_by_their_percentiles() -> None:
    assert window_of(describe((4, 5, 6), modality="CT"), 0) == CT_ABDOMEN_HU
    assert window_of(describe((4, 5, 6)), 0) == (2.0, 700.0)


def test_grey_values_span_the_window_and_nonfinite_voxels_are_drawn() -> None:
    voxels = np.array([[0.0, 100.0], [np.nan, np.inf]])
    assert paint_grey(voxels, (2, 2), (0.0, 100.0)).round(3).tolist() == [[0, 1], [0, 1]]


def test_a_constant_image_is_drawn_without_a_warning() -> None:
    assert paint_grey(np.full((3, 3), 7), (6, 6), (7.0, 7.0)).max() == 0.0


def test_enlarged_labels_keep_their_values_and_places() -> None:
    labels = np.array([[0, 0, 7, 7], [0, 0, 7, 7], [300, 300, 0, 0], [300, 300, 0, 0]])
    large = resize_labels(labels, (40, 40))
    assert set(np.unique(large)) == {0, 7, 300}
    assert (large[5, 35], large[35, 5], large[5, 5]) == (7, 300, 0)
    assert (large == 7).mean() == pytest.approx(0.25, abs=0.02)


def test_the_mask_is_tinted_and_outlined_in_its_own_colour() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[10:50, 10:30], mask[10:50, 30:50] = 1, 2
    rgb = overlay(np.full((60, 60), 0.5, np.float32), mask, None, {1: RED, 2: BLUE})
    assert rgb[30, 10].tolist() == list(RED)
    assert rgb[30, 49].tolist() == list(BLUE)
    assert rgb[30, 20, 0] > rgb[30, 20, 2] > 0
    assert rgb[5, 5].tolist() == [128, 128, 128]


def test_the_truth_is_a_white_line_around_the_mask_it_agrees_with() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 20:40] = 1
    rgb = overlay(np.zeros((60, 60), np.float32), mask, mask, {1: RED})
    assert rgb[30, 19].tolist() == [255, 255, 255]
    assert rgb[30, 20].tolist() == list(RED)


def test_classes_of_one_colour_are_told_apart() -> None:
    same = [LabelClass(1, "a"), LabelClass(2, "b"), *(LabelClass(k, "c") for k in range(3, 80))]
    assert len(set(distinct_colors(same).values())) == len(same)
    own = [LabelClass(1, "a", RED), LabelClass(2, "b", BLUE)]
    assert distinct_colors(own) == {1: RED, 2: BLUE}


def test_three_planes_are_drawn_through_the_mask() -> None:
    info = describe((10, 40, 30))
    mask = np.zeros((10, 40, 30), np.uint8)
    mask[2:5, 10:15, 20:25] = 1
    image = da.zeros((10, 40, 30), dtype=np.int16)
    pictures = draw_planes(
        info, image, da.from_array(mask), None, colors={1: RED}, window=(0.0, 1.0)
    )
    assert [(p.plane, p.where) for p in pictures] == [
        ("axial", "slice 4 of 10"),
        ("coronal", "slice 13 of 40"),
        ("sagittal", "slice 23 of 30"),
    ]
    for picture in pictures:
        rgb = decode(picture.data_uri)
        assert rgb.shape == (picture.height, picture.width, 3)
        assert rgb[..., 0].max() > 150
        assert picture.alt.endswith("of case_1 with its mask")


def test_a_single_image_has_one_picture_without_anatomical_letters() -> None:
    info = describe((1, 40, 30), modality="")
    mask, image = da.ones((1, 40, 30), dtype=np.uint8), da.zeros((1, 40, 30))
    (picture,) = draw_planes(info, image, mask, None, colors={1: RED}, window=(0.0, 1.0))
    assert (picture.plane, picture.where, picture.left) == ("image", "", "")
    assert picture.alt == "image of case_1 with its mask"


def test_only_the_slices_shown_are_read_from_the_scan() -> None:
    read: list[tuple[int, ...]] = []

    def load(block_info: dict | None = None) -> np.ndarray:
        read.append(block_info[None]["chunk-location"])
        return np.zeros((1, 8, 8), np.int16)

    image = da.map_blocks(load, chunks=((1,) * 16, (8,), (8,)), meta=np.empty((0, 0, 0), np.int16))
    mask = np.zeros((16, 8, 8), np.uint8)
    mask[3] = 1
    affine = np.array(describe(mask.shape).affine).reshape(4, 4)
    (axial, *_) = planes_of(affine, image.shape)
    axial.cut(image, 3)
    assert set(read) == {(3, 0, 0)}


def test_pictures_are_reproducible() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    assert encode(rgb) == encode(rgb.copy())

"""Pictures: channels and greys as stored, laid down so that no viewer turns them over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from unet_batch.errors import UnreadableScanError, VoxelError
from unet_batch.formats import pictures
from unet_batch.formats.geometry import orientation_code
from unet_batch.formats.pictures import picture_affine, read_picture, read_picture_mask

RGBA = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_colours_are_channels_and_transparency_is_dropped(tmp_path: Path) -> None:
    scan = read_picture(saved(tmp_path / "a.png", RGBA))
    assert np.array_equal(scan.voxels_czyx[:, 0], np.moveaxis(RGBA[..., :3], -1, 0))
    assert scan.channels == ("red", "green", "blue")
    assert "transparency (alpha) was dropped" in scan.warnings


@pytest.mark.parametrize(("mode", "odd"), [("L", 1), ("LA", 2), ("1", 1), ("I;16", 1)])
def test_greys_are_one_channel(mode: str, odd: int, tmp_path: Path) -> None:
    grey = np.array([[0, 255, 255], [255, 0, 0]], np.uint16 if mode == "I;16" else np.uint8)
    scan = read_picture(saved(tmp_path / "a.png", grey, None if mode == "I;16" else mode))
    values = scan.voxels_czyx[0, 0]
    assert np.array_equal(values > 0, grey > 0)
    assert (scan.channels, len(scan.warnings)) == (("grey",), odd)


def test_columns_go_left_and_rows_to_the_back() -> None:
    affine = picture_affine((3, 2, 1))
    assert orientation_code(affine) == "LPS"
    assert (affine @ [0, 0, 1, 0])[:3].tolist() == [-1, 0, 0]
    assert (affine @ [0, 1, 0, 0])[:3].tolist() == [0, -2, 0]
    assert np.linalg.det(affine) < 0, "right-handed, once columns are x, y, z"


def test_spacing_comes_from_the_spec_or_is_assumed_aloud(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", RGBA[..., 0])
    assert read_picture(path, spacing_mm=(3, 2, 1)).spacing_mm == (3, 2, 1)
    assert "1 mm is assumed" in read_picture(path).warnings[-1]


def test_masks_are_greys_indices_or_equal_colours(tmp_path: Path) -> None:
    classes = np.array([[0, 1], [2, 200]], np.uint8)
    palette = PIL.Image.fromarray(classes).convert("P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "p.png")
    same = np.repeat(classes[..., None], 4, axis=2)
    for path in (
        saved(tmp_path / "l.png", classes),
        tmp_path / "p.png",
        saved(tmp_path / "c.png", same),
    ):
        assert np.array_equal(read_picture_mask(path), classes), path.name
    with pytest.raises(VoxelError, match="a mask in colours"):
        read_picture_mask(saved(tmp_path / "a.png", RGBA))


def test_what_is_no_picture_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    whole = saved(tmp_path / "a.png", noise).read_bytes()
    for content in (whole[: len(whole) // 2], b"text", whole[:20] + b"\xff\xff" + whole[22:]):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(UnreadableScanError, match=r"a\.png"):
            read_picture(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 5)
    with pytest.raises(UnreadableScanError, match="3 x 2 pixels"):
        read_picture(saved(tmp_path / "b.png", RGBA))
    monkeypatch.undo()
    with pytest.raises(VoxelError, match="CMYK"):
        read_picture(saved(tmp_path / "c.jpg", RGBA[..., :3], "CMYK"))


@pytest.mark.data
def test_every_real_picture_is_read(scans: Path) -> None:
    nuclei = sorted(scans.glob("nuclei_dsb2018_2d/*/images/*.png"))
    assert {read_picture(path).channels for path in nuclei} == {("red", "green", "blue")}
    sem = sorted(scans.glob("sem_axon_myelin_2d/images/*.png"))
    assert all(read_picture(path).voxels_czyx.shape[:2] == (1, 1) for path in sem)
    assert (len(nuclei), len(sem)) == (29, 6)

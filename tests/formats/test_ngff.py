"""OME-Zarr in: 0.4 and 0.5, chunk by chunk, at the place that scales and axes tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from unet_batch.errors import UnreadableScanError, VoxelError
from unet_batch.formats import ngff
from unet_batch.formats.geometry import orientation_code
from unet_batch.formats.ngff import is_zarr, read_ome_zarr
from unet_batch.formats.phantom import phantom
from unet_batch.storage.archive import open_archive

VOXELS = np.arange(2 * 5 * 6 * 7, dtype=np.uint16).reshape(2, 5, 6, 7)
RAS = dict(
    zip("zyx", ("inferior-to-superior", "posterior-to-anterior", "left-to-right"), strict=True)
)


def image(path: Path, *, version: str = "0.5", letters: str = "czyx", voxels: Any = VOXELS,
          oriented: bool = False, dataset: str = "0") -> Path:  # fmt: skip
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("0", data=voxels, chunks=tuple(min(3, n) for n in voxels.shape))
    axes: list[dict[str, Any]] = []
    for letter in letters:
        axes.append({"name": letter, "type": {"c": "channel", "t": "time"}.get(letter, "space")})
        if letter in RAS:
            axes[-1]["unit"] = "micrometer"
            if oriented:
                axes[-1]["orientation"] = {"type": "anatomical", "value": RAS[letter]}
    scale = [{"z": 3000.0, "y": 1000.0, "x": 500.0}.get(letter, 1.0) for letter in letters]
    shift = [{"z": 9000.0, "y": 2000.0}.get(letter, 0.0) for letter in letters]
    transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
    content = {
        "axes": axes,
        "datasets": [{"path": dataset, "coordinateTransformations": transforms}],
        "version": version,
    }
    own = {"multiscales": [content]}
    group.attrs.update({"ome": {"version": version, **own}} if version == "0.5" else own)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_voxels_and_place_are_those_of_the_image(version: str, tmp_path: Path) -> None:
    path = image(tmp_path / "a.ome.zarr", version=version, oriented=True)
    assert is_zarr(path)
    scan = read_ome_zarr(path)
    assert np.array_equal(scan.voxels_czyx, VOXELS)
    assert scan.spacing_mm == (3, 1, 0.5)
    assert orientation_code(scan.affine) == "RAS"
    assert scan.affine[:3, 3].tolist() == [0, 2, 9]
    assert (scan.name, scan.warnings) == ("a", ())


@pytest.mark.parametrize(("letters", "axes"), [("yx", (2, 3)), ("zyx", (1, 2, 3)), ("xyzc", ()),
                                               ("tczyx", ()), ("cyx", (0, 2, 3))])  # fmt: skip
def test_axes_come_in_any_order_and_number(
    letters: str, axes: tuple[int, ...], tmp_path: Path
) -> None:
    whole = VOXELS[:, :1] if letters == "cyx" else VOXELS
    index = {"yx": (0, 0), "zyx": (0,), "cyx": (slice(None), 0)}.get(letters, ())
    stored = whole[index]
    if letters == "xyzc":
        stored = stored.transpose(3, 2, 1, 0)
    stored = stored[None] if letters == "tczyx" else stored
    scan = read_ome_zarr(image(tmp_path / "a.zarr", letters=letters, voxels=stored))
    expected = whole[{"yx": np.s_[:1, :1], "zyx": np.s_[:1]}.get(letters, np.s_[:])]
    assert np.array_equal(scan.voxels_czyx, expected)
    assert len(axes) in {0, len(letters)}


def test_without_orientation_it_lies_as_a_picture(tmp_path: Path) -> None:
    scan = read_ome_zarr(image(tmp_path / "a.zarr"))
    assert orientation_code(scan.affine) == "LPS"
    assert "no anatomical orientation" in scan.warnings[0]


def test_what_unet_batch_wrote_comes_back_exactly(tmp_path: Path) -> None:
    made, _ = phantom(5, shape_zyx=(6, 7, 8))
    archive = open_archive(tmp_path / "archive", create=True)
    archive.write_scan(made, source={})
    scan = read_ome_zarr(tmp_path / "archive/volumes" / made.name)
    assert np.array_equal(scan.voxels_czyx, made.voxels_czyx)
    assert np.array_equal(scan.affine, made.affine)
    assert scan.channels == made.channels


def test_a_large_image_goes_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngff, "MAX_BYTES_IN_MEMORY", 100)
    scan = read_ome_zarr(image(tmp_path / "a.zarr"))
    assert isinstance(scan.voxels_czyx.base, np.memmap) or isinstance(scan.voxels_czyx, np.memmap)
    assert np.array_equal(scan.voxels_czyx, VOXELS)


def test_links_and_data_sets_outside_are_refused(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr", dataset="../b.zarr/0")
    image(tmp_path / "b.zarr")
    with pytest.raises(UnreadableScanError, match="lies outside of it"):
        read_ome_zarr(path)
    (tmp_path / "b.zarr/1").symlink_to(tmp_path / "a.zarr")
    with pytest.raises(UnreadableScanError, match="holds the link"):
        read_ome_zarr(tmp_path / "b.zarr")


def test_absurd_shapes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr")
    document = json.loads((path / "0/zarr.json").read_text())
    document["shape"] = [2, 500_000, 600_000, 700_000]
    (path / "0/zarr.json").write_text(json.dumps(document))
    with pytest.raises(UnreadableScanError, match="corrupt, or set TMPDIR"):
        read_ome_zarr(path)


def test_damage_and_strangers_are_named(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr")
    for chunk in (path / "0/c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(chunk.read_bytes()[:10])
    with pytest.raises(UnreadableScanError, match=r"a\.zarr: not a readable OME-Zarr"):
        read_ome_zarr(path)
    zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
    with pytest.raises(UnreadableScanError, match="without `multiscales`"):
        read_ome_zarr(tmp_path / "b.zarr")
    (tmp_path / "b.zarr/zarr.json").write_text("{")
    with pytest.raises(UnreadableScanError, match=r"b\.zarr"):
        read_ome_zarr(tmp_path / "b.zarr")
    with pytest.raises(VoxelError, match="2 time points"):
        read_ome_zarr(image(tmp_path / "c.zarr", letters="tzyx"))
    with pytest.raises(VoxelError, match="axes 'qzyx'"):
        read_ome_zarr(image(tmp_path / "d.zarr", letters="qzyx"))

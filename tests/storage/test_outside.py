"""OME-Zarr taken in place: read where it lies in any layout, never written, told when changed."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unet_batch.errors import ConflictError, NotFoundError, StoreError, UnreadableScanError
from unet_batch.formats.discovery import discover
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage import outside
from unet_batch.storage.archive import Archive, content_of_any, open_archive
from unet_batch.storage.bucket_tree import locator
from unet_batch.storage.content import content_of
from unet_batch.storage.outside import OutsideArray, copy_outside, describe_outside
from unet_batch.storage.stores import open_store
from unet_batch.storage.volume import Volume

VOXELS = np.random.default_rng(0).integers(0, 999, (2, 9, 8, 7)).astype(np.uint16)
LAYOUTS = [
    ("czyx", "0.5", {}),
    ("czyx", "0.5", {"chunks": (1, 3, 4, 7), "shards": (2, 6, 8, 7)}),
    ("tczyx", "0.4", {"chunks": (1, 2, 1, 8, 7)}),
    ("xyzc", "0.4", {"chunks": (7, 2, 9, 1), "fill_value": 7}),
    ("zyx", "0.4", {"chunks": (4, 5, 6)}),
    ("yx", "0.5", {"chunks": (8, 3)}),
]


def image(path: Path, letters: str = "czyx", version: str = "0.5", options: Any = None, *,
          voxels: NDArray[Any] = VOXELS) -> Path:  # fmt: skip
    """An NGFF image of `voxels` (c, z, y, x), its axes in the order of `letters`."""
    order = ["tczyx".index(letter) for letter in letters]
    others = [n for n in range(5) if n not in order]
    stored = voxels[None].transpose([*order, *others])[(..., *(0 for _ in others))]
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("0", data=stored, **(options or {"chunks": (1, *[3] * (stored.ndim - 1))}))
    axes = [{"name": n, **({"unit": "micrometer"} if n in "zyx" else {})} for n in letters]
    scale = [{"z": 3000.0, "y": 1000.0, "x": 500.0}.get(letter, 1.0) for letter in letters]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    found = {"multiscales": [{"axes": axes, "datasets": datasets, "version": version}]}
    group.attrs.update({"ome": {"version": version, **found}} if version == "0.5" else found)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def another_process(archive: Archive, name: str = "a") -> Volume:
    """The Volume, as a process sees it that has not looked at it yet."""
    outside._opened.cache_clear()
    return open_archive(archive.url)[name]


def register(archive: Archive, path: Path) -> Scan:
    scan = describe_outside(path, name="a")
    archive.write_scan(scan, source={})
    return scan


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda one: f"{one[0]}-{one[1]}")
def laid_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    path = tmp_path_factory.mktemp("images") / "a.ome.zarr"
    return describe_outside(image(path, *request.param), name="a")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return open_archive(tmp_path / "archive", create=True)


@given(st.data())
def test_any_selection_is_that_of_the_voxels(laid_out: Scan, data: st.DataObject) -> None:
    assert laid_out.outside is not None
    letters = laid_out.outside.axes
    whole = VOXELS[: 2 if "c" in letters else 1, : 9 if "z" in letters else 1]
    array = OutsideArray(laid_out.outside, whole.shape, "uint16")
    ints = [st.integers(-n, n - 1) for n in whole.shape]
    parts = [st.one_of(st.slices(n), one) for n, one in zip(whole.shape, ints, strict=True)]
    selection = data.draw(st.tuples(*parts))
    assert np.array_equal(array.read(selection), whole[selection])
    cut = data.draw(st.integers(0, 4))
    assert np.array_equal(array.read((*selection[:cut], ...)), whole[(*selection[:cut], ...)])
    assert np.array_equal(array.read(np.s_[:, [0, -1]]), whole[:, [0, -1]])


def test_content_and_place_are_those_of_a_copy(laid_out: Scan) -> None:
    assert laid_out.outside is not None
    copied = copy_outside(laid_out.outside.url, name="a")
    assert content_of_any(laid_out) == content_of(copied)
    assert np.array_equal(laid_out.affine, copied.affine)
    assert laid_out.spacing_mm[1:] == (1.0, 0.5)
    assert (laid_out.channels, laid_out.metadata) == (copied.channels, copied.metadata)


@pytest.mark.parametrize("dtype", [">i2", "bool", "float32", "uint8"])
def test_slabs_of_any_type_give_the_content_of_the_whole(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voxels = (VOXELS % 2).astype(dtype)
    scan = describe_outside(image(tmp_path / "a", "czyx", "0.4", voxels=voxels), name="a")
    monkeypatch.setattr(outside, "MAX_SLAB_BYTES", 1)
    found, expected = content_of_any(scan), content_of(copy_outside(tmp_path / "a", name="a"))
    assert found.content_hash == expected.content_hash
    assert found.statistics[1].std == pytest.approx(expected.statistics[1].std)


def test_a_volume_taken_in_place_reads_as_any_other(tmp_path: Path, archive: Archive) -> None:
    path = image(tmp_path / "a.ome.zarr", "tczyx", "0.4", {"chunks": (1, 1, 2, 8, 7)})
    before = contents(path)
    register(archive, path)
    volume = open_archive(archive.url)["a"]
    assert np.array_equal(volume.image.compute(scheduler="synchronous"), VOXELS)
    assert np.array_equal(volume.image[1, 2:5, ::2, 3].compute(scheduler="synchronous"),
                          VOXELS[1, 2:5, ::2, 3])  # fmt: skip
    assert volume.image.chunksize == (1, 9, 8, 7)
    mask = Mask(np.ones((9, 8, 7), np.uint8), volume.affine, (LabelClass(1, "all"),))
    volume.write_labels("m", mask, provenance={})
    assert volume.labels["m"].array.sum().compute(scheduler="synchronous") == 9 * 8 * 7
    assert contents(path) == before
    assert not list((tmp_path / "archive/volumes/a").glob("0-*"))


def test_a_rebuilt_catalog_still_knows_where_voxels_lie(tmp_path: Path, archive: Archive) -> None:
    register(archive, image(tmp_path / "a.ome.zarr"))
    (before,) = archive.catalog.rows()
    archive.catalog.rebuild()
    assert archive.catalog.rows() == [before]
    assert before.outside is not None
    assert before.outside.url == str(tmp_path / "a.ome.zarr")


def test_a_vanished_image_is_named(tmp_path: Path, archive: Archive) -> None:
    path = image(tmp_path / "a.ome.zarr")
    register(archive, path)
    path.rename(tmp_path / "b.ome.zarr")
    with pytest.raises(NotFoundError, match=r"a\.ome\.zarr: .* taken in place and is gone"):
        another_process(archive).stored[:]


@pytest.mark.parametrize("changed", ["0/c/0/0/0/0", "0/zarr.json", "zarr.json"])
def test_a_changed_image_is_named(changed: str, tmp_path: Path, archive: Archive) -> None:
    path = image(tmp_path / "a.ome.zarr")
    register(archive, path)
    content = (path / changed).read_bytes()
    (path / changed).write_bytes(content.replace(b'"attributes": {}', b'"attributes": {"a":1}')
                                 .replace(b'"micrometer"', b'"nanometer"', 1))  # fmt: skip
    if "json" not in changed:
        os.utime(path / changed, ns=(1, 1))
    with pytest.raises(StoreError, match=r"a\.ome\.zarr: .* has changed since"):
        another_process(archive).stored[:]


def test_a_chunk_that_goes_while_it_is_read_is_no_background(
    tmp_path: Path, archive: Archive
) -> None:
    path = image(tmp_path / "a.ome.zarr")
    register(archive, path)
    stored = archive["a"].stored
    assert stored[0, 0, 0, 0] == VOXELS[0, 0, 0, 0]
    (path / "0/c/1/2/2/2").unlink()
    with pytest.raises(NotFoundError, match="0/c/1/2/2/2"):
        stored[1]


def test_chunks_that_never_were_are_background(tmp_path: Path, archive: Archive) -> None:
    path = image(tmp_path / "a.ome.zarr", voxels=np.pad(VOXELS, ((0, 0), (0, 9), (0, 0), (0, 0))))
    register(archive, path)
    assert not (path / "0/c/0/5").exists()
    assert not archive["a"].stored[:, 9:].any()


def test_labels_added_beside_the_image_do_not_count_as_a_change(
    tmp_path: Path, archive: Archive
) -> None:
    path = image(tmp_path / "a.ome.zarr")
    register(archive, path)
    zarr.open_group(str(path), mode="a").create_group("labels")
    with pytest.warns(zarr.errors.ZarrUserWarning, match="Consolidated"):
        zarr.consolidate_metadata(str(path))
    assert np.array_equal(another_process(archive).stored[:], VOXELS)


def test_one_that_moved_is_found_again_by_another_ingest(tmp_path: Path, archive: Archive) -> None:
    path = image(tmp_path / "a.ome.zarr")
    register(archive, path)
    path.rename(tmp_path / "b.ome.zarr")
    register(archive, tmp_path / "b.ome.zarr")
    assert np.array_equal(archive["a"].stored[:], VOXELS)
    assert archive.catalog.rows()[0].outside == archive.info("a").outside


def test_it_can_be_copied_later_but_not_be_replaced(tmp_path: Path, archive: Archive) -> None:
    path = image(tmp_path / "a.ome.zarr")
    register(archive, path)
    archive.write_scan(copy_outside(path, name="a"), source={})
    assert archive.info("a").outside is None
    image(path, voxels=VOXELS + 1)
    with pytest.raises(ConflictError, match="holds another scan"):
        register(archive, path)
    assert np.array_equal(archive["a"].stored[:], VOXELS)


def test_images_in_a_bucket_are_found_and_read_there(s3_bucket: str, tmp_path: Path) -> None:
    place = f"s3://{s3_bucket}/{uuid.uuid4().hex}"
    image(tmp_path / "a.ome.zarr", "zyx", "0.4", {"chunks": (2, 8, 7)})
    store = open_store(place)
    for path in (p for p in (tmp_path / "a.ome.zarr").rglob("*") if p.is_file()):
        store.put(f"sub/{path.relative_to(tmp_path).as_posix()}", path.read_bytes())
    archive = open_archive(f"{place}/archive", create=True)
    (source,) = discover([place], locate=locator()).scans
    assert source.image == f"{store.url}/sub/a.ome.zarr"
    archive.write_scan(describe_outside(source.image, name="a"), source={})
    assert np.array_equal(archive["a"].stored[:], VOXELS[:1])
    assert np.array_equal(copy_outside(source.image, name="a").voxels_czyx, VOXELS[:1])


@pytest.mark.parametrize("is_copied", [True, False])
def test_a_volume_of_ours_keeps_its_modality(
    archive: Archive, tmp_path: Path, *, is_copied: bool
) -> None:
    other = open_archive(tmp_path / "other", create=True)
    other.write_scan(Scan("v", VOXELS, np.eye(4), ("a", "b"), modality="MR"), source={})
    path = tmp_path / "other/volumes/v"
    read = copy_outside if is_copied else describe_outside
    assert archive.write_scan(read(path, name="v"), source={}).modality == "MR"
    document = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(document.replace('"MR"', '"Jane Doe"'))
    assert read(path, name="w").modality == "", "codes only"


def test_an_absurd_shape_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = image(tmp_path / "a.ome.zarr")
    document = json.loads((path / "0/zarr.json").read_text())
    document["shape"] = [2, 500_000, 600_000, 700_000]
    (path / "0/zarr.json").write_text(json.dumps(document))
    with pytest.raises(UnreadableScanError, match=r"its chunks hold .*: corrupt"):
        describe_outside(path, name="a")

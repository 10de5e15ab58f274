"""Pyramids: NGFF-valid levels at the right places, made of the voxels, gone with their mask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage import pyramid
from unet_batch.storage.archive import Archive
from unet_batch.storage.pyramid import build_image_pyramid, build_pyramids, levels_of

SHAPE = (2, 6, 21, 30)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "MAX_SINGLE_CHUNK_VOXELS", 200)


@pytest.fixture
def filled(archive: Archive, make_scan: Callable[..., Scan]) -> Archive:
    """An Archive of one Volume with Labels, spacing about 2.5 x 0.7 x 0.8 mm."""
    scan = make_scan("a", shape=SHAPE)
    archive.write_scan(scan, source={})
    voxels = np.random.default_rng(0).integers(0, 3, SHAPE[1:]).astype(np.uint8)
    classes = (LabelClass(1, "one"), LabelClass(2, "two"))
    archive["a"].write_labels("m", Mask(voxels, scan.affine, classes), provenance={})
    return archive


@given(st.tuples(*[st.integers(1, 900)] * 3), st.tuples(*[st.floats(0.1, 9)] * 3))
def test_levels_end_at_one_chunk_and_become_isotropic(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    levels = levels_of(shape, spacing)
    for level in levels:
        assert max(level.factors_zyx) == 2
        shape = tuple(n // f for n, f in zip(shape, level.factors_zyx, strict=True))  # type: ignore[assignment]
        assert level.shape_zyx == shape
        assert min(shape) >= 1
    assert np.prod(shape) <= 200


def test_levels_are_means_at_the_middle_of_their_voxels(filled: Archive) -> None:
    volume = filled["a"]
    before = volume.stored[:]
    build_image_pyramid(volume)
    group = zarr.open_group(store=_zarr_store(filled), path="volumes/a", mode="r")
    scale = dict(group.attrs)["ome"]["multiscales"][0]
    first, second, *_ = scale["datasets"]
    found = np.asarray(group[second["path"]])
    expected = before[:, :, :20].reshape(2, 6, 10, 2, 15, 2).mean(axis=(3, 5))
    assert np.array_equal(found, np.rint(expected))
    places = [one["coordinateTransformations"] for one in (first, second)]
    pitch = np.array(places[0][0]["scale"])
    assert np.allclose(places[1][0]["scale"], pitch * [1, 1, 2, 2])
    moved = np.subtract(places[1][1]["translation"], places[0][1]["translation"])
    assert np.allclose(moved, pitch * [0, 0, 0.5, 0.5])
    assert np.array_equal(filled["a"].stored[:], before)


def test_masks_are_picked_and_never_mixed(filled: Archive) -> None:
    before = filled["a"].labels["m"].stored[:]
    build_pyramids(filled["a"])
    group = zarr.open_group(store=_zarr_store(filled), path="volumes/a/labels/m", mode="r")
    scale = dict(group.attrs)["ome"]["multiscales"][0]
    first, second, *_ = scale["datasets"]
    assert np.array_equal(np.asarray(group[second["path"]]), before[:, :20:2, ::2])
    moved = [one["coordinateTransformations"][1]["translation"] for one in (first, second)]
    assert moved[0] == moved[1]
    assert np.array_equal(filled["a"].labels["m"].stored[:], before)


def test_documents_are_valid_ngff(local_archive: Archive, make_scan: Callable[..., Scan]) -> None:
    scan = make_scan("a", shape=SHAPE)
    local_archive.write_scan(scan, source={})
    mask = Mask(np.ones(SHAPE[1:], np.uint8), scan.affine, (LabelClass(1, "one"),))
    local_archive["a"].write_labels("m", mask, provenance={})
    build_pyramids(local_archive["a"])
    for path in ("volumes/a", "volumes/a/labels/m"):
        folder = Path(local_archive.url) / path
        document = json.loads((folder / "zarr.json").read_text())
        yaozarrs.validate_ome_json(json.dumps(document["attributes"]))
        yaozarrs.validate_zarr_store(folder)
        assert len(document["attributes"]["ome"]["multiscales"][0]["datasets"]) > 2


def test_building_again_changes_nothing(filled: Archive) -> None:
    build_pyramids(filled["a"])
    before = _contents(filled)
    build_pyramids(filled["a"])
    assert _contents(filled) == before
    assert list(filled.cleaner(grace_s=-1).find()) == []


def test_levels_go_with_the_mask_they_were_made_of(
    filled: Archive, make_scan: Callable[..., Scan]
) -> None:
    build_pyramids(filled["a"])
    volume = filled["a"]
    mask = Mask(np.zeros(SHAPE[1:], np.uint8), volume.affine, (LabelClass(1, "one"),))
    volume.write_labels("m", mask, provenance={})
    key = filled["a"].labels["m"].key
    folders = {path.split("/")[4] for path in _contents(filled) if "labels/m/" in path}
    assert folders == {key, "zarr.json"}


def _zarr_store(archive: Archive) -> object:
    from unet_batch.storage.stores import open_store

    return open_store(archive.url).zarr_store


def _contents(archive: Archive) -> dict[str, bytes]:
    from unet_batch.storage.stores import open_store

    store = open_store(archive.url)
    return {path: store.get(path) for path in store.list_objects("volumes")}

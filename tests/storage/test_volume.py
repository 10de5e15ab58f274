"""A Volume says what was ingested, and takes masks on its own grid only."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unet_batch.errors import GeometryError, NotFoundError, SpecError, StoreError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Volume

CLASSES = (LabelClass(1, "liver"), LabelClass(300, "spleen"))


@pytest.fixture
def scan(make_scan: Callable[..., Scan]) -> Scan:
    return make_scan(shape=(2, 5, 6, 7))


@pytest.fixture
def volume(local_archive: Archive, scan: Scan) -> Volume:
    local_archive.write_scan(scan, source={"path": "x.nii.gz"})
    return local_archive[scan.name]


@pytest.fixture
def mask(scan: Scan) -> Mask:
    voxels = np.random.default_rng(1).choice([0, 1, 300], (5, 6, 7)).astype(np.uint16)
    return Mask(voxels, scan.affine, CLASSES)


def test_a_volume_is_what_was_ingested(volume: Volume, scan: Scan) -> None:
    np.testing.assert_array_equal(volume.image.compute(), scan.voxels_czyx)
    np.testing.assert_array_equal(volume.stored[1, 2:4], scan.voxels_czyx[1, 2:4])
    np.testing.assert_array_equal(volume.affine, scan.affine)
    assert volume.spacing_mm == scan.spacing_mm
    assert volume.metadata == {"kernel": "B30f"}
    assert volume.id == "ct-1"
    assert volume.info.channels == ("c0", "c1")
    assert volume.info.modality == "CT"


def test_a_mask_written_at_once_is_read_back(volume: Volume, mask: Mask) -> None:
    volume.write_labels("truth", mask, provenance={"by": "radiologist"})
    labels = volume.labels["truth"]
    np.testing.assert_array_equal(labels.array.compute(), mask.voxels_zyx)
    assert labels.array.dtype == np.uint16
    assert labels.classes == CLASSES
    assert labels.provenance == {"by": "radiologist"}
    assert dict(volume.labels) == {"truth": labels}


def test_the_same_mask_again_keeps_its_generation(volume: Volume, mask: Mask) -> None:
    volume.write_labels("truth", mask, provenance={"run": 1})
    volume.write_labels("truth", mask, provenance={"run": 2})
    assert volume.labels["truth"].provenance == {"run": 1}


def test_other_voxels_or_classes_replace_a_mask(volume: Volume, mask: Mask) -> None:
    volume.write_labels("truth", mask, provenance={})
    volume.write_labels("truth", replace(mask, classes=CLASSES[:1]), provenance={})
    assert volume.labels["truth"].classes == CLASSES[:1]
    volume.write_labels("truth", replace(mask, voxels_zyx=mask.voxels_zyx * 0), provenance={})
    assert not volume.labels["truth"].array.compute().any()


def test_a_mask_on_another_grid_is_refused(volume: Volume, mask: Mask) -> None:
    with pytest.raises(GeometryError, match=r"shape \(4, 6, 7\)"):
        volume.write_labels("t", replace(mask, voxels_zyx=mask.voxels_zyx[:4]), provenance={})
    with pytest.raises(GeometryError, match="lies elsewhere"):
        volume.write_labels("t", replace(mask, affine=mask.affine + 0.5), provenance={})
    assert list(volume.labels) == []


def test_float_voxels_are_no_mask(volume: Volume, mask: Mask) -> None:
    with pytest.raises(SpecError, match="dtype float64"):
        volume.write_labels("t", replace(mask, voxels_zyx=mask.voxels_zyx * 1.0), provenance={})


def test_missing_labels_are_named_with_those_there_are(volume: Volume, mask: Mask) -> None:
    volume.write_labels("truth", mask, provenance={})
    with pytest.raises(NotFoundError, match=r"no Labels 'liver'; it has \['truth'\]"):
        volume.labels["liver"]
    assert "liver" not in volume.labels
    assert volume.labels.get("liver") is None


def test_damaged_labels_are_named(volume: Volume, mask: Mask) -> None:
    volume.write_labels("truth", mask, provenance={})
    document = Path(volume.archive_url) / "volumes/ct-1/labels/truth/zarr.json"
    document.write_text('{"attributes": {"unet_batch": {"key": "x"}}}')
    with pytest.raises(StoreError, match=r"labels/truth/zarr\.json: not a complete description"):
        volume.labels["truth"]


def test_a_volume_travels_light(volume: Volume, scan: Scan) -> None:
    pickled = pickle.dumps(volume)
    assert len(pickled) < 4000
    np.testing.assert_array_equal(pickle.loads(pickled).image.compute(), scan.voxels_czyx)

"""The documents are valid NGFF 0.5 and say where the voxels lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs

from unet_batch.errors import SpecError, StoreError
from unet_batch.formats.scan import Mask
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage import ome_zarr
from unet_batch.storage.archive import Archive

RAS_FROM_ZYX = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def space_axes(affine: np.ndarray[Any, Any]) -> list[Any]:
    document: Any = ome_zarr.labels_document("x", "k", affine, (), {})
    return list(document["attributes"]["ome"]["multiscales"][0]["axes"])


def directions(affine: np.ndarray[Any, Any]) -> list[str]:
    return [axis["orientation"]["value"] for axis in space_axes(affine)]


def test_a_volume_with_labels_is_a_valid_ome_zarr_image(
    local_archive: Archive, make_scan: Any
) -> None:
    scan = make_scan(shape=(2, 5, 6, 7))
    local_archive.write_scan(scan, source={})
    voxels = np.ones((5, 6, 7), np.uint8)
    mask = Mask(voxels, scan.affine, (LabelClass(0, "background"), LabelClass(1, "liver")))
    local_archive[scan.name].write_labels("truth", mask, provenance={})
    group = Path(local_archive.url) / "volumes" / scan.name
    yaozarrs.validate_zarr_store(str(group))
    assert yaozarrs.validate_ome_uri(str(group / "zarr.json")).attributes.ome.version == "0.5"
    label = yaozarrs.validate_ome_uri(str(group / "labels" / "truth" / "zarr.json"))
    assert label.attributes.ome.image_label.properties is not None


def test_axes_carry_names_units_and_directions() -> None:
    assert space_axes(RAS_FROM_ZYX) == [
        {"name": n, "type": "space", "unit": "millimeter", "orientation": orientation}
        for n, orientation in zip(
            "zyx",
            _anatomical("inferior-to-superior", "posterior-to-anterior", "left-to-right"),
            strict=True,
        )
    ]


def test_flipped_and_permuted_axes_say_so() -> None:
    sagittal = RAS_FROM_ZYX[[2, 0, 1, 3]] * [[-1], [1], [1], [1]]
    assert directions(sagittal) == [
        "right-to-left",
        "inferior-to-superior",
        "posterior-to-anterior",
    ]


def test_a_tilted_scan_gets_the_nearest_directions(make_scan: Any) -> None:
    assert directions(make_scan().affine) == [
        "inferior-to-superior",
        "posterior-to-anterior",
        "right-to-left",
    ]


def test_no_directions_are_claimed_where_two_axes_share_the_nearest() -> None:
    shear = np.array([[1, 1, 0, 0], [0.5, -0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert all("orientation" not in axis for axis in space_axes(shear))


def test_scale_and_translation_place_an_upright_scan() -> None:
    affine = np.array([[0, 0, -2.0, 30], [0, 3, 0, -7], [5, 0, 0, 11], [0, 0, 0, 1]])
    document: Any = ome_zarr.labels_document("x", "k", affine, (), {})
    scale, translation = document["attributes"]["ome"]["multiscales"][0]["datasets"][0][
        "coordinateTransformations"
    ]
    assert scale["scale"] == [5.0, 3.0, 2.0]
    # x runs right to left, so the right 30 mm are -30 along it.
    assert translation["translation"] == [11.0, -7.0, -30.0]


def test_equal_documents_give_equal_bytes() -> None:
    assert ome_zarr.to_bytes({"a": 1, "b": 2}) == ome_zarr.to_bytes({"b": 2, "a": 1})


def test_metadata_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(SpecError, match="JSON"):
        ome_zarr.to_bytes({"a": float("nan")})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]"])
def test_a_damaged_document_is_named(content: bytes) -> None:
    with pytest.raises(StoreError, match="here"):
        ome_zarr.read_document(content, "here")


@pytest.mark.parametrize("document", [{}, {"attributes": None}, {"attributes": {"ome": {}}}])
def test_a_foreign_document_is_named(document: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="here"):
        ome_zarr.own_attributes(document, "here")
    with pytest.raises(StoreError, match="here"):
        ome_zarr.labels_index_names(document, "here")


def _anatomical(*values: str) -> list[dict[str, str]]:
    return [{"type": "anatomical", "value": value} for value in values]

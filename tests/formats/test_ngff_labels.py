"""Masks that come along with an OME-Zarr image: on its grid, or left out with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from unet_batch.formats.labels import MaskRules
from unet_batch.formats.ngff import read_ome_zarr
from unet_batch.formats.ngff_labels import read_embedded_masks

SHAPE = (4, 6, 8)
MASK = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.int32)


def multiscale(
    group: Any,
    voxels: NDArray[Any],
    version: str,
    *,
    spacing: float | None = 2.0,
    letters: str = "",
) -> None:
    group.create_array("0", data=voxels)
    letters = "tczyx"[5 - voxels.ndim :]
    scale = [1.0 if letter in "tc" or spacing is None else spacing for letter in letters]
    transforms = [{"type": "scale", "scale": scale}]
    axes = [{"name": n, **({"unit": "millimeter"} if n in "zyx" else {})} for n in letters]
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    found = {"multiscales": [{"axes": axes, "datasets": datasets, "version": version}]}
    group.attrs.update({"ome": {"version": version, **found}} if version == "0.5" else found)


def image(path: Path, masks: dict[str, NDArray[Any]], version: str = "0.5", **options: Any) -> Path:
    """An NGFF image of zeros, 2 mm a voxel, with `masks` in its labels."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    multiscale(group, np.zeros((1, *SHAPE), np.uint8), version)
    labels = group.create_group("labels")
    listed: dict[str, Any] = {"labels": list(masks)}
    labels.attrs.update({"ome": {"version": version, **listed}} if version == "0.5" else listed)
    for name, voxels in masks.items():
        multiscale(labels.create_group(name), voxels, version, **options)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("spacing", [2.0, None])
def test_masks_of_the_image_are_found(tmp_path: Path, version: str, spacing: float | None) -> None:
    path = image(tmp_path / "a.zarr", {"cells": MASK[None], "b": MASK}, version, spacing=spacing)
    rules = {"cells": MaskRules(class_names={1: "nucleus", 2: "wall"})}
    scan = read_ome_zarr(path)
    found = read_embedded_masks(path, scan, rules)
    assert sorted(found.masks) == ["b", "cells"]
    assert np.array_equal(found.masks["cells"].voxels_zyx, MASK)
    assert [c.name for c in found.masks["cells"].classes] == ["background", "nucleus", "wall"]
    assert np.array_equal(found.masks["b"].affine, scan.affine)
    assert found.warnings == ()


def test_a_mask_of_other_spacing_is_left_out_with_the_reason(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr", {"half": MASK[::2, ::2, ::2]}, spacing=3.7)
    found = read_embedded_masks(path, read_ome_zarr(path), {})
    assert not found.masks
    assert "the mask 'half' in its `labels` was left out" in found.warnings[0]


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [(MASK + 70_000, "whole numbers of 0 to 65535"), (-MASK, "whole numbers"),
     (MASK.astype(np.float32), "whole numbers"), (np.stack([MASK, MASK]), "2 channels")],
)  # fmt: skip
def test_masks_of_odd_voxels_are_left_out(
    tmp_path: Path, voxels: NDArray[Any], reason: str
) -> None:
    path = image(tmp_path / "a.zarr", {"odd": voxels, "fine": MASK})
    found = read_embedded_masks(path, read_ome_zarr(path), {})
    assert list(found.masks) == ["fine"]
    assert reason in found.warnings[0]


def test_names_that_lead_elsewhere_and_masks_that_are_missing_do_no_harm(tmp_path: Path) -> None:
    image(tmp_path / "secret.zarr", {"x": MASK})
    path = image(tmp_path / "a.zarr", {"x": MASK})
    names = ["../../secret.zarr/labels/x", "/etc", "x", "gone", 7, None, "a/b"]
    labels = zarr.open_group(str(path / "labels"), mode="r+")
    labels.attrs["ome"] = {"version": "0.5", "labels": names}
    found = read_embedded_masks(path, read_ome_zarr(path), {})
    assert list(found.masks) == ["x"]
    assert len(found.warnings) == 1
    assert "'gone'" in found.warnings[0]


@pytest.mark.parametrize("labels", [None, 7, {"a": 1}])
def test_an_image_without_a_list_of_masks_has_none(tmp_path: Path, labels: Any) -> None:
    path = image(tmp_path / "a.zarr", {})
    zarr.open_group(str(path / "labels"), mode="r+").attrs["ome"] = {"labels": labels}
    assert not read_embedded_masks(path, read_ome_zarr(path), {}).masks
    assert not read_embedded_masks(tmp_path / "none.zarr", read_ome_zarr(path), {}).masks

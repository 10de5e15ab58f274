"""The small Python API that users may rely on. A change here is a change of the product."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np

import unet_batch
from unet_batch.formats.scan import Mask, Scan


def test_the_public_names_are_these() -> None:
    assert unet_batch.__all__ == [
        "Archive",
        "LabelClass",
        "Labels",
        "UnetBatchError",
        "Volume",
        "VolumeInfo",
        "open_archive",
    ]
    for name in unet_batch.__all__:
        assert getattr(unet_batch, name).__doc__


def test_an_archive_is_a_mapping_of_volumes(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.0, 5], [0, 1.5, 0, -3], [4, 0, 0, 0], [0, 0, 0, 1.0]])
    voxels = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    archive = unet_batch.open_archive(tmp_path / "archive", create=True)
    archive.write_scan(Scan("a", voxels, affine, ("T1", "T2"), "MR", {"k": 1}), source={})
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1] = 1
    classes = (unet_batch.LabelClass(0, "background"), unet_batch.LabelClass(1, "organ"))
    archive["a"].write_labels("reference", Mask(mask, affine, classes), provenance={})

    volume = unet_batch.open_archive(tmp_path / "archive")["a"]
    assert list(archive) == ["a"]
    assert isinstance(volume.image, da.Array)
    np.testing.assert_array_equal(volume.image.compute(), voxels)
    assert volume.spacing_mm == (4.0, 1.5, 2.0)
    np.testing.assert_allclose(volume.affine @ [1, 2, 3, 1], [11, 0, 4, 1])
    labels = volume.labels["reference"]
    assert isinstance(labels.array, da.Array)
    np.testing.assert_array_equal(labels.array.compute(), mask)
    assert [one.name for one in labels.classes] == ["background", "organ"]
    assert volume.metadata["k"] == 1


def test_importing_the_package_imports_no_framework() -> None:
    script = (
        "import sys, unet_batch;"
        "print([m for m in ('ray', 'torch', 'zarr', 'dask') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert found.stdout.strip() == b"[]"

"""Jobs whose Bundle wants another spacing or orientation: equal to MONAI's whole-volume chain."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, Orientation, Spacing

from unet_batch.formats.nifti import read_nifti
from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import load_bundle
from unet_batch.models.intensity import Normalizer
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.layout import Layout
from unet_batch.workflows.plan import plan
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob

from . import tiny_bundle
from .tiny_bundle import CLASSES

# Sagittal, a little oblique: z runs to the left, y down, x to the back.
COS, SIN = np.cos(0.15), np.sin(0.15)
SAGITTAL = np.array(
    [[-4.8, 0, 0, 60], [0, 1.1 * SIN, -1.1 * COS, 90], [0, -1.1 * COS, -1.1 * SIN, 9], [0, 0, 0, 1]]
)


def make_bundle(folder: Path, grid: GridSpec) -> Path:
    return tiny_bundle.make_bundle(folder, channels=("MR",), grid=grid, spacing_mm=(2, 2, 2))


def add_sagittal(archive: Archive) -> None:
    voxels = np.random.default_rng(0).integers(0, 2000, (1, 9, 70, 50)).astype(np.int16)
    scan = Scan("sagittal", voxels, SAGITTAL, ("MR",), "MR")
    archive.write_scan(scan, source={}, layout=Layout((5, 20, 20), (10, 40, 40)))


def spec_for(archive: Archive, bundle: Path, **changes: object) -> SegmentSpec:
    fields: dict[str, object] = {
        "archive": archive.url,
        "model": str(bundle),
        "labels": "net",
        "inference": {"precision": "fp32", "batch_size": 2, "engine": "torch"},
        "resources": {"memory_budget": "1GiB", "cpus_per_replica": 1},
    }
    return SegmentSpec.model_validate(fields | changes)


def monais_logits(archive: Archive, bundle_path: Path, volume_id: str) -> np.ndarray:
    """Logits (class, z, y, x) of the scan's own voxels: the whole volume there and back."""
    volume, bundle = archive[volume_id], load_bundle(bundle_path)
    raw = torch.from_numpy(volume.image.compute())
    image = Normalizer.fit(bundle.intensity, volume.info.statistics).apply(raw)
    inferer = SlidingWindowInferer(bundle.roi, sw_batch_size=2, overlap=0.5, mode="gaussian")
    wanted = [mm or -1 for mm in bundle.grid.spacing_mm or (None,) * 3]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        chain = Compose([Orientation((bundle.grid.orientation or "")[::-1]), Spacing(wanted)])
        there = chain(MetaTensor(image, affine=volume.affine))
        logits = inferer(there.as_tensor()[None], bundle.network())[0]
        found = MetaTensor(logits, meta=there.meta, applied_operations=there.applied_operations)
        return np.asarray(chain.inverse(found))


def assert_equal_to_monai(archive: Archive, bundle_path: Path, volume_id: str) -> None:
    """Labels equal but for near-ties, and Dice of every class at least 0.999."""
    logits = monais_logits(archive, bundle_path, volume_id)
    ours = archive[volume_id].labels["net"].array.compute()
    theirs = np.array([one.value for one in CLASSES])[logits.argmax(0)]
    best = np.sort(logits, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    np.testing.assert_array_equal(ours[clear], theirs[clear])
    for value in set(np.unique(theirs)):
        both = ((ours == value) & (theirs == value)).sum()
        assert 2 * both / ((ours == value).sum() + (theirs == value).sum()) >= 0.999


WANTED = GridSpec(spacing_mm=(1.7, 1.7, 2.3), orientation="RAS")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_volume_of_many_blocks_and_replicas_equals_monai(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "archive", create=True)
    bundle = make_bundle(tmp_path / "tiny", WANTED)
    add_sagittal(archive)
    resources = {"memory_budget": "2.5MiB", "replicas": 2, "cpus_per_replica": 1}
    spec = spec_for(archive, bundle, resources=resources)
    job = SegmentJob.open(spec)
    layout = job.plan(job.infos, num_replicas=2).volumes["sagittal"].layout
    assert len(layout.sweeps) > 1
    assert layout.num_blocks > len(layout.sweeps)
    summary = segment(spec)
    assert (summary.done, summary.quarantined) == (1, {})
    assert summary.tiles_predicted == summary.tiles_planned == layout.num_tiles
    assert_equal_to_monai(archive, bundle, "sagittal")


@pytest.mark.ray
@pytest.mark.data
@pytest.mark.usefixtures("local_ray")
def test_real_anisotropic_scans_equal_monai(tmp_path: Path, scans: Path) -> None:
    archive = open_archive(tmp_path / "archive", create=True)
    bundle = make_bundle(tmp_path / "tiny", GridSpec(spacing_mm=(1.5, 1.2, 1.2), orientation="LPS"))
    names = ("mr_spinalcord_sct/t2s/t2s", "mr_spinalcord_sct/t2/t2")
    for name in names:
        scan = read_nifti(scans / f"{name}.nii.gz")
        archive.write_scan(replace(scan, channels=("MR",)), source={})
    summary = segment(spec_for(archive, bundle))
    assert (summary.done, summary.quarantined) == (2, {})
    for volume_id in archive:
        assert_equal_to_monai(archive, bundle, volume_id)


def grid_shape(archive: Archive, bundle: Path, spacing: object) -> tuple[int, ...]:
    """Voxels of the grid that the tiles of the one Volume lie on."""
    spec = spec_for(archive, bundle, inference={"spacing": spacing})
    job = SegmentJob.open(spec)
    (volume,) = job.plan(job.infos, num_replicas=1).volumes.values()
    summary = plan(spec, calibrate=False)
    assert [one.num_tiles for one in summary.volumes] == [volume.num_tiles]
    assert summary.refused == {}
    return volume.layout.grid.shape


def test_the_spec_may_ask_for_another_spacing_than_the_bundle(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "archive", create=True)
    add_sagittal(archive)  # 9 x 70 x 50 voxels of 4.8 x 1.1 x 1.1 mm; S, A, R: y, x, z
    bundle = make_bundle(tmp_path / "tiny", WANTED)
    assert grid_shape(archive, bundle, "auto") == (46, 33, 18)
    assert grid_shape(archive, bundle, "model") == (39, 28, 20)
    assert grid_shape(archive, bundle, "scan") == (70, 50, 9)
    assert grid_shape(archive, bundle, [None, 2.2, 2.4]) == (70, 26, 17)
    own = make_bundle(tmp_path / "own", GridSpec())
    assert grid_shape(archive, own, "auto") == grid_shape(archive, own, "scan") == (9, 70, 50)
    assert grid_shape(archive, own, "model") == (20, 39, 28)

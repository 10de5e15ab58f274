"""The main job on a real Ray: equal to MONAI, accounted for, resumable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from unet_batch.errors import ReplicaError
from unet_batch.formats.nifti import read_nifti
from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import load_bundle
from unet_batch.models.intensity import Normalizer
from unet_batch.monitoring.events import Event, ReplicaLost, StageTimed, VolumeFinished
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.layout import Layout
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob

from .tiny_bundle import CLASSES, make_bundle

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def add_volumes(archive: Archive, shapes: list[tuple[int, int, int]], channels: int = 1) -> None:
    random = np.random.default_rng(0)
    for number, shape in enumerate(shapes):
        voxels = random.integers(-1000, 1000, (channels, *shape)).astype(np.int16)
        names = tuple(f"c{k}" for k in range(channels)) if channels > 1 else ("CT",)
        archive.write_scan(Scan(f"v{number}", voxels, np.eye(4), names, "CT"), source={})


def spec_for(archive: Archive, bundle: Path, **changes: object) -> SegmentSpec:
    fields: dict[str, object] = {
        "archive": archive.url,
        "model": str(bundle),
        "labels": "net",
        "inference": {"precision": "fp32", "batch_size": 2},
        "resources": {"memory_budget": "1GiB", "cpus_per_replica": 1},
    }
    return SegmentSpec.model_validate(fields | changes)


def assert_equal_to_monai(archive: Archive, bundle_path: Path, volume_id: str) -> None:
    volume, bundle = archive[volume_id], load_bundle(bundle_path)
    raw = torch.from_numpy(volume.image.compute())
    image = Normalizer.fit(bundle.intensity, volume.info.statistics).apply(raw)
    inferer = SlidingWindowInferer(bundle.roi, sw_batch_size=2, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        logits = inferer(image[None], bundle.network())[0].numpy()
    values = np.array([one.value for one in bundle.classes])
    best = np.sort(logits, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert clear.mean() > 0.99
    ours = volume.labels["net"].array.compute()
    np.testing.assert_array_equal(ours[clear], values[logits.argmax(0)][clear])


@pytest.fixture
def place(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        archive=open_archive(tmp_path / "archive", create=True),
        bundle=make_bundle(tmp_path / "tiny"),
    )


SHAPES = [(40, 30, 20), (9, 12, 10), (20, 20, 20), (16, 16, 16)]


def test_every_volume_is_segmented_as_monai_would(place: SimpleNamespace) -> None:
    add_volumes(place.archive, SHAPES)
    summary = segment(spec_for(place.archive, place.bundle))
    assert (summary.done, summary.quarantined) == (4, {})
    assert summary.tiles_predicted == summary.tiles_planned > 0
    for number in range(4):
        assert_equal_to_monai(place.archive, place.bundle, f"v{number}")
    again = segment(spec_for(place.archive, place.bundle))
    assert (again.done, again.skipped, again.tiles_predicted) == (0, 4, 0)


@pytest.mark.parametrize("cuts", ["travel", "recompute"])
def test_a_volume_of_many_blocks_and_replicas_is_stitched_exactly(
    place: SimpleNamespace, cuts: str
) -> None:
    add_volumes(place.archive, [(70, 44, 30)])
    spec = spec_for(
        place.archive,
        place.bundle,
        inference={"precision": "fp32", "batch_size": 2, "cuts": cuts},
        resources={"memory_budget": "800KiB", "replicas": 2, "cpus_per_replica": 2},
    )
    job = SegmentJob.open(spec)
    layout = job.plan(job.infos, num_replicas=2).volumes["v0"].layout
    assert len(layout.sweeps) > 1
    assert layout.num_blocks > len(layout.sweeps)
    summary = segment(spec)
    assert summary.tiles_predicted == summary.tiles_planned
    assert ("stitch" in summary.stage_seconds) == (cuts == "travel")
    assert (summary.tiles_planned > layout.grid.num_tiles) == (cuts == "recompute")
    assert_equal_to_monai(place.archive, place.bundle, "v0")


def labels_bytes(folder: Path, volume_id: str) -> dict[str, bytes]:
    """Every file of the Volume's Labels, by its path."""
    root = folder / "archive" / "volumes" / volume_id / "labels" / "net"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def kill_a_replica() -> None:
    for process in psutil.Process().children(recursive=True):
        if any(part.startswith("ray::Replica") for part in process.cmdline()):
            process.kill()
            return


MANY_BLOCKS = {"memory_budget": "800KiB", "cpus_per_replica": 1}


def test_a_killed_replica_changes_no_byte(place: SimpleNamespace, tmp_path: Path) -> None:
    add_volumes(place.archive, [(120, 30, 30), (90, 20, 20)])
    spec = spec_for(place.archive, place.bundle, resources=MANY_BLOCKS)
    undisturbed = segment(spec)
    before = [labels_bytes(tmp_path, f"v{k}") for k in range(2)]
    for k in range(2):
        shutil.rmtree(tmp_path / "archive" / "volumes" / f"v{k}" / "labels")
    heard: list[Event] = []

    def kill_after_the_second_call(event: Event) -> None:
        heard.append(event)
        calls = [e for e in heard if isinstance(e, StageTimed) and e.stage == "predict"]
        if event in calls and len(calls) == 2:
            kill_a_replica()

    summary = segment(spec, listen=kill_after_the_second_call)
    assert [e for e in heard if isinstance(e, ReplicaLost)]
    assert (summary.done, summary.quarantined) == (2, {})
    assert undisturbed.tiles_predicted == undisturbed.tiles_planned
    assert summary.tiles_predicted < 1.5 * summary.tiles_planned
    assert [labels_bytes(tmp_path, f"v{k}") for k in range(2)] == before


def test_a_run_cut_short_is_finished_by_the_next_to_the_same_bytes(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    add_volumes(place.archive, [(40, 30, 20)] * 3)
    spec = spec_for(place.archive, place.bundle, resources=MANY_BLOCKS)
    segment(spec)
    before = [labels_bytes(tmp_path, f"v{k}") for k in range(3)]
    for k in range(3):
        shutil.rmtree(tmp_path / "archive" / "volumes" / f"v{k}" / "labels")

    def stop_after_the_first(event: Event) -> None:
        if isinstance(event, VolumeFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(spec, listen=stop_after_the_first)
    summary = segment(spec)
    # A Volume that was being published when the run was cut short may be there as well.
    assert summary.done + summary.skipped == 3
    assert summary.skipped >= 1
    assert [labels_bytes(tmp_path, f"v{k}") for k in range(3)] == before
    entries = place.archive.ledger(summary.job).entries()
    assert set(entries) == {"v0", "v1", "v2"}
    assert {entry.outcome for entry in entries.values()} <= {"done", "skipped"}


def test_a_published_volume_that_no_run_told_of_is_entered(place: SimpleNamespace) -> None:
    add_volumes(place.archive, [(20, 20, 20)])
    spec = spec_for(place.archive, place.bundle)
    job = segment(spec).job
    for part in Path(place.archive.url.removeprefix("file://")).glob(f"jobs/{job}/ledger/*"):
        part.unlink()
    segment(spec)
    entry = place.archive.ledger(job).entries()["v0"]
    assert (entry.outcome, entry.key != "") == ("skipped", True)
    assert "published before" in entry.reason


def test_what_cannot_be_segmented_is_quarantined_and_the_rest_is_done(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    add_volumes(place.archive, [(20, 20, 20), (20, 20, 20), (20, 20, 20)])
    voxels = np.zeros((1, 20, 20, 20), np.float32)
    voxels[0, :5] = np.nan
    voxels[0, 6:] = 1
    place.archive.write_scan(Scan("nan", voxels, np.eye(4), ("CT",)), source={})
    place.archive.write_scan(
        Scan("two_channels", np.ones((2, 9, 9, 9), np.int16), np.eye(4), ("a", "b")), source={}
    )
    (shard,) = (tmp_path / "archive" / "volumes" / "v1").rglob("c.0.0.0.0")
    shard.write_bytes(shard.read_bytes()[:100])
    summary = segment(spec_for(place.archive, place.bundle))
    assert (summary.done, set(summary.quarantined)) == (2, {"nan", "two_channels", "v1"})
    assert "NaN or infinite" in summary.quarantined["nan"]
    assert "2 channels ['a', 'b']; the model takes 1" in summary.quarantined["two_channels"]
    assert "reading failed" in summary.quarantined["v1"]
    assert not list(place.archive["v1"].labels)
    for volume_id in ("v0", "v2"):
        assert_equal_to_monai(place.archive, place.bundle, volume_id)
    entries = place.archive.ledger(summary.job).entries()
    assert entries["v1"].outcome == "quarantined"


def test_what_cannot_be_stored_spares_the_others_of_its_pack(
    place: SimpleNamespace, tmp_path: Path
) -> None:
    add_volumes(place.archive, [(20, 20, 20)] * 4)
    spec, volumes = spec_for(place.archive, place.bundle), tmp_path / "archive" / "volumes"
    generation = (
        volumes / "v1" / "labels" / "net" / SegmentJob.open(spec).key(place.archive["v1"].info)
    )
    generation.parent.mkdir(parents=True)
    generation.write_text("a file where a folder should be")
    (volumes / "v2" / "labels").mkdir()
    (volumes / "v2" / "labels" / "zarr.json").write_text("{")
    (volumes / "v3" / "labels" / "net").mkdir(parents=True)
    (volumes / "v3" / "labels" / "net" / "zarr.json").touch()  # as a power cut leaves it
    summary = segment(spec)
    assert (summary.done, set(summary.quarantined)) == (2, {"v1", "v2"})
    assert "writing Labels 'net' failed" in summary.quarantined["v1"]
    assert "publishing Labels 'net' failed" in summary.quarantined["v2"]
    for volume_id in ("v0", "v3"):
        assert_equal_to_monai(place.archive, place.bundle, volume_id)


def test_voxels_that_are_not_finite_pass_where_the_spec_allows_them(
    place: SimpleNamespace,
) -> None:
    voxels = np.random.default_rng(0).standard_normal((1, 20, 20, 20)).astype(np.float32)
    voxels[0, 0, 0, 0] = np.inf
    place.archive.write_scan(Scan("inf", voxels, np.eye(4), ("CT",)), source={})
    inference = {"precision": "fp32", "batch_size": 2, "max_nonfinite_share": 0.01}
    assert segment(spec_for(place.archive, place.bundle, inference=inference)).done == 1


def test_four_channels_and_several_shards(place: SimpleNamespace, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "four", channels=("c0", "c1", "c2", "c3"))
    voxels = np.random.default_rng(0).integers(0, 999, (4, 40, 36, 32)).astype(np.uint16)
    place.archive.write_scan(
        Scan("v0", voxels, np.eye(4), ("c0", "c1", "c2", "c3")),
        source={},
        layout=Layout((10, 9, 8), (20, 18, 16)),
    )
    assert segment(spec_for(place.archive, bundle)).done == 1
    assert_equal_to_monai(place.archive, bundle, "v0")


def test_a_planar_network_segments_slice_by_slice(place: SimpleNamespace, tmp_path: Path) -> None:
    make_bundle(tmp_path / "planar", spatial_dims=2, roi=(16, 16), classes=CLASSES[:2])
    add_volumes(place.archive, [(5, 40, 30)])
    assert segment(spec_for(place.archive, tmp_path / "planar")).done == 1
    volume, bundle = place.archive["v0"], load_bundle(tmp_path / "planar")
    raw = torch.from_numpy(volume.image.compute())
    image = Normalizer.fit(bundle.intensity, volume.info.statistics).apply(raw)
    inferer = SlidingWindowInferer((16, 16), overlap=0.5, mode="gaussian")
    ours = volume.labels["net"].array.compute()
    with torch.inference_mode():
        for z in range(5):
            theirs = inferer(image[None, :, z], bundle.network())[0].argmax(0).numpy()
            np.testing.assert_array_equal(ours[z], theirs)


def test_a_model_that_cannot_start_ends_the_job_with_the_reason(place: SimpleNamespace) -> None:
    add_volumes(place.archive, [(20, 20, 20)])
    spec = spec_for(place.archive, place.bundle, inference={"roi": (15, 15, 15)})
    with pytest.raises(
        ReplicaError,
        match=r"(?s)^3 Replicas in a row could not be started; .*the network returned"
        r" \(4, 3, 16, 16, 16\) .*expected \(4, 3, 15, 15, 15\)",
    ):
        segment(spec)


@pytest.mark.data
def test_real_scans_equal_monai(place: SimpleNamespace, scans: Path, tmp_path: Path) -> None:
    for name in ("ct_spleen_msd_crop/sub-spleen2_ct.nii.gz", "mr_spinalcord_sct/t2s/t2s.nii.gz"):
        scan = read_nifti(scans / name)
        place.archive.write_scan(replace(scan, channels=("CT",)), source={})
    assert segment(spec_for(place.archive, place.bundle)).done == 2
    for volume_id in place.archive:
        assert_equal_to_monai(place.archive, place.bundle, volume_id)

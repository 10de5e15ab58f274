"""Volumes of a Job as columns, and a Job that holds no more of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.planning.specs.segment import PartitionSpec, SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.stores import open_store
from unet_batch.workflows import job_volumes
from unet_batch.workflows.job_volumes import JobVolumes
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    random = np.random.default_rng(0)
    for number in range(6):
        voxels = random.integers(-1000, 1000, (1 + (number == 5), 9, 10, 11)).astype(np.int16)
        names = ("CT",) if number < 5 else ("a", "b")
        archive.write_scan(Scan(f"v{number}", voxels, np.eye(4), names, "CT"), source={})
    return archive


def spec_for(archive: Archive, model: Path, **fields: object) -> SegmentSpec:
    torch.manual_seed(0)
    config = BundleConfig(
        name="tiny", network_name="residual_unet", channels=("CT",), roi=(8, 8, 8),
        network_arguments={"channels": [4, 8], "num_res_units": 1}, spacing_mm=(1, 1, 1),
        classes=(LabelClass(0, "background"), LabelClass(1, "organ")),
    )  # fmt: skip
    save_bundle(model, config, config.build_network().state_dict())
    return SegmentSpec.model_validate(
        {"archive": archive.url, "model": str(model), "labels": "net", **fields}
    )


def test_what_is_said_of_each_is_what_the_catalog_says(archive: Archive, tmp_path: Path) -> None:
    spec = spec_for(archive, tmp_path / "m", where="num_channels = 1")
    volumes = JobVolumes(archive, spec)
    assert volumes.ids == [f"v{n}" for n in range(5)]
    assert [brief.id for brief in volumes.briefs(without={"v1", "v9"})] == ["v0", "v2", "v3", "v4"]
    info = archive.info("v3")
    assert volumes.brief("v3").shape_zyx == info.shape_zyx
    assert volumes.content_hash("v3") == dict(volumes.content_hashes())["v3"] == info.content_hash
    assert volumes.fetch(["v3", "v0"]) == [info, archive.info("v0")]
    with pytest.raises(KeyError):
        volumes.brief("v5")


def test_partitions_share_the_volumes_out(archive: Archive, tmp_path: Path) -> None:
    spec = spec_for(archive, tmp_path / "m")
    shares = [
        JobVolumes(archive, spec.model_copy(update={"partition": PartitionSpec(index=n, of=2)})).ids
        for n in range(2)
    ]
    assert sorted(shares[0] + shares[1]) == JobVolumes(archive, spec).ids


def test_a_volume_that_is_gone_is_still_described_by_its_columns(
    archive: Archive, tmp_path: Path
) -> None:
    volumes = JobVolumes(archive, spec_for(archive, tmp_path / "m"))
    open_store(archive.url).delete("volumes/v2/zarr.json")
    found, known = volumes.fetch(["v2"])[0], volumes.brief("v2")
    assert (found.shape_zyx, found.dtype) == (known.shape_zyx, known.dtype)
    assert found.content_hash == volumes.content_hash("v2")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_long_job_does_what_a_short_one_does_and_does_it_once(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(archive, tmp_path / "m", inference={"precision": "fp32"})
    segment(spec.model_copy(update={"labels": "short"}))
    monkeypatch.setattr(job_volumes, "MAX_AT_ONCE", 2)
    open_store(archive.url).delete_folder("volumes/v4/0-" + archive.info("v4").content_hash[:16])
    summary = segment(spec)
    assert summary.done == 4
    assert sorted(summary.quarantined) == ["v4", "v5"]
    for number in range(4):
        labels = archive[f"v{number}"].labels
        assert np.array_equal(labels["net"].stored[:], labels["short"].stored[:])
    again = segment(spec)
    assert (again.done, again.skipped) == (0, 4)
    assert SegmentJob.open(spec).published() == {"v0", "v1", "v2", "v3"}

"""The main job on a real Ray: equal to MONAI, accounted for, resumable."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import BundleConfig, load_bundle, save_bundle
from unet_batch.models.intensity import Normalizer
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def make_bundle(folder: Path, *, channels: tuple[str, ...] = ("CT",)) -> Path:
    torch.manual_seed(0)
    config = BundleConfig(
        name="tiny",
        network_name="residual_unet",
        network_arguments={"channels": [4, 8], "num_res_units": 1},
        channels=channels,
        roi=(16, 16, 16),
        classes=(LabelClass(0, "background"), LabelClass(1, "organ"), LabelClass(5, "lesion")),
        spacing_mm=(1, 1, 1),
    )
    save_bundle(folder, config, config.build_network().state_dict())
    return folder


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


def test_a_volume_of_many_blocks_and_replicas_is_stitched_exactly(place: SimpleNamespace) -> None:
    add_volumes(place.archive, [(70, 44, 30)])
    spec = spec_for(
        place.archive,
        place.bundle,
        resources={"memory_budget": "400KiB", "replicas": 2, "cpus_per_replica": 1},
    )
    job = SegmentJob.open(spec)
    layout = job.plan(job.infos, num_replicas=2).volumes["v0"].layout
    assert len(layout.sweeps) > 1
    assert layout.num_blocks > len(layout.sweeps)
    summary = segment(spec)
    assert summary.tiles_predicted == summary.tiles_planned
    assert "stitch" in summary.stage_seconds
    assert_equal_to_monai(place.archive, place.bundle, "v0")

"""A segment Job that is paused, cancelled and run again: nothing lost, only what changed redone."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unet_batch.formats.scan import Scan
from unet_batch.monitoring.events import Event, VolumeFinished
from unet_batch.planning.control import Control, Wanted
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.segment import SegmentSummary, segment
from unet_batch.workflows.segment_job import SegmentJob

from .tiny_bundle import make_bundle

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

NUM_VOLUMES = 6


def add_volume(archive: Archive, name: str, seed: int) -> None:
    voxels = np.random.default_rng(seed).integers(-1000, 1000, (1, 40, 24, 24)).astype(np.int16)
    archive.write_scan(Scan(name, voxels, np.eye(4), ("CT",), "CT"), source={})


def spec_for(archive: Archive, bundle: Path, **changes: object) -> SegmentSpec:
    fields: dict[str, object] = {
        "archive": archive.url,
        "model": str(bundle),
        "labels": "net",
        "inference": {"precision": "fp32", "batch_size": 1, "engine": "torch"},
        "resources": {"cpus_per_replica": 1, "window": 1, "replicas": 1},
    }
    return SegmentSpec.model_validate(fields | changes)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    archive = open_archive(tmp_path_factory.mktemp("control") / "archive", create=True)
    for number in range(NUM_VOLUMES):
        add_volume(archive, f"v{number}", number)
    return archive


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("models") / "tiny")


def asks(control: Control, wanted: Wanted) -> Callable[[Event], None]:
    """A Listener that wants something as soon as the first Volume is done."""

    def hear(event: Event) -> None:
        if isinstance(event, VolumeFinished) and event.outcome == "done":
            control.wanted = wanted

    return hear


def outcomes_of(archive: Archive, summary: SegmentSummary) -> Counter[str]:
    entries = archive.ledger(summary.job).entries().values()
    return Counter(entry.outcome for entry in entries)


def test_pause_cancel_resume_and_what_is_redone(archive: Archive, bundle: Path) -> None:
    spec, control = spec_for(archive, bundle), Control()
    paused = segment(spec, listen=asks(control, "pause"), control=control)
    assert paused.done > 0
    assert paused.left > 0
    assert paused.done + paused.left == NUM_VOLUMES
    assert outcomes_of(archive, paused) == {"done": paused.done}

    control = Control()
    cancelled = segment(spec, listen=asks(control, "cancel"), control=control)
    assert cancelled.skipped == paused.done
    assert (cancelled.left, cancelled.quarantined) == (0, {})
    assert cancelled.cancelled == NUM_VOLUMES - cancelled.skipped - cancelled.done > 0
    assert outcomes_of(archive, cancelled)["cancelled"] == cancelled.cancelled

    resumed = segment(spec)
    assert (resumed.done, resumed.left, resumed.cancelled) == (cancelled.cancelled, 0, 0)
    assert paused.job == cancelled.job == resumed.job
    assert outcomes_of(archive, resumed) == {"done": NUM_VOLUMES}
    entry = archive.ledger(resumed.job).entries()["v5"]
    assert entry.replica == "replica-0"
    assert "/" in entry.node
    assert entry.peak_bytes > 2**20
    assert entry.seconds > 0
    assert len(entry.bundle_hash) == 64
    assert (len(entry.spec_hash), len(entry.input_hash) > 8) == (16, True)


def test_running_again_redoes_only_what_changed(
    archive: Archive, bundle: Path, tmp_path: Path
) -> None:
    model, some = make_bundle(tmp_path / "tiny"), ["v0", "v1", "new"]
    add_volume(archive, "new", 90)
    spec = spec_for(archive, model, labels="again", volumes=some)
    first = segment(spec)
    assert (first.done, segment(spec).skipped) == (3, 3)

    remove(archive, "new")
    add_volume(archive, "new", 91)
    of_input = segment(spec)
    assert (of_input.done, of_input.skipped) == (1, 2)

    make_bundle(tmp_path / "other", seed=1).rename(tmp_path / "newer")
    model.rename(tmp_path / "older")
    (tmp_path / "newer").rename(model)
    of_weights = segment(spec)
    assert (of_weights.done, of_weights.job) == (3, first.job)
    hashes = {e.bundle_hash for e in archive.ledger(first.job).entries().values()}
    assert len(hashes) == 1
    other = spec_for(archive, model, labels="again", volumes=some, inference=ROUGH)
    assert SegmentJob.open(other).id != first.job
    assert not any(SegmentJob.open(other).is_published(info) for info in archive.select(some))


ROUGH = {"precision": "fp32", "batch_size": 1, "engine": "torch", "overlap": 0.25}


def remove(archive: Archive, volume_id: str) -> None:
    """Take a Volume out of the Archive by hand."""
    shutil.rmtree(Path(archive.url) / "volumes" / volume_id)
    archive.catalog.rebuild()

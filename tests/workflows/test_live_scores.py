"""Volumes are scored while a Job goes on, many to a task, and the driver looks nothing up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unet_batch.formats.scan import Mask, Scan
from unet_batch.monitoring.events import Event, Scored, VolumeFinished
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.folder_store import FolderStore
from unet_batch.workflows import live_scores
from unet_batch.workflows.live_scores import LiveScores

SHAPE = (4, 5, 6)
ORGAN = LabelClass(1, "organ")
NUMBER, WITHOUT_TRUTH = 40, 7


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    for number in range(NUMBER):
        scan = Scan(f"v{number:02}", np.zeros((1, *SHAPE), np.int16), np.eye(4), ("image",), "MR")
        archive.write_scan(scan, source={})
        for name, depth in (("net", 1 + number % 2), ("truth", 1)):
            voxels = np.zeros(SHAPE, np.uint8)
            voxels[:depth] = 1
            if name == "net" or number != WITHOUT_TRUTH:
                mask = Mask(voxels, np.eye(4), (ORGAN,))
                archive[scan.name].write_labels(name, mask, provenance={"by": "test"})
    return archive


@pytest.fixture
def live(archive: Archive, local_ray: None) -> tuple[LiveScores, list[Event]]:
    """Scores of the Archive, and what is heard of them."""
    del local_ray
    heard: list[Event] = []
    return LiveScores(archive, labels="net", truth="truth", listen=heard.append), heard


def done(number: int) -> VolumeFinished:
    return VolumeFinished(f"v{number:02}", "done")


@pytest.mark.ray
def test_each_volume_with_a_truth_is_scored_once(
    live: tuple[LiveScores, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, heard = live
    with monkeypatch.context() as no_store:
        for name in ("get", "get_versioned", "list_folders", "exists"):
            no_store.setattr(FolderStore, name, None)  # whoever asks a store here fails
        for number in range(NUMBER):
            scores(done(number))
        scores(VolumeFinished("given-up", "quarantined"))
    assert len(scores._pending) == 1
    assert len(scores._waiting) == NUMBER - live_scores.MOST_TOGETHER
    scores.finish()
    found = {one.volume_id: one.dice for one in heard if isinstance(one, Scored)}
    assert len(heard) == len(found) == NUMBER - 1
    assert f"v{WITHOUT_TRUTH:02}" not in found
    assert found["v02"] == 1.0
    assert found["v03"] == pytest.approx(2 / 3)


@pytest.mark.ray
def test_few_volumes_are_not_kept_waiting(
    live: tuple[LiveScores, list[Event]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, heard = live
    monkeypatch.setattr(live_scores, "WAIT_S", 0.0)
    scores(done(1))
    assert not scores._waiting
    assert scores._pending or heard  # a worker that is warm may be done by now
    scores.finish()
    assert [one.dice for one in heard if isinstance(one, Scored)] == [pytest.approx(2 / 3)]

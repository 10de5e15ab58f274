"""What the report of a retraining draws; no Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.reporting.challenge_page import ChangedVolume
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.pairs import find_pair
from unet_batch.workflows.retrain_report import _with_pictures

SHAPE = (6, 10, 12)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """One Volume: a ramp along x in the first channel, along y in the second."""
    archive = open_archive(tmp_path / "archive", create=True)
    z, y, x = np.indices(SHAPE)
    scan = Scan("scan", np.stack([x, y]).astype(np.int16), np.eye(4), ("T1", "T2"))
    archive.write_scan(scan, source={})
    mask = Mask((z > 2).astype(np.uint8), np.eye(4), (LabelClass(1, "organ"),))
    archive["scan"].write_labels("net", mask, provenance={})
    return archive


def drawn(archive: Archive, channel: int) -> list[str]:
    """The challenger's pictures of the Volume."""
    spec = RetrainSpec(archive="a", truth="t", model="organ", work="w", channel=channel)
    scored = SimpleNamespace(
        pairs={"scan": find_pair(archive, "scan", "net", None)},
        classes=(LabelClass(1, "organ"),),
    )
    volume = ChangedVolume("scan", "v1", None, 0.5)
    (shown,) = _with_pictures([volume], spec, archive, scored, None, {})  # type: ignore[arg-type]
    assert shown.problem == ""
    return [one.data_uri for one in shown.challenger_pictures]


def test_the_channel_asked_for_is_drawn(archive: Archive) -> None:
    first, second = drawn(archive, 0), drawn(archive, 1)
    assert len(first) == len(second) == 3
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_scan_with_fewer_channels_shows_its_last(archive: Archive) -> None:
    assert drawn(archive, 7) == drawn(archive, 1)

"""Which Volumes can be scored: each is a pair, or named as missing something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unet_batch.errors import SpecError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.layout import Layout
from unet_batch.workflows.pairs import PairStream

SHAPE = (6, 10, 12)
ORGAN = LabelClass(1, "organ")


def add(archive: Archive, name: str, *labels: str) -> None:
    """A Volume of eight Shards with Labels by name."""
    voxels = np.full((1, *SHAPE), len(name), np.int16)
    scan = Scan(name, voxels, np.eye(4), ("image",), "MR")
    archive.write_scan(scan, source={}, layout=Layout((3, 5, 6), (3, 5, 6)))
    mask: NDArray[np.uint8] = np.ones(SHAPE, np.uint8)
    for label in labels:
        archive[name].write_labels(label, Mask(mask, np.eye(4), (ORGAN,)), provenance={})


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    add(archive, "both", "net", "truth")
    add(archive, "no_truth", "net")
    add(archive, "no_mask", "truth")
    add(archive, "neither")
    return archive


def stream(archive: Archive, *patterns: str, truth: str | None = "truth") -> PairStream:
    return PairStream(archive, patterns or ("*",), labels="net", truth=truth)


def test_every_volume_is_either_a_pair_or_named_as_missing(archive: Archive) -> None:
    pairs = stream(archive)
    assert [pair.info.id for pair in pairs] == ["both"]
    assert pairs.without_truth == ["no_truth"]
    assert sorted(pairs.without_labels) == ["neither", "no_mask"]
    assert pairs.failed == {}


def test_the_catalog_tells_how_much_is_looked_at(archive: Archive) -> None:
    assert stream(archive).count() == (4, 4 * np.prod(SHAPE))
    assert stream(archive, "no_*").count() == (2, 2 * np.prod(SHAPE))


def test_without_a_truth_the_labels_suffice(archive: Archive) -> None:
    assert [pair.info.id for pair in stream(archive, truth=None)] == ["both", "no_truth"]


def test_patterns_narrow_the_volumes(archive: Archive) -> None:
    pairs = stream(archive, "b*", "no_mask")
    assert len(list(pairs)) == 1
    assert pairs.without_labels == ["no_mask"]


def test_more_volumes_than_are_described_at_once_keep_their_order(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_batch.workflows.pairs._AT_ONCE", 2)
    for number in range(5):
        add(archive, f"v{number}", "net", "truth")
    ids = [pair.info.id for pair in stream(archive)]
    assert ids == ["both", "v0", "v1", "v2", "v3", "v4"]


def test_nothing_to_score_names_the_labels_there_are(archive: Archive) -> None:
    with pytest.raises(SpecError, match=r"none of the 4 Volumes.*'nett'.*net, truth"):
        list(PairStream(archive, ["*"], labels="nett", truth="truth"))


def test_a_damaged_description_fails_that_volume_alone(archive: Archive) -> None:
    add(archive, "bad", "net", "truth")
    labels = Path(archive.url) / "volumes" / "bad" / "labels" / "net" / "zarr.json"
    labels.write_text("{}")
    pairs = stream(archive)
    assert [pair.info.id for pair in pairs] == ["both"]
    assert "bad" in pairs.failed["bad"]


def test_a_volume_is_cut_into_its_shards(archive: Archive) -> None:
    (pair,) = stream(archive)
    assert sum(region.num_voxels for region in pair.regions) == np.prod(SHAPE)
    assert len(pair.regions) == 8

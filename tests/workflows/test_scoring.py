"""Which Volumes can be scored, counted Shard by Shard on Ray, one broken Volume at a time."""

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
from unet_batch.workflows.scoring import score_pairs, select_pairs

SHAPE = (6, 10, 12)
AFFINE = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
ORGAN = LabelClass(1, "organ")


def add(archive: Archive, name: str, **masks: NDArray[np.uint8]) -> None:
    """A Volume of eight Shards with Labels by name."""
    rng = np.random.default_rng(len(name))
    voxels = rng.normal(size=(1, *SHAPE)).astype(np.float32)
    scan = Scan(name, voxels, AFFINE, ("image",), "MR")
    archive.write_scan(scan, source={}, layout=Layout((3, 5, 6), (3, 5, 6)))
    for label, mask in masks.items():
        archive[name].write_labels(label, Mask(mask, AFFINE, (ORGAN,)), provenance={"by": "test"})


def organ(*, depth: int = 3) -> NDArray[np.uint8]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:depth] = 1
    return mask


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    add(archive, "both", net=organ(depth=4), truth=organ())
    add(archive, "no_truth", net=organ())
    add(archive, "no_mask", truth=organ())
    add(archive, "neither")
    return archive


def test_every_volume_is_either_a_pair_or_named_as_missing(archive: Archive) -> None:
    selection = select_pairs(archive, ["*"], labels="net", truth="truth")
    assert [pair.info.id for pair in selection.pairs] == ["both"]
    assert selection.without_truth == ("no_truth",)
    assert sorted(selection.without_labels) == ["neither", "no_mask"]


def test_without_a_truth_the_labels_suffice(archive: Archive) -> None:
    selection = select_pairs(archive, ["*"], labels="net", truth=None)
    assert [pair.info.id for pair in selection.pairs] == ["both", "no_truth"]


def test_patterns_narrow_the_volumes(archive: Archive) -> None:
    selection = select_pairs(archive, ["b*", "no_mask"], labels="net", truth="truth")
    assert len(selection.pairs) == 1
    assert selection.without_labels == ("no_mask",)


def test_nothing_to_score_names_the_labels_there_are(archive: Archive) -> None:
    with pytest.raises(SpecError, match=r"none of the 4 Volumes.*'nett'.*net, truth"):
        select_pairs(archive, ["*"], labels="nett", truth="truth")


def test_a_volume_is_cut_into_its_shards(archive: Archive) -> None:
    (pair,) = select_pairs(archive, ["both"], labels="net", truth="truth").pairs
    assert sum(region.num_voxels for region in pair.regions) == np.prod(SHAPE)
    assert len(pair.regions) == 8


@pytest.mark.ray
def test_counts_of_all_shards_add_up(archive: Archive, local_ray: None) -> None:
    selection = select_pairs(archive, ["*"], labels="net", truth="truth")
    (scored,) = score_pairs(selection.pairs, window=2)
    (score,) = scored.scores
    assert (score.predicted_voxels, score.true_voxels) == (4 * 120, 3 * 120)
    assert score.dice == pytest.approx(2 * 3 / 7)
    assert score.true_ml == pytest.approx(360 * 2 / 1000)


@pytest.mark.ray
def test_a_damaged_volume_does_not_stop_the_others(archive: Archive, local_ray: None) -> None:
    add(archive, "damaged", net=organ(), truth=organ())
    labels = Path(archive.url) / "volumes" / "damaged" / "labels" / "truth"
    shard = next(p for p in labels.rglob("*") if p.is_file() and p.name != "zarr.json")
    shard.write_bytes(b"not zstd")
    selection = select_pairs(archive, ["*"], labels="net", truth="truth")
    scored = {item.pair.info.id: item for item in score_pairs(selection.pairs, window=4)}
    assert scored["both"].scores
    assert scored["damaged"].scores == ()
    assert "damaged" in scored["damaged"].reason
    assert "Traceback" not in scored["damaged"].reason

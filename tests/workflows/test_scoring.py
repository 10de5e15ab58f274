"""Volumes scored Shard by Shard, on Ray and without, one broken Volume at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
from numpy.typing import NDArray

from unet_batch.errors import MemoryBudgetError
from unet_batch.evaluation.measuring import Scoring, score_masks
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.layout import Layout
from unet_batch.storage.volume import Labels
from unet_batch.tiling.box import Box
from unet_batch.workflows.pairs import LabelsPair
from unet_batch.workflows.scoring import score_pair, score_pairs, select_pairs, together

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
    return archive


@pytest.mark.ray
def test_on_ray_shards_add_up_and_a_damaged_volume_does_not_stop_the_others(
    archive: Archive, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks share the eight Shards; a third joins what they found."""
    add(archive, "damaged", net=organ(), truth=organ())
    labels = Path(archive.url) / "volumes" / "damaged" / "labels" / "truth"
    shard = next(p for p in labels.rglob("*") if p.is_file() and p.name != "zarr.json")
    shard.write_bytes(b"not zstd")
    monkeypatch.setattr("unet_batch.workflows.scoring.MAX_PARTS", 2)
    pairs = select_pairs(archive, ["*"], labels="net", truth="truth").pairs
    scored = {item.pair.info.id: item for item in score_pairs(pairs, window=2)}
    assert scored["damaged"].scores == ()
    assert "damaged" in scored["damaged"].reason
    assert "Traceback" not in scored["damaged"].reason
    (score,) = scored["both"].scores
    assert (score.predicted_voxels, score.true_voxels) == (4 * 120, 3 * 120)
    assert score.dice == pytest.approx(2 * 3 / 7)
    assert score.true_ml == pytest.approx(360 * 2 / 1000)
    assert scored["both"] == replace(score_pair(pair_named(pairs, "both")), seconds=ANY)


@pytest.fixture
def small(tmp_path: Path) -> list[LabelsPair]:
    """Twenty Volumes of one Shard; the mask of the k-th is k % 3 slices too deep."""
    archive = open_archive(tmp_path / "small", create=True)
    for number in range(20):
        scan = Scan(f"v{number:02}", np.zeros((1, *SHAPE), np.int16), AFFINE, ("image",), "MR")
        archive.write_scan(scan, source={})
        for label, depth in (("net", 3 + number % 3), ("truth", 3)):
            mask = Mask(organ(depth=depth), AFFINE, (ORGAN,))
            archive[scan.name].write_labels(label, mask, provenance={"by": "test"})
    return list(select_pairs(archive, ["*"], labels="net", truth="truth").pairs)


def test_small_volumes_share_tasks_and_large_ones_do_not(
    archive: Archive, small: list[LabelsPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    (large,) = select_pairs(archive, ["both"], labels="net", truth="truth").pairs
    groups = list(together([*small[:3], large, *small[3:]]))
    assert [len(group) for group in groups] == [1, 16, 4]
    assert groups[0] == (large,)
    assert [pair for group in groups[1:] for pair in group] == small
    monkeypatch.setattr("unet_batch.workflows.scoring.MOST_VOXELS", 5 * small[0].info.num_voxels)
    assert [len(group) for group in together(small)] == [5, 5, 5, 5]
    assert list(together([])) == []


@pytest.mark.ray
def test_of_small_volumes_one_that_is_damaged_fails_alone(
    small: list[LabelsPair], local_ray: None
) -> None:
    labels = Path(small[4].labels.archive_url) / "volumes" / "v04" / "labels" / "net"
    shard = next(p for p in labels.rglob("*") if p.is_file() and p.name != "zarr.json")
    shard.write_bytes(b"not zstd")
    scored = {item.pair.info.id: item for item in score_pairs(small, window=2)}
    assert len(scored) == 20
    assert scored.pop("v04").reason.count("v04")
    for number, (_, item) in enumerate(sorted(scored.items())):
        assert item.reason == ""
        assert item.seconds > 0
        depth = 3 + (number + (number >= 4)) % 3
        assert item.scores[0].dice == pytest.approx(6 / (3 + depth))


@pytest.mark.ray
def test_of_small_volumes_one_that_kills_its_worker_fails_alone(
    small: list[LabelsPair], local_ray: None
) -> None:
    small[7] = replace(small[7], truth=Deadly(small[7].labels))  # type: ignore[arg-type]
    scored = {item.pair.info.id: item for item in score_pairs(small[:12], window=2)}
    assert len(scored) == 12
    failed = {name: item.reason for name, item in scored.items() if item.reason}
    assert list(failed) == ["v07"]
    assert "died" in failed["v07"]


class Deadly:
    """Labels that take the process with them that reads them, as a fault in a decoder would."""

    def __init__(self, labels: Labels) -> None:
        self.stored = self
        self.shape_zyx = labels.shape_zyx

    def __getitem__(self, selection: object) -> None:
        os._exit(1)


def pair_named(pairs: Sequence[LabelsPair], name: str) -> LabelsPair:
    return next(pair for pair in pairs if pair.info.id == name)


def test_a_volume_is_scored_here_and_now_as_it_would_be_whole(archive: Archive) -> None:
    (pair,) = select_pairs(archive, ["both"], labels="net", truth="truth").pairs
    scored = score_pair(pair, Scoring(tolerance_mm=1.5))
    spacing = pair.info.spacing_mm
    whole = score_masks(
        "both",
        organ(depth=4),
        organ(),
        [ORGAN],
        spacing_mm=spacing,
        scoring=Scoring(tolerance_mm=1.5),
    )
    assert scored.scores == whole
    assert scored.placements[0].num_voxels == 4 * 120


def test_surfaces_too_rough_for_memory_are_refused_with_what_to_do(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_batch.workflows.scoring.MAX_BORDER_VOXELS", 100)
    (pair,) = select_pairs(archive, ["both"], labels="net", truth="truth").pairs
    with pytest.raises(MemoryBudgetError, match=r"both: .* border voxels.*--set metrics"):
        score_pair(pair)
    assert score_pair(pair, Scoring(metrics=("dice",))).scores[0].dice == pytest.approx(6 / 7)


def test_without_a_truth_one_mask_is_read_and_its_volume_known(archive: Archive) -> None:
    (pair,) = select_pairs(archive, ["no_truth"], labels="net", truth=None).pairs
    (score,) = score_pair(pair).scores
    assert (score.predicted_voxels, score.dice, score.true_ml) == (3 * 120, None, None)


def test_each_shard_of_both_masks_is_read_once_and_alone(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[str, Box]] = []

    def read(labels: Labels, region: Box) -> NDArray[np.uint8]:
        reads.append((labels.name, region))
        return labels.stored[region.slices]

    monkeypatch.setattr("unet_batch.workflows.scoring._read", read)
    (pair,) = select_pairs(archive, ["both"], labels="net", truth="truth").pairs
    score_pair(pair)
    assert sorted(reads) == sorted((n, r) for n in ("net", "truth") for r in pair.regions)
    assert max(region.num_voxels for _, region in reads) == 3 * 5 * 6

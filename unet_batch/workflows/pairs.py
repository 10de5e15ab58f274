"""Masks and their truths, found Volume by Volume: what there is to score in an Archive.

An Archive may hold a hundred thousand Volumes in a bucket. So only their ids are held, Volumes
are described a few dozen at a time by threads that wait for the store, and none is described long
before it is scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from unet_batch.errors import NotFoundError, SpecError, UnetBatchError
from unet_batch.evaluation.dice import require_same_shape
from unet_batch.evaluation.scores import foreground_classes
from unet_batch.monitoring.events import VolumeFinished
from unet_batch.planning.volume_info import LabelClass, VolumeInfo
from unet_batch.side_by_side import each
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Labels, Volume
from unet_batch.tiling.box import Box

_AT_ONCE = 64
"""Volumes described together: they wait for the store, not for a processor."""

_THREADS = 16


@dataclass(frozen=True, slots=True)
class LabelsPair:
    """Labels of one Volume and their truth, if there is to be one."""

    info: VolumeInfo
    labels: Labels
    truth: Labels | None
    classes: tuple[LabelClass, ...]

    @property
    def regions(self) -> list[Box]:
        """The Shards of the Labels, each read once."""
        return list(Box.from_shape(self.labels.shape_zyx).split(self.labels.shard_zyx))


class PairStream:
    """The pairs of the Volumes of `patterns` and `where`, in order of their ids, to go over once.

    Attributes
    ----------
    without_labels, without_truth: ids of Volumes that lack one of the two.
    failed: why masks cannot be compared.
        All three fill while the stream is gone over.
    """

    def __init__(
        self,
        archive: Archive,
        patterns: Sequence[str],
        *,
        labels: str,
        truth: str | None,
        where: str | None = None,
    ) -> None:
        self._archive, self._labels, self._truth = archive, labels, truth
        self._patterns, self._where = patterns, where
        self.without_labels: list[str] = []
        self.without_truth: list[str] = []
        self.failed: dict[str, str] = {}

    def count(self) -> tuple[int, int]:
        """Volumes that are looked at, with both Labels or not, and their voxels."""
        briefs = self._archive.catalog.briefs(self._patterns, self._where)
        voxels = [brief.num_voxels for brief in briefs]
        return len(voxels), sum(voxels)

    def __iter__(self) -> Iterator[LabelsPair]:
        """Raises SpecError at the end where there was no pair, with the Labels there are."""
        self._archive.check_patterns(self._patterns)
        ids = self._archive.catalog.ids(self._patterns, self._where)
        num_pairs = 0
        for start in range(0, len(ids), _AT_ONCE):
            few = ids[start : start + _AT_ONCE]
            described = each(self._describe, few, at_once=_THREADS)
            for volume_id, found in zip(few, described, strict=True):
                if isinstance(found, LabelsPair):
                    num_pairs += 1
                    yield found
                else:
                    self._note(volume_id, found)
        if not num_pairs and not self.failed:
            raise SpecError(self._nothing_to_score(ids))

    def left_out(self) -> Iterator[VolumeFinished]:
        """What became of the Volumes that are no pair, once the stream was gone over."""
        for volume_id in self.without_labels:
            yield VolumeFinished(volume_id, "skipped", f"has no Labels {self._labels!r}")
        for volume_id in self.without_truth:
            yield VolumeFinished(volume_id, "skipped", f"has no truth {self._truth!r}")
        for volume_id, reason in self.failed.items():
            yield VolumeFinished(volume_id, "quarantined", reason)

    def _describe(self, volume_id: str) -> LabelsPair | UnetBatchError:
        try:
            return find_pair(self._archive, volume_id, self._labels, self._truth)
        except UnetBatchError as error:
            return error

    def _note(self, volume_id: str, error: UnetBatchError) -> None:
        """Count a Volume among those without a mask, without a truth, or that failed."""
        there = self._names(volume_id) if isinstance(error, NotFoundError) else None
        if there is None or {self._labels, self._truth or self._labels} <= there:
            self.failed[volume_id] = str(error)
        elif self._labels not in there:
            self.without_labels.append(volume_id)
        else:
            self.without_truth.append(volume_id)

    def _names(self, volume_id: str) -> set[str] | None:
        """The Labels that a Volume has; None where the Volume itself is gone."""
        try:
            return set(self._archive[volume_id].labels)
        except NotFoundError:
            return None

    def _nothing_to_score(self, ids: Sequence[str]) -> str:
        there = sorted({name for one in ids for name in self._names(one) or ()})
        wanted = f"Labels {self._labels!r}"
        wanted += f" and the truth {self._truth!r}" if self._truth else ""
        return (
            f"none of the {len(ids)} Volumes chosen in {self._archive.url} "
            f"has {wanted}; Labels there are: {', '.join(there) or 'none'}"
        )


def find_pair(archive: Archive, volume_id: str, labels: str, truth: str | None) -> LabelsPair:
    """The pair of one Volume, as it is stored now. Raises what `pair_of` and the Archive do."""
    info = archive.info(volume_id)
    return pair_of(info, Volume(archive.url, info).labels, labels, truth)


def pair_of(
    info: VolumeInfo, by_name: Mapping[str, Labels], labels: str, truth: str | None
) -> LabelsPair:
    """The Labels of one Volume and their truth.

    Labels of one of several classes that overlap are scored for that class alone. Raises
    NotFoundError where one is missing, GeometryError or SpecError where they cannot be compared.
    """
    mask = by_name[labels]
    if truth is None:
        return LabelsPair(info, mask, None, foreground_classes(mask.classes, ()))
    true_mask = by_name[truth]
    where = f"Volume {info.id}, Labels {labels!r} against {truth!r}"
    require_same_shape(mask.shape_zyx, true_mask.shape_zyx, where=where)
    is_one_of_several = bool(mask.provenance.get("overlapping"))
    classes = foreground_classes(mask.classes, () if is_one_of_several else true_mask.classes)
    if not classes:
        raise SpecError(f"{where}: neither names any class but background")
    return LabelsPair(info, mask, true_mask, classes)

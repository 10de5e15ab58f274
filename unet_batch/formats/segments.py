"""Segments that may overlap to Masks that cannot: one value a voxel, and nothing lost.

    segment 1   ####..        NAME            11222.   the later segment shows
    segment 2   ..###.        NAME-segment1   ####..   and each that overlaps another gets
                              NAME-segment2   ..###.   Labels of its own

DICOM SEG and RTSTRUCT both come here. Their labels are free text that may name a person:
they select segments, but never become names of classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import VoxelError
from unet_batch.formats.labels import MAX_MASK_VALUE, MaskRules, label_classes
from unet_batch.formats.scan import Affine, Mask

_SAFE_MEANING = re.compile(r"[A-Za-z][A-Za-z0-9 ,()/+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment or region of interest.

    `number` as the file counts; `label` is free text, for selection alone; `meaning` is coded;
    `draw` makes its voxels (bool, zyx), which are not kept for all segments at once.
    """

    number: int
    label: str
    meaning: str
    draw: Callable[[], NDArray[np.bool_]]


def segments_to_masks(
    segments: Sequence[Segment],
    affine: Affine,
    rules: MaskRules,
    *,
    labels: str,
    where: str,
    warnings: tuple[str, ...] = (),
) -> dict[str, Mask]:
    """The Mask `labels` of all segments, and of those that overlap one each.

    Values are the numbers of the segments, or what `rules.segments` gives to those whose label
    fits; several that fit one pattern are one class.

    Raises
    ------
    VoxelError: no segment, or none that fits; numbers beyond 65535 or unnamed ones.
    """
    chosen = _chosen(segments, rules, where)
    painted, overlapping, num_shared = _paint(chosen, where)
    classes = label_classes([value for value, _ in chosen], _names(chosen, rules), where=where)
    odd = warnings
    if num_shared:
        several = ", ".join(str(value) for value in sorted(overlapping))
        odd = (*odd, f"segments {several} overlap in {num_shared} voxels: the later one shows")
    masks = {labels: Mask(painted, affine, classes, odd)}
    for value in sorted(overlapping):
        drawn = _union([one for own, one in chosen if own == value])
        kept = tuple(c for c in classes if c.value in {0, value})
        masks[f"{labels}-segment{value}"] = Mask(
            drawn.astype(painted.dtype) * painted.dtype.type(value), affine, kept
        )
    return masks


def _chosen(segments: Sequence[Segment], rules: MaskRules, where: str) -> list[tuple[int, Segment]]:
    """Value and segment, in the order in which they are painted."""
    chosen = [(one.number, one) for one in sorted(segments, key=lambda one: one.number)]
    if rules.segments:
        chosen = [
            (value, one)
            for value, pattern in sorted(rules.segments.items())
            for one in segments
            if fnmatchcase(one.label.lower(), pattern.lower())
        ]
    if not chosen or not all(0 < value <= MAX_MASK_VALUE for value, _ in chosen):
        raise VoxelError(
            f"{where}: {len(segments)} segments of numbers {[s.number for s in segments][:20]}, "
            f"expected numbers of 1 to {MAX_MASK_VALUE}"
            + (f" and labels that fit {dict(rules.segments)}" if rules.segments else "")
        )
    return chosen


def _paint(
    chosen: Sequence[tuple[int, Segment]], where: str
) -> tuple[NDArray[np.unsignedinteger], set[int], int]:
    """All segments in one array, the values that overlap, and in how many voxels."""
    highest = max(value for value, _ in chosen)
    painted: NDArray[np.unsignedinteger] | None = None
    overlapping: set[int] = set()
    num_shared = 0
    for value, segment in chosen:
        drawn = segment.draw()
        if painted is None:
            painted = np.zeros(drawn.shape, np.uint8 if highest <= 255 else np.uint16)
        shared = painted[drawn]
        shared = shared[(shared != 0) & (shared != value)]
        if shared.size:
            overlapping |= {value, *np.unique(shared).tolist()}
            num_shared += shared.size
        painted[drawn] = value
    if painted is None:
        raise VoxelError(f"{where}: no segment")
    return painted, overlapping, num_shared


def _union(segments: Sequence[Segment]) -> NDArray[np.bool_]:
    drawn = segments[0].draw()
    for segment in segments[1:]:
        drawn |= segment.draw()
    return drawn


def _names(chosen: Sequence[tuple[int, Segment]], rules: MaskRules) -> dict[int, str]:
    """A name for each value: the Spec's, else the coded meaning, made unique."""
    names = dict(rules.class_names)
    for value, segment in chosen:
        meaning = segment.meaning if _SAFE_MEANING.fullmatch(segment.meaning) else ""
        name = meaning or f"class_{value}"
        if value not in names:
            names[value] = f"{name}_{value}" if name in names.values() else name
    return names

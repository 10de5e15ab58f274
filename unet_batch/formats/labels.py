"""Voxels of a file to a Mask: which values it may hold, and what they mean.

Files disagree on what a class looks like: 0 and 255, whole numbers written as floats, greys
of an image that an editor smoothed. `MaskRules` say how to read one kind of mask; whatever
they do not cover is refused by value and count, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import VoxelError
from unet_batch.formats.scan import Affine, Mask
from unet_batch.planning.volume_info import LabelClass

MAX_MASK_VALUE = 65535
_COLORS = (
    (230, 60, 60), (60, 140, 230), (70, 180, 90), (240, 180, 40), (160, 90, 200), (50, 190, 190),
    (240, 130, 60), (220, 110, 170), (150, 190, 60), (120, 120, 220),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MaskRules:
    """How the mask files of one Labels are read.

    Attributes
    ----------
    class_names: names of the values that Labels may hold; empty: `class_1`, `class_2`, ...
    values: stored value to the Labels' value, such as 255 to 1; empty: as stored.
    strays: what to do with stored values that `values` lacks.
    segments: Labels' value to a name pattern of DICOM segments or regions of interest, which
        are then the only ones taken; empty: all, by their own numbers.
    """

    class_names: Mapping[int, str] = field(default_factory=dict)
    values: Mapping[int, int] = field(default_factory=dict)
    strays: Literal["refuse", "nearest"] = "refuse"
    segments: Mapping[int, str] = field(default_factory=dict)


def as_mask(
    voxels_zyx: NDArray[np.generic], affine: Affine, rules: MaskRules, *, where: str
) -> Mask:
    """The Mask of stored `voxels_zyx`: uint8, or uint16 where values exceed 255.

    Integral floats are accepted, as many tools write them.

    Raises
    ------
    VoxelError: values that are not whole numbers of 0 to 65535, that `rules.values` do not
        map, or that `rules.class_names` do not name.
    """
    values, counts = np.unique(voxels_zyx, return_counts=True)
    _check_whole(values, where)
    warnings: tuple[str, ...] = ()
    if rules.values:
        table, warnings = _mapping(values.astype(int), counts, rules, where)
        voxels_zyx = table[voxels_zyx.astype(np.uint16)]
        values = np.unique(voxels_zyx)
    dtype = np.uint8 if values[-1] <= 255 else np.uint16
    classes = label_classes([int(v) for v in values], rules.class_names, where=where)
    return Mask(voxels_zyx.astype(dtype), affine, classes, warnings)


def label_classes(
    values: list[int], class_names: Mapping[int, str] | None, *, where: str
) -> tuple[LabelClass, ...]:
    """Classes of the mask `values`, background first; colours repeat after ten.

    Raises VoxelError where `class_names` are given and lack one of `values`.
    """
    names = {0: "background", **(class_names or {v: f"class_{v}" for v in values if v})}
    unnamed = sorted(set(values) - set(names))
    if unnamed:
        raise VoxelError(f"{where}: {_some(np.array(unnamed))} not in class_names {names}")
    return tuple(
        LabelClass(value, names[value], _COLORS[(value - 1) % len(_COLORS)] if value else (0, 0, 0))
        for value in sorted(names)
    )


def _check_whole(values: NDArray[Any], where: str) -> None:
    wrong = values[~((values >= 0) & (values <= MAX_MASK_VALUE) & (values == np.rint(values)))]
    if wrong.size:
        raise VoxelError(
            f"{where}: a mask holds whole numbers of 0 to {MAX_MASK_VALUE}, "
            f"this also {_some(wrong)}; is it an image, or was it resampled linearly?"
        )


def _mapping(
    values: NDArray[np.int_], counts: NDArray[np.int_], rules: MaskRules, where: str
) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """A look-up table from stored to meant values, and a warning on those that were strays."""
    known = {0: 0, **rules.values}
    keys = np.array(sorted(known))
    nearest = keys[np.abs(values[:, None] - keys).argmin(axis=1)]
    strays = ", ".join(
        f"{value} ({count} voxels)"
        for value, count in zip(values, counts, strict=True)
        if value not in known
    )
    if strays and rules.strays == "refuse":
        raise VoxelError(
            f"{where}: values {strays} that mask_values {dict(rules.values)} do not map; add them "
            "there, or set stray_mask_values: nearest"
        )
    table = np.zeros(MAX_MASK_VALUE + 1, np.uint16)
    table[values] = [known[int(key)] for key in nearest]
    return table, (f"stray mask values taken as the nearest: {strays}",) if strays else ()


def _some(values: NDArray[np.generic]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:5].tolist())
    return f"{shown}, ... ({values.size} values)" if values.size > 5 else shown

"""Where voxels lie: conversions between index orders and patient axes, and grids that coincide.

Two conventions meet at the files' edge, and each is converted here and nowhere else:

    files   index (x, y, z)          DICOM   patient axes L, P, S (left, posterior, superior)
    ours    index (z, y, x)          ours    patient axes R, A, S (right, anterior, superior)

Reversing the index order permutes an affine's columns; changing patient axes negates its
first two rows. Voxels are only ever transposed, so nothing is flipped or resampled.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from unet_batch.errors import GeometryError
from unet_batch.formats.scan import Affine, Mask, spacing_of

GRID_TOLERANCE_VOXELS = 0.05
"""Two grids coincide if no voxel centre is further off. A header of float32 cosines is off by
1e-7 x 512 voxels; positions written to 0.01 mm, as many exporters do, by 0.02 voxels."""


def reverse_index_order(affine: Affine) -> Affine:
    """The affine for index (z, y, x) of one for (x, y, z), and back: it is its own inverse."""
    return np.ascontiguousarray(affine[:, [2, 1, 0, 3]])


def swap_ras_lps(affine: Affine) -> Affine:
    """The affine to LPS+ millimetres of one to RAS+, and back: it is its own inverse."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def orientation_code(affine: Affine) -> str:
    """Three letters, x axis first as viewers show them: where each index grows to (`LPS`).

    `affine` takes (z, y, x). Each axis takes the patient axis it is closest to, the best
    match of all first, so that oblique grids get three different letters.
    """
    cosines = affine[:3, [2, 1, 0]] / np.linalg.norm(affine[:3, [2, 1, 0]], axis=0)
    letters = [""] * 3
    for _ in range(3):
        patient, axis = np.unravel_index(np.abs(cosines).argmax(), (3, 3))
        letters[axis] = ("LR", "PA", "IS")[patient][int(cosines[patient, axis] > 0)]
        cosines[patient, :] = cosines[:, axis] = 0
    return "".join(letters)


def check_affine(affine: Affine, *, where: str) -> None:
    """Raise GeometryError unless `affine` is finite and maps voxels to a true volume."""
    if not np.isfinite(affine).all():
        raise GeometryError(f"{where}: the affine holds NaN or inf\n{_rows(affine)}")
    spacing = np.array(spacing_of(affine))
    volume = abs(np.linalg.det(affine[:3, :3]))
    if not (spacing > 0).all() or volume < 1e-3 * spacing.prod():
        raise GeometryError(
            f"{where}: the affine folds the volume flat (spacing z, y, x {spacing} mm)\n"
            f"{_rows(affine)}\nwrite a valid sform or qform, then ingest again"
        )


def onto_grid(mask: Mask, affine: Affine, shape_zyx: tuple[int, int, int]) -> Mask:
    """`mask` on the grid of `affine` and `shape_zyx`, by axis permutation and flips alone.

    A mask of a part of that grid is placed in it, background around it, with a warning.

    Raises
    ------
    GeometryError: the grids differ by more than GRID_TOLERANCE_VOXELS at some corner, so
        only resampling, which changes a mask, could bring it there; or labelled voxels lie
        outside.
    """
    index_map = np.linalg.inv(affine) @ mask.affine
    turn = np.rint(index_map[:3, :3]).astype(int)
    if not _is_signed_permutation(turn):
        raise _off_grid(mask, affine, shape_zyx, "the axes are not parallel or differ in spacing")
    offset = np.rint(index_map[:3, 3]).astype(int)
    distance = _largest_distance(index_map, turn, offset, mask.voxels_zyx.shape)
    if distance > GRID_TOLERANCE_VOXELS:
        raise _off_grid(mask, affine, shape_zyx, f"voxels lie up to {distance:.3g} voxels apart")
    axes = np.abs(turn).argmax(axis=1)
    signs = turn[np.arange(3), axes]
    voxels = mask.voxels_zyx.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    start = np.where(signs < 0, offset - np.array(voxels.shape) + 1, offset)
    if voxels.shape == tuple(shape_zyx) and not start.any():
        return replace(mask, voxels_zyx=np.ascontiguousarray(voxels), affine=affine)
    placed = _placed(voxels, start, shape_zyx)
    if outside := np.count_nonzero(voxels) - np.count_nonzero(placed):
        raise _off_grid(mask, affine, shape_zyx, f"{outside} labelled voxels lie outside of it")
    part = " x ".join(map(str, voxels.shape))
    odd = f"the mask covers {part} voxels (z, y, x) of the scan; the rest is background"
    return Mask(placed, affine, mask.classes, (*mask.warnings, odd))


def _placed(
    voxels: NDArray[np.unsignedinteger], start: NDArray[np.int_], shape: tuple[int, int, int]
) -> NDArray[np.unsignedinteger]:
    """Zeros of `shape` with `voxels` at `start`, as far as they lie inside."""
    placed = np.zeros(shape, voxels.dtype)
    stop = np.minimum(start + voxels.shape, shape)
    here = tuple(slice(max(0, a), max(0, b)) for a, b in zip(start, stop, strict=True))
    there = tuple(slice(s.start - a, s.stop - a) for s, a in zip(here, start, strict=True))
    placed[here] = voxels[there]
    return placed


def _is_signed_permutation(turn: NDArray[np.int_]) -> bool:
    return bool((np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all())


def _largest_distance(
    index_map: Affine, turn: NDArray[np.int_], offset: NDArray[np.int_], shape: tuple[int, ...]
) -> float:
    """Largest distance, in voxels along an axis, of true and permuted place over the corners."""
    corners = np.array(list(product(*((0, n - 1) for n in shape))), dtype=float)
    there = corners @ index_map[:3, :3].T + index_map[:3, 3]
    return float(np.abs(there - (corners @ turn.T + offset)).max())


def _off_grid(
    mask: Mask, affine: Affine, shape_zyx: tuple[int, int, int], reason: str
) -> GeometryError:
    return GeometryError(
        f"the mask is not on the scan's grid: {reason}\n"
        f"  scan: {_in_words(affine, shape_zyx)}\n"
        f"  mask: {_in_words(mask.affine, mask.voxels_zyx.shape)}\n"
        "export the mask on the scan's own grid, then ingest again"
    )


def _in_words(affine: Affine, shape_zyx: tuple[int, ...]) -> str:
    spacing = " x ".join(f"{mm:.5g}" for mm in spacing_of(affine))
    origin = ", ".join(f"{mm:.6g}" for mm in affine[:3, 3])
    voxels = " x ".join(map(str, shape_zyx))
    return (
        f"{voxels} voxels (z, y, x) of {spacing} mm, {orientation_code(affine)}, "
        f"first voxel at R, A, S = ({origin}) mm, affine\n{_rows(affine)}"
    )


def _rows(affine: Affine) -> str:
    return "\n".join("    " + " ".join(f"{number:12.6g}" for number in row) for row in affine[:3])

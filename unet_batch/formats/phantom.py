r"""Phantoms: made-up scans with known truth, for the demo and for tests without real data.

Not a copy of any patient: a body of ellipsoids bent by smooth waves, in a random pose, with
noise and an uneven receive field. Intensities alone do not tell the organs: the spleen looks
like the liver and bowel loops look like either, so a network must learn shape and place.

              front                       liver    the large one on the patient's right
        .-------------.                   kidney   two, at the back, beside the spine
      /  liver   bowel  \     R -> L      spleen   small, left, as bright as the liver
     |  ####     o   spl |                spine    not labelled, between the kidneys
      \   kid  O  kid   /                 bowel    not labelled, as bright as any organ
        `-------------'
               back
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_batch.formats.geometry import reverse_index_order, swap_ras_lps
from unet_batch.formats.scan import Affine, Mask, Scan
from unet_batch.planning.volume_info import LabelClass

Grid = NDArray[np.float32]

FIELD_OF_VIEW_MM = (104.0, 100.0, 120.0)
CLASSES = (
    LabelClass(0, "background", (0, 0, 0)),
    LabelClass(1, "liver", (200, 90, 60)),
    LabelClass(2, "kidney", (230, 190, 70)),
    LabelClass(3, "spleen", (130, 90, 190)),
)
_NOISE, _UNEVENNESS, _BODY = 45.0, 0.25, 320.0


@dataclass(frozen=True, slots=True)
class _Organ:
    """An ellipsoid in body coordinates: half axes and centre (S, P, L) in mm; 0: no label."""

    value: int
    center_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    intensity: float


_ORGANS = (
    _Organ(0, (0, 26, 0), (90, 9, 9), 640),
    _Organ(1, (16, -4, -22), (24, 21, 19), 520),
    _Organ(2, (-16, 17, -21), (17, 10, 10), 600),
    _Organ(2, (-13, 17, 21), (17, 10, 10), 600),
    _Organ(3, (18, 8, 30), (17, 12, 10), 540),
)
_NUM_BOWEL_LOOPS = 8


def phantom(
    seed: int,
    *,
    spacing_mm: tuple[float, float, float] | None = None,
    shape_zyx: tuple[int, int, int] | None = None,
    name: str | None = None,
) -> tuple[Scan, Mask]:
    """A made-up MR scan (int16) and its true Mask on an axial LPS grid.

    The same arguments give the same voxels. Without `spacing_mm` (z, y, x) it is drawn from
    1.7 to 2.6 mm; without `shape_zyx` the grid covers FIELD_OF_VIEW_MM, 40 to 71 voxels a side.
    """
    random = np.random.default_rng(seed)
    drawn = tuple(float(mm) for mm in random.uniform(1.7, 2.6, 3).round(3))
    spacing = spacing_mm or (drawn[0], drawn[1], drawn[2])
    shape = shape_zyx or _shape_for(spacing)
    points = _bend(_pose(_grid_mm(shape, spacing), random), random)
    intensity, labels = _paint(points, random)
    voxels = _acquire(intensity, random)
    affine = _axial_affine(shape, spacing, random)
    scan = Scan(name or f"phantom_{seed:03d}", voxels[None], affine, ("MR",), "MR",
                {"format": "phantom", "seed": seed})  # fmt: skip
    return scan, Mask(labels, affine, CLASSES)


def _shape_for(spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    z, y, x = (round(mm / step) for mm, step in zip(FIELD_OF_VIEW_MM, spacing_mm, strict=True))
    return z, y, x


def _grid_mm(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    """Coordinates (S, P, L) in mm of every voxel, 3zyx, the centre of the grid at 0."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _pose(points: Grid, random: np.random.Generator) -> Grid:
    """The body turned by up to 9 degrees about each axis, moved by up to 6 mm, scaled by 10 %."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(random.uniform(-9, 9, 3))):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    turn /= random.uniform(0.9, 1.1)
    shift = random.uniform(-6, 6, 3)
    moved = np.tensordot(turn, points, axes=1) + shift[:, None, None, None]
    return moved.astype(np.float32)


def _bend(points: Grid, random: np.random.Generator) -> Grid:
    """Points displaced by smooth waves of 40 to 90 mm length and up to 3 mm height each."""
    bent = points.copy()
    for axis in range(3):
        for _ in range(2):
            direction = random.normal(size=3)
            direction *= 2 * np.pi / random.uniform(40, 90) / np.linalg.norm(direction)
            phase = np.tensordot(direction.astype(np.float32), points, axes=1)
            phase += np.float32(random.uniform(0, 2 * np.pi))
            bent[axis] += np.float32(random.uniform(1, 3)) * np.sin(phase)
    return bent


def _paint(points: Grid, random: np.random.Generator) -> tuple[Grid, NDArray[np.uint8]]:
    """Ideal intensities and true labels, zyx; later organs lie over earlier ones."""
    body = _inside(points, (0, 0, 0), (120, 42, 52))
    intensity = np.where(body, np.float32(_BODY), np.float32(0))
    labels = np.zeros(points.shape[1:], np.uint8)
    loops = [_bowel_loop(random) for _ in range(_NUM_BOWEL_LOOPS)]
    for organ in (*loops, *(_vary(organ, random) for organ in _ORGANS)):
        inside = _inside(points, organ.center_mm, organ.radii_mm)
        intensity[inside] = organ.intensity
        labels[inside] = organ.value
    return intensity, labels


def _inside(
    points: Grid, center: tuple[float, float, float], radii: tuple[float, float, float]
) -> NDArray[np.bool_]:
    distance = np.zeros(points.shape[1:], np.float32)
    for coordinate, middle, radius in zip(points, center, radii, strict=True):
        distance += ((coordinate - np.float32(middle)) / np.float32(radius)) ** 2
    return distance <= 1


def _vary(organ: _Organ, random: np.random.Generator) -> _Organ:
    z, y, x = np.array(organ.center_mm) + random.uniform(-3, 3, 3)
    a, b, c = np.array(organ.radii_mm) * random.uniform(0.85, 1.15, 3)
    intensity = organ.intensity * random.uniform(0.93, 1.07)
    return _Organ(organ.value, (z, y, x), (a, b, c), float(intensity))


def _bowel_loop(random: np.random.Generator) -> _Organ:
    z, y, x = random.uniform((-45, -28, -15), (10, 0, 30))
    a, b, c = random.uniform(5, 10, 3)
    return _Organ(0, (z, y, x), (a, b, c), float(random.uniform(460, 660)))


def _acquire(intensity: Grid, random: np.random.Generator) -> NDArray[np.int16]:
    """What a scanner makes of it: uneven receive field, then Rician noise (Gudbjartsson 1995)."""
    field = np.ones_like(intensity)
    for axis, n in enumerate(intensity.shape):
        slope, curve = random.uniform(-_UNEVENNESS, _UNEVENNESS, 2)
        along = np.linspace(-1, 1, n, dtype=np.float32)
        shape = [n if k == axis else 1 for k in range(3)]
        field *= np.exp(slope * along + curve * along**2).reshape(shape).astype(np.float32)
    real, imaginary = random.normal(0, _NOISE, (2, *intensity.shape)).astype(np.float32)
    gain = random.uniform(0.7, 1.4)
    magnitude = gain * np.hypot(intensity * field + real, imaginary)
    return np.asarray(np.rint(magnitude), dtype=np.int16)


def _axial_affine(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], random: np.random.Generator
) -> Affine:
    """Axial LPS, as scanners store it, the isocentre within 20 mm of the grid's centre."""
    steps_xyz = np.diag([*spacing[::-1], 1.0])
    center_xyz = (np.array(shape[::-1]) - 1) / 2 * spacing[::-1]
    steps_xyz[:3, 3] = random.uniform(-20, 20, 3).round(2) - center_xyz
    return reverse_index_order(swap_ras_lps(steps_xyz))

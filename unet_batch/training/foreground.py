"""Foreground: where the classes of a Volume lie, by a sample of the voxels of each.

The voxels of a class are one group, or one for each of its connected parts: drawing a group
first and then a voxel of it finds a lesion of five voxels as often as one of five thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from unet_batch.tiling.box import Index

Locations = NDArray[np.int64]
Grouping = Literal["class", "object"]

_MOST_LOCATIONS = 1000
"""Kept for each class of a Volume: enough to reach all of an organ, and 24 kB."""
_CONNECTED = np.ones((3, 3, 3), bool)  # corners too


class _Group(NamedTuple):
    """A sample of some voxels, and how many there are."""

    locations: Locations
    size: int


@dataclass(frozen=True, slots=True)
class Foreground:
    """For each class, by the index of its value, groups of locations (k, 3) zyx; k > 0."""

    groups: tuple[tuple[Locations, ...], ...]

    @classmethod
    def find(
        cls, cells: Iterable[tuple[Index, NDArray[np.generic]]], num_values: int, *, by: Grouping
    ) -> Foreground:
        """The Foreground of a truth that comes in cells: where each starts, and its indices.

        Of a class at most `_MOST_LOCATIONS` are kept, chosen at random and always alike. An
        object that is cut by a cell's border counts as two.
        """
        rng = np.random.default_rng(0)
        found: list[list[_Group]] = [[] for _ in range(num_values)]
        for start, indices in cells:
            for index in range(1, num_values):
                for group in _groups(indices == index, by):
                    kept = _thin(group, _MOST_LOCATIONS, rng) + np.array(start)
                    found[index].append(_Group(kept, len(group)))
        return cls(tuple(_settle(groups, by, rng) for groups in found))

    def draw(self, index: int, rng: np.random.Generator) -> Locations | None:
        """A random voxel (zyx) of a random group of a class; None where it has none."""
        groups = self.groups[index]
        if not groups:
            return None
        group = groups[int(rng.integers(len(groups)))]
        return np.asarray(group[int(rng.integers(len(group)))])


def _groups(mask_zyx: NDArray[np.bool_], by: Grouping) -> Sequence[Locations]:
    """The voxels (k, 3) of a mask, or those of each of its connected parts."""
    places = np.argwhere(mask_zyx)
    if by == "class" or not len(places):
        return [places] if len(places) else []
    numbers, _ = ndimage.label(mask_zyx, structure=_CONNECTED)
    own = numbers[mask_zyx]
    order = np.argsort(own, kind="stable")
    return np.split(places[order], np.flatnonzero(np.diff(own[order])) + 1)


def _settle(groups: list[_Group], by: Grouping, rng: np.random.Generator) -> tuple[Locations, ...]:
    """The groups of all cells, thinned to what is kept."""
    if by == "class":
        return (_united(groups, rng),) if groups else ()
    if len(groups) > _MOST_LOCATIONS:
        groups = [groups[k] for k in rng.choice(len(groups), _MOST_LOCATIONS, replace=False)]
    most = max(_MOST_LOCATIONS // max(len(groups), 1), 1)
    return tuple(_thin(group.locations, most, rng) for group in groups)


def _united(groups: Sequence[_Group], rng: np.random.Generator) -> Locations:
    """Of all groups together about `_MOST_LOCATIONS` voxels, each of them as likely."""
    sizes = np.array([group.size for group in groups])
    if sizes.sum() <= _MOST_LOCATIONS:
        return np.concatenate([one.locations for one in groups])
    shares = rng.multinomial(_MOST_LOCATIONS, sizes / sizes.sum())
    parts = (_thin(one.locations, n, rng) for one, n in zip(groups, shares, strict=True))
    return np.concatenate(list(parts))


def _thin(locations: Locations, most: int, rng: np.random.Generator) -> Locations:
    if len(locations) <= most:
        return locations
    return np.asarray(locations[rng.choice(len(locations), most, replace=False)])

"""Components: connected parts of masks, numbered region by region, joined across borders.

A region is labelled by itself. On the planes where it meets the regions before it, numbers
that touch are noted as pairs; once all regions are through, the pairs are joined. Of what was
labelled only one plane of numbers for each axis is kept:

    regions are walked x fastest, then y, then z

        z-plane: across the whole volume      the layer of regions above
        y-plane: one row of regions long      the row before, of this layer
        x-plane: one region                   the region before, of this row

Two voxels that touch, by a face, an edge or a corner, in two regions: take the first axis
along which the regions differ; the later region finds the other voxel on that axis' plane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unet_batch.errors import MemoryBudgetError
from unet_batch.postprocessing.masks import Mask
from unet_batch.postprocessing.regions import Structure
from unet_batch.tiling.box import Box, Index, bounding_box

Numbers = NDArray[np.int32]
"""Numbers of components, one a voxel (z, y, x); 0 outside of the masks."""

MAX_COMPONENTS = 2**31 - 2


def label_region(
    masks: Iterable[Mask], shape: Index, structure: Structure
) -> tuple[Numbers, NDArray[np.uint16]]:
    """Numbers of the components of disjoint masks, from 1; and the mask of each of them."""
    numbers, count = np.zeros(shape, np.int32), 0
    owners = [np.empty(0, np.uint16)]
    for mask in masks:
        found, num_found = ndimage.label(mask.voxels, structure)
        np.add(found, count, out=numbers[mask.slices], where=mask.voxels)
        owners.append(np.full(num_found, mask.number, np.uint16))
        count += num_found
    return numbers, np.concatenate(owners)


class Numbering:
    """Numbers the components of a volume; `walk` it once, then ask for what it found.

    Parameters
    ----------
    regions: in C order, cut along one lattice, without gaps.
    masks: the masks of a region, in its own coordinates; it must always find the same.
    structure: which voxels touch.
    """

    def __init__(
        self,
        regions: Sequence[Box],
        masks: Callable[[Box], Iterable[Mask]],
        structure: Structure,
    ) -> None:
        self._regions, self._masks, self._structure = regions, masks, structure
        self._first = [1]
        self._owners: list[NDArray[np.uint16]] = [np.zeros(1, np.uint16)]
        self._pairs: list[NDArray[np.int64]] = []

    def walk(self) -> Iterator[tuple[Box, Numbers, int]]:
        """Each region with its numbers, which count from 1 in each, and how many there are.

        Raises MemoryBudgetError where there are more than 2**31 components in all.
        """
        whole = bounding_box(self._regions)
        planes = [_Plane(axis, whole, self._structure) for axis in range(3)]
        for region in self._regions:
            numbers, owners = self.label(region)
            yield region, numbers, len(owners)
            self._note(owners)
            np.add(numbers, self._first[-2] - 1, out=numbers, where=numbers > 0)
            self._pairs.append(np.concatenate([one.meet(region, numbers) for one in planes]))

    def label(self, region: Box) -> tuple[Numbers, NDArray[np.uint16]]:
        """The numbers of one region, counted from 1, and the mask of each."""
        return label_region(self._masks(region), region.shape, self._structure)

    def part(self, number: int) -> slice:
        """Where in a table of all numbers those of the region at `number` are."""
        return slice(self._first[number], self._first[number + 1])

    def joined(self) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """For every number of the walk its component, and its mask. Entry 0 is nobody's.

        Components count from 0; numbers that touch across borders share one.
        """
        owners = np.concatenate(self._owners)
        pairs = np.concatenate([np.empty(0, np.int64), *self._pairs])
        a, b = pairs >> 32, pairs & 0xFFFFFFFF
        same = owners[a] == owners[b]
        a, b = a[same], b[same]
        graph = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(len(owners),) * 2)
        _, components = connected_components(graph, directed=False)
        return components, owners

    def _note(self, owners: NDArray[np.uint16]) -> None:
        following = self._first[-1] + len(owners)
        if following > MAX_COMPONENTS:
            raise MemoryBudgetError(
                f"post-processing found more than {MAX_COMPONENTS} connected components: the"
                " labels are noise. Check the model, or drop inference.postprocess"
            )
        self._first.append(following)
        self._owners.append(owners)


class _Plane:
    """Numbers of the voxels just before the region under way, along one axis.

    The plane spans the region along the axes before `axis`, and the whole volume along those
    after it; a margin of one voxel of 0 lets windows be shifted.
    """

    def __init__(self, axis: int, whole: Box, structure: Structure) -> None:
        self._axis, self._whole = axis, whole
        self._touching = np.argwhere(structure.take(0, axis))  # offsets + 1 within the plane
        self._line: Index | None = None
        self._position = -1
        self._before = self._here = np.zeros((0, 0), np.int32)

    def meet(self, region: Box, numbers: Numbers) -> NDArray[np.int64]:
        """Pairs of numbers that touch across the plane, each once; keeps the region's last."""
        self._advance(region)
        window = self._window(region)
        pairs = []
        mine: Numbers = np.take(numbers, 0, self._axis)
        for offset in self._touching:
            shifted = tuple(slice(a + d, b + d) for (a, b), d in zip(window, offset, strict=True))
            other = self._before[shifted]
            both = (mine > 0) & (other > 0)
            pairs.append(np.unique(mine[both].astype(np.int64) << 32 | other[both]))
        inside = tuple(slice(a + 1, b + 1) for a, b in window)
        self._here[inside] = numbers.take(-1, self._axis)
        return np.unique(np.concatenate(pairs)) if pairs else np.empty(0, np.int64)

    def _advance(self, region: Box) -> None:
        line, position = region.start[: self._axis], region.start[self._axis]
        if line != self._line:
            lengths = (*region.shape[: self._axis], *self._whole.shape[self._axis + 1 :])
            self._before = np.zeros([n + 2 for n in lengths], np.int32)
            self._here = np.zeros_like(self._before)
        elif position != self._position:
            self._before, self._here = self._here, self._before
        self._line, self._position = line, position

    def _window(self, region: Box) -> list[tuple[int, int]]:
        placed = region.relative_to(self._whole)
        before = [(0, n) for n in region.shape[: self._axis]]
        after = list(zip(placed.start, placed.stop, strict=True))[self._axis + 1 :]
        return before + after

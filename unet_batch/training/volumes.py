"""TrainingVolume: a Volume and its truth as training reads them, from memory or from Zarr.

Where the network wants another grid, all that is read lies on that grid: a region is
normalised and then resampled as it is read, as at inference, and its truth takes the nearest
voxel's class. A Volume kept in memory is kept on the network's grid, so that it is resampled
once.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.errors import SpecError
from unet_batch.models.intensity import Normalizer
from unet_batch.models.resampling import nearest_to_model_grid, to_model_grid
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Labels, Volume
from unet_batch.tiling.box import Box, Index
from unet_batch.training.foreground import Foreground, Grouping
from unet_batch.training.targets import ClassTable

# Voxels of truth looked at together while searching a Volume too large for memory.
_SEARCH_CELL_ZYX = (128, 256, 256)
_MOST_VALUES = 2**16

Indices = NDArray[np.uint8] | NDArray[np.int32]


@dataclass
class MemoryBudget:
    """Bytes of Volumes that may be kept; first come, first kept."""

    max_bytes: int
    used_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, num_bytes: int) -> bool:
        """Whether `num_bytes` still fit; if so they count as used from now on."""
        with self._lock:
            if self.used_bytes + num_bytes > self.max_bytes:
                return False
            self.used_bytes += num_bytes
            return True


class TrainingVolume:
    """One Volume with the Labels to learn, opened on first use, by any thread.

    Attributes
    ----------
    shape_zyx, spacing_mm: those of the network's grid.
    num_values: values that the truth may hold, the background among them.
    known: for each channel of the logits whether the Labels tell of the class.
    listed: indices of the truth's values that its Labels list, and it may hold.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        truth: str,
        table: ClassTable,
        intensity: IntensitySpec,
        budget: MemoryBudget,
        grid: GridSpec = OWN_GRID,
        listed_values: Collection[int] | None = None,
        partial_labels: bool = False,
        foreground_by: Grouping = "class",
    ) -> None:
        self.id = volume.id
        self.volume = volume
        self.num_values = len(table.values)
        listed = table.values if listed_values is None else listed_values
        self.known = table.known(listed if partial_labels else table.values)
        self.listed = frozenset(table.values.index(value) for value in listed)
        self._grid_map = grid.map_of(volume.info)
        self.spacing_mm: tuple[float, ...] = volume.spacing_mm
        self.shape_zyx: tuple[int, ...] = volume.info.shape_zyx
        if self._grid_map:
            self.spacing_mm = self._grid_map.model_spacing(volume.spacing_mm)
            self.shape_zyx = self._grid_map.model_shape
        self._truth_name, self._values = truth, table.values
        self._foreground_by: Grouping = foreground_by
        self._normalizer = Normalizer.fit(intensity, volume.info.statistics)
        self._budget = budget
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None
        self._foreground: Foreground | None = None
        self._is_open = False
        self._lock = threading.Lock()

    def read(self, region: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input (c, *region) float32 and indices of the truth's values (*region)."""
        kept = self._open()
        if kept is None:
            return self._stream(region)
        image, truth = kept[0][:, *region.slices], kept[1][region.slices]
        return image if self._grid_map else self._normalizer.apply(image), truth

    def read_truth(self, region: Box) -> NDArray[np.unsignedinteger]:
        """The truth's values (*region) of a region of the scan's own grid."""
        return np.asarray(self._labels.stored[region.slices])

    def draw_location(self, index: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
        """A random voxel (zyx) with the truth's value `index`; None where there is none."""
        with self._lock:
            if self._foreground is None:
                self._foreground = Foreground.find(
                    self._truth_cells(), self.num_values, by=self._foreground_by
                )
        location = self._foreground.draw(index, rng)
        if location is None or self._grid_map is None:
            return location
        return np.array(self._grid_map.nearest(location.tolist()))

    @cached_property
    def _labels(self) -> Labels:
        return self.volume.labels[self._truth_name]

    def _open(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Image and truth on the network's grid, where they fit the budget.

        The image is raw where it lies on its own grid: as many bytes as were stored.
        """
        with self._lock:
            if not self._is_open:
                if self._budget.take(self._bytes_to_keep()):
                    whole = Box.from_shape(self.shape_zyx)
                    self._kept = self._stream(whole) if self._grid_map else self._read_raw(whole)
                self._is_open = True
        return self._kept

    def _bytes_to_keep(self) -> int:
        info = self.volume.info
        itemsize = 4 if self._grid_map else np.dtype(info.dtype).itemsize
        channels = info.shape_czyx[0]
        return prod(self.shape_zyx) * (itemsize * channels + _index_by_value(self._values).itemsize)

    def _stream(self, region: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """As `read`, from Zarr."""
        held = self._grid_map.scan_box(region) if self._grid_map else region
        raw, truth = self._read_raw(held)
        image = self._normalizer.apply(raw)
        if self._grid_map is None:
            return image, truth
        return (
            to_model_grid(image, held, self._grid_map, region),
            nearest_to_model_grid(truth, held, self._grid_map, region),
        )

    def _read_raw(self, region: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """Voxels as stored and indices of a region of the scan's own grid."""
        image = self.volume.stored[(slice(None), *region.slices)]
        indices = self._indices(self.read_truth(region))
        return torch.from_numpy(np.require(image, requirements=["W"])), torch.from_numpy(indices)

    def _truth_cells(self) -> Iterator[tuple[Index, Indices]]:
        for cell in Box.from_shape(self.volume.info.shape_zyx).split(_SEARCH_CELL_ZYX):
            yield cell.start, self._indices(self.read_truth(cell))

    def _indices(self, truth: NDArray[np.unsignedinteger]) -> Indices:
        indices: Indices = _index_by_value(self._values)[truth]
        if indices.max(initial=0) >= self.num_values:
            odd = sorted(set(np.unique(truth).tolist()) - set(self._values))
            raise SpecError(
                f"Volume {self.id!r}: Labels {self._truth_name!r} hold the values {odd}, which are"
                f" none of their classes {list(self._values)}; ingest the mask again"
            )
        return indices


@lru_cache(maxsize=8)
def _index_by_value(values: tuple[int, ...]) -> Indices:
    """For every value that Labels can store its index in `values`; their number for others."""
    dtype: Any = np.uint8 if len(values) < 256 else np.int32
    table: Indices = np.full(_MOST_VALUES, len(values)).astype(dtype)
    table[list(values)] = np.arange(len(values))
    return table


def open_training_volumes(
    archive: Archive,
    listed_values: Mapping[str, Collection[int]],
    *,
    truth: str,
    table: ClassTable,
    intensity: IntensitySpec,
    budget: MemoryBudget,
    grid: GridSpec = OWN_GRID,
    foreground_by: Grouping = "class",
    partial_labels: bool = False,
) -> list[TrainingVolume]:
    """The Volumes of `listed_values`, none of their voxels read yet. They share `budget`.

    With each comes what its Labels list. With `partial_labels` a class that they do not list is
    unknown in it.
    """
    return [
        TrainingVolume(
            archive[one],
            truth=truth,
            table=table,
            intensity=intensity,
            budget=budget,
            grid=grid,
            listed_values=values,
            partial_labels=partial_labels,
            foreground_by=foreground_by,
        )
        for one, values in listed_values.items()
    ]

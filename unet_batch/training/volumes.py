"""TrainingVolume: a Volume and its truth as training reads them, from memory or from Zarr.

Where the network wants another grid, all that is read lies on that grid: a region is
normalised and then resampled as it is read, as at inference, and its truth takes the nearest
voxel's class.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.errors import SpecError
from unet_batch.models.intensity import Normalizer
from unet_batch.models.resampling import nearest_to_model_grid, to_model_grid, to_scan_grid
from unet_batch.planning.specs.grid import OWN_GRID, GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive
from unet_batch.storage.volume import Volume
from unet_batch.tiling.box import Box

# Locations kept for each class of a Volume: enough to reach all of an organ, and 12 kB.
_MAX_LOCATIONS = 1000
# Voxels of truth looked at together while searching a Volume too large for memory.
_SEARCH_CELL_ZYX = (128, 256, 256)
# Planes of the scan whose logits are resampled together while validating.
_PLANES_RESAMPLED = 8


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
    """One Volume with the Labels to learn, opened on first use.

    `classes` are those of the network, in the order of its logits. `shape_zyx` and
    `spacing_mm` are those of the network's grid.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        truth: str,
        classes: Sequence[LabelClass],
        intensity: IntensitySpec,
        budget: MemoryBudget,
        grid: GridSpec = OWN_GRID,
    ) -> None:
        self.id = volume.id
        self._grid_map = grid.map_of(volume.info)
        self.spacing_mm: tuple[float, ...] = volume.spacing_mm
        self.shape_zyx: tuple[int, ...] = volume.info.shape_zyx
        if self._grid_map:
            self.spacing_mm = self._grid_map.model_spacing(volume.spacing_mm)
            self.shape_zyx = self._grid_map.model_shape
        self._volume = volume
        self._truth_name = truth
        self._values = tuple(one.value for one in classes)
        self._normalizer = Normalizer.fit(intensity, volume.info.statistics)
        self._budget = budget
        self._arrays: tuple[Any, Any] | None = None
        self._locations: list[NDArray[np.int64]] | None = None

    def read(self, region: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input (c, *region) float32 and class indices (*region) int64 of `region`."""
        if self._grid_map is None:
            return self._read(region)
        held = self._grid_map.scan_box(region)
        image, truth = self._read(held)
        return (
            to_model_grid(image, held, self._grid_map, region),
            nearest_to_model_grid(truth, held, self._grid_map, region),
        )

    def read_truth(self) -> torch.Tensor:
        """Class indices (z, y, x) int64 on the scan's own grid, all of them."""
        return self._read_truth(Box.from_shape(self._volume.info.shape_zyx))

    def classify(self, logits_czyx: torch.Tensor) -> torch.Tensor:
        """Class indices (z, y, x), on the scan's own grid, of a whole Volume's logits.

        The logits, on the network's grid, are resampled a few planes at a time.
        """
        grid_map, shape = self._grid_map, self._volume.info.shape_zyx
        if grid_map is None:
            return logits_czyx.max(dim=0).indices
        classes = torch.empty(shape, dtype=torch.int64)
        for part in Box.from_shape(shape).split((_PLANES_RESAMPLED, *shape[1:])):
            held = grid_map.model_box(part)
            logits = to_scan_grid(logits_czyx[:, *held.slices], held, grid_map, part)
            classes[part.slices] = logits.max(dim=0).indices
        return classes

    def draw_foreground(self, rng: np.random.Generator) -> NDArray[np.int64] | None:
        """A random labelled voxel (zyx) of a random class; None where nothing is labelled."""
        if self._locations is None:
            self._locations = self._find_foreground()
        if not self._locations:
            return None
        locations = self._locations[rng.integers(len(self._locations))]
        location = locations[rng.integers(len(locations))]
        return np.asarray(self._grid_map.nearest(location) if self._grid_map else location)

    def _read(self, region: Box) -> tuple[torch.Tensor, torch.Tensor]:
        """As `read`, of a region of the scan's own grid."""
        image, _ = self._open()
        voxels = torch.from_numpy(_in_memory(image[(slice(None), *region.slices)]))
        return self._normalizer.apply(voxels), self._read_truth(region)

    def _read_truth(self, region: Box) -> torch.Tensor:
        _, truth = self._open()
        return torch.from_numpy(self._class_indices(_in_memory(truth[region.slices])))

    def _open(self) -> tuple[Any, Any]:
        """Image and truth: NumPy arrays where they fit the budget, lazy ones otherwise."""
        if self._arrays is None:
            image: Any = self._volume.image
            truth: Any = self._volume.labels[self._truth_name].array
            if self._budget.take(int(image.nbytes + truth.nbytes)):
                image, truth = _in_memory(image), _in_memory(truth)
            self._arrays = image, truth
        return self._arrays

    def _class_indices(self, truth: NDArray[Any]) -> NDArray[np.int64]:
        indices = np.full(truth.shape, -1, dtype=np.int64)
        for index, value in enumerate(self._values):
            indices[truth == value] = index
        if indices.min(initial=0) < 0:
            odd = sorted(set(np.unique(truth).tolist()) - set(self._values))
            raise SpecError(
                f"Volume {self.id!r}: Labels {self._truth_name!r} hold the values {odd}, which are"
                f" none of their classes {list(self._values)}; ingest the mask again"
            )
        return indices

    def _find_foreground(self) -> list[NDArray[np.int64]]:
        """Locations of each class that occurs, at most `_MAX_LOCATIONS` a class."""
        _, truth = self._open()
        rng = np.random.default_rng(0)
        found: Mapping[int, list[NDArray[np.int64]]] = {v: [] for v in self._values[1:]}
        for cell in Box.from_shape(self._volume.info.shape_zyx).split(_SEARCH_CELL_ZYX):
            part = _in_memory(truth[cell.slices])
            for value, places in found.items():
                inside = np.argwhere(part == value)
                if len(inside):
                    places.append(_thin(inside, rng) + np.array(cell.start))
        return [_thin(np.concatenate(places), rng) for places in found.values() if places]


def open_training_volumes(
    archive: Archive,
    volume_ids: Sequence[str],
    *,
    truth: str,
    classes: Sequence[LabelClass],
    intensity: IntensitySpec,
    budget: MemoryBudget,
    grid: GridSpec = OWN_GRID,
) -> list[TrainingVolume]:
    """The Volumes of `volume_ids`, none of them read yet. They share `budget`."""
    return [
        TrainingVolume(
            archive[one],
            truth=truth,
            classes=classes,
            intensity=intensity,
            budget=budget,
            grid=grid,
        )
        for one in volume_ids
    ]


def _thin(locations: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    if len(locations) <= _MAX_LOCATIONS:
        return locations
    return np.asarray(locations[rng.choice(len(locations), _MAX_LOCATIONS, replace=False)])


def _in_memory(array: Any) -> NDArray[Any]:
    """`array` as writable, native NumPy memory; a lazy one is computed in this thread."""
    if not isinstance(array, np.ndarray):
        array = array.compute(scheduler="synchronous")
    return np.require(array, requirements=["W"])

"""Sums: the memory of a Slab, on the device where the logits are.

Weighted logits go in tile by tile; finished regions come out as class indices, or as sums
where other Sweeps contribute, and what came out is zero again. Boxes are in voxels of the
array of sums (`ring`) or of the tile. Labels need no division by the summed weights:
dividing all classes of a voxel by the same positive number changes no order.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unet_batch.errors import BundleError
from unet_batch.inference import kernels
from unet_batch.inference.floats import as_numbers
from unet_batch.inference.head import NOT_FINITE
from unet_batch.tiling.box import Box, Index
from unet_batch.tiling.importance import Importance, importance_bells, importance_map


class Sums(Protocol):
    """Weighted logit sums float32 of some classes over a box of voxels."""

    @property
    def broken(self) -> torch.Tensor | None:
        """On a device that is not waited for: whether a sum that was finished was not finite."""
        ...

    def add(self, logits_czyx: torch.Tensor, ring: Box, inside: Box) -> None:
        """Add the part `inside` of a tile's logits, weighted, to `ring`; equal shapes."""
        ...

    def finish(self, ring: Box, out: torch.Tensor) -> None:
        """Write the index of the largest class to `out`, and zero the sums.

        The lower index where two are equal. Where a sum is not finite `broken` says so later,
        or BundleError is raised.
        """
        ...

    def read(self, ring: Box, out: torch.Tensor) -> None:
        """Copy the sums to `out`, float32 (classes, *ring.shape)."""
        ...

    def take(self, ring: Box, out: torch.Tensor) -> None:
        """Move the sums to `out`, float32 (classes, *ring.shape), and zero them here."""
        ...

    def clear(self, ring: Box) -> None:
        """Zero the sums."""
        ...


class DeviceSums:
    """Sums as a torch tensor (classes, z, y, x), for devices other than the CPU."""

    def __init__(
        self, logits_czyx: torch.Tensor, shape: Index, *, roi: Index, importance: Importance
    ) -> None:
        device = logits_czyx.device
        self._sums = torch.zeros((len(logits_czyx), *shape), device=device)
        self.broken = torch.zeros((), dtype=torch.bool, device=device)
        self._weights = torch.tensor(importance_map(roi, importance)).to(device)

    def add(self, logits_czyx: torch.Tensor, ring: Box, inside: Box) -> None:
        """Add weighted logits."""
        weights = self._weights[inside.slices]
        self._sums[:, *ring.slices].addcmul_(logits_czyx[:, *inside.slices].float(), weights)

    def finish(self, ring: Box, out: torch.Tensor) -> None:
        """Read labels out."""
        best = self._sums[:, *ring.slices].max(0)
        self.broken |= ~torch.isfinite(best.values.sum())
        out.copy_(best.indices)
        self.clear(ring)

    def read(self, ring: Box, out: torch.Tensor) -> None:
        """Copy sums."""
        out.copy_(self._sums[:, *ring.slices])

    def take(self, ring: Box, out: torch.Tensor) -> None:
        """Read sums out."""
        self.read(ring, out)
        self.clear(ring)

    def clear(self, ring: Box) -> None:
        """Zero the sums."""
        self._sums[:, *ring.slices] = 0


class HostSums:
    """Sums in the layout of the logits, added and read by compiled loops, for the CPU."""

    broken = None

    def __init__(
        self, logits_czyx: torch.Tensor, shape: Index, *, roi: Index, importance: Importance
    ) -> None:
        self._num_classes = len(logits_czyx)
        self._is_last = is_channels_last(logits_czyx)
        self._per_voxel = self._num_classes if self._is_last else 1
        z, y, x = shape
        planes = 1 if self._is_last else self._num_classes
        self._sums = np.zeros((planes, z, y, x * self._per_voxel), np.float32)
        (bell_z, bell_y, bell_x), floor = importance_bells(roi, importance)
        self._bells = (bell_z, bell_y, np.repeat(bell_x, self._per_voxel), floor)

    def add(self, logits_czyx: torch.Tensor, ring: Box, inside: Box) -> None:
        """Add weighted logits."""
        logits = as_planes(logits_czyx, is_last=self._is_last)
        spans = _spans(ring, inside)
        spans[2] *= self._per_voxel
        kernels.add(self._sums, logits, *self._bells, spans)

    def finish(self, ring: Box, out: torch.Tensor) -> None:
        """Read labels out."""
        num_classes = self._num_classes
        finish(self._sums, num_classes, ring, out, is_last=self._is_last, clears=True)

    def read(self, ring: Box, out: torch.Tensor) -> None:
        """Copy sums."""
        out.copy_(torch.from_numpy(self._classes_first[:, *ring.slices]))

    def take(self, ring: Box, out: torch.Tensor) -> None:
        """Read sums out."""
        self.read(ring, out)
        self.clear(ring)

    def clear(self, ring: Box) -> None:
        """Zero the sums."""
        self._classes_first[:, *ring.slices] = 0

    @property
    def _classes_first(self) -> NDArray[np.float32]:
        """A view (class, z, y, x) of the sums, whatever their layout."""
        if not self._is_last:
            return self._sums
        _, z, y, row = self._sums.shape
        grouped = self._sums.reshape(z, y, row // self._num_classes, self._num_classes)
        return np.moveaxis(grouped, -1, 0)


def as_planes(logits_czyx: torch.Tensor, *, is_last: bool) -> NDArray[Any]:
    """The logits as contiguous (planes, z, y, row), float32 or the bits of bfloat16.

    With `is_last` there is one plane, and rows hold the classes of one voxel after another.
    """
    ordered = logits_czyx.permute(1, 2, 3, 0)[None] if is_last else logits_czyx
    ordered = ordered.contiguous()
    return as_numbers(ordered.reshape(*ordered.shape[:3], -1) if is_last else ordered)


def finish(
    planes: NDArray[Any],
    num_classes: int,
    box: Box,
    out: torch.Tensor,
    *,
    is_last: bool,
    clears: bool = False,
) -> None:
    """Write the index of the largest class in `box` of sums or logits (`as_planes`) to `out`.

    Raises BundleError where one is NaN or infinite. `clears` sets them to zero.
    """
    spans, labels = _spans(box, Box.from_shape(box.shape)), out.numpy()
    if is_last:
        broken = kernels.finish_channels_last(planes, num_classes, labels, spans, clears=clears)
    else:
        broken = kernels.finish_channels_first(planes, labels, spans, clears)
    if broken:
        raise BundleError(NOT_FINITE)


def is_channels_last(logits_czyx: torch.Tensor) -> bool:
    """Whether the classes of a voxel are neighbours in memory."""
    return logits_czyx.shape[0] > 1 and logits_czyx.stride(0) == 1


def _spans(ring: Box, other: Box) -> NDArray[np.int64]:
    """(start in the ring, start in the other, length) of each axis, as the kernels take them."""
    return np.array([ring.start, other.start, ring.shape], np.int64).T.copy()

"""References: arrays in Ray's object store, each an object, or many small ones in one.

An object costs a tenth of a millisecond wherever it is made, sent and let go, which is as long
as it takes to read a small scan. So the arrays of Volumes that are packed into one call travel
together, as a list.

Nothing of Dask is imported here: a Replica, which only fetches, begins half a second sooner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray

from unet_batch.pickling import by_fields
from unet_batch.tiling.box import Box

Ref = Any  # ray.ObjectRef: its own generic type tells mypy nothing


@by_fields
@dataclass(frozen=True, slots=True)
class ArrayRef:
    """Where an array is: `ref` is the array, or, with `index`, a list that holds it."""

    ref: Ref
    index: int | None = None

    def of(self, value: Any) -> Any:
        """The array, `value` being what `ref` refers to."""
        return value if self.index is None else value[self.index]


@by_fields
@dataclass(frozen=True, slots=True)
class PieceRef:
    """A box (c, z, y, x) of a Volume, and where its raw voxels are.

    In a list of arrays, a text says why one could not be read.
    """

    box: Box
    array: ArrayRef


def fetch(wanted: Iterable[ArrayRef]) -> dict[Ref, Any]:
    """What the references refer to, each fetched once. Raises what `ray.get` does."""
    refs = list({one.ref for one in wanted})
    return dict(zip(refs, ray.get(refs), strict=True))

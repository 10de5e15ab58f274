"""Selection: a NumPy selection as a box to read, and what is taken of the box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def bounding_box(selection: Any, shape: Sequence[int]) -> tuple[list[slice], tuple[Any, ...]]:
    """A NumPy selection as the smallest box that holds it, and what is then taken of the box."""
    parts = list(selection) if isinstance(selection, tuple) else [selection]
    if Ellipsis in [part for part in parts if part is Ellipsis]:
        place = next(n for n, part in enumerate(parts) if part is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    parts += [slice(None)] * (len(shape) - len(parts))
    found = [_bound(part, n) for part, n in zip(parts, shape, strict=True)]
    return [box for box, _ in found], tuple(rest for _, rest in found)


def _bound(part: Any, size: int) -> tuple[slice, Any]:
    if isinstance(part, slice):
        chosen = range(size)[part]
        low, high = sorted((chosen[0], chosen[-1])) if chosen else (0, -1)
        return slice(low, high + 1), slice(None, None, chosen.step)
    if isinstance(part, int | np.integer):
        index = range(size)[int(part)]
        return slice(index, index + 1), 0
    indices = np.arange(size)[part]
    low = int(indices.min()) if indices.size else 0
    return slice(low, int(indices.max()) + 1 if indices.size else 0), indices - low

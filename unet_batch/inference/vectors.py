"""Vectors: sixteen floats as one value in code compiled by numba, where its loops are too slow.

What a loop over arrays is compiled to depends on what the compiler can prove of them. A `Vector`
is what one register holds, for certain: kernels add and subtract such values by name. They are
read from addresses and written there, as float32 or as bfloat16, which is rounded to nearest.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16
"""Floats of a vector: as many as the widest register holds, and a cache line."""

LINE_BYTES = 64
"""Of a processor's cache."""


class BFloat16(ir.Type):  # type: ignore[misc]
    """LLVM's type of that name, which llvmlite has not."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat16)

    def __hash__(self) -> int:
        return hash(BFloat16)


FLOATS = ir.VectorType(ir.FloatType(), LANES)
BFLOATS = ir.VectorType(BFloat16(), LANES)


class Vector(types.Type):
    """The type of sixteen float32 that are one value."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


VECTOR = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)  # type: ignore[no-untyped-call]


def _load_floats(_: Any, address: Any) -> Any:
    """The sixteen float32 at an address (bytes)."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], FLOATS.as_pointer())
        return builder.load(pointer, align=4)

    return VECTOR(address), generate


load_floats: Any = intrinsic(_load_floats)


def _load_bfloats(_: Any, address: Any) -> Any:
    """The sixteen bfloat16 at an address (bytes)."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], BFLOATS.as_pointer())
        return builder.fpext(builder.load(pointer, align=2), FLOATS)

    return VECTOR(address), generate


load_bfloats: Any = intrinsic(_load_bfloats)


def _save_bfloats(_: Any, address: Any, vector: Any) -> Any:
    """Write a vector as bfloat16 to an address (bytes)."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], BFLOATS.as_pointer())
        builder.store(builder.fptrunc(arguments[1], BFLOATS), pointer, align=2)
        return context.get_dummy_value()

    return types.void(address, vector), generate


save_bfloats: Any = intrinsic(_save_bfloats)


def _activated(_: Any, vector: Any, slope: Any) -> Any:
    """What is below 0 times `slope` (float32), and the rest, also what is not a number."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        vector, slope = arguments
        lane = ir.Constant(ir.IntType(32), 0)
        alone = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), slope, lane)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        slopes = builder.shuffle_vector(alone, alone, everywhere)
        is_below = builder.fcmp_ordered("<", vector, ir.Constant(FLOATS, [0.0] * LANES))
        return builder.select(is_below, builder.fmul(vector, slopes), vector)

    return VECTOR(vector, slope), generate


activated: Any = intrinsic(_activated)


def _lane_by_lane(instruction: str) -> Any:
    """What one instruction of LLVM makes of two vectors."""

    @intrinsic
    def compute(_: Any, left: Any, right: Any) -> Any:
        def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return VECTOR(left, right), generate

    return compute


_sum, _difference = _lane_by_lane("fadd"), _lane_by_lane("fsub")


@overload(operator.add, strict=False)
def _add(left: Any, right: Any) -> Callable[[Any, Any], Any] | None:
    if isinstance(left, Vector) and isinstance(right, Vector):
        return lambda left, right: _sum(left, right)  # noqa: PLW0108 (compiled from its code)
    return None


@overload(operator.sub, strict=False)
def _subtract(left: Any, right: Any) -> Callable[[Any, Any], Any] | None:
    if isinstance(left, Vector) and isinstance(right, Vector):
        return lambda left, right: _difference(left, right)  # noqa: PLW0108 (as above)
    return None


@numba.njit(nogil=True, cache=True)
def aligned(room: Any, size: int) -> Any:
    """`size` numbers of `room`, which has LINE_BYTES to spare, from where a cache line begins."""
    start = -(room.ctypes.data // room.itemsize) % (LINE_BYTES // room.itemsize)
    return room[start : start + size]

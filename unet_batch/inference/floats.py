"""Floats: bfloat16 for kernels compiled by numba and for NumPy, which do not know the type.

It travels as uint16, of the same bits: the upper half of a float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray


def as_numbers(tensor: torch.Tensor) -> NDArray[Any]:
    """A contiguous tensor as an array: bfloat16 as its bits, any other type as float32."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.float().numpy()


@intrinsic
def _bits_as_float(_: Any, __: Any) -> Any:
    """The float32 with the bits of a uint32."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@intrinsic
def _float_as_bits(_: Any, __: Any) -> Any:
    """The uint32 with the bits of a float32."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@njit(inline="always")
def magnitude(value: Any) -> Any:
    """The bits of a float32 without its sign: in the order of the absolute values, NaN highest."""
    as_bits: Any = _float_as_bits
    return as_bits(value) & types.uint32(0x7FFFFFFF)


@njit(inline="always")
def rank(value: Any) -> Any:
    """An int32 in the order of float32 values, NaN aside; the same of -0.0 and 0.0."""
    word: Any = types.int32
    as_bits: Any = _float_as_bits
    bits = word(as_bits(value + types.float32(0)))  # -0.0 + 0.0 is 0.0
    return bits ^ ((bits >> word(31)) & word(0x7FFFFFFF))


def load_float(value: Any) -> Any:
    """A number as float32: a float32 as it is, a uint16 as the bfloat16 of these bits."""
    raise NotImplementedError(f"compiled code only, got {value!r}")


@overload(load_float, inline="always", strict=False)  # annotated, lambdas cannot be
def _load_compiled(value: Any) -> Callable[[Any], Any]:
    if isinstance(value, types.Integer):
        return lambda value: _bits_as_float(types.uint32(value) << types.uint32(16))  # type: ignore[call-arg]
    return lambda value: value


def save_float(value: Any, like: Any) -> Any:
    """A float32 for an array that holds `like`: as it is, or rounded to the nearest bfloat16."""
    raise NotImplementedError(f"compiled code only, got {value!r} and {like!r}")


@overload(save_float, strict=False)
def _save_compiled(value: Any, like: Any) -> Callable[[Any, Any], Any]:
    del value
    if isinstance(like, types.Integer):
        return _nearest_bfloat16
    return lambda value, like: value  # noqa: ARG005 (the overload's form)


def _nearest_bfloat16(value: Any, like: Any) -> Any:  # noqa: ARG001
    """The upper half of the bits, after adding half of what is cut off; ties go to even."""
    word: Any = types.uint32
    as_bits: Any = _float_as_bits
    bits = as_bits(value)
    half = word(0x7FFF) + ((bits >> word(16)) & word(1))
    rounded = types.uint16((bits + half) >> word(16))
    is_nan = np.isnan(value)  # and might turn into a zero
    return types.uint16(0x7FC0) if is_nan else rounded

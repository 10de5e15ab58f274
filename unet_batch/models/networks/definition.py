"""Definition: a network as a class and plain arguments, and the checks of such arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from unet_batch.errors import SpecError

Strides = Sequence[int | Sequence[int]]

# Bounds on what a file may ask for; far above any published U-Net.
_MAX_LEVELS, _MAX_CHANNELS, _MAX_UNITS = 12, 4096, 32
_DEPTHS = {"num_res_units", "blocks_down", "blocks_up", "blocks", "convs", "factor", "context"}
_MAY_BE_ZERO = {"num_res_units"}


@dataclass(frozen=True, slots=True)
class Frame:
    """What the data fixes: spatial axes (2 or 3), channels in, classes out."""

    spatial_dims: int
    in_channels: int
    out_channels: int

    def arguments(self) -> dict[str, int]:
        """As every network takes them."""
        return {
            "spatial_dims": self.spatial_dims,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
        }

    def every_axis(self, number: int) -> tuple[int, ...]:
        """`number` for each spatial axis."""
        return (number,) * self.spatial_dims


@dataclass(frozen=True, slots=True)
class Definition:
    """What builds a network, its keyword arguments, and what tiles are multiples of, by axis.

    `bundle_target` is how a Bundle names it to MONAI's tools: the class's own path, or that
    of a class with the same weights and, in eval mode, the same logits.
    """

    target: Callable[..., torch.nn.Module]
    arguments: Mapping[str, Any]
    divisor: tuple[int, ...]
    bundle_target: str

    @classmethod
    def of(
        cls,
        target: type[torch.nn.Module],
        frame: Frame,
        arguments: Mapping[str, Any],
        *,
        divisor: Sequence[int],
    ) -> Definition:
        """The Definition of a class of MONAI or of `models.architectures`."""
        is_monai = target.__module__.startswith("monai.networks.nets.")
        module = "monai.networks.nets" if is_monai else target.__module__
        path = f"{module}.{target.__name__}"
        return cls(target, {**frame.arguments(), **arguments}, tuple(divisor), path)

    def monai_config(self) -> dict[str, Any]:
        """The definition as a MONAI ConfigParser reads it."""
        return {"_target_": self.bundle_target, **self.arguments}

    def build(self) -> torch.nn.Module:
        """The network, freshly initialised."""
        return self.target(**self.arguments)


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raises SpecError where an argument is no number, or no list of numbers, within bounds."""
    for name, size in sizes.items():
        numbers = [size] if isinstance(size, int) else list(size)
        limit = _MAX_UNITS if name in _DEPTHS else _MAX_CHANNELS
        least = 0 if name in _MAY_BE_ZERO else 1
        if not 1 <= len(numbers) <= _MAX_LEVELS or not all(
            isinstance(n, int) and least <= n <= limit for n in numbers
        ):
            raise SpecError(
                f"network.arguments.{name}: expected up to {_MAX_LEVELS} numbers of {least} to"
                f" {limit}, got {size}"
            )


def check_levels(name: str, numbers: Sequence[int], least: int, *, most: int | None = None) -> None:
    """Raises SpecError unless `numbers` has at least `least` of them (and at most `most`)."""
    if len(numbers) < least or (most is not None and len(numbers) > most):
        expected = f"{least}" if most == least else f"at least {least}"
        raise SpecError(f"{name}: expected {expected} numbers, got {list(numbers)}")


def axis_strides(frame: Frame, strides: Strides | None, num_steps: int) -> list[list[int]]:
    """Strides per level and axis; 2 everywhere where `strides` is None."""
    wanted = [2] * num_steps if strides is None else list(strides)
    return _per_axis(frame, "strides", wanted, num_steps, {1, 2, 3, 4})


def axis_kernels(frame: Frame, kernels: Strides | None, num_levels: int) -> list[list[int]]:
    """Kernel sizes per level and axis; 3 everywhere where `kernels` is None."""
    wanted = [3] * num_levels if kernels is None else list(kernels)
    return _per_axis(frame, "kernels", wanted, num_levels, {1, 3, 5, 7})


def divisor_of(steps: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The product of each axis' strides."""
    return tuple(prod(axis) for axis in zip(*steps, strict=True))


def _per_axis(
    frame: Frame, name: str, wanted: Sequence[Any], number: int, allowed: set[int]
) -> list[list[int]]:
    steps = [[s] * frame.spatial_dims if isinstance(s, int) else list(s) for s in wanted]
    if len(steps) != number or any(
        len(step) != frame.spatial_dims or not set(step) <= allowed for step in steps
    ):
        raise SpecError(
            f"network.arguments.{name}: expected {number} {name}, each of {sorted(allowed)} or"
            f" {frame.spatial_dims} of them, got {wanted}"
        )
    return steps

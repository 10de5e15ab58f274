"""A trial of a network before it is trained: shapes alone, in milliseconds, without memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unet_batch.errors import SpecError
from unet_batch.models.networks.definition import Definition


def try_network(definition: Definition, roi: Sequence[int], *, batch_size: int) -> None:
    """Run the network on torch's meta device on a batch of tiles of `roi`, in both modes.

    Raises SpecError, saying what is wrong, where the roi is no multiple of what the network
    needs, where a batch does not pass (a deepest level of one voxel, a norm over one
    value), or where what comes out is not a logit a class and voxel. A network of the user's
    own that looks at values cannot be tried, and passes.
    """
    name = definition.bundle_target
    _check_divisor(roi, definition.divisor)
    classes, channels = definition.arguments["out_channels"], definition.arguments["in_channels"]
    shape = (batch_size, channels, *roi)
    for is_training in (True, False):
        try:
            with torch.device("meta"), torch.no_grad():
                network = definition.build().train(is_training)
                outputs = network(torch.empty(shape))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if "meta" in str(error):  # it looks at values: only data can tell
                return
            raise SpecError(
                f"network {name}: a batch of {batch_size} tiles of {list(roi)} and {channels}"
                f" channels does not pass ({error}); try a larger roi or batch_size, or fewer"
                " levels"
            ) from error
        first = outputs[0] if is_training and isinstance(outputs, list) else outputs
        expected = (batch_size, classes, *roi)
        if not isinstance(first, torch.Tensor) or tuple(first.shape) != expected:
            got = tuple(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
            raise SpecError(
                f"network {name}: returned {got} for tiles {shape}; expected logits {expected}"
            )


def _check_divisor(roi: Sequence[int], divisor: Sequence[int]) -> None:
    fitting = [-(-n // d) * d for n, d in zip(roi, divisor, strict=True)]
    if list(roi) != fitting:
        raise SpecError(
            f"roi {list(roi)}: this network needs multiples of {list(divisor)}; use {fitting}"
        )

"""A network of the user's own, `package.module:callable`: code that must be trusted first.

The callable takes `spatial_dims`, `in_channels`, `out_channels` and what
`network.arguments` holds, and returns a torch module: (n, channels, *tile) to logits
(n, classes, *tile). In training mode that module may return a list of logits
(`models.architectures`). Where tiles must be multiples of something, the callable says so in an
attribute `divisor`: a number, or one a spatial axis.

The module is imported on every machine of a job, so it must be installed there, or lie on
PYTHONPATH.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import reduce

from unet_batch.errors import SpecError
from unet_batch.models.networks.definition import Definition, Frame
from unet_batch.planning.volume_info import Json


def is_own(name: str) -> bool:
    """Whether `name` names code (`package.module:callable`), not a network of the allow-list."""
    return ":" in name


def own_network(
    name: str, frame: Frame, arguments: Mapping[str, Json], *, trusted: bool
) -> Definition:
    """The Definition of the callable that `name` names; imports its module.

    Raises SpecError where it is not `trusted`, before anything is imported, and where there is
    no such callable.
    """
    if not trusted:
        raise SpecError(
            f"network {name!r} is code outside of unet-batch, and would run with your rights; if"
            " you trust it, say so with --trust-network (trust_network: true in the Spec)"
        )
    module_name, _, path = name.partition(":")
    try:
        target = reduce(getattr, path.split("."), importlib.import_module(module_name))
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"network {name!r} cannot be imported ({error}); expected package.module:callable,"
            " installed or on PYTHONPATH wherever the job runs"
        ) from error
    if not callable(target):
        raise SpecError(f"network {name!r} is a {type(target).__name__}, expected a callable")
    divisor = getattr(target, "divisor", 1)
    return Definition(
        target,
        {**frame.arguments(), **arguments},
        frame.every_axis(divisor) if isinstance(divisor, int) else tuple(divisor),
        f"{module_name}.{path}",
    )

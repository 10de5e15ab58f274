"""Running out of memory: the errors of every library made one, so that it can be acted on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unet_batch.errors import DeviceMemoryError

# torch's CPU allocator ("DefaultCPUAllocator: can't allocate memory", "not enough memory"),
# OpenVINO ("Failed to allocate 123 bytes of memory"), std::bad_alloc, oneDNN, cuBLAS.
_SIGNS = re.compile(
    r"can't allocate memory|not enough memory|failed to allocate|bad.alloc|out of memory"
    r"|could not create a memory|ALLOC_FAILED",
    re.IGNORECASE,
)


@contextmanager
def memory_errors(device: torch.device, doing: str) -> Iterator[None]:
    """Raises DeviceMemoryError in place of what libraries raise where memory runs out.

    `doing` goes on after "no memory left": `for a batch of 4 tiles`. Other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise DeviceMemoryError(f"{device}: no memory left {doing} ({_gist(error)})") from error


def is_shortage(error: BaseException) -> bool:
    """Whether `error` says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | DeviceMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_SIGNS.search(str(error)))


def _gist(error: BaseException) -> str:
    """The line that tells how much was asked for; libraries put others around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if _SIGNS.search(line)] or lines
    return telling[0] if telling else type(error).__name__

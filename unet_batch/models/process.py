"""Process: what a process that runs networks wants of its threads and its memory.

A forward pass asks for its activations and gives them back, hundreds of MiB every time. The C
library returns such memory to the system at once, which then clears and maps every page
anew: on two cores that took 20 % of the time of a residual U-Net with 2 classes, and half of
it with 14. So freed memory is kept, up to the peak that the process has anyway.

Each thread would get an arena of its own, which holds no array above 64 MiB: larger ones are
mapped anew every time. On two threads that predict side by side, tiles of 96³ with 14 classes
took half as long again. Where there are such tiles, a process is begun with one arena. (Of 40³
three per cent are lost by that: freed memory is no longer in the cache of the same core.)
"""

from __future__ import annotations

import ctypes

import numba
import torch

from unet_batch.planning.lanes import are_large

# The parameters of glibc's mallopt (malloc.h), which other C libraries do not have.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30  # larger arrays are still mapped one by one, and given back


def process_variables(num_lanes: int, roi_zyx: tuple[int, int, int]) -> dict[str, str]:
    """What the environment must say to a process before it is begun, to predict such tiles."""
    return {"MALLOC_ARENA_MAX": "1"} if num_lanes > 1 and are_large(roi_zyx) else {}


def tune_process(num_threads: int) -> None:
    """Let torch and numba use `num_threads` threads, and keep the memory that they free.

    Ray had set OMP_NUM_THREADS to the actor's CPUs, which torch would follow.
    """
    use_threads(num_threads)
    keep_freed_memory()


def use_threads(num_threads: int) -> None:
    """Let what the current thread asks of torch and numba run on `num_threads` threads.

    numba comes first: when it begins its threads, it tells OpenMP, and so torch, of all cores.
    """
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(num_threads, most))
    torch.set_num_threads(num_threads)


def own_device() -> torch.device:
    """The GPU that this process was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_device_bytes(device: torch.device) -> int:
    """The most that torch ever held of a GPU's memory in this process; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def keep_freed_memory() -> None:
    """Have malloc reuse freed memory rather than return it; nothing where it cannot be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Have malloc return what it keeps; nothing where it cannot be told.

    Threads ask and free in an order that differs from time to time, which leaves gaps that nothing
    fits any more: without this, two lanes took 343 MiB for a 1024³ volume where one takes 207.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

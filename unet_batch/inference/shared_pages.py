"""Shared pages: what a process has touched of Ray's object store counts as its own memory.

The store is one file in memory that all workers of a node map. Ray reuses its space, yet a page
once touched stays with the process: a Replica that walked a volume of 1024³ voxels had 3.2 GiB of
the store in its resident memory, beside 0.6 GiB of its own. The pages are let go of here and found
again when they are needed; what is stored in them stays. Packs of small Volumes do without: what
is under way at once is little, and Ray uses the same space again.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

_STORE = "/dev/shm/plasma"  # noqa: S108 (Ray's file, mapped for as long as a process is joined)


def let_go_of_shared_pages() -> None:
    """Count nothing of the object store as memory of this process; nothing elsewhere than Linux.

    What else the store keeps on disks is left alone: such mappings come and go.
    """
    advise = getattr(ctypes.CDLL(None, use_errno=True), "madvise", None)
    advice = getattr(mmap, "MADV_DONTNEED", None)
    maps = Path("/proc/self/maps")
    if advise is None or advice is None or not maps.exists():
        return
    for start, stop in _mappings(maps.read_text()):
        advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), advice)


def _mappings(maps: str) -> Iterator[tuple[int, int]]:
    """First byte, and that after the last, of the store's mappings; private ones are not its."""
    for line in maps.splitlines():
        addresses, permissions, _, _, _, *path = line.split(maxsplit=5)
        if path and path[0].startswith(_STORE) and permissions.endswith("s"):
            start, stop = addresses.split("-")
            yield int(start, 16), int(stop, 16)

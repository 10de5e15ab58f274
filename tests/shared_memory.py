"""Shared memory as Ray maps its object store: a file in memory that has no name any more."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

FOLDER = Path("/dev/shm")


@contextmanager
def mapped(prefix: str, num_bytes: int) -> Iterator[mmap.mmap]:
    """Shared memory of a file whose name begins with `prefix`, as Ray's does with `plasma`."""
    path = FOLDER / f"{prefix}{uuid4().hex}"
    with path.open("wb+") as file:
        file.truncate(num_bytes)
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED)
    path.unlink()
    with memory:
        yield memory


def shared_bytes() -> int:
    """Of this process: resident pages of shared memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssShmem"))

"""Where a bench keeps its Archive: a folder of its own, away from what was deleted lately.

ext4 without a journal passes over each inode that was deleted in the last minutes, one by one. A
bench that follows another, which has just removed 20,000 files, would measure that: 500 Volumes of
40³ took 2.63 s rather than 2.2. So its folder is marked as `/home` is to be (`chattr +T`): what is
made in it has nothing to do with each other, and is spread over the disk.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# linux/fs.h, where a long has eight bytes
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
TOP_OF_HIERARCHY = 0x00020000


@contextmanager
def bench_folder() -> Iterator[Path]:
    """An empty folder below TMPDIR, removed at the end with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="unet-batch-bench-") as parent:
        with suppress(OSError):  # another file system, or not Linux
            _mark(Path(parent))
        yield Path(tempfile.mkdtemp(dir=parent))


def _mark(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flags = flags_of(descriptor) | TOP_OF_HIERARCHY
        fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags))
    finally:
        os.close(descriptor)


def flags_of(descriptor: int) -> int:
    """The attributes of an open file or folder, as `lsattr` shows them. Raises OSError."""
    found = fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0))
    return int(struct.unpack("l", found)[0])

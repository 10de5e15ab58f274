from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from unet_batch.inference.shared_pages import _mappings, let_go_of_shared_pages

PAGES = 4096
LIKE_THE_STORE = Path("/dev/shm")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not LIKE_THE_STORE.is_dir(), reason="needs Linux' /dev/shm"
)


def shared_bytes() -> int:
    """Of this process: resident pages of shared memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssShmem"))


@pytest.fixture(params=["plasma", "other"])
def mapped(request: pytest.FixtureRequest) -> Iterator[tuple[str, mmap.mmap]]:
    """Shared memory as Ray maps it: a file that has no name any more."""
    path = LIKE_THE_STORE / f"{request.param}{uuid4().hex}"
    with path.open("wb+") as file:
        file.truncate(PAGES * mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED)
    path.unlink()
    yield request.param, memory
    memory.close()


def test_pages_of_the_store_are_let_go_of_and_keep_what_is_in_them(
    mapped: tuple[str, mmap.mmap],
) -> None:
    kind, memory = mapped
    content = np.random.default_rng(0).bytes(len(memory))
    memory[:] = content
    before = shared_bytes()
    let_go_of_shared_pages()
    freed = before - shared_bytes()
    assert freed >= len(content) if kind == "plasma" else freed < len(content)
    assert memory[:] == content


def test_private_and_other_mappings_are_left_alone() -> None:
    maps = """\
7f00-7f10 rw-s 00000000 00:1b 763608                     /dev/shm/plasmaWSuB6J (deleted)
7f20-7f30 rw-p 00000000 00:1b 763608                     /dev/shm/plasmaWSuB6J (deleted)
7f40-7f50 rw-s 00000000 00:1b 763638                     /dev/shm/sem.gKQrAc (deleted)
7f60-7f70 rw-s 00000000 08:01 12                         /tmp/ray/spill/plasmaX (deleted)
7f80-7f90 rw-p 00000000 00:00 0
7fa0-7fb0 r-xp 00000000 08:01 13                         /usr/lib/libc.so.6
"""
    assert list(_mappings(maps)) == [(0x7F00, 0x7F10)]

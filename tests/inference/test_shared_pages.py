from __future__ import annotations

import numpy as np
import pytest

from unet_batch.inference.shared_pages import _mappings, let_go_of_shared_pages

from ..shared_memory import FOLDER, mapped, shared_bytes

NUM_BYTES = 2**24


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs Linux' /dev/shm")
@pytest.mark.parametrize("prefix", ["plasma", "other"])
def test_pages_of_the_store_are_let_go_of_and_keep_what_is_in_them(prefix: str) -> None:
    content = np.random.default_rng(0).bytes(NUM_BYTES)
    with mapped(prefix, NUM_BYTES) as memory:
        memory[:] = content
        before = shared_bytes()
        let_go_of_shared_pages()
        freed = before - shared_bytes()
        assert freed >= NUM_BYTES if prefix == "plasma" else freed < NUM_BYTES
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

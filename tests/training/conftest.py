"""An Archive of small scans with a cube to find, for the tests of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unet_batch.formats.scan import Affine, Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive

CLASSES = (LabelClass(0, "background"), LabelClass(4, "cube"))
Shape = tuple[int, int, int]
UPRIGHT = np.eye(4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small run faster on one thread than threads can agree."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cubes(tmp_path: Path) -> Callable[..., Archive]:
    """Makes an Archive of `num` noisy scans, each with a bright cube of value 4 in `truth`."""

    def make(
        num: int = 4, *, shape: Shape = (12, 20, 16), channels: int = 1, affine: Affine = UPRIGHT
    ) -> Archive:
        archive = open_archive(tmp_path / "archive", create=True)
        for number in range(num):
            random = np.random.default_rng(number)
            corner = random.integers(0, np.array(shape) - 6, endpoint=True)
            mask = np.zeros(shape, np.uint8)
            mask[tuple(slice(a, a + 6) for a in corner)] = 4
            noise = random.normal(0, 20, (channels, *shape))
            voxels = (100 + 200 * (mask > 0) + noise).astype(np.int16)
            names = tuple(f"c{channel}" for channel in range(channels))
            scan = Scan(f"cube_{number}", voxels, affine, names)
            archive.write_scan(scan, source={})
            archive[scan.name].write_labels("truth", Mask(mask, affine, CLASSES), provenance={})
        return archive

    return make

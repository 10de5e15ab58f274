"""CompleteStore: what must be there and is not is an error; what may be missing reads as fill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore

from unet_batch.storage.complete_store import CompleteStore


def test_only_what_must_exist_is_missed(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path), shape=(4,), chunks=(2,), dtype="u1", fill_value=9)
    array[:] = [1, 2, 3, 4]
    (tmp_path / "c/1").unlink()
    store = LocalStore(tmp_path, read_only=True)
    lenient = zarr.open_array(CompleteStore(store, lambda _: False), mode="r")
    assert np.asarray(lenient[:]).tolist() == [1, 2, 9, 9]
    strict = zarr.open_array(CompleteStore(store, lambda key: key.startswith("c/")), mode="r")
    assert np.asarray(strict[:2]).tolist() == [1, 2]
    with pytest.raises(FileNotFoundError, match="c/1"):
        strict[:]

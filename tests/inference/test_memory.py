"""Whatever library runs out of memory, it is one error; other errors stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unet_batch.errors import DeviceMemoryError
from unet_batch.inference.memory import is_shortage, memory_errors

CPU = torch.device("cpu")


def test_torch_without_memory_is_told_with_what_it_asked_for() -> None:
    with (
        pytest.raises(DeviceMemoryError, match=r"cpu: no memory left for a batch .*tried to alloc"),
        memory_errors(CPU, "for a batch of 4 tiles"),
    ):
        torch.empty(2**50)


def test_numpy_without_memory_is_told_too() -> None:
    with (
        pytest.raises(DeviceMemoryError, match=r"Unable to allocate 8\.00 PiB"),
        memory_errors(CPU, "for a Block"),
    ):
        np.empty(2**50)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("Exception from core.cpp:109:\nFailed to allocate 144 bytes of memory\n"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        RuntimeError("[enforce fail] data. DefaultCPUAllocator: not enough memory: 1 bytes."),
        MemoryError(),
    ],
)
def test_the_words_of_other_libraries_are_known(error: Exception) -> None:
    assert is_shortage(error)
    with pytest.raises(DeviceMemoryError), memory_errors(CPU, "for a batch"):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), memory_errors(CPU, "for a batch"):
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

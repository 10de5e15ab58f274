"""Transfer: voxels to the device and results back, while the device computes.

    raw voxels ─> pinned ──upload──> normalised, tiles, sums, labels ──download──> pinned ─> cells
                  its own stream     the device's stream               its own stream

Python only hands work to a GPU, and runs ahead of it: of the Blocks that one call predicts, the
next one's voxels are on their way while this one is computed, and its labels leave while the next
one is. Nobody waits before the call's results are needed. On a CPU nothing is copied.

Pinned memory comes from torch, which uses it again once the copies that were asked of it are
done; `record_stream` says the same of the device's memory that two streams share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Fetch = Callable[[], Array]
"""Waits for a copy that is under way, and returns it."""


class Transfer(Protocol):
    """Moves arrays between the host and one device."""

    device: torch.device

    def upload(self, array: Array) -> torch.Tensor:
        """`array` on the device, as soon as the device gets there; never written to."""
        ...

    def download(self, tensor: torch.Tensor) -> Fetch:
        """Begin to copy `tensor` as it will be once the device has done what it was told so far."""
        ...


def transfer_for(device: torch.device) -> Transfer:
    """The Transfer of a device."""
    return CudaTransfer(device) if device.type == "cuda" else HostTransfer()


class HostTransfer:
    """The host is the device: nothing is copied."""

    device = torch.device("cpu")

    def upload(self, array: Array) -> torch.Tensor:
        """The array itself."""
        return _as_tensor(array)

    def download(self, tensor: torch.Tensor) -> Fetch:
        """The tensor's own memory."""
        return tensor.numpy


class CudaTransfer:
    """Copies on two streams beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._up, self._down = _new_stream(device), _new_stream(device)

    def upload(self, array: Array) -> torch.Tensor:
        """From pinned memory; what is computed next waits for it on the device."""
        pinned = _as_tensor(array).pin_memory()
        with torch.cuda.stream(self._up):
            there = pinned.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._up)
        there.record_stream(computing)
        return there

    def download(self, tensor: torch.Tensor) -> Fetch:
        """To pinned memory, after what the device was told so far."""
        here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            here.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._down)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(self._down)

        def fetch() -> Array:
            done.synchronize()
            found: Array = here.numpy()
            return found

        return fetch


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _as_tensor(array: Array) -> torch.Tensor:
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, which torch cannot express.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)

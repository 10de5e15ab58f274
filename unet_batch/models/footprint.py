"""Footprint: the bytes and operations of a forward pass or training step, without running it.

The network runs on torch's meta device, where tensors have shapes but no memory, and every
storage an operation makes is counted for as long as Python holds it. Scratch space inside
one operation (im2col, copies to the layout of a kernel) is not seen. Growth of the resident set
on a CPU with AVX-512, less the weights that are laid out for it, against this estimate:

=============================== ========== ==========
network, batch                  measured   estimate
=============================== ========== ==========
residual U-Net, 4 x 96³, bf16      119 MiB     81 MiB
DynUNet 32-320, 1 x 64³, bf16      111 MiB     85 MiB
DynUNet 32-320, 1 x 64³, fp32      345 MiB    169 MiB
residual U-Net, 4 x 96³, fp32      194 MiB    162 MiB
=============================== ========== ==========

Of that some 30 MiB are code that a first pass brings in. A DynUNet in float32 takes twice the
estimate: torch copies what goes into each of its norms (in bf16 they are done in place).
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from unet_batch.errors import BundleError


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Peak bytes of live activations, input and logits included, and floating-point operations.

    The weights are not counted; a multiply-add counts as two operations.
    """

    num_bytes: int
    flops: float


def forward_cost(
    network: torch.nn.Module, batch_shape: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> ForwardCost:
    """What one forward pass takes; `network` is left as it is, and may lie on the meta device.

    `batch_shape` is (n, channels, *tile); `dtype` what the pass computes in (bfloat16 under
    autocast). A network that the meta device cannot run, because it looks at values, is run for
    real, in float32, on one tile. Raises BundleError where the batch does not pass.
    """
    try:
        return _counted(network, tuple(batch_shape), torch.device("meta"), dtype)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        looks_at_values = "meta" in str(error)
        if not looks_at_values or next(network.parameters()).is_meta:
            raise BundleError(
                f"the network does not take a batch {tuple(batch_shape)} ({error}); give a larger"
                " inference.roi, or one that its strides divide, such as the Bundle's own"
            ) from error
    count, *shape = batch_shape
    one = _counted(network, (1, *shape), torch.device("cpu"), torch.float32)
    return ForwardCost(count * one.num_bytes, count * one.flops)


def _counted(
    network: torch.nn.Module, batch_shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> ForwardCost:
    network = copy.deepcopy(network).to(device=device, dtype=dtype).eval()
    batch = torch.zeros(batch_shape, dtype=dtype, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _LiveBytes() as live:
        live.count(batch)
        network(batch)
    return ForwardCost(int(live.peak), float(counter.get_total_flops()))


def step_bytes(
    network: torch.nn.Module, batch_shape: Sequence[int], *, dtype: torch.dtype = torch.float32
) -> int:
    """Peak bytes of a forward and backward pass in training mode: activations and gradients.

    Weights, the optimiser and the loss itself are not counted; the rest is as `forward_cost`.
    """
    skeleton = copy.deepcopy(network).to(device="meta", dtype=dtype).train()
    batch = torch.empty(tuple(batch_shape), dtype=dtype, device="meta")
    with _LiveBytes() as live:
        live.count(batch)
        outputs = skeleton(batch)
        levels = outputs if isinstance(outputs, list) else [outputs]
        torch.autograd.backward([level.mean() for level in levels])
    return int(live.peak)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages made inside it that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        before = {self._key(one) for one in tree_leaves((args, kwargs)) if _is_tensor(one)}
        result = func(*args, **(kwargs or {}))
        for tensor in filter(_is_tensor, tree_leaves(result)):
            if self._key(tensor) not in before:
                self.count(tensor)
        return result

    def count(self, tensor: torch.Tensor) -> None:
        """Count the bytes of a tensor's storage, as long as it lives."""
        self._count(tensor.untyped_storage())

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 (a storage's only identity)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()  # noqa: SLF001
        if key in self._known:
            return
        self._known.add(key)
        self._live += num_bytes
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._release, key, num_bytes)

    def _release(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._live -= num_bytes


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)

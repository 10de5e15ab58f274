"""A GPU that is not there: tensors that say they are on one, whose values lie in this process.

What would fail on a real one fails here as well: an operation on tensors of both sides, a look at
a device tensor's memory. What is told to wait runs at once; whether anything is read too early is
for `LateTransfer` to find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
Tensor = torch.Tensor


class DeviceTensor(torch.Tensor):
    """Says it is on the GPU; its values are those of `here`."""

    here: Tensor

    @staticmethod
    def __new__(cls: type[DeviceTensor], here: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=GPU
        )
        made.here = here
        return made

    def record_stream(self, _: Any) -> None:
        """Nothing: no memory is used again while a copy is under way."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} was not seen as a function of torch")


class _Device(TorchFunctionMode):
    """Sees what is made on the GPU, too, which no tensor is part of."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_ACROSS = {Tensor.copy_, Tensor.__setitem__, torch._has_compatible_shallow_copy_type}
"""What may be asked of tensors of both sides."""

_HOST_ONLY = {Tensor.numpy, Tensor.__array__, Tensor.data_ptr}


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    # An attribute, which is the device tensor's own; what a module's `to` was asked for.
    if getattr(func, "__name__", "") in {"__get__", "_parse_to"}:
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs)
    leaves = tree_leaves((args, kwargs))
    far = {id(one.here): one for one in leaves if isinstance(one, DeviceTensor)}
    _check(func, leaves, is_far=bool(far))
    is_far = _is_result_far(func, args, leaves, is_far=bool(far))
    kwargs.pop("pin_memory", None)
    out = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    if isinstance(out, Iterator):
        return map(DeviceTensor, out) if is_far else out
    is_moved = bool(far) != is_far

    def there(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        if is_far and id(one) in far:
            return far[id(one)]  # what was changed in place
        one = one.clone() if is_moved else one
        return DeviceTensor(one) if is_far else one

    return tree_map(there, out)


def _check(func: Callable[..., Any], leaves: list[Any], *, is_far: bool) -> None:
    near = [one for one in leaves if isinstance(one, Tensor) and not isinstance(one, DeviceTensor)]
    if is_far and func in _HOST_ONLY:
        raise TypeError(f"{func.__name__}: the tensor is on {GPU}")
    if is_far and any(one.ndim for one in near) and func not in _ACROSS:
        raise RuntimeError(f"{func.__name__}: tensors both on {GPU} and on cpu")


def _is_result_far(func: Callable[..., Any], args: Any, leaves: list[Any], *, is_far: bool) -> bool:
    """Whether the result is on the device: it is asked for there, or its tensors are."""
    asked = [one for one in leaves if isinstance(one, torch.device)]
    if asked:
        return bool(asked[0].type == "cuda")
    if func in _ACROSS:
        return isinstance(args[0], DeviceTensor)
    return is_far and func is not Tensor.cpu


def _here(one: Any) -> Any:
    if isinstance(one, torch.device):
        return CPU
    return one.here if isinstance(one, DeviceTensor) else one


class _Event:
    def record(self, _: Any) -> None: ...

    def synchronize(self) -> None: ...


@contextmanager
def pretend_gpu() -> Iterator[torch.device]:
    """The device, for as long as it is there."""
    stream = SimpleNamespace(wait_stream=lambda _: None)
    with pytest.MonkeyPatch.context() as patch, _Device():
        patch.setattr(torch.cuda, "Stream", lambda _: stream)
        patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        patch.setattr(torch.cuda, "current_stream", lambda _: stream)
        patch.setattr(torch.cuda, "Event", _Event)
        patch.setattr(torch.cuda, "synchronize", lambda _: None)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        # Modules take the tensors that are moved, not what is in them.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield GPU
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)

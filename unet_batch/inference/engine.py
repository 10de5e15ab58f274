"""Engine: a network's forward pass on one device, behind an interface of three methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch

from unet_batch.errors import BundleError
from unet_batch.inference.rewriting import has_onednn, rewritten
from unet_batch.models.bundle import Bundle
from unet_batch.models.precision import Precision, dtype_of, memory_layout, resolve_precision


@dataclass(frozen=True, slots=True)
class Frame:
    """What goes into a network and comes out: channels, classes, and the tile (z, y, x).

    A planar (2-D) network has tiles one voxel thick. An ensemble's logits are those of its
    members, one after another: `num_members` times `num_classes` channels.
    """

    in_channels: int
    num_classes: int
    roi_zyx: tuple[int, int, int]
    is_planar: bool = False
    num_members: int = 1

    @classmethod
    def of(cls, bundle: Bundle, roi_zyx: tuple[int, int, int]) -> Self:
        """The frame of a Bundle's network with tiles of `roi_zyx`."""
        classes, planar = len(bundle.classes), bundle.spatial_dims == 2
        return cls(bundle.in_channels, classes, roi_zyx, planar)

    def check(self, logits: object, batch: torch.Tensor) -> torch.Tensor:
        """`logits`, if they are one a class for every voxel of `batch`, as (n, c, z, y, x).

        Raises BundleError with both shapes where they are not.
        """
        expected = (len(batch), self.num_classes, *batch.shape[2:])
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise BundleError(
                f"the network returned {got} for tiles {tuple(batch.shape)}; expected {expected}."
                " A Bundle's network must return one logit a class for every voxel of the tile"
            )
        return logits.unsqueeze(2) if self.is_planar else logits


class Engine(Protocol):
    """What the Predictor needs of a network.

    `name` says what runs (`torch bf16`). A tile's logits must not depend on its neighbours
    in a batch of `min_batch` or more.
    """

    name: str
    frame: Frame
    device: torch.device
    min_batch: int

    def tiles(self, count: int) -> torch.Tensor:
        """An uninitialised batch (count, c, z, y, x) in the type and layout that is taken."""
        ...

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Logits (n, members * classes, z, y, x) of a batch of normalised tiles."""
        ...

    def close(self) -> None:
        """Let go of the device's memory."""
        ...


class TorchEngine:
    """A PyTorch network, in float32 or under bfloat16 autocast.

    On a CPU it is rewritten to be faster (`rewriting`), unless it is to run `as_it_is`. Where
    several threads share a pass of a wide network, oneDNN may divide sums by the batch's size:
    then a tile's last bits do depend on it; on one thread they do not.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        frame: Frame,
        *,
        precision: Precision = "auto",
        device: torch.device | None = None,
        as_it_is: bool = False,
    ) -> None:
        self.frame = frame
        self.device = device or torch.device("cpu")
        self.precision = resolve_precision(precision, self.device)
        self.name = f"torch {self.precision}"
        # In float32 torch gives a small lone tile to another kernel than oneDNN's (ATen's
        # ConvParams::use_mkldnn): other bits, and half as fast. On a GPU cuDNN may choose so too.
        is_alike_alone = self.device.type == "cpu" and self.precision == "bf16"
        self.min_batch = 1 if is_alike_alone and has_onednn(torch.bfloat16) else 2
        self._layout = memory_layout(self.precision, self.device, 2 if frame.is_planar else 3)
        if self.device.type == "cpu" and not as_it_is:
            network = rewritten(network, dtype_of(self.precision))
        self._network = network.to(self.device).eval()
        self._network.to(memory_format=self._layout)  # type: ignore[call-overload]

    def tiles(self, count: int) -> torch.Tensor:
        """An uninitialised batch of `count` tiles."""
        shape = (count, self.frame.in_channels, *self.frame.roi_zyx)
        dtype = dtype_of(self.precision)
        layout = torch.contiguous_format if self.frame.is_planar else self._layout
        return torch.empty(shape, device=self.device, dtype=dtype, memory_format=layout)

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Logits of a batch; raises BundleError where the network returns another shape."""
        batch = tiles_nczyx.squeeze(2) if self.frame.is_planar else tiles_nczyx
        batch = batch.contiguous(memory_format=self._layout)
        is_bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            logits = self._network(batch)
        return self.frame.check(logits, batch)

    def close(self) -> None:
        """Drop the network."""
        del self._network

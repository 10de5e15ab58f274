"""Engine: a network's forward pass on one device, behind an interface of three methods."""

from __future__ import annotations

from typing import Protocol

import torch

from unet_batch.errors import BundleError
from unet_batch.models.bundle import Bundle
from unet_batch.models.precision import Precision, memory_layout, resolve_precision


class Engine(Protocol):
    """What the Predictor needs of a network."""

    def tiles(self, count: int) -> torch.Tensor:
        """An uninitialised batch, float (count, c, z, y, x) of tiles, in the best layout."""
        ...

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes, z, y, x) of a batch of normalised tiles."""
        ...

    def close(self) -> None:
        """Let go of the device's memory."""
        ...


class TorchEngine:
    """A PyTorch network, in float32 or under bfloat16 autocast.

    Attributes
    ----------
    num_classes: channels of the logits.
    roi_zyx: the tile; a 2-D network has a tile one voxel thick.
    precision: `fp32` or `bf16`, as resolved from the device.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        in_channels: int,
        num_classes: int,
        roi_zyx: tuple[int, int, int],
        is_planar: bool = False,
        precision: Precision = "auto",
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.precision = resolve_precision(precision, self.device)
        self.num_classes, self.roi_zyx = num_classes, roi_zyx
        self._in_channels, self._is_planar = in_channels, is_planar
        self._layout = memory_layout(self.precision, self.device, 2 if is_planar else 3)
        self._network = network.to(self.device).eval()
        self._network.to(memory_format=self._layout)  # type: ignore[call-overload]

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        roi_zyx: tuple[int, int, int],
        precision: Precision = "auto",
        device: torch.device | None = None,
    ) -> TorchEngine:
        """The Bundle's network with its weights on `device`."""
        return cls(
            bundle.network(),
            in_channels=bundle.in_channels,
            num_classes=len(bundle.classes),
            roi_zyx=roi_zyx,
            is_planar=bundle.spatial_dims == 2,
            precision=precision,
            device=device,
        )

    def tiles(self, count: int) -> torch.Tensor:
        """An uninitialised batch of `count` tiles, in the type and layout the network takes."""
        shape = (count, self._in_channels, *self.roi_zyx)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        layout = torch.contiguous_format if self._is_planar else self._layout
        return torch.empty(shape, device=self.device, dtype=dtype, memory_format=layout)

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Logits of a batch; raises BundleError where the network returns another shape."""
        batch = tiles_nczyx.squeeze(2) if self._is_planar else tiles_nczyx
        batch = batch.contiguous(memory_format=self._layout)
        is_bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            logits = self._network(batch)
        return self._checked(logits, batch)

    def close(self) -> None:
        """Drop the network."""
        del self._network

    def _checked(self, logits: object, batch: torch.Tensor) -> torch.Tensor:
        expected = (len(batch), self.num_classes, *batch.shape[2:])
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise BundleError(
                f"the network returned {got} for tiles {tuple(batch.shape)}; expected {expected}."
                " A Bundle's network must return one logit a class for every voxel of the tile"
            )
        return logits.unsqueeze(2) if self._is_planar else logits

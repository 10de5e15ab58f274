"""OpenVinoEngine: the same network compiled by OpenVINO, for CPUs. An optional extra.

On nnU-Net's shape (DynUNet 32-320, instance norm) a tile of 64³ in bfloat16 takes it 270 ms on two
cores, torch with the network rewritten 188 (AVX-512 without AMX); on batch norm torch wins as well.
"""

from __future__ import annotations

import sys
import warnings

import torch

from unet_batch.inference.engine import Frame
from unet_batch.models.precision import Precision, resolve_precision

# OpenVINO reports each conversion over the network, by processes that it starts beside ours,
# unless the package that does so is not there: then it uses a stub of its own.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402


class OpenVinoEngine:
    """A network converted once and compiled for tiles of one shape, run tile by tile."""

    min_batch = 1

    def __init__(
        self, network: torch.nn.Module, frame: Frame, *, precision: Precision = "auto"
    ) -> None:
        self.frame, self.device = frame, torch.device("cpu")
        self.precision = resolve_precision(precision, self.device)
        self.name = f"openvino {self.precision}"
        self._request = _compile(network, self._tile_shape, self.precision).create_infer_request()

    def tiles(self, count: int) -> torch.Tensor:
        """An uninitialised batch of `count` tiles, float32."""
        return torch.empty((count, self.frame.in_channels, *self.frame.roi_zyx))

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, float32; raises BundleError where their shape is another."""
        batch = tiles_nczyx.squeeze(2) if self.frame.is_planar else tiles_nczyx
        logits = [self._infer(tile[None].contiguous()) for tile in batch]
        return self.frame.check(torch.cat(logits), batch)

    def close(self) -> None:
        """Drop the compiled network."""
        del self._request

    def _infer(self, tile: torch.Tensor) -> torch.Tensor:
        (logits,) = self._request.infer([tile.numpy()], share_inputs=True).values()
        return torch.from_numpy(logits)

    @property
    def _tile_shape(self) -> tuple[int, ...]:
        skipped = 1 if self.frame.is_planar else 0
        return (1, self.frame.in_channels, *self.frame.roi_zyx[skipped:])


def _compile(
    network: torch.nn.Module, shape: tuple[int, ...], precision: str
) -> openvino.CompiledModel:
    with torch.no_grad(), warnings.catch_warnings():
        # OpenVINO traces with torch.jit, which torch has begun to deprecate.
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network.eval(), example_input=torch.zeros(shape))
    model.reshape(list(shape))
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino.Core().compile_model(model, "CPU", options)

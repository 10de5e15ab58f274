"""GraphEngine: a PyTorch network on a GPU whose passes are replayed as CUDA graphs.

A pass of a U-Net is a few hundred small launches; on tiles so small that the GPU is done with
each before the next one comes, they take longer than the work. A graph is one launch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from unet_batch.inference.engine import Frame, TorchEngine
from unet_batch.models.precision import Precision

WARM_UPS = 3  # passes before one is captured, as torch.cuda.graphs asks for: libraries load, tune
MAX_GRAPHS = 2
"""Sizes of batches that are captured, the first that come: whole ones, and the rest of a call."""


class _Graph(NamedTuple):
    replay: torch.cuda.CUDAGraph
    tiles: torch.Tensor
    logits: torch.Tensor


class GraphEngine(TorchEngine):
    """What `forward` returns is its own memory, used again by the next pass."""

    def __init__(
        self,
        network: torch.nn.Module,
        frame: Frame,
        *,
        precision: Precision = "auto",
        device: torch.device,
    ) -> None:
        super().__init__(network, frame, precision=precision, device=device)
        self.name = f"{self.name}, CUDA graphs"
        self._graphs: dict[int, _Graph] = {}

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        """Logits of a batch; of sizes that come later than MAX_GRAPHS others, pass by pass."""
        graph = self._graphs.get(len(tiles_nczyx))
        if graph is None:
            if len(self._graphs) >= MAX_GRAPHS:
                return super().forward(tiles_nczyx)
            graph = self._graphs[len(tiles_nczyx)] = self._capture(tiles_nczyx)
        graph.tiles.copy_(tiles_nczyx)
        graph.replay.replay()
        return graph.logits

    def close(self) -> None:
        """Drop the graphs, which hold the memory of a pass each, and the network."""
        self._graphs.clear()
        super().close()

    def _capture(self, tiles_nczyx: torch.Tensor) -> _Graph:
        tiles = tiles_nczyx.clone()
        aside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                super().forward(tiles)
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = super().forward(tiles)
        return _Graph(graph, tiles, logits)

"""Choosing: which Engine runs a model fastest on the device at hand, by measuring it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Literal

import torch

from unet_batch.errors import DeviceMemoryError, SpecError
from unet_batch.inference.engine import Engine, Frame, TorchEngine
from unet_batch.inference.graph_engine import GraphEngine
from unet_batch.inference.lanes import Lanes
from unet_batch.inference.memory import memory_errors
from unet_batch.inference.presets import EnsembleEngine, MirroredEngine
from unet_batch.models.bundle import Bundle
from unet_batch.models.networks import is_own
from unet_batch.models.precision import Precision
from unet_batch.planning.lanes import lane_batch
from unet_batch.planning.specs.segment import MirrorAxis

EngineKind = Literal["torch", "openvino", "cuda_graph"]
_CANNOT_RUN: dict[EngineKind, tuple[type[Exception], ...]] = {"cuda_graph": (RuntimeError,)}
"""What an Engine raises of a network that it cannot run, beside running out of memory."""

REPEATS, LEAST_S = 3, 0.3
"""How often, and how long at the least, an Engine is timed."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The Engine to use, and seconds a tile of each that was measured (none: not measured)."""

    kind: EngineKind
    seconds_per_tile: dict[str, float]

    @property
    def reason(self) -> str:
        """The choice in words."""
        if not self.seconds_per_tile:
            return f"{self.kind}: not measured"
        paces = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in self.seconds_per_tile.items())
        return f"{self.kind}: a tile takes {paces}"


def load_engine(
    kind: EngineKind,
    bundles: Sequence[Bundle],
    frame: Frame,
    *,
    precision: Precision,
    device: torch.device,
    mirror: Sequence[MirrorAxis] = (),
) -> Engine:
    """The networks of the Bundles, one or an ensemble, as one Engine that mirrors if asked to.

    `frame` is that of each. Raises SpecError where OpenVINO is not installed, or CUDA graphs are
    wanted without a GPU.
    """
    members = [_load_one(kind, one, frame, precision, device) for one in bundles]
    engine = members[0] if len(members) == 1 else EnsembleEngine(members)
    return MirroredEngine(engine, mirror) if mirror else engine


def _load_one(
    kind: EngineKind, bundle: Bundle, frame: Frame, precision: Precision, device: torch.device
) -> Engine:
    if kind == "torch":
        return TorchEngine(bundle.network(), frame, precision=precision, device=device)
    if kind == "cuda_graph":
        if device.type != "cuda":
            raise SpecError(
                f"inference.engine=cuda_graph runs on a GPU, this Replica has {device.type}; ask"
                " for one with resources.gpus_per_replica, or use torch"
            )
        return GraphEngine(bundle.network(), frame, precision=precision, device=device)
    if not has_openvino():
        raise SpecError(
            "inference.engine=openvino: OpenVINO is not installed; `pip install"
            " 'unet-batch[openvino]'`, or use torch"
        )
    from unet_batch.inference.openvino_engine import OpenVinoEngine  # noqa: PLC0415 (optional)

    return OpenVinoEngine(bundle.network(), frame, precision=precision)


def choose_engine(
    bundles: Sequence[Bundle],
    frame: Frame,
    *,
    precision: Precision,
    device: torch.device,
    batch_size: int,
    mirror: Sequence[MirrorAxis] = (),
    num_lanes: int = 1,
) -> EngineChoice:
    """The fastest Engine for tiles of this frame, each timed over a few batches.

    Batches run side by side in `num_lanes`, where they can. One that has not the memory for a
    single tile is no choice, nor are CUDA graphs of a network that cannot be captured.
    """
    kinds = _candidates(bundles, device)
    if len(kinds) == 1:
        return EngineChoice("torch", {})
    paces: dict[str, float] = {}
    for kind in kinds:
        engine = load_engine(
            kind, bundles, frame, precision=precision, device=device, mirror=mirror
        )
        with suppress(DeviceMemoryError, *_CANNOT_RUN.get(kind, ())):
            lanes = lanes_of(kind, bundles, device, most=num_lanes)
            paces[kind] = seconds_per_tile(engine, batch_size=batch_size, num_lanes=lanes)
        engine.close()
    timed = [kind for kind in kinds if kind in paces]
    return EngineChoice(min(timed, key=lambda kind: paces[kind], default="torch"), paces)


def _candidates(bundles: Sequence[Bundle], device: torch.device) -> list[EngineKind]:
    """What can run the Bundles on the device.

    A network of the user's own stays with torch: the others see it run once, and what its code
    decides by the values it sees would be decided for good.
    """
    if any(is_own(bundle.network_name) for bundle in bundles):
        return ["torch"]
    if device.type == "cuda":
        return ["torch", "cuda_graph"]
    return ["torch", "openvino"] if has_openvino() else ["torch"]


def lanes_of(
    kind: EngineKind, bundles: Sequence[Bundle], device: torch.device, *, most: int
) -> int:
    """In how many lanes an Engine is run.

    A GPU computes one batch at a time anyway, and OpenVINO shares out the cores itself. A network
    of the user's own may keep something of a pass, which another's would overwrite.
    """
    has_lanes = kind == "torch" and device.type == "cpu"
    return most if has_lanes and not any(is_own(one.network_name) for one in bundles) else 1


def has_openvino() -> bool:
    """Whether the optional extra is installed."""
    return find_spec("openvino") is not None


def seconds_per_tile(engine: Engine, *, batch_size: int, num_lanes: int = 1) -> float:
    """Seconds a tile in batches of `batch_size`: the median of some runs after one to warm up.

    Where memory runs out the batch is halved, as a Job would. Raises DeviceMemoryError where
    not even the smallest fits.
    """
    batch_size, lanes = lane_batch(batch_size, num_lanes, engine.frame.roi_zyx), Lanes(num_lanes)
    try:
        while True:
            number = max(engine.min_batch, batch_size)
            try:
                with memory_errors(engine.device, f"to time a batch of {number} tiles"):
                    return _median_seconds(engine, number, lanes) / (number * num_lanes)
            except DeviceMemoryError:
                if number == engine.min_batch:
                    raise
                batch_size = number // 2
    finally:
        lanes.close()


def steady_median(measure: Callable[[], float], *, repeats: int, least_s: float) -> float:
    """The median of `repeats` measurements or more, until `least_s` have gone by.

    Small tiles are measured often: a machine that others use has slow moments.
    """
    until, found = perf_counter() + least_s, [measure() for _ in range(repeats)]
    while perf_counter() < until:
        found.append(measure())
    return median(found)


def _median_seconds(engine: Engine, batch_size: int, lanes: Lanes) -> float:
    """Seconds of one batch in each lane."""
    tiles = engine.tiles(batch_size).normal_()
    _seconds(engine, tiles, lanes)
    measure = partial(_seconds, engine, tiles, lanes)
    return steady_median(measure, repeats=REPEATS, least_s=LEAST_S)


def _seconds(engine: Engine, tiles_nczyx: torch.Tensor, lanes: Lanes) -> float:
    @torch.inference_mode()
    def forward(_: int) -> None:
        engine.forward(tiles_nczyx)

    started = perf_counter()
    lanes.run(range(lanes.number), forward, lambda *_: None)
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    return perf_counter() - started

"""Choosing: which Engine runs a model fastest on the device at hand, by measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

import torch

from unet_batch.errors import DeviceMemoryError, SpecError
from unet_batch.inference.engine import Engine, Frame, TorchEngine
from unet_batch.inference.graph_engine import GraphEngine
from unet_batch.inference.pacing import Pace, measure_in_turn
from unet_batch.inference.presets import EnsembleEngine, MirroredEngine
from unet_batch.models.bundle import Bundle
from unet_batch.models.networks import is_own
from unet_batch.models.precision import Precision
from unet_batch.planning.specs.segment import MirrorAxis

EngineKind = Literal["torch", "openvino", "cuda_graph"]
_CANNOT_RUN: dict[EngineKind, tuple[type[Exception], ...]] = {"cuda_graph": (RuntimeError,)}
"""What an Engine raises of a network that it cannot run, beside running out of memory."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The Engine to use, and seconds a tile of each that was measured; `note`: why none was."""

    kind: EngineKind
    seconds_per_tile: dict[str, float] = field(default_factory=dict)
    note: str = "the only one here"

    @property
    def reason(self) -> str:
        """The choice in words."""
        if not self.seconds_per_tile:
            return f"{self.kind}: not measured ({self.note})"
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
    engine = _together([_load_one(kind, one, frame, precision, device) for one in bundles])
    return MirroredEngine(engine, mirror) if mirror else engine


def reference_engine(bundles: Sequence[Bundle], frame: Frame, device: torch.device) -> Engine:
    """The same in float32 and as they are, to hold another Engine against."""
    return _together(
        [
            TorchEngine(one.network(), frame, precision="fp32", device=device, as_it_is=True)
            for one in bundles
        ]
    )


def _together(members: list[Engine]) -> Engine:
    return members[0] if len(members) == 1 else EnsembleEngine(members)


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
    """The fastest Engine for tiles of this frame, each timed over a few batches, in turn.

    Batches run side by side in `num_lanes`, where they can. One that has not the memory for a
    single tile is no choice, nor are CUDA graphs of a network that cannot be captured.
    """
    kinds = _candidates(bundles, device)
    if len(kinds) == 1:
        return EngineChoice("torch")
    timed: dict[EngineKind, Pace] = {}
    with ExitStack() as stack:
        for kind in kinds:
            engine = load_engine(
                kind, bundles, frame, precision=precision, device=device, mirror=mirror
            )
            lanes = lanes_of(kind, bundles, device, most=num_lanes)
            with suppress(DeviceMemoryError, *_CANNOT_RUN.get(kind, ())):
                pace = Pace(engine, batch_size=batch_size, num_lanes=lanes)
                timed[kind] = stack.enter_context(closing(pace))
        measure_in_turn(list(timed.values()))
    found: dict[str, float] = {kind: pace.seconds_per_tile for kind, pace in timed.items()}
    return EngineChoice(min(timed, key=lambda kind: found[kind], default="torch"), found)


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

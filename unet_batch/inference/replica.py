"""Replica: the Ray actor that holds one loaded model, and the calls it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from resource import RUSAGE_SELF, getrusage
from time import perf_counter

import numba
import ray
import torch

from unet_batch.inference.choosing import EngineKind, load_engine
from unet_batch.inference.engine import Frame
from unet_batch.inference.predictor import Array, BlockOrder, Piece, Predictor
from unet_batch.inference.reading import PieceRef
from unet_batch.models.bundle import load_bundle
from unet_batch.planning.specs.segment import InferenceSpec


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a Replica says of one call.

    `failures` has a reason for each Block, empty where it was predicted. `seconds` says
    where the call's time went; `busy_s` is all of it.
    """

    failures: tuple[str, ...]
    num_tiles: int
    busy_s: float
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0


class Replica:
    """One model, loaded once. Used as a Ray actor; works as a plain object too."""

    def __init__(
        self,
        model: str,
        inference: InferenceSpec,
        *,
        roi_zyx: tuple[int, int, int],
        engine: EngineKind,
        num_threads: int,
    ) -> None:
        use_threads(num_threads)
        bundle = load_bundle(model)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._predictor = Predictor(
            load_engine(
                engine,
                bundle,
                Frame.of(bundle, roi_zyx),
                precision=inference.precision,
                device=device,
            ),
            intensity=bundle.intensity,
            class_values=[one.value for one in bundle.classes],
            importance=inference.importance,
            batch_size=inference.batch_size,
        )

    def warm_up(self) -> str:
        """Predict an empty batch, so that the first Block finds all in place; what runs it."""
        self._predictor.warm_up()
        return self._predictor.engine.name

    def predict(
        self, orders: Sequence[BlockOrder], inputs: Sequence[Sequence[PieceRef]]
    ) -> tuple[ReplicaReport | Array | None, ...]:
        """Predict Blocks: a ReplicaReport, then the array of each cell of each Block in turn.

        `inputs` holds references, fetched here, so that one Volume that could not be read
        fails alone. The cells of a Block that failed are None.
        """
        started = perf_counter()
        fetched = [_fetch(pieces) for pieces in inputs]
        failures = [found if isinstance(found, str) else "" for found in fetched]
        readable = [k for k, failure in enumerate(failures) if not failure]
        results = self._predictor.predict(
            [orders[k] for k in readable],
            (found for found in fetched if not isinstance(found, str)),
        )
        cells: list[list[Array | None]] = [
            [None] * len(order.layout.cells(order.block)) for order in orders
        ]
        for k, result in zip(readable, results, strict=True):
            failures[k] = result.failure
            cells[k] = list(result.cells) if not result.failure else cells[k]
        report = ReplicaReport(
            failures=tuple(failures),
            num_tiles=sum(result.num_tiles for result in results),
            busy_s=perf_counter() - started,
            seconds=self._predictor.seconds,
            peak_rss_bytes=1024 * getrusage(RUSAGE_SELF).ru_maxrss,  # Linux counts in KiB
        )
        return (report, *(cell for block in cells for cell in block))

    def forget(self, volume_id: str) -> None:
        """Drop the slabs of a Volume that was given up."""
        self._predictor.forget(volume_id)


def use_threads(number: int) -> None:
    """Let torch and numba use `number` threads; Ray had set OMP_NUM_THREADS to the actor's CPUs."""
    torch.set_num_threads(number)
    numba.set_num_threads(min(number, numba.get_num_threads()))


def _fetch(pieces: Sequence[PieceRef]) -> list[Piece] | str:
    """A Block's voxels, or why they could not be read."""
    try:
        values = ray.get([piece.ref for piece in pieces])
    except ray.exceptions.RayTaskError as error:
        return f"reading failed: {error.cause}"
    except ray.exceptions.ObjectLostError as error:
        return f"reading failed: {error}"
    arrays = [
        value if piece.index is None else value[piece.index]
        for piece, value in zip(pieces, values, strict=True)
    ]
    for array in arrays:
        if isinstance(array, str):
            return f"reading failed: {array}"
    return [(piece.box, array) for piece, array in zip(pieces, arrays, strict=True)]

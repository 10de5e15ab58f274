"""Replica: the Ray actor that holds one loaded model, and the calls it answers.

Two packs may be under way at once: where a lane finds no batch of the first any more it takes
one of the second, rather than wait for the other lanes.

    lane 0   [ pack 1 | pack 1 | pack 2 | ...
    lane 1     [ pack 1 | pack 1 | pack 1 | pack 2 | ...

Everything else is done alone, on all cores.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from resource import RUSAGE_SELF, getrusage
from time import perf_counter
from typing import Any

import ray

from unet_batch.errors import ReplicaError
from unet_batch.inference.block_pass import Array, BlockOrder, BlockResult
from unet_batch.inference.choosing import (
    EngineChoice,
    EngineKind,
    choose_engine,
    lanes_of,
    load_engine,
    reference_engine,
)
from unet_batch.inference.engine import Frame
from unet_batch.inference.head import Head
from unet_batch.inference.model_address import load_model
from unet_batch.inference.places import Places
from unet_batch.inference.precision_check import labels_differ
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.presets import MirroredEngine
from unet_batch.inference.references import ArrayRef, PieceRef, Ref, fetch
from unet_batch.inference.shared_pages import let_go_of_shared_pages
from unet_batch.inference.skipping import Piece, SkipRule
from unet_batch.inference.stopwatch import Stopwatch
from unet_batch.models.precision import resolve_precision
from unet_batch.models.process import (
    own_device,
    peak_device_bytes,
    return_freed_memory,
    tune_process,
)
from unet_batch.planning.specs.segment import InferenceSpec

TILES_COMPARED = 2
"""Tiles on which bfloat16 is held against float32: millions of voxels, and little time."""


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What a Replica says of one call.

    `failures` has a reason for each Block, empty where it was predicted; `short` says of each
    whether a smaller Block might have had enough memory. `seconds` says where the call's time
    went; `busy_s` is all of it but the wait for another call. `warnings` are for a person.
    `node` is the Replica's machine.
    """

    failures: tuple[str, ...]
    num_tiles: int
    busy_s: float
    seconds: dict[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    peak_device_bytes: int = 0
    num_skipped: int = 0
    short: tuple[bool, ...] = ()
    warnings: tuple[str, ...] = ()
    node: str = ""


class _Unread(str):
    """Why an object is not there."""

    __slots__ = ()


_UNREAD = (
    ray.exceptions.RayTaskError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)


class Replica:
    """One model, loaded once: a Bundle's network, or an ensemble of several.

    Used as a Ray actor; works as a plain object too.
    """

    def __init__(
        self,
        models: Sequence[str],
        inference: InferenceSpec,
        *,
        roi_zyx: tuple[int, int, int],
        engine: EngineKind,
        num_threads: int,
        num_lanes: int = 1,
        trust_network: bool = False,
    ) -> None:
        tune_process(num_threads)
        self._bundles = bundles = [
            load_model(model, trust_network=trust_network) for model in models
        ]
        self._inference, self._num_lanes = inference, num_lanes
        self._places = Places(num_threads)
        self._device, self._node = own_device(), _this_node()
        self._frame = Frame.of(bundles[0], roi_zyx)
        self._head = Head.of(bundles, inference)
        self._load(engine)

    def _load(self, engine: EngineKind) -> None:
        inference, bundles = self._inference, self._bundles
        self._predictor = Predictor(
            load_engine(
                engine,
                bundles,
                self._frame,
                precision=inference.precision,
                device=self._device,
                mirror=inference.mirror,
            ),
            intensity=bundles[0].intensity,
            head=self._head,
            importance=inference.importance,
            batch_size=inference.batch_size,
            skip=SkipRule.of(inference, bundles[0].channels),
            num_lanes=lanes_of(engine, bundles, self._device, most=self._num_lanes),
        )
        self._engine, self._is_warm = engine, False

    def warm_up(self) -> str:
        """Predict an empty batch, once, so that the first Block finds all there; what runs it."""
        with self._places.all():
            return self._warm_up()

    def _warm_up(self) -> str:
        if not self._is_warm:
            self._predictor.warm_up()
            self._is_warm = True
        return self._predictor.engine.name

    def choose_engine(self) -> EngineChoice:
        """Which Engine runs the model fastest here, each being timed; nothing changes."""
        inference = self._inference
        with self._places.all():
            choice = choose_engine(
                self._bundles,
                self._frame,
                precision=inference.precision,
                device=self._device,
                batch_size=inference.batch_size,
                mirror=inference.mirror,
                num_lanes=self._num_lanes,
            )
        return_freed_memory()  # the others' networks may have been larger than any Block is
        return choice

    def use_engine(self, engine: EngineKind) -> str:
        """Run the model on `engine` from now on; between Volumes only, as slabs are dropped."""
        with self._places.all():
            if engine != self._engine:
                self._predictor.engine.close()
                self._load(engine)
            return self._warm_up()

    def predict(
        self, orders: Sequence[BlockOrder], inputs: Sequence[Sequence[PieceRef]]
    ) -> tuple[ReplicaReport | Array | None, ...]:
        """Predict Blocks: a ReplicaReport, then the array of each cell of each Block in turn.

        `inputs` holds references, fetched here, so that one Volume that could not be read
        fails alone. The cells of a Block that failed are None.
        """
        let_go_of_shared_pages()  # of earlier calls: what they read, and what they returned
        report, cells = self._predict(orders, inputs)
        return (report, *cells)

    def predict_pack(
        self, orders: Sequence[BlockOrder], inputs: Sequence[Sequence[PieceRef]]
    ) -> tuple[ReplicaReport, list[Array | None]]:
        """The same of whole Volumes, with all cells in one list: small ones, to travel together."""
        return self._predict(orders, inputs, is_pack=True)

    def _predict(
        self,
        orders: Sequence[BlockOrder],
        inputs: Sequence[Sequence[PieceRef]],
        *,
        is_pack: bool = False,
    ) -> tuple[ReplicaReport, list[Array | None]]:
        started, watch = perf_counter(), Stopwatch()
        fetched = _fetch_each(inputs)
        fetch_s = perf_counter() - started
        failures = [found if isinstance(found, str) else "" for found in fetched]
        readable = [k for k, failure in enumerate(failures) if not failure]
        read = [orders[k] for k in readable]
        may_share = is_pack and self._predictor.runs_in_lanes(read)
        with self._places.one() if may_share else self._places.all():
            results = self._predictor.predict(
                read, (found for found in fetched if not isinstance(found, str)), watch
            )
        cells: list[list[Array | None]] = [
            [None] * len(order.layout.cells(order.block)) for order in orders
        ]
        short = [False] * len(orders)
        for k, result in zip(readable, results, strict=True):
            failures[k], short[k] = result.failure, result.is_short
            cells[k] = list(result.cells) if not result.failure else cells[k]
        busy_s = fetch_s + watch.busy_s
        report = self._report(failures, short, results, busy_s=busy_s, seconds=watch.seconds)
        return report, [cell for block in cells for cell in block]

    def _report(
        self,
        failures: Sequence[str],
        short: Sequence[bool],
        results: Sequence[BlockResult],
        *,
        busy_s: float,
        seconds: dict[str, float],
    ) -> ReplicaReport:
        return ReplicaReport(
            failures=tuple(failures),
            num_tiles=sum(result.num_tiles for result in results),
            num_skipped=sum(result.num_skipped for result in results),
            busy_s=busy_s,
            seconds=seconds,
            peak_rss_bytes=1024 * getrusage(RUSAGE_SELF).ru_maxrss,  # Linux counts in KiB
            peak_device_bytes=peak_device_bytes(self._device),
            short=tuple(short),
            warnings=self._predictor.take_warnings(),
            node=self._node,
        )

    @property
    def num_channels(self) -> int:
        """Channels of a scan that the model takes."""
        return self._frame.in_channels

    def seconds_per_tile(self, order: BlockOrder, pieces: Sequence[Piece]) -> float:
        """What a tile of a Block takes, with all that is done from raw voxels to finished cells.

        Raises ReplicaError where the Block cannot be predicted.
        """
        with self._places.all():
            started = perf_counter()
            (result,) = self._predictor.predict([order], [pieces])
            seconds = perf_counter() - started
        if result.failure:
            raise ReplicaError(f"a few tiles could not be predicted: {result.failure}")
        return seconds / max(1, result.num_tiles + result.num_skipped)

    def bf16_disagreement(
        self, orders: Sequence[BlockOrder], inputs: Sequence[Sequence[PieceRef]]
    ) -> float | None:
        """Share of voxels of a few tiles of a Block whose labels bfloat16 changes.

        The first Block that can be read lends its tiles. None where there is none, or where
        this Replica computes in float32.
        """
        if resolve_precision(self._inference.precision, self._device) == "fp32":
            return None
        fetched = zip(orders, _fetch_each(inputs), strict=True)
        readable = ((order, found) for order, found in fetched if not isinstance(found, str))
        order, pieces = next(readable, (None, ()))
        if order is None:
            return None
        with self._places.all():
            tiles = self._predictor.sample(order, pieces, TILES_COMPARED)
            rough = self._predictor.engine
            exact = reference_engine(self._bundles, self._frame, self._device)
            # Mirroring averages more of the same: it is left out of both.
            rough = rough.inner if isinstance(rough, MirroredEngine) else rough
            return labels_differ(rough, exact, self._head, tiles)

    def forget(self, volume_id: str) -> None:
        """Drop the slabs of a Volume that was given up."""
        with self._places.all():
            self._predictor.forget(volume_id)


def _this_node() -> str:
    """The machine, and which of Ray's nodes on it; several may share one."""
    if not ray.is_initialized():
        return socket.gethostname()
    return f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:8]}"


def _fetch_each(inputs: Sequence[Sequence[PieceRef]]) -> list[list[Piece] | str]:
    """The voxels of each Block, or why they could not be read; each object is fetched once."""
    every = [piece.array for pieces in inputs for piece in pieces]
    try:
        values: dict[Ref, Any] = fetch(every)
    except _UNREAD:  # by one of them: each for itself
        values = {one.ref: _fetch_alone(one) for one in every}
    return [_pieces(pieces, values) for pieces in inputs]


def _fetch_alone(array: ArrayRef) -> Any:
    try:
        return fetch([array])[array.ref]
    except ray.exceptions.RayTaskError as error:
        return _Unread(str(error.cause))
    except _UNREAD as error:
        return _Unread(str(error))


def _pieces(pieces: Sequence[PieceRef], values: Mapping[Ref, Any]) -> list[Piece] | str:
    found: list[Piece] = []
    for piece in pieces:
        value = values[piece.array.ref]
        array = value if isinstance(value, _Unread) else piece.array.of(value)
        if isinstance(array, str):
            return f"reading failed: {array}"
        found.append((piece.box, array))
    return found

"""Lanes: Blocks that have nothing to do with each other, predicted side by side, a core for each.

The cores that share one forward pass wait for each other at every layer, and all of them while
one reads a tile or adds its logits. A large volume leaves no choice; of small ones, each core
takes some and waits for nobody: on two cores 500 volumes of 40³ voxels took a third less time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice

from unet_batch.inference.block_pass import BlockOrder, BlockResult
from unet_batch.inference.predictor import Predictor
from unet_batch.inference.skipping import Piece
from unet_batch.models.process import use_threads


class Lanes:
    """Predictors that share an Engine on a CPU, each with a thread of its own.

    A result does not depend on the lane: tiles of a Block are predicted and added in order.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        self._predictors = predictors
        self._threads = ThreadPoolExecutor(
            len(predictors), "lane", initializer=use_threads, initargs=(1,)
        )

    def predict(
        self, orders: Sequence[BlockOrder], inputs: Iterable[Sequence[Piece]]
    ) -> list[BlockResult]:
        """As `Predictor.predict`, of Blocks no two of which are of one Sweep."""
        pieces = iter(inputs)
        under_way = [
            self._threads.submit(predictor.predict, share, list(islice(pieces, len(share))))
            for predictor, share in zip(
                self._predictors, _shares(orders, len(self._predictors)), strict=True
            )
        ]
        wait(under_way)  # what one raises must not leave another at work
        return [result for lane in under_way for result in lane.result()]

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time of the last call went: the mean of the lanes."""
        total: Counter[str] = Counter()
        for predictor in self._predictors:
            total.update(predictor.seconds)
        return {part: seconds / len(self._predictors) for part, seconds in total.items()}

    def take_warnings(self) -> tuple[str, ...]:
        """What was worked around since the last look, in any lane."""
        return tuple(text for one in self._predictors for text in one.take_warnings())


def _shares(orders: Sequence[BlockOrder], number: int) -> Iterator[Sequence[BlockOrder]]:
    """`orders` cut into `number` parts, in order, of about as many tiles each."""
    tiles = [order.block.tiles.num_voxels for order in orders]
    total, taken, first = sum(tiles), 0, 0
    for part in range(1, number + 1):
        stop = first
        while stop < len(orders) and (2 * taken + tiles[stop]) * number <= 2 * part * total:
            taken += tiles[stop]
            stop += 1
        yield orders[first:stop]
        first = stop

"""Engines are timed in batches that fit; what fits in none is not chosen."""

from __future__ import annotations

import pytest
import torch

from unet_batch.errors import DeviceMemoryError
from unet_batch.inference import choosing
from unet_batch.inference.choosing import choose_engine, seconds_per_tile
from unet_batch.inference.engine import Frame


class SmallEngine:
    """Has memory for `room` tiles."""

    name, min_batch, device = "small", 1, torch.device("cpu")
    frame = Frame(1, 2, (2, 2, 2))

    def __init__(self, room: int) -> None:
        self.room, self.tried, self.is_closed = room, [], False  # type: ignore[var-annotated]

    def tiles(self, count: int) -> torch.Tensor:
        return torch.empty(count, 1, 2, 2, 2)

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(tiles_nczyx))
        if len(tiles_nczyx) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return tiles_nczyx

    def close(self) -> None:
        self.is_closed = True


def test_the_batch_is_halved_until_it_fits() -> None:
    engine = SmallEngine(3)
    assert seconds_per_tile(engine, batch_size=8) > 0  # type: ignore[arg-type]
    assert list(dict.fromkeys(engine.tried)) == [8, 4, 2]


def test_in_lanes_as_many_batches_run_as_there_are_lanes() -> None:
    engine = SmallEngine(9)
    assert seconds_per_tile(engine, batch_size=4, num_lanes=3) > 0  # type: ignore[arg-type]
    assert len(engine.tried) % 3 == 0
    assert set(engine.tried) == {4}


def test_what_fits_no_tile_says_so() -> None:
    with pytest.raises(DeviceMemoryError, match="to time a batch of 1 tiles"):
        seconds_per_tile(SmallEngine(0), batch_size=4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rooms", "kind"), [((0, 4), "openvino"), ((4, 0), "torch")])
def test_an_engine_without_room_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, rooms: tuple[int, int], kind: str
) -> None:
    engines = {"torch": SmallEngine(rooms[0]), "openvino": SmallEngine(rooms[1])}
    monkeypatch.setattr(choosing, "has_openvino", lambda: True)
    monkeypatch.setattr(choosing, "load_engine", lambda kind, *_, **__: engines[kind])
    device = torch.device("cpu")
    frame = SmallEngine.frame
    choice = choose_engine([], frame, precision="fp32", device=device, batch_size=4)
    assert choice.kind == kind
    assert list(choice.seconds_per_tile) == [kind]
    assert all(engine.is_closed for engine in engines.values())

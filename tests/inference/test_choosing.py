"""Engines are timed in turn, in batches that fit; what fits in none is not chosen."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch

from unet_batch.errors import DeviceMemoryError
from unet_batch.inference import choosing, pacing
from unet_batch.inference.choosing import choose_engine, reference_engine
from unet_batch.inference.engine import Frame
from unet_batch.inference.pacing import TURNS, Pace, measure_in_turn


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
    pace = Pace(engine, batch_size=8)  # type: ignore[arg-type]
    measure_in_turn([pace])
    assert pace.seconds_per_tile > 0
    assert list(dict.fromkeys(engine.tried)) == [8, 4, 2]


def test_in_lanes_as_many_batches_run_as_there_are_lanes() -> None:
    engine = SmallEngine(9)
    measure_in_turn([Pace(engine, batch_size=4, num_lanes=3)])  # type: ignore[arg-type]
    assert len(engine.tried) % 3 == 0
    assert set(engine.tried) == {4}


def test_what_fits_no_tile_says_so_and_is_closed() -> None:
    engine = SmallEngine(0)
    with pytest.raises(DeviceMemoryError, match="to time a batch of 1 tiles"):
        Pace(engine, batch_size=4)  # type: ignore[arg-type]
    assert engine.is_closed


class Machine:
    """A clock; a pass takes longer and longer, as others begin to use the machine."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, list[str]()

    def run(self, name: str, seconds: float) -> None:
        self.order.append(name)
        self.now += seconds * (1 + self.now)

    def __call__(self) -> float:
        return self.now


class TimedEngine(SmallEngine):
    def __init__(self, machine: Machine, kind: str, seconds: float) -> None:
        super().__init__(room=4)
        self.machine, self.kind, self.seconds = machine, kind, seconds

    def forward(self, tiles_nczyx: torch.Tensor) -> torch.Tensor:
        self.machine.run(self.kind, self.seconds)
        return super().forward(tiles_nczyx)


def test_a_machine_that_slows_down_does_so_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(pacing, "perf_counter", machine)
    engines = [TimedEngine(machine, "torch", 0.022), TimedEngine(machine, "openvino", 0.02)]
    paces = [Pace(engine, batch_size=4) for engine in engines]  # type: ignore[arg-type]
    machine.order.clear()
    measure_in_turn(paces)
    turns = [kind for kind, _ in groupby(machine.order)]
    assert turns == ["torch", "openvino"] * (len(turns) // 2)
    assert len(turns) >= 2 * TURNS
    assert paces[1].seconds_per_tile < paces[0].seconds_per_tile


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


class OneNetwork:
    """As much of a Bundle as an Engine asks for."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.made = torch.nn.Sequential(
            torch.nn.ConvTranspose3d(1, 2, 3, 2, 1, output_padding=1),
            torch.nn.PReLU(),
            torch.nn.Conv3d(2, 2, 3, padding=1),
            torch.nn.AvgPool3d(2),
        ).eval()

    def network(self) -> torch.nn.Module:
        return self.made


@pytest.mark.parametrize("num_members", [1, 2])
def test_what_others_are_held_against_runs_the_networks_as_they_are(num_members: int) -> None:
    members = [OneNetwork(seed) for seed in range(num_members)]
    frame = Frame(1, 2, (4, 4, 4))
    engine = reference_engine(members, frame, torch.device("cpu"))  # type: ignore[arg-type]
    tiles = engine.tiles(2).normal_()
    with torch.inference_mode():
        expected = torch.cat([one.made(tiles) for one in members], dim=1)
        assert torch.equal(engine.forward(tiles), expected)

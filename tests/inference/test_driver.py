"""The Driver on a simulated cluster: faults come back as Ray tells them, and all ends well."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayError

from unet_batch.inference.driver import Driver
from unet_batch.inference.outcome import Outcome, Target
from unet_batch.inference.pool import ReplicaSize
from unet_batch.monitoring.events import Event, ReplicaLost, StageTimed
from unet_batch.planning.cost import ModelCost
from unet_batch.planning.plan import Plan, Planner
from unet_batch.planning.schedule import Schedule
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics, LabelClass, VolumeInfo
from unet_batch.storage.labels_set import LabelsSet
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.volume import Volume

from ..benchmarks.simulated import Clock, Later, RayCost, SimulatedPool, SimulatedWorkforce

SHAPES = [(120, 24, 24), (60, 24, 24), *[(8, 8, 8)] * 12]


def info(number: int, shape: tuple[int, int, int]) -> VolumeInfo:
    return VolumeInfo(
        id=f"v{number:02}",
        shape_czyx=(1, *shape),
        dtype="int16",
        spacing_mm=(1, 1, 1),
        affine=(0.0,) * 16,
        chunk_zyx=(16, 16, 16),
        shard_zyx=(16, 16, 16),
        content_hash=f"{number}",
        channels=("CT",),
        statistics=(ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0),),
    )


class Pool(SimulatedPool):
    """Its Replicas may die; the workforce is told of each start."""

    workforce: Workforce

    def start(self) -> tuple[str, Later]:
        name, later = super().start()
        name = f"{name}-{self.workforce.starts}"
        self.free_at[name] = self._clock.now
        self.free_at.pop(name.rsplit("-", 1)[0])
        self.workforce.starts += 1
        self.workforce.expect(later)
        return name, later

    def end(self, name: str) -> None:
        self.free_at.pop(name, None)

    def lose(self, name: str, reason: str) -> None:
        del reason
        self.end(name)


class Workforce(SimulatedWorkforce):
    """Every so many results are lost, as Ray would say it."""

    def __init__(self, *arguments: Any, faults: dict[str, RayError], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.starts, self.faults, self.told = 0, faults, Counter[str]()

    def _spoil(self, kind: str, later: Later) -> None:
        self.told[kind] += 1
        if kind in self.faults and self.told[kind] in (2, 5):
            later.value = self.faults[kind]

    def predict(self, *arguments: Any) -> Any:
        done, cells = super().predict(*arguments)
        self._spoil("predict", done)
        return done, cells

    def write(self, *arguments: Any) -> Any:
        later = super().write(*arguments)
        self._spoil("write", later)
        return later

    def stitch(self, *arguments: Any) -> Any:
        done, labels = super().stitch(*arguments)
        self._spoil("stitch", done)
        return done, labels

    def result(self, ref: Later) -> Any:
        found = super().result(ref)
        if isinstance(found, RayError):
            raise found
        return found


def run(faults: dict[str, RayError]) -> tuple[Plan, dict[str, Outcome], list[Event], Workforce]:
    planner = Planner(
        InferenceSpec(overlap=0.5, batch_size=2, cuts="travel"),
        (8, 8, 8),
        ModelCost(num_channels=1, num_classes=2),
        ("CT",),
        memory_budget=60_000,
        min_sweeps=2,
    )
    plan = Plan(planner, [info(k, shape) for k, shape in enumerate(SHAPES)])
    clock = Clock()
    pool = Pool(ReplicaSize(3, 1, 0.0), clock)
    workforce = Workforce(pool, clock, seconds_per_tile=0.01, ray=RayCost(), faults=faults)
    pool.workforce = workforce
    outcomes: dict[str, Outcome] = {}
    heard: list[Event] = []

    def target(volume_id: str) -> Target:
        one = plan.volumes[volume_id].info
        classes = (LabelClass(0, "background"), LabelClass(1, "organ"))
        writer = LabelsWriter.for_volume("memory://x", one, name="x", classes=classes, key="k")
        return Target(LabelsSet("x", (writer,)), {})

    def take(outcome: Outcome) -> None:
        assert outcome.volume_id not in outcomes
        outcomes[outcome.volume_id] = outcome

    driver = Driver(
        plan,
        Schedule(plan.chains(), plan.volumes, window=2, max_attempts=3),
        pool,  # type: ignore[arg-type]
        volumes=lambda volume_id: Volume("memory://x", plan.volumes[volume_id].info),
        target=target,
        head=None,  # type: ignore[arg-type]
        on_outcome=take,
        listen=heard.append,
        workforce=workforce,
    )
    driver.run()
    assert not driver._inputs
    assert not driver._held._volumes
    return plan, outcomes, heard, workforce


def test_undisturbed_every_tile_is_predicted_once() -> None:
    plan, outcomes, heard, workforce = run({})
    assert {one.outcome for one in outcomes.values()} == {"done"}
    assert set(outcomes) == set(plan.volumes)
    assert workforce.num_tiles == plan.num_tiles
    stages = {event.stage for event in heard if isinstance(event, StageTimed)}
    assert stages == {"read", "predict", "stitch", "write", "publish"}


@pytest.mark.parametrize("kind", ["write", "stitch"])
def test_results_lost_with_their_node_are_predicted_again(kind: str) -> None:
    lost = ObjectLostError("12ab", None, "")
    plan, outcomes, _, workforce = run({kind: lost})
    assert {one.outcome for one in outcomes.values()} == {"done"}
    assert len(outcomes) == len(plan.volumes)
    assert plan.num_tiles < workforce.num_tiles < 2 * plan.num_tiles


def test_replicas_that_die_are_replaced_and_their_blocks_done_again() -> None:
    plan, outcomes, heard, workforce = run({"predict": ActorDiedError()})
    assert {one.outcome for one in outcomes.values()} == {"done"}
    assert len(outcomes) == len(plan.volumes)
    assert len([event for event in heard if isinstance(event, ReplicaLost)]) == 2
    assert workforce.starts == 5


def test_a_call_that_fails_for_another_reason_fails_its_volumes_alone() -> None:
    plan, outcomes, _, _ = run({"predict": RayError("the call could not be unpickled")})
    given_up = [one for one in outcomes.values() if one.outcome == "quarantined"]
    assert 0 < len(given_up) < len(plan.volumes)
    assert {one.reason for one in given_up} == {"RayError: the call could not be unpickled"}
    assert len(outcomes) == len(plan.volumes)

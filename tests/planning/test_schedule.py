"""The Schedule against fake Replicas: any order, any faults, nothing lost or done twice."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_batch.planning.cost import ModelCost
from unet_batch.planning.messages import (
    Close,
    Event,
    Instruction,
    Predict,
    Publish,
    Read,
    RegionsLost,
    Release,
    ReplicaGone,
    ReplicaReady,
    Retire,
    SeamLost,
    StepKey,
    Stitch,
    VolumeFailed,
    WasPredicted,
    WasPublished,
    WasRead,
    WasStitched,
    WasWritten,
    Write,
)
from unet_batch.planning.plan import BlockKey, Plan, Planner
from unet_batch.planning.schedule import Schedule
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.planning.volume_info import ChannelStatistics, VolumeInfo

STATISTICS = ChannelStatistics(0, 1, 0, 1, {}, 1, 0, 1, 0)


def info(name: str, shape: tuple[int, int, int]) -> VolumeInfo:
    return VolumeInfo(
        id=name,
        shape_czyx=(1, *shape),
        dtype="int16",
        spacing_mm=(1, 1, 1),
        affine=(0.0,) * 16,
        chunk_zyx=shape,
        shard_zyx=tuple(min(n, 16) for n in shape),
        content_hash=name,
        channels=("CT",),
        statistics=(STATISTICS,),
    )


def plan_of(
    shapes: list[tuple[int, int, int]], *, min_sweeps: int = 1, memory_budget: int = 40_000
) -> Plan:
    planner = Planner(
        InferenceSpec(overlap=0.5, batch_size=2),
        (8, 8, 8),
        ModelCost(num_channels=1, num_classes=2),
        ("CT",),
        memory_budget=memory_budget,
        min_sweeps=min_sweeps,
    )
    return Plan(planner, [info(f"v{k:02}", shape) for k, shape in enumerate(shapes)])


class FakeCluster:
    """Carries Instructions out in a random order, and kills Replicas at a given rate."""

    def __init__(
        self,
        plan: Plan,
        seed: int,
        *,
        kill_rate: float = 0.0,
        max_kills: int = 5,
        loss_rate: float = 0.0,
    ) -> None:
        self.plan, self.random = plan, random.Random(seed)
        self.loss_rate, self.losses_left = loss_rate, 2
        self.schedule = Schedule(
            plan.chains(), plan.volumes, window=2, max_attempts=99, num_writers=2
        )
        self.kill_rate, self.kills_left = kill_rate, max_kills
        self.todo: list[Instruction] = []
        self.slabs: dict[str, dict[tuple[str, int], int]] = {}
        self.returned: Counter[BlockKey] = Counter()
        self.written: Counter[tuple[str, object]] = Counter()
        self.closed: dict[str, Close] = {}
        self.voxels_held: set[StepKey] = set()
        self.most_held = 0
        self.published: set[str] = set()

    def run(self, num_replicas: int) -> None:
        self.accept(self.schedule.start(num_replicas=num_replicas))
        for k in range(num_replicas):
            self.slabs[f"r{k}"] = {}
            self.tell(ReplicaReady(f"r{k}"))
        while not self.schedule.is_finished:
            self.maybe_kill()
            assert self.todo, "the Schedule waits for nothing"
            self.carry_out(self.todo.pop(self.pick()))

    def pick(self) -> int:
        """Any Instruction, but a Replica's calls are done in order, two packs at once."""
        index = self.random.randrange(len(self.todo))
        chosen = self.todo[index]
        if not isinstance(chosen, Predict):
            return index
        first, *later = (
            (k, len(one.step) > 1)
            for k, one in enumerate(self.todo)
            if isinstance(one, Predict) and one.replica == chosen.replica
        )
        are_packs = all(is_pack for _, is_pack in (first, *later[:1]))
        return self.random.choice([first, *later[:1]] if are_packs else [first])[0]

    def tell(self, event: Event) -> None:
        self.accept(self.schedule.handle(event))

    def accept(self, instructions: list[Instruction]) -> None:
        for one in instructions:
            if isinstance(one, Release):
                self.voxels_held.discard(one.key)
                self.todo = [t for t in self.todo if not (isinstance(t, Read) and t.key == one.key)]
            elif isinstance(one, Close):
                assert one.volume_id not in self.closed
                self.closed[one.volume_id] = one
            else:
                if isinstance(one, Read):
                    self.voxels_held.add(one.key)
                    self.most_held = max(self.most_held, len(self.voxels_held))
                self.todo.append(one)

    def maybe_kill(self) -> None:
        if self.kills_left and self.random.random() < self.kill_rate:
            self.kills_left -= 1
            victim = self.random.choice(sorted(self.slabs))
            self.todo = [
                t for t in self.todo if not (isinstance(t, Predict) and t.replica == victim)
            ]
            del self.slabs[victim]
            self.tell(ReplicaGone(victim, "killed"))
            self.slabs[f"{victim}'"] = {}
            self.tell(ReplicaReady(f"{victim}'"))

    def carry_out(self, one: Instruction) -> None:
        match one:
            case Read(key, _, _):
                self.tell(WasRead(key))
            case Predict():
                self.predict(one)
            case Stitch(volume_id, cell) if self.is_lost():
                self.tell(SeamLost(volume_id, cell, "node gone"))
            case Stitch(volume_id, cell):
                self.tell(WasStitched(volume_id, cell))
            case Write(regions, _) if self.is_lost():
                self.tell(RegionsLost(regions, "node gone"))
            case Write(regions, whole):
                for region in regions:
                    self.written[region.volume_id, region.box] += 1
                published = tuple(one for one in whole if self.random.random() < 0.5)
                self.show(published)
                self.tell(WasWritten(regions, published))
            case Publish(volume_ids):
                self.show(volume_ids)
                self.tell(WasPublished(volume_ids))

    def show(self, volume_ids: tuple[str, ...]) -> None:
        """Labels are published once, when all of their regions are written."""
        for volume_id in volume_ids:
            assert volume_id not in self.published
            self.published.add(volume_id)
            for region in self.plan.volumes[volume_id].write_regions:
                assert self.written[volume_id, region]

    def is_lost(self) -> bool:
        """Whether the machine that held what is wanted went with it."""
        lost = self.losses_left > 0 and self.random.random() < self.loss_rate
        self.losses_left -= lost
        return lost

    def predict(self, one: Predict) -> None:
        """A Sweep's Blocks come in order to the Replica that holds the slab, or are rebuilt."""
        assert one.key in self.voxels_held
        for key in one.step:
            slabs = self.slabs[one.replica]
            if key.number and not one.rebuild:
                assert slabs[key.volume_id, key.sweep] == key.number - 1
            slabs[key.volume_id, key.sweep] = key.number
            self.returned[key] += 1
        self.tell(WasPredicted(one.key, one.replica))


shapes = st.lists(
    st.tuples(st.integers(4, 40), st.integers(4, 24), st.integers(4, 24)), min_size=1, max_size=6
)


@given(shapes, st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_every_block_is_predicted_once_and_every_region_written_once(
    volumes: list[tuple[int, int, int]], sweeps: int, replicas: int, seed: int
) -> None:
    plan = plan_of(volumes, min_sweeps=sweeps)
    cluster = FakeCluster(plan, seed)
    cluster.run(replicas)
    assert set(cluster.returned.values()) == {1}
    assert len(cluster.returned) == sum(v.layout.num_blocks for v in plan.volumes.values())
    assert set(cluster.written) == {
        (v.info.id, region) for v in plan.volumes.values() for region in v.write_regions
    }
    assert set(cluster.written.values()) == {1}
    assert {close.outcome for close in cluster.closed.values()} == {"done"}
    assert len(cluster.closed) == len(volumes)


@given(shapes, st.integers(1, 3), st.integers(0, 99))
def test_killed_replicas_lose_nothing_and_only_their_own_blocks_run_again(
    volumes: list[tuple[int, int, int]], replicas: int, seed: int
) -> None:
    plan = plan_of(volumes, min_sweeps=2)
    cluster = FakeCluster(plan, seed, kill_rate=0.1)
    cluster.run(replicas)
    assert {close.outcome for close in cluster.closed.values()} == {"done"}
    assert len(cluster.closed) == len(volumes)
    assert set(cluster.written.values()) == {1}
    assert set(cluster.returned.values()) == {1}


@given(shapes, st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_results_that_went_with_their_machine_are_made_again(
    volumes: list[tuple[int, int, int]], sweeps: int, replicas: int, seed: int
) -> None:
    plan = plan_of(volumes, min_sweeps=sweeps)
    cluster = FakeCluster(plan, seed, loss_rate=0.3, kill_rate=0.05)
    cluster.run(replicas)
    assert {close.outcome for close in cluster.closed.values()} == {"done"}
    assert set(cluster.written.values()) == {1}
    assert set(cluster.written) == {
        (v.info.id, region) for v in plan.volumes.values() for region in v.write_regions
    }


@given(shapes, st.integers(1, 3), st.integers(0, 99))
def test_the_window_bounds_what_is_held(
    volumes: list[tuple[int, int, int]], replicas: int, seed: int
) -> None:
    cluster = FakeCluster(plan_of(volumes * 4), seed)
    cluster.run(replicas)
    assert cluster.most_held <= 2 * replicas


def test_a_block_that_fails_quarantines_its_volume_and_spares_its_pack() -> None:
    plan = plan_of([(8, 8, 8)] * 3)
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=3)
    (read,) = schedule.start(num_replicas=1)
    schedule.handle(ReplicaReady("r"))
    (predict,) = schedule.handle(WasRead(read.key))
    out = schedule.handle(WasPredicted(predict.key, "r", {BlockKey("v01", 0, 0): "NaN logits"}))
    assert Close("v01", "quarantined", "NaN logits") in out
    (write,) = [one for one in out if isinstance(one, Write)]
    assert [region.volume_id for region in write.regions] == ["v00", "v02"]


def test_a_step_that_kills_replica_after_replica_is_given_up() -> None:
    plan = plan_of([(8, 8, 8)])
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=3)
    (read,) = schedule.start(num_replicas=1)
    schedule.handle(WasRead(read.key))
    for attempt in range(3):
        (predict,) = schedule.handle(ReplicaReady(f"r{attempt}"))
        assert isinstance(predict, Predict)
        out = schedule.handle(ReplicaGone(f"r{attempt}", "out of memory"))
    (close, *_) = out
    assert close == Close("v00", "quarantined", "3 Replicas died on it; the last: out of memory")
    assert schedule.is_finished


def test_a_volume_that_kills_replicas_is_found_out_and_spares_its_pack() -> None:
    plan = plan_of([(8, 8, 8)] * 3)
    schedule = Schedule(plan.chains(), plan.volumes, window=9, max_attempts=3)
    todo, closed, deaths = schedule.start(num_replicas=1), {}, 0
    todo += schedule.handle(ReplicaReady("r0"))
    while todo:
        match todo.pop(0):
            case Read(key):
                todo += schedule.handle(WasRead(key))
            case Predict(_, step, _, _) if any(key.volume_id == "v01" for key in step):
                deaths += 1
                todo = [one for one in todo if not isinstance(one, Predict)]
                todo += schedule.handle(ReplicaGone(f"r{deaths - 1}", "killed"))
                todo += schedule.handle(ReplicaReady(f"r{deaths}"))
            case Predict(key, _, replica, _):
                todo += schedule.handle(WasPredicted(key, replica))
            case Write(regions, whole):
                todo += schedule.handle(WasWritten(regions, whole))
            case Publish(volume_ids):
                todo += schedule.handle(WasPublished(volume_ids))
            case Close(volume_id, outcome, reason):
                closed[volume_id] = outcome, reason
    assert {name: outcome for name, (outcome, _) in closed.items()} == {
        "v00": "done",
        "v01": "quarantined",
        "v02": "done",
    }
    assert closed["v01"][1] == "3 Replicas died on it; the last: killed"
    assert deaths == 4  # once with its pack, three times alone


def two_calls(max_attempts: int) -> tuple[Schedule, Predict, Predict]:
    """Two Volumes of a Block each, both asked of Replica `r`."""
    plan = plan_of([(16, 16, 16)] * 2, memory_budget=10**6)
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=max_attempts)
    for read in schedule.start(num_replicas=1):
        schedule.handle(WasRead(read.key))
    first, second = [one for one in schedule.handle(ReplicaReady("r")) if isinstance(one, Predict)]
    return schedule, first, second


@pytest.mark.parametrize("killer", [0, 1])
def test_a_killer_is_found_though_an_answer_is_lost_with_the_replica(killer: int) -> None:
    schedule, *calls = two_calls(max_attempts=1)
    guilty = calls[killer].step[0].volume_id
    out = schedule.handle(ReplicaGone("r", "killed"))  # nobody knows which of the two
    closed: dict[str, str] = {}
    for attempt in range(9):
        out += schedule.handle(ReplicaReady(f"r{attempt}"))
        calls = [one for one in out if isinstance(one, Predict)]
        closed |= {one.volume_id: one.reason for one in out if isinstance(one, Close)}
        out = []
        for call in calls:
            if call.step[0].volume_id == guilty:
                out += schedule.handle(ReplicaGone(call.replica, "killed"))
                break
            out += schedule.handle(WasPredicted(call.key, call.replica))
    assert list(closed) == [guilty]


def test_a_suspect_is_alone_at_its_replica() -> None:
    schedule, first, second = two_calls(max_attempts=3)
    schedule.handle(ReplicaGone("r", "killed"))
    (alone,) = schedule.handle(ReplicaReady("s"))
    assert alone == Predict(first.key, first.step, "s", rebuild=False)
    out = schedule.handle(WasPredicted(alone.key, "s"))
    (then,) = [one for one in out if isinstance(one, Predict)]
    assert then.step == second.step


def test_what_is_lost_again_and_again_is_given_up() -> None:
    plan = plan_of([(8, 8, 8)])
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=2)
    out = [*schedule.start(num_replicas=1), *schedule.handle(ReplicaReady("r"))]
    for _ in range(3):
        (read,) = [one for one in out if isinstance(one, Read)]
        (predict,) = schedule.handle(WasRead(read.key))
        assert isinstance(predict, Predict)
        landed = schedule.handle(WasPredicted(predict.key, "r"))
        (write,) = [one for one in landed if isinstance(one, Write)]
        out = schedule.handle(RegionsLost(write.regions, "node gone"))
    why = "what was predicted was lost 3 times; the last: node gone"
    assert Close("v00", "quarantined", why) in out
    assert schedule.is_finished


def test_idle_replicas_are_let_go_when_no_work_can_come_for_them() -> None:
    plan = plan_of([(8, 8, 8)])
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=2, least_replicas=1)
    assert schedule.wanted_replicas is None
    (read,) = schedule.start(num_replicas=3)
    assert schedule.wanted_replicas == 1
    assert schedule.handle(ReplicaReady("a")) == []
    (retired,) = schedule.handle(ReplicaReady("b"))
    assert isinstance(retired, Retire)
    (predict,) = schedule.handle(WasRead(read.key))
    assert isinstance(predict, Predict)
    assert predict.replica != retired.replica


def test_few_long_chains_leave_room_for_the_other_replicas() -> None:
    plan = plan_of([(200, 8, 8)] * 4)
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=2)
    reads = [one for one in schedule.start(num_replicas=4) if isinstance(one, Read)]
    assert len({one.key.chain for one in reads}) == 4


def test_late_and_double_returns_do_no_harm() -> None:
    plan = plan_of([(8, 8, 8)])
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=3)
    (read,) = schedule.start(num_replicas=1)
    schedule.handle(ReplicaReady("r"))
    (predict,) = schedule.handle(WasRead(read.key))
    assert schedule.handle(WasRead(read.key)) == []
    assert schedule.handle(WasPredicted(predict.key, "r"))
    assert schedule.handle(WasPredicted(predict.key, "r")) == []
    assert schedule.handle(WasPredicted(predict.key, "never seen")) == []


def test_a_failed_volume_is_closed_and_its_other_blocks_are_dropped() -> None:
    plan = plan_of([(40, 24, 24), (8, 8, 8)], min_sweeps=2)
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=3)
    schedule.start(num_replicas=1)
    out = schedule.handle(VolumeFailed("v00", "disk full"))
    assert Close("v00", "quarantined", "disk full") in out
    reads = [one for one in out if isinstance(one, Read)]
    assert [key.volume_id for one in reads for key in one.step] == ["v01"]


def test_small_volumes_are_published_by_those_who_write_them() -> None:
    plan = plan_of([(8, 8, 8)] * 3)
    schedule = Schedule(plan.chains(), plan.volumes, window=2, max_attempts=3)
    (read,) = schedule.start(num_replicas=1)
    schedule.handle(ReplicaReady("r"))
    (predict,) = schedule.handle(WasRead(read.key))
    out = schedule.handle(WasPredicted(predict.key, "r"))
    (write,) = [one for one in out if isinstance(one, Write)]
    assert write.whole == ("v00", "v01", "v02")
    out = schedule.handle(WasWritten(write.regions, ("v00", "v02")))
    assert [one for one in out if not isinstance(one, Retire)] == [
        Close("v00", "done"),
        Close("v02", "done"),
        Publish(("v01",)),  # who wrote it did not
    ]


class InOrder(FakeCluster):
    """Carries Instructions out as they come, and notes how many regions are written together."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, seed=0)
        self.sizes: list[int] = []

    def pick(self) -> int:
        return 0

    def carry_out(self, one: Instruction) -> None:
        if isinstance(one, Write):
            assert one.whole == tuple(region.volume_id for region in one.regions)
            self.sizes.append(len(one.regions))
        super().carry_out(one)


def test_what_comes_last_is_shared_out_among_the_writers() -> None:
    plan = plan_of([(8, 8, 8)] * 60)
    cluster = InOrder(plan)
    cluster.run(1)
    assert [len(step) for (step,) in plan.chains()] == [16, 16, 16, 12]
    assert cluster.sizes == [16, 16, 16, 8, 4]
    assert cluster.schedule.is_finished


def test_slow_stores_hold_new_volumes_back() -> None:
    plan = plan_of([(8, 8, 8)] * 40)
    schedule = Schedule(
        plan.chains(), plan.volumes, window=1, max_attempts=3, max_unwritten_voxels=10
    )
    (read,) = schedule.start(num_replicas=1)
    schedule.handle(ReplicaReady("r"))
    (predict,) = schedule.handle(WasRead(read.key))
    out = schedule.handle(WasPredicted(predict.key, "r"))
    (write,) = [one for one in out if isinstance(one, Write)]
    assert not [one for one in out if isinstance(one, Read)]
    assert [one for one in schedule.handle(WasWritten(write.regions)) if isinstance(one, Read)]


def test_slow_stores_hold_back_a_volume_that_is_under_way_too() -> None:
    plan = plan_of([(200, 24, 24)])
    schedule = Schedule(
        plan.chains(), plan.volumes, window=1, max_attempts=3, max_unwritten_voxels=10
    )
    (read,) = schedule.start(num_replicas=1)
    schedule.handle(ReplicaReady("r"))
    writes: list[Write] = []
    while not writes:  # until a whole Shard is there to be written
        (predict,) = schedule.handle(WasRead(read.key))
        out = schedule.handle(WasPredicted(predict.key, "r"))
        writes = [one for one in out if isinstance(one, Write)]
        reads = [one for one in out if isinstance(one, Read)]
        assert len(reads) == (not writes)
        read = reads[0] if reads else read
    more = [one for write in writes for one in schedule.handle(WasWritten(write.regions))]
    assert [one for one in more if isinstance(one, Read)]


@pytest.mark.parametrize("shape", [(8, 8, 8), (40, 24, 24)])
def test_an_empty_job_is_finished_at_once(shape: tuple[int, int, int]) -> None:
    schedule = Schedule(
        iter(()), {"unused": plan_of([shape]).volumes["v00"]}, window=1, max_attempts=1
    )
    assert schedule.start(num_replicas=1) == []
    assert schedule.is_finished


class Stopped(FakeCluster):
    """Asks for something after some Instructions were carried out."""

    after: int = 9
    ask: str = "drain"

    def carry_out(self, one: Instruction) -> None:
        super().carry_out(one)
        self.after -= 1
        if self.after == 0 and self.ask == "drain":
            self.accept(self.schedule.drain())
        elif self.after == 0:
            self.accept(self.schedule.give_up("no more"))


MANY = [(20, 20, 20)] * 12


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_a_pause_finishes_what_is_under_way_and_begins_no_more(seed: int, after: int) -> None:
    cluster = Stopped(plan_of(MANY, min_sweeps=2), seed)
    cluster.after = after
    cluster.run(2)
    assert {one.outcome for one in cluster.closed.values()} <= {"done"}
    whole = {name: list(cluster.plan.volumes[name].write_regions) for name in cluster.closed}
    expected = {(name, box) for name, boxes in whole.items() for box in boxes}
    assert set(cluster.written) == expected


def test_a_pause_leaves_volumes_for_later() -> None:
    cluster = Stopped(plan_of(MANY), 0)
    cluster.run(1)
    assert 0 < len(cluster.closed) < len(MANY)


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_cancelling_closes_what_is_under_way_once(seed: int, after: int) -> None:
    cluster = Stopped(plan_of(MANY, min_sweeps=2), seed)
    cluster.after, cluster.ask = after, "give up"
    cluster.run(2)
    assert {one.outcome for one in cluster.closed.values()} <= {"done", "cancelled"}


def test_a_job_that_is_paused_before_it_begins_begins_nothing() -> None:
    cluster = FakeCluster(plan_of(MANY), 0)
    cluster.schedule.drain()
    cluster.run(1)
    assert cluster.closed == {}


class Limited(FakeCluster):
    """Leaves the Job one Replica after some Instructions; notes who begins which Chain."""

    after: int = 20

    def accept(self, instructions: list[Instruction]) -> None:
        late = self.after <= 0
        for one in instructions:
            if isinstance(one, Predict):
                self.begun.setdefault(one.key.chain, (one.replica, late))
        self.ended += [one.replica for one in instructions if isinstance(one, Retire)]
        super().accept([one for one in instructions if not isinstance(one, Retire)])

    def carry_out(self, one: Instruction) -> None:
        super().carry_out(one)
        self.after -= 1
        if self.after == 0:
            self.accept(self.schedule.limit_replicas(1))


def test_replicas_beyond_the_limit_begin_nothing_and_end_when_they_are_through() -> None:
    cluster = Limited(plan_of(MANY), 3)
    cluster.begun: dict[int, tuple[str, bool]] = {}
    cluster.ended: list[str] = []
    cluster.run(2)
    assert len(cluster.closed) == len(MANY)
    assert cluster.ended == ["r1"]
    assert {replica for replica, _ in cluster.begun.values()} == {"r0", "r1"}
    assert {replica for replica, late in cluster.begun.values() if late} == {"r0"}

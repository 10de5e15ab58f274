"""What a soak counts and compares. The soak itself runs in `.ci/soak`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from unet_batch.planning.specs.segment import ReplicaRange, SegmentSpec
from unet_batch.workflows import soak as module
from unet_batch.workflows.segment_job import SegmentJob
from unet_batch.workflows.soak import (
    MANY_ATTEMPTS,
    SoakSummary,
    labels_digests,
    remove_labels,
    soak,
)
from unet_batch.workflows.soak_cluster import HurtCluster
from unet_batch.workflows.soak_job import make_job


@pytest.fixture
def spec(tmp_path: Path) -> SegmentSpec:
    return make_job(tmp_path, num_large=1, num_small=2)


def publish(spec: SegmentSpec, volume_id: str, value: int) -> None:
    """Labels as a Job would publish them, of one value."""
    labels = SegmentJob.open(spec).target(volume_id).labels
    labels.prepare()
    for region in labels.writers[0].write_regions():
        labels.write(region, np.full((1, *region.shape), value, np.uint8))
    labels.publish({})


def test_labels_are_compared_byte_for_byte_and_removed(spec: SegmentSpec) -> None:
    empty = labels_digests(spec)
    assert len(set(empty.values())) == 1
    publish(spec, "v001", 1)
    ones = labels_digests(spec)
    assert {k for k in ones if ones[k] != empty[k]} == {"v001"}
    remove_labels(spec)
    assert labels_digests(spec) == empty
    publish(spec, "v001", 2)
    assert labels_digests(spec)["v001"] != ones["v001"]


class FakeCluster(HurtCluster):
    """Dies as it is told, and starts nothing."""

    address = "nowhere"

    def __init__(self, num_nodes: int) -> None:
        self.nodes = num_nodes

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_node(self) -> None:
        self.nodes += 1

    def kill(self, kind: str, chance: random.Random) -> bool:
        self.nodes -= kind == "node"
        return True

    @property
    def num_nodes(self) -> int:
        return self.nodes


class FakeDriver:
    """Publishes the Labels of one round; `value` says of what, `looks` how long it takes."""

    value, looks = 1, 1
    begun = 0

    def __init__(self, command: list[str], **_: object) -> None:
        type(self).begun += 1
        self.left, self.events = self.looks, Path(command[-1])
        spec = SegmentSpec.model_validate_json(Path(command[3]).read_text())
        lines: list[dict[str, object]] = [{"tiles": 10}]
        job = SegmentJob.open(spec)
        job.archive.ledger(job.id).write_spec({})
        for info in job.infos:
            publish(spec, info.id, self.value_of(info.id))
            lines.append({"volume": info.id, "outcome": "done", "reason": ""})
        lines.append({"ended": "job", "planned": 10})
        with self.events.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def value_of(self, volume_id: str) -> int:
        return 1

    def poll(self) -> int | None:
        self.left -= 1
        return None if self.left > 0 else 0

    def kill(self) -> None:
        pass

    def wait(self) -> int:
        return -9


class FaultyDriver(FakeDriver):
    """Makes other Labels of one Volume from the second run on."""

    def value_of(self, volume_id: str) -> int:
        return 1 + (volume_id == "v002" and type(self).begun > 1)


def run(
    spec: SegmentSpec,
    driver: type[FakeDriver],
    monkeypatch: pytest.MonkeyPatch,
    minutes: float = 0.001,
) -> SoakSummary:
    monkeypatch.setattr(driver, "begun", 0)
    monkeypatch.setattr(module.subprocess, "Popen", driver)
    monkeypatch.setattr(module, "HurtCluster", FakeCluster)
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    return soak(spec, minutes=minutes, seed=1, mean_pause_s=0.001)


def test_a_round_that_ends_like_the_first_is_sound(
    spec: SegmentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run(spec, FakeDriver, monkeypatch)
    assert summary.is_sound
    assert summary.rounds >= 1
    assert summary.volumes_done == 3 * summary.rounds
    assert summary.tiles_again == 0
    assert not list(Path(spec.archive).rglob("labels/soak-net/*"))  # it cleans up
    assert not list(Path(spec.archive).glob("jobs/*/*"))


def test_other_labels_are_found_out(spec: SegmentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run(spec, FaultyDriver, monkeypatch)
    assert (summary.differing, summary.is_sound) == (("v002",), False)


def test_killed_drivers_are_counted_and_what_is_done_twice_is_told(
    spec: SegmentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDriver, "looks", 60)
    monkeypatch.setattr(module, "WEIGHTS", {"driver": 1})
    summary = run(spec, FakeDriver, monkeypatch, minutes=0.02)
    assert summary.kills["driver"] > 0
    assert summary.twice == ("v000", "v001", "v002")  # a fake driver does all of them again
    assert not summary.is_sound


def test_no_kill_can_make_the_job_give_up_a_block(spec: SegmentSpec) -> None:
    own = module._own(spec, 2)
    assert own.resources.max_attempts == MANY_ATTEMPTS
    assert own.resources.replicas == ReplicaRange(min=1, max=2)
    assert (own.labels, spec.labels) == ("soak-net", "net")

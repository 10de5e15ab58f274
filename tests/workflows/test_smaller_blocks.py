"""Volumes for which memory ran out are predicted again in smaller Blocks, twice at most."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from unet_batch.errors import MemoryBudgetError
from unet_batch.formats.scan import Scan
from unet_batch.inference.outcome import Outcome
from unet_batch.inference.pool import Replica
from unet_batch.monitoring.events import Event, Warned
from unet_batch.planning.plan import Plan
from unet_batch.planning.smaller import with_smaller_blocks
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob
from unet_batch.workflows.smaller_blocks import run_within_memory

from .tiny_bundle import make_bundle


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    archive = open_archive(tmp_path / "archive", create=True)
    random = np.random.default_rng(0)
    for number in range(2):
        voxels = random.integers(-1000, 1000, (1, 120, 40, 40)).astype(np.int16)
        archive.write_scan(Scan(f"v{number}", voxels, np.eye(4), ("CT",), "CT"), source={})
    return archive


def spec_for(archive: Archive, folder: Path, labels: str = "net") -> SegmentSpec:
    return SegmentSpec.model_validate(
        {
            "archive": archive.url,
            "model": str(make_bundle(folder / "tiny")),
            "labels": labels,
            "inference": {"precision": "fp32", "batch_size": 2, "engine": "torch"},
            "resources": {"memory_budget": "1GiB", "cpus_per_replica": 1},
        }
    )


def tight_run(
    plans: list[Plan], fits: Callable[[str, int], bool]
) -> Callable[[Plan, Callable[[Outcome], None]], None]:
    """Carries out nothing: a Volume is done where its Footprint beside the model fits."""

    def run(plan: Plan, on_outcome: Callable[[Outcome], None]) -> None:
        plans.append(plan)
        for name, volume in plan.volumes.items():
            footprint = plan.planner.footprint(volume)
            if fits(name, footprint.total - footprint.model):
                on_outcome(Outcome(name, "done", "", 1.0, ()))
            else:
                why = "cpu: no memory left for a batch of 2 tiles"
                on_outcome(Outcome(name, "quarantined", why, 1.0, (), is_short=True))

    return run


@pytest.fixture
def plan(archive: Archive, tmp_path: Path) -> Plan:
    job = SegmentJob.open(spec_for(archive, tmp_path))
    return job.plan(job.infos, num_replicas=1)


def block_bytes(plan: Plan, volume_id: str) -> int:
    footprint = plan.planner.footprint(plan.volumes[volume_id])
    return footprint.total - footprint.model


def test_blocks_are_halved_until_they_fit(plan: Plan) -> None:
    plans: list[Plan] = []
    outcomes: list[Outcome] = []
    heard: list[Event] = []
    before = block_bytes(plan, "v0")
    run = tight_run(plans, lambda name, size: name == "v1" or size <= 0.3 * before)
    run_within_memory(plan, run, on_outcome=outcomes.append, listen=heard.append)
    assert [(one.volume_id, one.outcome) for one in outcomes] == [("v1", "done"), ("v0", "done")]
    assert [sorted(one.volumes) for one in plans] == [["v0", "v1"], ["v0"], ["v0"]]
    assert block_bytes(plans[1], "v0") <= before / 2
    assert block_bytes(plans[2], "v0") <= before / 4
    texts = [event.text for event in heard if isinstance(event, Warned)]
    assert len(texts) == 2
    assert "no memory left" in texts[0]


def test_what_never_fits_is_given_up_with_the_numbers(plan: Plan) -> None:
    plans: list[Plan] = []
    outcomes: list[Outcome] = []
    run = tight_run(plans, lambda name, _: name == "v1")
    run_within_memory(plan, run, on_outcome=outcomes.append, listen=lambda _: None)
    assert len(plans) == 3
    (given_up,) = [one for one in outcomes if one.outcome == "quarantined"]
    assert "no memory left for a batch of 2 tiles. resources.memory_budget is 1024 MiB" in (
        given_up.reason
    )
    footprints = [str(one.planner.footprint(one.volumes["v0"])) for one in plans]
    assert ", then ".join(footprints) in given_up.reason


def test_what_cannot_be_cut_is_given_up_at_once(plan: Plan) -> None:
    plans: list[Plan] = []
    outcomes: list[Outcome] = []
    smallest = Plan(plan.planner, [])
    smallest.volumes["v0"] = plan.volumes["v0"]
    with suppress(MemoryBudgetError):
        while True:
            smaller = with_smaller_blocks(plan.planner, smallest.volumes["v0"])
            smallest.volumes["v0"] = smaller
    run = tight_run(plans, lambda name, _: name == "v1")
    run_within_memory(smallest, run, on_outcome=outcomes.append, listen=lambda _: None)
    assert len(plans) == 1
    (given_up,) = outcomes
    assert "they cannot be halved: a volume of 120x40x40 voxels" in given_up.reason


class TightReplica(Replica):
    """A Replica on a machine with memory for Blocks of few voxels: of `v1` for none at all."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        begin = partial(begin_if_small, self._predictor._begin)
        self._predictor._begin = begin  # type: ignore[method-assign]


def begin_if_small(begin: Any, order: Any, *rest: Any) -> Any:
    most = 100_000 if order.volume_id == "v0" else 0
    if order.layout.input_box(order.block).num_voxels > most:
        raise MemoryError
    return begin(order, *rest)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_job_ends_the_same_in_smaller_blocks(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(spec_for(archive, tmp_path, "plain"))
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr("unet_batch.inference.pool.Replica", TightReplica)
    summary = segment(spec_for(archive, tmp_path))
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert (summary.done, list(summary.quarantined)) == (1, ["v1"])
    assert "no memory left for the voxels of a Block" in summary.quarantined["v1"]
    assert "Blocks predicted to take" in summary.quarantined["v1"]
    assert any("'v0'" in text for text in summary.warnings)
    labels = archive["v0"].labels
    expected = labels["plain"].array.compute()
    np.testing.assert_array_equal(labels["net"].array.compute(), expected)

"""Injected faults: the Labels end byte for byte as in an undisturbed run, nothing lost or twice.

Run by `.ci/soak`, which prints the table of what happened; too slow for every change.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from unet_batch.errors import ConflictError, UnetBatchError
from unet_batch.inference import driver
from unet_batch.inference.references import ArrayRef
from unet_batch.inference.workforce import RayWorkforce
from unet_batch.monitoring.events import Event, ReplicaLost, StageTimed, VolumeFinished
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage import who
from unet_batch.storage.archive import open_archive
from unet_batch.workflows import segment as segment_module
from unet_batch.workflows.job_run import JobRun
from unet_batch.workflows.segment import segment

from .faulty_store import FaultyProxy
from .undisturbed import Undisturbed, copy_archive, digests, measured, tell

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def is_as_undisturbed(spec: SegmentSpec, undisturbed: Undisturbed) -> bool:
    """All Labels equal, and every Volume with one outcome in the Ledger."""
    archive = open_archive(spec.archive)
    return digests(archive) == undisturbed.expected


def entries(spec: SegmentSpec, job: str) -> dict[str, str]:
    found = open_archive(spec.archive).ledger(job).entries()
    return {name: entry.outcome for name, entry in found.items()}


class KillEachSecondCall:
    """A Listener that kills a Replica at every second call, `times` in all."""

    def __init__(self, times: int) -> None:
        self.left, self.calls, self.lost, self.done = times, 0, 0, Counter[str]()

    def __call__(self, event: Event) -> None:
        self.lost += isinstance(event, ReplicaLost)
        if isinstance(event, VolumeFinished):
            self.done[event.volume_id] += event.outcome == "done"
        if isinstance(event, StageTimed) and event.stage == "predict":
            self.calls += 1
            if self.left and self.calls % 2 == 0:
                self.left -= kill_a_replica()


def kill_a_replica() -> bool:
    for process in psutil.Process().children(recursive=True):
        if any(part.startswith("ray::Replica") for part in process.cmdline()):
            process.kill()
            return True
    return False


def test_killed_replicas(undisturbed: Undisturbed, fresh: SegmentSpec) -> None:
    listen = KillEachSecondCall(3)
    with measured(undisturbed) as lost_s:
        summary = segment(fresh, listen=listen)
        again = summary.tiles_predicted - summary.tiles_planned
        tell("a Replica killed, three times", "replaced", f"{again} tiles again", lost_s())
    assert listen.lost == 3
    assert set(listen.done.values()) == {1}
    assert is_as_undisturbed(fresh, undisturbed)


class PoisonedWorkforce(RayWorkforce):
    """One Volume ends the process of every Replica whose turn it is to predict it."""

    poison = ""

    def predict(self, actor: Any, orders: Any, inputs: Any) -> Any:
        if all(order.volume_id != self.poison for order in orders):
            return super().predict(actor, orders, inputs)
        num_cells = sum(len(order.layout.cells(order.block)) for order in orders)
        die = actor.__ray_call__.options(num_returns=1 + num_cells)
        report, *cells = die.remote(lambda _: os._exit(1))
        return report, [ArrayRef(one) for one in cells]


@pytest.mark.parametrize("poison", ["v000", "v005"])  # of many Blocks; in a pack
def test_a_poison_volume(
    undisturbed: Undisturbed, fresh: SegmentSpec, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    monkeypatch.setattr(PoisonedWorkforce, "poison", poison)
    monkeypatch.setattr(driver, "RayWorkforce", PoisonedWorkforce)
    spec = fresh.model_copy(
        update={"resources": fresh.resources.model_copy(update={"max_attempts": 2})}
    )
    with measured(undisturbed) as lost_s:
        summary = segment(spec)
        what = "a poison volume" + (" in a pack" if poison == "v005" else "")
        tell(what, "quarantined after bounded retries, the others done", "it alone", lost_s())
    assert set(summary.quarantined) == {poison}
    assert "2 Replicas died on it" in summary.quarantined[poison]
    others = {name: one for name, one in undisturbed.expected.items() if name != poison}
    assert digests(open_archive(fresh.archive)) == others


def test_a_corrupt_chunk(undisturbed: Undisturbed, fresh: SegmentSpec) -> None:
    shard = next((Path(fresh.archive) / "volumes" / "v004").rglob("c.0.0.0.0"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1  # one bit
    shard.write_bytes(content)
    summary = segment(fresh)
    assert set(summary.quarantined) == {"v004"}
    assert "reading failed" in summary.quarantined["v004"]
    others = {name: one for name, one in undisturbed.expected.items() if name != "v004"}
    assert digests(open_archive(fresh.archive)) == others
    tell("one bit of a Chunk flipped", "quarantined, the others done", "it alone")


def test_the_object_store_is_full(undisturbed: Undisturbed, fresh: SegmentSpec) -> None:
    hog = [ray.put(np.ones(40 * 2**20, np.uint8)) for _ in range(9)]  # of 400 MiB
    with measured(undisturbed) as lost_s:
        summary = segment(fresh)
        tell("Ray's object store full", "spilled to disk", "nothing", lost_s())
    assert (summary.done, summary.quarantined) == (11, {})
    assert is_as_undisturbed(fresh, undisturbed)
    assert all(ray.get(one)[0] == 1 for one in hog)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_disk_is_full(undisturbed: Undisturbed, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "200m") as disk:
        copy_archive(str(undisturbed.clean), str(disk / "archive"))
        spec = undisturbed.spec.model_copy(update={"archive": str(disk / "archive")})
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        (disk / "other").write_bytes(bytes(free - 150_000))
        happened = run_out_of_room(spec)
        shown = digests(open_archive(spec.archive))
        visible = {name: one for name, one in shown.items() if is_published(spec, name)}
        assert visible.items() <= undisturbed.expected.items()
        (disk / "other").unlink()
        summary = segment(spec)
        assert summary.done + summary.skipped == 11
        assert is_as_undisturbed(spec, undisturbed)
    tell("the disk full", f"{happened}; with room again the same command went on", "nothing")


def run_out_of_room(spec: SegmentSpec) -> str:
    """What a run says that finds no room."""
    try:
        reasons = segment(spec).quarantined
        happened = f"{len(reasons)} of 11 quarantined with the reason"
    except UnetBatchError as error:
        reasons, happened = {"the Job": str(error)}, "the Job ended with the reason"
    assert reasons
    assert all("space" in reason for reason in reasons.values())
    return happened


def is_published(spec: SegmentSpec, volume_id: str) -> bool:
    return "net" in open_archive(spec.archive)[volume_id].labels


def test_a_store_that_fails(undisturbed: Undisturbed, faulty_s3: FaultyProxy) -> None:
    url = "s3://archives/chaos"
    copy_archive(str(undisturbed.clean), url)
    spec = undisturbed.spec.model_copy(update={"archive": url})
    faulty_s3.share = 0.1
    try:
        with measured(undisturbed) as lost_s:
            summary = segment(spec)
            seconds = lost_s()
    finally:
        faulty_s3.share = 0.0
    faults = ", ".join(f"{kind} {number}" for kind, number in sorted(faulty_s3.faults.items()))
    assert sum(faulty_s3.faults.values()) >= 10
    assert summary.quarantined == {}
    assert digests(open_archive(url)) == undisturbed.expected
    assert set(entries(spec, summary.job).values()) == {"done"}
    tell(
        f"a tenth of {faulty_s3.requests} requests to S3 spoilt ({faults})",
        "tried again",
        "nothing",
        seconds,
    )


def test_two_drivers_of_one_job(undisturbed: Undisturbed, fresh: SegmentSpec) -> None:
    with JobRun("segment", fresh) as run:
        with pytest.raises(ConflictError, match="held by another run"), JobRun("segment", fresh):
            raise AssertionError("two drivers hold one Job")
        summary = segment(fresh, listen=run)
    assert summary.done == 11
    assert is_as_undisturbed(fresh, undisturbed)
    tell("two drivers of one Job", "the second was refused, and told who has it", "nothing")


class Backwards(datetime):
    """A clock that is an hour further back at every look."""

    looks = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        cls.looks += 1
        return datetime.now(tz) - timedelta(hours=cls.looks)


def test_the_clock_steps_back(
    undisturbed: Undisturbed, fresh: SegmentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (segment_module, who):
        monkeypatch.setattr(module, "datetime", Backwards)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with JobRun("segment", fresh) as run:
        summary = segment(fresh, listen=run)
    again = segment(fresh)
    monkeypatch.undo()
    assert Backwards.looks > 11
    assert (summary.done, again.skipped, summary.quarantined) == (11, 11, {})
    assert is_as_undisturbed(fresh, undisturbed)
    tell("the clock an hour back at every look", "nothing: no decision asks it", "nothing")

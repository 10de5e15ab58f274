"""A cluster of three Ray nodes on this machine: nodes and drivers die, nodes come and go."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unet_batch.planning.specs.segment import ReplicaRange, SegmentSpec
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.soak import labels_digests, remove_labels
from unet_batch.workflows.soak_cluster import HurtCluster
from unet_batch.workflows.soak_job import make_job

from .undisturbed import tell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 400.0


class Driver:
    """A driver in a process of its own, and what it told so far."""

    def __init__(self, spec: SegmentSpec, address: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.events, log = folder / "events.jsonl", folder / "driver.log"
        (folder / "spec.json").write_text(spec.model_dump_json())
        module = ["-m", "unet_batch.workflows.soak_driver"]
        arguments = [str(folder / "spec.json"), address, str(self.events)]
        self.started = time.monotonic()
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *module, *arguments], stdout=out, stderr=out
            )

    def told(self) -> list[dict[str, Any]]:
        if not self.events.exists():
            return []
        return [json.loads(line) for line in self.events.read_text().splitlines()]

    @property
    def job(self) -> str:
        """The id of the Job that has ended."""
        return str(self.told()[-1]["ended"])

    def wait_for_tiles(self, number: int) -> None:
        """Until so many tiles are predicted."""
        while sum(one.get("tiles", 0) for one in self.told()) < number:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < self.started + PATIENCE_S
            time.sleep(0.05)

    def end(self) -> float:
        """Seconds that it took; it must end well."""
        assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()[-3000:]
        return time.monotonic() - self.started

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def outcomes(told: list[dict[str, Any]]) -> Counter[str]:
    return Counter(str(one["outcome"]) for one in told if "outcome" in one)


@pytest.fixture(scope="module")
def cluster() -> Iterator[HurtCluster]:
    with HurtCluster(3) as cluster:
        yield cluster


class Place:
    """The small Job on the cluster, and how it ends when nothing happens."""

    def __init__(self, cluster: HurtCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        spec = make_job(folder, num_large=4, num_small=20)
        resources = spec.resources.model_copy(
            update={"replicas": ReplicaRange(min=1, max=3), "cpus_per_replica": 1}
        )
        self.spec = spec.model_copy(update={"resources": resources})
        first = Driver(self.spec, cluster.address, folder / "first")
        self.seconds = first.end()
        self.tiles = sum(one.get("tiles", 0) for one in first.told())
        self.expected = labels_digests(self.spec)
        assert outcomes(first.told()) == {"done": 24}

    def fresh(self, name: str) -> Driver:
        remove_labels(self.spec)
        return Driver(self.spec, self.cluster.address, self.folder / name)

    def check(self, drivers: list[Driver]) -> int:
        """Nothing lost, nothing twice, all equal; tiles predicted again."""
        told = [one for driver in drivers for one in driver.told()]
        done = Counter(str(one["volume"]) for one in told if one.get("outcome") == "done")
        assert {one["volume"] for one in told if "volume" in one} == set(self.expected)
        assert max(done.values()) == 1
        assert "quarantined" not in outcomes(told)
        assert labels_digests(self.spec) == self.expected
        return sum(one.get("tiles", 0) for one in told) - self.tiles


@pytest.fixture(scope="module")
def place(cluster: HurtCluster, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(cluster, tmp_path_factory.mktemp("cluster"))


def test_a_node_is_killed(place: Place) -> None:
    driver = place.fresh("node")
    driver.wait_for_tiles(place.tiles // 2)
    assert place.cluster.kill("node", random.Random(0))
    seconds = driver.end()
    again = place.check([driver])
    lost = seconds - place.seconds
    tell("a whole node killed halfway", "went on with two", f"{again} tiles again", lost)
    place.cluster.add_node()


def test_the_driver_is_killed(place: Place) -> None:
    first = place.fresh("driver-1")
    first.wait_for_tiles(place.tiles // 2)
    first.kill()
    second = Driver(place.spec, place.cluster.address, place.folder / "driver-2")
    seconds = time.monotonic() - first.started + second.end()
    again = place.check([first, second])
    lost = seconds - place.seconds
    told = "the same command went on"
    tell("the driver killed halfway", told, f"{again} tiles again", lost)


def test_replicas_come_with_the_nodes_that_are_added(place: Place, tmp_path: Path) -> None:
    job = make_job(tmp_path, num_large=24, num_small=0)
    often = job.inference.model_copy(update={"overlap": 0.75})  # so that nodes come meanwhile
    job = job.model_copy(update={"resources": place.spec.resources, "inference": often})
    for seed in range(2):
        assert place.cluster.kill("node", random.Random(seed))
    driver = Driver(job, place.cluster.address, tmp_path / "growing")
    driver.wait_for_tiles(1)
    place.cluster.add_node()
    place.cluster.add_node()
    seconds, grown = driver.end(), labels_digests(job)
    entries = open_archive(job.archive).ledger(driver.job).entries().values()
    nodes = {node for entry in entries for node in entry.node.split(",")}
    assert len(nodes) > 1
    remove_labels(job)
    lost = seconds - Driver(job, place.cluster.address, tmp_path / "three").end()
    assert grown == labels_digests(job)
    told = f"begun on one, ended on {len(nodes)}"
    tell("two nodes added to one", told, "nothing: equal to a run on three", lost)


def folders_of_scans(scans: Path) -> Iterator[Path]:
    """Where masks have folders of their own, only those of images."""
    for folder in sorted(scans.iterdir()):
        if folder.is_dir() and folder.name != "LICENSES":
            yield from sorted(folder.rglob("images")) or [folder]


def test_all_real_scans_with_a_node_killed_halfway(
    cluster: HurtCluster, place: Place, scans: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    archive = str(tmp_path / "archive")
    main = "from unet_batch.cli.app import main; main()"
    folders = [str(one) for one in folders_of_scans(scans)]
    subprocess.run(
        [sys.executable, "-c", main, "ingest", *folders, "--archive", archive],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        check=False,  # some of the scans are broken on purpose
        capture_output=True,
    )
    number = len(open_archive(archive).select(("*",)))
    ingest_s = time.monotonic() - started
    spec = place.spec.model_copy(
        update={
            "archive": archive,
            "inference": place.spec.inference.model_copy(update={"overlap": 0.25}),
            "resources": place.spec.resources.model_copy(update={"memory_budget": 2**28}),
        }
    )
    first = Driver(spec, cluster.address, tmp_path / "first")
    undisturbed_s = first.end()
    expected, before = labels_digests(spec), outcomes(first.told())
    tiles = sum(one.get("tiles", 0) for one in first.told())
    remove_labels(spec)
    driver = Driver(spec, cluster.address, tmp_path / "second")
    driver.wait_for_tiles(tiles // 2)
    assert cluster.kill("node", random.Random(1))
    seconds = driver.end()
    again = sum(one.get("tiles", 0) for one in driver.told()) - tiles
    assert labels_digests(spec) == expected
    assert outcomes(driver.told()) == before
    assert sum(before.values()) == number > 100
    what = f"all real scans ({number} Volumes, {tiles} tiles), a node of three killed halfway"
    ended = ", ".join(f"{n} {outcome}" for outcome, n in sorted(before.items()))
    told = f"as undisturbed: {ended}; ingest {ingest_s:.0f} s, then {undisturbed_s:.0f} s"
    tell(what, told, f"{again} tiles again", seconds - undisturbed_s)
    cluster.add_node()

"""Soak: a segment Job that is hurt at random for a given time, and must end as if it were not.

    undisturbed ──> Labels, byte for byte
    round 1, 2 ...: the same Job from nothing, while Replicas, workers, drivers and whole nodes
                    are killed by a seeded plan; a killed driver is started again
    after each: the same bytes, every Volume accounted for, none done twice

It runs on a Ray cluster of its own, of several nodes on this machine, and kills only what it
started. Labels are made under a name of their own (`soak-...`), and are removed at the end with
the Job's Ledger.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unet_batch.errors import ReplicaError
from unet_batch.planning.specs.kinds import job_id
from unet_batch.planning.specs.segment import ReplicaRange, SegmentSpec
from unet_batch.storage import paths
from unet_batch.storage.stores import open_store
from unet_batch.workflows.segment_job import SegmentJob
from unet_batch.workflows.soak_cluster import HurtCluster, KillKind

Kind = KillKind | Literal["driver"]

WEIGHTS: dict[Kind, int] = {"replica": 5, "worker": 4, "driver": 1, "node": 1}
"""How often each kind is chosen, of all."""

MANY_ATTEMPTS = 1000  # kills are the soak's doing: no Block is to blame
LOOK_S = 0.1
NODE_GONE_S = 3.0
"""After a kill until a node that was lost is replaced, as an autoscaler would."""

ROUND_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class SoakSummary:
    """The tally of a soak.

    `kills` by kind; `rounds` Jobs run to their end while being hurt, `volumes_done` in all of
    them. `tiles_again` were predicted more than once, of `tiles_planned`. `differing` names the
    Volumes whose Labels were not those of the undisturbed run, `lost` those without an outcome,
    `twice` those done more than once, `quarantined` those given up. `undisturbed_s` is the time
    of the Job when nothing was killed, `round_s` that of each round.
    """

    seed: int
    seconds: float
    kills: dict[str, int]
    rounds: int
    volumes_done: int
    tiles_planned: int
    tiles_again: int
    undisturbed_s: float
    round_s: tuple[float, ...]
    differing: tuple[str, ...]
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    quarantined: dict[str, str]

    @property
    def is_sound(self) -> bool:
        """Whether all ended as in the undisturbed run."""
        return not (self.differing or self.lost or self.twice or self.quarantined)


def soak(
    spec: SegmentSpec,
    *,
    minutes: float,
    seed: int = 0,
    num_nodes: int = 2,
    mean_pause_s: float = 4.0,
) -> SoakSummary:
    """Hurt the Job of `spec` for `minutes`, and let its last round end in peace.

    The plan of kills, which kind and after what pause, is drawn from `seed`. Raises what
    `segment` raises where the Job cannot begin, and ReplicaError where a round does not end.
    """
    spec = _own(spec, num_nodes)
    chance = random.Random(seed)  # noqa: S311 (it chooses victims, not secrets)
    with (
        tempfile.TemporaryDirectory(prefix="unet-batch-soak-") as folder,
        HurtCluster(num_nodes) as cluster,
        _labels_of_its_own(spec),
    ):
        run = _Soak(spec, cluster, Path(folder), chance, mean_pause_s, num_nodes)
        return run.tally(60 * minutes, seed)


def _own(spec: SegmentSpec, num_nodes: int) -> SegmentSpec:
    """The same Job under Labels of its own, that no kill can make give up a Block."""
    means: dict[str, object] = {"max_attempts": MANY_ATTEMPTS, "cpus_per_replica": 1}
    if spec.resources.replicas == "auto":
        means["replicas"] = ReplicaRange(min=1, max=num_nodes)
    changes = {
        "labels": f"soak-{spec.labels}",
        "resources": spec.resources.model_copy(update=means),
        "truth": None,
    }
    return spec.model_copy(update=changes)


@contextmanager
def _labels_of_its_own(spec: SegmentSpec) -> Iterator[None]:
    try:
        yield
    finally:
        remove_labels(spec)
        job = SegmentJob.open(spec)
        for one in {job.id, job_id("segment", spec)}:
            open_store(job.archive.url).delete_folder(paths.job_path(one))


@dataclass(slots=True)
class _Round:
    """What the drivers of one round told."""

    tiles: int = 0
    planned: int = 0
    done: Counter[str] = field(default_factory=Counter)
    accounted: set[str] = field(default_factory=set)
    quarantined: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Round:
        """Of a file of events; a driver that was killed may have left half a line."""
        found = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(json.JSONDecodeError):
                found.add(json.loads(line))
        return found

    def add(self, fields: dict[str, object]) -> None:
        """Count one line."""
        self.tiles += int(str(fields.get("tiles", 0)))
        self.planned = max(self.planned, int(str(fields.get("planned", 0))))
        volume, outcome = str(fields.get("volume", "")), fields.get("outcome")
        if volume:
            self.accounted.add(volume)
            self.done[volume] += outcome == "done"
        if outcome == "quarantined":
            self.quarantined[volume] = str(fields["reason"])


class _Soak:
    """Rounds of one Job, and what is killed meanwhile."""

    def __init__(
        self,
        spec: SegmentSpec,
        cluster: HurtCluster,
        folder: Path,
        chance: random.Random,
        mean_pause_s: float,
        num_nodes: int,
    ) -> None:
        self._spec, self._cluster, self._folder = spec, cluster, folder
        self._chance, self._mean_pause_s, self._num_nodes = chance, mean_pause_s, num_nodes
        self._kills: Counter[str] = Counter()
        self._driver: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._node_at = 0.0
        self._next = self._draw()
        self._spec_path = folder / "spec.json"
        self._spec_path.write_text(spec.model_dump_json())

    def tally(self, seconds: float, seed: int) -> SoakSummary:
        """The undisturbed run, then rounds until the time is over."""
        try:
            began = time.monotonic()
            first = self._round(hurt_until=0.0)
            undisturbed_s = time.monotonic() - began
            expected = labels_digests(self._spec)
            return self._rounds(seconds, seed, first, undisturbed_s, expected)
        finally:
            if self._driver is not None:
                self._kill_driver()

    def _rounds(
        self,
        seconds: float,
        seed: int,
        first: _Round,
        undisturbed_s: float,
        expected: dict[str, str],
    ) -> SoakSummary:
        until = time.monotonic() + seconds
        began = time.monotonic()
        rounds: list[_Round] = []
        times: list[float] = []
        differing: set[str] = set()
        while time.monotonic() < until:
            remove_labels(self._spec)
            started = time.monotonic()
            rounds.append(self._round(hurt_until=until))
            times.append(time.monotonic() - started)
            found = labels_digests(self._spec)
            differing |= {one for one in expected if found.get(one) != expected[one]}
        return SoakSummary(
            seed=seed,
            seconds=time.monotonic() - began,
            kills=dict(self._kills),
            rounds=len(rounds),
            volumes_done=sum(len(one.accounted) for one in rounds),
            tiles_planned=first.planned * len(rounds),
            tiles_again=sum(one.tiles for one in rounds) - first.tiles * len(rounds),
            undisturbed_s=undisturbed_s,
            round_s=tuple(times),
            differing=tuple(sorted(differing)),
            lost=tuple(sorted({v for one in rounds for v in expected if v not in one.accounted})),
            twice=tuple(sorted({v for one in rounds for v, n in one.done.items() if n > 1})),
            quarantined={v: why for one in rounds for v, why in one.quarantined.items()},
        )

    # ---- one round ------------------------------------------------------------------------

    def _round(self, *, hurt_until: float) -> _Round:
        """The Job to its end; what is killed comes again."""
        self._number += 1
        events = self._folder / f"round-{self._number}.jsonl"
        limit = max(hurt_until, time.monotonic()) + ROUND_LIMIT_S
        next_kill = time.monotonic() + self._pause()
        self._start_driver(events)
        while self._driver_runs(events):
            if time.monotonic() > limit:
                raise ReplicaError(
                    f"round {self._number} of the soak has not ended {ROUND_LIMIT_S:.0f} s after"
                    f" the last kill; its driver's last words: {self._last_words()}"
                )
            if next_kill < time.monotonic() < hurt_until and self._kill(self._next):
                self._next = self._draw()
                next_kill = time.monotonic() + self._pause()
            if self._cluster.num_nodes < self._num_nodes and time.monotonic() > self._node_at:
                self._cluster.add_node()
            time.sleep(LOOK_S)
        return _Round.read(events)

    def _pause(self) -> float:
        return self._chance.expovariate(1 / self._mean_pause_s)

    def _draw(self) -> Kind:
        kinds = list(WEIGHTS)
        (kind,) = self._chance.choices(kinds, [WEIGHTS[one] for one in kinds])
        return kind

    def _kill(self, kind: Kind) -> bool:
        """Kill one of a kind; False where there is none yet: it is waited for."""
        if kind == "driver":
            is_killed = self._kill_driver()
        else:
            is_killed = self._cluster.kill(kind, self._chance)
        self._kills[kind] += is_killed
        if is_killed and kind == "node":
            self._node_at = time.monotonic() + NODE_GONE_S
        return is_killed

    # ---- the driver -----------------------------------------------------------------------

    def _start_driver(self, events: Path) -> None:
        module = "unet_batch.workflows.soak_driver"
        command = [sys.executable, "-m", module, str(self._spec_path), self._cluster.address]
        with (self._folder / "driver.log").open("ab") as log:
            self._driver = subprocess.Popen(  # noqa: S603 (our own module, our own paths)
                [*command, str(events)], stdout=log, stderr=log
            )

    def _driver_runs(self, events: Path) -> bool:
        """Whether the Job goes on; a driver that was killed is started again."""
        if self._driver is None:
            self._start_driver(events)
            return True
        status = self._driver.poll()
        if status is None:
            return True
        self._driver = None
        if status == 0:
            return False
        raise ReplicaError(
            f"the soak's driver ended with status {status}, though nobody killed it:"
            f" {self._last_words()}"
        )

    def _kill_driver(self) -> bool:
        driver, self._driver = self._driver, None
        if driver is None or driver.poll() is not None:
            self._driver = driver
            return False
        driver.kill()
        driver.wait()
        return True

    def _last_words(self) -> str:
        log = self._folder / "driver.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " | ".join(lines[-5:])


# ---- what is compared ---------------------------------------------------------------------


def labels_digests(spec: SegmentSpec) -> dict[str, str]:
    """A digest of every object of each Volume's Labels, names and bytes, by Volume."""
    job = SegmentJob.open(spec)
    store = open_store(job.archive.url)
    digests = {}
    for info in job.infos:
        digest = hashlib.sha256()
        for name in job.labels_classes:
            for path in store.list_objects(paths.labels_path(info.id, name)):
                digest.update(path.encode() + b"\0" + store.get(path))
        digests[info.id] = digest.hexdigest()
    return digests


def remove_labels(spec: SegmentSpec) -> None:
    """Remove the soak's Labels of all Volumes."""
    job = SegmentJob.open(spec)
    store = open_store(job.archive.url)
    for info in job.infos:
        for name in job.labels_classes:
            store.delete_folder(paths.labels_path(info.id, name))

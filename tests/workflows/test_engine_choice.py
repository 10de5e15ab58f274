"""The Engine is measured once, by a Replica, and kept with the Job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from unet_batch.inference.choosing import EngineChoice, EngineKind
from unet_batch.planning.cost import CPU_PACE, ModelCost
from unet_batch.planning.specs.segment import InferenceSpec
from unet_batch.storage.archive import open_archive
from unet_batch.storage.ledger import Ledger
from unet_batch.workflows import engine_choice
from unet_batch.workflows.engine_choice import (
    MEASURE_FROM_S,
    MEASURING_BYTES,
    known_engine,
    settle_engine,
)

PLANNER = SimpleNamespace(pace=CPU_PACE)
LONG, SHORT = (
    SimpleNamespace(num_tiles=number, planner=PLANNER)
    for number in (int(MEASURE_FROM_S), int(MEASURE_FROM_S) - 1)
)
A_SECOND_A_TILE = ModelCost(1, 2, 2**20, 2**20, tile_flops=CPU_PACE.flops_per_second)
ENOUGH = MEASURING_BYTES + 2 * 2**20


class Pool:
    """A pool whose Replica finds `finds`, or dies of it."""

    def __init__(self, finds: EngineChoice | Exception, num_gpus: float = 0) -> None:
        self.size = SimpleNamespace(num_gpus=num_gpus)
        self._finds, self.asked, self.used = finds, 0, list[EngineKind]()

    def start_all(self) -> list[tuple[str, None]]:
        return [("replica-0", None)]

    def actor(self, name: str) -> Any:
        assert name == "replica-0"
        return SimpleNamespace(choose_engine=SimpleNamespace(remote=self._choose))

    def _choose(self) -> EngineChoice | Exception:
        self.asked += 1
        return self._finds

    def use_engine(self, kind: EngineKind) -> None:
        self.used.append(kind)


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(found: EngineChoice | Exception) -> EngineChoice:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(engine_choice.ray, "get", get)
    monkeypatch.setattr(engine_choice, "has_openvino", lambda: True)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_archive(tmp_path / "archive", create=True).ledger("job") as ledger:
        yield ledger


def job(weights: str = "w1", memory_budget: int = ENOUGH, **inference: Any) -> Any:
    spec = SimpleNamespace(
        inference=InferenceSpec.model_validate(inference),
        resources=SimpleNamespace(memory_budget=memory_budget),
    )
    return SimpleNamespace(spec=spec, model_hash=weights, model_cost=lambda: A_SECOND_A_TILE)


def settle(pool: Pool, ledger: Ledger, plan: Any = LONG, one: Any = None) -> EngineChoice:
    return settle_engine(one or job(), plan, pool, ledger)  # type: ignore[arg-type]


def test_what_is_faster_is_used_and_kept_for_these_weights(ledger: Ledger) -> None:
    found = EngineChoice("openvino", {"torch": 2.0, "openvino": 1.0})
    first, again, other = Pool(found), Pool(found), Pool(EngineChoice("torch", {}))
    assert settle(first, ledger) == found
    assert (first.asked, first.used) == (1, ["openvino"])
    assert settle(again, ledger).reason == "openvino: not measured (as this Job began)"
    assert (again.asked, known_engine(job(), ledger)) == (0, "openvino")
    assert settle(other, ledger, one=job("w2")).kind == "torch"
    assert other.asked == 1


def test_a_short_job_measures_nothing(ledger: Ledger) -> None:
    pool = Pool(EngineChoice("openvino", {}))
    short = "torch: not measured (a Job of less than about 30 s)"
    assert settle(pool, ledger, SHORT).reason == short
    assert (pool.asked, pool.used) == (0, ["torch"])


def test_what_has_no_room_to_be_measured_is_not(ledger: Ledger) -> None:
    pool, tight = Pool(EngineChoice("openvino", {})), job(memory_budget=ENOUGH - 1)
    expected = (
        "torch: not measured (resources.memory_budget is 1025 MiB, to time OpenVINO as well may"
        " take 1026)"
    )
    assert settle(pool, ledger, one=tight).reason == expected
    assert (pool.asked, pool.used) == (0, ["torch"])


def test_where_there_is_no_openvino_none_needs_room(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "has_openvino", lambda: False)
    pool = Pool(EngineChoice("torch"))
    settled = settle(pool, ledger, one=job(memory_budget=ENOUGH - 1))
    assert settled.reason == "torch: not measured (the only one here)"


def test_memory_of_the_host_is_nothing_to_a_gpu(ledger: Ledger) -> None:
    pool = Pool(EngineChoice("cuda_graph", {"torch": 2.0, "cuda_graph": 1.0}), num_gpus=1)
    assert settle(pool, ledger, one=job(memory_budget=1)).kind == "cuda_graph"
    assert pool.asked == 1


def test_what_the_spec_names_is_used_unmeasured(ledger: Ledger) -> None:
    pool = Pool(EngineChoice("torch", {}))
    one = job(engine="openvino")
    assert known_engine(one, ledger) == "openvino"
    assert settle(pool, ledger, one=one).kind == "openvino"
    assert (pool.asked, ledger.decision("engine")) == (0, None)


def test_a_replica_that_cannot_measure_leaves_torch(ledger: Ledger) -> None:
    choice = settle(Pool(RayActorError()), ledger)
    assert choice.kind == "torch"
    assert choice.reason.startswith("torch: not measured (measuring failed: The actor ")

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
from unet_batch.workflows.engine_choice import MEASURE_FROM_S, known_engine, settle_engine

PLANNER = SimpleNamespace(pace=CPU_PACE)
LONG, SHORT = (
    SimpleNamespace(num_tiles=number, planner=PLANNER)
    for number in (int(MEASURE_FROM_S), int(MEASURE_FROM_S) - 1)
)
A_SECOND_A_TILE = ModelCost(1, 2, tile_flops=CPU_PACE.flops_per_second)


class Pool:
    """A pool whose Replica finds `finds`, or dies of it."""

    def __init__(self, finds: EngineChoice | Exception) -> None:
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


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_archive(tmp_path / "archive", create=True).ledger("job") as ledger:
        yield ledger


def job(weights: str = "w1", **inference: Any) -> Any:
    spec = SimpleNamespace(inference=InferenceSpec.model_validate(inference))
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

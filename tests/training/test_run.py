from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unet_batch.errors import SpecError
from unet_batch.planning.specs.recipe import TrainResourceSpec
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.storage.archive import Archive
from unet_batch.training import run
from unet_batch.training.run import cpus_per_worker, scaling_config
from unet_batch.training.task import plan_training


def nodes(*cpus: int) -> list[dict[str, object]]:
    return [{"Alive": True, "Resources": {"CPU": float(one)}} for one in cpus]


@pytest.mark.parametrize(
    ("workers", "cpus", "share"),
    [(1, (2,), 2), (2, (4,), 2), (1, (4, 8), 8), (4, (8, 8), 4), (2, (3,), 1)],
)
def test_auto_shares_the_cpus_evenly(workers: int, cpus: tuple[int, ...], share: int) -> None:
    assert cpus_per_worker(TrainResourceSpec(workers=workers), nodes(*cpus)) == share


def test_dead_nodes_do_not_count() -> None:
    dead = {"Alive": False, "Resources": {"CPU": 64.0}}
    assert cpus_per_worker(TrainResourceSpec(), [*nodes(2), dead]) == 2


@pytest.mark.parametrize(("workers", "wish"), [(3, 2), (1, 8), (5, "auto")])
def test_workers_that_fit_nowhere_are_refused(workers: int, wish: object) -> None:
    resources = TrainResourceSpec.model_validate({"workers": workers, "cpus_per_worker": wish})
    with pytest.raises(SpecError, match="do not fit"):
        cpus_per_worker(resources, nodes(4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_a_range_of_workers_is_elastic_to_ray_train() -> None:
    fixed = scaling_config(TrainResourceSpec(workers=2), 3)
    assert (fixed.num_workers, fixed.resources_per_worker) == (2, {"CPU": 3})
    elastic = TrainResourceSpec.model_validate(
        {"workers": {"min": 1, "max": 4}, "gpus_per_worker": 1}
    )
    config = scaling_config(elastic, 2)
    assert config.elasticity_enabled
    assert (config.min_workers, config.max_workers) == (1, 4)
    assert config.resources_per_worker == {"CPU": 2, "GPU": 1}


def test_where_workers_come_and_go_the_fewest_have_to_fit() -> None:
    resources = TrainResourceSpec.model_validate({"workers": {"min": 1, "max": 3}})
    assert cpus_per_worker(resources, nodes(2)) == 1
    assert cpus_per_worker(resources, nodes(12)) == 4
    resources = TrainResourceSpec.model_validate({"workers": {"min": 3, "max": 4}})
    with pytest.raises(SpecError, match="3 workers of 1 CPUs do not fit"):
        cpus_per_worker(resources, nodes(2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_as_many_lost_workers_are_made_up_for_as_the_spec_says(
    cubes: Callable[..., Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = cubes()
    spec = TrainSpec.model_validate(
        {
            "archive": archive.url,
            "truth": "truth",
            "out": "unused",
            "roi": (8, 8, 8),
            "network": {"arguments": {"channels": [2, 4]}},
            "resources": {"max_failures": 7},
        }
    )
    monkeypatch.setattr(run.ray, "nodes", lambda: nodes(2))
    trainer = run._make_trainer(plan_training(archive, spec), iter, tmp_path, None)  # type: ignore[arg-type]
    assert trainer.run_config.failure_config is not None
    assert trainer.run_config.failure_config.max_failures == 7

"""Training on a real Ray: two workers, one of them killed on the way, end in a good Bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from unet_batch.errors import SpecError, TrainingError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.models.bundle import load_bundle
from unet_batch.monitoring.events import (
    Event,
    JobFinished,
    JobStarted,
    StoppedEarly,
    TrainStep,
    Validated,
    ignore,
)
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.recipe import TrainResourceSpec
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.training.run import TrainOutcome
from unet_batch.training.task import plan_training
from unet_batch.training.worker import History
from unet_batch.workflows.train import _segmenter, _write_bundle, train
from unet_batch.workflows.training_record import TrainingRecord

CLASSES = (LabelClass(0, "background"), LabelClass(4, "cube"))


def make_archive(folder: Path, num: int = 5) -> Archive:
    """Noisy scans with a bright cube of value 4."""
    archive = open_archive(folder, create=True)
    for number in range(num):
        random = np.random.default_rng(number)
        mask = np.zeros((16, 20, 16), np.uint8)
        mask[tuple(slice(a, a + 8) for a in random.integers(0, 9, 3))] = 4
        voxels = (100 + 200 * (mask > 0) + random.normal(0, 20, (1, *mask.shape))).astype(np.int16)
        scan = Scan(f"cube_{number}", voxels, np.eye(4), ("MR",))
        archive.write_scan(scan, source={})
        archive[scan.name].write_labels("truth", Mask(mask, np.eye(4), CLASSES), provenance={})
    return archive


def make_spec(archive: Archive, out: Path, **training: object) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "archive": archive.url,
            "truth": "truth",
            "out": str(out),
            "roi": (16, 16, 16),
            "network": {"arguments": {"channels": [8, 16], "num_res_units": 1}},
            "training": {"steps": 300, "batch_size": 2, "learning_rate": 0.01, "log_every": 1}
            | training,
            "resources": {"workers": 2, "cpus_per_worker": 1},
        }
    )


def has_checkpoint(folder: Path) -> bool:
    """Whether Ray Train's controller has taken note of a checkpoint."""
    return any(folder.rglob("checkpoint_manager_snapshot.json"))


def kill_a_train_worker() -> None:
    """Kill one worker process of the Ray that this test process started."""
    children = psutil.Process().children(recursive=True)
    workers = [one for one in children if "RayTrainWorker" in " ".join(one.cmdline())]
    workers[0].kill()


# Ray Train asks Ray Data for its settings, which warns about one of its own fields.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_two_workers_lose_one_and_end_with_a_good_bundle(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive")
    spec = make_spec(archive, tmp_path / "models" / "cube", checkpoint_every=50)
    events: list[Event] = []
    killed: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, TrainStep) and not killed and has_checkpoint(tmp_path):
            kill_a_train_worker()
            killed.append(event.step)
        events.append(event)

    summary = train(spec, listen=listen)

    steps = [one.step for one in events if isinstance(one, TrainStep)]
    restart = next(k for k in range(1, len(steps)) if steps[k] <= steps[k - 1])
    assert steps[restart] > 1, "it goes on from a checkpoint, not from the beginning"
    assert steps[restart] % 50 == 1
    assert steps[-1] == summary.num_steps == 300
    check_repeated_losses(events)
    assert [step for step, _ in summary.losses] == list(range(1, 301))
    assert isinstance(events[0], JobStarted)
    assert isinstance(events[-1], JobFinished)
    assert any(isinstance(one, Validated) and one.step == 300 for one in events)
    json.dumps(asdict(summary))
    check_bundle(archive, spec, summary.scores)
    assert not (tmp_path / "models" / ".cube.training").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_training_that_diverges_ends_on_both_workers_and_is_not_tried_again(
    tmp_path: Path,
) -> None:
    wild = {"optimizer": "sgd", "learning_rate": 1e30, "gradient_clip": 1e30}
    spec = make_spec(make_archive(tmp_path / "archive"), tmp_path / "cube", **wild)
    events: list[Event] = []
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step \d+: the training has diverged"
    ):
        train(spec, listen=events.append)
    steps = [one.step for one in events if isinstance(one, TrainStep)]
    assert steps == list(range(1, len(steps) + 1))
    assert not (tmp_path / "cube" / "configs").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_two_runs_of_two_workers_have_the_same_curve_and_weights(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive")
    curves, weights = [], []
    for name in ("once", "again"):
        spec = make_spec(archive, tmp_path / name, steps=80)
        curves.append(train(spec).losses)
        weights.append(load_bundle(tmp_path / name).network().state_dict())
    assert len(curves[0]) == 80
    assert curves[0] == curves[1]
    assert curves[0][0][1] > 2 * curves[0][-1][1]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def check_repeated_losses(events: list[Event]) -> None:
    """Steps done again after the restart have the very losses of the first time."""
    by_step: dict[int, set[float]] = {}
    told = [one for one in events if isinstance(one, TrainStep)]
    for one in told:
        by_step.setdefault(one.step, set()).add(one.loss)
    assert len(told) > len(by_step) == 300
    assert all(len(losses) == 1 for losses in by_step.values())


def check_bundle(archive: Archive, spec: TrainSpec, scores: dict[str, float]) -> None:
    """The Bundle says what it was made of, and found the cube in the scan held back from it."""
    bundle = load_bundle(spec.out)
    assert bundle.scores == scores
    assert scores["mean_dice"] == scores["dice.cube"] > 0.8
    assert 0 <= scores["hd95_mm.cube"] < 5
    assert 0.5 < scores["surface_dice.cube"] <= 1
    assert bundle.classes == CLASSES
    assert TrainSpec.model_validate(bundle.train_spec) == spec
    assert len(bundle.data_hashes) == 4
    assert {*bundle.data_hashes, *bundle.held_back_hashes} == set(archive)
    assert bundle.truth_keys == {one: archive[one].labels["truth"].key for one in archive}
    check_docs(Path(spec.out))


def check_docs(bundle: Path) -> None:
    """Curves of all steps, though a worker was lost on the way, and files for TensorBoard."""
    steps = (bundle / "docs" / "curves.csv").read_text().splitlines()
    assert len(steps) == 1 + 300
    assert steps[-1].startswith("300,")
    assert not steps[-1].endswith(",")  # the last step was validated
    assert "<polyline" in (bundle / "docs" / "curves.svg").read_text()
    assert "dice" in (bundle / "docs" / "scores.csv").read_text()
    assert [one.name for one in bundle.glob("logs/*/*tfevents*")] != []


def test_a_spec_that_does_not_fit_is_refused_before_any_work(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive", num=1)
    spec = make_spec(archive, tmp_path / "out").model_copy(update={"roi": (15, 16, 16)})
    with pytest.raises(SpecError, match="multiples of"):
        train(spec)
    assert not (tmp_path / "out").exists()


def test_the_bundle_keeps_the_grid_that_it_was_trained_on(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive")
    spec = make_spec(archive, tmp_path / "cube").model_copy(
        update={"grid": GridSpec(spacing_mm="median", orientation="LPS")}
    )
    task = plan_training(archive, spec)
    definition = task.network()
    network = definition.target(**definition.arguments)
    outcome = TrainOutcome(network.state_dict(), History(), 1)
    with TrainingRecord(spec, "cube", listen=ignore) as record:
        bundle = _write_bundle("cube", tmp_path / "cube", task, outcome, record)
    assert bundle.scores == {}
    card = (tmp_path / "cube" / "docs" / "README.md").read_text()
    assert "nothing is known of how good it is" in card
    assert bundle.grid == GridSpec(spacing_mm=(1, 1, 1), orientation="LPS")
    assert bundle.spacing_mm == (1, 1, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_as_many_workers_as_there_is_room_for_stop_early_with_overlapping_classes(
    tmp_path: Path,
) -> None:
    archive = make_archive(tmp_path / "archive")
    spec = make_spec(
        archive,
        tmp_path / "cube",
        validate_every=3,
        early_stopping=1,
        learning_rate=1e-12,  # nothing gets better
        steps=30,
    ).model_copy(
        update={
            "activation": "sigmoid",
            "regions": {"any": (4,), "cube": (4,)},
            "resources": TrainResourceSpec.model_validate(
                {"workers": {"min": 1, "max": 2}, "cpus_per_worker": 1}
            ),
        }
    )
    events: list[Event] = []
    summary = train(spec, listen=events.append)

    (stopped,) = [one for one in events if isinstance(one, StoppedEarly)]
    assert stopped.step == summary.num_steps < 30
    assert stopped.best_step == summary.best_step == summary.num_steps - 3
    bundle = load_bundle(spec.out)
    assert bundle.activation == "sigmoid"
    assert [(one.value, one.name) for one in bundle.classes] == [(1, "any"), (2, "cube")]
    assert {"dice.any", "dice.cube"} <= set(summary.scores)


def test_a_sigmoids_bundle_has_its_regions_for_classes(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive", num=2)
    changes = {"activation": "sigmoid", "regions": {"any": (4,), "cube": (4,)}}
    spec = make_spec(archive, tmp_path / "cube").model_copy(update=changes)
    task = plan_training(archive, spec)
    network = task.network()
    outcome = TrainOutcome(network.target(**network.arguments).state_dict(), History(), 1)
    with TrainingRecord(spec, "cube", listen=ignore) as record:
        bundle = _write_bundle("cube", tmp_path / "cube", task, outcome, record)
    assert bundle.activation == "sigmoid"
    assert [(one.value, one.name) for one in bundle.classes] == [(1, "any"), (2, "cube")]
    head = _segmenter(task).head
    assert (head.activation, head.class_values) == ("sigmoid", (1, 2))

"""What a training leaves beside the network: a card, curves, scores, and runs for other tools."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

from unet_batch.errors import SpecError
from unet_batch.evaluation.scores import Score
from unet_batch.models.bundle import BundleConfig
from unet_batch.monitoring.events import Event, TrainStep, Validated, ignore
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.workflows.training_record import (
    TrainingRecord,
    model_card,
    named_scores,
    summarise_scores,
)

DICE = (0.8, 0.9, None)


def spec_of(folder: Path, **fields: object) -> TrainSpec:
    return TrainSpec.model_validate(
        {"archive": "a", "truth": "t", "out": str(folder / "liver"), **fields}
    )


def config_of(spec: TrainSpec) -> BundleConfig:
    return BundleConfig(
        name="liver",
        network_name="residual_unet",
        channels=("CT",),
        roi=(64, 64, 64),
        classes=(LabelClass(0, "background"), LabelClass(1, "liver")),
        spacing_mm=(5.0, 0.8, 0.8),
        data_hashes={"a": "1", "b": "2"},
        train_spec=spec.model_dump(mode="json"),
    )


def scores() -> list[Score]:
    return [
        Score(f"v{k}", 1, "liver", dice, 1500, 1480, 9, 10, 10, 2.5, 0.75)
        for k, dice in enumerate(DICE)
    ]


def test_docs_hold_the_card_the_curves_and_the_scores(tmp_path: Path) -> None:
    spec, heard = spec_of(tmp_path), list[Event]()
    events = [TrainStep(1, 2, 1.5, 0.01, 0.2, 0.1), Validated(2, 0.85)]
    with TrainingRecord(spec, "liver", listen=heard.append) as record:
        for event in events:
            record(event)
        record.write(config_of(spec), "A net", scores(), losses=[(1, 1.5), (2, 1.25)], dice=[])
    docs = tmp_path / "liver" / "docs"
    assert heard == events
    assert (docs / "curves.csv").read_text().splitlines()[2] == "2,1.25,,,,0.85"
    assert "liver: residual_unet, 2 steps" in (docs / "curves.svg").read_text()
    rows = list(csv.DictReader((docs / "scores.csv").read_text().splitlines()))
    assert [row["dice"] for row in rows] == ["0.8", "0.9", ""]
    assert (docs / "README.md").read_text().startswith("# liver\n\nA net. It finds liver.")
    assert list((tmp_path / "liver" / "logs" / spec.digest()).iterdir())


def test_scores_have_names_and_intervals_and_leave_out_what_is_unknown(tmp_path: Path) -> None:
    found, intervals = named_scores(summarise_scores(scores(), spec_of(tmp_path)))
    assert found["mean_dice"] == found["dice.liver"] == pytest.approx(0.85)
    assert found["hd95_mm.liver"] == 2.5
    low, high = intervals["mean_dice"]
    assert 0.8 <= low < high <= 0.9
    empty = Score("v", 2, "spleen", None, 0, 0, 0, 0, 0)
    assert "dice.spleen" not in named_scores(summarise_scores([empty], spec_of(tmp_path)))[0]


def test_the_spec_says_what_is_scored_and_how_sure(tmp_path: Path) -> None:
    spec = spec_of(
        tmp_path, scoring={"metrics": ["dice"], "tolerance_mm": 3, "bootstrap": {"resamples": 0}}
    )
    found, intervals = named_scores(summarise_scores(scores(), spec))
    assert set(found) == {"mean_dice", "dice.liver"}
    assert intervals == {}


def test_the_card_has_a_row_for_each_class_and_says_how_to_run_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, scoring={"tolerance_mm": 3})
    card = model_card(config_of(spec), "A net", summarise_scores(scores(), spec))
    assert "| class | Dice | HD95, mm | surface Dice at 3 mm |" in card
    assert "| liver | 0.850 (0.8" in card
    assert "5 x 0.8 x 0.8 mm" in card
    assert "python -m monai.bundle run" in card
    assert "95% interval" in card


def test_without_tracking_there_are_no_logs(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, tracking={"tensorboard": False})
    with TrainingRecord(spec, "liver", listen=ignore) as record:
        record(Validated(1, 0.5))
    assert not (tmp_path / "liver").exists()


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="MLflow is installed")
def test_a_missing_mlflow_is_told_before_the_training(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, tracking={"mlflow": "file:runs"})
    with pytest.raises(SpecError, match="mlflow"):
        TrainingRecord(spec, "liver", listen=ignore).__enter__()
    assert not (tmp_path / "liver").exists()


@pytest.mark.filterwarnings("ignore")  # MLflow, of itself
def test_mlflow_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="the extra `mlflow`")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = (tmp_path / "runs").as_uri()
    spec = spec_of(tmp_path, tracking={"mlflow": address, "experiment": "livers"})
    with TrainingRecord(spec, "liver", listen=ignore) as record:
        record(Validated(2, 0.85))
        record.write(config_of(spec), "A net", scores(), losses=[(2, 1.25)], dice=[])
    client = tracking.MlflowClient(tracking_uri=address)
    number = client.get_experiment_by_name("livers").experiment_id
    (run,) = client.search_runs([number])
    assert run.data.params["training.steps"] == "2000"
    assert {"README.md", "curves.svg"} <= {
        one.path for one in client.list_artifacts(run.info.run_id)
    }

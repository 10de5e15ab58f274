"""A real MLflow, where it is installed, finds the run; elsewhere the error says what to do."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from unet_batch.errors import SpecError
from unet_batch.monitoring.events import TrainStep, Validated
from unet_batch.monitoring.mlflow_log import MlflowRun

has_mlflow = importlib.util.find_spec("mlflow") is not None
# MLflow and what it imports warn of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.skipif(not has_mlflow, reason="MLflow (the extra `mlflow`) is not installed")
def test_a_run_holds_parameters_curves_scores_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "curves.csv").write_text("step,loss\n")
    address = (tmp_path / "runs").as_uri()
    with MlflowRun(address, experiment="livers", name="liver") as run:
        run.log_parameters({"roi": [64, 64, 64], "training": {"steps": 600, "loss": {}}})
        for step in range(1, 601):
            run(TrainStep(step, 600, 1 / step, 0.003, 0.25, 0.125))
        run(Validated(600, 0.875))
        run.log_result({"dice.liver": 0.9}, 600, tmp_path / "docs")
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("livers")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("liver", "FINISHED")
    assert found.data.params["training.steps"] == "600"
    assert found.data.metrics["dice"] == 0.875
    assert found.data.metrics["final.dice.liver"] == 0.9
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 600
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["curves.csv"]


@pytest.mark.skipif(not has_mlflow, reason="MLflow (the extra `mlflow`) is not installed")
def test_a_training_that_fails_is_a_run_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = (tmp_path / "runs").as_uri()
    with pytest.raises(KeyError), MlflowRun(address, experiment="e", name="n"):
        raise KeyError
    client = MlflowClient(tracking_uri=address)
    (found,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert found.info.status == "FAILED"


@pytest.mark.skipif(has_mlflow, reason="MLflow is installed")
def test_without_mlflow_the_error_names_the_extra() -> None:
    with pytest.raises(SpecError, match=r"unet-batch\[mlflow\]"):
        MlflowRun("file:runs", experiment="e", name="n").__enter__()

"""Every ready Spec in jobs/ is valid, and says every field."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.bench import BenchSpec
from unet_batch.planning.specs.demo import DemoSpec
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.specs.train import TrainSpec

JOBS = Path(__file__).parents[1] / "jobs"
SPECS: dict[str, type[SpecModel]] = {
    "bench": BenchSpec,
    "demo": DemoSpec,
    "evaluate": EvaluateSpec,
    "export": ExportSpec,
    "ingest": IngestSpec,
    "report": ReportSpec,
    "retrain": RetrainSpec,
    "segment": SegmentSpec,
    "train": TrainSpec,
}


WRITTEN_ELSEWHERE = {
    "retrain": {
        "train": ("train", ""),
        "inference": ("segment", "inference"),
        "resources": ("segment", "resources"),
    }
}
"""Groups of a file that another one shows whole: the file, and the group there."""


def test_every_file_in_jobs_is_known_here() -> None:
    assert {path.stem for path in JOBS.glob("*.yaml")} == set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_a_ready_spec_is_valid_and_shows_every_field(name: str) -> None:
    spec = SPECS[name].load(JOBS / f"{name}.yaml")
    written = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    elsewhere = WRITTEN_ELSEWHERE.get(name, {})
    missing = missing_fields(spec, written)
    assert [one for one in missing if one.partition(".")[0] not in elsewhere] == []


@pytest.mark.parametrize(("name", "group"), [("retrain", g) for g in WRITTEN_ELSEWHERE["retrain"]])
def test_what_is_written_elsewhere_is_all_written_there(name: str, group: str) -> None:
    spec = getattr(SPECS[name].load(JOBS / f"{name}.yaml"), group)
    other, path = WRITTEN_ELSEWHERE[name][group]
    written = yaml.safe_load((JOBS / f"{other}.yaml").read_text())
    assert missing_fields(spec, written[path] if path else written) == []


def missing_fields(model: BaseModel, written: dict[str, object]) -> list[str]:
    missing = []
    for field in type(model).model_fields:
        value = getattr(model, field)
        if field not in written:
            missing.append(field)
        elif isinstance(value, BaseModel):
            missing += [f"{field}.{name}" for name in missing_fields(value, written[field])]  # type: ignore[arg-type]
    return missing

"""The bench measures every tile once, all loops, in as many rounds as it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unet_batch.errors import SpecError
from unet_batch.models.precision import resolve_precision
from unet_batch.planning.specs.bench import BenchCase, BenchSpec
from unet_batch.workflows.bench import Rounds, bench

SMALL = BenchCase(
    name="small",
    num_volumes=2,
    shape_zyx=(24, 16, 16),
    roi=(16, 16, 16),
    num_classes=3,
    arguments={"channels": [4, 8]},
)


def test_a_case_that_is_not_there_is_named() -> None:
    with pytest.raises(SpecError, match=r"no case ten-161; there are small"):
        bench(BenchSpec(cases=(SMALL,), only=("ten-161",)))


@pytest.mark.parametrize(
    ("repeats", "monai_repeats", "min_seconds", "rounds"),
    [(2, 1, 0, 2), (1, 3, 0, 3), (1, 1, 10, 4)],
)
def test_a_short_case_is_measured_until_it_took_long_enough(
    repeats: int, monai_repeats: int, min_seconds: float, rounds: int
) -> None:
    spec = BenchSpec(repeats=repeats, monai_repeats=monai_repeats, min_seconds=min_seconds)
    measured = Rounds()
    job: Any = SimpleNamespace(seconds=2.0)
    while not measured.are_enough(spec):
        measured.bare_s.append(1.0)
        measured.runs.append(job)
    assert len(measured.runs) == rounds


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_all_is_measured_and_every_tile_predicted_once(tmp_path: Path) -> None:
    spec = BenchSpec(cases=(SMALL,), repeats=2, monai_repeats=1, min_seconds=0, out=str(tmp_path))
    summary = bench(spec)
    (case,) = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert (case["name"], case["num_classes"], case["rounds"]) == ("small", 3, 2)
    assert case["tiles_planned"] == case["tiles_predicted"] == 2 * 2  # an overlap of a half
    assert min(case["bare_s"], case["end_to_end_s"], case["peak_rss_bytes"]) > 0
    assert case["seconds_by_part"]["forward"] > 0
    assert case["monai_fp32_s"] > 0
    has_bf16 = resolve_precision("auto", torch.device("cpu")) == "bf16"
    assert (case["monai_autocast_s"] is not None) == has_bf16
    assert summary.plot == str(tmp_path / "bench.svg")
    assert "small" in (tmp_path / "bench.svg").read_text()

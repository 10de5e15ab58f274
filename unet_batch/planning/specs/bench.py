"""BenchSpec: which volumes and networks to measure the engine on."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from unet_batch.planning.specs.base import Bytes, SpecModel

RESIDUAL = {"channels": [16, 32, 64, 128, 256]}


class BenchCase(SpecModel):
    """One measurement: some equal volumes of noise through one network with random weights."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    num_volumes: int = Field(1, ge=1)
    shape_zyx: tuple[int, int, int] = (256, 256, 256)
    roi: tuple[int, int, int] = (96, 96, 96)
    num_classes: int = Field(2, ge=2)
    network: str = "residual_unet"
    arguments: dict[str, Any] = Field(default_factory=lambda: dict(RESIDUAL))
    with_monai: bool = Field(default=True, description="measure MONAI's loops as well")


CASES = (
    BenchCase(name="one-256-2"),
    BenchCase(name="one-256-14", num_classes=14),
    BenchCase(name="ten-160-2", num_volumes=10, shape_zyx=(160, 160, 160)),
    BenchCase(name="ten-160-14", num_volumes=10, shape_zyx=(160, 160, 160), num_classes=14),
    BenchCase(
        name="dynunet-256-2", network="dynunet", arguments={"filters": [32, 64, 128, 256, 320]}
    ),
    BenchCase(
        name="five-hundred-40",
        num_volumes=500,
        shape_zyx=(40, 40, 40),
        roi=(40, 40, 40),
        num_classes=3,
        arguments={"channels": [16, 32, 64, 128]},
        with_monai=False,
    ),
)


class BenchSpec(SpecModel):
    """Measure this machine: the bare network, our Job, MONAI's loop: `jobs/bench.yaml`."""

    cases: tuple[BenchCase, ...] = CASES
    only: tuple[str, ...] = Field((), description="names of the cases to run; empty: all")
    repeats: int = Field(3, ge=1, description="rounds of a case, at least; medians are reported")
    min_seconds: float = Field(
        120,
        ge=0,
        description="of measured time: a short case has more rounds, until it took so long",
    )
    monai_repeats: int = Field(3, ge=1, description="rounds with MONAI's loops, which take longest")
    overlap: float = Field(0.5, ge=0, lt=1)
    batch_size: int = Field(4, ge=1)
    memory_budget: Bytes = 4 * 2**30
    out: str | None = Field(None, description="folder for bench.json and bench.svg; None: neither")

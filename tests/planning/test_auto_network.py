from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from unet_batch.models.networks import define_network
from unet_batch.models.networks.trial import try_network
from unet_batch.planning.auto_network import scans_of, settle_network
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.train import TrainRecipe
from unet_batch.planning.volume_info import VolumeInfo

OWN = GridSpec()


def info(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (1, 1, 1),
    channels: int = 1,
) -> VolumeInfo:
    affine = np.diag([*spacing[::-1], 1.0])[:, [2, 1, 0, 3]]  # (z, y, x) to RAS
    return VolumeInfo(
        id="v",
        shape_czyx=(channels, *shape),
        dtype="int16",
        spacing_mm=spacing,
        affine=tuple(affine.ravel().tolist()),
        chunk_zyx=shape,
        shard_zyx=shape,
        content_hash="",
        channels=tuple(f"c{k}" for k in range(channels)),
        statistics=(),
    )


def recipe(dims: int = 3, **changes: object) -> TrainRecipe:
    network = {"name": "auto", "spatial_dims": dims, "memory_budget": "4GiB"}
    return TrainRecipe.model_validate({"network": network} | changes)


def settle(
    wanted: TrainRecipe, infos: list[VolumeInfo], grid: GridSpec = OWN
) -> tuple[TrainRecipe, tuple[str, ...]]:
    return settle_network(
        wanted, infos, grid=grid, spacing_mm=infos[0].spacing_mm, num_classes=3, itemsize=2
    )


def test_auto_becomes_a_network_that_is_built_and_trained_on_that_roi() -> None:
    settled, reasons = settle(recipe(), [info((60, 80, 90), channels=2)] * 30)
    definition = define_network(
        settled.network.name,
        spatial_dims=3,
        in_channels=2,
        out_channels=3,
        arguments=settled.network.arguments,
    )
    try_network(definition, settled.tile, batch_size=settled.training.num_patches)
    assert settled.network.name == "dynunet"
    assert len(reasons) == 4
    assert TrainRecipe.model_validate(settled.model_dump()) == settled


def test_a_named_network_stays_as_it_is() -> None:
    wanted = TrainRecipe()
    assert settle(wanted, [info((60, 80, 90))]) == (wanted, ())


def test_what_the_spec_gives_stays() -> None:
    wanted = recipe(roi=(32, 32, 32), training={"batch_size": 3})
    settled, _ = settle(wanted, [info((60, 80, 90))])
    assert (settled.roi, settled.training.batch_size) == ((32, 32, 32), 3)


def test_a_planar_network_sees_slices() -> None:
    seen = scans_of([info((20, 300, 200), (5, 1, 2))], OWN, (5, 1, 2), spatial_dims=2)
    assert (seen.shapes, seen.spacing_mm, seen.num_voxels) == (((300, 200),), (1, 2), 1_200_000)
    settled, _ = settle(recipe(2), [info((20, 300, 200))] * 20)
    assert len(settled.tile) == 2


def test_sizes_are_those_on_the_networks_grid() -> None:
    grid = GridSpec(spacing_mm=(2.0, 2.0, 2.0))
    seen = scans_of([info((61, 81, 91))], grid, (2, 2, 2), spatial_dims=3)
    assert seen.shapes == ((31, 41, 46),)


def real(folder: Path) -> Iterator[VolumeInfo]:
    """Shapes and spacings of the NIfTI images in a folder; all files of a patient as channels."""
    for path in sorted(folder.rglob("*.nii.gz")):
        header = nibabel.load(path).header
        shape, zooms = header.get_data_shape()[:3], header.get_zooms()[:3]
        yield info(tuple(shape[::-1]), tuple(float(one) for one in zooms[::-1]))  # type: ignore[arg-type]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "first_step"),
    [
        ("mr_hippocampus_msd", (2, 2, 2)),
        ("ct_spleen_msd_crop", (1, 2, 2)),
        ("mr_ms_lesion_4ch", (2, 2, 2)),
    ],
)
def test_real_scans_get_a_network_that_fits_them(
    scans: Path, name: str, first_step: tuple[int, int, int]
) -> None:
    infos = list(real(scans / name))
    assert infos
    settled, reasons = settle(recipe(), infos)
    assert tuple(settled.network.arguments["strides"][0]) == first_step, reasons
    definition = define_network(
        "dynunet",
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        arguments=settled.network.arguments,
    )
    try_network(definition, settled.tile, batch_size=settled.training.num_patches)

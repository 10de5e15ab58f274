from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from unet_batch.errors import ReplicaError
from unet_batch.formats.scan import Scan
from unet_batch.inference import whole_volumes
from unet_batch.inference.engine import Frame
from unet_batch.inference.head import Head
from unet_batch.inference.whole_volumes import WholeVolumes
from unet_batch.models.intensity import Normalizer
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.specs.intensity import IntensitySpec
from unet_batch.storage.archive import Archive, open_archive

CPU = torch.device("cpu")
SHAPES = {"long": (9, 14, 40), "small": (5, 6, 7)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    made = open_archive(Path(tmp_path_factory.mktemp("archive")), create=True)
    for seed, (name, shape) in enumerate(SHAPES.items()):
        voxels = np.random.default_rng(seed).normal(100, 30, (1, *shape)).astype(np.int16)
        made.write_scan(Scan(name, voxels, np.eye(4), ("MR",)), source={})
    return made


def network(spatial_dims: int = 3, num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    make = torch.nn.Conv3d if spatial_dims == 3 else torch.nn.Conv2d
    return make(1, num_classes, 3, padding=1).eval().requires_grad_(requires_grad=False)


def labels(archive: Archive, spatial_dims: int = 3, **changes: object) -> dict[str, np.ndarray]:
    head = changes.pop("head", Head((0, 1, 5)))
    assert isinstance(head, Head)
    roi = (8, 8, 8) if spatial_dims == 3 else (1, 8, 8)
    segment = WholeVolumes(
        Frame(1, head.num_classes, roi, is_planar=spatial_dims == 2),
        head,
        IntensitySpec(),
        **changes,  # type: ignore[arg-type]
    )
    volumes = [archive[one] for one in SHAPES]
    found = {one: np.full((head.num_labels, *SHAPES[one]), 99, np.uint8) for one in SHAPES}
    net = network(spatial_dims, head.num_classes)
    for one, region, planes in segment(net, volumes, device=CPU, precision="fp32"):
        found[one][(slice(None), *region.slices)] = planes
    return found


def monais(archive: Archive, name: str, spatial_dims: int = 3, classes: int = 3) -> np.ndarray:
    volume, net = archive[name], network(spatial_dims, classes)
    raw = torch.from_numpy(volume.image.compute())
    image = Normalizer.fit(IntensitySpec(), volume.info.statistics).apply(raw)
    inferer = SlidingWindowInferer((8,) * spatial_dims, 4, overlap=0.5, mode="gaussian")
    if spatial_dims == 2:
        return inferer(image.transpose(0, 1), net).transpose(0, 1).numpy()  # type: ignore[union-attr]
    return inferer(image[None], net)[0].numpy()  # type: ignore[index]


@pytest.mark.parametrize("block_voxels", [1, 2**23])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_labels_are_monais_on_the_whole_volume_for_any_blocks(
    archive: Archive, spatial_dims: int, block_voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_volumes, "BLOCK_VOXELS", block_voxels)
    values = np.array([0, 1, 5], np.uint8)
    for name, found in labels(archive, spatial_dims).items():
        wanted = values[monais(archive, name, spatial_dims).argmax(0)]
        assert np.array_equal(found[0], wanted)


def test_overlapping_classes_have_a_plane_each(archive: Archive) -> None:
    for name, found in labels(archive, head=Head((1, 2), "sigmoid")).items():
        wanted = (monais(archive, name, classes=2) > 0) * np.array([1, 2])[:, None, None, None]
        assert np.array_equal(found, wanted)


def test_on_another_grid_blocks_change_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = GridSpec(spacing_mm=(1.5, 0.8, 0.7), orientation="LPS")
    whole = labels(archive, grid=grid)
    monkeypatch.setattr(whole_volumes, "BLOCK_VOXELS", 1)
    for name, found in labels(archive, grid=grid).items():
        assert found.max() < 99
        assert np.array_equal(found, whole[name])


def test_a_network_that_diverged_is_named_with_the_volume(archive: Archive) -> None:
    segment = WholeVolumes(Frame(1, 2, (8, 8, 8)), Head((0, 1)), IntensitySpec())
    net = network(num_classes=2)
    torch.nn.init.constant_(net.bias, torch.nan)
    with pytest.raises(ReplicaError, match=r"'long'.*NaN"):
        list(segment(net, [archive["long"]], device=CPU, precision="fp32"))

"""Every network, trained a little, through `segment`: one Job for all in 3-D, one for 2-D.

The networks are the members of an ensemble, whose labels are those of the mean of what each
gives with MONAI's inferer, so that one that went wrong in the engine would show.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from unet_batch.errors import BundleError
from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import Bundle, BundleConfig, save_bundle
from unet_batch.models.intensity import Normalizer
from unet_batch.planning.specs.recipe import TrainingSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.volume_info import Json, LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.training.batch import Batch
from unet_batch.training.learner import Learner
from unet_batch.training.targets import ClassTable
from unet_batch.workflows.segment import segment
from unet_batch.workflows.segment_job import SegmentJob

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

CLASSES = (LabelClass(0, "background"), LabelClass(1, "organ"), LabelClass(5, "lesion"))
EDGE = 16
OWN = "monai.networks.nets:BasicUNet"
BOTH: dict[str, dict[str, Json]] = {
    "residual_unet": {"channels": [4, 8], "num_res_units": 1},
    "unet": {"channels": [4, 8, 8]},
    "basic_unet": {"features": [4, 4, 8, 8, 8, 4]},
    "unet_plus_plus": {"channels": [4, 8, 8], "deep_supervision": True},
    "attention_unet": {"channels": [4, 8, 8]},
    "dynunet": {"filters": [4, 8, 8, 8], "deep_supervision": 2},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "vnet": {},
    "fcn": {"channels": [4, 8, 8], "convs": [1, 1, 1], "hidden": 8, "context": 3},
    "segnet": {"channels": [4, 8], "convs": [1, 2]},
    OWN: {"features": [4, 4, 8, 8, 8, 4], "norm": "BATCH"},
}
PLANAR = BOTH | {"pspnet": {"width": 4, "blocks": [1, 1, 1, 1], "deep_supervision": True}}
SOLID = BOTH | {"deepmedic": {"channels": [4, 4], "hidden": [8]}}


def trained(folder: Path, name: str, arguments: dict[str, Json], dims: int) -> Bundle:
    """A Bundle of the network after two steps on noise with a bright organ in it."""
    torch.manual_seed(0)
    config = BundleConfig(
        name=name.partition(":")[2] or name,
        network_name=name,
        network_arguments=arguments,
        spatial_dims=dims,
        channels=("CT",),
        roi=(EDGE,) * dims,
        classes=CLASSES,
        spacing_mm=(1, 1, 1),
    ).trusting(trust_network=True)
    network = config.build_network()
    spec = TrainingSpec(steps=2, learning_rate=0.01, precision="fp32", schedule="constant")
    learner = Learner(
        network,
        spec,
        ClassTable.of(CLASSES),
        spatial_dims=dims,
        in_channels=1,
        device=torch.device("cpu"),
    )
    truth = torch.zeros(2, 1, *(EDGE,) * dims)
    truth[..., 4:10], truth[..., 10:12] = 1, 2
    before = [weight.clone() for weight in network.parameters()]
    losses = [float(learner.learn(Batch(truth + torch.rand(truth.shape), truth))) for _ in range(2)]
    assert np.isfinite(losses).all(), name
    pairs = zip(before, network.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs if new.numel() > 1), name
    return save_bundle(folder, config, learner.averaged.state_dict())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    made = open_archive(tmp_path_factory.mktemp("archive"), create=True)
    voxels = np.random.default_rng(0).integers(-1000, 1000, (1, 17, 24, 20)).astype(np.int16)
    made.write_scan(Scan("v0", voxels, np.eye(4), ("CT",), "CT"), source={})
    return made


@pytest.fixture(scope="module", params=[2, 3])
def bundles(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Bundle]:
    folder, dims = tmp_path_factory.mktemp("bundles"), request.param
    networks = PLANAR if dims == 2 else SOLID
    return [
        trained(folder / str(number), name, arguments, dims)
        for number, (name, arguments) in enumerate(networks.items())
    ]


def spec_for(archive: Archive, bundles: list[Bundle], **changes: object) -> SegmentSpec:
    fields: dict[str, object] = {
        "archive": archive.url,
        "model": [str(bundle.path) for bundle in bundles],
        "labels": f"all{bundles[0].spatial_dims}",
        "trust_network": True,
        "inference": {"precision": "fp32", "batch_size": 2},
        "resources": {"memory_budget": "2GiB", "cpus_per_replica": 1},
    }
    return SegmentSpec.model_validate(fields | changes)


def mean_probabilities(archive: Archive, bundles: list[Bundle]) -> np.ndarray:
    """Mean over the networks of softmax, (classes, z, y, x), by MONAI's inferer."""
    volume, total = archive["v0"], 0.0
    raw = torch.from_numpy(volume.image.compute())
    for bundle in bundles:
        image = Normalizer.fit(bundle.intensity, volume.info.statistics).apply(raw)
        inferer = SlidingWindowInferer(bundle.roi, sw_batch_size=4, overlap=0.5, mode="gaussian")
        is_planar = bundle.spatial_dims == 2
        inputs = image.transpose(0, 1) if is_planar else image[None]
        with torch.inference_mode():
            logits = inferer(inputs, bundle.network())
        logits = logits.transpose(0, 1) if is_planar else logits[0]
        total = total + logits.softmax(0)
    return (total / len(bundles)).numpy()


def test_all_networks_in_one_job_give_the_labels_of_their_mean(
    archive: Archive, bundles: list[Bundle]
) -> None:
    summary = segment(spec_for(archive, bundles))
    assert (summary.done, summary.quarantined) == (1, {})
    labels = archive["v0"].labels[f"all{bundles[0].spatial_dims}"].array.compute()
    mean = mean_probabilities(archive, bundles)
    best_two = np.sort(mean, axis=0)[-2:]
    clear = best_two[1] - best_two[0] > 1e-4
    assert clear.mean() > 0.95
    values = np.array([one.value for one in CLASSES])
    np.testing.assert_array_equal(labels[clear], values[mean.argmax(0)][clear])


def test_a_network_of_ones_own_is_refused_by_name_without_the_flag(
    archive: Archive, bundles: list[Bundle]
) -> None:
    (own,) = (bundle for bundle in bundles if bundle.network_name == OWN)
    opened = partial(SegmentJob.open, spec_for(archive, [own], trust_network=False))
    with pytest.raises(BundleError, match=r"'monai.networks.nets:BasicUNet'.*--trust-network"):
        opened()


def test_the_footprint_of_each_network_is_known(archive: Archive, bundles: list[Bundle]) -> None:
    for bundle in bundles:
        cost = SegmentJob.open(spec_for(archive, [bundle])).model_cost()
        tile_bytes = 2 * EDGE**bundle.spatial_dims * 4
        assert cost.forward_bytes > tile_bytes * (1 + len(CLASSES)), bundle.network_name
        assert 0 < cost.tile_flops < np.inf

"""MONAI's own bundle tools load the Bundle, verify it, run it, and draw the masks we draw."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai import bundle as monai_bundle
from numpy.typing import NDArray

from unet_batch.formats.nifti import read_nifti, write_nifti
from unet_batch.inference.engine import Frame
from unet_batch.inference.head import Head
from unet_batch.inference.whole_volumes import WholeVolumes
from unet_batch.models.bundle import Bundle, BundleConfig, save_bundle
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import open_archive

SCHEMA = Path(__file__).with_name("metadata_schema.json")
LPS = np.array([[0, 0, -0.8, 9], [0, -0.9, 0, 7], [2.5, 0, 0, -4], [0, 0, 0, 1.0]])

pytestmark = pytest.mark.filterwarnings(
    "ignore:parsing config_file:UserWarning",  # of ours, which we wrote
    "ignore:NvImgCodecPydicomReader:UserWarning",  # MONAI tries every reader it knows
    "ignore::DeprecationWarning",  # ignite and MONAI of themselves
)

CASES: dict[str, dict[str, Any]] = {
    "as_it_is": {},
    "turned": {"grid": {"orientation": "RAS"}},
    "clipped": {"intensity": {"mode": "zscore_foreground", "low": 1.0, "high": 99.0}},
    "planar_sigmoid": {
        "spatial_dims": 2,
        "roi": (16, 16),
        "classes": (LabelClass(1, "a"), LabelClass(2, "b")),
        "activation": "sigmoid",
        "intensity": {"mode": "window", "low": 60, "high": 160},
    },
    "two_channels": {
        "channels": ("T1", "T2"),
        "intensity": {
            "channels": [{"mode": "percentile", "low": 1, "high": 99}, {"mode": "zscore"}]
        },
    },
}


def bundle_of(folder: Path, changes: Mapping[str, Any]) -> Bundle:
    fields: dict[str, Any] = {
        "name": "tiny",
        "network_name": "residual_unet",
        "network_arguments": {"channels": [4, 8], "num_res_units": 1},
        "channels": ("T1",),
        "roi": (8, 12, 16),
        "classes": (LabelClass(0, "background"), LabelClass(1, "a"), LabelClass(5, "b")),
        "spacing_mm": (2.5, 0.9, 0.8),
        "scores": {"mean_dice": 0.9, "dice.a": 0.8},
        "score_intervals": {"mean_dice": (0.85, 0.93)},
    }
    config = BundleConfig.model_validate(fields | dict(changes))
    torch.manual_seed(3)
    return save_bundle(folder / "tiny", config, config.build_network().state_dict())


def scan_in(folder: Path, num_channels: int) -> Path:
    """A smooth random scan of unlike spacings, as a NIfTI file."""
    folder.mkdir()
    random = torch.from_numpy(np.random.default_rng(0).normal(size=(1, num_channels, 4, 6, 7)))
    smooth = torch.nn.functional.interpolate(random, size=(11, 20, 23), mode="trilinear")[0]
    path = folder / "case.nii.gz"
    write_nifti(path, (100 + 40 * smooth.numpy()).astype(np.float32), LPS)
    return path


def run_with_monai(bundle: Bundle, scan: Path, out: Path, run: str = "run") -> NDArray[np.uint16]:
    """The mask that MONAI's tools write, as (c, z, y, x)."""
    monai_bundle.run(
        run_id=run,
        config_file=str(bundle.path / "configs/inference.json"),
        bundle_root=str(bundle.path),
        dataset_dir=str(scan.parent),
        output_dir=str(out),
    )
    return read_mask(out)


def read_mask(out: Path) -> NDArray[np.uint16]:
    (path,) = out.iterdir()
    mask = nib.load(path)
    assert np.allclose(mask.affine[:, [2, 1, 0, 3]], LPS, atol=1e-5)
    voxels = np.asarray(mask.dataobj)
    return np.moveaxis(voxels.reshape(*voxels.shape[:3], -1), (3, 2, 1, 0), (0, 1, 2, 3))


def segment_here(bundle: Bundle, scan: Path, folder: Path) -> NDArray[np.unsignedinteger]:
    """The mask of our own engine, as planes (p, z, y, x)."""
    archive = open_archive(folder / "archive", create=True)
    archive.write_scan(read_nifti(scan, name="case"), source={})
    volume = archive["case"]
    roi = bundle.roi if bundle.spatial_dims == 3 else (1, *bundle.roi)
    frame = Frame(bundle.in_channels, len(bundle.classes), roi, is_planar=bundle.spatial_dims == 2)
    head = Head(tuple(one.value for one in bundle.classes), bundle.activation)
    segment = WholeVolumes(frame, head, bundle.intensity, bundle.grid)
    num_planes = len(bundle.classes) if bundle.activation == "sigmoid" else 1
    planes = np.zeros((num_planes, *volume.info.shape_zyx), np.uint16)
    for _, region, part in segment(
        bundle.network(), [volume], device=torch.device("cpu"), precision="fp32"
    ):
        planes[:, *region.slices] = part
    return planes


def verify_metadata(path: Path) -> None:
    """By MONAI, which need not fetch a schema that is there already."""
    known = hashlib.md5(SCHEMA.read_bytes()).hexdigest()
    monai_bundle.verify_metadata(meta_file=str(path), filepath=str(SCHEMA), hash_val=known)


@pytest.mark.parametrize("name", CASES)
def test_monais_run_gives_the_masks_of_our_engine(tmp_path: Path, name: str) -> None:
    bundle = bundle_of(tmp_path, CASES[name])
    scan = scan_in(tmp_path / "scans", bundle.in_channels)
    theirs = run_with_monai(bundle, scan, tmp_path / "masks")
    ours = segment_here(bundle, scan, tmp_path)
    if bundle.activation == "sigmoid":
        ours = (ours > 0).astype(np.uint16)
    assert len(np.unique(ours)) > 1
    assert ours.shape == theirs.shape
    assert np.mean(ours == theirs) > 0.999


def test_a_scan_of_another_spacing_comes_back_on_its_own_grid(tmp_path: Path) -> None:
    """Both resample linearly, MONAI with its own rule for the first voxel's place."""
    bundle = bundle_of(tmp_path, {"grid": {"spacing_mm": (2.5, 1.8, 1.6), "orientation": "RAS"}})
    scan = scan_in(tmp_path / "scans", 1)
    theirs = run_with_monai(bundle, scan, tmp_path / "masks")
    ours = segment_here(bundle, scan, tmp_path)
    assert ours.shape == theirs.shape
    assert np.mean(ours == theirs) > 0.9


def test_tools_that_go_through_ignite_find_an_evaluator(tmp_path: Path) -> None:
    pytest.importorskip("ignite", reason="pytorch-ignite is not installed")
    bundle = bundle_of(tmp_path, {})
    path = bundle.path / "configs/inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"go": ["$@evaluator.run()"]}))
    scan = scan_in(tmp_path / "scans", 1)
    masks = [run_with_monai(bundle, scan, tmp_path / run, run) for run in ("run", "go")]
    assert np.array_equal(*masks)


@pytest.mark.slow  # ten seconds of imports; the same `run` as above
def test_the_command_line_of_monai_runs_it(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, {})
    scan = scan_in(tmp_path / "scans", 1)
    arguments = {
        "config_file": bundle.path / "configs/inference.json",
        "meta_file": bundle.path / "configs/metadata.json",
        "bundle_root": bundle.path,
        "dataset_dir": scan.parent,
        "output_dir": tmp_path / "masks",
    }
    flags = [text for name, path in arguments.items() for text in (f"--{name}", str(path))]
    subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *flags],
        check=True,
        capture_output=True,
        timeout=240,
    )
    assert set(np.unique(read_mask(tmp_path / "masks"))) <= {0, 1, 5}


def test_monai_loads_the_network_with_its_weights(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, {})
    network = monai_bundle.load(
        "tiny", bundle_dir=str(tmp_path), workflow_type="inference", device="cpu"
    )
    tile = torch.randn(1, 1, 8, 12, 16)
    with torch.inference_mode():
        assert torch.equal(network.eval()(tile), bundle.network()(tile))


@pytest.mark.parametrize("name", CASES)
def test_monai_verifies_metadata_and_what_goes_in_and_out(tmp_path: Path, name: str) -> None:
    path = bundle_of(tmp_path, CASES[name]).path / "configs"
    verify_metadata(path / "metadata.json")
    monai_bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(path / "metadata.json"),
        config_file=str(path / "inference.json"),
        device="cpu",
    )


def test_metadata_of_another_kind_is_refused_by_the_schema(tmp_path: Path) -> None:
    path = bundle_of(tmp_path, {}).path / "configs/metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["outputs"]["pred"]["num_channels"] = "3"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not of type 'integer'"):
        verify_metadata(path)

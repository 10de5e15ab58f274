"""What KubeRay's retry rests on: the same command on a new Ray goes on where the Ledger ends.

A RayJob whose head dies runs its entrypoint again on a new cluster. Here the driver is killed,
and with it its Ray (they share their fate); then the entrypoint runs again, as on a new cluster.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from unet_batch.formats.scan import Scan
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive

pytestmark = pytest.mark.slow

NUM_VOLUMES = 24


def make_job(folder: Path) -> tuple[Archive, Path]:
    """An Archive, a model, and the Spec that a RayJob would mount."""
    archive = open_archive(folder / "archive", create=True)
    random = np.random.default_rng(0)
    for number in range(NUM_VOLUMES):
        voxels = random.integers(-1000, 1000, (1, 64, 64, 64)).astype(np.int16)
        archive.write_scan(Scan(f"v{number:02}", voxels, np.eye(4), ("CT",), "CT"), source={})
    torch.manual_seed(0)
    config = BundleConfig(
        name="organ",
        network_name="residual_unet",
        network_arguments={"channels": [16, 32, 64], "num_res_units": 2},
        channels=("CT",),
        roi=(32, 32, 32),
        classes=(LabelClass(0, "background"), LabelClass(1, "organ")),
        spacing_mm=(1, 1, 1),
    )
    save_bundle(folder / "organ", config, config.build_network().state_dict())
    spec = {
        "archive": archive.url,
        "model": str(folder / "organ"),
        "labels": "net",
        "inference": {"engine": "torch", "precision": "fp32"},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return archive, folder / "spec.yaml"


def start(spec: Path) -> subprocess.Popen[str]:
    command = Path(sys.executable).with_name("unet-batch")
    arguments = [command, "segment", "--spec", spec, "--json"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def published(archive: Archive) -> int:
    return sum("net" in archive[volume_id].labels for volume_id in archive)


def test_a_driver_and_its_ray_that_die_lose_only_the_work_in_flight(tmp_path: Path) -> None:
    archive, spec = make_job(tmp_path)
    first = start(spec)
    end = time.monotonic() + 120
    while published(archive) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    kept = published(archive)
    assert 3 <= kept < NUM_VOLUMES
    second = start(spec)
    out, _ = second.communicate(timeout=240)
    summary = json.loads(out)
    assert second.returncode == 0
    assert summary["skipped"] >= kept
    assert summary["skipped"] + summary["done"] == NUM_VOLUMES
    assert published(archive) == NUM_VOLUMES
    entries = archive.ledger(summary["job"]).entries()
    assert all(entry.outcome == "done" for entry in entries.values())
